// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

const (
	rounds     = 15
	loads      = 3                     // of every program: where code and tables come to lie is worth 10 % here
	sliceTime  = 20 * time.Millisecond // of one program in one round
	driveBurst = sequenceLength        // packets of one run where no drain is due
)

// workload is a mix of flows. Ours gets a region of twice the flows, at most MaxSlots; where they do not fit, it is drained
// whenever it is half full, as the receiver does.
type workload struct {
	name  string
	flows int
	draw  func(r *rand.Rand, flows int) func() int // nil: uniform
	ipv6  bool
	fresh bool // the references are emptied with ours: every packet starts a flow
	full  bool // ours is never drained: most packets find no slot
	each  bool // each packet is a sample, where there are samples
}

var workloads = []workload{
	{name: "1 flow", flows: 1},
	{name: "1k flows", flows: 1_000},
	{name: "10k flows", flows: 10_000},
	{name: "10k flows, IPv6", flows: 10_000, ipv6: true},
	{name: "100k flows", flows: 100_000},
	{name: "100k flows, zipf 1.1", flows: 100_000, draw: zipf},
	{name: "each packet a new flow", flows: sequenceLength, draw: inTurn, fresh: true},
	{name: "each packet a new flow, and a sample", flows: sequenceLength, draw: inTurn, fresh: true, each: true},
	{name: "100k flows, table full", flows: 100_000, full: true},
}

func uniform(r *rand.Rand, flows int) func() int { return func() int { return r.IntN(flows) } }

func zipf(r *rand.Rand, flows int) func() int {
	z := rand.NewZipf(r, 1.1, 1, uint64(flows-1))
	return func() int { return int(z.Uint64()) }
}

func inTurn(_ *rand.Rand, flows int) func() int {
	n := -1
	return func() int { n++; return n % flows }
}

func (w *workload) slots() int {
	slots := DefaultSlots
	for slots < 2*w.flows && slots < MaxSlots {
		slots *= 2
	}
	return slots
}

func (w *workload) fits() bool { return w.slots() >= 2*w.flows }

// BenchmarkPacket measures what one packet costs, net of a program that does nothing, beside references of the usual
// designs. Every number of one line was measured in turns with the others of that line; only ratios within a line count.
func BenchmarkPacket(b *testing.B) {
	testenv.Privileged(b)
	var table strings.Builder
	t := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tours\teverything parsed\tsampling\treference\tper-CPU hash\tours/reference\tmiddle half\tof minima\t"+
		"everything/reference\tsampling/reference\tnew flows\toverflow\tnoop/noop\t")
	for _, w := range workloads {
		b.Run(strings.NewReplacer(" ", "_", ",", "").Replace(w.name), func(b *testing.B) {
			b.ReportMetric(0, "ns/op") // of the whole comparison: says nothing
			r := comparePrograms(b, &w)
			ratio := r.ratios("ours", "reference")
			b.ReportMetric(r.net("ours"), "ours-ns/packet")
			b.ReportMetric(r.net("reference"), "reference-ns/packet")
			b.ReportMetric(median(ratio), "ours/reference")
			fmt.Fprintf(t, "%s\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.2f\t%.2f-%.2f\t%.2f\t%.2f\t%.2f\t%.0f %%\t%.2f %%\t%.2f\t\n", w.name,
				r.net("ours"), r.net("everything"), r.net("sampled"), r.net("reference"), r.net("percpu"), median(ratio),
				quantile(ratio, 0.25), quantile(ratio, 0.75), r.best("ours")/r.best("reference"),
				median(r.ratios("everything", "reference")), median(r.ratios("sampled", "reference")),
				r.share(r.claimed), r.share(r.overflow), r.selfCheck())
			if self := r.selfCheck(); self < 0.9 || self > 1.1 {
				b.Logf("%s: noop against noop gives %.2f: this machine is too busy, do not use this line", w.name, self)
			}
			for _, path := range candidates() {
				c := r.ratios(path, "ours")
				b.Logf("%s: %.1f ns, %.3f of ours (%.3f-%.3f), of minima %.3f; %.3f of the reference", path, r.net(path), median(c),
					quantile(c, 0.25), quantile(c, 0.75), r.best(path)/r.best("ours"), median(r.ratios(path, "reference")))
			}
		})
	}
	require.NoError(b, t.Flush())
	// Not b.Log: nothing is printed of a benchmark that has benchmarks of its own.
	fmt.Printf("\nns/packet net of noop, medians of %d rounds; load average %s\n%s\n", rounds, loadAverage(b), table.String())
}

// comparison holds the ns per packet of each program, driver included, by round.
type comparison struct {
	raw      map[string][]float64
	packets  uint64 // of ours, on the clock
	claimed  uint64 // of them, packets that started a flow
	overflow uint64 // of them, packets that found no slot
}

func comparePrograms(b *testing.B, w *workload) *comparison {
	b.Helper()
	c := &comparison{raw: map[string][]float64{}}
	for range loads {
		rig := newRig(b, w)
		subjects := rig.subjects(b, w)
		for _, s := range subjects {
			rig.use(b, s)
			rig.drive(b, driveBurst) // flows of the references come into being
			s.settle(b, rig.take())
		}
		for round := range rounds / loads {
			for i := range subjects {
				c.measure(b, rig, w, subjects[(i+round)%len(subjects)])
			}
		}
	}
	return c
}

