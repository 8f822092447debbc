// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// last returns the message told last.
func (r *rig) last(t *testing.T) *Message {
	t.Helper()
	require.NotEmpty(t, r.told)
	return &r.told[len(r.told)-1]
}

func TestDNSPairs(t *testing.T) {
	udp := v4(protoUDP, 40000, 53)
	question, response := dns(7, false, "www.example.com."), dns(7, true, "www.example.com.")
	r := newRig()
	r.read(ask(udp, 0, question))
	assert.False(t, r.last(t).Answers)
	r.wait(20 * time.Millisecond)
	r.read(answer(udp, 0, response))
	assert.True(t, r.last(t).Answers)
	assert.Equal(t, 21*time.Millisecond, r.last(t).Elapsed)
	r.read(answer(udp, 0, response))
	assert.False(t, r.last(t).Answers, "the question was answered already")
	r.wait(time.Minute)
	assert.Len(t, r.told, 3, "nothing is left to time out")
	r.requireIdentity(t)
}

func TestDNSPairsWhatBelongsTogether(t *testing.T) {
	udp := v4(protoUDP, 40000, 53)
	question := ask(udp, 0, dns(7, false, "www.example.com."))
	with := func(s Segment, change func(s *Segment)) Segment {
		change(&s)
		return s
	}
	good := answer(udp, 0, dns(7, true, "www.example.com."))
	for name, tt := range map[string]struct {
		answer Segment
		want   bool
	}{
		"the answer":        {good, true},
		"in upper case":     {answer(udp, 0, dns(7, true, "WWW.Example.com.")), true},
		"another id":        {answer(udp, 0, dns(8, true, "www.example.com.")), false},
		"another name":      {answer(udp, 0, dns(7, true, "ww2.example.com.")), false},
		"another interface": {with(good, func(s *Segment) { s.Key.IfIndex++ }), false},
		"another namespace": {with(good, func(s *Segment) { s.Key.NetNS++ }), false},
		"another port":      {with(good, func(s *Segment) { s.Key.DstPort++ }), false},
		"the same hook":     {with(good, func(s *Segment) { s.Direction = flow.DirectionEgress }), false},
		"not turned round":  {with(good, func(s *Segment) { s.Key = s.Key.Reversed() }), false},
		"in a tunnel":       {with(good, func(s *Segment) { s.Key.Tunnel.Kind = flow.TunnelVXLAN }), false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig()
			r.read(question)
			r.read(tt.answer)
			require.Len(t, r.told, 2)
			assert.Equal(t, tt.want, r.told[1].Answers)
			r.requireIdentity(t)
		})
	}
}

