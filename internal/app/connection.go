// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"slices"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// maxPipelined is how many requests of a connection wait for an answer.
const maxPipelined = 16

// connection is what is remembered of one that speaks HTTP/1: who asks, which requests have no answer, where bodies are.
type connection struct {
	last     int64
	asking   uint8     // the half that sends requests: the first head of the connection decides
	switched bool      // to another protocol: nothing that follows is HTTP/1
	bodies   [2]body   // of the last message of each half
	waiting  []request // in order; RFC 9112 9.3.2
}

type request struct {
	time     int64
	seq      uint32
	end      uint32 // behind its head
	ack      uint32 // how far its sender had the answers
	expect   uint32 // where its answer begins: ack, or behind the answers that come before it
	head     bool   // HEAD: its answer has no body
	connects bool   // CONNECT: behind its answer there is a tunnel
}

// body is where one half says no head. Its zero value is none.
type body struct {
	start  uint32
	length uint32 // valid iff not open
	open   bool   // nobody knows yet where it ends
}

func (b *body) has(seq uint32) bool {
	if b.open {
		return reached(b.start, seq, window)
	}
	return seq-b.start < b.length
}

// follow notes the body behind a head, unless that is older than the last one.
func (b *body) follow(start uint32, length int64) {
	if (b.open || b.length > 0) && !reached(b.start, start, window) {
		return
	}
	*b = body{start: start, length: uint32(length)}
	if length < 0 || length >= 1<<32 {
		*b = body{start: start, open: true}
	}
}

// endAt notes that all of it was acknowledged before the other half went on, so that it is over.
func (b *body) endAt(ack uint32) {
	if b.open && reached(b.start, ack, window) {
		b.open, b.length = false, ack-b.start
	}
}

// behind returns seq, or the end of the body that it is in.
func (b *body) behind(seq uint32) uint32 {
	if !b.open && b.has(seq) {
		return b.start + b.length
	}
	return seq
}

// reached reports whether n is seq or behind it, which is all of sequence space but the given number of bytes before seq: bodies may be
// longer than the half of it in which the sign of a difference tells.
func reached(seq, n, before uint32) bool { return seq-n-1 >= before }

// bodyLength returns how long the body behind a head is, negative if that does not tell; RFC 9112 6.3. Answered is the request
// that a response answers, if one was seen.
func bodyLength(m *Message, answered *request) int64 {
	h := m.HTTP
	switch {
	case h.Response && (h.Status < 200 || h.Status == 204 || h.Status == 304 || answered != nil && answered.head):
		return 0
	case m.Cut && (h.Response || h.ContentLength >= 0 || h.Method == methodPost || h.Method == methodPut || h.Method == methodPatch):
		return -1
	case h.unframed:
		return -1
	case h.ContentLength < 0 && !h.Response:
		return 0
	}
	return h.ContentLength
}

// refuses reports whether what begins at seq is no message: a part of a body, or a head of the kind that its half does not send.
// M is what was read of it so far.
func (x *exchanges) refuses(s *stream, seq uint32, m *Message) bool {
	c, half := x.scope.Converse(&s.Key, s.Direction)
	r := x.http.get(c)
	switch {
	case r == nil:
		return false
	case r.switched:
		return m.HTTP == nil || m.HTTP.Version != versionHTTP2 // RFC 7540 3.2
	case r.bodies[half].has(seq):
		return true
	}
	return m.HTTP != nil && m.HTTP.Response == (half == r.asking)
}

// connection returns that of c, maybe a new one.
func (x *exchanges) connection(c flow.Conversation, asking uint8, now int64) *connection {
	r := x.http.use(c)
	if r == nil {
		if x.http.full() {
			x.endHTTP(x.http.oldest().key, &x.counts.Forgotten)
		}
		r = x.http.put(c, connection{asking: asking})
	}
	r.last = now
	return r
}

