// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// flood is traffic from every CPU at once, at two interfaces and both directions in turn.
type flood struct {
	flows   int                           // that take turns; 0: see flow
	flow    func(packet uint64) benchStep // of the packets of one CPU; nil: flowNumber
	fresh   bool                          // flow never repeats, so it has to be asked all the time
	tcp     bool
	packets uint64        // at least, on all CPUs together
	drains  int           // at least
	pause   time.Duration // of each sender after a burst

	elephant bool // one place only
}

// flowNumber is a flow like any other.
func flowNumber(n uint64) benchStep {
	return benchStep{
		SrcAddr: bits.ReverseBytes32(0x0a000000 + uint32(n)), DstAddr: bits.ReverseBytes32(0xc0000201),
		SrcPort: bits.ReverseBytes16(uint16(1024 + n%60_000)), DstPort: bits.ReverseBytes16(443),
	}
}

func flowKey(n int, ifindex uint32) flow.Key {
	k := flow.Key{IfIndex: ifindex, SrcPort: uint16(1024 + n%60_000), DstPort: 443, Proto: unix.IPPROTO_UDP}
	copy(k.SrcAddr[12:], []byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
	copy(k.DstAddr[12:], []byte{192, 0, 2, 1})
	return k
}

// burstLength is small enough that a sender returns to user space, and so lets grace periods end, every millisecond.
const burstLength = 4096

// swarm is the senders of a flood.
type swarm struct {
	t       *testing.T
	ns      *testenv.NetNS
	places  []place
	drivers []*driver
	running sync.WaitGroup
}

func newSwarm(t *testing.T, k *Kernel, f *flood) *swarm {
	t.Helper()
	left, _ := testenv.Pair(t, testenv.PairConfig{})
	s := &swarm{t: t, ns: left.NetNS}
	for _, ifindex := range []int{loopback, left.Index} {
		for _, d := range []flow.Direction{flow.DirectionIngress, flow.DirectionEgress} {
			s.places = append(s.places, place{uint32(ifindex), d})
		}
	}
	if f.elephant {
		s.places = s.places[:1]
	}
	if f.flow == nil {
		f.flow = func(packet uint64) benchStep { return flowNumber(packet % uint64(f.flows)) }
	}
	for range k.cfg.cpus {
		d := newDriver(t, k, f.flow)
		d.tcp = f.tcp
		if f.flows > 0 && sequenceLength%f.flows == 0 {
			d.flows = f.flows
		}
		s.drivers = append(s.drivers, d)
	}
	return s
}

// start sends until done reports true to each sender, asked between bursts, and then sets what it returns.
func (s *swarm) start(k *Kernel, f *flood, done func(*driver) bool) (ended *atomic.Bool) {
	for i, cpu := range k.cfg.cpus {
		d := s.drivers[i]
		s.running.Go(func() {
			onCPU(s.t, s.ns, cpu, func() error { return s.send(f, d, done) })
		})
	}
	ended = &atomic.Bool{}
	go func() { s.running.Wait(); ended.Store(true) }()
	return ended
}

func (s *swarm) send(f *flood, d *driver, done func(*driver) bool) error {
	lengths := []int{60, 594, 1514} // as many as have no divisor in common with the places
	for round := 0; !done(d) && !s.t.Failed(); round++ {
		if f.fresh {
			d.renew(8 * burstLength) // more than a signal can make it
		}
		if err := d.burst(s.places[round%len(s.places)], burstLength, lengths[round%len(lengths)]); err != nil {
			return err
		}
		time.Sleep(f.pause)
	}
	return nil
}

func (s *swarm) sent() map[place]flow.Volume {
	sums := map[place]flow.Volume{}
	for _, d := range s.drivers {
		for p, v := range d.sent {
			addTo(sums, p, v)
		}
	}
	return sums
}

func (s *swarm) sentOf() map[sideKey]flow.Volume {
	sums := map[sideKey]flow.Volume{}
	for _, d := range s.drivers {
		for p, flows := range d.sentOf {
			for number, v := range flows {
				addTo(sums, sideKey{flowKey(number, p.ifindex), p.Direction}, v)
			}
		}
	}
	return sums
}

// run sends the flood and drains all the while.
func (f *flood) run(t *testing.T, k *Kernel, a *account) *swarm {
	t.Helper()
	s := newSwarm(t, k, f)
	share := f.packets / uint64(len(k.cfg.cpus))
	var drains atomic.Int64
	ended := s.start(k, f, func(d *driver) bool { return d.driven >= share && drains.Load() >= int64(f.drains) })
	for last := false; !last; drains.Add(1) {
		last = ended.Load() // one more drain after the last packet
		a.drain(t, k)
	}
	return s
}

// requireExact compares, for each interface and direction, and for each flow if all of them take turns.
func (s *swarm) requireExact(a *account) {
	s.t.Helper()
	require.Equal(s.t, s.sent(), a.places)
	if a.flows != nil {
		require.Equal(s.t, s.sentOf(), a.flows)
		require.Empty(s.t, a.overflow)
	}
}

// Ten million packets and more from all CPUs, and five hundred drains meanwhile: every flow is what was sent of it.
func TestTenMillionPacketsAreExactOverFiveHundredDrains(t *testing.T) {
	t.Parallel() // beside TestAStalledReaderLosesNothing, which mostly waits
	k := load(t, Config{})
	a := newAccount()
	a.flows = map[sideKey]flow.Volume{}
	f := flood{flows: 128, packets: 10_000_000, drains: 500}
	s := f.run(t, k, a)
	s.requireExact(a)
	require.GreaterOrEqual(t, a.drains, 500)
	t.Logf("%d packets on %d CPUs, %d drains", total(a.places).Packets, len(k.cfg.cpus), a.drains)
}

// One flow from all CPUs at once: it has a slot in every region, and these add up.
func TestAnElephantOnAllCPUsIsExact(t *testing.T) {
	t.Parallel()
	k := load(t, Config{})
	a := newAccount()
	a.flows = map[sideKey]flow.Volume{}
	f := flood{flows: 1, elephant: true, packets: 10_000_000, drains: 50}
	s := f.run(t, k, a)
	s.requireExact(a)
	require.Len(t, a.flows, 1)
	require.Equal(t, 1, a.fullest)
	t.Logf("%d packets, %d drains", total(a.places).Packets, a.drains)
}

// Far more flows than slots, from all CPUs, drained all the while: totals are exact for each interface and direction, and
// what found no slot is overflow of its interface and direction.
func TestTotalsAreExactUnderOverload(t *testing.T) {
	t.Parallel()
	const slots = 1024
	for _, c := range []struct {
		name  string
		flood flood
	}{
		{"10 times more flows than slots", flood{flows: 10 * slots}},
		{"100 times more flows than slots", flood{flows: 100 * slots}},
		{"a SYN flood from forged addresses", flood{fresh: true, tcp: true, flow: func(packet uint64) benchStep {
			random := uint32(packet) * 2654435761 // odd: no address comes twice
			return benchStep{SrcAddr: random, SrcPort: uint16(random >> 7), DstAddr: 0x010200c0, DstPort: 443 << 8 & 0xffff}
		}}},
		{"a scan of every port of a network", flood{fresh: true, tcp: true, flow: func(packet uint64) benchStep {
			return benchStep{SrcAddr: 0x010200c0, SrcPort: 50_000, DstAddr: 0x0a + uint32(packet>>16)<<8, DstPort: uint16(packet)}
		}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := load(t, Config{Slots: slots})
			a := newAccount()
			c.flood.packets, c.flood.drains = 2_000_000, 50
			s := c.flood.run(t, k, a)
			s.requireExact(a)
			require.Len(t, a.overflow, len(s.places), "every interface and direction has its overflow")
			require.Greater(t, a.fullest, slots*9/10, "slots are filled before flows overflow")
			if c.flood.fresh {
				require.Equal(t, uint64(1), a.largest, "every packet is a flow")
			}
			t.Logf("%d packets, %d drains, %.1f %% in overflow", total(a.places).Packets, a.drains,
				100*float64(total(a.overflow).Packets)/float64(total(a.places).Packets))
		})
	}
}

// Nobody drains or reads samples for ten seconds, with more flows than slots: nothing is lost, and a flow that has a slot has
// all of its packets there.
func TestAStalledReaderLosesNothing(t *testing.T) {
	t.Parallel()
	const slots, stall = 4096, 10 * time.Second
	k := load(t, Config{Slots: slots, Samples: true, RandomOneIn: 100, SnapLength: 64, MaxPerSecond: 1000})
	f := flood{flows: 8 * slots, pause: 5 * time.Millisecond}
	s := newSwarm(t, k, &f)
	s.start(k, &f, after(stall))
	s.running.Wait()

	a := newAccount()
	a.each = s.requireWhole
	a.drain(t, k)
	require.Equal(t, s.sent(), a.places)
	require.Len(t, a.overflow, len(s.places))
	require.Positive(t, a.samples[packet.KindRandom].RateLimited, "nobody grants credit while nobody reads")
	require.Len(t, read(t, k), int(a.samples[packet.KindRandom].Emitted))
	t.Logf("%d packets in %v, %d slots in use, %.1f %% in overflow, %+v", total(a.places).Packets, stall, a.fullest,
		100*float64(total(a.overflow).Packets)/float64(total(a.places).Packets), a.samples)

	stalled := a.samples[packet.KindRandom].Emitted
	a.each = nil
	ended := s.start(k, &f, after(time.Second))
	for last := false; !last; {
		last = ended.Load()
		a.drain(t, k)
		read(t, k)
	}
	require.Equal(t, s.sent(), a.places)
	require.Greater(t, a.samples[packet.KindRandom].Emitted, stalled, "samples come again")
}

func after(d time.Duration) func(*driver) bool {
	began := time.Now()
	return func(*driver) bool { return time.Since(began) > d }
}

// requireWhole wants a slot to be everything that one CPU sent of its flow; the first that is not is told.
func (s *swarm) requireWhole(slot *flow.Slot) {
	if s.t.Failed() {
		return
	}
	number := int(slot.SrcAddr[13])<<16 | int(slot.SrcAddr[14])<<8 | int(slot.SrcAddr[15])
	for _, d := range s.drivers {
		if d.sentOf[place{slot.IfIndex, slot.Direction}][number] == slot.Volume {
			return
		}
	}
	s.t.Errorf("flow %d has %+v, which no CPU has sent of it", number, slot)
}
