// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

const (
	sampleBurst = 4096 // packets between two readings of a ring: it has room for 5,698 samples of 128 bytes
	sampleSnap  = 128  // COPY of bpf/bench/bench.bpf.c
	sampleFrame = 200  // bytes of a packet: more than are copied
)

// samplingSubject is a program under test, what is done off the clock after each burst, and what must come of its buffers.
type samplingSubject struct {
	*subject
	relieve func(b *testing.B)
	check   func(b *testing.B, sent uint64, counts SampleCounts)
}

// BenchmarkSampling measures what sampling costs a packet: when it is on and none is chosen, when each one is, and when nobody
// reads. All programs take turns; 1,000 flows.
func BenchmarkSampling(b *testing.B) {
	testenv.Privileged(b)
	c := &comparison{raw: map[string][]float64{}}
	var subjects []samplingSubject
	for range loads {
		r := newRig(b, &workload{flows: 1000})
		r.frame = udpFrame(0x0a000001, 0x0a000002, 1, 2, sampleFrame)
		subjects = r.samplingSubjects(b)
		for round := range rounds / loads {
			for i := range subjects {
				c.measureSampling(b, r, &subjects[(i+round)%len(subjects)])
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	fmt.Printf("\nsampling: ns/packet net of noop, medians of %d rounds; noop/noop %.2f; load average %s\n", rounds, c.selfCheck(), loadAverage(b))
	off := c.nets("off")
	for _, s := range subjects {
		added, ratio := differences(c.nets(s.name), off), c.ratios(s.name, "off")
		fmt.Printf("%-36s %6.1f  added %6.2f (%.2f to %.2f)  ratio to off %.2f (%.2f-%.2f)\n", s.name, c.net(s.name), median(added),
			quantile(added, 0.25), quantile(added, 0.75), median(ratio), quantile(ratio, 0.25), quantile(ratio, 0.75))
	}
	to := pairedRatios(differences(c.nets("each packet"), off), c.nets("copy"))
	full := c.ratios("each packet, ring full", "each packet")
	fmt.Printf("added by a sample / copy: %.2f (%.2f-%.2f); ring full / read: %.2f (%.2f-%.2f)\n", median(to), quantile(to, 0.25),
		quantile(to, 0.75), median(full), quantile(full, 0.25), quantile(full, 0.75))
}

func (r *rig) samplingSubjects(b *testing.B) []samplingSubject {
	b.Helper()
	cfg := func(oneIn, perSecond int) Config {
		return Config{Samples: oneIn > 0, RandomOneIn: oneIn, SnapLength: sampleSnap, MaxPerSecond: perSecond, Seed: [32]byte{1}, ring: minRing, cpus: []int{0}}
	}
	ofFlows := func(flowOneIn, first int) Config {
		return Config{Samples: true, FlowOneIn: flowOneIn, FirstPerFlow: first, SnapLength: sampleSnap, MaxPerSecond: 1, cpus: []int{0}}
	}
	const plenty = 100 * unlimited
	each, full := load(b, cfg(1, plenty)), load(b, cfg(1, plenty))
	nothing := func(*testing.B) {}
	return []samplingSubject{
		{&subject{name: "noop", program: r.objects.Noop}, nothing, nil},
		{r.ours(load(b, cfg(0, 0)), "off"), nothing, nil},
		{r.ours(load(b, cfg(1<<30, 100)), "on, none chosen"), nothing, func(b *testing.B, sent uint64, n SampleCounts) {
			b.Helper()
			require.Less(b, n.Selected, sent/1000)
		}},
		{r.ours(load(b, cfg(1000, 100)), "1 in 1000"), nothing, func(b *testing.B, _ uint64, n SampleCounts) {
			b.Helper()
			require.Positive(b, n.Selected)
		}},
		{r.ours(load(b, cfg(1, 1)), "each packet, no credit"), nothing, func(b *testing.B, sent uint64, n SampleCounts) {
			b.Helper()
			require.Less(b, sent-n.RateLimited, uint64(2))
		}},
		{r.ours(load(b, Config{cpus: []int{0}, object: objectFull}), "off, the form with everything"), nothing, nil},
		{r.ours(load(b, ofFlows(1<<30, 0)), "1 flow in N, none chosen"), nothing, nil},
		{r.ours(load(b, ofFlows(0, 3)), "first 3 of a flow, all past them"), nothing, nil},
		{&subject{name: "noop again", program: r.objects.Noop}, nothing, nil},
		{&subject{name: "copy", program: r.objects.Copy}, r.emptyCopies(b), nil},
		{r.ours(each, "each packet"), func(b *testing.B) {
			b.Helper()
			_, err := each.ReadSamples(func(*packet.Sample) {})
			require.NoError(b, err)
		}, func(b *testing.B, sent uint64, n SampleCounts) {
			b.Helper()
			require.Equal(b, SampleCounts{Selected: sent, Emitted: sent}, n)
		}},
		{r.ours(full, "each packet, ring full"), func(*testing.B) {
			full.sampling.grant(time.Now()) // as if somebody read
		}, func(b *testing.B, sent uint64, n SampleCounts) {
			b.Helper()
			require.Zero(b, n.RateLimited)
			require.GreaterOrEqual(b, n.RingFull+8192, sent)
		}},
	}
}

// emptyCopies discards what the program copy wrote.
func (r *rig) emptyCopies(b *testing.B) func(*testing.B) {
	b.Helper()
	reader, err := ringbuf.NewReader(r.objects.Copies)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, reader.Close()) })
	var record ringbuf.Record
	return func(b *testing.B) {
		b.Helper()
		reader.SetDeadline(time.Unix(1, 0))
		for {
			if err := reader.ReadInto(&record); err != nil {
				require.ErrorIs(b, err, os.ErrDeadlineExceeded)
				return
			}
		}
	}
}

// measureSampling is the slice of one program in one round. The first bursts are a warm-up, and fill the ring that is not read.
func (c *comparison) measureSampling(b *testing.B, r *rig, s *samplingSubject) {
	b.Helper()
	r.use(b, s.subject)
	for range 4 {
		r.drive(b, sampleBurst)
		s.relieve(b)
	}
	var spent time.Duration
	var driven uint64
	for spent < sliceTime {
		ns, n := r.drive(b, sampleBurst)
		s.relieve(b)
		spent += ns
		driven += n
	}
	c.raw[s.name] = append(c.raw[s.name], float64(spent)/float64(driven))
	sent := r.take()
	if s.take != nil {
		s.take(b)
		require.Equal(b, sent.packets, s.packets)
		s.packets, s.bytes = 0, 0
	}
	if s.check != nil {
		s.check(b, sent.packets, s.samples)
	}
}