// TestPairsWhereEachPacketCountsOnce: question and answer count where they begin.
func TestPairsWhereEachPacketCountsOnce(t *testing.T) {
	config := everything
	config.Scope = flow.ScopeNamespace
	elsewhere := func(s Segment) Segment {
		s.Key.IfIndex, s.Key.Tagged, s.Key.VLAN, s.Direction = 9, true, 5, flow.DirectionEgress
		return s
	}
	udp, tcp := v4(protoUDP, 40000, 53), v4(protoTCP, 40000, 80)
	r := newRig()
	r.Tracker = NewTracker(config)
	r.read(ask(udp, 0, dns(7, false, "www.example.com.")))
	r.read(elsewhere(answer(udp, 0, dns(7, true, "www.example.com."))))
	require.Len(t, r.told, 2)
	assert.True(t, r.told[1].Answers)
	assert.EqualValues(t, 9, r.told[1].Key.IfIndex, "a message says where it was seen")

	request := ask(tcp, 100, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	request.Ack = 500
	r.read(request)
	response := elsewhere(answer(tcp, 500, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
	response.Ack = 100 + uint32(len(request.Payload))
	r.read(response)
	require.Len(t, r.told, 4)
	assert.True(t, r.told[3].Answers)
	r.requireIdentity(t)
}

// TestDNSPairsOnLoopback: each packet is seen at both hooks, as two questions and two answers.
func TestDNSPairsOnLoopback(t *testing.T) {
	udp := v4(protoUDP, 40000, 53)
	in, out := flow.DirectionIngress, flow.DirectionEgress
	r := newRig()
	for _, d := range []flow.Direction{out, in} {
		s := ask(udp, 0, dns(7, false, "a."))
		s.Direction = d
		r.read(s)
	}
	for _, d := range []flow.Direction{out, in} {
		s := answer(udp, 0, dns(7, true, "a."))
		s.Direction = d
		r.read(s)
		assert.True(t, r.last(t).Answers)
		assert.Equal(t, map[flow.Direction]time.Duration{out: time.Millisecond, in: 3 * time.Millisecond}[d], r.last(t).Elapsed)
	}
	r.requireIdentity(t)
}

// TestDNSPairsInTunnels: each direction has an id of its own.
func TestDNSPairsInTunnels(t *testing.T) {
	udp := v4(protoUDP, 40000, 53)
	udp.Tunnel = flow.Tunnel{Kind: flow.TunnelGeneve, Src: flow.Addr{15: 1}, Dst: flow.Addr{15: 2}, ID: 5, HasID: true}
	r := newRig()
	r.read(ask(udp, 0, dns(7, false, "a.")))
	s := answer(udp, 0, dns(7, true, "a."))
	s.Key.Tunnel.ID = 6
	r.read(s)
	assert.True(t, r.last(t).Answers)
}

func TestAQuestionWithoutAnswer(t *testing.T) {
	udp := v4(protoUDP, 40000, 53)
	r := newRig()
	r.read(ask(udp, 0, dns(7, false, "Www.example.com.")))
	asked := r.told[0]
	r.wait(2 * time.Second)
	r.read(ask(udp, 0, dns(7, false, "Www.example.com."))) // again
	assert.Len(t, r.told, 1)
	r.wait(2900 * time.Millisecond)
	assert.Len(t, r.told, 1)
	r.wait(200 * time.Millisecond)
	require.Len(t, r.told, 2)
	asked.TimedOut, asked.Completed = true, false
	assert.Equal(t, asked, r.told[1])
	r.wait(time.Minute)
	assert.Len(t, r.told, 2)
	r.requireIdentity(t)
}

// TestAQuestionThatMayHaveBeenAnswered is not told as one that was not.
func TestAQuestionThatMayHaveBeenAnswered(t *testing.T) {
	const header = "\x00\x07\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00" // of an answer; RFC 1035 4.1.1
	oneWay := everything
	oneWay.OneWay = true
	udp, tcp := v4(protoUDP, 40000, 53), v4(protoTCP, 40000, 53)
	elsewhere := v4(protoUDP, 40001, 53)
	for name, tt := range map[string]struct {
		config  Config
		over    flow.Key
		then    func(r *rig)
		unknown uint64
	}{
		"nothing was missed":        {everything, udp, func(*rig) {}, 0},
		"one direction is seen":     {oneWay, udp, func(*rig) {}, 1},
		"a packet was missed":       {everything, udp, func(r *rig) { r.Missed() }, 1},
		"one was missed late":       {everything, udp, func(r *rig) { r.wait(4 * time.Second); r.Missed() }, 1},
		"nobody looked":             {everything, udp, func(r *rig) { r.skip(6 * time.Second) }, 1},
		"the clock was set forward": {everything, udp, func(r *rig) { r.skip(time.Hour) }, 1},
		"the clock was set back":    {everything, udp, func(r *rig) { r.skip(-time.Hour) }, 1},
		"an answer that is none":    {everything, udp, func(r *rig) { r.read(answer(udp, 0, "not of this kind")) }, 1},
		"many of another question": {everything, udp, func(r *rig) {
			for range maxLooks + 1 {
				r.read(answer(elsewhere, 0, "not of this kind"))
			}
		}, 1},
		"one of another question":     {everything, udp, func(r *rig) { r.read(answer(elsewhere, 0, "not of this kind")) }, 0},
		"what is asked that is none":  {everything, udp, func(r *rig) { r.read(ask(udp, 0, "not of this kind")) }, 0},
		"an answer cut in its header": {everything, udp, func(r *rig) { s := answer(udp, 0, header[:9]); s.Length = 90; r.read(s) }, 1},
		"one whose rest is missing":   {everything, tcp, func(r *rig) { r.read(answer(tcp, 0, "\x00\x90"+header)) }, 1},
		"one whose length is wrong":   {everything, tcp, func(r *rig) { r.read(answer(tcp, 0, "\x00\x03"+header)) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig()
			r.Tracker = NewTracker(tt.config)
			r.wait(time.Second)
			r.Missed() // before it was asked: of no interest
			question := dns(7, false, "www.example.com.")
			if tt.over.Proto == protoTCP {
				question = prefixed(question)
			}
			r.read(ask(tt.over, 0, question))
			tt.then(r)
			r.wait(6 * time.Second)
			c := r.Counts()
			assert.Equal(t, [2]uint64{tt.unknown, 1 - tt.unknown}, [2]uint64{c.Unknown[ProtocolDNS], c.Unanswered[ProtocolDNS]})
			again := 0
			for _, m := range r.told {
				if m.TimedOut {
					again++
				}
			}
			assert.EqualValues(t, 1-tt.unknown, again)
			r.requireIdentity(t)
		})
	}
}

// TestAnAnswerWithoutItsQuestion is that of a server which does not understand it; RFC 1035 7.3.
func TestAnAnswerWithoutItsQuestion(t *testing.T) {
	const notImplemented = "\x00\x07\x80\x04\x00\x00\x00\x00\x00\x00\x00\x00"
	udp := v4(protoUDP, 40000, 53)
	r := newRig()
	r.read(ask(udp, 0, dns(7, false, "a.")))
	r.read(ask(udp, 0, dns(8, false, "a.")))
	r.read(ask(v4(protoUDP, 40001, 53), 0, dns(7, false, "a.")))
	r.read(ask(udp.Reversed(), 0, notImplemented)) // from where nobody was asked
	assert.False(t, r.last(t).Answers)
	r.wait(20 * time.Millisecond)
	r.read(answer(udp, 0, notImplemented))
	assert.True(t, r.last(t).Answers)
	assert.Equal(t, 24*time.Millisecond, r.last(t).Elapsed)
	r.wait(time.Minute)
	c := r.Counts()
	assert.Equal(t, [3]uint64{1, 2, 0}, [3]uint64{c.Answered[ProtocolDNS], c.Unanswered[ProtocolDNS], c.Unknown[ProtocolDNS]})

	r = newRig()
	r.read(ask(udp, 0, dns(7, false, "a.")))
	r.read(ask(udp, 0, dns(7, false, "b.")))
	r.read(answer(udp, 0, notImplemented))
	assert.False(t, r.last(t).Answers, "to which of them, nobody can tell")
	r.wait(time.Minute)
	assert.Equal(t, uint64(2), r.Counts().Unknown[ProtocolDNS])
	r.requireIdentity(t)
}

// TestTheClockIsSetBack: what waits from before, in what is the future now, holds up nothing.
func TestTheClockIsSetBack(t *testing.T) {
	r := newRig()
	begin := func(port uint16) {
		r.read(ask(v4(protoUDP, port, 53), 0, dns(7, false, "a.")))
		r.read(ask(v4(protoTCP, port, 443), 0, tls13().client))
		r.read(ask(v4(protoTCP, port, 443), 99999, tls13().client[:50])) // open
		r.read(ask(v4(protoTCP, port, 80), 0, getRequest))
	}
	begin(40000)
	r.skip(-time.Hour)
	assert.Zero(t, r.Counts().Waiting)
	assert.Zero(t, r.Counts().Open)
	assert.Zero(t, r.open.len()+r.quiet.len())
	begin(40001)
	r.wait(6 * time.Second)
	require.True(t, r.last(t).TimedOut)
	assert.EqualValues(t, 40001, r.last(t).Key.SrcPort)
	r.wait(6 * time.Minute)
	assert.Zero(t, r.Counts().Waiting)
	assert.Zero(t, r.open.len()+r.quiet.len()+r.bytes)
	r.requireIdentity(t)
}

func TestMulticastIsNotPaired(t *testing.T) {
	for _, port := range []uint16{portMDNS, portLLMNR} {
		udp := v4(protoUDP, 40000, port)
		r := newRig()
		r.read(ask(udp, 0, dns(7, false, "a.")))
		r.read(answer(udp, 0, dns(7, true, "a.")))
		r.wait(time.Minute)
		require.Len(t, r.told, 2)
		assert.False(t, r.told[1].Answers)
		assert.Equal(t, map[uint16]DNSVariant{portMDNS: VariantMDNS, portLLMNR: VariantLLMNR}[port], r.told[0].DNS.Variant)
		assert.Zero(t, r.Counts().Asked)
	}
}

func TestDNSOverTCP(t *testing.T) {
	tcp := v4(protoTCP, 40000, 53)
	r := newRig()
	r.read(ask(tcp, 0, prefixed(dns(1, false, "a."))+prefixed(dns(2, false, "b."))))
	r.read(answer(tcp, 0, prefixed(dns(2, true, "b."))+prefixed(dns(1, true, "a."))))
	require.Len(t, r.told, 4)
	assert.Equal(t, "b", r.told[2].DNS.Name)
	assert.True(t, r.told[2].Answers)
	assert.True(t, r.told[3].Answers)
	r.requireIdentity(t)
}

// TestDNSOverTCPCapturedInPart is told as far as it was captured, as over UDP.
func TestDNSOverTCPCapturedInPart(t *testing.T) {
	tcp := v4(protoTCP, 40000, portDNS)
	r := newRig()
	r.read(ask(tcp, 0, prefixed(dns(7, false, "www.example."))))
	s := answer(tcp, 0, prefixed(dns(7, true, "www.example.")))
	s.Length = len(s.Payload)
	s.Payload = s.Payload[:len(s.Payload)-4] // the address
	r.read(s)
	d := r.last(t).DNS
	require.NotNil(t, d)
	assert.Equal(t, []any{"www.example", 1, []string(nil)}, []any{d.Name, d.AnswerCount, d.Answers})
	assert.True(t, r.last(t).Answers)
	assert.True(t, r.last(t).Cut)
	udp := answer(v4(protoUDP, 40000, portDNS), 0, dns(7, true, "www.example."))
	r.read(udp)
	assert.False(t, r.last(t).Cut)
	udp.Length = len(udp.Payload) + 1
	r.read(udp)
	assert.True(t, r.last(t).Cut)
	r.requireIdentity(t)
}

// TestALongDNSAnswer is told as soon as no more is waited for, of which the kernel would not copy more either.
func TestALongDNSAnswer(t *testing.T) {
	tcp := v4(protoTCP, 40000, portDNS)
	r := newRig()
	r.read(ask(tcp, 0, prefixed(dns(7, false, "www.example."))))
	text := dns(7, true, "www.example.") + strings.Repeat("x", 20_000)
	text = prefixed(text)
	for n := 0; n < 9*1208; n += 1208 { // what an MTU of 1,280 bytes leaves with time stamps
		r.read(answer(tcp, uint32(n), text[n:n+1208]))
	}
	require.Len(t, r.told, 2)
	assert.True(t, r.told[1].Answers)
	assert.True(t, r.told[1].Cut)
	assert.Equal(t, []string{"203.0.113.9"}, r.told[1].DNS.Answers)
	assert.Equal(t, uint64(1), r.Counts().Told[ProtocolDNS]-1)
	r.requireIdentity(t)
}

func TestQuestionsArePushedOut(t *testing.T) {
	l := defaultLimits
	l.questions = 10
	r := newRig()
	r.Tracker = newTracker(everything, l)
	for i := range 30 {
		r.read(ask(v4(protoUDP, uint16(40000+i), 53), 0, dns(7, false, "a.")))
		r.read(ask(v4(protoTCP, uint16(40000+i), 443), 0, tls13().client))
		r.read(ask(v4(protoTCP, uint16(40000+i), 80), 0, getRequest+getRequest))
		r.requireIdentity(t)
	}
	c := r.Counts()
	assert.Equal(t, [ProtocolCount]uint64{10, 10, 20}, c.Waiting)
	assert.Equal(t, [ProtocolCount]uint64{20, 20, 40}, c.Forgotten)
	r.skip(time.Hour)
	r.requireIdentity(t)
	assert.Zero(t, r.Counts().Waiting)
}

func TestTLSPairs(t *testing.T) {
	tcp := v4(protoTCP, 40000, 443)
	for _, tt := range []struct {
		name           string
		client, server string
		resumed        bool
	}{
		{"1.3", tls13().client, tls13().server, false},
		{"1.2", tls12()[0].client, tls12()[0].server, false},
		{"1.2 resumed", tls12()[1].client, tls12()[1].server, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig()
			r.read(ask(tcp, 0, tt.client))
			assert.Equal(t, "tls.example.com", r.last(t).TLS.ServerName)
			r.wait(30 * time.Millisecond)
			r.read(answer(tcp, 0, tt.server[:20]))
			r.wait(time.Second)
			r.read(answer(tcp, 20, tt.server[20:]))
			m := r.last(t)
			assert.True(t, m.Answers)
			assert.Equal(t, 31*time.Millisecond, m.Elapsed, "to the first packet")
			assert.Equal(t, tt.resumed, m.TLS.Resumed)
			assert.True(t, m.TLS.KnowsResumed)
			r.read(answer(tcp, 99999, tt.server))
			assert.False(t, r.last(t).Answers)
			assert.Equal(t, tt.name == "1.3", r.last(t).TLS.KnowsResumed, "of those before 1.3 the two hellos tell")
			r.requireIdentity(t)
		})
	}
}

func get(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n" }

func status(code int) string {
	return fmt.Sprintf("HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n", code)
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	tcp := v4(protoTCP, 40000, 80)
	r := newRig()
	r.read(ask(tcp, 0, get("/1")+get("/2")+get("/3"))) // 1 ms
	r.wait(10 * time.Millisecond)
	r.read(ask(tcp, 3*uint32(len(get("/1"))), get("/4"))) // 12 ms
	r.wait(10 * time.Millisecond)
	r.read(answer(tcp, 0, status(103)+status(200)+status(404))) // 23 ms
	for i := range uint32(3) {
		r.read(answer(tcp, (3+i)*uint32(len(status(200))), status(200)))
	}
	var elapsed []time.Duration
	for _, m := range r.told[4:] {
		elapsed = append(elapsed, m.Elapsed)
		assert.Equal(t, m.Elapsed > 0, m.Answers)
	}
	ms := time.Millisecond
	assert.Equal(t, []time.Duration{0, 22 * ms, 22 * ms, 23 * ms, 13 * ms, 0}, elapsed)
	r.requireIdentity(t)
}

// TestRequestsThatComeOutOfOrder are answered in the order in which they were sent.
func TestRequestsThatComeOutOfOrder(t *testing.T) {
	tcp := v4(protoTCP, 40000, 80)
	r := newRig()
	n := uint32(len(get("/1")))
	r.read(ask(tcp, -n+n, get("/2")))
	r.read(ask(tcp, -n, get("/1")))
	r.wait(10 * time.Millisecond)
	r.read(answer(tcp, 0, status(200)))
	assert.Equal(t, 11*time.Millisecond, r.last(t).Elapsed)
}

// TestALostAnswerIsNoShift: the next request says that it had come.
func TestALostAnswerIsNoShift(t *testing.T) {
	tcp := v4(protoTCP, 40000, 80)
	r := newRig()
	request := func(seq, ack uint32) {
		s := ask(tcp, seq, get("/1"))
		s.Ack = ack
		r.read(s)
	}
	request(0, 5000)
	r.wait(time.Second)
	request(1000, 6000) // the answer to the first, 5000 to 6000, was missed
	r.read(answer(tcp, 6000, status(200)))
	assert.Equal(t, time.Millisecond, r.last(t).Elapsed)
	assert.Equal(t, uint64(1), r.Counts().Unanswered[ProtocolHTTP])
	r.requireIdentity(t)
}

// TestTheNextConnectionGetsItsOwnAnswers: its beginning was not seen.
func TestTheNextConnectionGetsItsOwnAnswers(t *testing.T) {
	tcp := v4(protoTCP, 40000, 80)
	for name, ack := range map[string]uint32{"further": 1 << 30, "before": 3 << 30} {
		t.Run(name, func(t *testing.T) {
			r := newRig()
			r.read(ask(tcp, 0, get("/1")))
			r.wait(time.Minute)
			s := ask(tcp, 1<<30, get("/2"))
			s.Ack = ack
			r.read(s)
			r.read(answer(tcp, ack, status(200)))
			assert.Equal(t, time.Millisecond, r.last(t).Elapsed)
			assert.Equal(t, uint64(1), r.Counts().Unanswered[ProtocolHTTP])
			r.requireIdentity(t)
		})
	}
}

// TestAnAnswerToAnEarlierRequestIsNoLoss: pipelined requests, the second of which waits for its turn.
func TestAnAnswerToAnEarlierRequestIsNoLoss(t *testing.T) {
	tcp := v4(protoTCP, 40000, 80)
	r := newRig()
	r.read(ask(tcp, 0, get("/1")+get("/2")))
	r.read(answer(tcp, 0, status(200)))
	s := ask(tcp, 1000, get("/3"))
	s.Ack = uint32(len(status(200)))
	r.read(s)
	r.read(answer(tcp, s.Ack, status(200)))
	assert.Equal(t, 3*time.Millisecond, r.last(t).Elapsed)
	assert.Zero(t, r.Counts().Unanswered)
}

// TestAnAnswerToAnotherRequestIsNone: the budget leaves out requests and answers, of which the others say nothing but in their numbers.
func TestAnAnswerToAnotherRequestIsNone(t *testing.T) {
	tcp := v4(protoTCP, 40000, 80)
	n := uint32(len(get("/1")))
	with := func(s Segment, ack uint32) Segment {
		s.Ack = ack
		return s
	}
	for name, tt := range map[string]struct {
		answer     Segment
		want       bool
		unanswered uint64
	}{
		"its own":                        {with(answer(tcp, 5000, status(200)), 100+n), true, 0},
		"after the next request, unseen": {with(answer(tcp, 5000, status(200)), 100+9*n), true, 0},
		"of one before":                  {with(answer(tcp, 4000, status(200)), 100), false, 0},
		"of one before, pipelined":       {with(answer(tcp, 5000, status(200)), 100), false, 0},
		"of one behind":                  {with(answer(tcp, 6000, status(200)), 100+2*n), false, 1},
		"of another connection":          {with(answer(tcp, 1<<30, status(200)), 1<<29), false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig()
			r.read(with(ask(tcp, 100, get("/1")), 5000))
			r.read(tt.answer)
			require.Len(t, r.told, 2)
			assert.Equal(t, tt.want, r.last(t).Answers)
			assert.Equal(t, tt.unanswered, r.Counts().Unanswered[ProtocolHTTP])
			r.requireIdentity(t)
		})
	}
}

// TestAnswersBehindBodies: the second of pipelined requests expects its answer behind the body of the first one's.
func TestAnswersBehindBodies(t *testing.T) {
	tcp := v4(protoTCP, 40000, 80)
	r := newRig()
	r.read(ask(tcp, 0, get("/1")+get("/2"))) // 1 ms
	r.read(answer(tcp, 0, okResponse))
	n := uint32(len(okResponse)) + 1234
	s := ask(tcp, 2*uint32(len(get("/1"))), get("/3")) // 3 ms, in the middle of the first answer
	s.Ack = n - 1000
	r.read(s)
	r.read(answer(tcp, n, status(200)))
	assert.Equal(t, 3*time.Millisecond, r.last(t).Elapsed)
	r.read(answer(tcp, n+uint32(len(status(200))), status(200)))
	assert.Equal(t, 2*time.Millisecond, r.last(t).Elapsed)
	assert.Equal(t, uint64(3), r.Counts().Answered[ProtocolHTTP])
	r.requireIdentity(t)
}

// TestAServerHelloOfAnotherConnectionIsNoAnswer: ports are used again, and most SYN are no samples.
func TestAServerHelloOfAnotherConnectionIsNoAnswer(t *testing.T) {
	tcp := v4(protoTCP, 40000, 443)
	end := 100 + uint32(len(tls13().client))
	for name, tt := range map[string]struct {
		seq, ack uint32
		want     bool
	}{
		"the answer":                   {5000, end, true},
		"behind a change of cipher":    {5006, end, true},
		"before the hello was whole":   {5000, end - 1, false},
		"of another hello":             {1 << 30, end, false},
		"of another hello, both far":   {1 << 30, 1 << 29, false},
		"of another hello, both wraps": {5000 + 1<<31, end + 1<<31, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig()
			hello, back := ask(tcp, 100, tls13().client), answer(tcp, tt.seq, tls13().server)
			hello.Ack, back.Ack = 5000, tt.ack
			r.read(hello)
			r.wait(25 * time.Second)
			r.read(back)
			assert.Equal(t, tt.want, r.last(t).Answers)
			r.requireIdentity(t)
		})
	}
}

func TestSwitchingProtocolsIsAnAnswer(t *testing.T) {
	tcp := v4(protoTCP, 40000, 80)
	r := newRig()
	r.read(ask(tcp, 0, get("/1")))
	r.read(answer(tcp, 0, status(101)))
	assert.True(t, r.last(t).Answers)
}

// TestRequestsEndWithTheirConnection: the next with the same ports gets none of the answers.
func TestRequestsEndWithTheirConnection(t *testing.T) {
	tcp := v4(protoTCP, 40000, 80)
	for name, flags := range map[string]uint8{"SYN": tcpSYN, "RST": tcpRST} {
		t.Run(name, func(t *testing.T) {
			r := newRig()
			r.read(ask(tcp, 0, get("/1")))
			r.read(ask(tcp, 40, tls13().client))
			s := ask(tcp, 7777, "")
			s.TCPFlags = flags
			r.read(s)
			r.read(answer(tcp, 0, status(200)))
			assert.False(t, r.last(t).Answers)
			r.read(answer(tcp, 1000, tls13().server))
			assert.False(t, r.last(t).Answers)
			r.requireIdentity(t)
		})
	}
}

// TestHeadsThatAreCut are told from their first line on, and only they.
func TestHeadsThatAreCut(t *testing.T) {
	tcp := v4(protoTCP, 40000, 80)
	for name, end := range map[string]func(r *rig, s Segment){
		"by the capture": func(r *rig, s Segment) {
			s.Length = 9000
			r.read(s)
		},
		"by a packet that was lost": func(r *rig, s Segment) {
			r.read(s)
			r.wait(time.Minute)
		},
		"by FIN": func(r *rig, s Segment) {
			s.TCPFlags |= tcpFIN
			r.read(s)
		},
		"by length": func(r *rig, s Segment) {
			s.Payload = append(s.Payload, strings.Repeat("X: y\r\n", 4000)...)
			s.Payload = s.Payload[:defaultLimits.message]
			r.read(s)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig()
			end(r, ask(tcp, 0, "GET /a HTTP/1.1\r\nHost: b\r\nUser-Agent: half of"))
			require.Len(t, r.told, 1)
			want := &HTTP{Version: "1.1", Method: "GET", Path: "/a", Host: "b", ContentLength: -1}
			if name == "by length" {
				want.UserAgent = "half ofX: y"
			}
			assert.Equal(t, want, r.told[0].HTTP)
			assert.True(t, r.told[0].Cut)
			r.requireIdentity(t)

			r = newRig()
			end(r, ask(tcp, 0, "GET /a HTTP/1."))
			assert.Empty(t, r.told)
			r.requireIdentity(t)
		})
	}
}
