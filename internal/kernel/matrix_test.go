// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// watch is one hook with a ledger of its own.
type watch struct{ *Kernel }

func watchEnd(t *testing.T, cfg Config, e *testenv.End, d flow.Direction) watch {
	k := load(t, cfg)
	k.attachEnd(t, e, d)
	return watch{k}
}

// buffers is how many the hook saw since it was attached.
func (w watch) buffers() (seen uint64) {
	for number := range w.regions.count {
		seen += w.regions.at(number, w.drain.active).header.BuffersSeen
	}
	return seen
}

// settle waits until nothing passes the hook any more: the last packets of a veth wait for a CPU.
func (w watch) settle() {
	for seen := w.buffers(); ; {
		time.Sleep(50 * time.Millisecond)
		now := w.buffers()
		if now == seen {
			return
		}
		seen = now
	}
}

// conveyance is what packets travel in between the two ends of a veth.
type conveyance struct {
	name   string
	port   int // of VXLAN; 0: there is no tunnel
	v6     bool
	tagged bool
	config Config
}

// TestSegmentationMatrix sends TCP and UDP, over IPv4 and IPv6, plain, tagged and in VXLAN, as buffers to be segmented. Whether they
// cross a veth whole, or are segmented behind one hook and joined again before the other: both hooks count what the wire carries.
func TestSegmentationMatrix(t *testing.T) {
	for _, c := range []conveyance{
		{name: "plain"},
		{name: "tagged", tagged: true},
		{name: "VXLAN over IPv4", port: 4789},
		{name: "VXLAN over IPv6", port: 8472, v6: true},
		{name: "VXLAN over IPv6, counted inside", port: 4789, v6: true, config: Config{Tunnels: true}},
	} {
		for _, v6 := range []bool{false, true} {
			for _, tcp := range []bool{false, true} {
				name := fmt.Sprintf("%s/%s over IPv%d", c.name, map[bool]string{true: "TCP", false: "UDP"}[tcp], map[bool]int{false: 4, true: 6}[v6])
				t.Run(name+"/whole", func(t *testing.T) { c.whole(t, tcp, v6) })
				t.Run(name+"/segmented and joined", func(t *testing.T) { c.segmented(t, tcp, v6) })
			}
		}
	}
}

// whole: the veth takes buffers, as those between containers do. The truth is what TCP or arithmetic says.
func (c *conveyance) whole(t *testing.T, tcp, v6 bool) {
	left, right := testenv.Pair(t, testenv.PairConfig{Offloads: true})
	egress, ingress := watchEnd(t, c.config, left, flow.DirectionEgress), watchEnd(t, c.config, right, flow.DirectionIngress)
	before := left.Counters()
	want := c.send(t, left, right, tcp, v6)
	ingress.settle()
	passed := left.Counters().Since(before)
	testenv.RequireDelivered(t, passed)
	for _, w := range []watch{egress, ingress} {
		buffers, got := w.buffers(), drain(t, w.Kernel).Ledger.Seen
		c.requireTruth(t, tcp, want, got)
		require.Equal(t, passed.Transmitted.Packets, buffers, "buffers cross the veth")
		require.Greater(t, got.Packets, 4*buffers, "and are whole")
	}
}

// segmented: packets cross the veth, and its counters are the truth. Both hooks see buffers nevertheless.
func (c *conveyance) segmented(t *testing.T, tcp, v6 bool) {
	left, right := testenv.Pair(t, testenv.PairConfig{Offloads: true})
	testenv.Segment(left, right, tcp && !c.tagged)
	egress, ingress := watchEnd(t, c.config, left, flow.DirectionEgress), watchEnd(t, c.config, right, flow.DirectionIngress)
	before := left.Counters()
	want := c.send(t, left, right, tcp, v6)
	ingress.settle()
	passed := left.Counters().Since(before)
	testenv.RequireDelivered(t, passed)
	wire := passed.Transmitted
	wire.Bytes += 14 * wire.Packets // a veth whose other end joins packets counts them there, without link header
	c.requireTruth(t, tcp, want, wire)
	for _, w := range []watch{egress, ingress} {
		buffers, got := w.buffers(), drain(t, w.Kernel).Ledger.Seen
		require.Equal(t, wire, got)
		t.Logf("%d packets in %d buffers", got.Packets, buffers)
		if w == egress || c.joined(tcp) {
			require.Greater(t, got.Packets, 4*buffers, "buffers pass the hook")
		}
	}
}

// joined tells what GRO joins: a kernel without VLANs nothing with a tag, no kernel UDP inside of UDP.
func (c *conveyance) joined(tcp bool) bool { return !c.tagged && (tcp || c.port == 0) }

// send returns what the wire should carry, the link header included.
func (c *conveyance) send(t *testing.T, left, right *testenv.End, tcp, v6 bool) flow.Volume {
	const payload, segment, segments, n = 13_001, 1300, 11, 200 // bytes, packets, buffers
	if c.tagged {
		return c.inject(left, right, tcp, v6, payload, segment, n)
	}
	headers := 14 + map[bool]int{false: 20, true: 40}[v6]
	if c.port != 0 {
		left, right = testenv.VXLAN(left, right, c.v6, c.port)
		headers += 14 + map[bool]int{false: 20, true: 40}[c.v6] + 8 + 8 // outer link header, IP, UDP, VXLAN
	}
	if !tcp {
		testenv.TransferSegments(left, right, v6, n, payload, segment)
		return flow.Volume{Packets: n * segments, Bytes: uint64(n * (payload + segments*(headers+8)))}
	}
	sent := testenv.Transfer(left, right, v6, 8<<20)
	return flow.Volume{Packets: sent.Sent, Bytes: sent.SentPayload + sent.Sent*uint64(headers+32)} // 32: TCP with timestamps
}

// inject hands the interface buffers with an inline tag, which there need be no device for.
func (c *conveyance) inject(left, right *testenv.End, tcp, v6 bool, payload, segment, n int) (sum flow.Volume) {
	f := testenv.Frame{
		Src: left.MAC, Dst: right.MAC, Tags: []uint16{77}, Proto: 17, Payload: payload,
		From: netip.AddrPortFrom(left.Addr(v6), 1000), To: netip.AddrPortFrom(right.Addr(v6), 2000),
	}
	if tcp {
		f.Proto, f.TCPFlags = 6, 0x10
	}
	s := left.NewSender()
	for range n {
		sum.Add(s.Segmented(f, segment))
		time.Sleep(100 * time.Microsecond) // what a veth holds for its other end is bounded
	}
	return sum
}

// requireTruth allows for the acknowledgement that TCP sends after its count was read, and for the options of a SYN. Arithmetic is exact.
func (c *conveyance) requireTruth(t *testing.T, tcp bool, want, got flow.Volume) {
	t.Helper()
	if !tcp || c.tagged {
		require.Equal(t, want, got)
		return
	}
	off := func(want, got uint64) float64 { return 100 * (float64(got)/float64(want) - 1) }
	t.Logf("%d packets, %+.3f %%; %d bytes, %+.4f %%", got.Packets, off(want.Packets, got.Packets), got.Bytes, off(want.Bytes, got.Bytes))
	require.InDelta(t, want.Packets, got.Packets, 1)
	require.InEpsilon(t, want.Bytes, got.Bytes, 0.001)
}
