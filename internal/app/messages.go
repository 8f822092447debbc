// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"errors"
	"slices"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// advance begins the messages that new pieces begin, and continues those that new pieces continue.
func (t *Tracker) advance(s *stream, visit func(*Message)) {
	for i := 0; i < len(s.pieces); i++ {
		switch p := &s.pieces[i]; {
		case p.state == fresh:
			p.state = stray
			if proto, ok := t.beginning(&s.Key, p.b); ok {
				p.state, p.proto = open, proto
				t.counts.Begun[proto]++
				told := t.counts.Told[proto]
				t.readFirst(s, i, visit)
				if proto == ProtocolDNS && t.counts.Told[proto] == told { // perhaps it never is
					t.exchanges.doubt(&s.Key, s.Direction)
				}
			}
		case p.state == open && s.next(i) != nil:
			t.readMessage(s, i, t.absorb(s, i), visit)
		}
	}
}

// readFirst reads a message that just began, if this segment may complete another one. What is behind it is not looked at, either.
func (t *Tracker) readFirst(s *stream, i int, visit func(*Message)) {
	if t.room > 0 {
		t.readMessage(s, i, piece{}, visit)
		return
	}
	p := &s.pieces[i]
	t.counts.GivenUp[p.proto][CauseNoRoom]++
	p.b, p.state = nil, ended
}

// readMessage reads the open message that piece i begins, with what continues it as far as that is there. Last is what was
// absorbed before.
func (t *Tracker) readMessage(s *stream, i int, last piece, visit func(*Message)) {
	for {
		p := &s.pieces[i]
		m := s.message(p)
		n, err := t.readPiece(s, p, &m)
		switch {
		case err == nil:
			t.complete(s, i, n, &m, visit)
			return
		case !errors.Is(err, errMore):
			t.refuse(s, i, last)
			return
		case p.cut:
			t.giveUp(s, i, CauseCut, visit)
			return
		case len(p.b) >= t.limits.message || p.segments >= t.limits.segments || p.proto == ProtocolDNS && len(p.b) >= dnsMost:
			t.giveUp(s, i, CauseTooLong, visit)
			return
		case s.next(i) == nil:
			return
		}
		last = t.absorb(s, i)
	}
}

// readPiece reads the message that p begins, if it still looks like one and may be one.
func (t *Tracker) readPiece(s *stream, p *piece, m *Message) (int, error) {
	proto, ok := t.beginning(&s.Key, p.b)
	if !ok || proto != p.proto { // more of it may say otherwise
		return 0, errMalformed
	}
	n, err := readers[proto](p.b, m)
	if t.exchanges.refuses(s, p.seq, m) {
		m.TLS, m.HTTP = nil, nil
		return 0, errMalformed
	}
	return n, err
}

// readers read the first message of a stream from its bytes so far: how many it took, or errMore or errMalformed.
var readers = [ProtocolCount]func(b []byte, m *Message) (n int, err error){readDNS, readTLS, readHTTP}

// message returns what is known of a message before it is read.
func (s *stream) message(p *piece) Message {
	return Message{Time: p.last, Key: s.Key, Direction: s.Direction}
}

// absorb appends to the message of piece i what continues it, and returns that.
func (t *Tracker) absorb(s *stream, i int) piece {
	last := *s.next(i)
	if last.state == open { // it looked like a message, and is the middle of this one
		t.counts.GivenUp[last.proto][CauseMalformed]++
	}
	s.absorb(i)
	return last
}

// complete tells m, the first n bytes of piece i. Of what is behind it, nothing is kept but another beginning.
func (t *Tracker) complete(s *stream, i, n int, m *Message, visit func(*Message)) {
	t.room--
	p := &s.pieces[i]
	m.Completed = t.holds(s, p.seq, n)
	t.tell(m, when{first: p.first, seq: p.seq, end: p.seq + uint32(n), ack: p.ack, asks: true}, visit)

	rest := p.without(n)
	p.b, p.state = nil, ended
	if _, begins := t.beginning(&s.Key, rest.b); begins && rest.n > 0 && !t.exchanges.refuses(s, rest.seq, &Message{}) {
		rest.state, rest.borrowed, rest.segments, rest.first = fresh, true, 1, rest.last
		p.n = n
		s.pieces = slices.Insert(s.pieces, i+1, rest)
	}
}

