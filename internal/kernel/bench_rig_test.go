// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
)

// _test.go in the names of what this makes keeps it out of every build.
//
//go:generate go tool -modfile=../tools/go.mod bpf2go -tags linux -target bpfel -cc clang-19 -strip llvm-strip-19 bench ../../bpf/bench/bench.bpf.c -- -O2 -mcpu=v3 -Wall -Wextra -Wpadded -Werror -I../../bpf -I../../bpf/headers -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu

const (
	sequenceLength = 131_072 // SEQUENCE of bpf/bench/bench.bpf.c
	flowsMax       = 131_072 // FLOWS_MAX
	frameLength    = 100
)

// rig drives programs with one workload, on one CPU.
type rig struct {
	objects  benchObjects
	driver   *ebpf.Program
	frame    []byte
	sequence []benchStep
	burst    int    // packets until a drain is due
	taken    uint64 // packets driven when take was last called

	keys   [][6]uint64 // of batches: KEY_WORDS
	values []benchReferenceFlow
}

func newRig(b *testing.B, w *workload) *rig {
	b.Helper()
	pin(b, 0)
	r := &rig{keys: make([][6]uint64, 4096), values: make([]benchReferenceFlow, 4096)}
	require.NoError(b, loadBenchObjects(&r.objects, nil))
	b.Cleanup(func() { require.NoError(b, r.objects.Close()) })
	r.driver = r.objects.DriveIpv4
	r.frame = udpFrame(0x0a000001, 0x0a000002, 1, 2, frameLength)
	if w.ipv6 {
		r.driver = r.objects.DriveIpv6
		r.frame = append(udp6Frame(1, 2, 1, 2), make([]byte, frameLength)...)[:frameLength]
	}
	r.fill(b, w)
	r.burst = r.untilPressure(w)
	return r
}

