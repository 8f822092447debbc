// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"math"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
)

// weighed is what an estimate needs of a record.
type weighed struct {
	pool, packets, bytes float64
	https                bool // to port 443
	small                bool // not one of the large packets that come behind it
}

// interval is an estimate and half of the width of its 95 % confidence interval.
type interval struct{ estimate, half float64 }

func (i interval) covers(truth float64) bool { return math.Abs(i.estimate-truth) <= i.half }

const z95 = 1.96

// totalOf estimates a sum over all buffers, as docs/packets.md says.
func totalOf(samples []weighed, x func(*weighed) float64) interval {
	var pools, sum, largest, variance float64
	for i := range samples {
		s := &samples[i]
		pools += s.pool
		sum += s.pool * x(s)
		largest = max(largest, s.pool)
	}
	mean := sum / pools
	for i := range samples {
		s := &samples[i]
		variance += s.pool * s.pool * (x(s) - mean) * (x(s) - mean)
	}
	return interval{sum, z95 * math.Sqrt(variance+2*largest*largest*mean*mean)}
}

// shareOf estimates what part of a sum belongs to some of the buffers.
func shareOf(samples []weighed, x func(*weighed) float64, belongs func(*weighed) bool) interval {
	part := func(s *weighed) float64 {
		if belongs(s) {
			return x(s)
		}
		return 0
	}
	var all, some, squares, variance float64
	for i := range samples {
		s := &samples[i]
		all += s.pool * x(s)
		some += s.pool * part(s)
	}
	share := some / all
	for i := range samples {
		s := &samples[i]
		v := s.pool * x(s)
		squares += v * v
		variance += s.pool * s.pool * (part(s) - share*x(s)) * (part(s) - share*x(s))
	}
	n := all * all / squares
	if variance > 0 {
		n = min(n, share*(1-share)*all*all/variance)
	}
	return interval{(share + z95*z95/2/n) / (1 + z95*z95/n), z95 * math.Sqrt(share*(1-share)/n+z95*z95/4/n/n) / (1 + z95*z95/n)}
}

func packetsOf(s *weighed) float64 { return s.packets }
func bytesOf(s *weighed) float64   { return s.bytes }

// burst is a part of the traffic between two polls, in this order.
type burst struct {
	cpu     int
	buffers int // on average
	length  int
	gso     uint32
}

// experiment is a stream of the real program's samples: polls are pollInterval apart by a clock of the test's own.
type experiment struct {
	name    string
	cfg     Config
	bursts  []burst
	polls   int // of one run
	k       *Kernel
	driver  *driver
	random  *rand.Rand
	now     time.Time
	https   []int // of the steps before this one
	on      int
	samples []weighed
	truth   struct{ packets, bytes, https, small float64 }
	counts  SampleCounts
}

const (
	pollInterval = 90 * time.Millisecond // sampleInterval of the receiver
	largeLength  = 1000
)

func (e *experiment) start(t *testing.T) {
	t.Helper()
	e.cfg.Samples, e.cfg.SnapLength, e.cfg.injected = true, 64, true
	e.k = load(t, e.cfg)
	e.random = rand.New(rand.NewPCG(5, 6))
	e.driver = newDriver(t, e.k, func(uint64) benchStep {
		step := benchStep{DstPort: 0x5000} // 80 in network byte order
		if e.random.IntN(5) == 0 {
			step.DstPort = 0xbb01
		}
		return step
	})
	e.https = make([]int, sequenceLength+1)
	for i, step := range e.driver.steps {
		e.https[i+1] = e.https[i]
		if step.DstPort == 0xbb01 {
			e.https[i+1]++
		}
	}
	e.now = e.k.sampling.credit.last
	pin(t, 0)
}

// httpsBefore is the number of buffers to port 443 among the first n.
func (e *experiment) httpsBefore(n uint64) int {
	return int(n/sequenceLength)*e.https[sequenceLength] + e.https[n%sequenceLength]
}

