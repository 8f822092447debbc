// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.uber.org/zap"

	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

// What goes wrong while the receiver runs is said when it begins and when it ends. How often it happens is a count.

// reportDrain says when drains begin to fail, and when they no longer do. Nothing is lost: counts stay in the kernel.
func (e *engine) reportDrain(err error) {
	switch {
	case err != nil:
		e.tel.EbpfpacketsReceiverDrainErrors.Add(context.Background(), 1, e.tel.with())
		switch {
		case e.drain.ending:
			e.log.Error("Taking the kernel's counters failed at the end", zap.Error(err))
		case !e.drain.failing:
			e.log.Error("Taking the kernel's counters failed; they are kept for the next time", zap.Error(err))
		}
		if !e.drain.ending {
			e.status.set("drain", fmt.Errorf("drain: %w", err))
		}
	case e.drain.failing:
		e.log.Info("Taking the kernel's counters works again")
		e.status.set("drain", nil)
	}
	e.drain.failing = err != nil
}

// reportDrained says what is wrong with what was drained, once for each thing until it is right again.
func (e *engine) reportDrained(d *kernel.Drained) {
	var broken map[string]bool
	for _, m := range d.Mismatches {
		e.tel.EbpfpacketsReceiverLedgerMismatches.Add(context.Background(), 1, e.tel.with(attribute.String("identity", m.Identity)))
		if !e.drain.broken[m.Identity] && !broken[m.Identity] {
			e.log.Error("The ledger does not add up; this is a defect of the receiver, please report it",
				zap.String("identity", m.Identity), zap.Int("region", m.Region), zap.Uint64("want", m.Want), zap.Uint64("got", m.Got))
		}
		if broken == nil {
			broken = map[string]bool{}
		}
		broken[m.Identity] = true
	}
	for identity := range e.drain.broken {
		if !broken[identity] {
			e.log.Info("The ledger adds up again", zap.String("identity", identity))
		}
	}
	e.drain.broken = broken
	if d.LateCPU > 0 && !e.drain.late {
		e.drain.late = true
		e.log.Warn("A CPU came online after Start; its packets are counted as overflow, without a flow: restart the collector to give it a table")
	}
}

// reportSeries says how many series there are.
func (e *engine) reportSeries() {
	if e.metrics == nil {
		return
	}
	for name, n := range e.metrics.series() {
		e.tel.setSeries(name, n)
	}
}

// reportSkip says when collections begin to be left out, and when they no longer are.
func (e *engine) reportSkip(skip bool) {
	switch {
	case skip:
		e.tel.EbpfpacketsReceiverCollectionSkips.Add(context.Background(), 1, e.tel.with())
		if !e.drain.skipping {
			e.log.Warn("The next consumer is more than one collection_interval behind; leaving out collections of metrics")
		}
	case e.drain.skipping:
		e.log.Info("The next consumer of metrics keeps up again")
	}
	e.drain.skipping = skip
}

// shedPatience is for how long no flow record must be dropped before that is said to be over: longer than the pause
// between the bursts that a usual active timeout makes.
const shedPatience = 2 * limitSpan

// shedding is whether flow records find no room, for one cause.
type shedding struct {
	on      bool
	last    int64 // ns since 1970 of the last drain whose records did not all find room
	records int64 // dropped since it began
}

// add takes what the drain at now dropped. It reports whether that is the first in a while, or the end of it.
func (s *shedding) add(now, records int64) (began, ended bool) {
	s.last = min(s.last, now) // the clock may have been set back
	switch {
	case records > 0:
		if began = !s.on; began {
			s.records = 0
		}
		s.on, s.last = true, now
		s.records += records
	case s.on && now-s.last >= int64(shedPatience):
		s.on, ended = false, true
	}
	return began, ended
}

// reportChoice says when flow records begin to find no room, and when all of them do again.
func (e *engine) reportChoice(c *choice) {
	limited, late := c.shed.flows, int64(0)
	if c.cause != metadata.AttributeCauseRateLimit {
		limited, late = late, limited
	}
	switch began, ended := e.drain.limited.add(e.drain.time, limited); {
	case began:
		e.log.Warn("More flows end than flows.max_records_per_second lets through; answered and larger ones are told, the rest is counted as shed: "+
			"raise it, or raise flows.active_timeout so that long flows are told less often, or leave traffic out with filters",
			zap.Int("max_records_per_second", e.cfg.Flows.MaxRecordsPerSecond))
	case ended:
		e.log.Info("flows.max_records_per_second lets all flow records through again", zap.Int64("shed", e.drain.limited.records))
	}
	switch began, ended := e.drain.crowded.add(e.drain.time, late); {
	case began:
		e.log.Warn("The next consumer of log records is too far behind; flow records that find no room in the queue are counted as shed: " +
			"give exporters a sending_queue, so that no consumer blocks")
	case ended:
		e.log.Info("All flow records find room in the queue again", zap.Int64("shed", e.drain.crowded.records))
	}
}
