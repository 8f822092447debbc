// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package frames

import "slices"

// Carrier is a frame with traffic in it. What is before Payload are headers, and all else is none of a record's business.
type Carrier struct {
	Frame
	Payload int
}

// Traffic is what carriers carry: bytes that no header of the corpus has.
var Traffic = []byte("\xf1\xe7\xd9\xc5\xb3\xa9\x9b\x8d\xf3\xe5\xdb\xc7\xb5\xad\x97\x83\xf1\xe7\xd9\xc5\xb3\xa9\x9b\x8d\xf3\xe5\xdb\xc7\xb5\xad\x97\x83")

// Carriers holds a frame of everything that details are read of.
var Carriers = slices.Concat(carriersLink(), carriersIP(), carriersTCP(), carriersICMP(), carriersGroups(), carriersSCTP(), carriersTunnels(), carriersTrailers())

// carry builds a frame whose last bytes, so many, are traffic.
func carry(name string, traffic int, frame []byte) Carrier {
	return Carrier{Frame{Name: name, Data: frame}, len(frame) - traffic}
}

const (
	typeARP  = 0x0806
	typeRARP = 0x8035
	typeLLDP = 0x88cc
)

func carriersLink() []Carrier {
	offloadedARP := carry("ARP behind an offloaded tag", 18, ethernet(typeARP, arp(1, [6]byte{}), Traffic[:18]))
	offloadedARP.Tagged, offloadedARP.VLANTCI = true, 5<<13|100
	third := carry("three inline tags and traffic", len(Traffic), ethernet(typeVLAN, vlan(1, typeVLAN, vlan(2, typeVLAN, Traffic))))
	offloaded := carry("an offloaded tag outside of an inline one", len(Traffic), ethernet(typeVLAN, vlan(2<<13|200, typeIPv4, ip4(protoUDP, udp(Traffic)))))
	offloaded.Tagged, offloaded.VLANTCI = true, 5<<13|100
	raw := carry("UDP without link header", len(Traffic), ip4(protoUDP, udp(Traffic)))
	raw.L3 = true
	return []Carrier{
		carry("ARP who-has, with padding", 18, ethernet(typeARP, arp(1, [6]byte{}), Traffic[:18])),
		carry("ARP is-at, with padding", 18, ethernet(typeARP, arp(2, [6]byte{2, 0, 0, 0, 0, 0x0b}), Traffic[:18])),
		carry("ARP probe of another operation", 18, ethernet(typeARP, arp(9, [6]byte{}), Traffic[:18])),
		carry("RARP request", 18, ethernet(typeRARP, arp(3, [6]byte{2, 0, 0, 0, 0, 0x0a}), Traffic[:18])),
		carry("ARP behind a tag", 14, ethernet(typeVLAN, vlan(5<<13|100, typeARP, arp(1, [6]byte{}), Traffic[:14]))),
		offloadedARP,
		carry("ARP for another kind of hardware", len(Traffic), ethernet(typeARP, []byte{0, 6, 8, 0, 8, 4, 0, 1}, Traffic)),
		carry("ARP that is cut", 10, ethernet(typeARP, []byte{0, 1, 8, 0, 6, 4, 0, 1}, Traffic[:10])),
		carry("LLC", len(Traffic), ethernet(uint16(len(Traffic)), Traffic)),
		carry("LLDP", len(Traffic), ethernet(typeLLDP, Traffic)),
		carry("two MPLS labels", len(Traffic), ethernet(typeMPLS, []byte{0, 1, 0x04, 64, 0, 2, 0x1b, 63}, make([]byte, 4), Traffic)), // a pseudowire; RFC 4385 3
		carry("QinQ with priorities", len(Traffic), ethernet(typeQinQ, vlan(5<<13|100, typeVLAN, vlan(2<<13|200, typeIPv4, ip4(protoUDP, udp(Traffic)))))),
		third, offloaded, raw,
	}
}

// arp is a packet of 192.0.2.1, 02:00:00:00:00:0a, about 192.0.2.2.
func arp(operation uint16, target [6]byte) []byte {
	return slices.Concat([]byte{0, 1, 8, 0, 6, 4}, u16(operation), // Ethernet, IPv4, their lengths
		[]byte{2, 0, 0, 0, 0, 0x0a, 192, 0, 2, 1}, target[:], []byte{192, 0, 2, 2})
}

