// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// sent is a message over TCP, and the key it travels with.
type sent struct {
	name string
	key  flow.Key
	text string
}

func messages() []sent {
	dnsKey, webKey := v4(protoTCP, 40000, 53), v4(protoTCP, 40000, 80)
	return []sent{
		{"a DNS question", dnsKey, prefixed(dns(7, false, "www.example.com."))},
		{"a DNS answer", dnsKey.Reversed(), prefixed(dns(7, true, "www.example.com."))},
		{"a ClientHello", webKey, tls13().client},
		{"a ServerHello", webKey.Reversed(), tls13().server},
		{"a ServerHello of TLS 1.2", webKey.Reversed(), tls12()[0].server},
		{"a request", webKey, getRequest},
		{"a request with LF alone", webKey, strings.ReplaceAll(getRequest, "\r", "")},
		{"a request that ends in what looks like others", webKey, "OPTIONS * HTTP/1.0\r\nA: GET / \r\nHTTP: HTTP/1.1 OK\r\nPRI: \x16\x03\x01\r\n\r\n"},
		{"a response", webKey.Reversed(), okResponse},
		{"the preface and the first request of HTTP/2", webKey, callHTTP2("application/grpc")},
	}
}

// cut returns the parts of a message between the boundaries.
func (m *sent) cut(seq uint32, boundaries ...int) (parts []Segment) {
	slices.Sort(boundaries)
	from := 0
	for _, to := range append(boundaries, len(m.text)) {
		if to > from {
			parts = append(parts, Segment{Key: m.key, Seq: seq + uint32(from), TCPFlags: 0x10, Payload: []byte(m.text[from:to])})
		}
		from = to
	}
	return parts
}

// TestMessagesHoweverTheyAreCut: the same message is told exactly once.
func TestMessagesHoweverTheyAreCut(t *testing.T) {
	for _, m := range messages() {
		t.Run(m.name, func(t *testing.T) {
			whole := newRig()
			whole.read(m.cut(1)[0])
			require.Len(t, whole.told, 1)
			want := whole.told[0]

			check := func(parts []Segment) {
				r := newRig()
				for _, p := range parts {
					given := slices.Clone(p.Payload)
					p.Payload = given
					r.read(p)
					clear(given) // it is valid only until Read returns
				}
				require.Len(t, r.told, 1, "%v", parts)
				require.Equal(t, r.now, r.told[0].Time, "%v", parts)
				require.True(t, r.told[0].Completed)
				r.told[0].Time = want.Time
				require.Equal(t, want, r.told[0], "%v", parts)
				require.Zero(t, r.bytes, "memory of a message that ended")
				r.requireIdentity(t)
			}
			for _, seq := range []uint32{0, 77, -uint32(len(m.text)) / 2} { // around the wrap for some boundary
				for i := 1; i < len(m.text); i++ {
					two := m.cut(seq, i)
					check(two)
					check([]Segment{two[1], two[0]})
				}
			}
			for range 500 {
				seq := -uint32(rand.IntN(len(m.text) + 1))
				three := m.cut(seq, 1+rand.IntN(len(m.text)-1), 1+rand.IntN(len(m.text)-1))
				rand.Shuffle(len(three), func(i, j int) { three[i], three[j] = three[j], three[i] })
				check(three)
			}
		})
	}
}

// TestRetransmissions: parts come twice, in other cuts, before and after the message is whole.
func TestRetransmissions(t *testing.T) {
	for _, m := range messages() {
		t.Run(m.name, func(t *testing.T) {
			for range 300 {
				r := newRig()
				seq := -uint32(rand.IntN(len(m.text)))
				var parts []Segment
				for range 4 {
					parts = append(parts, m.cut(seq, 1+rand.IntN(len(m.text)-1), 1+rand.IntN(len(m.text)-1))...)
				}
				if rand.IntN(2) == 0 {
					rand.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
				}
				for _, p := range parts {
					r.read(p)
				}
				require.Len(t, r.told, 1, "%v", parts)
				require.Zero(t, r.Counts().Conflicts)
				r.requireIdentity(t)
			}
		})
	}
}

