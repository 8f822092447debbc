// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

const (
	wireRounds = 21
	wireWindow = sequenceLength / 2 // packets of one program in one round
	wireWarmUp = wireWindow / 4
)

// wire is a veth that is flooded by one CPU. The frames are addressed to nobody: the far end's IP layer drops them at once,
// which is the shortest way of a packet through the kernel, and so the one on which a program weighs most.
type wire struct {
	*testenv.Hose
	far      *testenv.End
	sequence []uint32 // flows in the order of their packets, then from the beginning again
}

func newWire(b *testing.B, w *workload) *wire {
	b.Helper()
	frames := make([][]byte, w.flows)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range frames {
		frames[i] = udpFrame(0x0a00_0000+uint32(i), random.Uint32(), uint16(random.Uint32()), uint16(random.Uint32()), frameLength)
		copy(frames[i], []byte{2, 0, 0, 0, 0, 0xee}) // nobody's address
		binary.BigEndian.PutUint16(frames[i][16:], frameLength-14)
	}
	draw := uniform
	if w.draw != nil {
		draw = w.draw
	}
	near, far := testenv.Pair(b, testenv.PairConfig{})
	wire := &wire{Hose: near.NewHose(frames), far: far, sequence: make([]uint32, sequenceLength)}
	next := draw(random, w.flows)
	for i := range wire.sequence {
		wire.sequence[i] = uint32(next())
	}
	return wire
}

// flood sends n packets from that number of the sequence on; both divide its length.
func (w *wire) flood(b *testing.B, from, n int) {
	b.Helper()
	from %= len(w.sequence)
	require.NoError(b, w.Send(w.sequence[from:from+n]))
}

// tried is a program on the far end's ingress hook, or none.
type tried struct {
	name    string
	program *ebpf.Program // nil: none, or ours
	kernel  *Kernel       // ours
	wall    []float64     // ns per packet, by round
	cpu     []float64     // of the sending thread, which the far end's work is done on
}

func (s *tried) attach(b *testing.B, w *wire) (detach func() error) {
	b.Helper()
	at := iface.Interface{Index: uint32(w.far.Index), Name: w.far.Name, HWType: unix.ARPHRD_ETHER}
	switch {
	case s.kernel != nil:
		w.far.Do(func() { require.NoError(b, s.kernel.Attach(at, flow.DirectionIngress)) })
		return func() error { return s.kernel.Detach(at.Index) }
	case s.program != nil:
		var l link.Link
		w.far.Do(func() {
			var err error
			l, err = link.AttachTCX(link.TCXOptions{Interface: w.far.Index, Program: s.program, Attach: ebpf.AttachTCXIngress})
			require.NoError(b, err)
		})
		return l.Close
	}
	return func() error { return nil }
}

// window measures one program in one round, and compares what ours counted with what the far end received.
func (s *tried) window(b *testing.B, w *wire, round int) {
	b.Helper()
	detach := s.attach(b, w)
	from := round * wireWindow
	w.flood(b, from+wireWindow, wireWarmUp)
	tending := s.tend()
	before := w.far.Counters().Received.Packets
	began := time.Now()
	spent := cpuTime(b, func() { w.flood(b, from, wireWindow) })
	wall := time.Since(began)
	received := w.far.Counters().Received.Packets - before
	require.NoError(b, detach())
	counted, err := tending()
	require.NoError(b, err)
	if s.kernel != nil {
		require.Equal(b, received, counted, "%s counted what the interface received", s.name)
	}
	s.wall = append(s.wall, float64(wall)/wireWindow)
	s.cpu = append(s.cpu, float64(spent)/wireWindow)
}

