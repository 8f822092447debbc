// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
)

// reluctant records what a test that is left out does.
type reluctant struct {
	testing.TB
	skipped, failed []any
}

func (*reluctant) Helper() {}

func (r *reluctant) Skip(args ...any) { r.skipped = args; runtime.Goexit() }

func (r *reluctant) Fatal(args ...any) { r.failed = args; runtime.Goexit() }

func watch(f func(testing.TB)) *reluctant {
	r := &reluctant{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	return r
}

func TestAMissingToolSkipsUnlessPrivileged(t *testing.T) {
	missing := func(tb testing.TB) { Tool(tb, "no-such-program") }
	t.Setenv("EBPFPACKETS_PRIVILEGED", "")
	assert.Equal(t, []any{"needs no-such-program"}, watch(missing).skipped)
	t.Setenv("EBPFPACKETS_PRIVILEGED", "1")
	assert.Equal(t, []any{"needs no-such-program"}, watch(missing).failed)
}

func TestFramesHaveTheirHeaders(t *testing.T) {
	v4, v6 := netip.MustParseAddrPort("192.0.2.1:1234"), netip.MustParseAddrPort("[2001:db8::1]:1234")
	for _, c := range []struct {
		name  string
		frame Frame
		want  int
	}{
		{"UDP over IPv4", Frame{From: v4, To: v4, Proto: protoUDP, Payload: 100}, 14 + 20 + 8 + 100},
		{"UDP over IPv6", Frame{From: v6, To: v6, Proto: protoUDP, Payload: 100}, 14 + 40 + 8 + 100},
		{"two tags", Frame{From: v4, To: v4, Proto: protoTCP, Tags: []uint16{1, 2}}, 14 + 8 + 20 + 20},
		{"no link header", Frame{L3: true, From: v4, To: v4, Proto: protoSCTP}, 20 + 12},
		{"ICMP", Frame{From: v4, To: v4, Proto: protoICMP, Payload: 8}, 14 + 20 + 8 + 8},
		{"a first fragment", Frame{From: v6, To: v6, Proto: protoUDP, Payload: 8, Fragment: &Fragment{More: true}}, 14 + 40 + 8 + 8 + 8},
		{"a later fragment has no ports", Frame{From: v6, To: v6, Proto: protoUDP, Payload: 8, Fragment: &Fragment{Offset: 16}}, 14 + 40 + 8 + 8},
		{"a protocol without header", Frame{From: v4, To: v4, Proto: 99, Payload: 8}, 14 + 20 + 8},
	} {
		assert.Len(t, c.frame.AppendTo(nil), c.want, c.name)
	}
	whole := (&Frame{From: v4, To: v4, Proto: protoUDP}).AppendTo(nil)
	assert.Equal(t, uint16(0xffff), checksum(whole[14:34]), "a header with its checksum sums up to ones")
}

func TestDatagramsAreKnownInAdvance(t *testing.T) {
	d := Datagrams{Flows: 10, Payloads: []int{0, 100, 1400}, Dst: Nobody}
	const n = 1003
	var packets, bytes uint64
	for i := range n {
		packets++
		bytes += uint64(len(d.AppendFrame(nil, i)))
	}
	var sum [2]uint64
	for _, v := range d.Volumes(n) {
		sum[0] += v.Packets
		sum[1] += v.Bytes
	}
	assert.Equal(t, [2]uint64{packets, bytes}, sum)

	many := Datagrams{Flows: 200_000}
	var keys []string
	for f := range many.Flows {
		k := many.Key(f)
		keys = append(keys, k.Src().String()+k.Dst().String())
	}
	slices.Sort(keys)
	assert.Len(t, slices.Compact(keys), many.Flows, "every flow has addresses of its own")
}
