// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"

	"github.com/gopacket/gopacket/layers"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

const protoESP = 50

// udpTunnel looks behind a UDP header. Any program may send to these ports: what is no valid header of a tunnel is payload.
// Receivers ignore reserved bits (RFC 7348 5, RFC 8926 3.4), and extensions use them; then only a packet inside proves the tunnel.
func (d *Decoder) udpTunnel(h *Details, s *Sample, b []byte) {
	reserved := false
	switch h.Key.DstPort {
	case portVXLAN, portVXLANLinux:
		if d.vxlan.DecodeFromBytes(b, feedback{}) != nil || b[0]&vxlanVNI == 0 {
			return
		}
		reserved = b[0] != vxlanVNI || b[1]|b[2]|b[3]|b[7] != 0
		h.carries(s, flow.TunnelVXLAN, etherTypeBridging, d.vxlan.Payload)
		h.HasTunnelID, h.TunnelID = true, d.vxlan.VNI
	case portGeneve:
		if len(b) < geneveLen || b[0]>>6 != 0 { // version
			return
		}
		reserved = b[1]&0x3f|b[7] != 0
		options := int(b[0]&0x3f) * 4 // gopacket would copy them one by one
		h.carries(s, flow.TunnelGeneve, binary.BigEndian.Uint16(b[2:]), b[min(geneveLen+options, len(b)):])
		h.HasTunnelID, h.TunnelID = true, vni(b)
	}
	if reserved && !h.HasInner {
		h.Tunnel, h.HasTunnelID, h.TunnelID = 0, false, 0
	}
}

// readGRE reads version 0. Source routes, which RFC 2784 did away with, and PPTP, version 1, are left alone.
func (d *Decoder) readGRE(h *Details, s *Sample, b []byte) {
	if len(b) < greLen || binary.BigEndian.Uint16(b)&greOther != 0 || d.gre.DecodeFromBytes(b, feedback{}) != nil {
		return
	}
	h.carries(s, flow.TunnelGRE, uint16(d.gre.Protocol), d.gre.Payload)
	h.HasTunnelID, h.TunnelID = d.gre.KeyPresent, d.gre.Key
}

func (h *Details) ipip(s *Sample, b []byte) {
	etherType := uint16(etherTypeIPv4)
	if h.Key.Proto == protoIPv6 {
		etherType = etherTypeIPv6
	}
	h.carries(s, flow.TunnelIP, etherType, b)
}

// carries reads the packet in a tunnel, with the rules of any packet. One whose ports are not its own is none.
func (h *Details) carries(s *Sample, t flow.TunnelKind, etherType uint16, b []byte) {
	h.Tunnel = t
	inner := Sample{Segments: s.Segments, L3: true, Data: b}
	switch layers.EthernetType(etherType) {
	case etherTypeBridging:
		inner.L3 = false
	case etherTypeIPv4, etherTypeIPv6:
	default:
		return
	}
	c := cursor{data: b}
	var p Packet
	p.read(&c, &inner)
	if p.Reason != flow.ReasonAccounted || inner.L3 && p.Key.IPv6 != (etherType == etherTypeIPv6) {
		return
	}
	c.end(&inner, &p.Key)
	if c.holds(&p) {
		h.HasInner, h.Inner = true, p.Key
	}
}