func carriersIP() []Carrier {
	recordRoute := []byte{7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0} // 2 addresses, end of list
	alert := []byte{148, 4, 0, 0}
	padded := carry("UDP with an Ethernet trailer", len(Traffic), slices.Concat(ethernet(typeIPv4, ip4(protoUDP, udp())), Traffic))
	return []Carrier{
		carry("IPv4 with record route", len(Traffic), ethernet(typeIPv4, ip4Header(0x48, dontFragment, protoUDP, recordRoute, udp(Traffic)))),
		carry("IPv4 with router alert and an option longer than its header", len(Traffic), ethernet(typeIPv4,
			ip4Header(0x47, dontFragment, protoUDP, alert, []byte{7, 40, 0, 0}, udp(Traffic)))),
		carry("IPv4 with router alert", len(Traffic), ethernet(typeIPv4, ip4Header(0x46, dontFragment, protoUDP, alert, udp(Traffic)))),
		carry("a first IPv4 fragment with traffic", len(Traffic), ethernet(typeIPv4, ip4Fragment(moreFragments, protoUDP, udp(Traffic)))),
		carry("a later IPv4 fragment with traffic", len(Traffic), ethernet(typeIPv4, ip4Fragment(185, protoTCP, Traffic))),
		carry("a later IPv6 fragment with traffic", len(Traffic), ethernet(typeIPv6, ip6(protoFragment, fragment(protoUDP, 185, true, Traffic)))),
		carry("a first IPv6 fragment with traffic", len(Traffic), ethernet(typeIPv6, ip6(protoFragment, fragment(protoUDP, 0, true, udp(Traffic))))),
		carry("three IPv6 extensions", len(Traffic), ethernet(typeIPv6,
			ip6(protoHopByHop, options(protoRouting, 16, routing(protoDestination, options(protoUDP, 8, udp(Traffic))))))),
		carry("ESP", len(Traffic), ethernet(typeIPv4, ip4(protoESP, Traffic))),
		carry("a protocol by number", len(Traffic), ethernet(typeIPv6, ip6(253, Traffic))),
		carry("UDP over IPv4 with traffic", len(Traffic), ethernet(typeIPv4, ip4(protoUDP, udp(Traffic)))),
		carry("UDP over IPv6 with traffic", len(Traffic), ethernet(typeIPv6, ip6(protoUDP, udp(Traffic)))),
		padded,
	}
}

func carriersTCP() []Carrier {
	syn := []byte{2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8, 1, 3, 3, 7}
	sack := slices.Concat([]byte{1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8, 1, 1, 5, 18}, // two blocks
		[]byte{0, 0, 0x10, 0, 0, 0, 0x20, 0, 0, 0, 0x30, 0, 0, 0, 0x40, 0})
	odd := []byte{253, 6, 0xf9, 0x89, 1, 2, 34, 2, 30, 4, 0x50, 1, 77, 2, 0, 0} // experiment, fast open, multipath, unassigned, end
	return []Carrier{
		carry("a SYN with every usual option, and data", len(Traffic), ethernet(typeIPv4, ip4(protoTCP, tcpOffset(10, 2, syn, Traffic)))),
		carry("selective acknowledgements", len(Traffic), ethernet(typeIPv6, ip6(protoTCP, tcpOffset(13, 0x10, sack, Traffic)))),
		carry("urgent data and unusual options", len(Traffic), ethernet(typeIPv4, ip4(protoTCP, tcpOffset(9, 0x38, odd, Traffic)))),
		carry("TCP without options", len(Traffic), ethernet(typeIPv4, ip4(protoTCP, tcp(0x18, Traffic)))),
		carry("a TCP option that is longer than its header", len(Traffic), ethernet(typeIPv4, ip4(protoTCP, tcpOffset(6, 0x10, []byte{2, 40, 1, 1}, Traffic)))),
	}
}

// message is an ICMP header with 4 bytes of its own.
func message(typ, code byte, own []byte, payload ...[]byte) []byte {
	return slices.Concat([]byte{typ, code, 0, 0}, own, slices.Concat(payload...))
}

