// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"slices"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

const (
	protoIPv4 = 4 // in IP; RFC 2003
	protoIPv6 = 41
	protoGRE  = 47

	portGeneve     = 6081 // RFC 8926
	portVXLAN      = 4789 // RFC 7348
	portVXLANLinux = 8472 // the default of the driver, older than the RFC

	etherTypeBridging = 0x6558 // Ethernet inside GRE and Geneve; RFC 1701

	vxlanLen  = 8
	geneveLen = 8 // without options
	greLen    = 4 // without key, checksum and sequence number

	vxlanVNI    = 0x08   // the VNI is valid
	greChecksum = 0x8000 // RFC 2784
	greKey      = 0x2000 // RFC 2890
	greSequence = 0x1000
	greOther    = 0x4c07 // bits 1, 4 and 5, which RFC 1701 had for routes, and the version: not read; RFC 2784 2.3, RFC 2890 2
)

// enter makes p the packet inside of the tunnel that p is, if there is one and it can be read; else p stays as it is. One
// level: what is in the tunnel is not looked into again. The cursor of the outer headers becomes that of the inner ones.
func (p *Packet) enter(outer *cursor, s *Sample) {
	if p.Key.LaterFragment {
		return
	}
	c := cursor{data: s.Data, off: int(p.HeaderLen), carrier: outer.network}
	t, etherType := p.tunnel(&c)
	inner := Packet{Key: sampleKey(s)}
	if reason := inner.inside(&c, etherType); reason != flow.ReasonAccounted {
		outer.short = c.short || reason.Short()
		return
	}
	t.Src, t.Dst, t.IPv6 = p.Key.SrcAddr, p.Key.DstAddr, p.Key.IPv6
	inner.Key.Tunnel = t
	*p, *outer = inner, c
}

// inside reads the payload of a tunnel.
func (p *Packet) inside(c *cursor, etherType uint16) (reason flow.Reason) {
	var version int
	switch etherType {
	case etherTypeIPv4:
		version = 4
	case etherTypeIPv6:
		version = 6
	case etherTypeBridging:
		if version, reason = p.ethernet(c); reason != flow.ReasonAccounted {
			return reason
		}
	default:
		return flow.ReasonNotIP
	}
	return p.network(c, version)
}

// tunnel reads the headers between p's and the payload of the tunnel that p is. The ethertype is that of the payload, 0 if p
// is none.
func (p *Packet) tunnel(c *cursor) (t flow.Tunnel, etherType uint16) {
	vxlan, geneve := []uint16{portVXLAN, portVXLANLinux}, uint16(portGeneve)
	switch k := &p.Key; {
	case k.Proto == protoIPv4:
		return flow.Tunnel{Kind: flow.TunnelIP}, etherTypeIPv4
	case k.Proto == protoIPv6:
		return flow.Tunnel{Kind: flow.TunnelIP}, etherTypeIPv6
	case k.Proto == protoGRE:
		return gre(c)
	case k.Proto == protoUDP && slices.Contains(vxlan, k.DstPort):
		h := c.take(vxlanLen)
		if h == nil || h[0]&vxlanVNI == 0 {
			return t, 0
		}
		return flow.Tunnel{Kind: flow.TunnelVXLAN, ID: vni(h), HasID: true}, etherTypeBridging
	case k.Proto == protoUDP && k.DstPort == geneve:
		h := c.take(geneveLen)
		if h == nil || h[0]>>6 != 0 {
			return t, 0
		}
		c.skip(int(h[0]&0x3f) * 4) // options
		return flow.Tunnel{Kind: flow.TunnelGeneve, ID: vni(h), HasID: true}, binary.BigEndian.Uint16(h[2:])
	}
	return t, 0
}

// vni reads the 24 bits that VXLAN and Geneve have at the same place.
func vni(h []byte) uint32 { return binary.BigEndian.Uint32(h[4:]) >> 8 }

func gre(c *cursor) (t flow.Tunnel, etherType uint16) {
	t.Kind = flow.TunnelGRE
	h := c.take(greLen)
	if h == nil {
		return t, 0
	}
	flags := binary.BigEndian.Uint16(h)
	if flags&greOther != 0 {
		return t, 0
	}
	if flags&greChecksum != 0 {
		c.skip(4)
	}
	if flags&greKey != 0 {
		key := c.take(4)
		if key == nil {
			return t, 0
		}
		t.ID, t.HasID = binary.BigEndian.Uint32(key), true
	}
	if flags&greSequence != 0 {
		c.skip(4)
	}
	return t, binary.BigEndian.Uint16(h[2:])
}
