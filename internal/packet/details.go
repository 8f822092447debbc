// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"net/netip"

	"github.com/gopacket/gopacket/layers"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// How much of what a frame may repeat is told. The rest is left out: hostile frames make no long records.
const (
	maxTold      = 16 // SCTP chunks, multicast groups
	maxNDOptions = 128
)

// Details is all that a record says of a frame. Every list is bounded, by a limit above or by the length of the header
// that holds it. Fields after a Has... are valid only if it is set, and all are empty where a frame ends too early.
type Details struct {
	Packet

	HasEthernet    bool
	SrcMAC, DstMAC MAC
	Tags           []Tag   // outermost first, an offloaded one included; at most 3
	Labels         []Label // MPLS, outermost first; at most 8

	HasARP         bool   // valid with ReasonARP
	ARPOperation   uint16 // RFC 826, RFC 903
	HasARPEndpoint bool   // those of ARP for IPv4 over Ethernet
	ARPSender      ARPEndpoint
	ARPTarget      ARPEndpoint

	DontFragment   bool    // IPv4
	HasIPID        bool    // IPv4, and IPv6 with a fragment header
	IPID           uint32  // 16 bits of IPv4
	FlowLabel      uint32  // IPv6; 20 bits
	IPOptions      []uint8 // IPv4, as sent, the first byte of each: copy flag, class, number; RFC 791 3.1
	Extensions     []uint8 // IPv6, by protocol number; at most 8
	HasFragment    bool    // is a fragment; an atomic one, RFC 6946, is none
	MoreFragments  bool
	FragmentOffset uint32 // bytes
	HasPayloadLen  bool
	PayloadLen     uint32 // bytes on the wire behind the transport header, of all segments; padding is none
	Beyond         bool   // the transport header lies behind the end of the IP packet: all that is told of it are the ports in Key

	TCPUrgent        uint16  // valid iff the URG flag is set
	TCPOptions       []uint8 // by kind, as sent
	HasMSS           bool
	MSS              uint16
	HasWindowScale   bool
	WindowScale      uint8
	SACKPermitted    bool
	SACK             [][2]uint32 // left and right edge; at most 4
	HasTimestamps    bool
	Timestamp        uint32
	TimestampEcho    uint32
	HasEcho          bool // ICMP with identifier and sequence number
	EchoID, EchoSeq  uint16
	HasMTU           bool // ICMP: too big
	MTU              uint32
	ICMPTarget       netip.Addr // neighbour discovery, redirects; the gateway of an IPv4 redirect
	ICMPDestination  netip.Addr // IPv6 redirect: whose packets
	HasICMPLinkLayer bool
	ICMPLinkLayer    MAC // neighbour discovery: of source or target

	HasQuoted bool // ICMP errors: the packet that caused it
	Quoted    flow.Key

	HasIGMP  bool
	IGMPType uint8
	Groups   []netip.Addr // IGMP and MLD

	HasSCTP    bool
	SCTPTag    uint32  // verification tag
	SCTPChunks []uint8 // by type

	Tunnel      flow.TunnelKind // 0: it carries no packet
	HasTunnelID bool
	TunnelID    uint32 // VNI; key of GRE
	HasInner    bool
	Inner       flow.Key // of the packet that it carries
	InsideCut   bool     // the flow should be that inside of a tunnel, but its headers go on behind the captured bytes: this is the outer one
}

// MAC is an address of Ethernet.
type MAC [6]byte

// Tag is a VLAN tag: priority 3, DEI 1, id 12 bits; IEEE 802.1Q 9.6.
type Tag uint16

func (t Tag) ID() uint16      { return uint16(t) & 0x0fff }
func (t Tag) Priority() uint8 { return uint8(t >> 13) }

// Label is an entry of an MPLS label stack: label 20, traffic class 3, bottom of stack 1, TTL 8 bits; RFC 3032 2.1.
type Label uint32

func (l Label) Label() uint32       { return uint32(l) >> 12 }
func (l Label) TrafficClass() uint8 { return uint8(l>>9) & 7 }
func (l Label) Bottom() bool        { return l&0x100 != 0 }
func (l Label) TTL() uint8          { return uint8(l) }

// ARPEndpoint is one of the two that ARP for IPv4 over Ethernet speaks of.
type ARPEndpoint struct {
	MAC  MAC
	Addr netip.Addr
}

// Decoder reads details. Where a decoder of gopacket reads a header in place, it is used; its values are kept here, to be
// used again. A Decoder is for one goroutine.
type Decoder struct {
	arp   layers.ARP
	tcp   layers.TCP
	nd    layers.ICMPv6Options
	gre   layers.GRE
	vxlan layers.VXLAN
}

// feedback is for decoders of gopacket, which tell twice that a header is cut. What they did not read is left out.
type feedback struct{}

func (feedback) SetTruncated() {}

// Decode reads s into h and overwrites all of it; h is meant to be reused. The Packet in it is what packet.Decode says.
// Nothing in h refers to s.Data.
func (d *Decoder) Decode(s *Sample, h *Details) { d.decode(s, h) }