func carriersICMP() []Carrier {
	zero := make([]byte, 4)
	target := []byte{0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 2}
	destination := []byte{0x20, 0x01, 0x0d, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9}
	source, own := []byte{1, 1, 2, 0, 0, 0, 0, 0x0a}, []byte{2, 1, 2, 0, 0, 0, 0, 0x0b} // link-layer addresses
	mtu := []byte{5, 1, 0, 0, 0, 0, 5, 0xdc}
	v4 := func(name string, traffic int, b []byte) Carrier {
		return carry(name, traffic, ethernet(typeIPv4, ip4(protoICMP, b)))
	}
	v6 := func(name string, traffic int, b []byte) Carrier {
		return carry(name, traffic, ethernet(typeIPv6, ip6(protoICMPv6, b)))
	}
	return []Carrier{
		v4("an echo with data", len(Traffic), icmp(8, 0, Traffic)),
		v4("an echo reply with data", len(Traffic), icmp(0, 0, Traffic)),
		v4("an unassigned type", len(Traffic), message(99, 1, zero, Traffic)),
		v4("port unreachable, quoting UDP with data", len(Traffic), message(3, 3, zero, ip4(protoUDP, udp(Traffic)))),
		v4("host unreachable, quoting 8 bytes of TCP", 0, message(3, 1, zero, ip4(protoTCP, tcp(2)[:8]))),
		v4("fragmentation needed, quoting TCP with data", len(Traffic), message(3, 4, []byte{0, 0, 5, 0x14}, ip4(protoTCP, tcp(0x10, Traffic)))),
		v4("time exceeded, quoting ESP", len(Traffic), message(11, 0, zero, ip4(protoESP, Traffic))),
		v4("time exceeded, quoting nothing that is IP", len(Traffic), message(11, 0, zero, Traffic)),
		v4("time exceeded, quoting IPv6", 40+8+len(Traffic), message(11, 0, zero, ip6(protoUDP, udp(Traffic)))),
		v6("ICMPv6 time exceeded, quoting IPv4", 20+8+len(Traffic), message(3, 0, zero, ip4(protoUDP, udp(Traffic)))),
		v4("redirect", len(Traffic), message(5, 1, []byte{192, 0, 2, 9}, ip4(protoUDP, udp(Traffic)))),
		v6("an ICMPv6 echo with data", len(Traffic), icmp(128, 0, Traffic)),
		v6("packet too big, quoting UDP with data", len(Traffic), message(2, 0, []byte{0, 0, 5, 0}, ip6(protoUDP, udp(Traffic)))),
		v6("ICMPv6 time exceeded, quoting a later fragment", len(Traffic), message(3, 0, zero, ip6(protoFragment, fragment(protoUDP, 3, true, Traffic)))),
		v6("neighbour solicitation", 0, message(135, 0, zero, target, source)),
		v6("neighbour advertisement", 0, message(136, 0, []byte{0x60, 0, 0, 0}, target, own)),
		v6("neighbour solicitation with an unassigned option", 6, message(135, 0, zero, target, source, []byte{200, 1}, Traffic[:6])),
		v6("router solicitation", 0, message(133, 0, zero, source)),
		v6("router advertisement", 0, message(134, 0, []byte{64, 0, 7, 8}, make([]byte, 8), mtu, source)),
		v6("ICMPv6 redirect", 0, message(137, 0, zero, target, destination, own)),
		v6("a link-layer address of 14 bytes", 14, message(135, 0, zero, target, []byte{1, 2}, Traffic[:14])),
	}
}

func carriersGroups() []Carrier {
	group := []byte{233, 252, 0, 1}
	group6 := []byte{0xff, 0x0e, 0, 0, 0, 0, 0, 0, 0, 0, 0x0d, 0xb8, 0, 0, 0, 1}
	records := slices.Concat([]byte{0x22, 0, 0, 0, 0, 0, 0, 2}, // two: of one source and 4 bytes more, then of none
		[]byte{1, 1, 0, 1}, group, []byte{192, 0, 2, 9}, make([]byte, 4), []byte{4, 0, 0, 0, 233, 252, 0, 2})
	records6 := slices.Concat([]byte{143, 0, 0, 0, 0, 0, 0, 2}, []byte{4, 0, 0, 1}, group6, make([]byte, 16), []byte{3, 0, 0, 0}, group6)
	return []Carrier{
		carry("IGMP general query", 0, ethernet(typeIPv4, ip4(2, []byte{0x11, 100, 0, 0, 0, 0, 0, 0}))),
		carry("IGMP 2 report", 0, ethernet(typeIPv4, ip4(2, []byte{0x16, 0, 0, 0}, group))),
		carry("IGMP 2 leave", 0, ethernet(typeIPv4, ip4(2, []byte{0x17, 0, 0, 0}, group))),
		carry("IGMP 3 report", 0, ethernet(typeIPv4, ip4(2, records))),
		carry("MLD 1 report", 0, ethernet(typeIPv6, ip6(protoICMPv6, message(131, 0, make([]byte, 4), group6)))),
		carry("MLD 2 report", 0, ethernet(typeIPv6, ip6(protoICMPv6, records6))),
	}
}

