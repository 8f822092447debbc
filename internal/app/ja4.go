// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"crypto/fips140"
	"crypto/md5" //nolint:gosec // JA3 is defined by it, and protects nothing
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"iter"
	"slices"
	"strconv"
)

// offer is what the fingerprints of a ClientHello are made of. Lists are as on the wire.
type offer struct {
	legacyVersion uint16
	version       uint16 // the highest
	hasServerName bool
	ciphers       []byte
	extensions    []byte
	groups        []byte
	algorithms    []byte // of signatures
	pointFormats  []byte
	protocol      []byte // the first of ALPN
}

func (o *offer) extensionTypes() iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		for typ := range extensions(o.extensions) {
			if !isGREASE(typ) && !yield(typ) {
				return
			}
		}
	}
}

// ja4 returns the JA4 of TLS over TCP, as FoxIO publishes it ("JA4: TLS Client Fingerprinting", BSD-3-Clause).
func (o *offer) ja4() string {
	var numbersOf [2][64]uint16 // enough for what clients send
	ciphers := slices.AppendSeq(numbersOf[0][:0], numbers(o.ciphers))
	types := slices.AppendSeq(numbersOf[1][:0], o.extensionTypes())

	var text [64]byte
	out := append(text[:0], 't')
	out = append(out, ja4Version(o.version)...)
	if o.hasServerName {
		out = append(out, 'd')
	} else {
		out = append(out, 'i')
	}
	out = fmt.Appendf(out, "%02d%02d", min(len(ciphers), 99), min(len(types), 99))
	first, last := ja4Ends(o.protocol)
	out = append(out, first, last, '_')

	slices.Sort(ciphers)
	var hashed [1024]byte
	out = appendJA4Hash(out, appendJA4List(hashed[:0], slices.Values(ciphers)))

	slices.Sort(types)
	types = slices.DeleteFunc(types, func(typ uint16) bool { return typ == extensionServerName || typ == extensionALPN })
	list := appendJA4List(hashed[:0], slices.Values(types))
	// Algorithms come in an extension, so list is not empty.
	if more := appendJA4List(append(list, '_'), numbers(o.algorithms)); len(more) > len(list)+1 {
		list = more
	}
	return string(appendJA4Hash(append(out, '_'), list))
}

func ja4Version(version uint16) string {
	switch version {
	case tls.VersionTLS13:
		return "13"
	case tls.VersionTLS12:
		return "12"
	case tls.VersionTLS11:
		return "11"
	case tls.VersionTLS10:
		return "10"
	case versionSSL3:
		return "s3"
	}
	return "00"
}

// ja4Ends returns the first and the last letter or digit of a protocol's name; of its bytes in hexadecimal if one is neither.
func ja4Ends(protocol []byte) (first, last byte) {
	if len(protocol) == 0 {
		return '0', '0'
	}
	first, last = protocol[0], protocol[len(protocol)-1]
	if !isAlphanumeric(first) || !isAlphanumeric(last) {
		const digits = "0123456789abcdef"
		return digits[first>>4], digits[last&0xf]
	}
	return first, last
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

func appendJA4List(b []byte, list iter.Seq[uint16]) []byte {
	const digits = "0123456789abcdef"
	first := true
	for n := range list {
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, digits[n>>12], digits[n>>8&0xf], digits[n>>4&0xf], digits[n&0xf])
	}
	return b
}

func appendJA4Hash(b, list []byte) []byte {
	if len(list) == 0 {
		return append(b, "000000000000"...)
	}
	sum := sha256.Sum256(list)
	return hex.AppendEncode(b, sum[:6])
}

// ja3 returns the JA3, as Salesforce published it, without GREASE: the MD5 of five lists in decimal. Nothing where Go may not
// use MD5.
func (o *offer) ja3() string {
	if fips140.Enforced() {
		return ""
	}
	var text [1024]byte
	b := strconv.AppendUint(text[:0], uint64(o.legacyVersion), 10)
	b = appendJA3List(b, numbers(o.ciphers))
	b = appendJA3List(b, o.extensionTypes())
	b = appendJA3List(b, numbers(o.groups))
	b = appendJA3List(b, func(yield func(uint16) bool) {
		for _, format := range o.pointFormats {
			if !yield(uint16(format)) {
				return
			}
		}
	})
	sum := md5.Sum(b) //nolint:gosec // see above
	return hex.EncodeToString(sum[:])
}

func appendJA3List(b []byte, list iter.Seq[uint16]) []byte {
	separator := byte(',')
	for n := range list {
		b = strconv.AppendUint(append(b, separator), uint64(n), 10)
		separator = '-'
	}
	if separator == ',' { // an empty list still has its comma
		b = append(b, ',')
	}
	return b
}
