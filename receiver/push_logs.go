// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"errors"
	"iter"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/receiver/receiverhelper"
	"go.uber.org/zap"

	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

// retryBudget is for one message, from the first attempt.
const retryBudget = 5 * time.Second

// retryDelays are the pauses before the same records are offered again.
var retryDelays = []time.Duration{250 * time.Millisecond, time.Second, 2 * time.Second}

// eventCounts counts log records by event.
type eventCounts struct{ flows, packets int64 }

func (n eventCounts) byEvent() iter.Seq2[string, int64] {
	return func(yield func(string, int64) bool) {
		_ = yield(eventFlow, n.flows) && yield(eventPacket, n.packets)
	}
}

func (n eventCounts) minus(o eventCounts) eventCounts {
	return eventCounts{n.flows - o.flows, n.packets - o.packets}
}

func (n eventCounts) sum() int { return int(n.flows + n.packets) }

func (b *batch) counts() eventCounts {
	return eventCounts{int64(len(b.flows)), int64(len(b.packets))}
}

func countEvents(ld plog.Logs) (n eventCounts) {
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, r := range sl.LogRecords().All() {
				if r.EventName() == eventFlow {
					n.flows++
				} else {
					n.packets++
				}
			}
		}
	}
	return n
}

// logsPusher hands batches to the next consumer, on a goroutine of its own: a slow consumer never holds up a drain.
type logsPusher struct {
	next   consumer.Logs
	writer logsWriter
	obs    *receiverhelper.ObsReport
	tel    *telemetry
	log    *zap.Logger
	delays []time.Duration
	queue  chan *batch   // bounded; what finds no room is dropped and counted
	ending chan struct{} // closed at shutdown: from then on everything is offered once

	failing bool
	lost    atomic.Bool // records were dropped because of the shutdown
}

// offer queues b, or drops and counts it if the consumer is too far behind.
func (p *logsPusher) offer(b *batch) {
	select {
	case p.queue <- b:
	default:
		p.shed(metadata.AttributeCauseQueueFull, b.counts())
	}
}

// offerUntil queues b as soon as there is room, or drops and counts it when ctx is done.
func (p *logsPusher) offerUntil(ctx context.Context, b *batch) {
	select {
	case p.queue <- b:
	case <-ctx.Done():
		p.shed(metadata.AttributeCauseShutdown, b.counts())
	}
}

func (p *logsPusher) shed(cause metadata.AttributeCause, n eventCounts) {
	if cause == metadata.AttributeCauseShutdown {
		p.lost.Store(true)
	}
	p.tel.countShed(context.Background(), cause, n)
}

// run pushes until the queue is closed and empty. When ctx is done, it drops and counts what is left.
func (p *logsPusher) run(ctx context.Context) {
	for b := range p.queue {
		if ctx.Err() != nil {
			p.shed(metadata.AttributeCauseShutdown, b.counts())
			continue
		}
		p.push(ctx, b)
	}
}

// push offers b, and tells the Collector what became of it.
func (p *logsPusher) push(ctx context.Context, b *batch) {
	opCtx := p.obs.StartLogsOp(ctx)
	left, err := p.deliver(opCtx, b)
	taken := b.counts().minus(left)
	if err != nil && taken.sum() > 0 { // an operation has one outcome: what was taken is one, what was refused another
		p.obs.EndLogsOp(opCtx, obsFormat, taken.sum(), nil)
		opCtx = p.obs.StartLogsOp(ctx)
		taken = eventCounts{}
	}
	p.obs.EndLogsOp(opCtx, obsFormat, taken.sum()+left.sum(), err)
	p.failing = logTransition(p.log, p.failing, err, "log records")
}

// deliver offers b, and again if the consumer may take it later. It returns what was not taken, and why.
func (p *logsPusher) deliver(ctx context.Context, b *batch) (left eventCounts, err error) {
	began := time.Now()
	left = b.counts()
	again := func() plog.Logs { return p.writer.write(b) } // anew: the consumer may have changed what it refused
	for attempt := 0; ; attempt++ {
		ending := p.isEnding()
		if err = p.next.ConsumeLogs(ctx, again()); err == nil {
			p.tel.countDelivered(context.Background(), left)
			return eventCounts{}, nil
		}
		if rest, ok := remaining(err); ok {
			p.tel.countDelivered(context.Background(), left.minus(countEvents(rest)))
			left = countEvents(rest)
			again = copies(rest)
		}
		switch {
		case consumererror.IsPermanent(err):
			p.shed(metadata.AttributeCausePermanent, left)
		case ending || ctx.Err() != nil:
			p.shed(metadata.AttributeCauseShutdown, left)
		case attempt >= len(p.delays) || time.Since(began)+p.delays[attempt] > retryBudget:
			p.shed(metadata.AttributeCauseRefused, left)
		default:
			p.wait(p.delays[attempt])
			continue
		}
		return left, err
	}
}

func (p *logsPusher) isEnding() bool {
	select {
	case <-p.ending:
		return true
	default:
		return false
	}
}

// wait waits for d, or until the end begins: then there is one more attempt.
func (p *logsPusher) wait(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.ending:
	case <-t.C:
	}
}

// remaining returns what the consumer did not take, if it says so.
func remaining(err error) (plog.Logs, bool) {
	var partial consumererror.Logs
	if errors.As(err, &partial) {
		return partial.Data(), true
	}
	return plog.Logs{}, false
}

func copies(of plog.Logs) func() plog.Logs {
	return func() plog.Logs {
		ld := plog.NewLogs()
		of.CopyTo(ld)
		return ld
	}
}
