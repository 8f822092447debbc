// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
)

// The functions below say what is expected, nested as the builders are. They repeat the builders' numbers on purpose:
// nothing here is read from bytes.

// seen4 is an accounted IPv4 packet behind Ethernet.
func seen4(proto uint8, headerLen uint32) packet.Packet {
	return packet.Packet{
		Reason: flow.ReasonAccounted,
		Key: flow.Key{
			SrcAddr: flow.Addr{12: 192, 13: 0, 14: 2, 15: 1},
			DstAddr: flow.Addr{12: 198, 13: 51, 14: 100, 15: 2},
			Proto:   proto,
		},
		EtherType: 0x0800,
		HeaderLen: headerLen,
		TTL:       64,
		DSCP:      10,
		ECN:       2,
	}
}

// seen6 is an accounted IPv6 packet behind Ethernet.
func seen6(proto uint8, headerLen uint32) packet.Packet {
	return packet.Packet{
		Reason: flow.ReasonAccounted,
		Key: flow.Key{
			SrcAddr: flow.Addr{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 15: 0x01},
			DstAddr: flow.Addr{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 14: 0x10, 15: 0x02},
			Proto:   proto,
			IPv6:    true,
		},
		EtherType: 0x86dd,
		HeaderLen: headerLen,
		TTL:       63,
		DSCP:      10,
		ECN:       2,
	}
}

func ports(p packet.Packet) packet.Packet {
	p.Key.SrcPort = 49152
	p.Key.DstPort = 443
	return p
}

func isTCP(flags uint8, p packet.Packet) packet.Packet {
	p = ports(p)
	p.HasTCP = true
	p.TCPFlags = flags
	p.TCPSeq = 0x01020304
	p.TCPAck = 0x0a0b0c0d
	p.TCPWindow = 0xfaf0
	return p
}

// isICMP is a message whose ports, see flow.ICMPPorts, are src and dst.
func isICMP(typ, code uint8, src, dst uint16, p packet.Packet) packet.Packet {
	p.Key.SrcPort, p.Key.DstPort = src, dst
	p.HasICMP = true
	p.ICMPType = typ
	p.ICMPCode = code
	return p
}

func later(p packet.Packet) packet.Packet {
	p.Key.LaterFragment = true
	return p
}

func tagged(id uint16, p packet.Packet) packet.Packet {
	p.Key.Tagged = true
	p.Key.VLAN = id
	return p
}

func noLink(p packet.Packet) packet.Packet {
	p.EtherType = 0
	return p
}

// unread is a frame that is not accounted; etherType is 0 if decoding did not come that far.
func unread(reason flow.Reason, etherType uint16) packet.Packet {
	return packet.Packet{Reason: reason, EtherType: etherType}
}
