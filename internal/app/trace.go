// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"encoding/hex"
)

// Of W3C Trace Context, Level 1.
const (
	traceparentLen = 55  // version 00: "00-" trace-id "-" parent-id "-" trace-flags
	maxTraceState  = 512 // bytes, 3.3.1.1
	maxTraceKey    = 256 // bytes, 3.3.1.3.1
	maxTraceValue  = 256 // bytes, 3.3.1.3.2
	maxMembers     = 32  // 3.3.1.1
)

// readTraceparent reads traceparent, 3.2. A later version may say more behind what is known, after another dash, 3.2.4.
func (h *HTTP) readTraceparent(b []byte) {
	h.HasTrace = false
	if len(b) < traceparentLen || b[2] != '-' || b[35] != '-' || b[52] != '-' {
		return
	}
	if len(b) > traceparentLen && (string(b[:2]) == "00" || b[traceparentLen] != '-') {
		return
	}
	var version, flags [1]byte
	ok := lowerHex(version[:], b[:2]) && lowerHex(h.TraceID[:], b[3:35]) && lowerHex(h.SpanID[:], b[36:52]) && lowerHex(flags[:], b[53:55])
	h.TraceFlags = flags[0]
	h.HasTrace = ok && version[0] != 0xff && h.TraceID != [16]byte{} && h.SpanID != [8]byte{}
	if !h.HasTrace {
		h.TraceID, h.SpanID, h.TraceFlags = [16]byte{}, [8]byte{}, 0
	}
}

// lowerHex decodes digits, of which upper case ones are not allowed.
func lowerHex(to, digits []byte) bool {
	if bytes.ContainsAny(digits, "ABCDEF") {
		return false
	}
	_, err := hex.Decode(to, digits)
	return err == nil
}

// traceState returns the members of a list as far as there is room for whole ones, 3.3.1.5; "" if one of them is none, 3.3.1.
func traceState(list []byte) string {
	var out []byte
	members, room := 0, true
	for member := range bytes.SplitSeq(list, []byte{','}) {
		member = bytes.Trim(member, " \t")
		if len(member) == 0 {
			continue
		}
		if !isTraceMember(member) {
			return ""
		}
		members++
		if room = room && members <= maxMembers && len(out)+1+len(member) <= maxTraceState+1; room {
			out = append(append(out, ','), member...)
		}
	}
	return string(bytes.TrimPrefix(out, []byte{','}))
}

// isTraceMember reports whether b is key "=" value, 3.3.1.3.
func isTraceMember(b []byte) bool {
	key, value, ok := bytes.Cut(b, []byte{'='})
	if !ok || len(key) == 0 || len(key) > maxTraceKey || len(value) == 0 || len(value) > maxTraceValue {
		return false
	}
	for i, c := range key {
		if lower := 'a' <= c && c <= 'z' || isDigit(c); !lower && (i == 0 || bytes.IndexByte([]byte("_-*/@"), c) < 0) {
			return false
		}
	}
	for _, c := range value {
		if c < ' ' || c > '~' || c == ',' || c == '=' {
			return false
		}
	}
	return true
}
