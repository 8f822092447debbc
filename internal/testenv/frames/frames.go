// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

// Package frames is the corpus that both parsers are held against: one annotated frame per phenomenon, and what is to be
// read of it, written by hand from the RFCs. It serves the tests of packet.Decode, of the kernel program and the
// benchmarks. It holds no traffic, only headers: a frame ends where the last header does unless its name says otherwise.
package frames

import (
	"slices"

	"github.com/ebpfpackets/ebpfpackets/internal/packet"
)

// Frame is the bytes of one packet and what both parsers must say of them. BPF_PROG_TEST_RUN takes no frame below 14
// bytes, and Linux 6.18 none that ends inside an IP header right behind Ethernet; behind a tag it does.
type Frame struct {
	Name    string        // a sentence, unique
	Inside  bool          // of a tunnel is what Want says; set only in Inside and by Encapsulate
	L3      bool          // Data starts at the IP header: a device without link header
	Tagged  bool          // VLANTCI is the outermost tag, offloaded: set only in Offloaded
	VLANTCI uint16        // priority 3, DEI 1, id 12 bits; host byte order
	Time    int64         // ns since 1970, of a capture; microseconds are known
	Data    []byte        // read-only
	Want    packet.Packet // of a sample whose IfIndex and NetNS are 0
}

// All holds every frame that can be handed to a parser as bytes alone.
var All = slices.Concat(link, mpls, ppp, l3, ipv4, ipv6, transport, tcpFlags())

// ICMP holds one frame for each type of ICMP and of ICMPv6.
var ICMP = icmpTypes()

// Sample returns f as the kernel would have sampled it, whole. The sample shares f's bytes.
func (f *Frame) Sample() packet.Sample {
	wireLen := uint32(len(f.Data))
	if f.Tagged {
		wireLen += 4
	}
	return packet.Sample{
		Segments: 1,
		WireLen:  wireLen,
		Inside:   f.Inside,
		L3:       f.L3,
		Tagged:   f.Tagged,
		VLANTCI:  f.VLANTCI,
		Data:     f.Data,
	}
}
