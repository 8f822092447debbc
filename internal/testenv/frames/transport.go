// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"fmt"
	"slices"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

var transport = []Frame{
	{
		Name: "TCP over IPv4",
		Data: ethernet(typeIPv4, ip4(protoTCP, tcp(pshACK, []byte("payload")))),
		Want: isTCP(pshACK, seen4(6, 14+20+20)),
	},
	{
		Name: "TCP over IPv6",
		Data: ethernet(typeIPv6, ip6(protoTCP, tcp(pshACK, []byte("payload")))),
		Want: isTCP(pshACK, seen6(6, 14+40+20)),
	},
	{
		Name: "a TCP header with options",
		Data: ethernet(typeIPv4, ip4(protoTCP, tcpOffset(10, syn,
			[]byte{2, 4, 0x05, 0xb4},              // maximum segment size 1460
			[]byte{4, 2},                          // selective acknowledgement permitted
			[]byte{8, 10, 0, 0, 0, 1, 0, 0, 0, 0}, // timestamps
			[]byte{1},                             // no-operation
			[]byte{3, 3, 7}))),                    // window scale
		Want: isTCP(syn, seen4(6, 14+20+40)),
	},
	{
		Name: "TCP options that are missing are not missed",
		Data: ethernet(typeIPv6, ip6(protoTCP, tcpOffset(15, ack))),
		Want: isTCP(ack, seen6(6, 14+40+60)),
	},
	{
		Name: "a TCP data offset below 5 is taken for 5",
		Data: ethernet(typeIPv4, ip4(protoTCP, tcpOffset(4, ack))),
		Want: isTCP(ack, seen4(6, 14+20+20)),
	},
	{
		Name: "a TCP header one byte short",
		Data: without(1, ethernet(typeIPv4, ip4(protoTCP, tcp(ack)))),
		Want: unread(flow.ReasonShortTransport, typeIPv4),
	},
	{
		Name: "a TCP header over IPv6 one byte short",
		Data: without(1, ethernet(typeIPv6, ip6(protoTCP, tcp(ack)))),
		Want: unread(flow.ReasonShortTransport, typeIPv6),
	},
	{
		Name: "UDP over IPv4",
		Data: ethernet(typeIPv4, ip4(protoUDP, udp([]byte("payload")))),
		Want: ports(seen4(17, 14+20+8)),
	},
	{
		Name: "UDP over IPv6",
		Data: ethernet(typeIPv6, ip6(protoUDP, udp())),
		Want: ports(seen6(17, 14+40+8)),
	},
	{
		Name: "a UDP length of 0",
		Data: ethernet(typeIPv4, ip4(protoUDP, udpLength(0, udp([]byte("payload"))))),
		Want: ports(seen4(17, 14+20+8)),
	},
	{
		Name: "a UDP header one byte short",
		Data: without(1, ethernet(typeIPv4, ip4(protoUDP, udp()))),
		Want: unread(flow.ReasonShortTransport, typeIPv4),
	},
	{
		Name: "SCTP over IPv4",
		Data: ethernet(typeIPv4, ip4(protoSCTP, sctp([]byte{11, 0, 0, 4}))), // chunk COOKIE ACK
		Want: ports(seen4(132, 14+20+12)),
	},
	{
		Name: "SCTP over IPv6",
		Data: ethernet(typeIPv6, ip6(protoSCTP, sctp([]byte{11, 0, 0, 4}))),
		Want: ports(seen6(132, 14+40+12)),
	},
	{
		Name: "an SCTP header one byte short",
		Data: without(1, ethernet(typeIPv4, ip4(protoSCTP, sctp()))),
		Want: unread(flow.ReasonShortTransport, typeIPv4),
	},
	{
		Name: "an ICMP echo request",
		Data: ethernet(typeIPv4, ip4(protoICMP, icmp(8, 0))),
		Want: isICMP(8, 0, 1, 8<<8, seen4(1, 14+20+8)),
	},
	{
		Name: "an ICMP port unreachable is not accounted to the flow it quotes",
		Data: ethernet(typeIPv4, ip4(protoICMP, icmp(3, 3, ip4(protoUDP, udp())))),
		Want: isICMP(3, 3, 0, 0x0303, seen4(1, 14+20+8)),
	},
	{
		Name: "an ICMP header one byte short",
		Data: without(1, ethernet(typeIPv4, ip4(protoICMP, icmp(8, 0)))),
		Want: unread(flow.ReasonShortTransport, typeIPv4),
	},
	{
		Name: "an ICMPv6 echo reply",
		Data: ethernet(typeIPv6, ip6(protoICMPv6, icmp(129, 0))),
		Want: isICMP(129, 0, 128<<8, 1, seen6(58, 14+40+8)),
	},
	{
		Name: "an ICMPv6 multicast listener report behind a hop-by-hop header",
		Data: ethernet(typeIPv6, ip6(protoHopByHop, options(protoICMPv6, 8, icmp(143, 0)))), // RFC 3810 5
		Want: isICMP(143, 0, 0, 143<<8, seen6(58, 14+40+8+8)),
	},
	{
		Name: "an ICMPv6 header one byte short",
		Data: without(1, ethernet(typeIPv6, ip6(protoICMPv6, icmp(128, 0)))),
		Want: unread(flow.ReasonShortTransport, typeIPv6),
	},
}

