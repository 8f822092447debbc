// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

const (
	etherTypeMin  = 0x0600 // below, the field is the length of an 802.3 frame; IEEE 802.3 3.2.6
	etherTypeIPv4 = 0x0800
	etherTypeARP  = 0x0806
	etherTypeRARP = 0x8035
	etherTypeVLAN = 0x8100 // customer tag; IEEE 802.1Q
	etherTypeIPv6 = 0x86dd
	etherTypeMPLS = 0x8847 // RFC 3032 5, RFC 5332: 0x8848 is the same, with labels that upstream chose
	etherTypePPP  = 0x8864 // PPPoE session; RFC 2516
	etherTypeQinQ = 0x88a8 // service tag; IEEE 802.1ad

	etherTypeMPLSUpstream = 0x8848

	ethernetLen   = 14
	vlanTagLen    = 4 // as it follows an ethertype: TCI, then the next ethertype
	maxInlineTags = 2 // beside an offloaded one
	labelLen      = 4 // label 20 bits, traffic class 3, bottom of stack 1, TTL 8; RFC 3032 2.1
	maxLabels     = 8
	pppoeLen      = 6 // version and type, code, session, length; RFC 2516 4

	pppIPv4 = 0x0021 // RFC 1332
	pppIPv6 = 0x0057 // RFC 5072
)

// link reads everything before the IP header and returns the version of IP that follows, 4 or 6.
func (p *Packet) link(c *cursor, s *Sample) (version int, _ flow.Reason) {
	if s.L3 {
		return versionNibble(c, s)
	}
	if s.Tagged {
		p.tag(s.VLANTCI)
	}
	return p.ethernet(c)
}

// ethernet reads a frame from its addresses on.
func (p *Packet) ethernet(c *cursor) (version int, _ flow.Reason) {
	h := c.take(ethernetLen)
	if h == nil {
		return 0, flow.ReasonShortEthernet
	}
	etherType, reason := p.tags(c, binary.BigEndian.Uint16(h[12:]))
	if reason != flow.ReasonAccounted {
		return 0, reason
	}
	switch etherType {
	case etherTypeMPLS, etherTypeMPLSUpstream:
		return p.labels(c, etherType)
	case etherTypePPP:
		return p.pppoe(c)
	}
	return p.payload(etherType)
}

// versionNibble decides on a device without link header: nothing else there says which IP it is. That it is IP at all, the
// kernel knows.
func versionNibble(c *cursor, s *Sample) (version int, _ flow.Reason) {
	if len(c.data) == 0 || s.NotIP {
		return 0, flow.ReasonNotIP
	}
	switch v := c.data[0] >> 4; v {
	case 4, 6:
		return int(v), flow.ReasonAccounted
	default:
		return 0, flow.ReasonNotIP
	}
}

// tags walks the tags that are in the frame itself and returns the ethertype after the last. Depth is checked before
// length: a third tag is too deep even if the frame ends inside it.
func (p *Packet) tags(c *cursor, etherType uint16) (uint16, flow.Reason) {
	for n := 0; isTag(etherType); n++ {
		if n == maxInlineTags {
			return 0, flow.ReasonVLANDepth
		}
		h := c.take(vlanTagLen)
		if h == nil {
			return 0, flow.ReasonShortVLAN
		}
		p.tag(binary.BigEndian.Uint16(h))
		etherType = binary.BigEndian.Uint16(h[2:])
	}
	return etherType, flow.ReasonAccounted
}

func isTag(etherType uint16) bool {
	return etherType == etherTypeVLAN || etherType == etherTypeQinQ
}

// tag keeps the id of the outermost tag, which is the first one told.
func (p *Packet) tag(tci uint16) {
	if !p.Key.Tagged {
		p.Key.Tagged = true
		p.Key.VLAN = tci & 0x0fff
	}
}

// labels walks a stack of them. What lies behind the last does not say what it is; its first nibble does, as far as that
// goes: 4 and 6 are IP, pseudowires begin with 0 or 1 (RFC 4928 2), or with the address of an Ethernet frame.
func (p *Packet) labels(c *cursor, etherType uint16) (version int, _ flow.Reason) {
	for range maxLabels {
		h := c.take(labelLen)
		if h == nil {
			return 0, flow.ReasonShortMPLS
		}
		if bottom := h[2]&1 != 0; !bottom {
			continue
		}
		if c.off == len(c.data) {
			return 0, flow.ReasonShortMPLS
		}
		switch c.data[c.off] >> 4 {
		case 4:
			return p.payload(etherTypeIPv4)
		case 6:
			return p.payload(etherTypeIPv6)
		}
		return p.payload(etherType)
	}
	return 0, flow.ReasonMPLSDepth
}

// pppoe reads the header of session data, and the PPP protocol: two bytes, or one if that is odd (RFC 1661 6.5).
func (p *Packet) pppoe(c *cursor) (version int, _ flow.Reason) {
	h := c.take(pppoeLen)
	if h == nil {
		return 0, flow.ReasonShortPPPoE
	}
	if versionType, code := h[0], h[1]; versionType != 0x11 || code != 0 {
		return p.payload(etherTypePPP)
	}
	h = c.take(2)
	if h == nil {
		return 0, flow.ReasonShortPPPoE
	}
	protocol := binary.BigEndian.Uint16(h)
	if compressed := h[0]&1 != 0; compressed {
		protocol = uint16(h[0])
		c.skip(-1)
	}
	switch protocol {
	case pppIPv4:
		return p.payload(etherTypeIPv4)
	case pppIPv6:
		return p.payload(etherTypeIPv6)
	}
	return p.payload(etherTypePPP)
}

// payload says what lies behind the link layer.
func (p *Packet) payload(etherType uint16) (version int, _ flow.Reason) {
	if etherType < etherTypeMin {
		return 0, flow.ReasonLLC
	}
	p.EtherType = etherType
	switch etherType {
	case etherTypeIPv4:
		return 4, flow.ReasonAccounted
	case etherTypeIPv6:
		return 6, flow.ReasonAccounted
	case etherTypeARP, etherTypeRARP:
		return 0, flow.ReasonARP
	default:
		return 0, flow.ReasonEtherType
	}
}
