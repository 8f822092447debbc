// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
	protoSCTP   = 132

	tcpLen  = 20 // without options
	udpLen  = 8
	sctpLen = 12 // the common header, before the first chunk
	icmpLen = 8  // both versions
)

// transport reads the header behind IP, which must be there whole: half a header is how a tiny fragment hides its ports
// (RFC 1858). A later fragment has none, and other protocols are accounted by their number alone.
func (p *Packet) transport(c *cursor) flow.Reason {
	reason := flow.ReasonAccounted
	if !p.Key.LaterFragment {
		reason = p.transportHeader(c)
	}
	p.HeaderLen = uint32(c.off)
	return reason
}

func (p *Packet) transportHeader(c *cursor) flow.Reason {
	switch p.Key.Proto {
	case protoTCP:
		return p.tcp(c)
	case protoUDP:
		return p.ports(c.take(udpLen))
	case protoSCTP:
		return p.ports(c.take(sctpLen))
	case protoICMP:
		if !p.Key.IPv6 {
			return p.icmp(c)
		}
	case protoICMPv6:
		if p.Key.IPv6 {
			return p.icmp(c)
		}
	}
	return flow.ReasonAccounted
}

// transportLen is how much must be there of the header behind IP.
func (p *Packet) transportLen() int {
	switch {
	case p.HasTCP:
		return tcpLen
	case p.HasICMP:
		return icmpLen
	case p.Key.HasPorts() && p.Key.Proto == protoUDP:
		return udpLen
	case p.Key.HasPorts():
		return sctpLen
	}
	return 0
}

// tcp reads a TCP header. Its options are not looked at and need not be there: the kernel program counts a packet before
// it would come to them.
func (p *Packet) tcp(c *cursor) flow.Reason {
	h := c.take(tcpLen)
	if reason := p.ports(h); reason != flow.ReasonAccounted {
		return reason
	}
	p.HasTCP = true
	p.TCPSeq = binary.BigEndian.Uint32(h[4:])
	p.TCPAck = binary.BigEndian.Uint32(h[8:])
	p.TCPFlags = h[13]
	p.TCPWindow = binary.BigEndian.Uint16(h[14:])
	c.skip(max(int(h[12]>>4)*4, tcpLen) - tcpLen)
	return flow.ReasonAccounted
}

// ports reads what TCP, UDP and SCTP begin with. h is the whole header, nil if the frame ends inside it.
func (p *Packet) ports(h []byte) flow.Reason {
	if h == nil {
		return flow.ReasonShortTransport
	}
	p.Key.SrcPort = binary.BigEndian.Uint16(h)
	p.Key.DstPort = binary.BigEndian.Uint16(h[2:])
	return flow.ReasonAccounted
}

func (p *Packet) icmp(c *cursor) flow.Reason {
	h := c.take(icmpLen)
	if h == nil {
		return flow.ReasonShortTransport
	}
	p.HasICMP = true
	p.ICMPType = h[0]
	p.ICMPCode = h[1]
	p.Key.SrcPort, p.Key.DstPort = flow.ICMPPorts(h, p.Key.IPv6)
	return flow.ReasonAccounted
}
