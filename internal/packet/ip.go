// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

const (
	ipv4Len           = 20 // without options
	ipv6Len           = 40 // without extension headers
	ipv6ExtensionLen  = 8  // the least, and all that is read of one
	maxIPv6Extensions = 8

	ipv4FragmentOffset = 0x1fff // low 13 bits, beside the flags DF and MF; RFC 791 3.1
	ipv6FragmentOffset = 0xfff8 // high 13 bits, above two reserved bits and M; RFC 8200 4.5
)

// Extension headers by protocol number. ESP (50) is none: what follows it is encrypted. Nor is no-next-header (59).
const (
	extensionHopByHop    = 0   // RFC 8200 4.3
	extensionRouting     = 43  // RFC 8200 4.4
	extensionFragment    = 44  // RFC 8200 4.5
	extensionAH          = 51  // RFC 4302
	extensionDestination = 60  // RFC 8200 4.6
	extensionMobility    = 135 // RFC 6275
	extensionHIP         = 139 // RFC 7401
	extensionShim6       = 140 // RFC 5533
)

// ipv4 reads an IPv4 header and skips its options, which must be there. Total length and checksum are not looked at.
func (p *Packet) ipv4(c *cursor) flow.Reason {
	h := c.take(ipv4Len)
	if h == nil {
		return flow.ReasonShortIPv4
	}
	headerLen := int(h[0]&0x0f) * 4
	if h[0]>>4 != 4 || headerLen < ipv4Len {
		return flow.ReasonBadIPv4
	}
	if c.take(headerLen-ipv4Len) == nil {
		return flow.ReasonShortIPv4
	}
	p.trafficClass(h[1])
	p.Key.LaterFragment = binary.BigEndian.Uint16(h[6:])&ipv4FragmentOffset != 0
	p.TTL = h[8]
	p.Key.Proto = h[9]
	copy(p.Key.SrcAddr[12:], h[12:16])
	copy(p.Key.DstAddr[12:], h[16:20])
	return flow.ReasonAccounted
}

// ipv6 reads an IPv6 header and walks its extension headers. Payload length and flow label are not looked at.
func (p *Packet) ipv6(c *cursor) flow.Reason {
	h := c.take(ipv6Len)
	if h == nil {
		return flow.ReasonShortIPv6
	}
	if h[0]>>4 != 6 {
		return flow.ReasonBadIPv6
	}
	p.Key.IPv6 = true
	p.trafficClass(h[0]<<4 | h[1]>>4)
	p.TTL = h[7]
	copy(p.Key.SrcAddr[:], h[8:24])
	copy(p.Key.DstAddr[:], h[24:40])
	return p.extensions(c, h[6])
}

// trafficClass splits the octet that IPv4 calls type of service.
func (p *Packet) trafficClass(octet uint8) {
	p.DSCP = octet >> 2
	p.ECN = octet & 3
}

// extensions walks to the first header that is no extension, or to a later fragment, where the chain cannot be followed
// any further: the rest of it was in the first fragment. Depth is checked before length, as for tags.
func (p *Packet) extensions(c *cursor, next uint8) flow.Reason {
	for n := 0; isExtension(next); n++ {
		if n == maxIPv6Extensions {
			return flow.ReasonIPv6ExtensionDepth
		}
		h := c.take(ipv6ExtensionLen)
		if h == nil {
			return flow.ReasonShortIPv6Extension
		}
		c.skip(extensionLen(next, h[1]) - ipv6ExtensionLen)
		if next == extensionFragment && binary.BigEndian.Uint16(h[2:])&ipv6FragmentOffset != 0 {
			p.Key.LaterFragment = true
			p.Key.Proto = h[0]
			return flow.ReasonAccounted
		}
		next = h[0]
	}
	p.Key.Proto = next
	return flow.ReasonAccounted
}

func isExtension(proto uint8) bool {
	switch proto {
	case extensionHopByHop, extensionRouting, extensionFragment, extensionAH,
		extensionDestination, extensionMobility, extensionHIP, extensionShim6:
		return true
	}
	return false
}

// extensionLen is the length in bytes of a whole extension header; field is its second byte. Never below 8.
func extensionLen(proto, field uint8) int {
	switch proto {
	case extensionFragment:
		return ipv6ExtensionLen // the byte is reserved there
	case extensionAH:
		return (int(field) + 2) * 4 // in 4-byte words, minus 2; RFC 4302 2.2
	default:
		return (int(field) + 1) * 8 // in 8-byte words, minus 1; RFC 8200 4.3
	}
}
