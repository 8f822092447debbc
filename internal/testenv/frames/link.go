// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package frames

import "github.com/ebpfpackets/ebpfpackets/internal/flow"

const (
	syn    = 0x02
	ack    = 0x10
	pshACK = 0x18
)

var link = []Frame{
	{
		Name: "an empty frame ends inside the Ethernet header",
		Data: []byte{},
		Want: unread(flow.ReasonShortEthernet, 0),
	},
	{
		Name: "an Ethernet header one byte short",
		Data: without(1, ethernet(typeIPv4)),
		Want: unread(flow.ReasonShortEthernet, 0),
	},
	{
		Name: "one inline tag",
		Data: ethernet(typeVLAN, vlan(100, typeIPv4, ip4(protoTCP, tcp(ack)))),
		Want: tagged(100, isTCP(ack, seen4(6, 14+4+20+20))),
	},
	{
		Name: "a priority tag, id 0, is a tag",
		Data: ethernet(typeVLAN, vlan(0xe000, typeIPv4, ip4(protoTCP, tcp(ack)))),
		Want: tagged(0, isTCP(ack, seen4(6, 14+4+20+20))),
	},
	{
		Name: "priority and drop eligible bits of a tag are not its id",
		Data: ethernet(typeVLAN, vlan(0xffff, typeIPv6, ip6(protoUDP, udp()))),
		Want: tagged(4095, ports(seen6(17, 14+4+40+8))),
	},
	{
		Name: "the outer of two inline tags names the VLAN",
		Data: ethernet(typeQinQ, vlan(200, typeVLAN, vlan(100, typeIPv4, ip4(protoUDP, udp())))),
		Want: tagged(200, ports(seen4(17, 14+8+20+8))),
	},
	{
		Name: "an outer priority tag hides the id of the inner",
		Data: ethernet(typeVLAN, vlan(0, typeVLAN, vlan(100, typeIPv6, ip6(protoTCP, tcp(syn))))),
		Want: tagged(0, isTCP(syn, seen6(6, 14+8+40+20))),
	},
	{
		Name: "three inline tags",
		Data: ethernet(typeQinQ, vlan(300, typeQinQ, vlan(200, typeVLAN,
			vlan(100, typeIPv4, ip4(protoUDP, udp()))))),
		Want: unread(flow.ReasonVLANDepth, 0),
	},
	{
		Name: "a third inline tag is too deep before it is too short",
		Data: ethernet(typeQinQ, vlan(300, typeQinQ, vlan(200, typeVLAN, []byte{0x00}))),
		Want: unread(flow.ReasonVLANDepth, 0),
	},
	{
		Name: "a first tag one byte short",
		Data: without(1, ethernet(typeVLAN, vlan(100, typeIPv4))),
		Want: unread(flow.ReasonShortVLAN, 0),
	},
	{
		Name: "a second tag one byte short",
		Data: without(1, ethernet(typeQinQ, vlan(200, typeVLAN, vlan(100, typeIPv4)))),
		Want: unread(flow.ReasonShortVLAN, 0),
	},
	{
		Name: "an ARP request",
		Data: ethernet(0x0806,
			u16(1),        // hardware type Ethernet
			u16(typeIPv4), // protocol type
			[]byte{6, 4},  // address lengths
			u16(1),        // operation request
			[]byte{0x02, 0, 0, 0, 0, 0x0a, 192, 0, 2, 1}, // sender
			[]byte{0, 0, 0, 0, 0, 0, 192, 0, 2, 2}),      // target
		Want: unread(flow.ReasonARP, 0x0806),
	},
	{
		Name: "an ARP type with nothing behind it",
		Data: ethernet(0x0806),
		Want: unread(flow.ReasonARP, 0x0806),
	},
	{
		Name: "a RARP request in a VLAN",
		Data: ethernet(typeVLAN, vlan(100, 0x8035,
			[]byte{0, 1, 0x08, 0x00, 6, 4}, // as of ARP
			u16(3),                         // operation reverse request
			[]byte{0x02, 0, 0, 0, 0, 0x0a, 0, 0, 0, 0},   // sender
			[]byte{0x02, 0, 0, 0, 0, 0x0a, 0, 0, 0, 0})), // target
		Want: unread(flow.ReasonARP, 0x8035),
	},
	{
		Name: "a spanning tree frame has a length, not a type",
		Data: ethernet(38, []byte{0x42, 0x42, 0x03}, make([]byte, 35)), // LLC: STP, STP, unnumbered
		Want: unread(flow.ReasonLLC, 0),
	},
	{
		Name: "1535 is the largest length",
		Data: ethernet(1535),
		Want: unread(flow.ReasonLLC, 0),
	},
	{
		Name: "1536 is the smallest type",
		Data: ethernet(1536),
		Want: unread(flow.ReasonEtherType, 1536),
	},
	{
		Name: "a length behind a tag",
		Data: ethernet(typeVLAN, vlan(100, 3, []byte{0x42, 0x42, 0x03})),
		Want: unread(flow.ReasonLLC, 0),
	},
	{
		Name: "LLDP behind a tag keeps its own type",
		Data: ethernet(typeVLAN, vlan(100, 0x88cc, []byte{0, 0})), // end of LLDPDU
		Want: unread(flow.ReasonEtherType, 0x88cc),
	},
	{
		Name: "0x9100 is no tag",
		Data: ethernet(0x9100, vlan(100, typeIPv4, ip4(protoTCP, tcp(ack)))),
		Want: unread(flow.ReasonEtherType, 0x9100),
	},
}