// measure is the slice of one program in one round.
func (c *comparison) measure(b *testing.B, r *rig, w *workload, s *subject) {
	b.Helper()
	r.use(b, s)
	if w.fits() || w.full {
		r.drive(b, driveBurst) // warm-up
	}
	var spent time.Duration
	var driven uint64
	for spent < sliceTime {
		s.flush(b, w, r)
		slots, overflow := s.fill()
		ns, n := r.drive(b, r.burst)
		spent += ns
		driven += n
		if s.name == "ours" {
			slotsAfter, overflowAfter := s.fill()
			c.claimed += slotsAfter - slots
			c.overflow += overflowAfter - overflow
			c.packets += n
		}
	}
	c.raw[s.name] = append(c.raw[s.name], float64(spent)/float64(driven))
	s.settle(b, r.take())
}

// noop is the cost of driver and noop in a round.
func (c *comparison) noop(round int) float64 {
	return (c.raw["noop"][round] + c.raw["noop again"][round]) / 2
}

func (c *comparison) nets(name string) []float64 {
	nets := make([]float64, len(c.raw[name]))
	for round, ns := range c.raw[name] {
		nets[round] = ns - c.noop(round)
	}
	return nets
}

func (c *comparison) net(name string) float64 { return median(c.nets(name)) }

// best is the least net cost: what other load on the machine distorts least.
func (c *comparison) best(name string) float64 {
	return slices.Min(c.raw[name]) - min(slices.Min(c.raw["noop"]), slices.Min(c.raw["noop again"]))
}

func (c *comparison) ratios(name, to string) []float64 {
	a, b := c.nets(name), c.nets(to)
	for round := range a {
		a[round] /= b[round]
	}
	return a
}

func (c *comparison) selfCheck() float64 {
	ratios := slices.Clone(c.raw["noop"])
	for round := range ratios {
		ratios[round] /= c.raw["noop again"][round]
	}
	return median(ratios)
}

// share is a part of the packets of ours, in %.
func (c *comparison) share(part uint64) float64 { return 100 * float64(part) / float64(c.packets) }

func median(v []float64) float64 { return quantile(v, 0.5) }

func quantile[T cmp.Ordered](v []T, q float64) T {
	if len(v) == 0 {
		return *new(T)
	}
	sorted := slices.Sorted(slices.Values(v))
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}

// BenchmarkDrain measures what taking flows out of the kernel costs: ours with everything that belongs to it, flip,
// barrier, clocks, checks and conversion, but for the time that the barrier sleeps; the reference in batches, which walk
// all of its 131,072 buckets. Few flows show that ours does not look for them in an almost empty table.
func BenchmarkDrain(b *testing.B) {
	testenv.Privileged(b)
	var table strings.Builder
	t := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "flows\tslots\tours us\tlook-up us\tlook-up and delete us\tours ns/flow\tours/look-up\tmiddle half\tours/look-up and delete\t")
	for _, flows := range []int{0, 1, 10, 100, 1_000, 10_000} {
		b.Run(fmt.Sprintf("flows=%d", flows), func(b *testing.B) {
			b.ReportMetric(0, "ns/op")
			w := &workload{flows: flows, draw: inTurn}
			c := compareDrains(b, w)
			lookup, remove := pairedRatios(c.ours, c.lookup), pairedRatios(c.ours, c.remove)
			b.ReportMetric(median(c.ours)/1000, "ours-us")
			b.ReportMetric(median(lookup), "ours/look-up")
			b.ReportMetric(median(remove), "ours/look-up-and-delete")
			fmt.Fprintf(t, "%d\t%d\t%.1f\t%.1f\t%.1f\t%.1f\t%.2f\t%.2f-%.2f\t%.2f\t\n", flows, w.slots(), median(c.ours)/1000,
				median(c.lookup)/1000, median(c.remove)/1000, median(c.ours)/float64(max(flows, 1)), median(lookup),
				quantile(lookup, 0.25), quantile(lookup, 0.75), median(remove))
		})
	}
	require.NoError(b, t.Flush())
	fmt.Printf("\nCPU time of a drain, medians of %d; load average %s\n%s\n", rounds*loads, loadAverage(b), table.String())
}

// drains holds the ns of CPU of each way to take all flows, by round.
type drains struct{ ours, lookup, remove []float64 }

func compareDrains(b *testing.B, w *workload) (d drains) {
	b.Helper()
	for range loads {
		rig := newRig(b, w)
		k := load(b, Config{Slots: w.slots(), cpus: []int{0}})
		for range rounds {
			d.ours = append(d.ours, rig.drainOurs(b, rig.ours(k, "ours"), w.flows))
			lookup, remove := rig.drainReference(b, w.flows)
			d.lookup, d.remove = append(d.lookup, lookup), append(d.remove, remove)
		}
	}
	return d
}

// BenchmarkIdle is what a receiver pays for a drain when nothing happened. ns/op is mostly the barrier's sleep.
func BenchmarkIdle(b *testing.B) {
	k := load(b, Config{})
	var spent time.Duration
	for b.Loop() {
		spent += cpuTime(b, func() {
			_, err := k.Drain(func(*flow.Slot) { b.Error("a slot without traffic") })
			require.NoError(b, err)
		})
	}
	b.ReportMetric(float64(spent.Microseconds())/float64(b.N), "cpu-us/drain")
}
