// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"slices"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// streamKey names one direction of a TCP connection as one hook sees it.
type streamKey struct {
	flow.Key
	flow.Direction
}

// stream is what is known of one direction of a connection. Bodies are not seen, so it is no sequence of bytes but pieces of
// one. Sequence numbers wrap, so they are compared by the sign of their 32-bit difference (RFC 9293 3.4); that is an order only
// among numbers that are near each other, which window sees to.
type stream struct {
	streamKey
	table  *recent[streamKey, *stream] // that it is in
	pieces []piece                     // in order; none overlaps another
	used   int64                       // time of the latest segment
}

// piece is consecutive bytes of a stream.
type piece struct {
	seq      uint32 // of the first byte
	n        int    // bytes of sequence space: len(b) unless ended
	b        []byte // nil iff ended
	state    state
	proto    Protocol // of an open one
	cut      bool     // what the sender put behind b was not captured
	borrowed bool     // b is the segment's
	segments int      // that b was put together of
	first    int64    // time of the segment with the first byte
	last     int64    // time of the latest segment in it
	ack      uint32   // of that one
}

// state is what is known of a piece.
type state uint8

const (
	fresh state = iota // nobody looked at it
	stray              // begins no message; may be the rest of one whose beginning comes late
	open               // a message that began, and goes on behind it
	ended              // told or given up; kept to recognise retransmissions
)

func (p *piece) end() uint32 { return p.seq + uint32(p.n) }

// firstBytes returns the first n of p, or all.
func (p piece) firstBytes(n int) piece {
	if n < p.n {
		p.b, p.n, p.cut = p.b[:n], n, false
	}
	return p
}

// without returns p without its first n bytes.
func (p piece) without(n int) piece {
	n = min(n, p.n)
	p.b, p.n, p.seq = p.b[n:], p.n-n, p.seq+uint32(n)
	return p
}

// contradicts reports whether p, which does not begin before q, says other bytes than q where they overlap. Of a piece that
// was read nobody knows any more.
func (p *piece) contradicts(q *piece) bool {
	if q.state == ended {
		return false
	}
	overlap := q.b[min(distance(q.seq, p.seq), len(q.b)):]
	n := min(len(p.b), len(overlap))
	return !bytes.Equal(p.b[:n], overlap[:n])
}

// distance returns how far b is behind a.
func distance(a, b uint32) int { return int(int32(b - a)) }

// add fills in the bytes of p that no piece has: the first copy of a byte holds, since what was read of it cannot be taken
// back. It reports whether another copy differed.
func (s *stream) add(p piece) (conflict bool) {
	for i := 0; p.n > 0; i++ {
		if i == len(s.pieces) {
			s.pieces = append(s.pieces, p)
			break
		}
		q := &s.pieces[i]
		if before := distance(p.seq, q.seq); before > 0 {
			s.pieces = slices.Insert(s.pieces, i, p.firstBytes(before))
			p = p.without(before)
		} else if over := distance(p.seq, q.end()); over > 0 {
			conflict = conflict || p.contradicts(q)
			p = p.without(over)
		}
	}
	return conflict
}

// next returns the piece that continues piece i, nil if it was not seen.
func (s *stream) next(i int) *piece {
	if i+1 == len(s.pieces) || s.pieces[i+1].state == ended || s.pieces[i+1].seq != s.pieces[i].end() {
		return nil
	}
	return &s.pieces[i+1]
}

// absorb appends to piece i the one that continues it.
func (s *stream) absorb(i int) {
	p, q := &s.pieces[i], &s.pieces[i+1]
	if p.borrowed {
		p.b, p.borrowed = slices.Clip(p.b), false // so that append copies
	}
	p.b = append(p.b, q.b...)
	p.n += q.n
	p.cut = q.cut
	p.segments += q.segments
	if q.last >= p.last {
		p.last, p.ack = q.last, q.ack
	}
	s.pieces = slices.Delete(s.pieces, i+1, i+2)
}

// merge makes one of neighbours that were read.
func (s *stream) merge() {
	kept := s.pieces[:0]
	for _, p := range s.pieces {
		if n := len(kept); n > 0 && p.state == ended && kept[n-1].state == ended && kept[n-1].end() == p.seq {
			kept[n-1].n += p.n
			kept[n-1].last = max(kept[n-1].last, p.last)
			continue
		}
		kept = append(kept, p)
	}
	clear(s.pieces[len(kept):])
	s.pieces = kept
}

// settle forgets what is too old to be of use, and takes over what is only lent.
func (s *stream) settle(before int64) {
	s.pieces = slices.DeleteFunc(s.pieces, func(p piece) bool { return p.state != open && p.last <= before })
	s.merge()
	for i := range s.pieces {
		if p := &s.pieces[i]; p.borrowed {
			p.b, p.borrowed = slices.Clip(bytes.Clone(p.b)), false
		}
	}
}

// isOpen reports whether a message of s is open.
func (s *stream) isOpen() bool {
	return slices.ContainsFunc(s.pieces, func(p piece) bool { return p.state == open })
}

// size returns the memory that the bytes of s take.
func (s *stream) size() (n int) {
	for i := range s.pieces {
		n += cap(s.pieces[i].b)
	}
	return n
}
