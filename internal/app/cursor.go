// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"encoding/binary"
	"fmt"
)

// cursor reads numbers, big endian, and what is behind a length (RFC 8446 3.4). Past the end it reads zeros, and is bad from
// then on.
type cursor struct {
	rest []byte
	bad  bool
}

func (c *cursor) take(n int) []byte {
	if n > len(c.rest) {
		c.rest, c.bad = nil, true
		return nil
	}
	taken := c.rest[:n:n]
	c.rest = c.rest[n:]
	return taken
}

func (c *cursor) u8() uint8 {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) u16() uint16 {
	if b := c.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) vector8() []byte  { return c.take(int(c.u8())) }
func (c *cursor) vector16() []byte { return c.take(int(c.u16())) }

// whole reports whether everything was there, and nothing else.
func (c *cursor) whole() bool { return !c.bad && len(c.rest) == 0 }

// appendPrintable appends c so that it may be shown: bytes that are no printing ASCII become \DDD; RFC 1035 5.1, RFC 4343 2.1.
func appendPrintable(b []byte, c byte) []byte {
	if c <= ' ' || c > '~' {
		return fmt.Appendf(b, `\%03d`, c)
	}
	if c == '\\' {
		b = append(b, '\\')
	}
	return append(b, c)
}

func printable(b []byte) string {
	var text [64]byte
	out := text[:0]
	for _, c := range b {
		out = appendPrintable(out, c)
	}
	return string(out)
}