// TestTheFirstCopyOfAByteHolds: what an attacker says later, or a middlebox repaired, changes nothing.
func TestTheFirstCopyOfAByteHolds(t *testing.T) {
	r, k := newRig(), v4(protoTCP, 40000, 80)
	r.read(ask(k, 100, "GET /first HT"))
	r.read(ask(k, 100, "GET /other HTTP/1.1\r\n"))
	r.read(ask(k, 110, " HTTP/1.1\r\n\r\n"))
	require.Len(t, r.told, 1)
	assert.Equal(t, "/first", r.told[0].HTTP.Path)
	assert.Equal(t, uint64(1), r.Counts().Conflicts)
	r.requireIdentity(t)
}

// TestGivenUp: each cause.
func TestGivenUp(t *testing.T) {
	web, dnsTCP := v4(protoTCP, 40000, 80), v4(protoTCP, 40000, 53)
	hello := tls13().client
	question := dns(7, false, "www.example.com.")
	flagged := func(s Segment, flags uint8) Segment {
		s.TCPFlags |= flags
		return s
	}
	cut := func(s Segment) Segment {
		s.Length = len(s.Payload) + 1000
		return s
	}
	udp := func(s Segment) Segment {
		s.Key.Proto = protoUDP
		return s
	}
	for _, tt := range []struct {
		name  string
		parts []Segment
		proto Protocol
		cause Cause
	}{
		{"nothing more comes", []Segment{ask(web, 0, hello[:20])}, ProtocolTLS, CauseTimeout},
		{"a packet is missing", []Segment{ask(web, 0, hello[:20]), ask(web, 30, hello[30:])}, ProtocolTLS, CauseGap},
		{"another message begins far behind", []Segment{ask(web, 0, hello[:20]), ask(web, window+1, getRequest)}, ProtocolTLS, CauseGap},
		{"captured in part", []Segment{cut(ask(web, 0, hello[:20]))}, ProtocolTLS, CauseCut},
		{"a later part captured in part", []Segment{ask(web, 0, hello[:20]), cut(ask(web, 20, hello[20:50]))}, ProtocolTLS, CauseCut},
		{"a datagram captured in part", []Segment{cut(udp(ask(dnsTCP, 0, question[:15])))}, ProtocolDNS, CauseCut},
		{"a datagram that is none", []Segment{udp(ask(dnsTCP, 0, "not of this kind"))}, ProtocolDNS, CauseMalformed},
		{"a question over UDP that is asked again", []Segment{udp(ask(dnsTCP, 0, question)), udp(ask(dnsTCP, 0, question))}, ProtocolDNS, CauseRepeated},
		{"FIN", []Segment{flagged(ask(web, 0, hello[:20]), 1)}, ProtocolTLS, CauseClosed},
		{"FIN without bytes", []Segment{ask(web, 0, hello[:20]), flagged(ask(web, 20, ""), 1)}, ProtocolTLS, CauseClosed},
		{"RST", []Segment{ask(web, 0, hello[:20]), flagged(ask(web, 20, ""), 4)}, ProtocolTLS, CauseClosed},
		{"SYN of another connection", []Segment{ask(web, 0, hello[:20]), flagged(ask(web, 9999, ""), 2)}, ProtocolTLS, CauseClosed},
		{"too long", []Segment{ask(dnsTCP, 0, "\xff\xff\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"+strings.Repeat("x", 16<<10))}, ProtocolDNS, CauseCut},
		{"a body", []Segment{ask(web, 0, "GET your free copy now!\r\n\r\n")}, ProtocolHTTP, CauseMalformed},
		{"a body with a byte that no line has", []Segment{ask(web, 0, "GET \x01")}, ProtocolHTTP, CauseMalformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig()
			for _, p := range tt.parts {
				r.read(p)
			}
			r.requireIdentity(t)
			r.wait(6 * time.Second)
			r.requireIdentity(t)
			var want [ProtocolCount][CauseCount]uint64
			want[tt.proto][tt.cause] = 1
			c := r.Counts()
			assert.Equal(t, want, c.GivenUp)
			assert.Zero(t, c.Open)
			r.wait(time.Minute)
			assert.Zero(t, r.open.len()+r.quiet.len()+r.bytes, "what is kept of streams ends")
		})
	}
}

