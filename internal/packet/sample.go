// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package packet

import "github.com/ebpfpackets/ebpfpackets/internal/flow"

// Kind is a way to choose frames. Each has a budget of its own.
type Kind uint8

const (
	KindRandom   Kind = iota // 1 buffer in N, with geometric gaps
	KindFlow                 // every packet of 1 flow in N
	KindFirst                // the first packets of every flow
	KindProtocol             // parts of messages of application protocols
	KindCount
)

var kinds = [KindCount]string{"random", "flow", "first", "protocol"}

func (k Kind) String() string { return kinds[k] }

// Reasons are the kinds that chose a frame, one bit for each: it is copied once.
type Reasons uint8

const (
	ReasonRandom   Reasons = 1 << KindRandom
	ReasonFlow     Reasons = 1 << KindFlow
	ReasonFirst    Reasons = 1 << KindFirst
	ReasonProtocol Reasons = 1 << KindProtocol
)

// Has reports whether a kind is among the reasons.
func (r Reasons) Has(k Kind) bool { return r&(1<<k) != 0 }

// Sample is one chosen frame as the kernel saw it. Data is valid only until the callback that received it returns.
type Sample struct {
	Time      int64 // ns since 1970
	IfIndex   uint32
	NetNS     uint16
	Direction flow.Direction
	Reasons   Reasons
	Pool      uint64 // iff ReasonRandom: buffers seen on this CPU since its last emitted sample of that kind, this one included: the weight for estimates
	FlowPool  uint32 // iff ReasonFlow: buffers of chosen flows on this CPU since its last emitted sample of that kind, this one included
	Number    uint32 // iff ReasonFirst: which packet of its flow this is, from 1; of several segments the first
	Segments  uint32 // wire packets this buffer stands for (GSO, GRO); at least 1
	WireLen   uint32 // bytes of all segments on the wire, link header and tags included
	Inside    bool   // of a tunnel is where the flow is
	L3        bool   // Data starts at the IP header: a device without link header
	NotIP     bool   // without link header, the kernel says that it is no IP, whatever it begins with
	Tagged    bool   // VLANTCI is valid: the outermost tag was offloaded and is not in Data
	VLANTCI   uint16 // priority 3, DEI 1, id 12 bits; host byte order
	VLANProto uint16 // ethertype of the offloaded tag, 0x8100 or 0x88a8; host byte order
	Data      []byte // captured bytes from the link header on, at most snap_length
	Message   []byte // iff ReasonProtocol: Data and what was captured behind it for internal/app; it never leaves the host
}

// offloaded is the part of WireLen that can never be in Data: each segment has the tag that was offloaded.
func (s *Sample) offloaded() int {
	if !s.Tagged {
		return 0
	}
	return int(s.Segments) * vlanTagLen
}

// cut reports whether the packet goes on behind Data.
func (s *Sample) cut() bool { return len(s.Data) < int(s.WireLen)-s.offloaded() }