// Offloaded holds frames whose outermost tag the device has taken out of the bytes. BPF_PROG_TEST_RUN cannot make such
// a packet; a tap device can.
var Offloaded = []Frame{
	{
		Name:    "an offloaded tag",
		Tagged:  true,
		VLANTCI: 0xe000 | 300,
		Data:    ethernet(typeIPv4, ip4(protoTCP, tcp(ack))),
		Want:    tagged(300, isTCP(ack, seen4(6, 14+20+20))),
	},
	{
		Name:    "an offloaded priority tag",
		Tagged:  true,
		VLANTCI: 0xe000,
		Data:    ethernet(typeIPv6, ip6(protoUDP, udp())),
		Want:    tagged(0, ports(seen6(17, 14+40+8))),
	},
	{
		Name:    "an offloaded tag is outside two inline tags",
		Tagged:  true,
		VLANTCI: 300,
		Data:    ethernet(typeQinQ, vlan(200, typeVLAN, vlan(100, typeIPv4, ip4(protoUDP, udp())))),
		Want:    tagged(300, ports(seen4(17, 14+8+20+8))),
	},
	{
		Name:    "an offloaded tag and three inline tags",
		Tagged:  true,
		VLANTCI: 400,
		Data: ethernet(typeQinQ, vlan(300, typeQinQ, vlan(200, typeVLAN,
			vlan(100, typeIPv4, ip4(protoUDP, udp()))))),
		Want: unread(flow.ReasonVLANDepth, 0),
	},
	{
		Name:    "an offloaded tag is not kept when the frame is not accounted",
		Tagged:  true,
		VLANTCI: 300,
		Data:    ethernet(0x0806),
		Want:    unread(flow.ReasonARP, 0x0806),
	},
}

// l3 frames come from devices without link header: tun, wireguard, ipip.
var l3 = []Frame{
	{
		Name: "IPv4 without link header",
		L3:   true,
		Data: ip4(protoTCP, tcp(ack)),
		Want: noLink(isTCP(ack, seen4(6, 20+20))),
	},
	{
		Name: "IPv6 without link header",
		L3:   true,
		Data: ip6(protoUDP, udp()),
		Want: noLink(ports(seen6(17, 40+8))),
	},
	{
		Name: "an empty frame without link header",
		L3:   true,
		Data: []byte{},
		Want: unread(flow.ReasonNotIP, 0),
	},
	{
		Name: "garbage without link header",
		L3:   true,
		Data: ethernet(typeIPv4, ip4(protoTCP, tcp(ack))), // begins with 0x02: version 0
		Want: unread(flow.ReasonNotIP, 0),
	},
	{
		Name: "version 5 without link header",
		L3:   true,
		Data: ip4Header(0x55, dontFragment, protoTCP, tcp(ack)),
		Want: unread(flow.ReasonNotIP, 0),
	},
	{
		Name: "IPv4 without link header one byte short",
		L3:   true,
		Data: without(1, ip4(protoTCP)),
		Want: unread(flow.ReasonShortIPv4, 0),
	},
	{
		Name: "IPv4 without link header and a header length of 16",
		L3:   true,
		Data: ip4Header(0x44, dontFragment, protoTCP, tcp(ack)),
		Want: unread(flow.ReasonBadIPv4, 0),
	},
	{
		Name: "IPv6 without link header one byte short",
		L3:   true,
		Data: without(1, ip6(protoTCP)),
		Want: unread(flow.ReasonShortIPv6, 0),
	},
}
