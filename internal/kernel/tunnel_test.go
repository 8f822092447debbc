// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

const (
	hostA, hostB, hostC = 0xc0000201, 0xc0000202, 0xc0000203
	vni                 = 77
)

// vxlan puts a frame into a VXLAN over IPv4.
func vxlan(from, to, id uint32, inner []byte) []byte {
	f := udpFrame(from, to, 1, 4789, 42)
	f = binary.BigEndian.AppendUint32(f, 0x08<<24)
	f = binary.BigEndian.AppendUint32(f, id<<8)
	return append(f, inner...)
}

// eachObject runs a test with each object that knows tunnels.
func eachObject(t *testing.T, cfg Config, test func(t *testing.T, k *Kernel)) {
	for name, o := range map[string]object{"full": objectFull, "old": objectOld} {
		t.Run(name, func(t *testing.T) {
			cfg.object = o
			k := load(t, cfg)
			pin(t, 0)
			test(t, k)
		})
	}
}

// Tenants use the same addresses and identifications: a later fragment has the ports of a first one in its own tunnel.
func TestFragmentsOfTwoTunnels(t *testing.T) {
	eachObject(t, Config{Tunnels: true}, func(t *testing.T, k *Kernel) {
		inject(t, k.objects.IngressL2, vxlan(hostA, hostB, vni, fragment(false, 1, 0, 2000)), nil)
		require.Len(t, drain(t, k).slots, 1)
		for name, other := range map[string][]byte{
			"another source":      vxlan(hostC, hostB, vni, fragment(false, 1, 72, 0)),
			"another destination": vxlan(hostA, hostC, vni, fragment(false, 1, 72, 0)),
			"another id":          vxlan(hostA, hostB, vni+1, fragment(false, 1, 72, 0)),
			"no tunnel":           fragment(false, 1, 72, 0),
		} {
			inject(t, k.objects.IngressL2, other, nil)
			got := drain(t, k)
			require.Len(t, got.slots, 1, name)
			require.True(t, got.slots[0].LaterFragment, name)
		}
		inject(t, k.objects.IngressL2, vxlan(hostA, hostB, vni, fragment(false, 1, 72, 0)), nil)
		got := drain(t, k)
		require.Len(t, got.slots, 1)
		require.EqualValues(t, 2000, got.slots[0].DstPort, "its own")
	})
}

// What lies in a later fragment is payload, even if it reads as the header of a tunnel: segments do not repeat it.
func TestLaterFragmentsAreNoTunnels(t *testing.T) {
	payload := vxlan(hostA, hostB, vni, udpFrame(1, 2, 3, 4, 60))[42:]
	for name, wrap := range map[string]func([]byte) []byte{
		"outer": func(f []byte) []byte { return f },
		"inner": func(f []byte) []byte { return vxlan(hostA, hostB, vni, f) },
	} {
		t.Run(name, func(t *testing.T) {
			eachObject(t, Config{Tunnels: true}, func(t *testing.T, k *Kernel) {
				inject(t, k.objects.IngressL2, wrap(fragment(false, 1, 0, 4789)), nil)
				drain(t, k)
				const headers = 14 + 20
				later := slices.Concat(fragment(false, 1, 72, 0)[:headers], payload)
				binary.BigEndian.PutUint16(later[14+2:], uint16(20+len(payload)))
				later = wrap(later)
				inject(t, k.objects.IngressL2, later, skbContext{GSOSize: 10, GSOSegs: 3})
				got := drain(t, k)
				require.Len(t, got.slots, 1)
				require.EqualValues(t, 4789, got.slots[0].DstPort, "joined")
				repeated := len(later) - len(payload)
				require.Equal(t, flow.Volume{Packets: 3, Bytes: uint64(len(later) + 2*repeated)}, got.slots[0].Volume)
			})
		})
	}
}

// Routers mark the outer header; the inner one gets the mark at the end of the tunnel, if its sender can read it. RFC 6040.
func TestCongestionOfATunnel(t *testing.T) {
	for _, tt := range []struct {
		outer, inner byte // ECN
		want         uint64
	}{{3, 0, 0}, {3, 1, 1}, {3, 2, 1}, {3, 3, 1}, {0, 3, 1}, {2, 2, 0}, {0, 0, 0}} {
		eachObject(t, Config{Tunnels: true}, func(t *testing.T, k *Kernel) {
			f := vxlan(hostA, hostB, vni, marked(9, tt.inner|46<<2))
			f[15] = tt.outer | 8<<2
			inject(t, k.objects.IngressL2, f, nil)
			got := drain(t, k)
			require.Len(t, got.slots, 1)
			s := &got.slots[0]
			require.Equal(t, tt.want, s.CEPackets, "%+v", tt)
			require.Equal(t, []uint8{9, 46}, []uint8{s.TTLMin, s.DSCP}, "of the inner packet")
		})
	}
}

// An ICMP error in a tunnel is about a packet that went the other way through it.
func TestQuotesInsideOfTunnels(t *testing.T) {
	eachObject(t, Config{Tunnels: true, Quotes: true}, func(t *testing.T, k *Kernel) {
		request := udpFrame(0x0a000001, 0x0a000002, 5000, 53, 142)
		unreachable := icmpError(3, 3, request[14:])
		inject(t, k.objects.EgressL2, vxlan(hostA, hostB, vni, request), nil)
		inject(t, k.objects.IngressL2, vxlan(hostB, hostA, vni, unreachable), nil)
		inject(t, k.objects.IngressL2, unreachable, nil) // of a flow beside the tunnel
		got := drain(t, k)
		table := flow.NewTable(flow.Config{MaxFlows: 10})
		for i := range got.slots {
			table.Add(&got.slots[i], nil)
		}
		require.Len(t, got.Quotes, 2)
		linked := 0
		for i := range got.Quotes {
			if q := &got.Quotes[i]; table.Quote(q) {
				linked++
				require.Equal(t, "192.0.2.1", q.Tunnel.From().String())
			} else {
				require.Zero(t, q.Tunnel)
			}
		}
		require.Equal(t, 1, linked)
	})
}