func carriersSCTP() []Carrier {
	initiate := slices.Concat([]byte{1, 0, 0, 20}, []byte{0, 0, 0, 7, 0, 0, 0xfa, 0, 0, 10, 0, 10, 0, 0, 0, 1}) // tag, window, streams, TSN
	data := slices.Concat([]byte{0, 3, 0, byte(16 + len(Traffic))}, []byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}, Traffic)
	acknowledge := slices.Concat([]byte{3, 0, 0, 16}, []byte{0, 0, 0, 1, 0, 0, 0xfa, 0, 0, 0, 0, 0})
	unassigned := slices.Concat([]byte{99, 0, 0, byte(4 + len(Traffic))}, Traffic)
	heartbeat := slices.Concat([]byte{4, 0, 0, byte(8 + len(Traffic)), 0, 1, 0, byte(4 + len(Traffic))}, Traffic)
	return []Carrier{
		carry("SCTP INIT", 0, ethernet(typeIPv4, ip4(protoSCTP, sctp(initiate)))),
		carry("SCTP SACK and DATA", len(Traffic), ethernet(typeIPv4, ip4(protoSCTP, sctp(acknowledge, data)))),
		carry("an unassigned SCTP chunk", len(Traffic), ethernet(typeIPv6, ip6(protoSCTP, sctp(unassigned)))),
		carry("SCTP HEARTBEAT", len(Traffic), ethernet(typeIPv4, ip4(protoSCTP, sctp(heartbeat)))),
		carry("SCTP COOKIE ECHO, padded, and DATA", len(Traffic), ethernet(typeIPv4, ip4(protoSCTP, sctp([]byte{10, 0, 0, 5, 1, 0, 0, 0}, data)))),
		carry("an SCTP DATA chunk of no length", len(Traffic), ethernet(typeIPv4, ip4(protoSCTP, sctp([]byte{0, 3, 0, 4}, Traffic)))),
	}
}

// carriersTrailers end before their frames do. What follows would be told if it were theirs.
func carriersTrailers() []Carrier {
	zero := make([]byte, 4)
	target := []byte{0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 2}
	group6 := []byte{0xff, 0x0e, 0, 0, 0, 0, 0, 0, 0, 0, 0x0d, 0xb8, 0, 0, 0, 1}
	quote, quote6 := ip4(protoUDP, udp()), ip6(protoUDP, udp())
	v4 := func(name string, proto byte, b, trailer []byte) Carrier {
		return carry(name, len(trailer), ethernet(typeIPv4, ip4(proto, b), trailer))
	}
	v6 := func(name string, b, trailer []byte) Carrier {
		return carry(name, len(trailer), ethernet(typeIPv6, ip6(protoICMPv6, b), trailer))
	}
	options := v4("an IPv4 header that goes on behind the end of the packet", 253, nil, []byte{148, 4, 0, 0})
	options.Data[14] = 0x46
	return []Carrier{
		options,
		v4("SCTP COOKIE ACK with a trailer", protoSCTP, sctp([]byte{11, 0, 0, 4}), []byte("Secret pas")),
		v4("port unreachable that quotes nothing, with a trailer", protoICMP, message(3, 3, zero), quote),
		v4("IGMP 2 report without a group, with a trailer", 2, []byte{0x16, 0, 0, 0}, []byte{233, 252, 0, 1}),
		v4("IGMP 3 report that counts a group more than it has, with a trailer", 2,
			[]byte{0x22, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 233, 252, 0, 1}, []byte{1, 0, 0, 0, 233, 252, 0, 2}),
		v6("packet too big that quotes nothing, with a trailer", message(2, 0, []byte{0, 0, 5, 0}), quote6),
		v6("MLD 1 report without a group, with a trailer", message(131, 0, zero), group6),
		v6("neighbour solicitation without options, with a trailer", message(135, 0, zero, target), []byte{1, 1, 2, 0, 0, 0, 0, 0x0a}),
		v4("nothing in IP in IP, with a trailer", protoIPIP, nil, quote),
		v4("nothing in GRE, with a trailer", protoGRE, []byte{0, 0, 8, 0}, quote),
		v4("no VXLAN, with a trailer", protoUDP, udpTo(portVXLAN), vxlan(ethernet(typeIPv4, quote))),
		v4("nothing in VXLAN, with a trailer", protoUDP, udpTo(portVXLAN, vxlan()), ethernet(typeIPv4, quote)),
	}
}

