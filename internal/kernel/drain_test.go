// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"encoding/binary"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
)

// With every slot in use structured addresses must spread as random ones would.
func TestHashSpreadsStructuredFlows(t *testing.T) {
	k := load(t, Config{})
	pin(t, 0)
	flows := k.SlotLimit()
	icmp := func(src, dst uint32) []byte {
		f := udpFrame(src, dst, 0x0800, 0, 60)
		f[23] = 1
		return f
	}
	for _, c := range []struct {
		name  string
		frame func(i uint32) []byte
	}{
		{"a /24 x /24 matrix without ports", func(i uint32) []byte { return icmp(0x0a000000+i%256, 0x0a000100+i/256) }},
		{"a /24 x /24 matrix, top octet first", func(i uint32) []byte { return icmp(0x0a000001+i%256<<24, 0x0a000101+i/256<<24) }},
		{"one fixed port pair", func(i uint32) []byte { return udpFrame(0x0a000000+i%256, 0x0a000100+i/256, 4789, 4789, 60) }},
		{"a port scan", func(i uint32) []byte { return udpFrame(0x0a000001, 0x0a000002, 50000, uint16(i), 60) }},
		{"sequential addresses", func(i uint32) []byte { return udpFrame(0x0a000000+i, 0xc0000201, 50000, 53, 60) }},
		{"sequential source ports", func(i uint32) []byte { return udpFrame(0x0a000001, 0x0a000002, uint16(i), 443, 60) }},
		{"IPv6 /64 hosts", func(i uint32) []byte { return udp6Frame(uint64(i), 1, 50000, 53) }},
		{"IPv6 hosts by their vendor's address", func(i uint32) []byte { return udp6Frame(0x020000fffe000000+uint64(i)<<8, 1, 50000, 53) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			const draws = 16 // of hash keys: each drain makes one
			overflow := uint64(0)
			for range draws {
				for i := range flows {
					inject(t, k.objects.IngressL2, c.frame(uint32(i)), nil)
				}
				got := drain(t, k)
				over := got.Ledger.Entries[flow.ReasonOverflow].Packets
				require.Len(t, got.slots, flows-int(over))
				overflow += over
			}
			require.LessOrEqual(t, float64(overflow), float64(draws*flows)/1000)
		})
	}
}

// Ten times more flows than slots: attribution ends, the totals do not, and the overflow has its interface and direction.
func TestTotalsAreExactWhenTheTableIsFull(t *testing.T) {
	k := load(t, Config{Slots: MinSlots})
	pin(t, 0)
	var sent flow.Volume
	for round := range 3 {
		for i := range uint32(10 * MinSlots) {
			frame := udpFrame(0x0a000000+i, 0x0a000001, 1, 2, 60+round)
			inject(t, k.objects.EgressL2, frame, nil)
			sent.Add(volumeOf(frame))
		}
	}
	got := drain(t, k)
	require.Equal(t, sent, got.Ledger.Seen)
	var slots flow.Volume
	for _, s := range got.slots {
		require.Equal(t, uint64(3), s.Packets, "a flow that has a slot is counted there whole")
		slots.Add(s.Volume)
	}
	require.Len(t, got.slots, MinSlots, "of so many flows some find room as long as there is any")
	require.Equal(t, slots, got.Ledger.Entries[flow.ReasonAccounted])
	overflow := flow.Volume{Packets: sent.Packets - slots.Packets, Bytes: sent.Bytes - slots.Bytes}
	require.Equal(t, []Class{{Reason: flow.ReasonOverflow, IfIndex: loopback, Direction: flow.DirectionEgress, Volume: overflow}}, got.Classes)
}

