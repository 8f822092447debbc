// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// exchange returns what both interfaces count during f, once that has come to rest.
func exchange(t *testing.T, left, right *End, f func()) (l, r Counters) {
	t.Helper()
	lBefore, rBefore := left.Counters(), right.Counters()
	f()
	l, r = left.Counters().Since(lBefore), right.Counters().Since(rBefore)
	RequireDelivered(t, l, r)
	assert.Equal(t, l.Transmitted, r.Received)
	assert.Equal(t, r.Transmitted, l.Received)
	return l, r
}

func TestAPairIsSilent(t *testing.T) {
	left, right := Pair(t, PairConfig{})
	l, _ := exchange(t, left, right, func() { time.Sleep(1500 * time.Millisecond) })
	assert.Zero(t, l)
}

func TestEveryDatagramIsCounted(t *testing.T) {
	left, right := Pair(t, PairConfig{})
	n := 1_000_000
	if testing.Short() {
		n = 50_000
	}
	d := &Datagrams{Flows: 10_000, Payloads: []int{0, 18, 100, 700, 1452}, Src: left.MAC, Dst: Nobody}
	s := left.NewSender()
	drops := SoftnetDrops(t)
	start := time.Now()
	l, _ := exchange(t, left, right, func() { s.Datagrams(d, 0, n) })
	t.Logf("%d datagrams in %v", n, time.Since(start))
	assert.Equal(t, uint64(n), s.Sent.Packets)
	assert.Zero(t, s.Dropped)
	assert.Equal(t, drops, SoftnetDrops(t))
	assert.Equal(t, s.Sent, l.Transmitted)
	assert.Zero(t, l.Received)
	var sum flow.Volume
	for _, v := range d.Volumes(n) {
		sum.Add(v)
	}
	assert.Equal(t, sum, s.Sent)
}

func TestTransferWithAndWithoutOffloads(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, offloads := range []bool{false, true} {
			left, right := Pair(t, PairConfig{Offloads: offloads})
			const payload = 20 << 20
			var tr Transferred
			l, _ := exchange(t, left, right, func() {
				tr = Transfer(left, right, v6, payload)
				assert.Equal(t, left.Addr(v6), tr.Client.Addr())
				assert.Equal(t, right.Addr(v6), tr.Server.Addr())
			})
			assert.Greater(t, l.Transmitted.Bytes, uint64(payload))
			segments := uint64(payload / 1448)
			if offloads {
				assert.Less(t, l.Transmitted.Packets, segments/4, "a veth counts a segmented buffer once")
			} else {
				assert.GreaterOrEqual(t, l.Transmitted.Packets, segments)
				assert.InDelta(t, tr.Sent, l.Transmitted.Packets, 1, "TCP and the interface agree, but for the last acknowledgement")
				assert.InDelta(t, tr.Received, l.Received.Packets, 1)
			}
		}
	}
}

func TestEcho(t *testing.T) {
	left, right := Pair(t, PairConfig{})
	for _, v6 := range []bool{false, true} {
		headers := uint64(14 + 20 + 8)
		if v6 {
			headers = 14 + 40 + 8
		}
		l, _ := exchange(t, left, right, func() { Echo(left, right, v6, 5, 100) })
		want := flow.Volume{Packets: 5, Bytes: 5 * (headers + 100)}
		assert.Equal(t, want, l.Transmitted)
		assert.Equal(t, want, l.Received)
	}
}

func TestAnyFrame(t *testing.T) {
	left, right := Pair(t, PairConfig{})
	s := left.NewSender()
	from, to := netip.AddrPortFrom(left.V4, 1000), netip.AddrPortFrom(right.V4, 2000)
	l, _ := exchange(t, left, right, func() {
		s.Frame(Frame{Src: left.MAC, Dst: right.MAC, From: from, To: to, Proto: protoSCTP, Payload: 100})
		s.Frame(Frame{Src: left.MAC, Dst: Nobody, From: from, To: to, Proto: protoUDP, Payload: 80, Fragment: &Fragment{ID: 1, More: true}})
		s.Frame(Frame{Src: left.MAC, Dst: Nobody, From: from, To: to, Proto: protoUDP, Payload: 80, Fragment: &Fragment{ID: 1, Offset: 88}})
		s.Frame(Frame{Src: left.MAC, Dst: Nobody, Tags: []uint16{100, 7}, From: from, To: to, Proto: protoTCP, TCPFlags: 2})
	})
	assert.Equal(t, uint64(4), l.Transmitted.Packets)
	assert.Equal(t, s.Sent, l.Transmitted)
	// The stack refuses a protocol that it lacks, with ICMP and the first 28 bytes at least of what it refuses.
	assert.LessOrEqual(t, l.Received.Packets, uint64(1))
}

func TestTaps(t *testing.T) {
	ns := NewNetNS(t)
	f := Frame{
		Dst: Nobody, Proto: protoTCP, TCPFlags: 0x10, Payload: 14480,
		From: netip.MustParseAddrPort("192.0.2.1:1000"), To: netip.MustParseAddrPort("192.0.2.2:2000"),
	}
	t.Run("with segmentation", func(t *testing.T) {
		tap := ns.NewTap("tap0", TapConfig{Vnet: true})
		assert.Equal(t, flow.Volume{Packets: 10, Bytes: 14480 + 10*54}, tap.WriteSegmented(f, 1448))
		assert.Equal(t, flow.Volume{Packets: 1, Bytes: 14480 + 54}, tap.Counters().Received)
		short := f
		short.Payload, short.Tags = 100, []uint16{5}
		tap.Write(short.AppendTo(nil))
		assert.Equal(t, uint64(2), tap.Counters().Received.Packets)
	})
	t.Run("without link header", func(t *testing.T) {
		tun := ns.NewTap("tun0", TapConfig{L3: true, Vnet: true})
		l3 := f
		l3.L3 = true
		assert.Equal(t, flow.Volume{Packets: 10, Bytes: 14480 + 10*40}, tun.WriteSegmented(l3, 1448))
		assert.Equal(t, flow.Volume{Packets: 1, Bytes: 14480 + 40}, tun.Counters().Received)
	})
	t.Run("in parts", func(t *testing.T) {
		tap := ns.NewTap("tap1", TapConfig{Scatter: true})
		parted := f
		parted.Payload = 1000
		whole := parted.AppendTo(nil)
		tap.Write(whole[:20], whole[20:60], whole[60:])
		assert.Eventually(t, func() bool {
			return tap.Counters().Received == flow.Volume{Packets: 1, Bytes: uint64(len(whole))}
		}, 5*time.Second, 10*time.Millisecond)
	})
}

func TestABridgePassesOnTags(t *testing.T) {
	left, near := Pair(t, PairConfig{})
	far, right := Pair(t, PairConfig{})
	far.MoveTo(near.NetNS, "far0")
	near.AddBridge(near, far)
	s := left.NewSender()
	before := right.Counters()
	s.Frame(Frame{
		Src: left.MAC, Dst: Nobody, Tags: []uint16{100}, Proto: protoUDP, Payload: 50,
		From: netip.AddrPortFrom(left.V4, 1), To: netip.AddrPortFrom(right.V4, 2),
	})
	assert.Equal(t, uint64(1), right.Counters().Since(before).Received.Packets)
}

func TestCommandsRunInTheNamespace(t *testing.T) {
	left, _ := Pair(t, PairConfig{})
	assert.Contains(t, left.Run(Tool(t, "ip"), "-brief", "link"), "left0")
	require.NotContains(t, NewNetNS(t).Run(Tool(t, "ip"), "-brief", "link"), "left0")
}
