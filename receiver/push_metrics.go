// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"errors"
	"sync/atomic"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver/receiverhelper"
	"go.uber.org/zap"
)

// collection is the points of one collection.
type collection struct {
	messages []pmetric.Metrics
	round    uint64
	last     bool // all series begin anew: no later collection says what this one does
}

// metricsPusher hands collections to the next consumer, on a goroutine of its own. A refused collection is not offered
// again: its points are cumulative, so the next one says everything. Only the last one before all series begin anew is
// offered before each of the following, until it is taken.
type metricsPusher struct {
	next    consumer.Metrics
	metrics *metrics
	obs     *receiverhelper.ObsReport
	log     *zap.Logger
	queue   chan collection // of one

	owed    []pmetric.Metrics // refused; of one last collection at most
	failing bool
	lost    atomic.Bool // a collection was dropped because of the shutdown
}

// run pushes until the queue is closed. When ctx is done, it drops what is left.
func (p *metricsPusher) run(ctx context.Context) {
	for c := range p.queue {
		if p.owed != nil && p.push(ctx, copied(p.owed)) {
			p.owed = nil
		}
		first := p.owed == nil // else what is owed has to come before it
		if c.last {
			p.owed = copied(c.messages)
		}
		if first && p.push(ctx, c.messages) {
			p.owed = nil
			p.metrics.delivered.Store(c.round)
		}
	}
}

// copied returns copies: a consumer may change what it refuses.
func copied(messages []pmetric.Metrics) []pmetric.Metrics {
	all := make([]pmetric.Metrics, len(messages))
	for i := range messages {
		all[i] = pmetric.NewMetrics()
		messages[i].CopyTo(all[i])
	}
	return all
}

// push offers messages. It reports whether nothing of them is left to be said: all were taken, or will never be.
func (p *metricsPusher) push(ctx context.Context, messages []pmetric.Metrics) bool {
	var errs error
	settled := true
	for _, md := range messages {
		if ctx.Err() != nil {
			p.lost.Store(true)
			return false
		}
		points := md.DataPointCount()
		opCtx := p.obs.StartMetricsOp(ctx)
		err := p.next.ConsumeMetrics(opCtx, md)
		p.obs.EndMetricsOp(opCtx, obsFormat, points, err)
		errs = errors.Join(errs, err)
		if err != nil && !consumererror.IsPermanent(err) {
			settled = false
		}
	}
	if !settled && ctx.Err() != nil {
		p.lost.Store(true)
	}
	p.failing = logTransition(p.log, p.failing, errs, "metrics")
	return settled
}
