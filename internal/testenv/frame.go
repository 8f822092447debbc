// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"encoding/binary"
	"net/netip"
)

// MAC is an Ethernet address.
type MAC [6]byte

// Nobody is a unicast address that no interface has. A frame sent to it passes every hook, then the stack drops it
// unanswered: one packet sent is one packet on the wire.
var Nobody = MAC{2, 0, 0, 0, 0, 0xff}

const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
	protoSCTP   = 132

	protoFragment = 44 // IPv6 fragment header; RFC 8200 4.5
)

// Frame says what AppendTo writes. Checksums of transport headers are 0: nobody on the way looks at them.
type Frame struct {
	L3       bool // no link header: a frame for a tun
	Src, Dst MAC
	Tags     []uint16 // inline 802.1Q tags, outermost first
	From, To netip.AddrPort
	Proto    uint8 // IANA number. TCP, UDP, SCTP and ICMP get a header unless Fragment is a later one
	TCPFlags uint8
	Fragment *Fragment
	Payload  int // bytes after the transport header, all zero
}

// Fragment is the place of a fragment in its packet.
type Fragment struct {
	ID     uint16
	Offset int // bytes, a multiple of 8
	More   bool
}

// AppendTo appends the frame to b.
func (f *Frame) AppendTo(b []byte) []byte {
	v6 := f.From.Addr().Is6()
	if !f.L3 {
		b = f.appendLink(b, v6)
	}
	if v6 {
		return f.appendIPv6(b)
	}
	return f.appendIPv4(b)
}

func (f *Frame) appendLink(b []byte, v6 bool) []byte {
	b = append(b, f.Dst[:]...)
	b = append(b, f.Src[:]...)
	for _, tci := range f.Tags {
		b = append(b, 0x81, 0x00)
		b = binary.BigEndian.AppendUint16(b, tci)
	}
	if v6 {
		return append(b, 0x86, 0xdd)
	}
	return append(b, 0x08, 0x00)
}

func (f *Frame) appendIPv4(b []byte) []byte {
	start := len(b)
	var id, offset uint16
	if f.Fragment != nil {
		id, offset = f.Fragment.ID, uint16(f.Fragment.Offset/8)
		if f.Fragment.More {
			offset |= 0x2000
		}
	}
	b = append(b, 0x45, 0, 0, 0) // version and header length, DSCP, total length to come
	b = binary.BigEndian.AppendUint16(b, id)
	b = binary.BigEndian.AppendUint16(b, offset)
	b = append(b, 64, f.Proto, 0, 0) // time to live, protocol, checksum to come
	src, dst := f.From.Addr().As4(), f.To.Addr().As4()
	b = append(b, src[:]...)
	b = append(b, dst[:]...)
	b = f.appendTransport(b)
	header := b[start : start+20]
	binary.BigEndian.PutUint16(header[2:], uint16(len(b)-start))
	binary.BigEndian.PutUint16(header[10:], ^checksum(header))
	return b
}

func (f *Frame) appendIPv6(b []byte) []byte {
	start := len(b)
	next := f.Proto
	if f.Fragment != nil {
		next = protoFragment
	}
	b = append(b, 0x60, 0, 0, 0, 0, 0, next, 64) // version, flow label, length to come, next header, hop limit
	src, dst := f.From.Addr().As16(), f.To.Addr().As16()
	b = append(b, src[:]...)
	b = append(b, dst[:]...)
	if f.Fragment != nil {
		offset := uint16(f.Fragment.Offset)
		if f.Fragment.More {
			offset |= 1
		}
		b = append(b, f.Proto, 0)
		b = binary.BigEndian.AppendUint16(b, offset)
		b = binary.BigEndian.AppendUint32(b, uint32(f.Fragment.ID))
	}
	b = f.appendTransport(b)
	binary.BigEndian.PutUint16(b[start+4:], uint16(len(b)-start-40))
	return b
}

func (f *Frame) appendTransport(b []byte) []byte {
	if f.Fragment == nil || f.Fragment.Offset == 0 {
		b = f.appendTransportHeader(b)
	}
	n := len(b)
	b = append(b, make([]byte, f.Payload)...)
	clear(b[n:])
	return b
}

func (f *Frame) appendTransportHeader(b []byte) []byte {
	ports := func() {
		b = binary.BigEndian.AppendUint16(b, f.From.Port())
		b = binary.BigEndian.AppendUint16(b, f.To.Port())
	}
	switch f.Proto {
	case protoTCP:
		ports()
		b = append(b, 0, 0, 0, 1, 0, 0, 0, 0)             // sequence, acknowledgement
		b = append(b, 5<<4, f.TCPFlags, 0xff, 0xff, 0, 0) // offset, flags, window, checksum
		b = append(b, 0, 0)                               // urgent pointer
	case protoUDP:
		ports()
		b = binary.BigEndian.AppendUint16(b, uint16(8+f.Payload))
		b = append(b, 0, 0)
	case protoSCTP:
		ports()
		b = append(b, 0, 0, 0, 1, 0, 0, 0, 0) // verification tag, checksum
	case protoICMP:
		b = append(b, 8, 0, 0, 0, 0, 1, 0, 1) // echo request
	case protoICMPv6:
		b = append(b, 128, 0, 0, 0, 0, 1, 0, 1)
	}
	return b
}

// checksum is the sum of RFC 1071, not complemented.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
