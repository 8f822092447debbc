// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// lane drives programs on one CPU, from a thread that stays there.
type lane struct {
	objects  benchObjects
	requests chan laneRequest
	done     chan laneResult
}

type laneRequest struct {
	program *ebpf.Program
	until   *sync.WaitGroup // all lanes of a turn begin together
}

type laneResult struct {
	ns     float64 // of CPU for each packet, driver included
	driven uint64
	err    error
}

const laneTime = 20 * time.Millisecond // of one turn

func newLane(b *testing.B, cpu int) *lane {
	b.Helper()
	l := &lane{requests: make(chan laneRequest), done: make(chan laneResult)}
	require.NoError(b, loadBenchObjects(&l.objects, nil))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // and never unlock: a changed thread must not be used again
		var one unix.CPUSet
		one.Set(cpu)
		pinned := unix.SchedSetaffinity(0, &one)
		for r := range l.requests {
			result := l.turn(r)
			result.err = errors.Join(pinned, result.err)
			l.done <- result
		}
	}()
	b.Cleanup(func() {
		close(l.requests)
		<-ended
		require.NoError(b, l.objects.Close())
	})
	return l
}

// turn drives one flow, that of an empty sequence, through a program.
func (l *lane) turn(r laneRequest) (result laneResult) {
	if err := l.objects.UnderTest.Put(uint32(0), r.program); err != nil {
		return laneResult{err: err}
	}
	opts := &ebpf.RunOptions{Data: udpFrame(1, 2, 3, 4, frameLength), Repeat: 1 << 15}
	var before, after, from, to = uint64(0), uint64(0), unix.Timespec{}, unix.Timespec{}
	errs := []error{l.objects.Driven.Get(&before)}
	r.until.Done()
	r.until.Wait()
	errs = append(errs, unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &from))
	for began := time.Now(); time.Since(began) < laneTime; {
		_, err := l.objects.DriveIpv4.Run(opts)
		errs = append(errs, err)
	}
	errs = append(errs, unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &to), l.objects.Driven.Get(&after))
	result.driven = after - before
	result.ns = float64(to.Nano()-from.Nano()) / float64(result.driven)
	result.err = errors.Join(errs...)
	return result
}

// together runs a program on all lanes at once.
func together(b *testing.B, lanes []*lane, program *ebpf.Program) (ns float64, driven uint64) {
	b.Helper()
	var until sync.WaitGroup
	until.Add(len(lanes))
	for _, l := range lanes {
		l.requests <- laneRequest{program, &until}
	}
	for _, l := range lanes {
		r := <-l.done
		require.NoError(b, r.err)
		ns += r.ns / float64(len(lanes))
		driven += r.driven
	}
	return ns, driven
}

// sharing is what a program costs by round, alone on one CPU and on all at once.
type sharing struct {
	name          string
	program       *ebpf.Program
	alone, shared []float64
}

// BenchmarkOneFlowOnAllCPUs shows what a packet costs when every CPU counts packets of one flow at once, against one CPU
// alone. The program that does nothing says what of that the machine adds.
func BenchmarkOneFlowOnAllCPUs(b *testing.B) {
	testenv.Privileged(b)
	b.ReportMetric(0, "ns/op")
	lanes := make([]*lane, runtime.NumCPU())
	for cpu := range lanes {
		lanes[cpu] = newLane(b, cpu)
	}
	shared := lanes[0].objects // its maps are those of both CPUs
	k := load(b, Config{})
	subjects := []*sharing{
		{name: "noop", program: shared.Noop},
		{name: "ours", program: k.objects.IngressL2},
		{name: "percpu", program: shared.Percpu},
		{name: "reference", program: shared.Reference},
	}
	for round := range rounds {
		for i := range subjects {
			s := subjects[(i+round)%len(subjects)]
			alone, one := together(b, lanes[round%len(lanes):][:1], s.program)
			both, all := together(b, lanes, s.program)
			s.alone, s.shared = append(s.alone, alone), append(s.shared, both)
			if s.name == "ours" {
				requireOneFlow(b, k, one+all)
			}
		}
	}
	printSharing(b, subjects)
}

func requireOneFlow(b *testing.B, k *Kernel, sent uint64) {
	b.Helper()
	flows := map[flow.Key]bool{}
	d, err := k.Drain(func(s *flow.Slot) { flows[s.Key] = true })
	require.NoError(b, err)
	require.Empty(b, d.Mismatches)
	require.Equal(b, sent, d.Ledger.Entries[flow.ReasonAccounted].Packets)
	require.Len(b, flows, 1)
}

func printSharing(b *testing.B, subjects []*sharing) {
	b.Helper()
	var table strings.Builder
	t := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tns alone, net\tns at once, net\traw slower by\tnet\tmiddle half\tnet, after the control\t")
	noop := subjects[0]
	control := median(pairedRatios(noop.shared, noop.alone))
	fmt.Fprintf(t, "noop\t(%.1f)\t(%.1f)\t%.2f\t\t\t\t\n", median(noop.alone), median(noop.shared), control)
	for _, s := range subjects[1:] {
		alone, shared := differences(s.alone, noop.alone), differences(s.shared, noop.shared)
		net := pairedRatios(shared, alone)
		b.ReportMetric(median(net), s.name+"-shared/alone")
		fmt.Fprintf(t, "%s\t%.1f\t%.1f\t%.2f\t%.2f\t%.2f-%.2f\t%.2f\t\n", s.name, median(alone), median(shared),
			median(pairedRatios(s.shared, s.alone)), median(net), quantile(net, 0.25), quantile(net, 0.75), median(net)/control)
	}
	require.NoError(b, t.Flush())
	fmt.Printf("\none flow on %d CPUs at once, ns of CPU per packet, medians of %d rounds; load average %s\n%s\n",
		runtime.NumCPU(), rounds, loadAverage(b), table.String())
}