func TestMessagesThatGoOnTooLong(t *testing.T) {
	k := v4(protoTCP, 40000, 53)
	begins := "\xff\xff\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
	for name, part := range map[string]int{"bytes": 2000, "segments": 1} {
		t.Run(name, func(t *testing.T) {
			r := newRig()
			r.read(ask(k, 0, begins))
			for seq := len(begins); r.Counts().GivenUp[ProtocolDNS][CauseTooLong] == 0; seq += part {
				require.Less(t, seq, 20_000)
				r.read(ask(k, uint32(seq), strings.Repeat("x", part)))
			}
			r.requireIdentity(t)
		})
	}
}

func TestStreamsArePushedOut(t *testing.T) {
	for name, bound := range map[string]func(l *limits){
		"streams": func(l *limits) { l.streams = 10 },
		"bytes":   func(l *limits) { l.bytes = 1000 },
	} {
		t.Run(name, func(t *testing.T) {
			l := defaultLimits
			bound(&l)
			r := newRig()
			r.Tracker = newTracker(everything, l)
			for i := range 100 {
				r.read(ask(v4(protoTCP, uint16(40000+i), 80), 0, tls13().client[:100]))
				r.requireIdentity(t)
			}
			c := r.Counts()
			assert.Equal(t, uint64(10), c.Open[ProtocolTLS])
			assert.Equal(t, uint64(90), c.GivenUp[ProtocolTLS][CauseNoRoom])
			r.read(ask(v4(protoTCP, 40000+99, 80), 100, tls13().client[100:]))
			assert.Len(t, r.told, 1, "the latest is still there")
			r.read(ask(v4(protoTCP, 40000, 80), 100, tls13().client[100:]))
			assert.Len(t, r.told, 1, "the first is not")
		})
	}
}

// TestOtherSegmentsDoNoHarm: samples of other kinds, of the same connections.
func TestOtherSegmentsDoNoHarm(t *testing.T) {
	k := v4(protoTCP, 40000, 80)
	for name, other := range map[string]Segment{
		"acknowledgement":        ask(k, 50, ""),
		"body far behind":        ask(k, 1<<22, strings.Repeat("x", 1000)),
		"body near":              ask(k, 5000, strings.Repeat("x", 1000)),
		"body before":            ask(k, 1<<31+9, strings.Repeat("x", 1000)),
		"the other direction":    answer(k, 40, "body"),
		"another interface":      {Key: func() flow.Key { k := k; k.IfIndex++; return k }(), Payload: []byte("x"), Seq: 40},
		"a later fragment":       {Key: func() flow.Key { k := k; k.LaterFragment = true; return k }(), Payload: []byte("GET /")},
		"a message far behind":   ask(k, 1<<19, getRequest),
		"one byte, as a message": ask(k, 9000, "G"),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig()
			r.read(ask(k, 0, getRequest[:40]))
			r.read(other)
			r.read(ask(k, 40, getRequest[40:]))
			paths := 0
			for _, m := range r.told {
				if m.HTTP.Path == "/index.html" {
					paths++
				}
			}
			assert.GreaterOrEqual(t, paths, 1)
			r.requireIdentity(t)
		})
	}
}

// TestInterleaved: messages of many connections, cut and mixed, each in order.
func TestInterleaved(t *testing.T) {
	r := newRig()
	var queues [][]Segment
	want := 0
	for i := range 200 {
		var all []Segment
		for range 3 {
			m := sent{key: v4(protoTCP, uint16(30000+i), 80), text: getRequest}
			all = append(all, m.cut(uint32(want)*1000, 1+rand.IntN(60), 60)...)
			want++
		}
		queues = append(queues, all)
	}
	for len(queues) > 0 {
		i := rand.IntN(len(queues))
		r.read(queues[i][0])
		if queues[i] = queues[i][1:]; len(queues[i]) == 0 {
			queues = slices.Delete(queues, i, i+1)
		}
	}
	assert.Len(t, r.told, want)
	assert.Zero(t, r.bytes)
	r.requireIdentity(t)
}

