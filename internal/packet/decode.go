// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

// Package packet reads the headers of sampled frames, link layer, IP, transport, and says them in a line. It does not look
// at payload or count, and it runs on every system.
//
// It is the second of two parsers. bpf/parse.h decides for every packet which flow it is counted in; Decode says the same
// of the few that were copied, and the tests send the same frames through both. So the order of the checks and every limit
// below is the kernel program's: change one with the other. Decoder reads what
// only records say, beside that.
package packet

import "github.com/ebpfpackets/ebpfpackets/internal/flow"

// Decode reads the headers of s into p and overwrites all of it; p is meant to be reused. It never reads past s.Data and
// keeps no reference to it.
//
// A frame whose end is missing because the snap length cut it looks like a packet that was sent too short. Decode cannot
// tell the two apart and reports what it sees, ReasonShort...; a caller that must know compares len(s.Data) to the snap
// length. Nor does it believe the lengths in IP headers: BIG TCP writes 0 there, and the kernel program does not read
// them, so the padding of a frame that is too small for its headers is read as if it had been sent.
func Decode(s *Sample, p *Packet) {
	p.read(&cursor{data: s.Data}, s)
}

// read is Decode with a cursor that says afterwards where the headers are.
func (p *Packet) read(c *cursor, s *Sample) {
	*p = Packet{Key: sampleKey(s)}
	if reason := p.decode(c, s); reason != flow.ReasonAccounted {
		*p = Packet{Reason: reason, Key: sampleKey(s), EtherType: p.EtherType}
	} else if s.Inside {
		p.enter(c, s)
	}
}

// sampleKey is what a key says before the first byte is read, and all it says when a frame is not accounted.
func sampleKey(s *Sample) flow.Key {
	return flow.Key{IfIndex: s.IfIndex, NetNS: s.NetNS}
}

// decode goes from the outermost header inwards and stops at the first that cannot be read. What it left in p until then
// is valid only if it returns ReasonAccounted.
func (p *Packet) decode(c *cursor, s *Sample) flow.Reason {
	version, reason := p.link(c, s)
	if reason != flow.ReasonAccounted {
		return reason
	}
	return p.network(c, version)
}

// network reads IP and what it carries.
func (p *Packet) network(c *cursor, version int) flow.Reason {
	if reason := p.ip(c, version); reason != flow.ReasonAccounted {
		return reason
	}
	return p.transport(c)
}

func (p *Packet) ip(c *cursor, version int) (reason flow.Reason) {
	c.network = c.off
	if version == 4 {
		reason = p.ipv4(c)
	} else {
		reason = p.ipv6(c)
	}
	c.behind = c.off
	return reason
}

// cursor is a place in a frame. It may be moved past the end: that is found out by the next take.
type cursor struct {
	data    []byte
	off     int  // from the first byte of the frame
	network int  // where the IP header begins, once it was looked for
	behind  int  // where what follows IP and its extensions begins, once they were read
	carrier int  // where the IP header of the tunnel begins, once it was entered
	short   bool // a take came to the end; of a packet that is accounted, inside of the tunnel that it is
}

// from returns what was captured from off on, perhaps nothing.
func (c *cursor) from(off int) []byte { return c.data[min(off, len(c.data)):] }

// take returns the next n bytes and moves past them, or nil, without moving, if they are not all there.
func (c *cursor) take(n int) []byte {
	if len(c.data)-c.off < n {
		c.short = true
		return nil
	}
	b := c.data[c.off : c.off+n]
	c.off += n
	return b
}

// skip moves n bytes on, whether they are there or not.
func (c *cursor) skip(n int) { c.off += n }
