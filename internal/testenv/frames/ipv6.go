// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"slices"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

var ipv6 = []Frame{
	{
		Name: "an IPv6 header one byte short",
		Data: without(1, ethernet(typeIPv6, ip6(protoNoNext))),
		Want: unread(flow.ReasonShortIPv6, typeIPv6),
	},
	{
		Name: "version 4 behind the type of IPv6",
		Data: ethernet(typeIPv6, ip4(protoTCP, tcp(ack))),
		Want: unread(flow.ReasonBadIPv6, typeIPv6),
	},
	{
		Name: "an IPv6 header behind a tag one byte short",
		Data: without(1, ethernet(typeVLAN, vlan(100, typeIPv6, ip6(protoNoNext)))),
		Want: unread(flow.ReasonShortIPv6, typeIPv6),
	},
	{
		Name: "an IPv6 header is too short before it is bad",
		Data: without(1, ethernet(typeIPv6, ip4(protoTCP, tcp(ack)))),
		Want: unread(flow.ReasonShortIPv6, typeIPv6),
	},
	{
		Name: "a hop-by-hop header",
		Data: ethernet(typeIPv6, ip6(protoHopByHop, options(protoTCP, 8, tcp(ack)))),
		Want: isTCP(ack, seen6(6, 14+40+8+20)),
	},
	{
		Name: "a jumbogram has its length in an option",
		Data: payloadLength(0, ethernet(typeIPv6, ip6(protoHopByHop, jumbo(protoTCP, 70000, tcp(ack))))),
		Want: isTCP(ack, seen6(6, 14+40+8+20)),
	},
	{
		Name: "a jumbogram of UDP has no length at all, but in its option", // RFC 2675 4
		Data: payloadLength(0, ethernet(typeIPv6, ip6(protoHopByHop, jumbo(protoUDP, 70000, udpLength(0, udp()))))),
		Want: ports(seen6(17, 14+40+8+8)),
	},
	{
		Name: "a jumbo option beside a payload length", // RFC 2675 3: an error
		Data: ethernet(typeIPv6, ip6(protoHopByHop, jumbo(protoTCP, 70000, tcp(ack)))),
		Want: isTCP(ack, seen6(6, 14+40+8+20)),
	},
	{
		Name: "a payload length of 0 and no option that says another",
		Data: payloadLength(0, ethernet(typeIPv6, ip6(protoTCP, tcp(ack)))),
		Want: isTCP(ack, seen6(6, 14+40+20)),
	},
	{
		Name: "a payload length of 0 and a hop-by-hop header without the option",
		Data: payloadLength(0, ethernet(typeIPv6, ip6(protoHopByHop, options(protoUDP, 8, udp())))),
		Want: ports(seen6(17, 14+40+8+8)),
	},
	{
		Name: "a destination options header of three words",
		Data: ethernet(typeIPv6, ip6(protoDestination, options(protoUDP, 24, udp()))),
		Want: ports(seen6(17, 14+40+24+8)),
	},
	{
		Name: "a routing header",
		Data: ethernet(typeIPv6, ip6(protoRouting, routing(protoTCP, tcp(ack)))),
		Want: isTCP(ack, seen6(6, 14+40+24+20)),
	},
	{
		Name: "an AH counts words of four bytes",
		Data: ethernet(typeIPv6, ip6(protoAH, authentication(protoTCP, tcp(ack)))),
		Want: isTCP(ack, seen6(6, 14+40+24+20)),
	},
	{
		Name: "a mobility header",
		Data: ethernet(typeIPv6, ip6(protoMobility, mobility(protoUDP, udp()))),
		Want: ports(seen6(17, 14+40+8+8)),
	},
	{
		Name: "a HIP header",
		Data: ethernet(typeIPv6, ip6(protoHIP, hip(protoUDP, udp()))),
		Want: ports(seen6(17, 14+40+40+8)),
	},
	{
		Name: "a shim6 header",
		Data: ethernet(typeIPv6, ip6(protoShim6, shim6(protoUDP, udp()))),
		Want: ports(seen6(17, 14+40+8+8)),
	},
	{
		Name: "an atomic fragment is a first fragment",
		Data: ethernet(typeIPv6, ip6(protoFragment, fragment(protoUDP, 0, false, udp()))), // RFC 6946
		Want: ports(seen6(17, 14+40+8+8)),
	},
	{
		Name: "a first IPv6 fragment",
		Data: ethernet(typeIPv6, ip6(protoFragment, fragment(protoTCP, 0, true, tcp(syn)))),
		Want: isTCP(syn, seen6(6, 14+40+8+20)),
	},
	{
		Name: "a tiny first IPv6 fragment hides its ports",
		Data: ethernet(typeIPv6, ip6(protoFragment, fragment(protoTCP, 0, true, tcp(syn)[:8]))),
		Want: unread(flow.ReasonShortTransport, typeIPv6),
	},
	{
		Name: "a later IPv6 fragment that looks like a TCP header",
		Data: ethernet(typeIPv6, ip6(protoFragment, fragment(protoTCP, 181, true, tcp(syn)))), // offset 1448
		Want: later(seen6(6, 14+40+8)),
	},
	{
		Name: "the highest bit of the IPv6 fragment offset alone",
		Data: ethernet(typeIPv6, ip6(protoFragment, fragment(protoUDP, 0x1000, false, udp()))),
		Want: later(seen6(17, 14+40+8)),
	},
	{
		Name: "a later IPv6 fragment at the smallest offset, the last",
		Data: ethernet(typeIPv6, ip6(protoFragment, fragment(protoUDP, 1, false, []byte{0xff}))),
		Want: later(seen6(17, 14+40+8)),
	},
	{
		Name: "a later IPv6 fragment that overlaps the TCP header",                              // RFC 5722: flags are not taken from it
		Data: ethernet(typeIPv6, ip6(protoFragment, fragment(protoTCP, 1, true, tcp(syn)[8:]))), // offset 8: from the acknowledgement number on
		Want: later(seen6(6, 14+40+8)),
	},
	{
		Name: "a later IPv6 fragment ends the chain at an extension header",
		Data: ethernet(typeIPv6, ip6(protoFragment, fragment(protoDestination, 181, true, options(protoUDP, 8, udp())))),
		Want: later(seen6(60, 14+40+8)),
	},
	{
		Name: "a later IPv6 fragment behind a hop-by-hop header",
		Data: ethernet(typeIPv6, ip6(protoHopByHop, options(protoFragment, 8, fragment(protoTCP, 181, true, tcp(syn))))),
		Want: later(seen6(6, 14+40+8+8)),
	},
	{
		Name: "the reserved byte of a fragment header is no length",
		Data: ethernet(typeIPv6, ip6(protoFragment,
			[]byte{protoUDP, 0xff}, // next header, reserved
			u16(0x0006),            // offset 0, both reserved bits, no more
			[]byte{0, 0, 0, 0x1d},  // identification
			udp())),
		Want: ports(seen6(17, 14+40+8+8)),
	},
	{
		Name: "eight extension headers, the most",
		Data: ethernet(typeIPv6, ip6(protoHopByHop,
			options(protoDestination, 8,
				options(protoRouting, 16,
					routing(protoFragment,
						fragment(protoAH, 0, true,
							authentication(protoMobility,
								mobility(protoHIP,
									hip(protoShim6,
										shim6(protoTCP, tcp(pshACK))))))))))),
		Want: isTCP(pshACK, seen6(6, 14+40+8+16+24+8+24+8+40+8+20)),
	},
	{
		Name: "nine extension headers",
		Data: ethernet(typeIPv6, ip6(protoDestination, destinations(9, protoTCP, tcp(ack)))),
		Want: unread(flow.ReasonIPv6ExtensionDepth, typeIPv6),
	},
	{
		Name: "a ninth extension header is too deep before it is too short",
		Data: ethernet(typeIPv6, ip6(protoDestination, destinations(8, protoDestination))),
		Want: unread(flow.ReasonIPv6ExtensionDepth, typeIPv6),
	},
	{
		Name: "a ninth extension header is too deep even if it is a later fragment",
		Data: ethernet(typeIPv6, ip6(protoDestination, destinations(8, protoFragment, fragment(protoTCP, 181, true)))),
		Want: unread(flow.ReasonIPv6ExtensionDepth, typeIPv6),
	},
	{
		Name: "an eighth extension header that is a later fragment",
		Data: ethernet(typeIPv6, ip6(protoDestination, destinations(7, protoFragment, fragment(protoTCP, 181, true)))),
		Want: later(seen6(6, 14+40+7*8+8)),
	},
	{
		Name: "an extension header one byte short",
		Data: without(1, ethernet(typeIPv6, ip6(protoHopByHop, options(protoGRE, 8)))),
		Want: unread(flow.ReasonShortIPv6Extension, typeIPv6),
	},
	{
		Name: "a fragment header one byte short",
		Data: without(1, ethernet(typeIPv6, ip6(protoFragment, fragment(protoGRE, 181, false)))),
		Want: unread(flow.ReasonShortIPv6Extension, typeIPv6),
	},
	{
		Name: "an extension header whose end is missing is noticed by the next one",
		Data: without(1, ethernet(typeIPv6, ip6(protoHopByHop, options(protoDestination, 24)))),
		Want: unread(flow.ReasonShortIPv6Extension, typeIPv6),
	},
	{
		Name: "an extension header whose end is missing is noticed by the transport",
		Data: without(1, ethernet(typeIPv6, ip6(protoHopByHop, options(protoUDP, 24)))),
		Want: unread(flow.ReasonShortTransport, typeIPv6),
	},
	{
		Name: "an extension header whose end is missing is not noticed by a protocol by number",
		Data: without(16, ethernet(typeIPv6, ip6(protoHopByHop, options(protoGRE, 24)))),
		Want: seen6(47, 14+40+24),
	},
	{
		Name: "the longest extension header, as short as can be",
		Data: ethernet(typeIPv6, ip6(protoHopByHop, []byte{protoNoNext, 0xff, 1, 0xff, 0, 0, 0, 0})), // next header, length, PadN
		Want: seen6(59, 14+40+256*8),
	},
	{
		Name: "an AH of the least length has no check value",
		Data: ethernet(typeIPv6, ip6(protoAH, []byte{protoUDP, 0, 0, 0, 0, 0, 0x10, 0x01}, udp())), // 8 bytes
		Want: ports(seen6(17, 14+40+8+8)),
	},
	{
		Name: "ESP ends the chain",
		Data: ethernet(typeIPv6, ip6(protoHopByHop, options(protoESP, 8, []byte{0, 0, 0x10, 0x01, 0, 0, 0, 1}))), // index, sequence number
		Want: seen6(50, 14+40+8),
	},
	{
		Name: "no-next-header ends the chain with nothing behind it",
		Data: ethernet(typeIPv6, ip6(protoNoNext)),
		Want: seen6(59, 14+40),
	},
	{
		Name: "a protocol by number behind IPv6",
		Data: ethernet(typeIPv6, ip6(41, ip6(protoTCP, tcp(ack)))), // IPv6 in IPv6
		Want: seen6(41, 14+40),
	},
	{
		Name: "ICMP behind IPv6 is a protocol by number",
		Data: ethernet(typeIPv6, ip6(protoICMP, icmp(8, 0))),
		Want: seen6(1, 14+40),
	},
}

// payloadLength overwrites the payload length of the IPv6 header behind Ethernet.
func payloadLength(length uint16, frame []byte) []byte {
	return slices.Replace(frame, 18, 20, u16(length)...)
}

// destinations is n destination options headers of 8 bytes, then next.
func destinations(n int, next byte, payload ...[]byte) []byte {
	frame := options(next, 8, payload...)
	for range n - 1 {
		frame = options(protoDestination, 8, frame)
	}
	return frame
}
