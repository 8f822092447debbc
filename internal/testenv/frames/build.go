// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"encoding/binary"
	"slices"
)

// The builders below nest as headers do: each takes what follows it as its last arguments, if anything does. Checksums are 0, since
// neither parser looks at them.

const (
	typeIPv4 = 0x0800
	typeIPv6 = 0x86dd
	typeVLAN = 0x8100
	typeQinQ = 0x88a8
	typeMPLS = 0x8847
	typePPP  = 0x8864 // PPPoE session

	pppIPv4 = 0x0021
	pppIPv6 = 0x0057

	protoHopByHop    = 0
	protoICMP        = 1
	protoTCP         = 6
	protoUDP         = 17
	protoRouting     = 43
	protoFragment    = 44
	protoGRE         = 47
	protoESP         = 50
	protoAH          = 51
	protoICMPv6      = 58
	protoNoNext      = 59
	protoDestination = 60
	protoSCTP        = 132
	protoMobility    = 135
	protoHIP         = 139
	protoShim6       = 140
)

func ethernet(etherType uint16, payload ...[]byte) []byte {
	return slices.Concat(
		[]byte{0x02, 0, 0, 0, 0, 0x0b}, // destination, locally administered
		[]byte{0x02, 0, 0, 0, 0, 0x0a}, // source
		u16(etherType),                 // type, or length if below 1536
		slices.Concat(payload...))
}

// vlan is a tag as it follows an ethertype of 0x8100 or 0x88a8.
func vlan(tci, etherType uint16, payload ...[]byte) []byte {
	return slices.Concat(
		u16(tci),       // priority 3, DEI 1, id 12 bits
		u16(etherType), // of what follows
		slices.Concat(payload...))
}

// label is an entry of a label stack, not the last; RFC 3032 2.1.
func label(value uint32, payload ...[]byte) []byte {
	return slices.Concat(
		binary.BigEndian.AppendUint32(nil, value<<12|64), // label 20 bits, traffic class 3, bottom of stack 1, TTL 64
		slices.Concat(payload...))
}

// bottom is the last entry of a label stack.
func bottom(value uint32, payload ...[]byte) []byte {
	entry := label(value, payload...)
	entry[2] |= 1
	return entry
}

// pppoe is the header of session data; the PPP protocol comes with the payload.
func pppoe(payload ...[]byte) []byte {
	return slices.Concat(
		[]byte{0x11, 0}, // version 1, type 1, code 0
		u16(0x1234),     // session
		u16(uint16(len(slices.Concat(payload...)))), // length
		slices.Concat(payload...))
}

// ip4 is an IPv4 header without options, of a packet that is not fragmented.
func ip4(proto byte, payload ...[]byte) []byte {
	return ip4Fragment(dontFragment, proto, payload...)
}

const (
	dontFragment  = 0x4000
	moreFragments = 0x2000
)

// ip4Fragment is ip4 with flags, 3 bits, and fragment offset, 13 bits in units of 8 bytes.
func ip4Fragment(flagsOffset uint16, proto byte, payload ...[]byte) []byte {
	return ip4Header(0x45, flagsOffset, proto, payload...)
}

// ip4Options is ip4 with words 4-byte words of options, all no-operation.
func ip4Options(words int, proto byte, payload ...[]byte) []byte {
	noOperation := slices.Repeat([]byte{0x01}, 4*words) // RFC 791 3.1
	return ip4Header(0x45+byte(words), dontFragment, proto, noOperation, slices.Concat(payload...))
}

// ip4Header is an IPv4 header whose first byte is given: version 4 bits, header length 4 bits in words.
func ip4Header(versionIHL byte, flagsOffset uint16, proto byte, payload ...[]byte) []byte {
	length := 20 + len(slices.Concat(payload...))
	return slices.Concat(
		[]byte{versionIHL},
		[]byte{0x2a},            // DSCP 10 (AF11), ECN 2 (ECT(0))
		u16(uint16(length)),     // total length
		u16(0x1d1d),             // identification
		u16(flagsOffset),        // flags 3 bits, fragment offset 13 bits
		[]byte{64},              // time to live
		[]byte{proto},           // protocol
		u16(0),                  // header checksum
		[]byte{192, 0, 2, 1},    // source
		[]byte{198, 51, 100, 2}, // destination
		slices.Concat(payload...))
}

// ip6 is an IPv6 header; next is a protocol or the first extension header.
func ip6(next byte, payload ...[]byte) []byte {
	return slices.Concat(
		[]byte{0x62, 0xa1, 0x23, 0x45},              // version 6, DSCP 10, ECN 2, flow label 0x12345
		u16(uint16(len(slices.Concat(payload...)))), // payload length
		[]byte{next}, // next header
		[]byte{63},   // hop limit
		[]byte{0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01}, // source 2001:db8::1
		[]byte{0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 2}, // destination 2001:db8::1002
		slices.Concat(payload...))
}

// options is a hop-by-hop or destination options header of 8 or more bytes, a multiple of 8, filled by one PadN.
func options(next byte, length int, payload ...[]byte) []byte {
	return slices.Concat(
		[]byte{next},                // next header
		[]byte{byte(length/8 - 1)},  // length in 8-byte words, minus 1
		[]byte{1, byte(length - 4)}, // PadN and the length of its data
		make([]byte, length-4),
		slices.Concat(payload...))
}