// DecodePayload is Decode, and returns what was captured behind the headers of TCP and UDP, up to the end of the IP packet: a
// part of s.Data, and nothing of other protocols and of later fragments.
func (d *Decoder) DecodePayload(s *Sample, h *Details) []byte {
	c := d.decode(s, h)
	if h.Reason != flow.ReasonAccounted || h.Beyond || h.Key.LaterFragment || h.Key.Proto != protoTCP && h.Key.Proto != protoUDP {
		return nil
	}
	return c.from(int(h.HeaderLen))
}

func (d *Decoder) decode(s *Sample, h *Details) cursor {
	h.reset()
	c := cursor{data: s.Data}
	h.read(&c, s)
	h.link(s)
	switch h.Reason {
	case flow.ReasonARP:
		d.readARP(h, c.from(c.off))
	case flow.ReasonAccounted:
		h.InsideCut = c.short && s.cut()
		c.end(s, &h.Key)
		h.network(&c)
		h.payloadLen(s, &c)
		if h.Beyond = !c.holds(&h.Packet); !h.Beyond && !h.Key.LaterFragment {
			d.transport(h, s, &c)
		}
	}
	return c
}

// reset empties h and keeps the room of its lists.
func (h *Details) reset() {
	*h = Details{
		Tags: h.Tags[:0], Labels: h.Labels[:0], IPOptions: h.IPOptions[:0], Extensions: h.Extensions[:0],
		TCPOptions: h.TCPOptions[:0], SACK: h.SACK[:0], Groups: h.Groups[:0], SCTPChunks: h.SCTPChunks[:0],
	}
}

// transport reads what is behind the IP header of anything but a later fragment.
func (d *Decoder) transport(h *Details, s *Sample, c *cursor) {
	b := c.from(c.behind)
	switch h.Key.Proto {
	case protoTCP:
		d.readTCP(h, b[:min(len(b), int(h.HeaderLen)-c.behind)])
	case protoUDP:
		d.udpTunnel(h, s, b[udpLen:])
	case protoSCTP:
		h.sctp(b)
	case protoICMP:
		if h.HasICMP {
			h.icmp4(b)
		}
	case protoICMPv6:
		if h.HasICMP {
			d.icmp6(h, b)
		}
	case protoIGMP:
		if !h.Key.IPv6 {
			h.igmp(b)
		}
	case protoGRE:
		d.readGRE(h, s, b)
	case protoIPv4, protoIPv6:
		h.ipip(s, b)
	}
}

// payloadLen works out what was sent behind the transport header. Of one packet the IP header tells: a frame may be longer,
// by padding. Of several, and of those that tell no length, the bytes on the wire do.
func (h *Details) payloadLen(s *Sample, c *cursor) {
	ip := c.data[c.network:]
	told := toldLen(ip, h.Key.IPv6, s.Segments)
	n := c.network + told - int(h.HeaderLen)
	if told == 0 || s.Segments > 1 {
		headers := int(h.HeaderLen)
		if s.Segments > 1 && h.Key.IPv6 && isJumbo(ip) {
			headers -= ipv6ExtensionLen // BIG TCP adds it before segmentation, and no wire sees it
		}
		n = int(s.WireLen) - s.offloaded() - int(s.Segments)*headers
	}
	if n >= 0 {
		h.HasPayloadLen, h.PayloadLen = true, uint32(n)
	}
}

// end ends c where the IP packet ends, and the one that carries it: what the frame has behind that is padding, or a trailer,
// and no record tells of it. The IP header stays. Segments are no exception: their headers are in the first.
func (c *cursor) end(s *Sample, k *flow.Key) {
	end := c.endOfIP(c.network, k.IPv6, s.Segments)
	if k.Tunnel.Kind != 0 {
		end = min(end, c.endOfIP(c.carrier, k.Tunnel.IPv6, s.Segments))
	}
	least := ipv4Len
	if k.IPv6 {
		least = ipv6Len
	}
	c.data = c.data[:max(end, c.network+least)]
}

func (c *cursor) endOfIP(network int, ipv6 bool, segments uint32) int {
	told := toldLen(c.data[network:], ipv6, segments)
	if told == 0 {
		return len(c.data)
	}
	return min(network+told, len(c.data))
}

// holds reports whether the transport header that p was read of, if any, is in c, but for options.
func (c *cursor) holds(p *Packet) bool {
	n := p.transportLen()
	return n == 0 || c.behind+n <= len(c.data)
}

// toldLen is the length of an IP packet as its header, which b begins with, tells it. It is 0 where that tells none: BIG TCP,
// jumbograms, and IPv4 with a total length of 0.
func toldLen(b []byte, ipv6 bool, segments uint32) int {
	if !ipv6 {
		return int(binary.BigEndian.Uint16(b[2:]))
	}
	n := int(binary.BigEndian.Uint16(b[4:]))
	if n == 0 && (segments > 1 || isJumbo(b)) {
		return 0
	}
	return ipv6Len + n
}

// isJumbo reports whether an IPv6 packet has the option of jumbograms; RFC 2675 2.
func isJumbo(b []byte) bool {
	const option = 0xc2
	return b[6] == extensionHopByHop && len(b) > ipv6Len+2 && b[ipv6Len+2] == option
}
