// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"iter"
	"strings"
	"time"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// blind is how much time may lie between two calls of expire. After more, the clock was set, or nobody looked: what lies between is
// not known.
const blind = int64(2 * time.Second)

// maxLooks is how often all questions of DNS are looked at between two calls of expire. Whoever sends what is no answer makes us look.
const maxLooks = 64

// How long a question waits for its answer.
const (
	dnsWait  = int64(5 * time.Second)  // as long as resolvers do before they ask again; resolv.conf(5)
	tlsWait  = int64(30 * time.Second) // a client gives up the connection sooner or later
	httpWait = int64(5 * time.Minute)  // since the connection's last head; answers may take minutes
)

// exchanges are questions that wait for an answer, which is of the other half of the same flow.Conversation.
type exchanges struct {
	scope  flow.Scope
	dns    *recent[dnsQuestion, dnsAsked]
	tls    *recent[flow.Conversation, tlsAsked]
	http   *recent[flow.Conversation, connection]
	counts *Counts
	oneWay bool
	missed uint64 // moments at which an answer may have been missed
	looks  int    // at all questions of DNS since the last expire
	now    int64  // of the last expire; 0: none
}

// dnsQuestion is what a response repeats; RFC 1035 4.1.1, RFC 5452 9.1.
type dnsQuestion struct {
	flow.Conversation
	half           uint8 // that asked
	id, typ, class uint16
	name           string // lower case: servers need not repeat the case; RFC 4343 3
}

// dnsAsked is what is told again if nobody answers.
type dnsAsked struct {
	time      int64
	key       flow.Key
	direction flow.Direction
	name      string
	missed    uint64 // exchanges.missed when it was asked
	doubted   bool   // an answer that cannot be read may be to it
}

type tlsAsked struct {
	time  int64
	half  uint8
	end   uint32 // behind it
	ack   uint32 // where the answer begins
	hello TLS    // its session id alone
}

// answeredBy reports whether a ServerHello had this hello before it, and is what its sender expected next. Between them may be the
// change of cipher behind a HelloRetryRequest; RFC 8446 D.4.
func (a *tlsAsked) answeredBy(w when, half uint8) bool {
	behind := w.seq - a.ack
	return half != a.half && reached(a.end, w.ack, 1<<30) && (behind == 0 || behind == uint32(len(changeCipherSpec)))
}

// when is what pairing needs to know beside a message.
type when struct {
	first int64  // time of its first packet
	seq   uint32 // of its first byte
	end   uint32 // behind its last byte
	ack   uint32 // of its last packet
	asks  bool   // it is told in order, so it may be paired
}

func newExchanges(c *Config, most int, counts *Counts) exchanges {
	return exchanges{
		scope:  c.Scope,
		oneWay: c.OneWay,
		dns:    newRecent[dnsQuestion, dnsAsked](most),
		tls:    newRecent[flow.Conversation, tlsAsked](most),
		http:   newRecent[flow.Conversation, connection](most),
		counts: counts,
	}
}

// pair notes m if it is a question, and finds the question if it is an answer. It reports false if m is a question that waits
// already.
func (x *exchanges) pair(m *Message, w when) bool {
	c, half := x.scope.Converse(&m.Key, m.Direction)
	switch {
	case m.HTTP != nil:
		x.pairHTTP(m, w, c, half)
	case !w.asks:
	case m.DNS != nil:
		return x.pairDNS(m, w, c, half)
	case m.TLS != nil:
		x.pairTLS(m, w, c, half)
	}
	return true
}

// pairDNS leaves multicast alone: nobody must answer there (RFC 6762 6), and LLMNR is answered from another address (RFC 4795
// 2.3). A question that is sent again while it waits is one question, asked when it was asked first: that is how long who asked
// has waited. To which of them the answer is, nobody can tell. An error need not repeat the question (RFC 1035 7.3): its identifier
// tells, if one question alone has it.
func (x *exchanges) pairDNS(m *Message, w when, c flow.Conversation, half uint8) (isNew bool) {
	d := m.DNS
	switch {
	case d.Variant != VariantDNS:
		return true
	case d.Response && !d.HasQuestion:
		x.pairByID(m, w, c, half)
		return true
	case !d.HasQuestion:
		return true
	}
	q := dnsQuestion{c, half, d.ID, d.Type, d.Class, strings.ToLower(d.Name)}
	if d.Response {
		q.half = 1 - half
		if asked := x.dns.get(q); asked != nil {
			x.answer(m, w, asked.time)
			x.dns.drop(q)
		}
		return true
	}
	if x.dns.get(q) != nil {
		return false
	}
	if x.dns.full() {
		x.dns.drop(x.dns.oldest().key)
		x.counts.Forgotten[ProtocolDNS]++
	}
	x.dns.put(q, dnsAsked{time: m.Time, key: m.Key, direction: m.Direction, name: d.Name, missed: x.missed})
	x.counts.Asked[ProtocolDNS]++
	return true
}

// pairByID pairs a response that says nothing of its question. Of several it may be to, all are doubted.
func (x *exchanges) pairByID(m *Message, w when, c flow.Conversation, half uint8) {
	var found []*entry[dnsQuestion, dnsAsked]
	for e := range x.asked(c, 1-half) {
		if e.key.id == m.DNS.ID {
			e.value.doubted = true
			found = append(found, e)
		}
	}
	if len(found) == 1 {
		x.answer(m, w, found[0].value.time)
		x.dns.drop(found[0].key)
	}
}

