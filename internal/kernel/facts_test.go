// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// marked is an IPv4 frame with this TTL and type of service.
func marked(ttl, tos byte) []byte {
	f := udpFrame(0x0a000001, 0x0a000002, 1, 2, 100)
	copy(f, []byte{2, 0, 0, 0, 0, 0xd, 2, 0, 0, 0, 0, 0x5})
	f[15], f[22] = tos, ttl
	return f
}

var (
	markedSrc = flow.MAC{2, 0, 0, 0, 0, 0x5}
	markedDst = flow.MAC{2, 0, 0, 0, 0, 0xd}
)

// What headers say beside the key is known of every packet of a slot, whatever the order: a program that looks only at the first
// one, or only at those that differ from it, fails.
func TestFactsOfRandomPackets(t *testing.T) {
	k := load(t, Config{})
	pin(t, 0)
	r := rand.New(rand.NewPCG(7, 11))
	for range 40 {
		var want flow.Facts
		few := []byte{0, 1, 63, 64, 255}[:1+r.IntN(5)]
		for n := range 1 + r.IntN(20) {
			ttl, tos := few[r.IntN(len(few))], byte(r.IntN(256))
			if r.IntN(2) == 0 {
				tos = few[r.IntN(len(few))]
			}
			inject(t, k.objects.IngressL2, marked(ttl, tos), nil)
			if n == 0 {
				want = flow.Facts{SrcMAC: markedSrc, DstMAC: markedDst, HasMACs: true, TTLMin: ttl, TTLMax: ttl, DSCP: tos >> 2}
			}
			want.TTLMin, want.TTLMax = min(want.TTLMin, ttl), max(want.TTLMax, ttl)
			want.DSCPVaries = want.DSCPVaries || want.DSCP != tos>>2
			if tos&3 == 3 {
				want.CEPackets++
			}
		}
		got := drain(t, k)
		require.Len(t, got.slots, 1)
		require.Equal(t, want, got.slots[0].Facts)
	}
}

func TestFactsOfIPv6(t *testing.T) {
	k := load(t, Config{})
	pin(t, 0)
	const label, class = 0xabcde, 46<<2 | 3
	f := udp6Frame(1, 2, 3, 4)
	binary.BigEndian.PutUint32(f[14:], 6<<28|class<<20|label)
	inject(t, k.objects.EgressL2, f, skbContext{GSOSize: 4, GSOSegs: 5})
	binary.BigEndian.PutUint32(f[14:], 6<<28|class<<20|1)
	inject(t, k.objects.EgressL2, f, nil)
	got := drain(t, k)
	require.Len(t, got.slots, 1)
	want := flow.Facts{CEPackets: 6, FlowLabel: label, TTLMin: 64, TTLMax: 64, DSCP: 46, HasMACs: true}
	require.Equal(t, want, got.slots[0].Facts, "the label is the first packet's, marks count for each packet on the wire")
}

func TestFactsWithoutLinkHeader(t *testing.T) {
	k := load(t, Config{injected: true})
	pin(t, 0)
	inject(t, k.objects.IngressL3, marked(9, 4)[14:], nil)
	got := drain(t, k)
	require.Len(t, got.slots, 1)
	require.Equal(t, flow.Facts{TTLMin: 9, TTLMax: 9, DSCP: 1}, got.slots[0].Facts)
}

// Slots are used again without being cleared.
func TestASlotTellsNothingOfTheFlowBefore(t *testing.T) {
	pin(t, 0)
	told := func(k *Kernel) flow.Slot {
		inject(t, k.objects.IngressL3, marked(9, 4)[14:], nil)
		got := drain(t, k)
		require.Len(t, got.slots, 1)
		s := got.slots[0]
		require.LessOrEqual(t, got.Time-s.Last, int64(time.Second))
		s.First, s.Last = 0, 0
		return s
	}
	want := told(load(t, Config{injected: true}))
	k := load(t, Config{injected: true})
	f := marked(255, 255)
	f[23], f[47] = unix.IPPROTO_TCP, 0x3f
	for range 2 { // both buffers
		inject(t, k.objects.EgressL2, f, skbContext{GSOSize: 1, GSOSegs: 1000})
		drain(t, k)
	}
	require.Equal(t, want, told(k))
}

// The marks of the last packet lie above the bytes in one word.
func TestMarksDoNotTouchBytes(t *testing.T) {
	k := load(t, Config{})
	pin(t, 0)
	f := marked(255, 255)
	f[23] = unix.IPPROTO_TCP
	const gso = 65535
	for range 300 {
		inject(t, k.objects.EgressL2, f, skbContext{GSOSize: 1, GSOSegs: gso})
	}
	got := drain(t, k)
	require.Len(t, got.slots, 1)
	require.Equal(t, flow.Volume{Packets: 300 * gso, Bytes: 300 * (100 + (gso-1)*54)}, got.slots[0].Volume)
	require.Equal(t, uint64(300*gso), got.slots[0].CEPackets)
}
