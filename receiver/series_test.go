// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// told notes that the next consumer took the points of all.
func told(a *aggregator, all []*series, round uint64, now int64) {
	for _, s := range all {
		s.offered = s.volume
		s.settle(a.delta, round, now)
	}
}

// collectTold collects and notes that the next consumer took it.
func (a *aggregator) collectTold(now int64) []*series {
	all, round := a.collect(now)
	told(a, all, round, now)
	return all
}

// ledgerOf follows collections as a backend would: it remembers the last point of every series, a restarted one apart.
type ledgerOf struct {
	t    *testing.T
	last map[string]point
}

type point struct {
	start, time int64
	volume      flow.Volume
	before      flow.Volume // of the series with this identity that ended
}

func (l *ledgerOf) take(all []*series, now int64) {
	identities := map[seriesKey]bool{}
	for _, s := range all {
		require.False(l.t, identities[s.key], "two points of one identity")
		identities[s.key] = true
		require.Positive(l.t, s.start)
		require.LessOrEqual(l.t, s.start, now)
		id := fmt.Sprint(s.key)
		p, ok := l.last[id]
		switch {
		case !ok:
		case p.start == s.start:
			require.GreaterOrEqual(l.t, s.volume.Packets, p.volume.Packets, "a cumulative sum decreased")
			require.GreaterOrEqual(l.t, s.volume.Bytes, p.volume.Bytes, "a cumulative sum decreased")
		default:
			require.GreaterOrEqual(l.t, s.start, p.time, "a restarted series overlaps its predecessor")
			p.before.Add(p.volume)
		}
		l.last[id] = point{start: s.start, time: now, volume: s.volume, before: p.before}
	}
}

func (l *ledgerOf) total() (v flow.Volume) {
	for _, p := range l.last {
		v.Add(p.volume)
		v.Add(p.before)
	}
	return v
}

// Whatever the cardinality, whenever deliveries fail: what was delivered last for every series adds up to what was added.
func TestTotalsArePreserved(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			limit := 2 + r.IntN(30)
			a := newAggregator(hasDestinationPort, limit, 50, 1000)
			backend := ledgerOf{t, map[string]point{}}
			var want flow.Volume
			now := int64(1000)
			collect := func(deliver bool) {
				all, round := a.collect(now)
				require.LessOrEqual(t, len(all), limit)
				if deliver {
					backend.take(all, now)
					told(a, all, round, now)
				}
			}
			for range 300 {
				for range r.IntN(20) {
					now++
					v := flow.Volume{Packets: 1 + r.Uint64N(5), Bytes: 60 + r.Uint64N(9000)}
					k := seriesKey{attrs: hasDestinationPort, dstPort: uint16(r.ExpFloat64() * 12)}
					want.Add(v)
					a.add(&k, v, now)
				}
				now += 1 + r.Int64N(40)
				collect(r.IntN(4) > 0)
			}
			now++
			collect(true)
			assert.Equal(t, want, backend.total())
		})
	}
}

func keyOf(port uint16) *seriesKey { return &seriesKey{attrs: hasDestinationPort, dstPort: port} }

func TestSeriesWithoutTrafficIsDroppedAndRestarts(t *testing.T) {
	a := newAggregator(hasDestinationPort, 10, 100, 1000)
	one := flow.Volume{Packets: 1, Bytes: 60}
	a.add(keyOf(1), one, 1010)
	all := a.collectTold(1020)
	require.Len(t, all, 1)
	assert.Equal(t, int64(1000), all[0].start)

	all = a.collectTold(1109)
	require.Len(t, all, 1, "99 ns without traffic")
	all = a.collectTold(1110)
	assert.Empty(t, all, "100 ns without traffic")

	a.add(keyOf(1), one, 1200)
	all = a.collectTold(1210)
	require.Len(t, all, 1)
	assert.Equal(t, int64(1110), all[0].start, "zero at the collection before")
	assert.Equal(t, one, all[0].volume)
}

func TestIdleSeriesGoBeforeAnythingOverflows(t *testing.T) {
	a := newAggregator(hasDestinationPort, 4, 1000, 1)
	one := flow.Volume{Packets: 1, Bytes: 60}
	for port := range uint16(3) {
		a.add(keyOf(port), one, 10+int64(port))
	}
	a.collectTold(20)
	a.add(keyOf(6), one, 22) // nobody has been quiet for a whole collection
	all := a.collectTold(25)
	require.Len(t, all, 4)
	require.Equal(t, seriesKey{attrs: isOverflow}, all[3].key)
	a.add(keyOf(0), one, 30)
	a.add(keyOf(7), one, 31) // 1 is idle for longest
	a.add(keyOf(8), one, 32) // then 2
	a.add(keyOf(9), one, 33) // nobody
	all = a.collectTold(40)
	require.Len(t, all, 4)
	assert.Equal(t, []uint16{0, 7, 8}, []uint16{all[0].key.dstPort, all[1].key.dstPort, all[2].key.dstPort})
	assert.Equal(t, seriesKey{attrs: isOverflow}, all[3].key)
	assert.Equal(t, flow.Volume{Packets: 2, Bytes: 120}, all[3].volume)
	assert.Equal(t, 4, a.len())
}

// Each drain brings the keys in another order: who comes late must not lose its series to who comes early.
func TestSeriesWithTrafficInEveryCollectionNeverRestart(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	a := newAggregator(hasDestinationPort, 11, 1000, 1)
	starts := map[uint16]int64{}
	for now := int64(10); now < 1000; now += 10 {
		for _, port := range r.Perm(15) {
			a.add(keyOf(uint16(port)), flow.Volume{Packets: 1, Bytes: 60}, now)
		}
		all := a.collectTold(now)
		require.Len(t, all, 11)
		for _, s := range all[:10] {
			if start, ok := starts[s.key.dstPort]; ok {
				require.Equal(t, start, s.start, "restarted")
			}
			starts[s.key.dstPort] = s.start
		}
	}
	assert.Len(t, starts, 10)
}

// Whatever the cardinality, whenever deliveries fail: a backend that keeps the last point of every series knows what is
// there now.
func TestWhatIsNoLongerThereIsSaidToBeZero(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 2))
			a := newAggregator(hasDestinationPort, 2+r.IntN(10), 50, 1000)
			backend := map[seriesKey]uint64{}
			for now := int64(1001); now < 6000; now += 1 + r.Int64N(40) {
				a.zero()
				n := r.Uint64N(8)
				for range n {
					a.add(keyOf(uint16(r.IntN(20))), flow.Volume{Packets: 1}, now)
				}
				all, round := a.collect(now)
				if r.IntN(4) == 0 {
					continue // refused
				}
				told(a, all, round, now)
				for _, s := range all {
					backend[s.key] = s.volume.Packets
				}
				var known uint64
				for _, packets := range backend {
					known += packets
				}
				require.Equal(t, n, known)
			}
		})
	}
}

func TestUndeliveredSeriesStays(t *testing.T) {
	a := newAggregator(hasDestinationPort, 2, 10, 1)
	one := flow.Volume{Packets: 1, Bytes: 60}
	a.add(keyOf(1), one, 10)
	a.collect(20) // refused
	a.add(keyOf(2), one, 30)
	all, _ := a.collect(1000)
	require.Len(t, all, 2)
	assert.Equal(t, uint16(1), all[0].key.dstPort, "its count has not reached anybody yet")
	assert.Equal(t, isOverflow, all[1].key.attrs)
}
