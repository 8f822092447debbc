// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernelmatrix

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

var geneve = device{name: "geneve", inner: []int{4, 6}, link: func(a netlink.LinkAttrs, _, r *testenv.End) netlink.Link {
	return &netlink.Geneve{LinkAttrs: a, ID: 42, Remote: ip(r.V4), Dport: 6081}
}}

// TestSegmentsInDevices sends TCP through each kind of tunnel over a veth that segments behind the one hook and joins again before the
// other. Whether the outer or the inner flow counts, both see what the veth counts between them.
func TestSegmentsInDevices(t *testing.T) {
	testenv.Privileged(t)
	for _, d := range append([]device{geneve}, devices[1:]...) {
		if d.name == "wireguard" { // encrypts packet by packet: no buffer passes a hook whole
			continue
		}
		for _, version := range d.inner {
			t.Run(fmt.Sprintf("IPv%d in %s", version, d.name), func(t *testing.T) {
				left, right := testenv.Pair(t, testenv.PairConfig{Offloads: true})
				testenv.Segment(left, right, true)
				l, r := d.ends(t, left, right)
				if l == nil {
					return
				}
				outer, inner := between(t, left, right, false), between(t, left, right, true)
				before, joined := left.Counters(), right.IPReceived()
				testenv.Transfer(l, r, version == 6, 1<<20)
				time.Sleep(200 * time.Millisecond) // the last packets of a veth wait for a CPU
				passed := left.Counters().Since(before)
				testenv.RequireDelivered(t, passed)
				wire, buffers := passed.Transmitted, right.IPReceived()-joined
				require.Less(t, 2*buffers, wire.Packets, "buffers pass the hooks: outer and inner headers are received once each")
				wire.Bytes += 14 * wire.Packets // a veth whose other end joins packets counts them there, without link header
				want := flow.Volume{Packets: 2 * wire.Packets, Bytes: 2 * wire.Bytes}
				require.Equal(t, want, seen(t, outer), "outer flows")
				require.Equal(t, want, seen(t, inner), "inner flows")
				t.Logf("%d packets, %d bytes, %d times received", wire.Packets, wire.Bytes, buffers)
			})
		}
	}
}

// between counts what leaves one end for the other, and what arrives there.
func between(t *testing.T, from, to *testenv.End, tunnels bool) *kernel.Kernel {
	t.Helper()
	k, err := kernel.Load(kernel.Config{Tunnels: tunnels})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, k.Close()) })
	from.Do(func() { err = k.Attach(find(t, from.NetNS, from.Name), flow.DirectionEgress) })
	require.NoError(t, err)
	to.Do(func() { err = k.Attach(find(t, to.NetNS, to.Name), flow.DirectionIngress) })
	require.NoError(t, err)
	return k
}

func seen(t *testing.T, k *kernel.Kernel) flow.Volume {
	t.Helper()
	d, err := k.Drain(func(*flow.Slot) {})
	require.NoError(t, err)
	require.Empty(t, d.Mismatches)
	return d.Ledger.Seen
}
