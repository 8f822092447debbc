// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"fmt"
	"runtime"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// place is where packets are counted: a hook of an interface.
type place struct {
	ifindex uint32
	flow.Direction
}

// driver sends packets of many flows at full speed from one CPU, through the program that drives the benchmarks, and knows
// what it sent: the driving program counts, before the program under test sees the packet.
type driver struct {
	programs struct {
		Drive     *ebpf.Program `ebpf:"drive_ipv4"`
		UnderTest *ebpf.Map     `ebpf:"under_test"`
		Sequence  *ebpf.Map     `ebpf:"sequence"`
		BSS       *ebpf.Map     `ebpf:".bss"` // as a map: a variable would stay mapped after the test
	}
	observers [2]*ebpf.Program // by direction
	under     *ebpf.Program    // the one under test
	steps     []benchStep      // shared with the driving program
	flow      func(packet uint64) benchStep
	tcp       bool
	prepared  uint64 // packets whose flows have been written to steps
	driven    uint64 // packets so far
	sent      map[place]flow.Volume
	flows     int // that take turns: flow(i) = flow(i % flows), a divisor of sequenceLength; 0: sentOf is not wanted
	sentOf    map[place][]flow.Volume
}

// newDriver makes a driver for one CPU. Packet number i belongs to flow(i); after sequenceLength packets that starts again,
// unless renew is called.
func newDriver(tb testing.TB, k *Kernel, flowOf func(packet uint64) benchStep) *driver {
	tb.Helper()
	spec, err := loadBench()
	require.NoError(tb, err)
	require.Equal(tb, []uint32{0, 8}, []uint32{spec.Variables["failures"].Offset, spec.Variables["driven"].Offset})
	d := &driver{
		observers: [2]*ebpf.Program{k.objects.IngressL2, k.objects.EgressL2}, flow: flowOf,
		sent: map[place]flow.Volume{}, sentOf: map[place][]flow.Volume{},
	}
	require.NoError(tb, spec.LoadAndAssign(&d.programs, nil))
	memory, err := unix.Mmap(d.programs.Sequence.FD(), 0, sequenceLength*int(unsafe.Sizeof(benchStep{})),
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	require.NoError(tb, err)
	d.steps = unsafe.Slice((*benchStep)(unsafe.Pointer(&memory[0])), sequenceLength)
	tb.Cleanup(func() {
		require.NoError(tb, unix.Munmap(memory))
		for _, c := range []interface{ Close() error }{d.programs.Drive, d.programs.UnderTest, d.programs.Sequence, d.programs.BSS} {
			require.NoError(tb, c.Close())
		}
	})
	d.renew(sequenceLength)
	return d
}

// renew prepares the flows of the next n packets.
func (d *driver) renew(n uint64) {
	for d.prepared = max(d.prepared, d.driven); d.prepared < d.driven+n; d.prepared++ {
		d.steps[d.prepared%sequenceLength] = d.flow(d.prepared)
	}
}

// placeContext is struct __sk_buff up to ifindex. The interface must be in the namespace of the thread.
type placeContext struct {
	_       [40]byte
	IfIndex uint32
}

// burst sends n packets of one length at one place, or more if a signal makes the library start again: sent knows.
func (d *driver) burst(p place, n, length int) error {
	opts := &ebpf.RunOptions{Data: udpFrame(0, 0, 0, 0, length), Repeat: uint32(n), Context: placeContext{IfIndex: p.ifindex}}
	if d.tcp {
		opts.Data = tcpFrame(tcpSYN, length)
	}
	driven, err := d.run(p.Direction, opts)
	if err != nil {
		return err
	}
	d.add(p, driven, uint64(length))
	return nil
}

// run drives packets in one direction and returns how many it has driven since its beginning.
func (d *driver) run(direction flow.Direction, opts *ebpf.RunOptions) (driven uint64, err error) {
	if observer := d.observers[direction]; d.under != observer {
		if err := d.programs.UnderTest.Put(uint32(0), observer); err != nil {
			return 0, fmt.Errorf("choose the program under test: %w", err)
		}
		d.under = observer
	}
	if _, err := d.programs.Drive.Run(opts); err != nil {
		return 0, fmt.Errorf("drive %d packets: %w", opts.Repeat, err)
	}
	var now struct{ Failures, Driven uint64 }
	if err := d.programs.BSS.Lookup(uint32(0), &now); err != nil {
		return 0, fmt.Errorf("read how many were driven: %w", err)
	}
	if now.Failures != 0 {
		return 0, fmt.Errorf("%d packets did not reach the program under test", now.Failures)
	}
	return now.Driven, nil
}

// add notes the packets from d.driven up to driven.
func (d *driver) add(p place, driven, length uint64) {
	n := driven - d.driven
	addTo(d.sent, p, flow.Volume{Packets: n, Bytes: n * length})
	if d.flows > 0 && d.sentOf[p] == nil {
		d.sentOf[p] = make([]flow.Volume, d.flows)
	}
	before := func(packet, number uint64) uint64 { return (packet + uint64(d.flows) - 1 - number) / uint64(d.flows) }
	for number := range d.flows {
		n := before(driven, uint64(number)) - before(d.driven, uint64(number))
		d.sentOf[p][number].Add(flow.Volume{Packets: n, Bytes: n * length})
	}
	d.driven = driven
}

const tcpSYN = 0x02

// onCPU runs f on one CPU, in a namespace. The thread ends with it.
func onCPU(tb testing.TB, ns *testenv.NetNS, cpu int, f func() error) {
	runtime.LockOSThread() // and never unlock: a changed thread must not be used again
	var one unix.CPUSet
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		tb.Errorf("pin to CPU %d: %v", cpu, err)
		return
	}
	ns.Do(func() {
		if err := f(); err != nil {
			tb.Errorf("on CPU %d: %v", cpu, err)
		}
	})
}

