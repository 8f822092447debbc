// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"slices"
	"time"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// Config says what a Tracker reads.
type Config struct {
	DNS, TLS, HTTP bool
	HTTPPath       bool       // else HTTP.Path stays empty
	OneWay         bool       // packets of one direction alone are seen: that an answer was not says nothing
	Scope          flow.Scope // where questions and their answers may count
}

// limits bound what a Tracker keeps.
type limits struct {
	streams   int           // with a message that is not whole, and as many without, for what comes late and twice
	pieces    int           // of a stream
	message   int           // bytes of one
	segments  int           // of a message: each is read again with every segment
	bytes     int           // of all streams
	questions int           // that wait for an answer, for each protocol; of HTTP connections, with or without such
	patience  time.Duration // for the rest of a message
}

// defaultLimits follow what the kernel copies of a message: 16 KiB or 8 packets. A Tracker that is full of everything, with the
// longest names, takes 18 MiB (TestMemory).
var defaultLimits = limits{
	streams: 1024, pieces: 16, message: 16 << 10, segments: 32, bytes: 4 << 20, questions: 4096, patience: 5 * time.Second,
}

// maxMessages is how many messages one segment may complete. A packet has room for more than 100 of the shortest, each of which would
// be a record.
const maxMessages = 8

// window is how far apart pieces of one stream may be in sequence space. What is farther belongs to another time.
const window = 1 << 20

// Bits of TCPFlags; RFC 9293 3.1.
const (
	tcpFIN = 1 << 0
	tcpSYN = 1 << 1
	tcpRST = 1 << 2
)

// IANA protocol numbers.
const (
	protoTCP = 6
	protoUDP = 17
)

// Ports of what has the format of DNS.
const (
	portDNS   = 53
	portMDNS  = 5353
	portLLMNR = 5355
)

// Tracker makes messages of segments. It is not safe for concurrent use, and must not be called from the callbacks that it
// calls.
type Tracker struct {
	config Config
	limits limits
	counts Counts
	open   *recent[streamKey, *stream] // with a message that is open, in the order in which they began to wait
	quiet  *recent[streamKey, *stream] // without
	bytes  int                         // that their pieces hold

	reading *Segment // the one that Read was given, nil outside
	room    int      // messages that it may still complete

	exchanges exchanges
}

// NewTracker returns a Tracker that has seen nothing.
func NewTracker(c Config) *Tracker { return newTracker(c, defaultLimits) }

func newTracker(c Config, l limits) *Tracker {
	t := &Tracker{
		config: c,
		limits: l,
		open:   newRecent[streamKey, *stream](l.streams),
		quiet:  newRecent[streamKey, *stream](l.streams),
	}
	t.exchanges = newExchanges(&c, l.questions, &t.counts)
	return t
}

// Counts returns what became of messages and questions so far.
func (t *Tracker) Counts() Counts {
	c := t.counts
	for e := range t.open.all() {
		for i := range e.value.pieces {
			if p := &e.value.pieces[i]; p.state == open {
				c.Open[p.proto]++
			}
		}
	}
	c.Waiting = t.exchanges.waiting()
	return c
}

// Read takes a segment, and calls visit for each message that it completes.
func (t *Tracker) Read(s *Segment, visit func(*Message)) {
	t.reading, t.room = s, maxMessages
	defer func() { t.reading = nil }()
	switch {
	case s.Key.LaterFragment:
	case s.Key.Proto == protoUDP:
		t.readDatagram(s, visit)
	case s.Key.Proto == protoTCP:
		t.readSegment(s, visit)
	}
}

func (t *Tracker) readDatagram(s *Segment, visit func(*Message)) {
	variant, ok := dnsVariant(&s.Key)
	if !ok || !t.config.DNS || s.Length == 0 {
		return
	}
	t.counts.Begun[ProtocolDNS]++
	d := DNS{Variant: variant}
	switch err := parseDNS(s.Payload, &d); {
	case err == nil:
		m := Message{Time: s.Time, Key: s.Key, Direction: s.Direction, Completed: true, Cut: s.Length > len(s.Payload), DNS: &d}
		t.tell(&m, when{first: s.Time, asks: true}, visit)
	case s.Length > len(s.Payload):
		t.counts.GivenUp[ProtocolDNS][CauseCut]++
		t.exchanges.doubt(&s.Key, s.Direction)
	default:
		t.counts.GivenUp[ProtocolDNS][CauseMalformed]++
		t.exchanges.doubt(&s.Key, s.Direction)
	}
}

// dnsVariant tells by the ports. Port 53 is asked first: a client may ask it from any other port.
func dnsVariant(k *flow.Key) (DNSVariant, bool) {
	for variant, port := range [...]uint16{VariantDNS: portDNS, VariantMDNS: portMDNS, VariantLLMNR: portLLMNR} {
		if k.SrcPort == port || k.DstPort == port {
			return DNSVariant(variant), true
		}
	}
	return 0, false
}

// readSegment adds a segment to its stream and reads what has become whole.
func (t *Tracker) readSegment(seg *Segment, visit func(*Message)) {
	key := streamKey{seg.Key, seg.Direction}
	if seg.TCPFlags&(tcpSYN|tcpRST) != 0 { // whatever went before is over
		if s := t.find(key); s.table != nil {
			t.pushOut(s, CauseClosed, visit)
		}
		c, _ := t.config.Scope.Converse(&seg.Key, seg.Direction)
		t.exchanges.end(c)
		if seg.TCPFlags&tcpRST != 0 {
			return // bytes of a RST are no part of the stream; RFC 9293 3.10.7
		}
	}
	if len(seg.Payload) == 0 && seg.TCPFlags&tcpFIN == 0 {
		return
	}
	s := t.find(key)
	t.bytes -= s.size()
	if s.used = seg.Time; t.approach(s, seg, visit) {
		t.add(s, seg, visit)
	}
	t.keep(s, visit)
}

