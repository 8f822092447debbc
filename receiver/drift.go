// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"maps"
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
	counted map[flow.Place]*perDirection
	base    map[flow.Place]perDirection // counted minus the interface's own, modulo 2^64, when it was first asked
	told    map[flow.Place][2]int64     // of the last comparison of each

	at   flow.Place // of last, since slots of one interface often come in a row
	last *perDirection
}

// add adds packets of one slot or class.
func (d *drift) add(at flow.Place, direction flow.Direction, packets uint64) {
	if d.last == nil || d.at != at {
		if d.counted == nil {
			d.counted = map[flow.Place]*perDirection{}
		}
		c := d.counted[at]
		if c == nil {
			c = &perDirection{}
			d.counted[at] = c
		}
		d.at, d.last = at, c
	}
	d.last[direction] += packets
}

// addDrained adds everything that one drain took.
func (d *drift) addDrained(slots []flow.Slot, classes []kernel.Class) {
	for i := range slots {
		d.add(slots[i].Place(), slots[i].Direction, slots[i].Packets)
	}
	for i := range classes {
		d.add(classes[i].Place(), classes[i].Direction, classes[i].Packets)
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

// silence forgets what was told of a namespace, until it answers again.
func (d *drift) silence(number uint16) {
	maps.DeleteFunc(d.told, func(at flow.Place, _ [2]int64) bool { return at.NetNS == uint32(number) })
}

// compare returns how many packets more than each attached interface we counted since it was first asked; fewer is negative. Of those
// that were not asked this time, it is what was told before.
func (d *drift) compare(own map[flow.Place]iface.Counters, attached map[flow.Place]bool) map[flow.Place][2]int64 {
	drifts := make(map[flow.Place][2]int64, len(attached))
	base := make(map[flow.Place]perDirection, len(attached))
	for at := range attached {
		theirs, ok := own[at]
		if !ok {
			if b, ok := d.base[at]; ok {
				base[at] = b
			}
			if t, ok := d.told[at]; ok {
				drifts[at] = t
			}
			continue
		}
		var difference perDirection
		if c := d.counted[at]; c != nil {
			difference = *c
		}
		difference[flow.DirectionIngress] -= theirs.Received
		difference[flow.DirectionEgress] -= theirs.Transmitted
		b, ok := d.base[at]
		if !ok {
			b = difference
		}
		base[at] = b
		drifts[at] = [2]int64{int64(difference[0] - b[0]), int64(difference[1] - b[1])}
	}
	d.base, d.told = base, drifts
	for at := range d.counted {
		if !attached[at] {
			delete(d.counted, at)
		}
	}
	d.last = nil
	return drifts
}
