// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
)

const (
	protoIPIP    = 4
	protoIPv6    = 41
	typeBridging = 0x6558
	portVXLAN    = 4789
	portVXLANOld = 8472
	portGeneve   = 6081
	greChecksum  = 0x8000
	greKey       = 0x2000
	greSequence  = 0x1000
)

func udpTo(port uint16, payload ...[]byte) []byte {
	h := udp(payload...)
	binary.BigEndian.PutUint16(h[2:], port)
	return h
}

func vxlan(payload ...[]byte) []byte {
	return slices.Concat([]byte{8, 0, 0, 0}, []byte{0xab, 0xcd, 0xef, 0}, slices.Concat(payload...))
}

// geneve has words 4-byte words of options.
func geneve(words byte, etherType uint16, payload ...[]byte) []byte {
	return slices.Concat([]byte{words, 0}, u16(etherType), []byte{0xab, 0xcd, 0xef, 0}, make([]byte, 4*int(words)), slices.Concat(payload...))
}

func gre(flags, etherType uint16, payload ...[]byte) []byte {
	h := slices.Concat(u16(flags), u16(etherType))
	if flags&greChecksum != 0 {
		h = append(h, 0, 0, 0, 0)
	}
	if flags&greKey != 0 {
		h = append(h, 0xfe, 0xdc, 0xba, 0x98)
	}
	if flags&greSequence != 0 {
		h = append(h, 0, 0, 0, 1)
	}
	return slices.Concat(h, slices.Concat(payload...))
}

// in says that an accounted packet is inside of a tunnel between the addresses of seen4, or of seen6. Behind Ethernet, only
// Ethernet inside has an ethertype.
func in(t flow.Tunnel, p packet.Packet) packet.Packet {
	outer := seen4(0, 0).Key
	if t.IPv6 {
		outer = seen6(0, 0).Key
	}
	t.Src, t.Dst = outer.SrcAddr, outer.DstAddr
	p.Key.Tunnel = t
	if t.Kind == flow.TunnelIP || t.Kind == flow.TunnelGRE {
		p.EtherType = 0
	}
	return p
}

// withID is a tunnel whose id is the one that the builders write.
func withID(kind flow.TunnelKind) flow.Tunnel {
	if kind == flow.TunnelGRE {
		return flow.Tunnel{Kind: kind, ID: 0xfedcba98, HasID: true}
	}
	return flow.Tunnel{Kind: kind, ID: 0xabcdef, HasID: true}
}

func overIPv6(t flow.Tunnel) flow.Tunnel {
	t.IPv6 = true
	return t
}

// toPort is what remains of an outer UDP packet whose inside cannot be read.
func toPort(port uint16, p packet.Packet) packet.Packet {
	p = ports(p)
	p.Key.DstPort = port
	return p
}

const behindUDP4, behindUDP6 = 14 + 20 + 8, 14 + 40 + 8