// More ethertypes than class slots: what finds no room loses its interface, never its reason or direction.
func TestClassesBeyondTheirAreaAreCounted(t *testing.T) {
	k := load(t, Config{})
	pin(t, 0)
	var sent flow.Volume
	for i := range 1000 {
		frame := make([]byte, 64)
		binary.BigEndian.PutUint16(frame[12:], uint16(0x9000+i))
		inject(t, k.objects.EgressL2, frame, nil)
		sent.Add(volumeOf(frame))
	}
	got := drain(t, k)
	require.Equal(t, sent, got.Ledger.Entries[flow.ReasonEtherType])
	require.Greater(t, len(got.Classes), 200, "class slots are used before the spare ones")
	homeless := 0
	for _, c := range got.Classes {
		require.Equal(t, flow.DirectionEgress, c.Direction)
		if c.IfIndex == 0 {
			homeless++
		}
	}
	require.Equal(t, 1, homeless)
}

// Every CPU counts at full speed while drains follow one another without a pause: nothing is lost, nothing is doubled.
func TestDrainLosesNothingUnderLoad(t *testing.T) {
	const perCPU = 400_000
	k := load(t, Config{Slots: 1024})
	cpus, err := onlineCPUs()
	require.NoError(t, err)
	var sent, took flow.Volume
	var running sync.WaitGroup
	var done atomic.Bool
	for _, cpu := range cpus {
		sent.Add(flow.Volume{Packets: perCPU, Bytes: perCPU * 60})
		running.Go(func() { floodFrom(t, k, cpu, perCPU) })
	}
	go func() { running.Wait(); done.Store(true) }()
	drains := 0
	for last := false; !last; drains++ {
		last = done.Load() // one more drain after the last packet
		var slots flow.Volume
		d, err := k.Drain(func(s *flow.Slot) { slots.Add(s.Volume) })
		require.NoError(t, err)
		requireClosed(t, d)
		require.Equal(t, slots, d.Ledger.Entries[flow.ReasonAccounted])
		took.Add(d.Ledger.Seen)
	}
	require.Equal(t, sent, took)
	require.Greater(t, drains, 20)
	t.Logf("%d packets on %d CPUs, %d drains", took.Packets, len(cpus), drains)
}

// floodFrom sends to 2,048 flows, shared by all CPUs: twice the slots of a region.
func floodFrom(t *testing.T, k *Kernel, cpu, packets int) {
	pin(t, cpu)
	frame := udpFrame(0x0a000001, 0x0a000002, 0, 53, 60)
	for i := range packets {
		binary.BigEndian.PutUint16(frame[34:], uint16(i%2048))
		if _, _, err := k.objects.IngressL2.Test(frame); err != nil {
			t.Errorf("run program: %v", err)
			return
		}
	}
}

// What is counted between the last drain and Stop is drained, nothing after Stop is counted.
func TestStopKeepsWhatWasCounted(t *testing.T) {
	k := load(t, Config{})
	pin(t, 0)
	frame := udpFrame(1, 2, 3, 4, 60)
	inject(t, k.objects.IngressL2, frame, nil)
	drain(t, k)
	inject(t, k.objects.IngressL2, frame, nil)
	require.NoError(t, k.Stop())
	inject(t, k.objects.IngressL2, frame, nil)
	require.Equal(t, volumeOf(frame), drain(t, k).Ledger.Seen)
	require.Zero(t, drain(t, k).Ledger.Seen)
}

// A failed barrier postpones, it does not lose: nothing is read, and the next drain takes all.
func TestFailedBarrierPostponesTheDrain(t *testing.T) {
	k := load(t, Config{})
	pin(t, 0)
	frame := udpFrame(1, 2, 3, 4, 60)
	inject(t, k.objects.IngressL2, frame, nil)
	working := k.barrier
	broken, err := newBarrier()
	require.NoError(t, err)
	require.NoError(t, broken.close())
	k.barrier = broken
	_, err = k.Drain(func(*flow.Slot) { t.Error("a slot was read while programs may write it") })
	require.ErrorContains(t, err, "wait for running programs")
	inject(t, k.objects.IngressL2, frame, nil)
	k.barrier = working
	got := drain(t, k)
	require.Equal(t, volumeOf(frame), got.Ledger.Seen)
	require.Equal(t, volumeOf(frame), drain(t, k).Ledger.Seen)
}

