// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
)

// What goes wrong while the receiver runs is said when it begins and when it ends. How often it happens is a count.

// reportDrain says when drains begin to fail, and when they no longer do. Nothing is lost: counts stay in the kernel.
func (e *engine) reportDrain(err error) {
	switch {
	case err != nil:
		e.tel.EbpfpacketsReceiverDrainErrors.Add(context.Background(), 1)
		if !e.drain.failing {
			e.log.Error("Taking the kernel's counters failed; they are kept for the next time", zap.Error(err))
		}
		if e.drain.final == nil {
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
		e.tel.EbpfpacketsReceiverLedgerMismatches.Add(context.Background(), 1, metric.WithAttributes(attribute.String("identity", m.Identity)))
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

// reportSkip says when collections begin to be left out, and when they no longer are.
func (e *engine) reportSkip(skip bool) {
	switch {
	case skip:
		e.tel.EbpfpacketsReceiverCollectionSkips.Add(context.Background(), 1)
		if !e.drain.skipping {
			e.log.Warn("The next consumer is more than one collection_interval behind; leaving out collections of metrics")
		}
	case e.drain.skipping:
		e.log.Info("The next consumer of metrics keeps up again")
	}
	e.drain.skipping = skip
}
