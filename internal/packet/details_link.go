// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"net/netip"

	"github.com/gopacket/gopacket/layers"
)

// link reads everything before the IP header. It does not mind where Packet stopped, or that a header is missing.
func (h *Details) link(s *Sample) {
	c := cursor{data: s.Data}
	b := c.take(ethernetLen)
	if s.L3 || b == nil {
		return
	}
	h.HasEthernet = true
	h.DstMAC, h.SrcMAC = MAC(b), MAC(b[6:])
	if s.Tagged {
		h.Tags = append(h.Tags, Tag(s.VLANTCI))
	}
	etherType := binary.BigEndian.Uint16(b[12:])
	for n := 0; n < maxInlineTags && isTag(etherType); n++ {
		if b = c.take(vlanTagLen); b == nil {
			return
		}
		h.Tags = append(h.Tags, Tag(binary.BigEndian.Uint16(b)))
		etherType = binary.BigEndian.Uint16(b[2:])
	}
	if etherType == etherTypeMPLS || etherType == etherTypeMPLSUpstream {
		h.labels(&c)
	}
}

func (h *Details) labels(c *cursor) {
	for range maxLabels {
		b := c.take(labelLen)
		if b == nil {
			return
		}
		l := Label(binary.BigEndian.Uint32(b))
		h.Labels = append(h.Labels, l)
		if l.Bottom() {
			return
		}
	}
}

// readARP reads ARP and RARP. Endpoints are told of IPv4 over Ethernet only.
func (d *Decoder) readARP(h *Details, b []byte) {
	if d.arp.DecodeFromBytes(b, feedback{}) != nil {
		return
	}
	h.HasARP, h.ARPOperation = true, d.arp.Operation
	if d.arp.AddrType != layers.LinkTypeEthernet || d.arp.Protocol != layers.EthernetTypeIPv4 ||
		d.arp.HwAddressSize != 6 || d.arp.ProtAddressSize != 4 {
		return
	}
	h.HasARPEndpoint = true
	h.ARPSender = ARPEndpoint{MAC(d.arp.SourceHwAddress), netip.AddrFrom4([4]byte(d.arp.SourceProtAddress))}
	h.ARPTarget = ARPEndpoint{MAC(d.arp.DstHwAddress), netip.AddrFrom4([4]byte(d.arp.DstProtAddress))}
}