// find returns the stream of key, maybe a new one that is in no table.
func (t *Tracker) find(key streamKey) *stream {
	if s := t.open.get(key); s != nil {
		return *s
	}
	if s := t.quiet.get(key); s != nil {
		return *s
	}
	return &stream{streamKey: key}
}

// keep puts s into the table it belongs to, and pushes out what has no room beside it.
func (t *Tracker) keep(s *stream, visit func(*Message)) {
	s.settle(s.used - int64(t.limits.patience))
	t.bytes += s.size()
	if len(s.pieces) == 0 {
		t.remove(s)
		return
	}
	table := t.quiet
	if s.isOpen() {
		table = t.open
	}
	if s.table == table {
		if table == t.quiet {
			table.use(s.streamKey)
		}
	} else {
		t.remove(s)
		if table.full() {
			t.pushOut(table.oldest().value, CauseNoRoom, visit)
		}
		table.put(s.streamKey, s)
		s.table = table
	}
	for t.bytes > t.limits.bytes {
		if t.quiet.len() > 0 {
			t.pushOut(t.quiet.oldest().value, CauseNoRoom, visit)
		} else {
			t.pushOut(t.open.oldest().value, CauseNoRoom, visit)
		}
	}
}

// remove takes s out of its table.
func (t *Tracker) remove(s *stream) {
	if s.table != nil {
		s.table.drop(s.streamKey)
		s.table = nil
	}
}

// pushOut forgets s.
func (t *Tracker) pushOut(s *stream, cause Cause, visit func(*Message)) {
	t.bytes -= s.size()
	t.remove(s)
	for i := range s.pieces {
		if s.pieces[i].state == open {
			t.giveUp(s, i, cause, visit)
		}
	}
}

// approach reports whether seg is near enough to the pieces of s to be one. A beginning is always: pieces that are far from it
// are of another time. Other data that is far from an open message is of no interest.
func (t *Tracker) approach(s *stream, seg *Segment, visit func(*Message)) bool {
	_, begins := t.beginning(&seg.Key, seg.Payload)
	for i := 0; i < len(s.pieces); i++ {
		p := &s.pieces[i]
		if d := distance(p.seq, seg.Seq); -window <= d && d <= window {
			continue
		}
		if p.state == open {
			if !begins {
				return false
			}
			t.giveUp(s, i, CauseGap, visit)
		}
		s.pieces = slices.Delete(s.pieces, i, i+1)
		i--
	}
	return true
}

// add adds the bytes of seg to s and reads what they make whole.
func (t *Tracker) add(s *stream, seg *Segment, visit func(*Message)) {
	p := piece{
		seq: seg.Seq, b: seg.Payload[:min(len(seg.Payload), t.limits.message)], borrowed: true,
		segments: 1, first: seg.Time, last: seg.Time, ack: seg.Ack,
	}
	p.n = len(p.b)
	p.cut = p.n < seg.Length
	if s.add(p) {
		t.counts.Conflicts++
	}
	t.advance(s, visit)
	if seg.TCPFlags&tcpFIN != 0 {
		t.finish(s, seg.Seq+uint32(seg.Length), visit)
	}
	for s.merge(); len(s.pieces) > t.limits.pieces; {
		t.dropPiece(s, visit)
	}
}

// finish gives up a message that the sender's last byte, before end, belongs to.
func (t *Tracker) finish(s *stream, end uint32, visit func(*Message)) {
	for i := range s.pieces {
		if p := &s.pieces[i]; p.state == open && p.end() == end {
			t.giveUp(s, i, CauseClosed, visit)
		}
	}
}

// dropPiece makes room for one: first of messages that ended, then of those that begin nothing, then of messages.
func (t *Tracker) dropPiece(s *stream, visit func(*Message)) {
	for _, state := range [...]state{ended, stray, open} {
		i := slices.IndexFunc(s.pieces, func(p piece) bool { return p.state == state })
		if i < 0 {
			continue
		}
		if state == open {
			t.giveUp(s, i, CauseNoRoom, visit)
		}
		s.pieces = slices.Delete(s.pieces, i, i+1)
		return
	}
}

// Missed says that segments were lost: whether questions that wait now were answered, nobody knows any more.
func (t *Tracker) Missed() { t.exchanges.missed++ }

// Expire gives up what has waited too long at now, ns since 1970: the rest of messages, and answers. Call it every second or so.
func (t *Tracker) Expire(now int64, visit func(*Message)) {
	patience := int64(t.limits.patience)
	for e := range t.open.all() {
		s := e.value
		t.bytes -= s.size()
		for i := range s.pieces {
			if p := &s.pieces[i]; p.state == open && isOver(p.first, now, patience) {
				t.giveUp(s, i, overdue(s, i), visit)
			}
		}
		t.keep(s, visit)
	}
	for e := t.quiet.oldest(); e != nil && isOver(e.value.used, now, patience); e = t.quiet.oldest() {
		t.pushOut(e.value, CauseTimeout, visit)
	}
	t.exchanges.expire(now, visit)
}

// isOver reports whether the wait that began at since is over. A beginning in the future is one before the clock was set back.
func isOver(since, now, wait int64) bool {
	const ahead = int64(time.Second) // of two CPUs, so perhaps of two clocks, and of a clock that was read before
	return since <= now-wait || since > now+ahead
}

// overdue says why the rest of piece i did not come: later bytes did, or none.
func overdue(s *stream, i int) Cause {
	if i+1 < len(s.pieces) {
		return CauseGap
	}
	return CauseTimeout
}