func carriersTunnels() []Carrier {
	to := func(port uint16, payload ...[]byte) []byte {
		b := udp(payload...)
		copy(b[2:], u16(port))
		return b
	}
	inner := ethernet(typeIPv4, ip4(protoTCP, tcp(0x18, Traffic)))
	vni := []byte{0, 0, 0x2a, 0}
	gre := func(flags, etherType uint16, payload ...[]byte) []byte {
		return slices.Concat(u16(flags), u16(etherType), slices.Concat(payload...))
	}
	v4 := func(name string, proto byte, b []byte) Carrier {
		return carry(name, len(Traffic), ethernet(typeIPv4, ip4(proto, b)))
	}
	return []Carrier{
		v4("VXLAN", protoUDP, to(4789, []byte{8, 0, 0, 0}, vni, inner)),
		v4("VXLAN at the port of Linux, with IPv6 and a tag inside", protoUDP,
			to(8472, []byte{8, 0, 0, 0}, vni, ethernet(typeVLAN, vlan(7, typeIPv6, ip6(protoUDP, udp(Traffic)))))),
		v4("VXLAN with a group policy", protoUDP, to(4789, []byte{0x88, 0, 0, 7}, vni, inner)), // draft-smith-vxlan-group-policy
		v4("traffic to the port of VXLAN with bits that are reserved", protoUDP, to(4789, []byte{0x88, 0, 0, 7}, vni, Traffic)),
		v4("traffic to the port of VXLAN that is none", protoUDP, to(4789, Traffic)),
		v4("traffic to the port of Geneve that is none", protoUDP, to(6081, Traffic)),
		v4("Geneve with options", protoUDP, to(6081, []byte{2, 0}, u16(typeBridging), vni, []byte{1, 2, 0x80, 1, 0, 0, 0, 0}, inner)),
		v4("Geneve with IPv4", protoUDP, to(6081, []byte{0, 0}, u16(typeIPv4), vni, ip4(protoUDP, udp(Traffic)))),
		v4("GRE", protoGRE, gre(0, typeIPv4, ip4(protoICMP, icmp(8, 0, Traffic)))),
		v4("GRE with key and sequence number", protoGRE, gre(0x3000, typeIPv6, []byte{0, 0, 0, 5, 0, 0, 0, 1}, ip6(protoUDP, udp(Traffic)))),
		v4("GRE with Ethernet", protoGRE, gre(0, typeBridging, inner)),
		v4("GRE with something else", protoGRE, gre(0, 0x88be, Traffic)),
		v4("GRE with reserved bits that receivers ignore", protoGRE, gre(0x03f8, typeIPv4, ip4(protoUDP, udp(Traffic)))),
		v4("GRE with a strict source route", protoGRE, gre(0x0800, typeIPv4, ip4(protoUDP, udp(Traffic)))),
		v4("PPTP", protoGRE, gre(0x2001, 0x880b, Traffic)),
		v4("IP in IPv4", 4, ip4(protoUDP, udp(Traffic))),
		v4("IPv6 in IPv4", 41, ip6(protoTCP, tcp(0x18, Traffic))),
		carry("IP in IPv6", len(Traffic), ethernet(typeIPv6, ip6(4, ip4(protoUDP, udp(Traffic))))),
		v4("a tunnel in a tunnel", 4, ip4(4, Traffic)),
		v4("no IP in IP", 4, Traffic),
	}
}
