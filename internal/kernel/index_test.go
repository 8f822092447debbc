// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
)

// of bpf/contract.h and bpf/config.h
const (
	indexNumber = 0x7fff // INDEX_NUMBER
	indexUsed   = 0x8000 // INDEX_USED
	probeMax    = 16     // PROBE_MAX
)

// altered is a frame with one bit changed, at this offset.
func altered(frame []byte, offset int) []byte {
	f := append([]byte{}, frame...)
	f[offset] ^= 1
	return f
}

// neighbours are flows that differ from the first in one part of the key each: one more than are looked at for a packet.
func neighbours() (all []shot) {
	base := append(udp6Frame(1, 2, 3, 4), make([]byte, 20)...)
	tcp := append([]byte{}, base...)
	tcp[20] = unix.IPPROTO_TCP
	list := [][]byte{base, tcp, tagged(base, 7), tagged(base, 8)}
	const src, dst, ports, end = 22, 38, 54, 58
	for _, offset := range []int{src, src + 7, src + 8, src + 15, dst, dst + 7, dst + 8, dst + 15} {
		list = append(list, altered(base, offset))
	}
	for offset := ports; offset < end; offset++ {
		list = append(list, altered(base, offset))
	}
	for _, f := range list {
		all = append(all, shotAt(f, flow.DirectionIngress, false))
	}
	return append(all, shotAt(base, flow.DirectionEgress, false))
}

// neighbouringTunnels are the same flow inside of tunnels that differ in one part of the outer key each.
func neighbouringTunnels() (all []shot) {
	inner := udpFrame(0x0a000001, 0x0a000002, 3, 4, 60)
	over6 := func(port uint16, head uint32) []byte {
		f := binary.BigEndian.AppendUint32(udp6Frame(1, 2, 1, port), head)
		return append(binary.BigEndian.AppendUint32(f, vni<<8), inner...)
	}
	base := over6(4789, 0x08<<24)
	list := [][]byte{
		base, over6(6081, 0x6558), // VXLAN, Geneve
		vxlan(hostA, hostB, vni, inner), vxlan(hostC, hostB, vni, inner), vxlan(hostA, hostC, vni, inner), vxlan(hostA, hostB, vni+1, inner),
	}
	const src, dst, id, end = 22, 38, 66, 69
	for _, offset := range []int{src, src + 7, src + 8, src + 15, dst, dst + 7, dst + 8, dst + 15} {
		list = append(list, altered(base, offset))
	}
	for offset := id; offset < end; offset++ {
		list = append(list, altered(base, offset))
	}
	for _, f := range list {
		all = append(all, shotAt(f, flow.DirectionIngress, true))
	}
	return all
}

func shotAt(frame []byte, d flow.Direction, inside bool) shot {
	s := shot{direction: d}
	s.Data, s.Inside = frame, inside
	sample := s.Sample()
	sample.IfIndex = loopback
	packet.Decode(&sample, &s.want)
	return s
}

// The hash only says where to look. Of flows with the same one each has its own slot, and those beyond the last entry that is
// looked at overflow.
func TestKeysAreComparedWhereHashesAreEqual(t *testing.T) {
	for _, tt := range []struct {
		name  string
		cfg   Config
		shots []shot
	}{
		{"plain", Config{object: objectPlain}, neighbours()},
		{"full", Config{object: objectFull}, neighbours()},
		{"old", Config{object: objectOld}, neighbours()},
		{"tunnels, full", Config{object: objectFull, Tunnels: true}, neighbouringTunnels()},
		{"tunnels, old", Config{object: objectOld, Tunnels: true}, neighbouringTunnels()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := load(t, tt.cfg)
			pin(t, 0)
			require.Len(t, tt.shots, probeMax+1)
			for range 2 { // both buffers
				for number := range k.regions.count {
					k.regions.at(number, k.drain.active).header.HashOdd = 0
				}
				requireOwnSlots(t, k, tt.shots)
			}
		})
	}
}