// holds reports whether the segment that is read has some of the n bytes at seq of s.
func (t *Tracker) holds(s *stream, seq uint32, n int) bool {
	r := t.reading
	return r != nil && s.streamKey == streamKey{r.Key, r.Direction} &&
		distance(r.Seq, seq) < len(r.Payload) && distance(seq, r.Seq) < n
}

// refuse takes back that piece i begins a message. Its bytes may be the rest of one that begins before them, and what was
// absorbed last may begin one by itself.
func (t *Tracker) refuse(s *stream, i int, last piece) {
	p := &s.pieces[i]
	t.counts.GivenUp[p.proto][CauseMalformed]++
	p.state = stray
	if last.n > 0 {
		*p = p.firstBytes(p.n - last.n)
		last.state = fresh
		s.pieces = slices.Insert(s.pieces, i+1, last)
	}
}

// giveUp ends the message of piece i, whose rest will not come. Of HTTP what is there is told, if it is the first line at least;
// of DNS what was captured, if that is the first question at least, as over UDP.
func (t *Tracker) giveUp(s *stream, i int, cause Cause, visit func(*Message)) {
	p := &s.pieces[i]
	m := s.message(p)
	captured := cause == CauseCut || cause == CauseTooLong
	switch {
	case p.proto == ProtocolHTTP:
		_, _ = t.readPiece(s, p, &m) // errMore, as before
		m.Cut = true
	case p.proto == ProtocolDNS && captured && len(p.b) > 2:
		if d := new(DNS); parseDNS(p.b[2:], d) == nil {
			m.DNS, m.Cut = d, true
		}
	}
	m.Completed = t.holds(s, p.seq, p.n)
	if m.HTTP != nil || m.DNS != nil {
		// Late ones are out of order: their answers may have been told.
		t.tell(&m, when{first: p.first, seq: p.seq, end: p.end(), ack: p.ack, asks: captured}, visit)
	} else {
		t.counts.GivenUp[p.proto][cause]++
	}
	p.b, p.state = nil, ended
}

// tell pairs m and hands it out, unless it was told before.
func (t *Tracker) tell(m *Message, w when, visit func(*Message)) {
	if !t.exchanges.pair(m, w) {
		t.counts.GivenUp[m.Protocol()][CauseRepeated]++
		return
	}
	if m.HTTP != nil && !t.config.HTTPPath {
		m.HTTP.Path = ""
	}
	t.counts.Told[m.Protocol()]++
	if visit != nil {
		visit(m)
	}
}

// beginning reports whether a packet with payload b begins a message, or may once more of it is there, and of what. Over TCP
// everything at port 53 is DNS, which has no mark.
func (t *Tracker) beginning(k *flow.Key, b []byte) (Protocol, bool) {
	switch {
	case k.SrcPort == portDNS || k.DstPort == portDNS:
		return ProtocolDNS, t.config.DNS
	case beginsTLS(b):
		return ProtocolTLS, t.config.TLS
	case beginsHTTP(b):
		return ProtocolHTTP, t.config.HTTP
	}
	return 0, false
}

// beginsTLS reports whether b begins like a record with a hello, behind the change of cipher that a second hello may have
// before it; RFC 8446 5.1, 4 and D.4.
func beginsTLS(b []byte) bool {
	b = bytes.TrimPrefix(b, changeCipherSpec)
	return len(b) > 0 && b[0] == recordHandshake &&
		(len(b) < 2 || b[1] == 3) &&
		(len(b) < 3 || b[2] <= 4) &&
		(len(b) < 6 || b[5] == handshakeClient || b[5] == handshakeServer)
}
