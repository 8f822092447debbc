// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"iter"
	"slices"
)

// Of TLS records and handshake messages; RFC 8446 4 and 5.1, RFC 5246 6.2.1 and 7.4.
const (
	recordHeaderLen   = 5
	recordHandshake   = 22
	recordMost        = 1 << 14 // bytes of a fragment
	handshakeHeadLen  = 4
	handshakeClient   = 1
	handshakeServer   = 2
	helloMost         = 1 << 14 // bytes behind the handshake header; hellos with keys of post-quantum algorithms have 2,000
	sessionIDMost     = 32      // bytes
	maxVersions       = 32      // told; the fingerprints are of all
	maxProtocols      = 16      // told; the fingerprints are of all
	maxProtocolSize   = 32      // bytes told of a name, before odd ones are escaped, which makes four of one
	maxServerNameSize = 253     // bytes; RFC 1035 2.3.4 without lengths
)

// Extensions; IANA, TLS ExtensionType Values.
const (
	extensionServerName          = 0  // RFC 6066 3
	extensionSupportedGroups     = 10 // RFC 8422 5.1.1, RFC 8446 4.2.7
	extensionPointFormats        = 11 // RFC 8422 5.1.2
	extensionSignatureAlgorithms = 13 // RFC 8446 4.2.3
	extensionALPN                = 16 // RFC 7301 3.1
	extensionPreSharedKey        = 41 // RFC 8446 4.2.11
	extensionSupportedVersions   = 43 // RFC 8446 4.2.1
)

// changeCipherSpec is what an endpoint puts before its second hello to look like TLS 1.2 to middleboxes; RFC 8446 D.4.
var changeCipherSpec = []byte{20, 3, 3, 0, 1, 1}

// retryRandom is the random of a HelloRetryRequest, the SHA-256 of that word; RFC 8446 4.1.3.
var retryRandom = [32]byte{
	0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
	0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
}

// readTLS reads the hello that a stream begins with. It takes the records that the hello is in, the last as far as it is there.
func readTLS(b []byte, m *Message) (int, error) {
	hello, n, err := firstHello(b)
	if err != nil {
		return 0, err
	}
	t := &TLS{Server: hello[0] == handshakeServer}
	read := t.readClientHello
	if t.Server {
		read = t.readServerHello
	}
	if !read(&cursor{rest: hello[handshakeHeadLen:]}) {
		return 0, fmt.Errorf("%w: TLS hello contradicts its lengths", errMalformed)
	}
	m.TLS = t
	return n, nil
}

// firstHello returns the first handshake message with its header, and how many bytes of b are the records it is in.
func firstHello(b []byte) (hello []byte, n int, err error) {
	if bytes.HasPrefix(b, changeCipherSpec) {
		n = len(changeCipherSpec)
	} else if bytes.HasPrefix(changeCipherSpec, b) {
		return nil, 0, errMore
	}
	for {
		fragment, whole, err := readRecord(b[n:])
		if err != nil {
			return nil, 0, err
		}
		if hello == nil {
			hello = slices.Clip(fragment)
		} else {
			hello = append(hello, fragment...)
		}
		if err := checkHello(hello); err != nil {
			return nil, 0, err
		}
		if length, known := helloLength(hello); known && len(hello) >= length {
			return hello[:length], n + recordHeaderLen + len(fragment), nil
		}
		if !whole {
			return nil, 0, errMore
		}
		n += recordHeaderLen + len(fragment)
	}
}

// readRecord returns what is there of the fragment that a record carries, and whether that is all of it.
func readRecord(b []byte) (fragment []byte, whole bool, err error) {
	switch {
	case len(b) > 0 && b[0] != recordHandshake:
		return nil, false, fmt.Errorf("%w: TLS record of type %d, want %d (handshake)", errMalformed, b[0], recordHandshake)
	case len(b) > 1 && b[1] != 3:
		return nil, false, fmt.Errorf("%w: TLS record of version %d", errMalformed, b[1])
	case len(b) < recordHeaderLen:
		return nil, false, nil
	}
	length := int(binary.BigEndian.Uint16(b[3:]))
	if length == 0 || length > recordMost {
		return nil, false, fmt.Errorf("%w: TLS record of %d bytes", errMalformed, length)
	}
	b = b[recordHeaderLen:]
	return b[:min(length, len(b))], len(b) >= length, nil
}