// requireOwnSlots sends each flow twice: all but the last find their slot again.
func requireOwnSlots(t *testing.T, k *Kernel, shots []shot) {
	t.Helper()
	for range 2 {
		for _, s := range shots {
			inject(t, k.programFor(t, false, s.direction), s.Data, nil)
		}
	}
	got := drain(t, k)
	require.Len(t, got.slots, probeMax)
	for i, s := range got.slots { // in the order of claims
		require.Equal(t, flowID{shots[i].want.Key, shots[i].direction}, flowID{s.Key, s.Direction})
		require.Equal(t, uint64(2), s.Packets)
	}
	require.Equal(t, uint64(2), got.Ledger.Entries[flow.ReasonOverflow].Packets)
}

// activeIndex is the index that programs write now, of a Kernel with one region, and how many slots are in use.
func activeIndex(k *Kernel) (index []uint32, used int) {
	r := k.regions.at(0, k.drain.active)
	return r.index, int(r.header.Used)
}

// requireIndexed wants one entry for each slot in use and nothing else.
func requireIndexed(t *testing.T, index []uint32, used int) {
	t.Helper()
	found := map[uint32]bool{}
	for _, entry := range index {
		if entry != 0 {
			require.NotZero(t, entry&indexUsed)
			require.Less(t, entry&indexNumber, uint32(used))
			require.False(t, found[entry&indexNumber], "two entries of one slot")
			found[entry&indexNumber] = true
		}
	}
	require.Len(t, found, used)
}

func requireFree(t *testing.T, index []uint32) {
	t.Helper()
	require.Equal(t, -1, slices.IndexFunc(index, func(entry uint32) bool { return entry != 0 }), "an entry that was not given back")
}

// An entry that stayed would lead to a slot of another flow, or take room from others for good. Few are freed one by one,
// many all at once.
func TestTheIndexIsGivenBack(t *testing.T) {
	for _, slots := range []int{MinSlots, DefaultSlots, MaxSlots} {
		k := load(t, Config{Slots: slots, cpus: []int{0}})
		require.Equal(t, slots, k.SlotLimit())
		flows := uint64(1)
		d := newDriver(t, k, func(i uint64) benchStep { return flowNumber(i % flows) })
		const perLine = 64 / 4 // entries
		atOnce := indexPerSlot * slots / perLine
		for _, want := range []int{1, atOnce - 1, atOnce, slots} {
			t.Run(fmt.Sprintf("%d of %d slots", want, slots), func(t *testing.T) {
				pin(t, 0)
				flows, d.prepared = uint64(want), 0
				d.renew(sequenceLength)
				for range 4 { // both buffers, twice
					require.NoError(t, d.burst(place{loopback, flow.DirectionIngress}, want, 60))
					index, used := activeIndex(k)
					if want < slots {
						require.Equal(t, want, used)
					}
					require.InDelta(t, want, used, float64(slots)/100, "a few flows may overflow")
					requireIndexed(t, index, used)
					require.Len(t, drain(t, k).slots, used)
					requireFree(t, index)
				}
			})
		}
	}
}

// What ICMP errors quote has slots too.
func TestTheIndexOfQuotesIsGivenBack(t *testing.T) {
	const quotes = 10
	k := load(t, Config{Quotes: true, cpus: []int{0}})
	pin(t, 0)
	for range 4 { // both buffers, twice
		for port := range uint16(quotes) {
			inject(t, k.objects.IngressL2, icmpError(3, 3, udpFrame(1, 2, port, 53, 142)[14:]), nil)
		}
		index, used := activeIndex(k)
		require.Equal(t, 1+quotes, used)
		requireIndexed(t, index, used)
		require.Len(t, drain(t, k).Quotes, quotes)
		requireFree(t, index)
	}
}

// After Stop one drain takes both buffers, if the flip before it was not followed by a drain.
func TestTheIndexesOfBothBuffersAreGivenBack(t *testing.T) {
	k := load(t, Config{cpus: []int{0}})
	pin(t, 0)
	count := func(flows uint32) []uint32 {
		for i := range flows {
			inject(t, k.objects.IngressL2, udpFrame(i, 2, 3, 4, 60), nil)
		}
		index, used := activeIndex(k)
		require.EqualValues(t, flows, used)
		requireIndexed(t, index, used)
		return index
	}
	first := count(5)
	require.NoError(t, k.flip())
	second := count(7)
	require.NoError(t, k.Stop())
	require.Len(t, drain(t, k).slots, 5+7)
	requireFree(t, first)
	requireFree(t, second)
}
