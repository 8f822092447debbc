// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
)

const (
	flagDontFragment  = 0x4000 // beside the offset; RFC 791 3.1
	flagMoreFragments = 0x2000
	flagMore          = 1 // of the fragment header; RFC 8200 4.5
	flowLabelMask     = 0xfffff
)

// network reads the rest of the IP header. It is there, with its options or extensions: the packet is accounted.
func (h *Details) network(c *cursor) {
	b := c.data[c.network:]
	if h.Key.IPv6 {
		h.FlowLabel = binary.BigEndian.Uint32(b) & flowLabelMask
		h.extensions(c)
		return
	}
	h.HasIPID, h.IPID = true, uint32(binary.BigEndian.Uint16(b[4:]))
	flagsOffset := binary.BigEndian.Uint16(b[6:])
	h.DontFragment = flagsOffset&flagDontFragment != 0
	h.fragment(uint32(flagsOffset&ipv4FragmentOffset)*8, flagsOffset&flagMoreFragments != 0)
	h.ipv4Options(b[ipv4Len:min(int(b[0]&0x0f)*4, len(b))])
}

// ipv4Options walks options to the end of the list or to one that has no such length; RFC 791 3.1. gopacket has an error
// instead of a list if one is broken.
func (h *Details) ipv4Options(b []byte) {
	const end, noOperation = 0, 1
	for len(b) > 0 {
		length := 1
		if kind := b[0]; kind != end && kind != noOperation {
			if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
				return
			}
			length = int(b[1])
		}
		h.IPOptions = append(h.IPOptions, b[0])
		if b[0] == end {
			return
		}
		b = b[length:]
	}
}

// fragment keeps offset, in bytes, and flag of a fragment.
func (h *Details) fragment(offset uint32, more bool) {
	if offset > 0 || more {
		h.HasFragment, h.FragmentOffset, h.MoreFragments = true, offset, more
	}
}

// extensions walks the chain again that Packet walked, up to where that found its end.
func (h *Details) extensions(c *cursor) {
	next := c.data[c.network+6]
	for off := c.network + ipv6Len; off < c.behind && len(h.Extensions) < maxIPv6Extensions; {
		b := c.from(off)
		if len(b) < ipv6ExtensionLen {
			return // behind the end of the packet
		}
		h.Extensions = append(h.Extensions, next)
		if next == extensionFragment {
			offsetMore := binary.BigEndian.Uint16(b[2:])
			h.HasIPID, h.IPID = true, binary.BigEndian.Uint32(b[4:])
			h.fragment(uint32(offsetMore&ipv6FragmentOffset), offsetMore&flagMore != 0)
		}
		off += extensionLen(next, b[1])
		next = b[0]
	}
}
