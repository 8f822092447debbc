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
	etherTypeQinQ = 0x88a8 // service tag; IEEE 802.1ad

	ethernetLen   = 14
	vlanTagLen    = 4 // as it follows an ethertype: TCI, then the next ethertype
	maxInlineTags = 2 // beside an offloaded one
)

// link reads everything before the IP header and returns the version of IP that follows, 4 or 6.
func (p *Packet) link(c *cursor, s *Sample) (version int, _ flow.Reason) {
	if s.L3 {
		return versionNibble(c)
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
	return p.payload(etherType)
}

// versionNibble decides on a device without link header: nothing else there says which IP it is.
func versionNibble(c *cursor) (version int, _ flow.Reason) {
	if len(c.data) == 0 {
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
