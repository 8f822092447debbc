// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

func TestCausesHaveWords(t *testing.T) {
	words := map[string]bool{}
	for c := range CauseCount {
		words[c.String()] = true
	}
	assert.Len(t, words, int(CauseCount))
}

// FuzzTracker: a sequence of segments, each 8 bytes and its payload. Sequence numbers and lengths are small, so that segments meet.
func FuzzTracker(f *testing.F) {
	for _, m := range messages() {
		for _, boundary := range []int{1, 5, len(m.text) / 2} {
			parts := m.cut(0, boundary)
			f.Add(slices.Concat(fuzzed(&parts[0]), fuzzed(&parts[1])))
			f.Add(slices.Concat(fuzzed(&parts[1]), fuzzed(&parts[0]), fuzzed(&parts[1])))
		}
	}
	l := defaultLimits
	l.streams, l.pieces, l.message, l.bytes, l.questions = 4, 4, 1000, 2000, 4
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newRig()
		r.Tracker = newTracker(everything, l)
		for len(b) >= 8 {
			var s Segment
			s, b = unfuzzed(b)
			given := slices.Clone(s.Payload)
			s.Payload = given
			r.read(s)
			clear(given)
			r.requireIdentity(t)
			for _, m := range r.told {
				require.GreaterOrEqual(t, m.Elapsed, time.Duration(0))
				if m.HTTP != nil {
					requireShown(t, m.HTTP)
				}
			}
			if r.told = r.told[:0]; s.Seq%16 == 15 {
				r.wait(time.Second)
				r.requireIdentity(t)
			}
		}
		r.skip(time.Hour)
		r.requireIdentity(t)
		require.Zero(t, r.open.len()+r.quiet.len()+r.bytes)
		require.Zero(t, r.Counts().Waiting)
	})
}

// fuzzed writes what unfuzzed reads.
func fuzzed(s *Segment) []byte {
	b := []byte{0, s.TCPFlags, 0, 0}
	if s.Key.SrcPort == 53 || s.Key.DstPort == 53 {
		b[0] |= 1
	}
	if s.Key.SrcPort == 80 || s.Key.SrcPort == 53 {
		b[0] |= 2
	}
	b = binary.BigEndian.AppendUint16(b, uint16(s.Seq))
	b = binary.BigEndian.AppendUint16(b, uint16(len(s.Payload)))
	return append(b, s.Payload...)
}

func unfuzzed(b []byte) (s Segment, rest []byte) {
	s = ask(v4(protoTCP, 40000+uint16(b[0]>>5), []uint16{80, 53}[b[0]&1]), uint32(int16(binary.BigEndian.Uint16(b[4:]))), "")
	if b[0]&2 != 0 {
		s.Key, s.Direction = s.Key.Reversed(), flow.DirectionIngress
	}
	if b[0]&4 != 0 {
		s.Key.Proto = protoUDP
	}
	s.TCPFlags, s.Ack = b[1], uint32(b[2])<<4
	n := min(int(binary.BigEndian.Uint16(b[6:])), len(b)-8)
	s.Payload, rest = b[8:8+n], b[8+n:]
	s.Length = n + int(b[3])
	return s, rest
}

// BenchmarkRead is what a segment costs.
func BenchmarkRead(b *testing.B) {
	udp, tcp := v4(protoUDP, 40000, 53), v4(protoTCP, 40000, 80)
	question, response := dns(7, false, "www.example.com."), dns(7, true, "www.example.com.")
	for _, bb := range []struct {
		name  string
		parts []Segment
	}{
		{"DNS question and answer", []Segment{ask(udp, 0, question), answer(udp, 0, response)}},
		{"GET request and answer", []Segment{ask(tcp, 0, getRequest), answer(tcp, 0, okResponse)}},
		{"GET request in two", []Segment{ask(tcp, 0, getRequest[:50]), ask(tcp, 50, getRequest[50:])}},
		{"ClientHello and ServerHello", []Segment{ask(tcp, 0, tls13().client), answer(tcp, 0, tls13().server)}},
		{"unrelated data", []Segment{ask(tcp, 0, strings.Repeat("x", 1400)), answer(tcp, 0, strings.Repeat("x", 1400))}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			tracker, now := NewTracker(everything), int64(0)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				s := bb.parts[i%len(bb.parts)]
				now += int64(time.Millisecond)
				s.Time, s.Length = now, len(s.Payload)
				s.Key.IfIndex = uint32(i / len(bb.parts)) // another connection each
				tracker.Read(&s, func(*Message) {})
			}
		})
	}
}
