// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"time"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
)

// driftInterval is how often, at most, the interfaces are asked.
const driftInterval = 10 * time.Second

// perDirection holds packets by flow.Direction.
type perDirection [2]uint64

// drift compares what was counted with what the interfaces counted themselves: the identities of the ledger only prove that
// the programs agree with themselves. The two are read a moment apart, so under traffic the difference is noisy; what
// grows is packets that one of them did not see, or weighs otherwise (docs/totals.md).
type drift struct {
	asked   time.Time
	counted map[uint32]*perDirection
	base    map[uint32]perDirection // counted minus the interface's own, modulo 2^64, when it was first asked

	index uint32 // of last, since slots of one interface often come in a row
	last  *perDirection
}

// add adds packets of one slot or class.
func (d *drift) add(index uint32, direction flow.Direction, packets uint64) {
	if d.last == nil || d.index != index {
		if d.counted == nil {
			d.counted = map[uint32]*perDirection{}
		}
		c := d.counted[index]
		if c == nil {
			c = &perDirection{}
			d.counted[index] = c
		}
		d.index, d.last = index, c
	}
	d.last[direction] += packets
}

// addDrained adds everything that one drain took.
func (d *drift) addDrained(slots []flow.Slot, classes []kernel.Class) {
	for i := range slots {
		d.add(slots[i].IfIndex, slots[i].Direction, slots[i].Packets)
	}
	for i := range classes {
		d.add(classes[i].IfIndex, classes[i].Direction, classes[i].Packets)
	}
}

// due reports whether the interfaces are to be asked now.
func (d *drift) due(now time.Time) bool {
	if now.Sub(d.asked) < driftInterval && !now.Before(d.asked) {
		return false
	}
	d.asked = now
	return true
}

// compare returns how many packets more than each attached interface we counted since it was first asked; fewer is negative.
func (d *drift) compare(own map[uint32]iface.Counters, attached map[uint32]bool) map[uint32][2]int64 {
	drifts := make(map[uint32][2]int64, len(attached))
	base := make(map[uint32]perDirection, len(attached))
	for index := range attached {
		theirs, ok := own[index]
		if !ok {
			continue
		}
		var difference perDirection
		if c := d.counted[index]; c != nil {
			difference = *c
		}
		difference[flow.DirectionIngress] -= theirs.Received
		difference[flow.DirectionEgress] -= theirs.Transmitted
		b, ok := d.base[index]
		if !ok {
			b = difference
		}
		base[index] = b
		drifts[index] = [2]int64{int64(difference[0] - b[0]), int64(difference[1] - b[1])}
	}
	d.base = base
	for index := range d.counted {
		if !attached[index] {
			delete(d.counted, index)
		}
	}
	d.last = nil
	return drifts
}
