// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"slices"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

var ipv4 = []Frame{
	{
		Name: "an IPv4 header one byte short",
		Data: without(1, ethernet(typeIPv4, ip4(protoGRE))),
		Want: unread(flow.ReasonShortIPv4, typeIPv4),
	},
	{
		Name: "an IPv4 header behind a tag one byte short",
		Data: without(1, ethernet(typeVLAN, vlan(100, typeIPv4, ip4(protoGRE)))),
		Want: unread(flow.ReasonShortIPv4, typeIPv4),
	},
	{
		Name: "an IPv4 header is too short before it is bad",
		Data: without(1, ethernet(typeIPv4, ip4Header(0x60, 0, protoGRE))),
		Want: unread(flow.ReasonShortIPv4, typeIPv4),
	},
	{
		Name: "version 6 behind the type of IPv4",
		Data: ethernet(typeIPv4, ip6(protoTCP, tcp(ack))),
		Want: unread(flow.ReasonBadIPv4, typeIPv4),
	},
	{
		Name: "version 5 with the header length of IPv4",
		Data: ethernet(typeIPv4, ip4Header(0x55, dontFragment, protoTCP, tcp(ack))),
		Want: unread(flow.ReasonBadIPv4, typeIPv4),
	},
	{
		Name: "an IPv4 header length of 16",
		Data: ethernet(typeIPv4, ip4Header(0x44, dontFragment, protoTCP, tcp(ack))),
		Want: unread(flow.ReasonBadIPv4, typeIPv4),
	},
	{
		Name: "one word of IPv4 options",
		Data: ethernet(typeIPv4, ip4Options(1, protoTCP, tcp(ack))),
		Want: isTCP(ack, seen4(6, 14+24+20)),
	},
	{
		Name: "ten words of IPv4 options, the most",
		Data: ethernet(typeIPv4, ip4Options(10, protoUDP, udp())),
		Want: ports(seen4(17, 14+60+8)),
	},
	{
		Name: "IPv4 options one byte short",
		Data: without(1, ethernet(typeIPv4, ip4Options(1, protoGRE))),
		Want: unread(flow.ReasonShortIPv4, typeIPv4),
	},
	{
		Name: "the options of a later IPv4 fragment one byte short",
		Data: without(1, ethernet(typeIPv4, ip4Header(0x46, 185, protoTCP, []byte{1, 1, 1, 1}))),
		Want: unread(flow.ReasonShortIPv4, typeIPv4),
	},
	{
		Name: "a first IPv4 fragment",
		Data: ethernet(typeIPv4, ip4Fragment(moreFragments, protoUDP, udp(make([]byte, 16)))),
		Want: ports(seen4(17, 14+20+8)),
	},
	{
		Name: "a tiny first IPv4 fragment hides its ports",
		Data: ethernet(typeIPv4, ip4Fragment(moreFragments, protoTCP, tcp(syn)[:8])),
		Want: unread(flow.ReasonShortTransport, typeIPv4),
	},
	{
		Name: "a later IPv4 fragment that looks like a TCP header",
		Data: ethernet(typeIPv4, ip4Fragment(moreFragments|185, protoTCP, tcp(syn))), // offset 1480
		Want: later(seen4(6, 14+20)),
	},
	{
		Name: "a last IPv4 fragment of one byte",
		Data: ethernet(typeIPv4, ip4Fragment(0x1fff, protoUDP, []byte{0xff})), // the largest offset
		Want: later(seen4(17, 14+20)),
	},
	{
		Name: "the highest bit of the IPv4 fragment offset alone",
		Data: ethernet(typeIPv4, ip4Fragment(0x1000, protoUDP, udp())),
		Want: later(seen4(17, 14+20)),
	},
	{
		Name: "a later fragment at the smallest offset, behind options",
		Data: ethernet(typeIPv4, ip4Header(0x46, 1, protoTCP, []byte{1, 1, 1, 1}, tcp(syn))),
		Want: later(seen4(6, 14+24)),
	},
	{
		Name: "a later IPv4 fragment that overlaps the TCP header",                     // RFC 1858 3.2: flags are not taken from it
		Data: ethernet(typeIPv4, ip4Fragment(moreFragments|1, protoTCP, tcp(syn)[8:])), // offset 8: from the acknowledgement number on
		Want: later(seen4(6, 14+20)),
	},
	{
		Name: "the reserved bit of the IPv4 flags is no offset",
		Data: ethernet(typeIPv4, ip4Fragment(0x8000, protoUDP, udp())), // RFC 3514
		Want: ports(seen4(17, 14+20+8)),
	},
	{
		Name: "a total length of 0, as BIG TCP writes it",
		Data: totalLength(0, ethernet(typeIPv4, ip4(protoTCP, tcp(ack)))),
		Want: isTCP(ack, seen4(6, 14+20+20)),
	},
	{
		Name: "padding past the total length is read as a header",
		Data: totalLength(20, ethernet(typeIPv4, ip4(protoICMP, make([]byte, 26)))),
		Want: isICMP(0, 0, 8<<8, 0, seen4(1, 14+20+8)),
	},
	{
		Name: "GRE is accounted by its number",
		Data: ethernet(typeIPv4, ip4(protoGRE, []byte{0, 0, 0x08, 0x00}, ip4(protoTCP, tcp(ack)))),
		Want: seen4(47, 14+20),
	},
	{
		Name: "IPv4 in IPv4 is accounted by its number",
		Data: ethernet(typeIPv4, ip4(4, ip4(protoTCP, tcp(ack)))),
		Want: seen4(4, 14+20),
	},
	{
		Name: "a protocol by number needs nothing behind IPv4",
		Data: ethernet(typeIPv4, ip4(255)),
		Want: seen4(255, 14+20),
	},
	{
		Name: "hop-by-hop by number behind IPv4 is no extension header",
		Data: ethernet(typeIPv4, ip4(protoHopByHop, options(protoTCP, 8, tcp(ack)))),
		Want: seen4(0, 14+20),
	},
	{
		Name: "AH behind IPv4 is accounted by its number",
		Data: ethernet(typeIPv4, ip4(protoAH, authentication(protoTCP, tcp(ack)))),
		Want: seen4(51, 14+20),
	},
	{
		Name: "ICMPv6 behind IPv4 is a protocol by number",
		Data: ethernet(typeIPv4, ip4(protoICMPv6, icmp(128, 0))),
		Want: seen4(58, 14+20),
	},
}

// totalLength overwrites the total length of the IPv4 header behind Ethernet.
func totalLength(length uint16, frame []byte) []byte {
	return slices.Replace(frame, 16, 18, u16(length)...)
}
