// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernelmatrix

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/frames"
)

// tunnels are the devices whose packets the wire beneath sees in another packet, and as what.
var tunnels = map[string]flow.TunnelKind{
	"ipip": flow.TunnelIP, "sit": flow.TunnelIP, "ip6tnl": flow.TunnelIP, "gre": flow.TunnelGRE, "ip6gre": flow.TunnelGRE,
	"gre with key and sequence numbers": flow.TunnelGRE, "gretap": flow.TunnelGRE, "geneve": flow.TunnelGeneve,
	"xfrm": 0, "vti": 0, // ESP hides what it carries
}

const tunnelKey = 0x01020304

// Some that nothing is counted at in TestDevices.
var moreTunnels = []device{
	{name: "gre with key and sequence numbers", inner: []int{4, 6}, link: func(a netlink.LinkAttrs, l, r *testenv.End) netlink.Link {
		return &netlink.Gretun{
			LinkAttrs: a, Local: ip(l.V4), Remote: ip(r.V4), Ttl: 64, IKey: tunnelKey, OKey: tunnelKey,
			IFlags: nl.GRE_SEQ, OFlags: nl.GRE_SEQ,
		}
	}},
	{name: "gretap", inner: []int{4, 6}, link: func(a netlink.LinkAttrs, l, r *testenv.End) netlink.Link {
		return &netlink.Gretap{LinkAttrs: a, Local: ip(l.V4), Remote: ip(r.V4), Ttl: 64}
	}},
	{name: "geneve", inner: []int{4, 6}, link: func(a netlink.LinkAttrs, _, r *testenv.End) netlink.Link {
		return &netlink.Geneve{LinkAttrs: a, ID: 42, Remote: ip(r.V4), Dport: 6081, Ttl: 64}
	}},
}

// TestTunnelsOnTheWire looks at what crosses the wire beneath each kind of tunnel: packet.Decode must find every datagram that
// was sent through it. TestKernels can keep the first frames of each as a capture.
func TestTunnelsOnTheWire(t *testing.T) {
	testenv.Privileged(t)
	var kept []frames.Frame
	for _, d := range slices.Concat(devices, moreTunnels, ipsec) {
		kind, ok := tunnels[d.name]
		if !ok {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			left, right := testenv.Pair(t, testenv.PairConfig{})
			l, r := d.ends(t, left, right)
			if l == nil {
				return
			}
			for _, version := range d.inner {
				for _, way := range [][2]*testenv.End{{l, r}, {r, l}} {
					var key flow.Key
					heard := listen(t, left, func() { key, _ = d.exchange(t, way[0], way[1], version) })
					require.Equal(t, datagramsEach, carried(heard, kind, &key), "IPv%d", version)
					kept = append(kept, heard[:3]...)
				}
			}
		})
	}
	show(t, "devices.pcap", kept)
}

// carried counts the frames that hold a packet of the flow, or one of ESP if that hides it.
func carried(heard []frames.Frame, kind flow.TunnelKind, key *flow.Key) (n int) {
	for _, f := range heard {
		s := f.Sample()
		s.Inside = true
		var p packet.Packet
		packet.Decode(&s, &p)
		found := p.Key
		found.IfIndex, found.Tunnel = key.IfIndex, flow.Tunnel{}
		if p.Key.Tunnel.Kind == kind && (found == *key || kind == 0 && p.Key.Proto == unix.IPPROTO_ESP) {
			n++
		}
	}
	return n
}

// listen returns the frames, but for those to groups, that pass an end while f runs.
func listen(t *testing.T, e *testenv.End, f func()) (heard []frames.Frame) {
	t.Helper()
	const allInNetworkOrder = unix.ETH_P_ALL << 8
	var socket int
	var err error
	e.Do(func() {
		socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, allInNetworkOrder)
	})
	require.NoError(t, err)
	defer unix.Close(socket)
	require.NoError(t, unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: allInNetworkOrder, Ifindex: e.Index}))
	f()
	for {
		b := make([]byte, 2000)
		n, err := unix.Read(socket, b)
		if err != nil {
			require.ErrorIs(t, err, unix.EAGAIN)
			return heard
		}
		if isGroup := b[0]&1 != 0; !isGroup {
			heard = append(heard, frames.Frame{Data: b[:n:n]})
		}
	}
}

// show writes a capture to the console of a guest, for TestKernels to keep.
func show(t *testing.T, name string, all []frames.Frame) {
	t.Helper()
	if !testenv.InGuest() {
		return
	}
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, frames.WritePcap(path, all))
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	fmt.Printf("\n%s%s %s\n", capturePrefix, name, base64.StdEncoding.EncodeToString(content))
}