// TestManyMessagesInASegment: the rest of them is given up, also if it comes again.
func TestManyMessagesInASegment(t *testing.T) {
	shortest := "\x00\x0c\x00\x07\x01\x00" + strings.Repeat("\x00", 8)
	for _, tt := range []struct {
		proto Protocol
		port  uint16
		text  string
	}{
		{ProtocolDNS, 53, strings.Repeat(shortest, 142)},
		{ProtocolHTTP, 80, strings.Repeat("GET / HTTP/1.1\n\n", 124)},
	} {
		r, k := newRig(), v4(protoTCP, 40000, tt.port)
		r.read(ask(k, 0, tt.text))
		r.read(ask(k, 0, tt.text))
		assert.Len(t, r.told, maxMessages)
		assert.Equal(t, uint64(1), r.Counts().GivenUp[tt.proto][CauseNoRoom])
		r.requireIdentity(t)
		r.read(ask(k, uint32(len(tt.text)), tt.text))
		assert.Len(t, r.told, 2*maxMessages, "the next segment has as much room")
		r.requireIdentity(t)
	}
}

// TestAPipelinedSegmentComesAgain, among others of the connection that leave no room for each of its messages.
func TestAPipelinedSegmentComesAgain(t *testing.T) {
	r, k := newRig(), v4(protoTCP, 40000, 80)
	text := strings.Repeat(getRequest, maxMessages)
	for i := range uint32(defaultLimits.pieces - 2) {
		r.read(ask(k, 10_000*(i+1), "stray"))
	}
	r.read(ask(k, 0, text))
	require.Len(t, r.told, maxMessages)
	r.read(ask(k, 0, text))
	assert.Len(t, r.told, maxMessages)
	r.requireIdentity(t)
}

// TestWhichSegmentCompletes: that has a part of the message, whatever the clocks of the CPUs say.
func TestWhichSegmentCompletes(t *testing.T) {
	r, k := newRig(), v4(protoTCP, 40000, 80)
	n := 40
	late := ask(k, uint32(n), getRequest[n:]+get("/2"))
	r.now += int64(time.Second)
	r.read(late)
	r.now -= int64(time.Second)
	r.read(ask(k, 0, getRequest[:n]))
	require.Len(t, r.told, 2)
	assert.True(t, r.told[0].Completed)
	assert.Greater(t, r.told[0].Time, r.now)
	assert.False(t, r.told[1].Completed, "all of it was there, but not known to be one")
	r.read(ask(k, 9000, "GET / HTTP/1.1\r\n"))
	r.wait(time.Minute)
	assert.False(t, r.last(t).Completed)
	assert.True(t, r.last(t).Cut)
}

// TestABodyIsNoMessage: that of a request is known where it ends.
func TestABodyIsNoMessage(t *testing.T) {
	r, k := newRig(), v4(protoTCP, 40000, 80)
	head := "POST /batch HTTP/1.1\r\nContent-Length: 200\r\n\r\n"
	body := getRequest + strings.Repeat("x", 200-len(getRequest))
	r.read(ask(k, 0, head+body))
	assert.Len(t, r.told, 1)
	r.read(ask(k, 1000, head))
	r.read(ask(k, 1000+uint32(len(head)), body))
	assert.Len(t, r.told, 2)
	r.read(ask(k, 1200+uint32(len(head)), getRequest))
	assert.Len(t, r.told, 3, "what follows the body is one")
	r.requireIdentity(t)
}

// TestAMessageMayFollowWhatOnlyLookedLikeOne: the packet that shows it is a beginning itself.
func TestAMessageMayFollowWhatOnlyLookedLikeOne(t *testing.T) {
	r, k := newRig(), v4(protoTCP, 40000, 80)
	r.read(ask(k, 0, "G"))
	r.read(ask(k, 1, getRequest))
	require.Len(t, r.told, 1)
	assert.Equal(t, "GET", r.told[0].HTTP.Method)
	assert.Equal(t, uint64(1), r.Counts().GivenUp[ProtocolHTTP][CauseMalformed])
	r.requireIdentity(t)
}

// TestOldPiecesAreForgotten: a later connection with the same ports may have the same sequence numbers, and its SYN is not seen.
func TestOldPiecesAreForgotten(t *testing.T) {
	r, k := newRig(), v4(protoTCP, 40000, 80)
	for i := range 3 {
		r.read(ask(k, 0, getRequest))
		r.read(ask(k, 0, getRequest))
		assert.Len(t, r.told, i+1, "once for each connection")
		r.now += int64(4 * time.Second)
		r.read(ask(k, 5000, "body"))
		r.now += int64(2 * time.Second)
		r.read(ask(k, 9000, "body"))
	}
	r.requireIdentity(t)
}

