// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/frames"
)

func TestDecode(t *testing.T) {
	for _, f := range slices.Concat(frames.All, frames.Offloaded, frames.ICMP, frames.Inside) {
		t.Run(f.Name, func(t *testing.T) {
			s := f.Sample()
			p := dirty()
			packet.Decode(&s, &p)
			assert.Equal(t, f.Want, p)
		})
	}
}

// dirty is a value that was used before: whatever Decode does not overwrite shows.
func dirty() packet.Packet {
	return packet.Packet{
		Reason: flow.ReasonOverflow,
		Key: flow.Key{
			SrcAddr: flow.Addr(bytes.Repeat([]byte{0xee}, 16)),
			DstAddr: flow.Addr(bytes.Repeat([]byte{0xee}, 16)),
			SrcPort: 0xeeee, DstPort: 0xeeee,
			IfIndex: 0xeeee, NetNS: 0xeeee, VLAN: 0xeee, Proto: 0xee,
			IPv6: true, Tagged: true, LaterFragment: true,
			Tunnel: flow.Tunnel{ID: 0xeeee, Kind: 0xee, IPv6: true, HasID: true},
		},
		EtherType: 0xeeee, HeaderLen: 0xeeee,
		TTL: 0xee, DSCP: 0x3e, ECN: 2,
		HasTCP: true, TCPFlags: 0xee, TCPSeq: 0xeeee, TCPAck: 0xeeee, TCPWindow: 0xeeee,
		HasICMP: true, ICMPType: 0xee, ICMPCode: 0xee,
	}
}

func TestDecodeKeepsPlace(t *testing.T) {
	for name, data := range map[string][]byte{
		"accounted":     find(t, "TCP over IPv6").Data,
		"not accounted": find(t, "three inline tags").Data,
	} {
		t.Run(name, func(t *testing.T) {
			s := packet.Sample{IfIndex: 7, NetNS: 3, Direction: flow.DirectionEgress, Data: data}
			var p packet.Packet
			packet.Decode(&s, &p)
			assert.Equal(t, uint32(7), p.Key.IfIndex)
			assert.Equal(t, uint16(3), p.Key.NetNS)
		})
	}
}

// An offloaded tag is a matter of the link layer; a device without one has none to offload.
func TestDecodeIgnoresOffloadedTagWithoutLinkHeader(t *testing.T) {
	f := find(t, "IPv4 without link header")
	s := f.Sample()
	s.Tagged, s.VLANTCI = true, 100
	var p packet.Packet
	packet.Decode(&s, &p)
	assert.Equal(t, f.Want, p)
}