// doubt notes that something came from a server of DNS which is not, or not yet, a message: it may be the answer to any question that
// waits there.
func (x *exchanges) doubt(k *flow.Key, d flow.Direction) {
	if k.SrcPort != portDNS {
		return
	}
	c, half := x.scope.Converse(k, d)
	for e := range x.asked(c, 1-half) {
		e.value.doubted = true
	}
}

// asked visits the questions of one half of c that wait. It looks at all of them, so where that is needed too often, all are doubted
// instead.
func (x *exchanges) asked(c flow.Conversation, half uint8) iter.Seq[*entry[dnsQuestion, dnsAsked]] {
	return func(yield func(*entry[dnsQuestion, dnsAsked]) bool) {
		if x.looks++; x.looks > maxLooks {
			x.missed++
			return
		}
		for e := range x.dns.all() {
			if e.key.half == half && e.key.Conversation == c && !yield(e) {
				return
			}
		}
	}
}

// pairTLS lets each ServerHello answer the ClientHello before it. After a HelloRetryRequest there is another; RFC 8446 4.1.4.
func (x *exchanges) pairTLS(m *Message, w when, c flow.Conversation, half uint8) {
	asked := x.tls.get(c)
	if m.TLS.Server {
		if asked != nil && asked.answeredBy(w, half) {
			m.TLS.Resumed, m.TLS.KnowsResumed = m.TLS.resumes(&asked.hello), !m.TLS.RetryRequest
			x.answer(m, w, asked.time)
			x.tls.drop(c)
		}
		return
	}
	x.end(c) // what speaks TLS now does not speak HTTP
	if x.tls.full() {
		x.endTLS(x.tls.oldest().key, &x.counts.Forgotten)
	}
	x.tls.put(c, tlsAsked{m.Time, half, w.end, w.ack, TLS{sessionID: m.TLS.sessionID}})
	x.counts.Asked[ProtocolTLS]++
}

// answer says that m answers a question of that time.
func (x *exchanges) answer(m *Message, w when, asked int64) {
	m.Answers, m.Elapsed = true, time.Duration(max(0, w.first-asked)) // of two CPUs, so perhaps of two clocks
	x.counts.Answered[m.Protocol()]++
}

// end forgets what a TCP connection waits for. Questions of DNS are told when their time is over, as over UDP.
func (x *exchanges) end(c flow.Conversation) {
	x.endHTTP(c, &x.counts.Unanswered)
	x.endTLS(c, &x.counts.Unanswered)
}

// endTLS forgets the hello of c, if there is one, and counts it.
func (x *exchanges) endTLS(c flow.Conversation, as *[ProtocolCount]uint64) {
	if x.tls.get(c) != nil {
		x.tls.drop(c)
		as[ProtocolTLS]++
	}
}

// endHTTP forgets c, and counts its requests.
func (x *exchanges) endHTTP(c flow.Conversation, as *[ProtocolCount]uint64) {
	if r := x.http.get(c); r != nil {
		as[ProtocolHTTP] += uint64(len(r.waiting))
		x.http.drop(c)
	}
}

// expire gives up the questions that have waited too long at now, and tells those of DNS again that nobody answered.
func (x *exchanges) expire(now int64, visit func(*Message)) {
	if x.now != 0 && (now < x.now || now-x.now > blind) {
		x.missed++
	}
	x.now, x.looks = now, 0
	for e := x.dns.oldest(); e != nil && isOver(e.value.time, now, dnsWait); e = x.dns.oldest() {
		m, known := unanswered(&e.key, &e.value), x.knows(&e.value)
		x.dns.drop(e.key)
		if !known {
			x.counts.Unknown[ProtocolDNS]++
			continue
		}
		x.counts.Unanswered[ProtocolDNS]++
		if visit != nil {
			visit(m)
		}
	}
	for e := x.tls.oldest(); e != nil && isOver(e.value.time, now, tlsWait); e = x.tls.oldest() {
		x.endTLS(e.key, &x.counts.Unanswered)
	}
	for e := x.http.oldest(); e != nil && isOver(e.value.last, now, httpWait); e = x.http.oldest() {
		x.endHTTP(e.key, &x.counts.Unanswered)
	}
}

// knows reports whether an answer to a question that waited all of its time would have been seen.
func (x *exchanges) knows(a *dnsAsked) bool {
	return !x.oneWay && !a.doubted && a.missed == x.missed
}

func unanswered(q *dnsQuestion, a *dnsAsked) *Message {
	d := &DNS{HasQuestion: true, ID: q.id, Type: q.typ, Class: q.class, Name: a.name}
	return &Message{Time: a.time, Key: a.key, Direction: a.direction, TimedOut: true, DNS: d}
}

// waiting returns how many questions wait.
func (x *exchanges) waiting() (n [ProtocolCount]uint64) {
	n[ProtocolDNS], n[ProtocolTLS] = uint64(x.dns.len()), uint64(x.tls.len())
	for e := range x.http.all() {
		n[ProtocolHTTP] += uint64(len(e.value.waiting))
	}
	return n
}