// account adds up what drains took.
type account struct {
	places   map[place]flow.Volume
	overflow map[place]flow.Volume
	flows    map[sideKey]flow.Volume // nil: not wanted
	each     func(*flow.Slot)        // nil: not wanted
	samples  Samples
	fullest  int    // slots in use in the fullest region of all drains
	largest  uint64 // packets of one slot
	drains   int
}

func newAccount() *account {
	return &account{places: map[place]flow.Volume{}, overflow: map[place]flow.Volume{}}
}

// drain takes what there is and checks every identity. It may run beside senders, so a failure does not end the test.
func (a *account) drain(tb testing.TB, k *Kernel) *Drained {
	tb.Helper()
	var slots flow.Volume
	d, err := k.Drain(func(s *flow.Slot) {
		slots.Add(s.Volume)
		a.largest = max(a.largest, s.Packets)
		addTo(a.places, place{s.IfIndex, s.Direction}, s.Volume)
		if a.each != nil {
			a.each(s)
		}
		if a.flows != nil {
			addTo(a.flows, sideKey{s.Key, s.Direction}, s.Volume)
		}
	})
	if err != nil {
		tb.Errorf("drain: %v", err)
		return &Drained{}
	}
	a.drains++
	var sum flow.Volume
	for _, entry := range d.Ledger.Entries {
		sum.Add(entry)
	}
	if len(d.Mismatches) > 0 || sum != d.Ledger.Seen || slots != d.Ledger.Entries[flow.ReasonAccounted] {
		tb.Errorf("drain %d: identities do not hold: %+v, seen %v, entries %v, slots %v", a.drains, d.Mismatches, d.Ledger.Seen, sum, slots)
	}
	for _, c := range d.Classes {
		addTo(a.places, place{c.IfIndex, c.Direction}, c.Volume)
		if c.Reason == flow.ReasonOverflow {
			addTo(a.overflow, place{c.IfIndex, c.Direction}, c.Volume)
		}
	}
	a.samples.Add(&d.Samples)
	a.fullest = max(a.fullest, d.Slots)
	return d
}

func addTo[K comparable](sums map[K]flow.Volume, key K, v flow.Volume) {
	sum := sums[key]
	sum.Add(v)
	sums[key] = sum
}

func total(sums map[place]flow.Volume) (sum flow.Volume) {
	for _, v := range sums {
		sum.Add(v)
	}
	return sum
}
