// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"time"

	"go.uber.org/zap"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
)

// clockStep is how far the wall clock may be set unnoticed. Until one that was set back has caught up, drains are a nanosecond apart.
const clockStep = int64(time.Second)

// advance makes the time of d that of the drain in progress. Slots bear the new time of a clock that was set back: a drain
// time that waited for it to catch up would end every flow at each drain, and never one for being idle.
func (e *engine) advance(d *kernel.Drained) {
	now, began := d.Time, d.Time
	if e.drain.booted != 0 {
		set := d.Booted - e.drain.booted
		began = min(now, e.drain.time+set) // the drain before this one, in the new time
		if set > clockStep {
			e.drain.watched = nil // what came before the step is not as long ago as it seems
		}
	}
	e.drain.booted = d.Booted
	if now >= e.drain.time-clockStep {
		e.drain.time = max(now, e.drain.time+1)
		return
	}
	e.log.Warn("The clock was set back; flows end here, and series begin anew", zap.Duration("by", time.Duration(e.drain.time-now)))
	if e.metrics != nil {
		e.metrics.restart(e.drain.time+1, began, e.table, e.places.now()) // a collection may have ended at its time
	}
	if e.table != nil {
		e.table.Flush(flow.EndReasonForcedEnd, e.endFlow)
		e.sendFlows()
	}
	e.drain.watched = nil // watching begins anew, too
	e.drain.time, e.drain.collected = now, now
	if e.metrics != nil && len(e.metrics.former) > 0 && !e.drain.ending {
		e.offerPoints() // of the old time
	}
}
