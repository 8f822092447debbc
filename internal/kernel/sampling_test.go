// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"bytes"
	"math"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
)

const unlimited = 10_000_000

func read(t *testing.T, k *Kernel) []packet.Sample {
	t.Helper()
	var all []packet.Sample
	n, err := k.ReadSamples(func(s *packet.Sample) {
		one := *s
		one.Data = bytes.Clone(s.Data)
		all = append(all, one)
	})
	require.NoError(t, err)
	require.Len(t, all, n)
	return all
}

// Samples are drawn 1 in N, independently: their number lies within the binomial bound, and the pools of what came out add
// up to every buffer seen, whatever was dropped in between.
func TestSamplesAreOneInN(t *testing.T) {
	const n, buffers = 10, 50_000
	k := load(t, Config{Samples: true, RandomOneIn: n, SnapLength: 64, MaxPerSecond: unlimited, Seed: [32]byte{1}})
	pin(t, 0)
	frame := udpFrame(1, 2, 3, 4, 60)
	pools, samples, chosenTwice := uint64(0), 0, 0
	for i := range buffers {
		inject(t, k.objects.EgressL2, frame, nil)
		if i%500 == 499 {
			for _, s := range read(t, k) {
				pools += s.Pool
				samples++
				if s.Pool == 1 {
					chosenTwice++
				}
			}
		}
	}
	// z = 3.29: two-sided alpha = 0.001
	require.InDelta(t, buffers/n, samples, 3.29*math.Sqrt(buffers*(1.0/n)*(1-1.0/n)))
	require.InDelta(t, samples/n, chosenTwice, 3.29*math.Sqrt(float64(samples)*(1.0/n)*(1-1.0/n)), "gaps are geometric: one in N is 0")
	got := drain(t, k)
	require.Equal(t, Samples{{Selected: uint64(samples), Emitted: uint64(samples)}}, got.Samples)
	require.LessOrEqual(t, pools, uint64(buffers))
	require.Greater(t, pools, uint64(buffers-200), "all but the buffers after the last sample")
}

func TestSampleCarriesTheFrameAndHowItWasTaken(t *testing.T) {
	k := load(t, Config{Samples: true, RandomOneIn: 1, SnapLength: 50, MaxPerSecond: unlimited, injected: true})
	pin(t, 0)
	long, short := tcpFrame(2, 54+900), tcpFrame(16, 54)[:48]
	inject(t, k.objects.EgressL2, long, skbContext{GSOSize: 300, GSOSegs: 3})
	inject(t, k.objects.IngressL3, short[14:], nil)
	got := read(t, k)
	require.Len(t, got, 2)
	require.WithinDuration(t, time.Now(), time.Unix(0, got[0].Time), 5*time.Second)
	for i := range got {
		got[i].Time = 0
	}
	require.Equal(t, packet.Sample{
		IfIndex: loopback, Direction: flow.DirectionEgress, Reasons: packet.ReasonRandom, Pool: 1,
		Segments: 3, WireLen: 3*54 + 900, Data: long[:50],
	}, got[0])
	require.Equal(t, packet.Sample{
		IfIndex: loopback, Direction: flow.DirectionIngress, Reasons: packet.ReasonRandom, Pool: 1,
		Segments: 1, WireLen: 34, L3: true, Data: short[14:],
	}, got[1])
}

// Over the budget samples are counted and left out; the next one that comes out stands for them.
func TestSamplesOverTheBudgetAreCounted(t *testing.T) {
	k := load(t, Config{Samples: true, RandomOneIn: 1, SnapLength: 64, MaxPerSecond: 10, cpus: []int{0}})
	pin(t, 0)
	frame := udpFrame(1, 2, 3, 4, 60)
	for range 100 {
		inject(t, k.objects.EgressL2, frame, nil)
	}
	require.Len(t, read(t, k), 1, "a tenth of a second's worth")
	got := drain(t, k).Samples
	require.Equal(t, Samples{{Selected: 100, Emitted: 1, RateLimited: 99}}, got)
	time.Sleep(150 * time.Millisecond)
	read(t, k) // grants; as many as before are expected, so any of the next ones may come out
	var after []packet.Sample
	for n := uint64(100); len(after) == 0; n++ {
		inject(t, k.objects.EgressL2, frame, nil)
		if after = read(t, k); len(after) == 1 {
			require.Equal(t, n, after[0].Pool, "itself and all that were left out")
		}
	}
}

// A reader that does not come costs samples, never packets, and each one is counted.
func TestFullRingIsCounted(t *testing.T) {
	const buffers = 2000
	k := load(t, Config{Samples: true, RandomOneIn: 1, SnapLength: 1500, MaxPerSecond: unlimited, ring: minRing, cpus: []int{0}})
	pin(t, 0)
	frame := udpFrame(1, 2, 3, 4, 1500)
	for range buffers {
		inject(t, k.objects.EgressL2, frame, nil)
	}
	got := drain(t, k)
	require.Positive(t, got.Samples[packet.KindRandom].RingFull)
	require.Equal(t, uint64(buffers), got.Ledger.Seen.Packets)
	require.Len(t, read(t, k), int(got.Samples[packet.KindRandom].Emitted))
}

