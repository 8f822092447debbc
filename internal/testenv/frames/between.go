// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package frames

import "github.com/ebpfpackets/ebpfpackets/internal/flow"

// mpls frames have labels between Ethernet and what they carry.
var mpls = []Frame{
	{
		Name: "IPv4 behind one label",
		Data: ethernet(typeMPLS, bottom(16, ip4(protoTCP, tcp(ack)))),
		Want: isTCP(ack, seen4(6, 14+4+20+20)),
	},
	{
		Name: "IPv6 behind one label",
		Data: ethernet(typeMPLS, bottom(16, ip6(protoUDP, udp()))),
		Want: ports(seen6(17, 14+4+40+8)),
	},
	{
		Name: "a label that upstream chose",
		Data: ethernet(0x8848, bottom(16, ip4(protoUDP, udp()))),
		Want: ports(seen4(17, 14+4+20+8)),
	},
	{
		Name: "traffic class and TTL of a label do not end the stack",
		Data: ethernet(typeMPLS, []byte{0xff, 0xff, 0xfe, 0xff}, bottom(16, ip4(protoTCP, tcp(syn)))),
		Want: isTCP(syn, seen4(6, 14+8+20+20)),
	},
	{
		Name: "eight labels, the most",
		Data: ethernet(typeMPLS, label(16), label(17), label(18), label(19), label(20), label(21), label(22),
			bottom(23, ip4Options(1, protoUDP, udp()))),
		Want: ports(seen4(17, 14+32+24+8)),
	},
	{
		Name: "nine labels",
		Data: ethernet(typeMPLS, label(16), label(17), label(18), label(19), label(20), label(21), label(22), label(23),
			bottom(24, ip4(protoUDP, udp()))),
		Want: unread(flow.ReasonMPLSDepth, 0),
	},
	{
		Name: "eight labels that go on are too deep before they are too short",
		Data: ethernet(typeMPLS, label(16), label(17), label(18), label(19), label(20), label(21), label(22), label(23)),
		Want: unread(flow.ReasonMPLSDepth, 0),
	},
	{
		Name: "labels behind two tags",
		Data: ethernet(typeQinQ, vlan(200, typeVLAN, vlan(100, typeMPLS, label(16), bottom(17, ip6(protoTCP, tcp(ack)))))),
		Want: tagged(200, isTCP(ack, seen6(6, 14+8+8+40+20))),
	},
	{
		Name: "a later fragment behind a label",
		Data: ethernet(typeMPLS, bottom(16, ip4Fragment(185, protoUDP, make([]byte, 8)))),
		Want: later(seen4(17, 14+4+20)),
	},
	{
		Name: "a pseudowire with a control word",
		Data: ethernet(typeMPLS, bottom(16, make([]byte, 4), ethernet(typeIPv4, ip4(protoTCP, tcp(ack))))), // RFC 4385 3
		Want: unread(flow.ReasonEtherType, typeMPLS),
	},
	{
		Name: "a pseudowire without a control word",
		Data: ethernet(typeMPLS, bottom(16, ethernet(typeIPv4, ip4(protoTCP, tcp(ack))))), // begins with 0x02
		Want: unread(flow.ReasonEtherType, typeMPLS),
	},
	{
		Name: "the associated channel of a label switched path",
		Data: ethernet(typeMPLS, bottom(13, []byte{0x10, 0x00, 0x00, 0x07})), // RFC 5586 4; BFD
		Want: unread(flow.ReasonEtherType, typeMPLS),
	},
	{
		Name: "a label that upstream chose keeps its own type",
		Data: ethernet(0x8848, bottom(16, []byte{0})),
		Want: unread(flow.ReasonEtherType, 0x8848),
	},
	{
		Name: "version 4 behind a label and a header length of 16",
		Data: ethernet(typeMPLS, bottom(16, ip4Header(0x44, dontFragment, protoTCP, tcp(ack)))),
		Want: unread(flow.ReasonBadIPv4, typeIPv4),
	},
	{
		Name: "a label one byte short",
		Data: without(1, ethernet(typeMPLS, bottom(16))),
		Want: unread(flow.ReasonShortMPLS, 0),
	},
	{
		Name: "a stack without its bottom",
		Data: ethernet(typeMPLS, label(16), label(17)),
		Want: unread(flow.ReasonShortMPLS, 0),
	},
	{
		Name: "nothing behind the labels",
		Data: ethernet(typeMPLS, label(16), bottom(17)),
		Want: unread(flow.ReasonShortMPLS, 0),
	},
	{
		Name: "IPv6 behind a label one byte short",
		Data: without(1, ethernet(typeMPLS, bottom(16, ip6(protoNoNext)))),
		Want: unread(flow.ReasonShortIPv6, typeIPv6),
	},
}