// checkHello refuses what cannot become a hello before all of it is there.
func checkHello(b []byte) error {
	if len(b) > 0 && b[0] != handshakeClient && b[0] != handshakeServer {
		return fmt.Errorf("%w: TLS handshake message of type %d, want a hello", errMalformed, b[0])
	}
	if length, known := helloLength(b); known && length > handshakeHeadLen+helloMost {
		return fmt.Errorf("%w: TLS hello of %d bytes, more than %d", errMalformed, length, helloMost)
	}
	return nil
}

// helloLength returns the length of a handshake message with its header.
func helloLength(b []byte) (length int, known bool) {
	if len(b) < handshakeHeadLen {
		return 0, false
	}
	return handshakeHeadLen + int(b[1])<<16 + int(b[2])<<8 + int(b[3]), true
}

// readClientHello reads RFC 8446 4.1.2.
func (t *TLS) readClientHello(c *cursor) bool {
	o := offer{legacyVersion: c.u16()}
	c.take(len(retryRandom))
	t.sessionID = string(c.vector8())
	o.ciphers = c.vector16()
	compression := c.vector8()
	if len(c.rest) > 0 { // there were none before RFC 4366
		o.extensions = c.vector16()
	}
	if !c.whole() || o.legacyVersion>>8 != 3 || len(t.sessionID) > sessionIDMost ||
		len(o.ciphers) < 2 || len(o.ciphers)%2 != 0 || len(compression) == 0 || !areExtensions(o.extensions) {
		return false
	}
	for typ, body := range extensions(o.extensions) {
		if !t.readOffered(&o, typ, body) {
			return false
		}
	}
	if len(t.Versions) == 0 {
		t.Versions, o.version = []uint16{o.legacyVersion}, o.legacyVersion
	}
	t.JA3, t.JA4 = o.ja3(), o.ja4()
	return true
}

// readOffered reads an extension of a ClientHello.
func (t *TLS) readOffered(o *offer, typ uint16, body []byte) bool {
	c := cursor{rest: body}
	switch typ {
	case extensionServerName:
		o.hasServerName = true
		return t.readServerNames(&c)
	case extensionALPN:
		return t.readOfferedALPN(o, &c)
	case extensionSupportedVersions:
		versions := c.vector8()
		for v := range numbers(versions) {
			if o.version = max(o.version, v); len(t.Versions) < maxVersions {
				t.Versions = append(t.Versions, v)
			}
		}
		return c.whole() && len(versions)%2 == 0
	case extensionSupportedGroups:
		o.groups = c.vector16()
		return c.whole() && len(o.groups)%2 == 0
	case extensionSignatureAlgorithms:
		o.algorithms = c.vector16()
		return c.whole() && len(o.algorithms)%2 == 0
	case extensionPointFormats:
		o.pointFormats = c.vector8()
		return c.whole()
	}
	return true
}

// readServerNames reads a list of names of which only those of type 0 are defined; RFC 6066 3.
func (t *TLS) readServerNames(c *cursor) bool {
	list := cursor{rest: c.vector16()}
	for len(list.rest) > 0 {
		typ, name := list.u8(), list.vector16()
		if typ == 0 && t.ServerName == "" {
			t.ServerName = hostName(name)
		}
	}
	return c.whole() && list.whole()
}

// hostName returns a name in lower case, or nothing if no host can have it.
func hostName(b []byte) string {
	if len(b) > maxServerNameSize {
		return ""
	}
	var lower [maxServerNameSize]byte
	for i, c := range b {
		switch {
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return ""
		}
		lower[i] = c
	}
	return string(lower[:len(b)])
}