// A region half full asks for a drain, once.
func TestPressureIsAnnouncedAtHalf(t *testing.T) {
	k := load(t, Config{Slots: MinSlots})
	pin(t, 0)
	fill := func(from, to int) {
		for i := from; i < to; i++ {
			inject(t, k.objects.IngressL2, udpFrame(uint32(i), 2, 3, 4, 60), nil)
		}
	}
	fill(0, MinSlots/2-1)
	require.Empty(t, k.Pressure())
	fill(MinSlots/2-1, MinSlots) // not all of them find a slot
	awaitPressure(t, k)
	drain(t, k)
	require.Empty(t, k.Pressure(), "one wake-up for each region and flip")
	fill(0, MinSlots)
	awaitPressure(t, k)
}

func awaitPressure(t *testing.T, k *Kernel) {
	t.Helper()
	select {
	case <-k.Pressure():
	case <-time.After(5 * time.Second):
		t.Fatal("no wake-up")
	}
}

// CPUs that came online after loading have no region: their packets are counted all the same, by direction, in segments.
func TestLateCPUsAreCounted(t *testing.T) {
	const perCPU = 20_000
	cpus, err := onlineCPUs()
	require.NoError(t, err)
	k := load(t, Config{cpus: []int{maxCPUs - 1}})
	var running sync.WaitGroup
	for _, cpu := range cpus {
		running.Go(func() { floodFrom(t, k, cpu, perCPU) })
	}
	running.Wait()
	inject(t, k.objects.EgressL2, tcpFrame(16, 54+3000), skbContext{GSOSize: 300})
	got := drain(t, k)
	flood := flow.Volume{Packets: uint64(len(cpus)) * perCPU, Bytes: uint64(len(cpus)) * perCPU * 60}
	segments := flow.Volume{Packets: 10, Bytes: 3000 + 10*54}
	require.Equal(t, []Class{
		{Reason: flow.ReasonOverflow, Direction: flow.DirectionIngress, Volume: flood},
		{Reason: flow.ReasonOverflow, Direction: flow.DirectionEgress, Volume: segments},
	}, got.Classes)
	require.Equal(t, flood.Packets+10, got.LateCPU)
	require.Equal(t, flood.Bytes+segments.Bytes, got.Ledger.Seen.Bytes)
	require.Zero(t, drain(t, k).Ledger.Seen)
}

// A program that finds another one at work on its CPU says so: then plain adds would lose packets.
func TestReentryIsAMismatch(t *testing.T) {
	k := load(t, Config{cpus: []int{0}})
	pin(t, 0)
	k.regions.at(0, 0).header.BuffersSeen = 1
	inject(t, k.objects.IngressL2, udpFrame(1, 2, 3, 4, 60), nil)
	d, err := k.Drain(func(*flow.Slot) {})
	require.NoError(t, err)
	require.Equal(t, []Mismatch{{Identity: "buffers", Want: 2, Got: 1}, {Identity: "reentered", Want: 0, Got: 1}}, d.Mismatches)
}

// A sum that does not add up is seen, whichever it is.
func TestMismatchesAreSeen(t *testing.T) {
	for identity, spoil := range map[string]func(*bpfRegionHeader){
		"buffers": func(h *bpfRegionHeader) { h.BuffersSeen++ },
		"packets": func(h *bpfRegionHeader) { h.Packets++ },
		"bytes":   func(h *bpfRegionHeader) { h.Bytes-- },

		"samples_random": func(h *bpfRegionHeader) { h.Samples[packet.KindRandom].Selected++ },
		"samples_flow":   func(h *bpfRegionHeader) { h.Samples[packet.KindFlow].Emitted++ },
		"samples_first":  func(h *bpfRegionHeader) { h.Samples[packet.KindFirst].RateLimited++ },

		"samples_protocol": func(h *bpfRegionHeader) { h.Samples[packet.KindProtocol].RingFull++ },
	} {
		k := load(t, Config{cpus: []int{0}})
		pin(t, 0)
		inject(t, k.objects.IngressL2, udpFrame(1, 2, 3, 4, 60), nil)
		spoil(k.regions.at(0, 0).header)
		d, err := k.Drain(func(*flow.Slot) {})
		require.NoError(t, err)
		require.Len(t, d.Mismatches, 1)
		require.Equal(t, identity, d.Mismatches[0].Identity)
	}
}

