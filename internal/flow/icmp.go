// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import "encoding/binary"

// ICMP has no ports. So that a question and its answer are the two directions of one flow, Key holds in their place, as
// source -> destination:
//
//	question     identifier -> its type in the high byte
//	its answer   the question's type in the high byte -> identifier
//	all others   0 -> type in the high byte, code in the low one
//
// The identifier is 0 where the message has none, such as neighbor discovery. bpf/transport.h does the same.

// icmpPair is the types of a question and of its answer. The pairs are those of the Community ID, which has them of Zeek.
type icmpPair struct {
	question, answer uint8
	id               bool // an identifier follows the checksum
}

var (
	icmpv4Pairs = []icmpPair{{8, 0, true}, {10, 9, false}, {13, 14, true}, {15, 16, true}, {17, 18, true}} // RFC 792, 950, 1256
	icmpv6Pairs = []icmpPair{                                                                              // RFC 4443, 2710, 4861, 4620, 6275
		{128, 129, true}, {130, 131, false}, {133, 134, false}, {135, 136, false}, {139, 140, false}, {144, 145, true},
	}
)

func icmpPairs(v6 bool) []icmpPair {
	if v6 {
		return icmpv6Pairs
	}
	return icmpv4Pairs
}

// ICMPPorts returns what Key holds of an ICMP or, if v6, ICMPv6 header, of which it needs the first 8 bytes.
func ICMPPorts(header []byte, v6 bool) (src, dst uint16) {
	for _, p := range icmpPairs(v6) {
		if header[0] != p.question && header[0] != p.answer {
			continue
		}
		if p.id {
			src = binary.BigEndian.Uint16(header[4:])
		}
		dst = uint16(p.question) << 8
		if header[0] == p.answer {
			return dst, src
		}
		return src, dst
	}
	return 0, binary.BigEndian.Uint16(header)
}

// HasICMP reports whether the ports of k stand for an ICMP message, see ICMP.
func (k *Key) HasICMP() bool {
	return !k.LaterFragment && (k.Proto == protoICMP && !k.IPv6 || k.Proto == protoICMPv6 && k.IPv6)
}

// ICMP returns what the packets of k are, if HasICMP. The code of questions and answers is not kept: they have only 0. If k
// is the way back of a message that has no answer, it is that message.
func (k *Key) ICMP() (typ, code uint8) {
	if p := icmpPairOf(k.DstPort, k.IPv6); p != nil {
		return p.question, 0
	}
	if p := icmpPairOf(k.SrcPort, k.IPv6); p != nil {
		return p.answer, 0
	}
	message := max(k.SrcPort, k.DstPort) // the other one is 0
	return uint8(message >> 8), uint8(message)
}

// icmpPairOf returns the pair that port stands for the question of; nil if it stands for something else.
func icmpPairOf(port uint16, v6 bool) *icmpPair {
	pairs := icmpPairs(v6)
	for i := range pairs {
		if port == uint16(pairs[i].question)<<8 {
			return &pairs[i]
		}
	}
	return nil
}

// clientByQuestion returns the half that asks; noHalf if k is not of a pair. An identifier that looks like a question, which
// one in 10,000 does, leaves it open.
func (k *Key) clientByQuestion() uint8 {
	if !k.HasICMP() {
		return noHalf
	}
	src, dst := icmpPairOf(k.SrcPort, k.IPv6) != nil, icmpPairOf(k.DstPort, k.IPv6) != nil
	switch {
	case src == dst:
		return noHalf
	case dst:
		return 0
	}
	return 1
}
