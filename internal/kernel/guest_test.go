// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// guest is an interface that comes and goes: what it sent before it began to go, and what it sent in all.
type guest struct {
	ends       [2]*testenv.End
	least, all flow.Volume
}

// come adds a veth, counts at it and sends.
func (k *Kernel) come(t *testing.T, ns *testenv.NetNS, d *testenv.Datagrams) (*guest, *testenv.Sender) {
	t.Helper()
	g := &guest{ends: ns.AddVeth("guest0", "guest1")}
	k.attachEnd(t, g.ends[0], flow.DirectionEgress)
	k.attachEnd(t, g.ends[1], flow.DirectionIngress)
	sender := g.ends[0].NewSender()
	sender.Datagrams(d, 0, 500)
	g.least = sender.Sent
	return g, sender
}

func (k *Kernel) detachGuest(t *testing.T, g *guest) {
	t.Helper()
	for _, e := range g.ends {
		require.NoError(t, k.Detach(uint32(e.Index)))
	}
}

// ways are those in which an interface goes.
var ways = []struct {
	name string
	goes func(*testing.T, *Kernel, *guest, *testenv.Sender, *testenv.Datagrams)
}{
	{"detached, then deleted", func(t *testing.T, k *Kernel, g *guest, _ *testenv.Sender, _ *testenv.Datagrams) {
		t.Helper()
		k.detachGuest(t, g)
		g.ends[0].Delete()
	}},
	{"detached, and sending on", func(t *testing.T, k *Kernel, g *guest, s *testenv.Sender, d *testenv.Datagrams) {
		t.Helper()
		k.detachGuest(t, g)
		s.Datagrams(d, 0, 100)
		s.Sent = g.least // not to be counted
		g.ends[1].Delete()
	}},
	{"deleted, and told so later", func(t *testing.T, k *Kernel, g *guest, _ *testenv.Sender, _ *testenv.Datagrams) {
		t.Helper()
		g.ends[0].Delete()
		k.detachGuest(t, g)
	}},
	{"deleted while sending", func(t *testing.T, k *Kernel, g *guest, s *testenv.Sender, d *testenv.Datagrams) {
		t.Helper()
		var sending sync.WaitGroup
		sending.Go(func() {
			frame := d.AppendFrame(nil, 0)
			for s.Try(frame) == nil { // until the interface is down
			}
		})
		g.ends[1].Delete()
		sending.Wait()
		k.detachGuest(t, g)
	}},
}

// Interfaces are created, counted, sent through, detached and deleted in every order, while another one is under traffic and
// drained: that one is exact, so are they up to the moment they go, and nothing is held for them afterwards.
func TestInterfacesComeAndGoUnderTraffic(t *testing.T) {
	for way, cfg := range attachWays(t) {
		t.Run(way, func(t *testing.T) { interfacesComeAndGo(t, cfg) })
	}
}

func interfacesComeAndGo(t *testing.T, cfg Config) {
	t.Helper()
	k := load(t, cfg)
	left, right := testenv.Pair(t, testenv.PairConfig{})
	k.attachEnd(t, left, flow.DirectionEgress)
	k.attachEnd(t, right, flow.DirectionIngress)
	d := &testenv.Datagrams{Flows: 500, Payloads: []int{0, 100, 1452}, Src: left.MAC, Dst: testenv.Nobody}
	resident := left.NewSender()
	counters := left.Counters()
	before := whatIsOpen(t)

	c := collect(t, k)
	var quit atomic.Bool
	var running sync.WaitGroup
	frames := 0
	running.Go(func() {
		for ; !quit.Load() && !t.Failed(); frames += 1000 {
			resident.Datagrams(d, frames, 1000)
		}
	})
	var guests []*guest
	rounds := 10
	if testenv.InGuest() { // where all is slow
		rounds = 2
	}
	for range rounds {
		for _, way := range ways {
			g, s := k.come(t, left.NetNS, d)
			way.goes(t, k, g, s, d)
			g.all = s.Sent
			s.Close()
			guests = append(guests, g)
		}
	}
	quit.Store(true)
	running.Wait()
	c.stop()

	places := map[place]flow.Volume{}
	for key, v := range c.flows {
		addTo(places, place{key.IfIndex, key.Direction}, v)
	}
	pick := func(e *testenv.End, d flow.Direction) flow.Volume {
		at := place{uint32(e.Index), d}
		defer delete(places, at)
		return places[at]
	}
	require.Zero(t, c.ledger.Entries[flow.ReasonOverflow])
	for number, want := range d.Volumes(frames) {
		key := d.Key(number)
		key.IfIndex = uint32(left.Index)
		require.Equal(t, want, c.flows[sideKey{key, flow.DirectionEgress}], "flow %d", number)
	}
	require.Equal(t, resident.Sent, pick(left, flow.DirectionEgress))
	require.Equal(t, left.Counters().Since(counters).Transmitted, pick(right, flow.DirectionIngress))
	for i, g := range guests {
		way := ways[i%len(ways)].name
		requireBetween(t, g.least, g.all, pick(g.ends[0], flow.DirectionEgress), way)
		// Behind the egress hook a backlog may drop what its interface, going already, does not take.
		requireBetween(t, flow.Volume{}, g.all, pick(g.ends[1], flow.DirectionIngress), way)
	}
	require.Empty(t, places, "nothing is counted elsewhere")
	require.Len(t, k.links, 2)
	require.Equal(t, before, whatIsOpen(t))
	t.Logf("%d packets at the interface that stayed, %d interfaces came and went, %d drains", frames, 2*len(guests), c.drains)
}

func requireBetween(t *testing.T, least, most, got flow.Volume, way string) {
	t.Helper()
	require.True(t, least.Packets <= got.Packets && got.Packets <= most.Packets && least.Bytes <= got.Bytes && got.Bytes <= most.Bytes,
		"%s: %+v is not between %+v and %+v", way, got, least, most)
}
