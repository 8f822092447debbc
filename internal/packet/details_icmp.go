// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"net/netip"

	"github.com/gopacket/gopacket/layers"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

const (
	protoIGMP = 2

	icmpEchoReply      = 0 // RFC 792
	icmpUnreachable    = 3
	icmpSourceQuench   = 4
	icmpRedirect       = 5
	icmpEcho           = 8
	icmpTimeExceeded   = 11
	icmpParameter      = 12
	icmpTimestamp      = 13
	icmpTimestampReply = 14
	codeTooBig         = 4 // of icmpUnreachable; RFC 1191 4

	icmp6Unreachable    = 1 // RFC 4443
	icmp6TooBig         = 2
	icmp6TimeExceeded   = 3
	icmp6Parameter      = 4
	icmp6Echo           = 128
	icmp6EchoReply      = 129
	icmp6Query          = 130 // multicast listener; RFC 2710, RFC 3810
	icmp6Report         = 131
	icmp6Done           = 132
	icmp6RouterSolicit  = 133 // neighbour discovery; RFC 4861
	icmp6RouterAdvert   = 134
	icmp6NeighborSol    = 135
	icmp6NeighborAdvert = 136
	icmp6Redirect       = 137
	icmp6ReportV2       = 143 // RFC 3810 5.2

	igmpLen      = 8
	igmpQuery    = 0x11 // RFC 2236 2.1
	igmpReportV1 = 0x12
	igmpReportV2 = 0x16
	igmpLeave    = 0x17
	igmpReportV3 = 0x22 // RFC 3376 4
)

// icmp4 reads a message whose header is there.
func (h *Details) icmp4(b []byte) {
	switch h.ICMPType {
	case icmpEcho, icmpEchoReply, icmpTimestamp, icmpTimestampReply:
		h.echo(b)
	case icmpRedirect:
		h.ICMPTarget = netip.AddrFrom4([4]byte(b[4:]))
		h.quote(b[icmpLen:])
	case icmpUnreachable:
		if h.ICMPCode == codeTooBig {
			h.HasMTU, h.MTU = true, uint32(binary.BigEndian.Uint16(b[6:]))
		}
		h.quote(b[icmpLen:])
	case icmpSourceQuench, icmpTimeExceeded, icmpParameter:
		h.quote(b[icmpLen:])
	}
}

// icmp6 reads a message whose header is there.
func (d *Decoder) icmp6(h *Details, b []byte) {
	switch h.ICMPType {
	case icmp6Echo, icmp6EchoReply:
		h.echo(b)
	case icmp6TooBig:
		h.HasMTU, h.MTU = true, binary.BigEndian.Uint32(b[4:])
		h.quote(b[icmpLen:])
	case icmp6Unreachable, icmp6TimeExceeded, icmp6Parameter:
		h.quote(b[icmpLen:])
	case icmp6Query, icmp6Report, icmp6Done:
		h.group(b[icmpLen:])
	case icmp6ReportV2:
		h.groupRecords(b[icmpLen:], binary.BigEndian.Uint16(b[6:]))
	case icmp6RouterSolicit:
		d.linkLayer(h, b[icmpLen:])
	case icmp6RouterAdvert:
		d.linkLayer(h, b[min(16, len(b)):])
	case icmp6NeighborSol, icmp6NeighborAdvert:
		h.ICMPTarget = addr6(b[icmpLen:])
		d.linkLayer(h, b[min(24, len(b)):])
	case icmp6Redirect:
		h.ICMPTarget = addr6(b[icmpLen:])
		h.ICMPDestination = addr6(b[min(24, len(b)):])
		d.linkLayer(h, b[min(40, len(b)):])
	}
}

func (h *Details) echo(b []byte) {
	h.HasEcho, h.EchoID, h.EchoSeq = true, binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
}

// addr6 is the address that b begins with; the zero Addr if it ends before.
func addr6(b []byte) (a netip.Addr) {
	if len(b) >= 16 {
		a = netip.AddrFrom16([16]byte(b))
	}
	return a
}

// linkLayer reads the first option that tells a link-layer address; RFC 4861 4.6.1.
func (d *Decoder) linkLayer(h *Details, b []byte) {
	d.nd = d.nd[:0]
	_ = d.nd.DecodeFromBytes(b[:min(len(b), maxNDOptions)], feedback{}) // what comes before a bad option holds
	for i := range d.nd {
		o := &d.nd[i]
		if (o.Type == layers.ICMPv6OptSourceAddress || o.Type == layers.ICMPv6OptTargetAddress) && len(o.Data) == len(MAC{}) {
			h.HasICMPLinkLayer, h.ICMPLinkLayer = true, MAC(o.Data)
			return
		}
	}
}

// quote reads the packet that an error quotes: its addresses, and its ports, for which there are 8 bytes (RFC 792). It is of
// the same version of IP as the error.
func (h *Details) quote(b []byte) {
	version := 4
	if h.Key.IPv6 {
		version = 6
	}
	c := cursor{data: b}
	var p Packet
	if p.ip(&c, version) != flow.ReasonAccounted {
		return
	}
	if p.Key.HasPorts() && p.ports(c.take(4)) != flow.ReasonAccounted {
		return
	}
	h.HasQuoted, h.Quoted = true, p.Key
}

// igmp reads the groups of a message; those of MLD are read by the same functions.
func (h *Details) igmp(b []byte) {
	if len(b) < igmpLen {
		return
	}
	h.HasIGMP, h.IGMPType = true, b[0]
	switch h.IGMPType {
	case igmpQuery, igmpReportV1, igmpReportV2, igmpLeave:
		h.group(b[4:])
	case igmpReportV3:
		h.groupRecords(b[igmpLen:], binary.BigEndian.Uint16(b[6:]))
	}
}

// group keeps the address that b begins with. A general query has none: all zeros.
func (h *Details) group(b []byte) (length int) {
	length = 4
	if h.Key.IPv6 {
		length = 16
	}
	if len(b) < length {
		return len(b)
	}
	if a, _ := netip.AddrFromSlice(b[:length]); !a.IsUnspecified() {
		h.Groups = append(h.Groups, a)
	}
	return length
}

// groupRecords reads records of type 8, auxiliary length 8 in words, number of sources 16, the group, and both lists;
// RFC 3376 4.2.4, RFC 3810 5.2.4.
func (h *Details) groupRecords(b []byte, n uint16) {
	for ; n > 0 && len(b) > 4 && len(h.Groups) < maxTold; n-- {
		auxiliary, sources := int(b[1])*4, int(binary.BigEndian.Uint16(b[2:]))
		length := h.group(b[4:])
		b = b[min(4+length+sources*length+auxiliary, len(b)):]
	}
}