func (t *TLS) readOfferedALPN(o *offer, c *cursor) bool {
	list := cursor{rest: c.vector16()}
	for first := true; len(list.rest) > 0; {
		name := list.vector8()
		if len(name) == 2 && isGREASE(binary.BigEndian.Uint16(name)) {
			continue
		}
		if first {
			o.protocol, first = name, false
		}
		if len(name) > 0 && len(t.ALPN) < maxProtocols {
			t.ALPN = append(t.ALPN, protocolName(name))
		}
	}
	return c.whole() && list.whole()
}

// protocolName returns as much of a name as is told.
func protocolName(b []byte) string { return printable(b[:min(len(b), maxProtocolSize)]) }

// readServerHello reads RFC 8446 4.1.3 and RFC 5246 7.4.1.3.
func (t *TLS) readServerHello(c *cursor) bool {
	t.Version = c.u16()
	t.RetryRequest = bytes.Equal(c.take(len(retryRandom)), retryRandom[:])
	t.sessionID = string(c.vector8())
	t.Cipher = c.u16()
	c.u8() // compression
	var block []byte
	if len(c.rest) > 0 {
		block = c.vector16()
	}
	if !c.whole() || t.Version>>8 != 3 || len(t.sessionID) > sessionIDMost || !areExtensions(block) {
		return false
	}
	for typ, body := range extensions(block) {
		if !t.readChosen(typ, body) {
			return false
		}
	}
	t.KnowsResumed = t.Version >= tls.VersionTLS13 && !t.RetryRequest
	return true
}

// readChosen reads an extension of a ServerHello.
func (t *TLS) readChosen(typ uint16, body []byte) bool {
	c := cursor{rest: body}
	switch typ {
	case extensionSupportedVersions:
		t.Version = c.u16()
		return c.whole()
	case extensionPreSharedKey:
		t.Resumed = true
	case extensionALPN:
		list := cursor{rest: c.vector16()}
		t.ChosenALPN = protocolName(list.vector8())
		return c.whole() && list.whole()
	}
	return true
}

// resumes reports whether the server that said t takes up the session that client asked for. Before TLS 1.3 only the two
// together tell: the server repeats the session's id, or that which came with a ticket; RFC 5246 7.4.1.3, RFC 5077 3.4.
func (t *TLS) resumes(client *TLS) bool {
	if t.Version >= tls.VersionTLS13 { // repeats any id; RFC 8446 4.1.3
		return t.Resumed
	}
	return t.sessionID != "" && t.sessionID == client.sessionID
}

// areExtensions reports whether a block of extensions ends where its last one does.
func areExtensions(block []byte) bool {
	c := cursor{rest: block}
	for len(c.rest) > 0 {
		c.u16()
		c.vector16()
	}
	return c.whole()
}

// extensions returns type and data of those in a block that areExtensions.
func extensions(block []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		c := cursor{rest: block}
		for len(c.rest) > 0 && yield(c.u16(), c.vector16()) {
		}
	}
}

// numbers returns the numbers of a list without those that mean nothing.
func numbers(list []byte) iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		for ; len(list) > 1; list = list[2:] {
			if n := binary.BigEndian.Uint16(list); !isGREASE(n) && !yield(n) {
				return
			}
		}
	}
}

// isGREASE reports whether clients send n to see whether servers mind what they do not know; RFC 8701 2.
func isGREASE(n uint16) bool { return n&0x0f0f == 0x0a0a && n>>8 == n&0xff }

// TLSProtocol is the tls.protocol.name of a version.
func TLSProtocol(version uint16) string {
	if version < tls.VersionTLS10 {
		return "ssl"
	}
	return "tls"
}

// TLSVersion is the tls.protocol.version of a version: the number alone. Of versions that have none, the code in hexadecimal.
func TLSVersion(version uint16) string {
	switch version {
	case tls.VersionTLS13:
		return "1.3"
	case tls.VersionTLS12:
		return "1.2"
	case tls.VersionTLS11:
		return "1.1"
	case tls.VersionTLS10:
		return "1.0"
	case versionSSL3:
		return "3"
	}
	return fmt.Sprintf("%#04x", version)
}

const versionSSL3 = 0x0300 // RFC 6101
