// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
)

// MaxRandom is the most bytes of a frame that Random and Mutate make: room for the longest extension header and what
// follows it, and still one page of the kernel's with everything that BPF_PROG_TEST_RUN puts around it.
const MaxRandom = 3000

// Random builds a frame as headers nest, each choice drawn from r: every header that the parsers know, in orders and
// lengths that nobody would send, and a few that they do not know. It has no expectations: the parsers are held against
// each other.
func Random(r *rand.Rand) Frame {
	etherType, data := randomNetwork(r)
	if r.IntN(4) == 0 {
		return Frame{Name: "random", L3: true, Data: Mutate(r, data)}
	}
	switch r.IntN(6) {
	case 0:
		etherType, data = pick[uint16](r, typeMPLS, 0x8848), randomLabels(r, data)
	case 1:
		data = randomPPPoE(r, etherType, data)
		etherType = typePPP
	}
	for range pick(r, 0, 0, 0, 1, 1, 2, 3) {
		data = vlan(uint16(r.Uint32()), etherType, data)
		etherType = pick[uint16](r, typeVLAN, typeQinQ)
	}
	return Frame{Name: "random", Data: Mutate(r, ethernet(etherType, data))}
}

// randomLabels puts as many labels before data as come, and a few more than are walked.
func randomLabels(r *rand.Rand, data []byte) []byte {
	data = bottom(r.Uint32(), data)
	for range pick(r, 0, 0, 1, 2, r.IntN(10)) {
		data = label(r.Uint32()&^1, data)
	}
	return data
}

func randomPPPoE(r *rand.Rand, etherType uint16, data []byte) []byte {
	protocol := u16(map[uint16]uint16{typeIPv4: pppIPv4, typeIPv6: pppIPv6}[etherType])
	switch r.IntN(6) {
	case 0, 1:
		protocol = protocol[1:] // compressed
	case 2:
		protocol = u16(pick[uint16](r, 0xc021, 0x8021, 0x2d21, uint16(r.Uint32())))
	}
	return pppoe(protocol, data)
}

func randomNetwork(r *rand.Rand) (etherType uint16, _ []byte) {
	switch r.IntN(12) {
	case 0:
		return pick[uint16](r, 0x0806, 0x8035, 38, 1535, 1536, 0x8847, 0x9100, uint16(r.Uint32())), randomBytes(r, 46)
	case 1:
		return pick[uint16](r, typeIPv4, typeIPv6), randomBytes(r, r.IntN(80)) // rarely of the version that the type says
	case 2, 3, 4, 5:
		return typeIPv4, randomIPv4(r)
	default:
		return typeIPv6, randomIPv6(r)
	}
}

func randomIPv4(r *rand.Rand) []byte {
	proto := randomProto(r)
	words := pick(r, 0, 0, r.IntN(11))
	flagsOffset := pick[uint16](r, dontFragment, moreFragments, 0x8000, 185, uint16(r.Uint32()))
	return ip4Header(0x45+byte(words), flagsOffset, proto, randomBytes(r, 4*words), randomTransport(r, proto))
}

// randomIPv6 nests from the inside out. Chains of any length are rare, so that what follows is reached.
func randomIPv6(r *rand.Rand) []byte {
	next := randomProto(r)
	data := randomTransport(r, next)
	for range pick(r, 0, 1, 2, 3, r.IntN(14)) {
		kind := pick[byte](r, protoHopByHop, protoRouting, protoFragment, protoFragment, protoFragment, protoAH, protoDestination,
			protoMobility, protoHIP, protoShim6)
		data = slices.Concat(randomExtension(r, kind, next), data)
		next = kind
	}
	return ip6(next, data)
}

func randomExtension(r *rand.Rand, kind, next byte) []byte {
	length := pick(r, 0, 0, 1, 2, r.IntN(16))
	if r.IntN(100) == 0 {
		length = 255
	}
	var header []byte
	switch kind {
	case protoFragment:
		header = randomBytes(r, 8)
		if r.IntN(2) == 0 {
			binary.BigEndian.PutUint16(header[2:], pick[uint16](r, 0, 1, 6, 7)) // offset 0
		}
	case protoAH:
		header = randomBytes(r, (length+2)*4)
		header[1] = byte(length)
	default:
		header = randomBytes(r, (length+1)*8)
		header[1] = byte(length)
	}
	header[0] = next
	return header
}

func randomProto(r *rand.Rand) byte {
	return pick[byte](r, protoTCP, protoTCP, protoUDP, protoUDP, protoICMP, protoICMPv6, protoICMPv6, protoSCTP, protoSCTP,
		protoGRE, protoESP, protoNoNext, byte(r.Uint32()))
}

func randomTransport(r *rand.Rand, proto byte) []byte {
	payload := randomBytes(r, pick(r, 0, 0, r.IntN(64), r.IntN(600)))
	switch proto {
	case protoTCP:
		return tcpOffset(byte(r.IntN(16)), byte(r.Uint32()), payload)
	case protoUDP:
		return udp(payload)
	case protoSCTP:
		return sctp(payload)
	case protoICMP, protoICMPv6:
		return icmp(byte(r.Uint32()), byte(r.IntN(4)), payload)
	}
	return payload
}

// Mutate returns a changed copy of data, or now and then an equal one.
func Mutate(r *rand.Rand, data []byte) []byte {
	data = slices.Clone(data)
	for range pick(r, 0, 1, 1, 2, 4) {
		data = mutateOnce(r, data)
	}
	return slices.Clip(data[:min(len(data), MaxRandom)])
}

func mutateOnce(r *rand.Rand, data []byte) []byte {
	at := r.IntN(len(data) + 1) // of the bytes, or behind the last
	switch r.IntN(8) {
	case 0:
		return data[:at]
	case 1:
		return data[:len(data)-min(len(data), 1+r.IntN(8))]
	case 2:
		return append(data, randomBytes(r, 1+r.IntN(40))...)
	case 3:
		return slices.Insert(data, at, randomBytes(r, 1+r.IntN(8))...)
	case 4:
		return slices.Delete(data, at, min(len(data), at+1+r.IntN(8)))
	case 5: // another tag, where tags are
		tag := slices.Concat(u16(pick[uint16](r, typeVLAN, typeQinQ)), randomBytes(r, 2))
		return slices.Insert(data, min(len(data), 12), tag...)
	}
	if at < len(data) {
		data[at] = pick(r, byte(r.Uint32()), data[at]^1<<r.IntN(8), data[at]+1, data[at]-1, 0, 0xff)
	}
	return data
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func pick[T any](r *rand.Rand, choices ...T) T {
	return choices[r.IntN(len(choices))]
}
