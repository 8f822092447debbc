// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"time"

	"go.uber.org/zap"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// clockStep is how far the wall clock may be set back unnoticed: until it has caught up, drains are a nanosecond apart.
const clockStep = int64(time.Second)

// advance makes now the time of the drain in progress. Slots bear the new time of a clock that was set back: a drain
// time that waited for it to catch up would end every flow at each drain, and never one for being idle.
func (e *engine) advance(now int64) {
	if now >= e.drain.time-clockStep {
		e.drain.time = max(now, e.drain.time+1)
		return
	}
	e.log.Warn("The clock was set back; flows end here, and series begin anew", zap.Duration("by", time.Duration(e.drain.time-now)))
	e.collectLast()
	if e.table != nil {
		e.table.Flush(flow.EndReasonForcedEnd, e.endFlow)
		e.sendFlows()
	}
	e.drain.watched = nil // watching begins anew, too
	if e.metrics != nil {
		e.metrics.restart(now)
	}
	e.drain.time, e.drain.collected = now, now
}

// collectLast hands over the last word of all series. One collection that still waits makes room: this one says more.
func (e *engine) collectLast() {
	if e.metrics == nil {
		return
	}
	select {
	case <-e.metricsPusher.queue:
	default:
	}
	e.drain.time++ // the collection before may have been refused: say it again
	e.drain.last = true
	e.collect()
	e.drain.last = false
}
