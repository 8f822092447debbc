// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// What of heads is kept and believed, in bytes.
const (
	maxMethod      = 32
	maxUserAgent   = 256
	maxContentType = 128
	maxHost        = 255
)

// The methods whose targets have forms of their own; RFC 9112 3.2.3 and 3.2.4.
const (
	methodConnect = "CONNECT"
	methodOptions = "OPTIONS"
)

// versionHTTP2 is HTTP.Version of a preface.
const versionHTTP2 = "2"

// prefaceHTTP2 is what a client says that knows the server to speak HTTP/2; RFC 9113 3.4.
var prefaceHTTP2 = []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")

// beginnings are what heads begin with: the methods of RFC 9110 9 and RFC 5789, and the version of a response.
var beginnings = [...]string{
	"GET ", "POST ", "PUT ", "HEAD ", "DELETE ", "OPTIONS ", "PATCH ", "CONNECT ", "TRACE ", responseBegins, string(prefaceHTTP2),
}

const responseBegins = "HTTP/1."

// beginsHTTP reports whether b begins like a head, or is the beginning of such a beginning.
func beginsHTTP(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	for _, s := range beginnings {
		n := min(len(b), len(s))
		if string(b[:n]) == s[:n] {
			return true
		}
	}
	return false
}

// readHTTP reads the head of a message; RFC 9112. What net/http reads is a whole one, hides what it repaired and returns values
// that must not be kept; here m.HTTP holds what was read so far once the first line is whole, also with errMore.
//
// The first line is strict, so that bodies are not taken for heads: single spaces, HTTP/1.0 or HTTP/1.1, a target of one of the
// four forms. Lenient as the RFC allows where real senders are: lines may end in LF alone (2.2), values may have bytes that are
// no ASCII (RFC 9110 5.5), and lines that continue a field (5.2) are passed over: of what is read here none has such.
func readHTTP(b []byte, m *Message) (n int, err error) {
	if bytes.HasPrefix(b, prefaceHTTP2[:min(len(b), len(prefaceHTTP2))]) {
		return readPreface(b, m)
	}
	h := &HTTP{ContentLength: -1}
	first, n, err := headLine(b)
	if err != nil {
		if errors.Is(err, errMore) && !mayBeFirstLine(first) {
			err = errNoFirstLine
		}
		return 0, err
	}
	if !h.readFirstLine(first) {
		return 0, errNoFirstLine
	}
	m.HTTP = h
	f := fields{HTTP: h}
	defer f.finish()
	for {
		line, length, err := headLine(b[n:])
		if err != nil {
			return 0, err
		}
		n += length
		if len(line) == 0 {
			return n, nil
		}
		if !f.readLine(line) {
			return 0, errNoField
		}
	}
}

var (
	errNoFirstLine = fmt.Errorf("%w: first line of HTTP", errMalformed)
	errNoField     = fmt.Errorf("%w: field line of HTTP", errMalformed)
)

// headLine returns the line that b begins with, and its length with the end. With errMore it is what is there.
func headLine(b []byte) (line []byte, n int, err error) {
	n = bytes.IndexByte(b, '\n')
	line, err = b, errMore
	if n >= 0 {
		line, err = bytes.TrimSuffix(b[:n], []byte{'\r'}), nil
	} else if len(b) > 0 && b[len(b)-1] == '\r' {
		line = b[:len(b)-1]
	}
	for _, c := range line {
		if c == '\r' || c == 0 { // RFC 9112 2.2, RFC 9110 5.5
			return nil, 0, errNoField
		}
	}
	return line, n + 1, err
}

// mayBeFirstLine reports whether more bytes can make b a first line: one that has bytes which no part of it may have is not
// waited for.
func mayBeFirstLine(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f { // RFC 9112 4: a reason may have tabs
			return false
		}
	}
	return true
}

// readFirstLine reads a status line (RFC 9112 4) or a request line (RFC 9112 3).
func (h *HTTP) readFirstLine(line []byte) bool {
	if !mayBeFirstLine(line) {
		return false
	}
	if bytes.HasPrefix(line, []byte(responseBegins)) {
		version, rest, _ := bytes.Cut(line, []byte{' '})
		status, _, _ := bytes.Cut(rest, []byte{' '})
		h.Response, h.Status = true, parseStatus(status)
		return h.readVersion(version) && h.Status > 0
	}
	parts := bytes.Split(line, []byte{' '})
	if len(parts) != 3 || len(parts[0]) > maxMethod || !isToken(parts[0]) {
		return false
	}
	h.Method = string(parts[0])
	return h.readVersion(parts[2]) && h.readTarget(parts[1])
}

func (h *HTTP) readVersion(b []byte) bool {
	switch string(b) {
	case "HTTP/1.1":
		h.Version = "1.1"
	case "HTTP/1.0":
		h.Version = "1.0"
	}
	return h.Version != ""
}