// fill writes the sequence: its flows differ in addresses and ports, and are the same in every run.
func (r *rig) fill(b *testing.B, w *workload) {
	b.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	flows := make([]benchStep, max(w.flows, 1))
	for i := range flows {
		flows[i] = benchStep{
			SrcAddr: 0x0a + uint32(i)<<8, // 10.0.0.0/8, in network byte order
			DstAddr: random.Uint32(),
			SrcPort: uint16(random.Uint32()),
			DstPort: uint16(random.Uint32()),
		}
	}
	draw := uniform
	if w.draw != nil {
		draw = w.draw
	}
	next := draw(random, len(flows))
	r.sequence = make([]benchStep, sequenceLength)
	for i := range r.sequence {
		r.sequence[i] = flows[next()]
	}
	memory, err := unix.Mmap(r.objects.Sequence.FD(), 0, sequenceLength*int(unsafe.Sizeof(benchStep{})),
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	require.NoError(b, err)
	copy(unsafe.Slice((*benchStep)(unsafe.Pointer(&memory[0])), sequenceLength), r.sequence)
	require.NoError(b, unix.Munmap(memory))
}

// untilPressure is the number of packets until a drain is due: when the first flows of the sequence have filled half of a
// region.
func (r *rig) untilPressure(w *workload) int {
	if w.fits() || w.full {
		return driveBurst
	}
	if w.each {
		return sampleBurst // or the ring would be full
	}
	seen := map[benchStep]bool{}
	for i, s := range r.sequence {
		if seen[s] = true; len(seen) == w.slots()/2 {
			return i
		}
	}
	return driveBurst
}

func (r *rig) use(b *testing.B, s *subject) {
	b.Helper()
	require.NoError(b, r.objects.UnderTest.Put(uint32(0), s.program))
}

// drive sends n packets, or more if a signal makes the library start again, and returns the time it took and how many
// they were.
func (r *rig) drive(b *testing.B, n int) (time.Duration, uint64) {
	b.Helper()
	before := r.count(b, r.objects.Driven)
	opts := &ebpf.RunOptions{Data: r.frame, Repeat: uint32(n)}
	spent := cpuTime(b, func() {
		_, err := r.driver.Run(opts)
		require.NoError(b, err)
	})
	require.Zero(b, r.count(b, r.objects.Failures))
	return spent, r.count(b, r.objects.Driven) - before
}

func (r *rig) count(b *testing.B, v *ebpf.Variable) (n uint64) {
	b.Helper()
	require.NoError(b, v.Get(&n))
	return n
}

// truth is what was sent.
type truth struct{ packets, bytes uint64 }

// take returns what was driven since it was last called.
func (r *rig) take() truth {
	var driven uint64
	if err := r.objects.Driven.Get(&driven); err != nil {
		panic(err)
	}
	n := driven - r.taken
	r.taken = driven
	return truth{n, n * frameLength}
}

// subject is a program under test and what it has counted.
type subject struct {
	name    string
	program *ebpf.Program
	take    func(b *testing.B) // adds to packets and bytes what was counted since the last call; nil: it counts nothing
	forget  func(b *testing.B) // empties the table after take; nil: it needs not

	kernel         *Kernel      // ours
	packets, bytes uint64       // taken and not yet compared
	last           int          // flows of the last take
	samples        SampleCounts // random
	messages       SampleCounts // of protocols
}

// fill is what lies in the active buffer of ours: slots in use and packets that found none.
func (s *subject) fill() (slots, overflow uint64) {
	if s.kernel == nil {
		return 0, 0
	}
	r := s.kernel.regions.at(0, s.kernel.drain.active)
	for i := range r.classes {
		if r.classes[i].Packets > 0 && flow.Reason(r.classes[i].SrcPort) == flow.ReasonOverflow {
			overflow += uint64(r.classes[i].Packets)
		}
	}
	return uint64(r.header.Used), overflow
}

// settle compares what was counted with what was sent: a broken program must not be measured.
func (s *subject) settle(b *testing.B, sent truth) {
	b.Helper()
	if s.take == nil {
		return
	}
	s.take(b)
	counted := truth{s.packets, s.bytes}
	require.Equal(b, sent, counted, "%s counted what was sent", s.name)
	s.packets, s.bytes = 0, 0
}

// flush makes room before a burst, off the clock.
func (s *subject) flush(b *testing.B, w *workload, r *rig) {
	b.Helper()
	switch {
	case s.kernel != nil && !w.fits() && !w.full:
		s.take(b)
	case s.forget != nil && w.fresh:
		s.settle(b, r.take())
		s.forget(b)
	}
}

func (r *rig) subjects(b *testing.B, w *workload) []*subject {
	b.Helper()
	plain := Config{Slots: w.slots(), cpus: []int{0}}
	everything := plain
	everything.Tunnels, everything.Quotes = true, true
	s := []*subject{
		{name: "noop", program: r.objects.Noop},
		r.ours(load(b, plain), "ours"),
		r.ours(load(b, everything), "everything"),
		r.sampled(b, w, plain),
		{name: "noop again", program: r.objects.Noop},
		r.reference(),
		r.percpu(),
	}
	for _, path := range candidates() {
		s = append(s, r.ours(loadCandidate(b, path, plain), path))
	}
	return s
}

// sampled is ours with samples, which are read off the clock.
func (r *rig) sampled(b *testing.B, w *workload, cfg Config) *subject {
	b.Helper()
	cfg.Samples, cfg.RandomOneIn, cfg.SnapLength, cfg.MaxPerSecond = true, 1000, 256, 100
	if !w.each {
		return r.ours(load(b, cfg), "sampled")
	}
	cfg.RandomOneIn, cfg.SnapLength, cfg.MaxPerSecond, cfg.ring = 1, sampleSnap, 100*unlimited, minRing
	k := load(b, cfg)
	s := r.ours(k, "sampled")
	take := s.take
	s.take = func(b *testing.B) {
		b.Helper()
		take(b)
		if s.samples.Selected <= sampleBurst { // more fill the ring, before the clock starts
			require.Equal(b, s.samples.Selected, s.samples.Emitted)
		}
		_, err := k.ReadSamples(func(*packet.Sample) {})
		require.NoError(b, err)
	}
	return s
}

// candidates are objects made from changed sources, to be compared with the committed one in the same rounds. Structs that
// user space shares must be the same.
func candidates() []string { return filepath.SplitList(os.Getenv("EBPFPACKETS_BENCH_OBJECTS")) }

func loadCandidate(b *testing.B, path string, cfg Config) *Kernel {
	b.Helper()
	committed := _PlainBytes
	defer func() { _PlainBytes = committed }()
	var err error
	_PlainBytes, err = os.ReadFile(path)
	require.NoError(b, err)
	return load(b, cfg)
}

func (r *rig) ours(k *Kernel, name string) *subject {
	s := &subject{name: name, program: k.objects.IngressL2, kernel: k}
	s.take = func(b *testing.B) {
		b.Helper()
		s.last = 0
		d, err := k.Drain(func(*flow.Slot) { s.last++ })
		require.NoError(b, err)
		require.Empty(b, d.Mismatches)
		var sum flow.Volume
		for _, e := range d.Ledger.Entries {
			sum.Add(e)
		}
		require.Equal(b, d.Ledger.Seen, sum)
		s.packets += sum.Packets
		s.bytes += sum.Bytes
		s.samples, s.messages = d.Samples[packet.KindRandom], d.Samples[packet.KindProtocol]
	}
	return s
}

func (r *rig) reference() *subject {
	s := &subject{name: "reference", program: r.objects.Reference}
	var before truth
	s.take = func(b *testing.B) {
		b.Helper()
		var sum truth
		r.walk(b, r.objects.ReferenceFlows.BatchLookup, func(v *benchReferenceFlow) {
			sum.packets += v.Packets
			sum.bytes += v.Bytes
		})
		s.packets += sum.packets - before.packets
		s.bytes += sum.bytes - before.bytes
		before = sum
	}
	s.forget = func(b *testing.B) {
		b.Helper()
		r.takeReference(b)
		before = truth{}
	}
	return s
}

// takeReference empties the reference's map the fastest way there is.
func (r *rig) takeReference(b *testing.B) (flows int, packets uint64) {
	b.Helper()
	return r.sum(b, r.objects.ReferenceFlows.BatchLookupAndDelete)
}

func (r *rig) sum(b *testing.B, next batch) (flows int, packets uint64) {
	b.Helper()
	r.walk(b, next, func(v *benchReferenceFlow) {
		flows++
		packets += v.Packets
	})
	return flows, packets
}

// drainOurs returns the ns of CPU that draining so many flows took.
func (r *rig) drainOurs(b *testing.B, s *subject, flows int) float64 {
	b.Helper()
	if flows > 0 {
		r.use(b, s)
		r.drive(b, driveBurst)
	}
	spent := cpuTime(b, func() { s.take(b) })
	sent, counted := r.take(), truth{s.packets, s.bytes}
	require.Equal(b, sent, counted)
	require.InDelta(b, flows, s.last, 0.002*float64(flows)) // a few in 10,000 find no slot
	return float64(spent)
}

// drainReference returns the ns of CPU that reading so many flows took, and then reading and deleting them.
func (r *rig) drainReference(b *testing.B, flows int) (lookup, remove float64) {
	b.Helper()
	if flows > 0 {
		r.use(b, r.reference())
		r.drive(b, driveBurst)
	}
	sent := r.take().packets
	timed := func(next batch) float64 {
		var taken int
		var packets uint64
		spent := cpuTime(b, func() { taken, packets = r.sum(b, next) })
		require.Equal(b, sent, packets)
		require.Equal(b, flows, taken)
		return float64(spent)
	}
	lookup = timed(r.objects.ReferenceFlows.BatchLookup)
	return lookup, timed(r.objects.ReferenceFlows.BatchLookupAndDelete)
}

type batch func(*ebpf.MapBatchCursor, any, any, *ebpf.BatchOptions) (int, error)

func (r *rig) walk(b *testing.B, next batch, visit func(*benchReferenceFlow)) {
	b.Helper()
	var cursor ebpf.MapBatchCursor
	for {
		n, err := next(&cursor, r.keys, r.values, nil)
		for i := range n {
			visit(&r.values[i])
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) { // the last batch
			return
		}
		require.NoError(b, err)
	}
}

// percpu counts as the reference does, but for the lock; it is not emptied, so it sits out where the others are.
func (r *rig) percpu() *subject {
	s := &subject{name: "percpu", program: r.objects.Percpu}
	cpus := ebpf.MustPossibleCPU()
	values := make([]benchPercpuFlow, len(r.keys)*cpus)
	var before truth
	walk := func(b *testing.B, next batch) (sum truth) {
		b.Helper()
		var cursor ebpf.MapBatchCursor
		for {
			n, err := next(&cursor, r.keys, values, nil)
			for i := range values[:n*cpus] {
				sum.packets += values[i].Packets
				sum.bytes += values[i].Bytes
			}
			if errors.Is(err, ebpf.ErrKeyNotExist) {
				return sum
			}
			require.NoError(b, err)
		}
	}
	s.take = func(b *testing.B) {
		b.Helper()
		sum := walk(b, r.objects.PercpuFlows.BatchLookup)
		s.packets += sum.packets - before.packets
		s.bytes += sum.bytes - before.bytes
		before = sum
	}
	s.forget = func(b *testing.B) {
		b.Helper()
		walk(b, r.objects.PercpuFlows.BatchLookupAndDelete)
		before = truth{}
	}
	return s
}

// cpuTime is the time that f kept its CPU busy: unlike the wall clock it does not count other processes.
func cpuTime(b *testing.B, f func()) time.Duration {
	b.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, after unix.Timespec
	require.NoError(b, unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &before))
	f()
	require.NoError(b, unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &after))
	return time.Duration(after.Nano() - before.Nano())
}

func loadAverage(b *testing.B) string {
	b.Helper()
	text, err := os.ReadFile("/proc/loadavg")
	require.NoError(b, err)
	return strings.Join(strings.Fields(string(text))[:3], " ")
}