func (e *experiment) send(t *testing.T, b burst) {
	t.Helper()
	if e.on != b.cpu {
		var one unix.CPUSet
		one.Set(b.cpu)
		require.NoError(t, unix.SchedSetaffinity(0, &one))
		e.on = b.cpu
	}
	n := b.buffers/2 + e.random.IntN(b.buffers+1)
	before := e.driver.driven
	after, err := e.driver.run(flow.DirectionEgress, &ebpf.RunOptions{
		Data: tcpFrame(16, b.length), Repeat: uint32(max(n, 1)), Context: skbContext{GSOSize: b.gso},
	})
	require.NoError(t, err)
	e.driver.driven = after
	buffers := float64(after - before)
	packets, bytes := 1.0, float64(b.length)
	if b.gso > 0 {
		packets = math.Ceil(float64(b.length-54) / float64(b.gso))
		bytes += (packets - 1) * 54
	}
	e.truth.packets += buffers * packets
	e.truth.bytes += buffers * bytes
	e.truth.https += packets * float64(e.httpsBefore(after)-e.httpsBefore(before))
	if b.length < largeLength {
		e.truth.small += buffers * packets
	}
}

func (e *experiment) poll(t *testing.T) {
	t.Helper()
	e.now = e.now.Add(pollInterval)
	_, err := e.k.sampling.poll(e.now, func(s *packet.Sample) {
		e.samples = append(e.samples, weighed{
			pool: float64(s.Pool), packets: float64(s.Segments), bytes: float64(s.WireLen),
			https: s.Data[36] == 1 && s.Data[37] == 0xbb, small: s.WireLen < largeLength,
		})
	})
	require.NoError(t, err)
}

func (e *experiment) run(t *testing.T) {
	t.Helper()
	e.samples = e.samples[:0]
	e.truth.packets, e.truth.bytes, e.truth.https, e.truth.small = 0, 0, 0, 0
	for range e.polls {
		for _, b := range e.bursts {
			e.send(t, b)
		}
		e.poll(t)
	}
}

var experiments = []experiment{
	{name: "within budget", polls: 100, cfg: Config{RandomOneIn: 100, MaxPerSecond: 100, cpus: []int{0}},
		bursts: []burst{{buffers: 100, length: 60}, {buffers: 200, length: 1400}}},
	{name: "100 times the budget", polls: 33, cfg: Config{RandomOneIn: 10, MaxPerSecond: 100, cpus: []int{0}},
		bursts: []burst{{buffers: 3000, length: 60}, {buffers: 6000, length: 1400}}},
	{name: "one busy CPU of several", polls: 33, cfg: Config{RandomOneIn: 10, MaxPerSecond: 100, cpus: []int{0, 1, 2, 3, 4, 5, 6, 7}},
		bursts: []burst{{buffers: 3000, length: 60}, {buffers: 6000, length: 1400}, {cpu: 1, buffers: 30, length: 600}}},
	{name: "GSO", polls: 33, cfg: Config{RandomOneIn: 10, MaxPerSecond: 100, cpus: []int{0}},
		bursts: []burst{{buffers: 3000, length: 60}, {buffers: 2000, length: 54 + 2000, gso: 100}, {buffers: 4000, length: 1400}}},
}

func TestIntervalsCoverTheTruth(t *testing.T) {
	for _, e := range experiments {
		t.Run(e.name, func(t *testing.T) {
			if runtime.NumCPU() < 2 {
				t.Fatal("needs two CPUs")
			}
			e.start(t)
			covered := map[string]int{}
			bias := map[string]float64{}
			width := map[string]float64{}
			n := 0
			for range 20 {
				for _, b := range e.bursts {
					e.send(t, b)
				}
				e.poll(t)
			}
			for range 100 {
				e.run(t)
				n += len(e.samples)
				for name, c := range map[string]struct {
					interval
					truth float64
				}{
					"packets": {totalOf(e.samples, packetsOf), e.truth.packets},
					"bytes":   {totalOf(e.samples, bytesOf), e.truth.bytes},
					"https":   {shareOf(e.samples, packetsOf, func(s *weighed) bool { return s.https }), e.truth.https / e.truth.packets},
					"small":   {shareOf(e.samples, packetsOf, func(s *weighed) bool { return s.small }), e.truth.small / e.truth.packets},
				} {
					bias[name] += (c.estimate/c.truth - 1) / 100
					width[name] += c.half / c.truth / 100
					if c.covers(c.truth) {
						covered[name]++
					}
				}
			}
			got := drain(t, e.k).Samples
			t.Logf("%d samples per run %+v; covered %v bias %.3v half %.3v", n/100, got, covered, bias, width)
		})
	}
}