// ppp frames are PPPoE: of a session, and the discovery of one.
var ppp = []Frame{
	{
		Name: "IPv4 in a PPPoE session",
		Data: ethernet(typePPP, pppoe(u16(pppIPv4), ip4(protoTCP, tcp(ack)))),
		Want: isTCP(ack, seen4(6, 14+8+20+20)),
	},
	{
		Name: "IPv6 in a PPPoE session",
		Data: ethernet(typePPP, pppoe(u16(pppIPv6), ip6(protoUDP, udp()))),
		Want: ports(seen6(17, 14+8+40+8)),
	},
	{
		Name: "a compressed protocol field",
		Data: ethernet(typePPP, pppoe([]byte{pppIPv4}, ip4(protoTCP, tcp(ack)))),
		Want: isTCP(ack, seen4(6, 14+7+20+20)),
	},
	{
		Name: "a compressed protocol field before IPv6",
		Data: ethernet(typePPP, pppoe([]byte{pppIPv6}, ip6(protoUDP, udp()))),
		Want: ports(seen6(17, 14+7+40+8)),
	},
	{
		Name: "a PPPoE session in a VLAN",
		Data: ethernet(typeVLAN, vlan(7, typePPP, pppoe(u16(pppIPv4), ip4(protoUDP, udp())))),
		Want: tagged(7, ports(seen4(17, 14+4+8+20+8))),
	},
	{
		Name: "link control in a PPPoE session",
		Data: ethernet(typePPP, pppoe(u16(0xc021), []byte{9, 1, 0, 8, 0, 0, 0, 0})), // echo request; RFC 1661 5.8
		Want: unread(flow.ReasonEtherType, typePPP),
	},
	{
		Name: "an odd byte that is no IP",
		Data: ethernet(typePPP, pppoe([]byte{0x2d, 0x21}, make([]byte, 20))), // compressed TCP; RFC 1332 4
		Want: unread(flow.ReasonEtherType, typePPP),
	},
	{
		Name: "PPPoE of another type",
		Data: ethernet(typePPP, []byte{0x12}, pppoe(u16(pppIPv4), ip4(protoTCP, tcp(ack)))[1:]),
		Want: unread(flow.ReasonEtherType, typePPP),
	},
	{
		Name: "PPPoE with a code that is not session data",
		Data: ethernet(typePPP, []byte{0x11, 0xa7}, pppoe(u16(pppIPv4), ip4(protoTCP, tcp(ack)))[2:]),
		Want: unread(flow.ReasonEtherType, typePPP),
	},
	{
		Name: "PPPoE discovery is another type",
		Data: ethernet(0x8863, []byte{0x11, 0x09}, make([]byte, 4)), // initiation; RFC 2516 5.1
		Want: unread(flow.ReasonEtherType, 0x8863),
	},
	{
		Name: "IPv6 where PPP says IPv4",
		Data: ethernet(typePPP, pppoe(u16(pppIPv4), ip6(protoUDP, udp()))),
		Want: unread(flow.ReasonBadIPv4, typeIPv4),
	},
	{
		Name: "a PPPoE header one byte short",
		Data: without(1, ethernet(typePPP, pppoe())),
		Want: unread(flow.ReasonShortPPPoE, 0),
	},
	{
		Name: "a PPP protocol one byte short",
		Data: without(1, ethernet(typePPP, pppoe(u16(pppIPv4)))),
		Want: unread(flow.ReasonShortPPPoE, 0),
	},
	{
		Name: "a compressed protocol field and nothing behind it",
		Data: ethernet(typePPP, pppoe([]byte{pppIPv4})),
		Want: unread(flow.ReasonShortPPPoE, 0),
	},
	{
		Name: "IPv4 in a PPPoE session one byte short",
		Data: without(1, ethernet(typePPP, pppoe(u16(pppIPv4), ip4(protoTCP)))),
		Want: unread(flow.ReasonShortIPv4, typeIPv4),
	},
}
