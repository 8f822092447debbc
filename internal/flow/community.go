// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"bytes"
	"crypto/fips140"
	"crypto/sha1" //nolint:gosec // the specification's choice; it names a flow and protects nothing
	"encoding/base64"
	"encoding/binary"
)

// Protocols whose Community ID covers the ICMP type and code.
const (
	protoICMP   = 1
	protoICMPv6 = 58
)

// CommunityID returns the flow's Community ID, version 1 with seed 0, by which records of other tools (Zeek, Suricata,
// Wireshark) name the same flow: https://github.com/corelight/community-id-spec. Both directions have the same one.
//
// It reports false where what the id is made of is missing: later fragments of protocols with ports and of ICMP, and ICMP of
// the other version of IP.
func (k *Key) CommunityID() (string, bool) {
	ports, oneWay := true, false
	src, dst := k.SrcAddr, k.DstAddr
	srcPort, dstPort := k.SrcPort, k.DstPort
	switch {
	case k.HasICMP():
		srcPort, dstPort, oneWay = k.icmpCommunityPorts()
	case k.LaterFragment && hasPorts(k.Proto), k.Proto == protoICMP, k.Proto == protoICMPv6:
		return "", false
	case !k.HasPorts():
		ports = false
	}
	if c := bytes.Compare(src[:], dst[:]); !oneWay && (c > 0 || c == 0 && srcPort > dstPort) {
		src, dst, srcPort, dstPort = dst, src, dstPort, srcPort
	}
	from := 12 // of an IPv4 address
	if k.IPv6 {
		from = 0
	}
	var buf [2 + 2*len(Addr{}) + 2 + 4]byte // seed, addresses, protocol and padding, ports
	b := append(buf[:2], src[from:]...)
	b = append(b, dst[from:]...)
	b = append(b, k.Proto, 0)
	if ports {
		b = binary.BigEndian.AppendUint16(b, srcPort)
		b = binary.BigEndian.AppendUint16(b, dstPort)
	}
	sum := sha1Sum(b)
	var text [2 + 28]byte // 28 = base64 of 20 bytes
	return string(base64.StdEncoding.AppendEncode(append(text[:0], "1:"...), sum[:])), true
}

// icmpCommunityPorts returns what stands for ports: type and type of the answer; or type and code, and then that the id is
// one of this direction alone.
func (k *Key) icmpCommunityPorts() (src, dst uint16, oneWay bool) {
	if p := icmpPairOf(k.DstPort, k.IPv6); p != nil {
		return uint16(p.question), uint16(p.answer), false
	}
	if p := icmpPairOf(k.SrcPort, k.IPv6); p != nil {
		return uint16(p.answer), uint16(p.question), false
	}
	typ, code := k.ICMP()
	return uint16(typ), uint16(code), true
}

// sha1Sum returns the SHA-1 of b, which FIPS 140-3 allows for what is no cryptography, and Go's GODEBUG=fips140=only only
// if asked: it panics otherwise.
func sha1Sum(b []byte) [sha1.Size]byte {
	if fips140.Enforced() {
		return sha1NotEnforced(bytes.Clone(b))
	}
	return sha1.Sum(b) //nolint:gosec // as above
}

// sha1NotEnforced is apart because its closure makes everything in it escape to the heap.
func sha1NotEnforced(b []byte) (sum [sha1.Size]byte) {
	fips140.WithoutEnforcement(func() { sum = sha1.Sum(b) }) //nolint:gosec // as above
	return sum
}
