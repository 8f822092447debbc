// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/stretchr/testify/assert"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/frames"
)

// gopacketStops says in which frames gopacket finds no transport header where both our parsers do, and why.
var gopacketStops = map[string]string{
	"a first IPv4 fragment":                                            "leaves every fragment to reassembly",
	"an atomic fragment is a first fragment":                           "leaves every fragment to reassembly",
	"a first IPv6 fragment":                                            "leaves every fragment to reassembly",
	"the reserved byte of a fragment header is no length":              "leaves every fragment to reassembly",
	"eight extension headers, the most":                                "leaves every fragment to reassembly",
	"padding past the total length is read as a header":                "believes the total length",
	"a payload length of 0 and no option that says another":            "believes the payload length",
	"a payload length of 0 and a hop-by-hop header without the option": "believes the payload length",
	"a jumbo option beside a payload length":                           "takes both for an error, as RFC 2675 does",
	"a mobility header":                                                "does not know the header",
	"a HIP header":                                                     "does not know the header",
	"a shim6 header":                                                   "does not know the header",
	"an AH of the least length has no check value":                     "needs the 12 bytes of RFC 4302",
}

// TestGopacketAgrees asks a decoder that nobody here wrote. It is asked about accounted frames only: of the others it has
// its own ideas, since it believes the lengths in headers.
func TestGopacketAgrees(t *testing.T) {
	for _, f := range frames.All {
		if f.Want.Reason != flow.ReasonAccounted {
			continue
		}
		t.Run(f.Name, func(t *testing.T) {
			want, got := f.Want, askGopacket(&f)
			if why, stops := gopacketStops[f.Name]; stops {
				assert.False(t, hasTransport(&got), "gopacket goes on, although it %s", why)
				want = ipOnly(want)
			}
			want.HeaderLen = 0 // not a word of gopacket
			if want.HasICMP {
				want.Key.SrcPort, want.Key.DstPort = 0, 0 // nor what we keep in place of ports
			}
			assert.Equal(t, want, got)
		})
	}
}

// askGopacket fills what gopacket has words for. Protocol and fragment offset it tells in other places for each family
// and extension header; that a transport header was found, or none was, implies them.
func askGopacket(f *frames.Frame) packet.Packet {
	decoded := gopacket.NewPacket(f.Data, firstLayer(f), gopacket.NoCopy)
	p := packet.Packet{Key: flow.Key{Proto: f.Want.Key.Proto, LaterFragment: f.Want.Key.LaterFragment}}
	gopacketLink(decoded, &p)
	gopacketIP(decoded, &p)
	if byNumber := !f.Want.Key.LaterFragment && !hasTransport(&f.Want); !byNumber {
		gopacketTransport(decoded, &p) // otherwise it is a tunnel's, of an inner packet
	}
	return p
}

func firstLayer(f *frames.Frame) gopacket.LayerType {
	switch {
	case !f.L3:
		return layers.LayerTypeEthernet
	case f.Want.Key.IPv6:
		return layers.LayerTypeIPv6
	default:
		return layers.LayerTypeIPv4
	}
}

func hasTransport(p *packet.Packet) bool {
	return p.HasTCP || p.HasICMP || p.Key.SrcPort != 0
}

// ipOnly is p without what was read from the transport header.
func ipOnly(p packet.Packet) packet.Packet {
	p.Key.SrcPort, p.Key.DstPort = 0, 0
	return packet.Packet{Reason: p.Reason, Key: p.Key, EtherType: p.EtherType, TTL: p.TTL, DSCP: p.DSCP, ECN: p.ECN}
}

func gopacketLink(got gopacket.Packet, p *packet.Packet) {
	if eth, ok := got.Layer(layers.LayerTypeEthernet).(*layers.Ethernet); ok {
		p.EtherType = uint16(eth.EthernetType)
	}
	for _, l := range got.Layers() {
		switch l := l.(type) {
		case *layers.Dot1Q:
			if !p.Key.Tagged {
				p.Key.Tagged, p.Key.VLAN = true, l.VLANIdentifier
			}
			p.EtherType = uint16(l.Type)
		case *layers.MPLS, *layers.PPP: // these have no ethertype for what they carry
			if ip := got.NetworkLayer(); ip != nil {
				p.EtherType = map[gopacket.LayerType]uint16{layers.LayerTypeIPv4: 0x0800, layers.LayerTypeIPv6: 0x86dd}[ip.LayerType()]
			}
		}
	}
}

// gopacketIP reads the outermost IP header.
func gopacketIP(got gopacket.Packet, p *packet.Packet) {
	switch ip := got.NetworkLayer().(type) {
	case *layers.IPv4:
		copy(p.Key.SrcAddr[12:], ip.SrcIP.To4())
		copy(p.Key.DstAddr[12:], ip.DstIP.To4())
		p.TTL, p.DSCP, p.ECN = ip.TTL, ip.TOS>>2, ip.TOS&3
	case *layers.IPv6:
		copy(p.Key.SrcAddr[:], ip.SrcIP)
		copy(p.Key.DstAddr[:], ip.DstIP)
		p.Key.IPv6 = true
		p.TTL, p.DSCP, p.ECN = ip.HopLimit, ip.TrafficClass>>2, ip.TrafficClass&3
	}
}

// gopacketTransport reads the outermost transport header.
func gopacketTransport(got gopacket.Packet, p *packet.Packet) {
	for _, l := range got.Layers() {
		switch h := l.(type) {
		case *layers.TCP:
			p.Key.SrcPort, p.Key.DstPort = uint16(h.SrcPort), uint16(h.DstPort)
			p.HasTCP, p.TCPFlags, p.TCPSeq, p.TCPAck, p.TCPWindow = true, gopacketFlags(h), h.Seq, h.Ack, h.Window
		case *layers.UDP:
			p.Key.SrcPort, p.Key.DstPort = uint16(h.SrcPort), uint16(h.DstPort)
		case *layers.SCTP:
			p.Key.SrcPort, p.Key.DstPort = uint16(h.SrcPort), uint16(h.DstPort)
		case *layers.ICMPv4:
			p.HasICMP, p.ICMPType, p.ICMPCode = true, h.TypeCode.Type(), h.TypeCode.Code()
		case *layers.ICMPv6:
			p.HasICMP, p.ICMPType, p.ICMPCode = true, h.TypeCode.Type(), h.TypeCode.Code()
		default:
			continue
		}
		return
	}
}

func gopacketFlags(h *layers.TCP) uint8 {
	var flags uint8
	for bit, set := range []bool{h.FIN, h.SYN, h.RST, h.PSH, h.ACK, h.URG, h.ECE, h.CWR} {
		if set {
			flags |= 1 << bit
		}
	}
	return flags
}