// The ring has room for what the budget allows until it is read.
func TestTheRingHasRoomForTheBudget(t *testing.T) {
	const second = 20_000
	k := load(t, Config{Samples: true, RandomOneIn: 1, SnapLength: 1500, MaxPerSecond: second, cpus: []int{0}})
	pin(t, 0)
	frame := udpFrame(1, 2, 3, 4, 1500)
	for range second / 10 { // what is granted at first
		inject(t, k.objects.EgressL2, frame, nil)
	}
	got := drain(t, k).Samples[packet.KindRandom]
	require.Zero(t, got.RingFull)
	require.Greater(t, got.Emitted*1500, uint64(minRing), "more than the least ring holds")
	require.Len(t, read(t, k), int(got.Emitted))
}

func TestSizeOfTheRing(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  Config
		want uint32
	}{
		{"default settings", sampled(2), 1 << 20},
		{"all kinds at the default rate", Config{RandomOneIn: 1, FlowOneIn: 1, FirstPerFlow: 1, Protocols: allProtocols, SnapLength: 256, MaxPerSecond: 100}, 1 << 20},
		{"rate", Config{RandomOneIn: 1, SnapLength: 256, MaxPerSecond: 10_000}, 4 << 20},
		{"rates of two kinds", Config{RandomOneIn: 1, FirstPerFlow: 1, SnapLength: 256, MaxPerSecond: 10_000}, 8 << 20},
		{"messages are longer", Config{Protocols: ProtocolDNS, SnapLength: 64, MaxPerSecond: 1_000}, 4 << 20},
		{"snap length", Config{Protocols: ProtocolDNS, SnapLength: MaxSnapLength, MaxPerSecond: 1_000}, 16 << 20},
		{"the most", Config{RandomOneIn: 1, SnapLength: MaxSnapLength, MaxPerSecond: 1_000_000}, 16 << 20},
	} {
		require.Equal(t, c.want, sampleRing(c.cfg), c.name)
	}
}

func TestSkipsAreGeometric(t *testing.T) {
	for _, n := range []int{1, 10, 1000} {
		k := load(t, Config{Samples: true, RandomOneIn: n, SnapLength: 64, MaxPerSecond: 1, Seed: [32]byte{7}})
		const draws = 200_000
		sum, short := 0.0, 0
		for range draws {
			skip := k.sampling.skip()
			sum += float64(skip)
			if int(skip) < n {
				short++
			}
		}
		p := 1 / float64(n)
		mean, sd := (1-p)/p, math.Sqrt(1-p)/p
		require.InDelta(t, mean, sum/draws, 3.29*sd/math.Sqrt(draws)+1e-9)
		within := 1 - math.Pow(1-p, float64(n))
		require.InDelta(t, within, float64(short)/draws, 3.29*math.Sqrt(within*(1-within)/draws)+1e-9)
	}
}

func TestUsedSkipsAreReplaced(t *testing.T) {
	k := load(t, Config{Samples: true, RandomOneIn: 1000, SnapLength: 64, MaxPerSecond: 1, cpus: []int{0}})
	one := &k.sampling.samplers[0]
	before := one.Skips
	one.Cursor += 3
	k.sampling.refresh(time.Now())
	changed := 0
	for i := range one.Skips {
		if one.Skips[i] != before[i] {
			changed++
			require.Less(t, i, 3)
		}
	}
	require.Positive(t, changed)
	before = one.Skips
	one.Cursor += uint32(len(one.Skips)) * 5 // a slow reader: more were used than there are
	k.sampling.refresh(time.Now())
	changed = 0
	for i := range one.Skips {
		if one.Skips[i] != before[i] {
			changed++
		}
	}
	require.Greater(t, changed, len(one.Skips)*9/10, "all are drawn anew")
}

func TestNoSamplingCostsNoRing(t *testing.T) {
	with := load(t, Config{Samples: true, RandomOneIn: 10, SnapLength: 64, MaxPerSecond: 1})
	without := load(t, Config{Samples: false, RandomOneIn: 10, SnapLength: 64, MaxPerSecond: 1})
	require.Nil(t, without.sampling)
	require.Greater(t, with.MemoryBytes(), without.MemoryBytes()+1<<20, "the ring")
	require.Greater(t, without.MemoryBytes(), 2*len(without.cfg.cpus)*regionSize(DefaultSlots, false))
	require.Equal(t, os.Getpagesize(), int(without.objects.Samples.MaxEntries()))
	require.Empty(t, read(t, without))
}
