// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver/receiverhelper"
	"go.uber.org/zap"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

// lastPause is how long a last collection that was refused waits until it is offered again.
const lastPause = time.Second / 2

// metricsPusher hands collections to the next consumer, on a goroutine of its own. It offers each message once:
// what becomes of a refused one is for those to decide who hold its series.
type metricsPusher struct {
	next     consumer.Metrics
	obs      *receiverhelper.ObsReport
	log      *zap.Logger
	queue    chan []pmetric.Metrics // of one: the messages of a collection
	outcomes chan []outcome         // of one: what became of each of them
	pause    time.Duration          // before the last one is offered again

	failing bool
}

func newMetricsPusher(next consumer.Metrics, obs *receiverhelper.ObsReport, log *zap.Logger) *metricsPusher {
	return &metricsPusher{
		next: next, obs: obs, log: log, pause: lastPause,
		queue: make(chan []pmetric.Metrics, 1), outcomes: make(chan []outcome, 1),
	}
}

// run pushes until the queue is closed. When ctx is done, it drops what is left.
func (p *metricsPusher) run(ctx context.Context) {
	for messages := range p.queue {
		p.outcomes <- p.push(ctx, messages) // there is room: the outcomes are taken before the next collection is queued
	}
}

// push offers each message once.
func (p *metricsPusher) push(ctx context.Context, messages []pmetric.Metrics) []outcome {
	var errs error
	outcomes := make([]outcome, len(messages))
	for i, md := range messages {
		if ctx.Err() != nil {
			return outcomes
		}
		points := md.DataPointCount()
		opCtx := p.obs.StartMetricsOp(ctx)
		err := p.next.ConsumeMetrics(opCtx, md)
		p.obs.EndMetricsOp(opCtx, obsFormat, points, err)
		errs = errors.Join(errs, err)
		switch {
		case err == nil:
			outcomes[i] = outcomeTaken
		case consumererror.IsPermanent(err):
			outcomes[i] = outcomeDropped
		}
	}
	p.failing = logTransition(p.log, p.failing, errs, "metrics")
	return outcomes
}

// settle takes the outcomes of the collection in flight if they are known. It reports whether nothing is in flight.
func (e *engine) settle() bool {
	if !e.metrics.inFlight {
		return true
	}
	select {
	case outcomes := <-e.metricsPusher.outcomes:
		e.settled(outcomes)
		return true
	default:
		return false
	}
}

// settleUntil waits for the outcomes of the collection in flight until ctx is done.
func (e *engine) settleUntil(ctx context.Context) bool {
	if !e.metrics.inFlight {
		return true
	}
	select {
	case outcomes := <-e.metricsPusher.outcomes:
		e.settled(outcomes)
		return true
	case <-ctx.Done():
		return false
	}
}

func (e *engine) settled(outcomes []outcome) {
	e.tel.countPointShed(metadata.AttributeCausePermanent, e.metrics.settle(outcomes))
}

// collect ends a collection and offers its points.
func (e *engine) collect() {
	if e.metrics != nil && e.drain.time > e.drain.collected && e.offerPoints() {
		e.drain.collected = e.drain.time
	}
}

// offerPoints hands the points of one collection to the pusher. If that is still busy with the last one, this one is left
// out: the next says everything. It reports whether points are on their way.
func (e *engine) offerPoints() bool {
	busy := !e.settle()
	e.reportSkip(busy)
	if !busy {
		e.handOver()
	}
	return !busy
}

// handOver hands the points of one collection to the pusher. Nothing may be in flight.
func (e *engine) handOver() {
	w := metricsWriter{resource: e.resource, version: e.version}
	e.metrics.collect(&w, e.drain.time, e.table, e.places.now())
	e.reportSeries()                      // those of network.flow.active are counted now
	e.metricsPusher.queue <- w.finished() // there is room: nothing is in flight
}

// finishPoints offers the last collection, and what was refused of it again until ctx is done: no later point says it.
func (e *engine) finishPoints(ctx context.Context) {
	defer close(e.metricsPusher.queue)
	for pause := time.Duration(0); e.settleUntil(ctx) && len(e.metrics.former) > 0 && sleep(ctx, pause); pause = e.metricsPusher.pause {
		e.handOver()
	}
}

// sleep reports false if ctx is done before d has passed.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// shedPoints counts and returns what was never told. Nothing is collected after it.
func (e *engine) shedPoints() flow.Volume {
	if e.metrics == nil {
		return flow.Volume{}
	}
	e.settle() // of a consumer that did not return, nothing is known
	lost := e.metrics.untold()
	e.tel.countPointShed(metadata.AttributeCauseShutdown, lost)
	return lost
}