// TestHostileSegments: memory stays under its bound, and nothing is lost count of, whatever comes.
func TestHostileSegments(t *testing.T) {
	l := defaultLimits
	l.bytes, l.streams = 256<<10, 256
	r := newRig()
	r.Tracker = newTracker(everything, l)
	random := rand.New(rand.NewPCG(1, 2))
	texts := messages()
	filler := []byte(strings.Repeat("GET / HTTP/1.1\r\nA: b\r\n", 200))
	const segments = 1_000_000
	for i := range segments {
		m := &texts[random.IntN(len(texts))]
		s := Segment{Key: m.key, Seq: random.Uint32() >> random.IntN(32), Payload: filler[:random.IntN(2000)]}
		s.Key.SrcPort += uint16(random.IntN(1 << random.IntN(16)))
		s.Key.IPv6 = random.IntN(2) == 0
		if random.IntN(2) == 0 {
			from := random.IntN(len(m.text)) * random.IntN(2)
			s.Payload = []byte(m.text[from : from+1+random.IntN(len(m.text)-from)])
			s.Seq = s.Seq&^0xffff + uint32(from)
		}
		if random.IntN(16) == 0 {
			s.TCPFlags = uint8(random.Uint32())
		}
		if random.IntN(8) == 0 {
			s.Key, s.Payload = v4(protoUDP, s.Key.SrcPort, 53), []byte(dns(uint16(random.IntN(4)), random.IntN(2) == 0, "a."))
		}
		if random.IntN(8) == 0 {
			s.Length = random.IntN(1 << 16)
		}
		r.read(s)
		if r.told = r.told[:0]; i%1000 == 0 {
			r.wait(time.Duration(random.IntN(int(time.Second))))
		}
		if i%10_000 == 0 {
			r.requireIdentity(t)
		}
	}
	r.skip(time.Hour)
	r.requireIdentity(t)
	assert.Zero(t, r.open.len()+r.quiet.len()+r.bytes)
	c := r.Counts()
	assert.Zero(t, c.Open)
	assert.Zero(t, c.Waiting)
	for cause := range CauseCount {
		if cause != CauseTooLong { // TestMessagesThatGoOnTooLong
			assert.NotZero(t, c.GivenUp[ProtocolTLS][cause]+c.GivenUp[ProtocolDNS][cause], cause.String())
		}
	}
}

// TestMemory: full of everything, with the longest names, after all that came before.
func TestMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	r := newRig()
	name := strings.Repeat(strings.Repeat("\xfeA", 31)+".", 4)
	stray := []byte(strings.Repeat("x", 1<<16))
	for i := range 2 * defaultLimits.questions {
		port := uint16(i)
		r.read(ask(v4(protoUDP, port, 53), 0, dns(uint16(i), false, name)))
		r.read(ask(v4(protoTCP, port, 443), 0, tls13().client))
		for j := range maxPipelined {
			r.read(ask(v4(protoTCP, port, 80), uint32(j*len(get("/"))), get("/")))
		}
		r.read(ask(v4(protoTCP, port, 81), 0, tls13().client[:100]))
		for j := range 2 * defaultLimits.pieces {
			r.read(Segment{Key: v4(protoTCP, port, 82), Seq: uint32(j) * 5000, Payload: stray[:2000]})
		}
		r.told = nil
	}
	r.requireIdentity(t)
	clear(r.ends)
	r.ends = nil
	runtime.GC()
	runtime.ReadMemStats(&after)
	c := r.Counts()
	assert.Equal(t, [ProtocolCount]uint64{4096, 4096, 16 * 4096}, c.Waiting)
	assert.Equal(t, uint64(1024), c.Open[ProtocolTLS])
	t.Logf("%d streams without, %d bytes", r.quiet.len(), r.bytes)
	held := after.HeapAlloc - before.HeapAlloc
	t.Logf("a full Tracker takes %.1f MiB", float64(held)/(1<<20))
	assert.Less(t, held, uint64(24<<20))
	runtime.KeepAlive(r)
}