// pairHTTP notes requests, and what they and responses say of bodies, and pairs them if they are told in order.
func (x *exchanges) pairHTTP(m *Message, w when, c flow.Conversation, half uint8) {
	switch {
	case m.HTTP.Version == versionHTTP2:
		x.connection(c, half, m.Time).switched = true
	case m.HTTP.Response:
		x.response(m, w, c, half)
	default:
		x.request(m, w, c, half)
	}
}

// request appends a request to those of its connection.
func (x *exchanges) request(m *Message, w when, c flow.Conversation, half uint8) {
	r := x.connection(c, half, m.Time)
	r.bodies[half].follow(w.end, bodyLength(m, nil))
	r.bodies[1-half].endAt(w.ack)
	if !w.asks {
		return
	}
	before := len(r.waiting)
	r.waiting = slices.DeleteFunc(r.waiting, func(q request) bool { return q.missed(w.ack) })
	x.counts.Unanswered[ProtocolHTTP] += uint64(before - len(r.waiting))
	if len(r.waiting) == maxPipelined {
		r.waiting = slices.Delete(r.waiting, 0, 1)
		x.counts.Forgotten[ProtocolHTTP]++
	}
	i := len(r.waiting)
	for i > 0 && distance(w.seq, r.waiting[i-1].seq) > 0 {
		i--
	}
	r.waiting = slices.Insert(r.waiting, i, request{
		time: m.Time, seq: w.seq, end: w.end, ack: w.ack, expect: r.bodies[1-half].behind(w.ack),
		head: m.HTTP.Method == methodHead, connects: m.HTTP.Method == methodConnect,
	})
	x.counts.Asked[ProtocolHTTP]++
}

// missed reports whether a request after q, with that acknowledgement, says that nobody will see the answer to q: its sender had
// bytes of it. One far before that of q is of another connection with the same ports: of most neither SYN nor RST is a sample.
func (q *request) missed(ack uint32) bool {
	from := q.ack - window
	return ack-from > q.expect-from
}

// response answers a request. An interim one answers nothing, but 101 is the last that is HTTP/1; RFC 9110 15.2.
func (x *exchanges) response(m *Message, w when, c flow.Conversation, half uint8) {
	r := x.connection(c, 1-half, m.Time)
	final := m.HTTP.Status >= 200 || m.HTTP.Status == 101
	var answered *request
	if w.asks && final {
		answered = x.answered(r, w)
	}
	if answered != nil {
		x.answer(m, w, answered.time)
	}
	length := bodyLength(m, answered)
	r.bodies[half].follow(w.end, length)
	if length >= 0 {
		r.expectBehind(w.seq, w.end+uint32(length))
	}
	switch {
	case answered != nil && answered.connects && m.HTTP.Status < 300: // RFC 9110 9.3.6
		x.endHTTP(c, &x.counts.Unanswered)
	case m.HTTP.Status == 101:
		r.switched = true
	case w.asks && final && len(r.waiting) == 0:
		r.bodies[1-half].endAt(w.ack)
	}
}

// answered takes the request that a response answers, nil if that was not seen: its sender had all of it, and it expected an
// answer here. Those whose answer begins before this one count as unanswered: it was missed.
func (x *exchanges) answered(r *connection, w when) *request {
	for len(r.waiting) > 0 {
		q := r.waiting[0]
		if !reached(q.end, w.ack, 1<<30) || distance(q.expect, w.seq) < 0 {
			break
		}
		r.waiting = slices.Delete(r.waiting, 0, 1)
		if q.expect == w.seq {
			return &q
		}
		x.counts.Unanswered[ProtocolHTTP]++
	}
	return nil
}

// expectBehind says that an answer which is not that of the requests that wait is at seq, and ends before end.
func (r *connection) expectBehind(seq, end uint32) {
	for i := range r.waiting {
		if q := &r.waiting[i]; q.expect == seq {
			q.expect = end
		}
	}
}