// Inside holds frames of tunnels, and what is to be read of them if the flow is that of the packet inside.
var Inside = inside([]Frame{
	{
		Name: "TCP in VXLAN",
		Data: ethernet(typeIPv4, ip4(protoUDP, udpTo(portVXLAN, vxlan(ethernet(typeIPv4, ip4(protoTCP, tcp(ack))))))),
		Want: in(withID(flow.TunnelVXLAN), isTCP(ack, seen4(6, behindUDP4+8+14+20+20))),
	},
	{
		Name: "IPv6 in VXLAN over IPv6",
		Data: ethernet(typeIPv6, ip6(protoUDP, udpTo(portVXLAN, vxlan(ethernet(typeIPv6, ip6(protoUDP, udp())))))),
		Want: in(overIPv6(withID(flow.TunnelVXLAN)), ports(seen6(17, behindUDP6+8+14+40+8))),
	},
	{
		Name: "VXLAN at the port of old drivers",
		Data: ethernet(typeIPv4, ip4(protoUDP, udpTo(portVXLANOld, vxlan(ethernet(typeIPv4, ip4(protoUDP, udp())))))),
		Want: in(withID(flow.TunnelVXLAN), ports(seen4(17, behindUDP4+8+14+20+8))),
	},
	{
		Name: "the tag of a frame in VXLAN names the VLAN, the one outside does not",
		Data: ethernet(typeVLAN, vlan(9, typeIPv4, ip4(protoUDP, udpTo(portVXLAN, vxlan(ethernet(typeVLAN, vlan(7, typeIPv4, ip4(protoUDP, udp())))))))),
		Want: in(withID(flow.TunnelVXLAN), tagged(7, ports(seen4(17, 4+behindUDP4+8+14+4+20+8)))),
	},
	{
		Name: "a later fragment in VXLAN",
		Data: ethernet(typeIPv4, ip4(protoUDP, udpTo(portVXLAN, vxlan(ethernet(typeIPv4, ip4Fragment(185, protoTCP, tcp(ack))))))),
		Want: in(withID(flow.TunnelVXLAN), later(seen4(6, behindUDP4+8+14+20))),
	},
	{
		Name: "a later fragment of VXLAN has no header of VXLAN",
		Data: ethernet(typeIPv4, ip4Fragment(185, protoUDP, udpTo(portVXLAN, vxlan(ethernet(typeIPv4, ip4(protoTCP, tcp(ack))))))),
		Want: later(seen4(17, 14+20)),
	},
	{
		Name: "VXLAN without a valid VNI",
		Data: ethernet(typeIPv4, ip4(protoUDP, udpTo(portVXLAN, make([]byte, 8), ethernet(typeIPv4, ip4(protoTCP, tcp(ack)))))),
		Want: toPort(portVXLAN, seen4(17, behindUDP4)),
	},
	{
		Name: "ARP in VXLAN",
		Data: ethernet(typeIPv4, ip4(protoUDP, udpTo(portVXLAN, vxlan(ethernet(0x0806, make([]byte, 28)))))),
		Want: toPort(portVXLAN, seen4(17, behindUDP4)),
	},
	{
		Name: "the transport header in VXLAN is cut",
		Data: without(1, ethernet(typeIPv4, ip4(protoUDP, udpTo(portVXLAN, vxlan(ethernet(typeIPv4, ip4(protoTCP, tcp(ack)))))))),
		Want: toPort(portVXLAN, seen4(17, behindUDP4)),
	},
	{
		Name: "the header of VXLAN is cut",
		Data: ethernet(typeIPv4, ip4(protoUDP, udpTo(portVXLAN, without(1, vxlan())))),
		Want: toPort(portVXLAN, seen4(17, behindUDP4)),
	},
	{
		Name: "VXLAN in VXLAN is looked into once",
		Data: ethernet(typeIPv4, ip4(protoUDP, udpTo(portVXLAN, vxlan(
			ethernet(typeIPv4, ip4(protoUDP, udpTo(portVXLAN, vxlan(
				ethernet(typeIPv4, ip4(protoTCP, tcp(ack))))))))))),
		Want: in(withID(flow.TunnelVXLAN), toPort(portVXLAN, seen4(17, behindUDP4+8+14+20+8))),
	},
	{
		Name: "TCP in Geneve with options",
		Data: ethernet(typeIPv4, ip4(protoUDP, udpTo(portGeneve, geneve(3, typeBridging, ethernet(typeIPv4, ip4(protoTCP, tcp(ack))))))),
		Want: in(withID(flow.TunnelGeneve), isTCP(ack, seen4(6, behindUDP4+8+12+14+20+20))),
	},
	{
		Name: "IPv4 without Ethernet in Geneve",
		Data: ethernet(typeIPv4, ip4(protoUDP, udpTo(portGeneve, geneve(0, typeIPv4, ip4(protoUDP, udp()))))),
		Want: in(withID(flow.TunnelGeneve), noLink(ports(seen4(17, behindUDP4+8+20+8)))),
	},
	{
		Name: "Geneve of another version",
		Data: ethernet(typeIPv4, ip4(protoUDP, udpTo(portGeneve, geneve(0x40, typeIPv4, ip4(protoUDP, udp()))))),
		Want: toPort(portGeneve, seen4(17, behindUDP4)),
	},
	{
		Name: "TCP in GRE",
		Data: ethernet(typeIPv4, ip4(protoGRE, gre(0, typeIPv4, ip4(protoTCP, tcp(ack))))),
		Want: in(flow.Tunnel{Kind: flow.TunnelGRE}, isTCP(ack, seen4(6, 14+20+4+20+20))),
	},
	{
		Name: "IPv6 in GRE with checksum, key and sequence number",
		Data: ethernet(typeIPv4, ip4(protoGRE, gre(greChecksum|greKey|greSequence, typeIPv6, ip6(protoUDP, udp())))),
		Want: in(withID(flow.TunnelGRE), ports(seen6(17, 14+20+16+40+8))),
	},
	{
		Name: "Ethernet in GRE over IPv6",
		Data: ethernet(typeIPv6, ip6(protoGRE, gre(greKey, typeBridging, ethernet(typeIPv4, ip4(protoUDP, udp()))))),
		Want: func() packet.Packet {
			p := in(overIPv6(withID(flow.TunnelGRE)), ports(seen4(17, 14+40+8+14+20+8)))
			p.EtherType = 0x0800
			return p
		}(),
	},
	{
		Name: "GRE of version 1 is PPTP's",
		Data: ethernet(typeIPv4, ip4(protoGRE, gre(1, typeIPv4, ip4(protoTCP, tcp(ack))))),
		Want: seen4(47, 14+20),
	},
	{
		Name: "GRE with reserved bits that receivers ignore",
		Data: ethernet(typeIPv4, ip4(protoGRE, gre(0x03f8, typeIPv4, ip4(protoTCP, tcp(ack))))), // RFC 2784 2.3
		Want: in(flow.Tunnel{Kind: flow.TunnelGRE}, isTCP(ack, seen4(6, 14+20+4+20+20))),
	},
	{
		Name: "GRE with routing of RFC 1701",
		Data: ethernet(typeIPv4, ip4(protoGRE, gre(0x4000, typeIPv4, make([]byte, 4), ip4(protoTCP, tcp(ack))))),
		Want: seen4(47, 14+20),
	},
	{
		Name: "GRE with a strict source route of RFC 1701",
		Data: ethernet(typeIPv4, ip4(protoGRE, gre(0x0800, typeIPv4, ip4(protoTCP, tcp(ack))))),
		Want: seen4(47, 14+20),
	},
	{
		Name: "GRE with the last of the bits that receivers may not ignore",
		Data: ethernet(typeIPv4, ip4(protoGRE, gre(0x0400, typeIPv4, ip4(protoTCP, tcp(ack))))),
		Want: seen4(47, 14+20),
	},
	{
		Name: "GRE that carries something else",
		Data: ethernet(typeIPv4, ip4(protoGRE, gre(0, 0x88be, make([]byte, 60)))), // ERSPAN
		Want: seen4(47, 14+20),
	},
	{
		Name: "the key of GRE is cut",
		Data: ethernet(typeIPv4, ip4(protoGRE, without(1, gre(greKey, typeIPv4)))),
		Want: seen4(47, 14+20),
	},
	{
		Name: "IPv4 in IPv4",
		Data: ethernet(typeIPv4, ip4(protoIPIP, ip4(protoTCP, tcp(ack)))),
		Want: in(flow.Tunnel{Kind: flow.TunnelIP}, isTCP(ack, seen4(6, 14+20+20+20))),
	},
	{
		Name: "IPv6 in IPv4",
		Data: ethernet(typeIPv4, ip4(protoIPv6, ip6(protoTCP, tcp(ack)))),
		Want: in(flow.Tunnel{Kind: flow.TunnelIP}, isTCP(ack, seen6(6, 14+20+40+20))),
	},
	{
		Name: "IPv4 in IPv6 behind an extension header",
		Data: ethernet(typeIPv6, ip6(protoDestination, options(protoIPIP, 8, ip4(protoUDP, udp())))), // RFC 2473
		Want: in(flow.Tunnel{Kind: flow.TunnelIP, IPv6: true}, ports(seen4(17, 14+40+8+20+8))),
	},
	{
		Name: "what IPv4 in IPv4 says is none",
		Data: ethernet(typeIPv4, ip4(protoIPIP, make([]byte, 40))),
		Want: seen4(4, 14+20),
	},
	{
		Name: "IPv4 in IPv4 on a device without link header",
		L3:   true,
		Data: ip4(protoIPIP, ip4(protoUDP, udp())),
		Want: in(flow.Tunnel{Kind: flow.TunnelIP}, ports(seen4(17, 20+20+8))),
	},
	{
		Name: "no tunnel",
		Data: ethernet(typeIPv4, ip4(protoTCP, tcp(ack))),
		Want: isTCP(ack, seen4(6, 14+20+20)),
	},
})