// What a slot's counter of packets has lost by going round is in the ledger, and no defect.
func TestACounterThatWentRoundIsOverflow(t *testing.T) {
	k := load(t, Config{cpus: []int{0}})
	pin(t, 0)
	frame := udpFrame(1, 2, 3, 4, 60)
	inject(t, k.objects.IngressL2, frame, nil)
	r := k.regions.at(0, 0)
	r.slots[0].Packets = math.MaxUint32 // as after an hour of millions a second
	r.header.Packets = 2<<32 + math.MaxUint32
	inject(t, k.objects.IngressL2, frame, nil)
	inject(t, k.objects.IngressL2, frame, nil)
	got := drain(t, k)
	require.Len(t, got.slots, 1)
	require.Equal(t, flow.Volume{Packets: 1, Bytes: 3 * uint64(len(frame))}, got.slots[0].Volume)
	require.Equal(t, []Class{{Reason: flow.ReasonOverflow, Volume: flow.Volume{Packets: 3 << 32}}}, got.Classes)
	require.Equal(t, uint64(3<<32+1), got.Ledger.Seen.Packets)
}

// The last packet of a flow is dated to a tick, across drains of any age.
func TestSlotsEndAtTheirLastPacket(t *testing.T) {
	k := load(t, Config{cpus: []int{0}})
	pin(t, 0)
	frame := udpFrame(1, 2, 3, 4, 60)
	var sent [2][2]int64 // when each of two packets was sent: between these, ns since 1970
	for n := range sent {
		sent[n][0] = time.Now().UnixNano()
		inject(t, k.objects.IngressL2, frame, nil)
		sent[n][1] = time.Now().UnixNano()
		time.Sleep(100 * time.Millisecond)
	}
	got := drain(t, k).slots[0]
	off := k.clock.tick + int64(2*time.Millisecond)
	for n, stamp := range []int64{got.First, got.Last} {
		require.GreaterOrEqual(t, stamp, sent[n][0]-off)
		require.LessOrEqual(t, stamp, sent[n][1]+off)
	}
}

// A pressure ring that fails is not passed over in silence.
func TestFailedPressureRingIsReported(t *testing.T) {
	k := load(t, Config{})
	failed := errors.New("torn")
	k.failed.Store(&failed)
	_, err := k.Drain(func(*flow.Slot) {})
	require.ErrorIs(t, err, failed)
	drain(t, k)
}

// A flood of new flows reads the clock for some of them only: stamps stay in order, and none is off by a tick.
func TestFirstPacketsAreInOrder(t *testing.T) {
	k := load(t, Config{cpus: []int{0}})
	pin(t, 0)
	began := time.Now().UnixNano()
	for i := range uint32(8000) {
		inject(t, k.objects.IngressL2, udpFrame(i, 2, 3, 4, 60), nil)
	}
	ended := time.Now().UnixNano()
	slots := drain(t, k).slots // in the order of claims
	require.Greater(t, len(slots), 7900)
	for i := range slots[1:] {
		require.Less(t, slots[i].First, slots[i+1].First)
	}
	const skew = int64(time.Millisecond) // of the two clocks that are compared
	tick := k.clock.tick
	require.InDelta(t, began, slots[0].First, float64(tick+skew))
	last := slots[len(slots)-1].First
	require.LessOrEqual(t, last, ended+skew)
	require.Greater(t, last, ended-tick-skew)
}
