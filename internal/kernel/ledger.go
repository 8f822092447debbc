// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
)

// MaxNamespace is the largest number of a network namespace: KEY_NETNS of bpf/contract.h.
const MaxNamespace = 0x0fff

// Class is traffic counted at an interface without a flow.
type Class struct {
	Reason    flow.Reason
	EtherType uint16 // host byte order, valid iff Reason is flow.ReasonEtherType
	IfIndex   uint32 // 0: not known: the class area was full, or the CPU came online after loading
	NetNS     uint16
	Direction flow.Direction
	flow.Volume
}

// Place returns where the packets were counted, as far as it is known.
func (c *Class) Place() flow.Place { return flow.Place{NetNS: uint32(c.NetNS), IfIndex: c.IfIndex} }

// Ledger is the closed account of every packet: Seen is exactly the sum of Entries.
type Ledger struct {
	Seen    flow.Volume
	Entries [flow.ReasonCount]flow.Volume
}

// Add adds o to l.
func (l *Ledger) Add(o *Ledger) {
	l.Seen.Add(o.Seen)
	for r := range l.Entries {
		l.Entries[r].Add(o.Entries[r])
	}
}

// SampleCounts account for every frame that one kind chose: Selected = Emitted + RateLimited + RingFull.
type SampleCounts struct {
	Selected, Emitted, RateLimited, RingFull uint64
}

// Samples are the counts of each kind. A frame that several chose is in those of each.
type Samples [packet.KindCount]SampleCounts

// Add adds o to s.
func (s *Samples) Add(o *Samples) {
	for kind := range s {
		s[kind].Selected += o[kind].Selected
		s[kind].Emitted += o[kind].Emitted
		s[kind].RateLimited += o[kind].RateLimited
		s[kind].RingFull += o[kind].RingFull
	}
}

// Drained is what one drain took from the kernel besides the slots.
type Drained struct {
	Time       int64 // ns since 1970 of the flip; no time in a slot is later
	Booted     int64 // ns since 1970 at which CLOCK_BOOTTIME was 0, by the wall clock of the flip: it moves with that when it is set
	Classes    []Class
	Ledger     Ledger
	Samples    Samples
	Mismatches []Mismatch // empty unless the program disagrees with itself
	Slots      int        // slots in use in the fullest region
	Quotes     []flow.Quote
	QuotesLost uint64 // ICMP errors whose quote could not be read, or had no room
	LateCPU    uint64 // packets of CPUs that came online after loading, in flow.ReasonOverflow without interface
}

// Mismatch is an identity that did not hold in one region at one drain: a defect of this project, never of the traffic.
type Mismatch struct {
	Identity  string // buffers, packets, bytes, reentered, samples_<kind>
	Region    int
	Want, Got uint64
}