// tend does what the receiver does beside the traffic, on another CPU: it drains when a region is half full and reads
// samples. It returns how to end that, and then the packets counted since it began.
func (s *tried) tend() (end func() (uint64, error)) {
	if s.kernel == nil {
		return func() (uint64, error) { return 0, nil }
	}
	var counted uint64
	var errs []error
	drain := func() {
		d, err := s.kernel.Drain(func(*flow.Slot) {})
		if errs = append(errs, err); err != nil {
			return
		}
		if len(d.Mismatches) > 0 {
			errs = append(errs, fmt.Errorf("identities do not hold: %+v", d.Mismatches))
		}
		counted += d.Ledger.Seen.Packets
	}
	drain() // what the warm-up left
	counted = 0
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		poll := time.NewTicker(90 * time.Millisecond) // sampleInterval of the receiver
		defer poll.Stop()
		for {
			select {
			case <-stop:
				drain()
				return
			case <-s.kernel.Pressure():
				drain()
			case <-poll.C:
				if s.kernel.sampling != nil {
					_, err := s.kernel.ReadSamples(func(*packet.Sample) {})
					errs = append(errs, err)
				}
			}
		}
	}()
	return func() (uint64, error) {
		close(stop)
		<-stopped
		return counted, errors.Join(errs...)
	}
}

// BenchmarkInSitu shows what an interface still carries with a program on its ingress hook, against none: the packets of
// one CPU, which sends and receives them.
func BenchmarkInSitu(b *testing.B) {
	testenv.Privileged(b)
	var table strings.Builder
	t := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tnone ns/packet\tprogram\tthroughput\tmiddle half\tby wall clock\tadded ns\tof minima\t")
	for _, w := range []workload{{name: "1k flows", flows: 1_000}, {name: "100k flows, zipf 1.1", flows: 100_000, draw: zipf}} {
		b.Run(strings.NewReplacer(" ", "_", ",", "").Replace(w.name), func(b *testing.B) {
			b.ReportMetric(0, "ns/op")
			subjects := tryAll(b, &w)
			none := subjects[0]
			for _, s := range subjects[1:] {
				throughput := pairedRatios(none.cpu, s.cpu)
				b.ReportMetric(median(throughput), strings.NewReplacer(" ", "-", ",", "").Replace(s.name)+"/none")
				fmt.Fprintf(t, "%s\t%.0f\t%s\t%.3f\t%.3f-%.3f\t%.3f\t%.1f\t%.1f\t\n", w.name, median(none.cpu), s.name,
					median(throughput), quantile(throughput, 0.25), quantile(throughput, 0.75), median(pairedRatios(none.wall, s.wall)),
					median(differences(s.cpu, none.cpu)), slices.Min(s.cpu)-slices.Min(none.cpu))
			}
		})
	}
	require.NoError(b, t.Flush())
	fmt.Printf("\nmedians of %d rounds of %d packets; load average %s\n%s\n", wireRounds, wireWindow, loadAverage(b), table.String())
}

// tryAll loads every program several times: where code and tables come to lie changes a figure.
func tryAll(b *testing.B, w *workload) []*tried {
	b.Helper()
	wire := newWire(b, w)
	pin(b, runtime.NumCPU()-1)
	none, again, noop, reference := &tried{name: "none"}, &tried{name: "none again"}, &tried{name: "noop"}, &tried{name: "reference"}
	ours, sampled := &tried{name: "ours"}, &tried{name: "ours, sampling"}
	subjects := []*tried{none, again, noop, ours, sampled, reference}
	for _, path := range candidates() {
		subjects = append(subjects, &tried{name: path})
	}
	for range loads {
		var objects benchObjects
		require.NoError(b, loadBenchObjects(&objects, nil))
		b.Cleanup(func() { require.NoError(b, objects.Close()) })
		noop.program, reference.program = objects.Noop, objects.Reference
		ours.kernel = load(b, Config{})
		sampled.kernel = load(b, Config{Samples: true, RandomOneIn: 1000, SnapLength: 256, MaxPerSecond: 100})
		for i, path := range candidates() {
			subjects[len(subjects)-len(candidates())+i].kernel = loadCandidate(b, path, Config{})
		}
		for round := range wireRounds / loads {
			for i := range subjects {
				subjects[(i+round)%len(subjects)].window(b, wire, round)
			}
		}
	}
	return subjects
}

func pairedRatios(a, b []float64) []float64 {
	r := make([]float64, len(a))
	for i := range a {
		r[i] = a[i] / b[i]
	}
	return r
}

func differences(a, b []float64) []float64 {
	d := make([]float64, len(a))
	for i := range a {
		d[i] = a[i] - b[i]
	}
	return d
}