// TestDecodeOneByteShort cuts frames at every length: a header is either there whole or its own reason is given.
func TestDecodeOneByteShort(t *testing.T) {
	type header struct {
		end    int
		reason flow.Reason // of a frame that ends before end
	}
	ethernet := header{14, flow.ReasonShortEthernet}
	tests := []struct {
		frame   string
		headers []header
	}{
		{"TCP over IPv4", []header{ethernet, {34, flow.ReasonShortIPv4}, {54, flow.ReasonShortTransport}}},
		{"TCP over IPv6", []header{ethernet, {54, flow.ReasonShortIPv6}, {74, flow.ReasonShortTransport}}},
		{"UDP over IPv4", []header{ethernet, {34, flow.ReasonShortIPv4}, {42, flow.ReasonShortTransport}}},
		{"SCTP over IPv6", []header{ethernet, {54, flow.ReasonShortIPv6}, {66, flow.ReasonShortTransport}}},
		{"an ICMP echo request", []header{ethernet, {34, flow.ReasonShortIPv4}, {42, flow.ReasonShortTransport}}},
		{"an ICMPv6 echo reply", []header{ethernet, {54, flow.ReasonShortIPv6}, {62, flow.ReasonShortTransport}}},
		{"ten words of IPv4 options, the most", []header{ethernet, {74, flow.ReasonShortIPv4}, {82, flow.ReasonShortTransport}}},
		{"a later IPv4 fragment that looks like a TCP header", []header{ethernet, {34, flow.ReasonShortIPv4}}},
		{"IPv4 without link header", []header{{1, flow.ReasonNotIP}, {20, flow.ReasonShortIPv4}, {40, flow.ReasonShortTransport}}},
		{"IPv6 without link header", []header{{1, flow.ReasonNotIP}, {40, flow.ReasonShortIPv6}, {48, flow.ReasonShortTransport}}},
		{"the outer of two inline tags names the VLAN", []header{
			ethernet, {18, flow.ReasonShortVLAN}, {22, flow.ReasonShortVLAN}, {42, flow.ReasonShortIPv4}, {50, flow.ReasonShortTransport},
		}},
		{"eight extension headers, the most", []header{
			ethernet, {54, flow.ReasonShortIPv6},
			{54 + 8 + 16 + 24 + 8 + 24 + 8 + 40 + 8, flow.ReasonShortIPv6Extension},
			{54 + 136 + 20, flow.ReasonShortTransport},
		}},
		{"a destination options header of three words", []header{
			ethernet, {54, flow.ReasonShortIPv6}, {62, flow.ReasonShortIPv6Extension}, {86, flow.ReasonShortTransport},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.frame, func(t *testing.T) {
			f := find(t, tt.frame)
			want := func(n int) flow.Reason {
				for _, h := range tt.headers {
					if n < h.end {
						return h.reason
					}
				}
				return flow.ReasonAccounted
			}
			for n := range len(f.Data) + 1 {
				s := f.Sample()
				s.Data = f.Data[:n] // the rest lies behind it, and must not be read
				p := dirty()
				packet.Decode(&s, &p)
				require.Equal(t, want(n), p.Reason, "of %d bytes: want %s, got %s", n, want(n).Entry(), p.Reason.Entry())
				if p.Reason == flow.ReasonAccounted {
					require.Equal(t, f.Want, p, "of %d bytes", n)
				}
			}
		})
	}
}

// TestDecodeLinuxCapture counts what is in a capture that no builder of ours had a hand in; the numbers were counted in
// tcpdump's listing of it. TestTsharkAgrees compares the fields.
func TestDecodeLinuxCapture(t *testing.T) {
	all, err := frames.ReadPcap("../../testdata/pcap/linux.pcap")
	require.NoError(t, err)
	type kind struct {
		reason flow.Reason
		proto  uint8
		ipv6   bool
		later  bool
	}
	got := map[kind]int{}
	for _, f := range all {
		s := f.Sample()
		var p packet.Packet
		packet.Decode(&s, &p)
		got[kind{p.Reason, p.Key.Proto, p.Key.IPv6, p.Key.LaterFragment}]++
	}
	assert.Equal(t, map[kind]int{
		{reason: flow.ReasonARP}:             2,
		{proto: 1}:                           7, // two with record route, two first fragments, one unreachable
		{proto: 1, later: true}:              2,
		{proto: 58, ipv6: true}:              12, // four behind a hop-by-hop header, two first fragments, two unreachable
		{proto: 58, ipv6: true, later: true}: 2,
		{proto: 6}:                           10,
		{proto: 6, ipv6: true}:               10,
		{proto: 17}:                          3,
		{proto: 17, later: true}:             1,
		{proto: 17, ipv6: true}:              4, // one behind hop-by-hop and destination options
		{proto: 17, ipv6: true, later: true}: 1,
	}, got)
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	var p packet.Packet
	for _, f := range frames.All {
		s := f.Sample()
		assert.Zero(t, testing.AllocsPerRun(100, func() { packet.Decode(&s, &p) }), f.Name)
	}
}

// TestFramesCoverEveryReason keeps the corpus complete when a reason is added.
func TestFramesCoverEveryReason(t *testing.T) {
	seen := map[flow.Reason]bool{}
	names := map[string]bool{}
	for _, f := range slices.Concat(frames.All, frames.Offloaded) {
		seen[f.Want.Reason] = true
		assert.False(t, names[f.Name], "frame %q is there twice", f.Name)
		names[f.Name] = true
	}
	for r := range flow.ReasonCount {
		// These say something of the table, of the filters, and of other hooks.
		ofPacket := r != flow.ReasonOverflow && r != flow.ReasonFiltered && r != flow.ReasonDuplicate
		assert.Equal(t, ofPacket, seen[r], "reason %d, %s", r, r.Entry())
	}
}

func find(t *testing.T, name string) *frames.Frame {
	t.Helper()
	i := slices.IndexFunc(frames.All, func(f frames.Frame) bool { return f.Name == name })
	require.NotEqual(t, -1, i, "no frame %q", name)
	return &frames.All[i]
}

func BenchmarkDecode(b *testing.B) {
	for _, name := range []string{
		"TCP over IPv4",
		"TCP over IPv6",
		"the outer of two inline tags names the VLAN",
		"eight extension headers, the most",
		"three inline tags",
	} {
		b.Run(strings.ReplaceAll(name, " ", "-"), func(b *testing.B) {
			i := slices.IndexFunc(frames.All, func(f frames.Frame) bool { return f.Name == name })
			s := frames.All[i].Sample()
			var p packet.Packet
			b.ReportAllocs()
			for b.Loop() {
				packet.Decode(&s, &p)
			}
		})
	}
}
