// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package flow

// MAC is a hardware address, as it stands in an Ethernet header.
type MAC [6]byte

// Facts is what the headers of one direction said beside the key.
type Facts struct {
	CEPackets      uint64 // marked "congestion experienced"; RFC 3168
	FlowLabel      uint32 // of the first packet, 20 bits; 0 of IPv4; RFC 6437, IPFIX 31
	SrcMAC, DstMAC MAC    // of the first packet, valid iff HasMACs; IPFIX 56, 80
	TTLMin, TTLMax uint8  // TTL or hop limit, of all packets; IPFIX 52, 53
	DSCP           uint8  // of the first packet, 6 bits; RFC 2474, IPFIX 195
	DSCPVaries     bool   // not all packets had that
	HasMACs        bool   // there was a link header
}

// Half is one direction of a flow: its traffic, and what its packets said.
type Half struct {
	Volume
	TCPFlags uint8      // OR of the flags of every packet; 0 unless TCP; IPFIX 6
	Facts               // valid iff there are packets
	Errors   ICMPErrors // about its packets, not about those of this record alone: they come later
}

// tally is a Half that grows.
type tally struct {
	Half
	first int64 // time of the first packet, ns since 1970, valid iff there are packets
	hook  Hook  // of the first packet; of an earlier record if there are none yet
}

// add merges s, of this half's direction. The result does not depend on the order of slots.
func (h *tally) add(s *Slot) {
	if h.Packets == 0 {
		h.begin(s)
	} else {
		h.addFacts(s)
	}
	h.Volume.Add(s.Volume)
	h.TCPFlags |= s.TCPFlags
}

// begin takes over what is told of the first packet.
func (h *tally) begin(s *Slot) { h.Facts, h.first, h.hook = s.Facts, s.First, s.hook() }

func (h *tally) addFacts(s *Slot) {
	ce, low, high := h.CEPackets+s.CEPackets, min(h.TTLMin, s.TTLMin), max(h.TTLMax, s.TTLMax)
	varies := h.DSCPVaries || s.DSCPVaries || h.DSCP != s.DSCP
	if s.First < h.first {
		h.begin(s)
	}
	h.CEPackets, h.TTLMin, h.TTLMax, h.DSCPVaries = ce, low, high, varies
}