func inside(all []Frame) []Frame {
	for i := range all {
		all[i].Inside = true
	}
	return all
}

// Encapsulate puts what is in a frame into a tunnel, each choice drawn from r. The frame is one that Random made, or is like it.
func Encapsulate(r *rand.Rand, f *Frame) Frame {
	inner, etherType := f.Data, uint16(typeBridging)
	if f.L3 {
		etherType = pick[uint16](r, typeIPv4, typeIPv4, typeIPv6, typeIPv6, uint16(r.Uint32()))
	}
	var proto byte = protoUDP
	var data []byte
	switch r.IntN(4) {
	case 0:
		data = udpTo(pick[uint16](r, portVXLAN, portVXLANOld), vxlan(inner))
	case 1:
		data = udpTo(portGeneve, geneve(byte(pick(r, 0, 0, r.IntN(8), r.IntN(256))), etherType, inner))
	case 2:
		proto, data = protoGRE, gre(uint16(pick(r, 0, r.IntN(16)<<12, int(r.Uint32()))), etherType, inner)
	default:
		proto, data = pick[byte](r, protoIPIP, protoIPv6), inner
	}
	frame := Frame{Name: "random", Inside: true}
	if r.IntN(3) == 0 {
		etherType, frame.Data = typeIPv6, ip6(proto, data)
	} else {
		etherType, frame.Data = typeIPv4, ip4(proto, data)
	}
	if frame.L3 = r.IntN(4) == 0; !frame.L3 {
		frame.Data = ethernet(etherType, frame.Data)
	}
	frame.Data = Mutate(r, frame.Data)
	return frame
}
