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

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

// retryBudget is for one message, from the first attempt.
const retryBudget = 5 * time.Second

// retryDelays are the pauses before the same records are offered again.
var retryDelays = []time.Duration{250 * time.Millisecond, time.Second, 2 * time.Second}

// tally counts log records by event, and the traffic that those of flows tell.
type tally struct {
	flows, packets int64
	volume         flow.Volume
}

func (n *tally) add(r *flow.Record) {
	n.flows++
	n.volume.Add(r.Volume())
}

func (n tally) byEvent() iter.Seq2[string, int64] {
	return func(yield func(string, int64) bool) {
		_ = yield(eventFlow, n.flows) && yield(eventPacket, n.packets)
	}
}

func (n tally) minus(o tally) tally {
	return tally{n.flows - o.flows, n.packets - o.packets, n.volume.Minus(o.volume)}
}

func (n tally) sum() int { return int(n.flows + n.packets) }

func (b *batch) tally() tally {
	n := tally{packets: int64(len(b.packets))}
	for i := range b.flows {
		n.add(&b.flows[i])
	}
	return n
}

// tallyOf counts what a consumer left of a message.
func tallyOf(ld plog.Logs) (n tally) {
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, r := range sl.LogRecords().All() {
				if r.EventName() == nameOf(kindEvent, eventFlow) {
					n.flows++
					n.volume.Add(writtenVolume(r.Attributes()))
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
	room   int64         // bytes that may wait in it
	ending chan struct{} // closed at shutdown: from then on everything is offered once

	failing bool
	waiting atomic.Int64          // bytes in queue
	offered atomic.Pointer[tally] // what the consumer has, and did not answer for; nil: nothing, or nobody waits for the answer
	lost    atomic.Int64          // records that were dropped because of the shutdown
}

// offer queues b, or drops and counts it if the consumer is too far behind.
func (p *logsPusher) offer(b *batch) {
	if p.waiting.Add(b.bytes()) <= p.room {
		select {
		case p.queue <- b:
			return
		default:
		}
	}
	p.waiting.Add(-b.bytes())
	p.shed(metadata.AttributeCauseQueueFull, b.tally())
}

// offerUntil queues b as soon as the queue is not full, or drops and counts it when ctx is done. It does not look at bytes: b is in
// memory in any case.
func (p *logsPusher) offerUntil(ctx context.Context, b *batch) {
	p.waiting.Add(b.bytes())
	select {
	case p.queue <- b:
	case <-ctx.Done():
		p.shed(metadata.AttributeCauseShutdown, b.tally())
	}
}

// free returns for how many flow records of so many bytes there is room.
func (p *logsPusher) free(bytes int64) int {
	return min((cap(p.queue)-len(p.queue))*maxRecords, int(max(0, p.room-p.waiting.Load())/bytes))
}

func (p *logsPusher) shed(cause metadata.AttributeCause, n tally) {
	if cause == metadata.AttributeCauseShutdown {
		p.lost.Add(int64(n.sum()))
	}
	p.tel.countShed(context.Background(), cause, n)
}

// finish queues the records of the end as soon as there is room, or drops and counts them when ctx is done.
func (p *logsPusher) finish(ctx context.Context, last []*batch) {
	for _, b := range last {
		p.offerUntil(ctx, b)
	}
	close(p.queue)
}

// run pushes until the queue is closed and empty. When ctx is done, it drops and counts what is left.
func (p *logsPusher) run(ctx context.Context) {
	for b := range p.queue {
		p.waiting.Add(-b.bytes())
		if ctx.Err() != nil {
			p.shed(metadata.AttributeCauseShutdown, b.tally())
			continue
		}
		p.push(ctx, b)
	}
}

// push offers b, and tells the Collector what became of it.
func (p *logsPusher) push(ctx context.Context, b *batch) {
	opCtx := p.obs.StartLogsOp(ctx)
	left, err := p.deliver(opCtx, b)
	taken := b.tally().minus(left)
	if err != nil && taken.sum() > 0 { // an operation has one outcome: what was taken is one, what was refused another
		p.obs.EndLogsOp(opCtx, obsFormat, taken.sum(), nil)
		opCtx = p.obs.StartLogsOp(ctx)
		taken = tally{}
	}
	p.obs.EndLogsOp(opCtx, obsFormat, taken.sum()+left.sum(), err)
	p.failing = logTransition(p.log, p.failing, err, "log records")
}

// deliver offers b, and again if the consumer may take it later. It returns what was not taken, and why.
func (p *logsPusher) deliver(ctx context.Context, b *batch) (tally, error) {
	began := time.Now()
	left := new(b.tally())
	p.offered.Store(left)
	again := func() plog.Logs { return p.writer.write(b) } // anew: the consumer may have changed what it refused
	for attempt := 0; ; attempt++ {
		ending := p.isEnding()
		err := p.next.ConsumeLogs(ctx, again())
		if err == nil {
			p.settle(left, nil, func() { p.tel.countDelivered(context.Background(), *left) })
			return tally{}, nil
		}
		if rest, n, ok := remaining(err, *left); ok {
			now := &n
			p.settle(left, now, func() { p.tel.countDelivered(context.Background(), left.minus(*now)) })
			left = now
			again = copies(rest)
		}
		var cause metadata.AttributeCause
		switch {
		case left.sum() == 0: // all was taken, in parts
			return *left, err
		case consumererror.IsPermanent(err):
			cause = metadata.AttributeCausePermanent
		case ending || ctx.Err() != nil:
			cause = metadata.AttributeCauseShutdown
		case attempt >= len(p.delays) || time.Since(began)+p.delays[attempt] > retryBudget:
			cause = metadata.AttributeCauseRefused
		default:
			p.wait(p.delays[attempt])
			continue
		}
		p.settle(left, nil, func() { p.shed(cause, *left) })
		return *left, err
	}
}

// settle counts what became of was, of which the consumer still has now; unless that was counted as lost before.
func (p *logsPusher) settle(was, now *tally, count func()) {
	if p.offered.CompareAndSwap(was, now) {
		count()
	}
}

// abandon counts as lost what the consumer did not answer for and what waits behind it. The queue is closed.
func (p *logsPusher) abandon() {
	if left := p.offered.Swap(nil); left != nil {
		p.shed(metadata.AttributeCauseShutdown, *left)
	}
	for b := range p.queue {
		p.shed(metadata.AttributeCauseShutdown, b.tally())
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

// remaining returns what the consumer did not take, if it says so. What one of several joined errors says is about one
// pipeline: behind it, others may have refused everything. More than was offered is not ours alone: an exporter that joins
// the messages of several callers, who wait for the result, gives all of them one error.
func remaining(err error, offered tally) (rest plog.Logs, n tally, ok bool) {
	for ; err != nil; err = errors.Unwrap(err) { // not errors.As: it looks into joined errors
		if partial, ok := err.(consumererror.Logs); ok { //nolint:errorlint // as above
			rest = partial.Data()
			n = tallyOf(rest)
			return rest, n, n.flows <= offered.flows && n.packets <= offered.packets
		}
	}
	return rest, n, false
}

func copies(of plog.Logs) func() plog.Logs {
	return func() plog.Logs {
		ld := plog.NewLogs()
		of.CopyTo(ld)
		return ld
	}
}