// udpLength overwrites the length of a UDP header.
func udpLength(length uint16, header []byte) []byte {
	return slices.Replace(header, 4, 6, u16(length)...)
}

// icmpTypes is one frame for each type of ICMP and of ICMPv6, with code 5 and identifier 1.
func icmpTypes() (all []Frame) {
	v4 := map[byte][2]uint16{ // what stands for ports
		0: {8 << 8, 1}, 8: {1, 8 << 8}, 9: {10 << 8, 0}, 10: {0, 10 << 8}, 13: {1, 13 << 8}, 14: {13 << 8, 1},
		15: {1, 15 << 8}, 16: {15 << 8, 1}, 17: {1, 17 << 8}, 18: {17 << 8, 1},
	}
	v6 := map[byte][2]uint16{
		128: {1, 128 << 8}, 129: {128 << 8, 1}, 130: {0, 130 << 8}, 131: {130 << 8, 0}, 133: {0, 133 << 8}, 134: {133 << 8, 0},
		135: {0, 135 << 8}, 136: {135 << 8, 0}, 139: {0, 139 << 8}, 140: {139 << 8, 0}, 144: {1, 144 << 8}, 145: {144 << 8, 1},
	}
	for n := range 256 {
		typ := byte(n)
		ports4, ok := v4[typ]
		if !ok {
			ports4 = [2]uint16{0, uint16(typ)<<8 | 5}
		}
		ports6, ok := v6[typ]
		if !ok {
			ports6 = [2]uint16{0, uint16(typ)<<8 | 5}
		}
		all = append(all, Frame{
			Name: fmt.Sprintf("ICMP type %d", typ),
			Data: ethernet(typeIPv4, ip4(protoICMP, icmp(typ, 5))),
			Want: isICMP(typ, 5, ports4[0], ports4[1], seen4(1, 14+20+8)),
		}, Frame{
			Name: fmt.Sprintf("ICMPv6 type %d", typ),
			Data: ethernet(typeIPv6, ip6(protoICMPv6, icmp(typ, 5))),
			Want: isICMP(typ, 5, ports6[0], ports6[1], seen6(58, 14+40+8)),
		})
	}
	return all
}

// tcpFlags is one frame for each flag alone, and one with all of them.
func tcpFlags() []Frame {
	names := []string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"} // from the lowest bit; RFC 9293 3.1
	frames := []Frame{tcpFlag("every flag", 0xff), tcpFlag("no flag", 0)}
	for bit, name := range names {
		frames = append(frames, tcpFlag(name, 1<<bit))
	}
	return frames
}

func tcpFlag(name string, flags uint8) Frame {
	return Frame{
		Name: "TCP with " + name,
		Data: ethernet(typeIPv4, ip4(protoTCP, tcp(flags))),
		Want: isTCP(flags, seen4(6, 14+20+20)),
	}
}