// parseStatus returns the code that three digits are, 0 if they are none; RFC 9110 15.
func parseStatus(b []byte) int {
	if len(b) != 3 || b[0] < '1' || b[0] > '9' || !isDigit(b[1]) || !isDigit(b[2]) {
		return 0
	}
	return int(b[0]-'0')*100 + int(b[1]-'0')*10 + int(b[2]-'0')
}

// readTarget reads the four forms of a target; RFC 9112 3.2. Query and fragment are dropped before anything is read of it.
func (h *HTTP) readTarget(b []byte) bool {
	if i := bytes.IndexAny(b, "?#"); i >= 0 {
		b = b[:i]
	}
	switch {
	case h.Method == methodConnect:
		h.readHost(b)
		return h.Host != ""
	case len(b) == 1 && b[0] == '*':
		h.Path = "*"
		return h.Method == methodOptions
	case len(b) > 0 && b[0] == '/':
		h.Path = clean(b, MaxPath)
		return true
	}
	scheme, rest, ok := bytes.Cut(b, []byte("://"))
	if !ok || !isScheme(scheme) {
		return false
	}
	authority := rest
	h.Path = "/" // RFC 9110 4.2.3
	if i := bytes.IndexByte(rest, '/'); i >= 0 {
		authority, h.Path = rest[:i], clean(rest[i:], MaxPath)
	}
	h.readHost(authority)
	return h.Host != ""
}

// isScheme reports whether b is a scheme; RFC 3986 3.1.
func isScheme(b []byte) bool {
	for i, c := range b {
		if !isAlpha(c) && (i == 0 || !isDigit(c) && c != '+' && c != '-' && c != '.') {
			return false
		}
	}
	return len(b) > 0
}

// readHost reads host and port without what is before them; RFC 3986 3.2. Of what is no host nothing is kept.
func (h *HTTP) readHost(b []byte) {
	b = b[bytes.LastIndexByte(b, '@')+1:] // user information, which Host never has
	host, port := b, []byte(nil)
	if i := bytes.LastIndexByte(b, ':'); i >= 0 && i > bytes.LastIndexByte(b, ']') {
		host, port = b[:i], b[i+1:]
	}
	if n := len(host); n > 2 && host[0] == '[' && host[n-1] == ']' {
		host = host[1 : n-1]
	} else if bytes.IndexByte(host, ':') >= 0 {
		return
	}
	if len(host) == 0 || len(host) > maxHost {
		return
	}
	for _, c := range host {
		if !isAlpha(c) && !isDigit(c) && strings.IndexByte("-._~%!$&'()*+,;=:", c) < 0 {
			return
		}
	}
	n, err := strconv.ParseUint(string(port), 10, 16)
	if len(port) > 0 && err != nil {
		return
	}
	h.Host, h.Port = strings.ToLower(string(host)), uint16(n)
}

// Of frames of HTTP/2; RFC 9113 4.1, 6.2 and 6.10.
const (
	frameHeaderLen    = 9
	frameHeaders      = 1
	frameContinuation = 9
	flagEndHeaders    = 4
)

// readPreface reads the preface of HTTP/2, and behind it up to the end of the first request's fields, which say whether the
// connection carries gRPC. Whatever else is in b is HTTP/2, too, and not looked at.
func readPreface(b []byte, m *Message) (int, error) {
	if len(b) < len(prefaceHTTP2) {
		return 0, errMore
	}
	block, whole := firstFields(b[len(prefaceHTTP2):])
	m.HTTP = &HTTP{
		Version: versionHTTP2, ContentLength: -1,
		GRPC: bytes.Contains(block, []byte(typeGRPC)) || bytes.Contains(block, typeGRPCHuffman),
	}
	if !whole {
		return 0, errMore
	}
	return len(b), nil
}

// firstFields returns what is there of the first field block in these frames, encoded, and whether that is all of it; RFC 9113 4.3.
func firstFields(b []byte) (block []byte, whole bool) {
	for len(b) >= frameHeaderLen {
		length := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
		typ, flags := b[3], b[4]
		b = b[frameHeaderLen:]
		payload := b[:min(length, len(b))]
		b = b[len(payload):]
		if typ != frameHeaders && typ != frameContinuation {
			continue
		}
		block = append(block, payload...)
		if len(payload) == length && flags&flagEndHeaders != 0 {
			return block, true
		}
	}
	return block, false
}

const typeGRPC = "application/grpc" // and with a suffix; gRPC over HTTP2, "Requests"

// typeGRPCHuffman is typeGRPC as HPACK encodes it: 88 bits, so whatever suffix follows does not change them. RFC 7541 5.2 and B.
var typeGRPCHuffman = []byte{0x1d, 0x75, 0xd0, 0x62, 0x0d, 0x26, 0x3d, 0x4c, 0x4d, 0x65, 0x64}

func isAlpha(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// isToken reports whether b is a token; RFC 9110 5.6.2.
func isToken(b []byte) bool {
	for _, c := range b {
		if !isAlpha(c) && !isDigit(c) && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return len(b) > 0
}