// jumbo is a hop-by-hop header of 8 bytes whose option says how much is behind the IPv6 header; RFC 2675 2.
func jumbo(next byte, length uint32, payload ...[]byte) []byte {
	return slices.Concat(
		[]byte{next, 0}, // next header, length in 8-byte words minus 1
		[]byte{0xc2, 4}, // jumbo payload and the length of its data
		u32(length),     // payload length, this header included
		slices.Concat(payload...))
}

// routing is a segment routing header of 24 bytes with one segment, already reached; RFC 8754 2.
func routing(next byte, payload ...[]byte) []byte {
	return slices.Concat(
		[]byte{next, 2}, // next header, length in 8-byte words minus 1
		[]byte{4, 0},    // type segment routing, segments left
		[]byte{0, 0},    // last entry, flags
		u16(0),          // tag
		[]byte{0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 2}, // segment 0
		slices.Concat(payload...))
}

// fragment is an IPv6 fragment header; offset is in units of 8 bytes.
func fragment(next byte, offset uint16, more bool, payload ...[]byte) []byte {
	offsetMore := offset << 3
	if more {
		offsetMore |= 1
	}
	return slices.Concat(
		[]byte{next, 0}, // next header, reserved
		u16(offsetMore), // offset 13 bits, reserved 2 bits, M 1 bit
		[]byte{0, 0, 0, 0x1d},
		slices.Concat(payload...))
}

// authentication is an AH of 24 bytes, with the 96-bit check value of HMAC-SHA-1-96.
func authentication(next byte, payload ...[]byte) []byte {
	return slices.Concat(
		[]byte{next, 4},          // next header, length in 4-byte words minus 2
		u16(0),                   // reserved
		[]byte{0, 0, 0x10, 0x01}, // security parameters index
		[]byte{0, 0, 0, 1},       // sequence number
		make([]byte, 12),         // integrity check value
		slices.Concat(payload...))
}

// mobility is a binding refresh request of 8 bytes; RFC 6275 6.1.2.
func mobility(next byte, payload ...[]byte) []byte {
	return slices.Concat(
		[]byte{next, 0},    // next header, length in 8-byte words minus 1
		[]byte{0, 0, 0, 0}, // type, reserved, checksum
		u16(0),             // reserved
		slices.Concat(payload...))
}

// hip is an I1 packet of 40 bytes, here before another header, which RFC 7401 5.1 leaves room for.
func hip(next byte, payload ...[]byte) []byte {
	return slices.Concat(
		[]byte{next, 4},    // next header, length in 8-byte words minus 1
		[]byte{0x01, 0x21}, // packet type I1, version 2 and a fixed bit
		[]byte{0, 0, 0, 0}, // checksum, controls
		make([]byte, 32),   // sender's and receiver's host identity tags
		slices.Concat(payload...))
}

// shim6 is a payload extension header of 8 bytes; RFC 5533 5.2.
func shim6(next byte, payload ...[]byte) []byte {
	return slices.Concat(
		[]byte{next, 0},                // next header, length in 8-byte words minus 1
		[]byte{0x80, 0, 0, 0, 0, 0x77}, // payload bit 1, context tag 47 bits
		slices.Concat(payload...))
}

// tcp is a TCP header without options.
func tcp(flags byte, payload ...[]byte) []byte {
	return tcpOffset(5, flags, payload...)
}

// tcpOffset is a TCP header whose data offset, in 4-byte words, is given; options come with the payload.
func tcpOffset(words, flags byte, payload ...[]byte) []byte {
	return slices.Concat(
		u16(49152),                     // source port
		u16(443),                       // destination port
		[]byte{0x01, 0x02, 0x03, 0x04}, // sequence number
		[]byte{0x0a, 0x0b, 0x0c, 0x0d}, // acknowledgement number
		[]byte{words << 4},             // data offset 4 bits, reserved
		[]byte{flags},                  // CWR ECE URG ACK PSH RST SYN FIN
		u16(0xfaf0),                    // window
		u16(0),                         // checksum
		u16(0),                         // urgent pointer
		slices.Concat(payload...))
}

func udp(payload ...[]byte) []byte {
	return slices.Concat(
		u16(49152), // source port
		u16(443),   // destination port
		u16(uint16(8+len(slices.Concat(payload...)))), // length
		u16(0), // checksum: none
		slices.Concat(payload...))
}

func sctp(payload ...[]byte) []byte {
	return slices.Concat(
		u16(49152),         // source port
		u16(443),           // destination port
		[]byte{0, 0, 0, 7}, // verification tag
		[]byte{0, 0, 0, 0}, // checksum
		slices.Concat(payload...))
}

// icmp is a header of ICMP or ICMPv6.
func icmp(typ, code byte, payload ...[]byte) []byte {
	return slices.Concat(
		[]byte{typ, code},
		u16(0), // checksum
		u16(1), // identifier, of an echo
		u16(2), // sequence number, of an echo
		slices.Concat(payload...))
}

// without returns frame less its last n bytes, as a snap length or a liar would.
func without(n int, frame []byte) []byte {
	return slices.Clip(frame[:len(frame)-n])
}

func u32(v uint32) []byte {
	return binary.BigEndian.AppendUint32(nil, v)
}

func u16(v uint16) []byte {
	return binary.BigEndian.AppendUint16(nil, v)
}
