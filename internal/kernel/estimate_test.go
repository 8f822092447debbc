// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// weighed is what an estimate needs of a record.
type weighed struct {
	pool, packets, bytes float64
	https                bool // to port 443
	small                bool // one of those that come first after a poll
}

// interval is an estimate and the ends of its 95 % confidence interval.
type interval struct{ estimate, low, high float64 }

func (i interval) covers(truth float64) bool { return i.low <= truth && truth <= i.high }

const z95 = 1.96

// sums are those of docs/packets.md, over the samples of one interval.
type sums struct {
	pools, squares, largest float64 // of pool, its square
	x, xx                   float64 // of pool times what is estimated, or its square
	part, partXX            float64 // the same of those samples that belong to a part
}

func add(samples []weighed, x func(*weighed) float64, part func(*weighed) bool) (t sums) {
	for i := range samples {
		s := &samples[i]
		t.pools += s.pool
		t.squares += s.pool * s.pool
		t.largest = max(t.largest, s.pool)
		t.x += s.pool * x(s)
		t.xx += s.pool * x(s) * x(s)
		if part(s) {
			t.part += s.pool * x(s)
			t.partXX += s.pool * x(s) * x(s)
		}
	}
	return t
}

// each is what a sample stands for: the mean of the pools over all buffers.
func (t *sums) each() float64 { return t.squares / t.pools }

func (t *sums) total() interval {
	mean := t.x / t.pools
	half := z95 * math.Sqrt(t.each()*(t.xx-t.x*mean)+2*math.Pow(t.largest*mean, 2))
	return interval{t.x, t.x - half, t.x + half}
}

// share is Wilson's interval for as many samples of equal weight as are worth these.
func (t *sums) share() interval {
	p, n := t.part/t.x, t.pools/t.each()
	if p > 0 && p < 1 {
		n = p * (1 - p) * t.x * t.x / (t.each() * ((1-2*p)*t.partXX + p*p*t.xx))
	}
	middle, half := p+z95*z95/2/n, z95*math.Sqrt(p*(1-p)/n+z95*z95/4/n/n)
	return interval{p, (middle - half) / (1 + z95*z95/n), (middle + half) / (1 + z95*z95/n)}
}

// burst is a part of the traffic between two polls, in this order.
type burst struct {
	cpu     int
	buffers int // on average
	length  int
	gso     uint32 // bytes of each segment; 0: no segmentation
}

func (b *burst) packets() float64 {
	if b.gso == 0 {
		return 1
	}
	return math.Ceil(float64(b.length-tcpHeaders) / float64(b.gso))
}

func (b *burst) bytes() float64 { return float64(b.length) + (b.packets()-1)*tcpHeaders }

const (
	tcpHeaders   = 54
	largeLength  = 1000
	pollInterval = 90 * time.Millisecond // sampleInterval of the receiver
	httpsPort    = 0xbb01                // 443, in network byte order
)

// experiment samples traffic with the real program, by a clock of its own, so that only seeds decide what comes out. What is
// worst for a budget is in every case: small packets come first after each poll, large ones behind them.
type experiment struct {
	name   string
	oneIn  int
	cpus   []int
	idle   time.Duration // before every run
	polls  int           // of a run
	every  int           // polls from traffic to traffic
	bursts []burst

	k       *Kernel
	driver  *driver
	random  *rand.Rand
	now     time.Time
	cpu     int
	https   []int // buffers to port 443 before each of the driver's steps
	samples []weighed
	truth   struct{ packets, bytes, https, small float64 } // of this run; https and small are packets
	sent    flow.Volume                                    // in all
}

var experiments = []experiment{
	{
		name: "within budget", oneIn: 100, cpus: []int{0}, polls: 100, every: 1,
		bursts: []burst{{buffers: 100, length: 60}, {buffers: 200, length: 1400}},
	},
	{
		name: "100 times the budget", oneIn: 2, cpus: []int{0}, polls: 33, every: 1,
		bursts: []burst{{buffers: 600, length: 60}, {buffers: 1200, length: 1400}},
	},
	{
		name: "100 times the budget after 20 s without traffic", oneIn: 2, cpus: []int{0}, idle: 20 * time.Second, polls: 33, every: 1,
		bursts: []burst{{buffers: 600, length: 60}, {buffers: 1200, length: 1400}},
	},
	{
		name: "100 times the budget in a burst every second", oneIn: 2, cpus: []int{0}, polls: 66, every: 11,
		bursts: []burst{{buffers: 6600, length: 60}, {buffers: 13200, length: 1400}},
	},
	{
		name: "100 times the budget in a burst every 3 s", oneIn: 2, cpus: []int{0}, polls: 99, every: 33,
		bursts: []burst{{buffers: 19800, length: 60}, {buffers: 39600, length: 1400}},
	},
	{
		name: "100 times the budget on one busy CPU of several", oneIn: 2, cpus: []int{0, 1, 2, 3, 4, 5, 6, 7}, polls: 33, every: 1,
		bursts: []burst{{buffers: 600, length: 60}, {buffers: 1200, length: 1400}, {cpu: 1, buffers: 4, length: 600}},
	},
	{
		name: "100 times the budget with GSO", oneIn: 2, cpus: []int{0}, polls: 33, every: 1,
		bursts: []burst{{buffers: 600, length: 60}, {buffers: 400, length: 2000, gso: 100}, {buffers: 800, length: 1400}},
	},
}

const experimentBudget = 100 // samples a second

func (e *experiment) start(t *testing.T) {
	t.Helper()
	e.k = load(t, Config{
		Samples: true, RandomOneIn: e.oneIn, SnapLength: 64, MaxPerSecond: experimentBudget, Seed: [32]byte{7}, cpus: e.cpus, injected: true,
	})
	e.now = e.k.sampling.credit[packet.KindRandom].last
	e.random = rand.New(rand.NewPCG(1, 2))
	e.https = make([]int, 1, sequenceLength+1)
	e.driver = newDriver(t, e.k, func(i uint64) benchStep {
		e.https = append(e.https, e.https[i])
		if e.random.IntN(5) > 0 {
			return benchStep{}
		}
		e.https[i+1]++
		return benchStep{DstPort: httpsPort}
	})
	pin(t, 0)
	undisturbed(t)
}

// undisturbed keeps the scheduler's signals from this thread: one that comes while packets are driven makes the library drive
// them again, and the same seeds would not make the same samples.
func undisturbed(t *testing.T) {
	t.Helper()
	var before, urgent unix.Sigset_t
	urgent.Val[0] = 1 << (unix.SIGURG - 1)
	require.NoError(t, unix.PthreadSigmask(unix.SIG_BLOCK, &urgent, &before))
	t.Cleanup(func() { require.NoError(t, unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)) })
}

// run makes the samples and the truth of one run. What the samplers know of the runs before stays.
func (e *experiment) run(t *testing.T) {
	t.Helper()
	e.truth.packets, e.truth.bytes, e.truth.https, e.truth.small = 0, 0, 0, 0
	for range e.idle / pollInterval {
		e.poll(t)
	}
	e.samples = e.samples[:0]
	for i := range e.polls {
		for _, b := range e.bursts {
			if i%e.every == 0 {
				e.send(t, &b)
			}
		}
		e.poll(t)
	}
}

func (e *experiment) send(t *testing.T, b *burst) {
	t.Helper()
	if b.cpu != e.cpu {
		var one unix.CPUSet
		one.Set(b.cpu)
		require.NoError(t, unix.SchedSetaffinity(0, &one))
		e.cpu = b.cpu
	}
	before := e.driver.driven
	after, err := e.driver.run(flow.DirectionEgress, &ebpf.RunOptions{
		Data: tcpFrame(16, b.length), Repeat: uint32(1 + b.buffers/2 + e.random.IntN(b.buffers)), Context: skbContext{GSOSize: b.gso},
	})
	require.NoError(t, err)
	e.driver.driven = after
	packets := float64(after-before) * b.packets()
	e.truth.packets += packets
	e.truth.bytes += float64(after-before) * b.bytes()
	e.truth.https += float64(e.httpsBefore(after)-e.httpsBefore(before)) * b.packets()
	if b.length < largeLength {
		e.truth.small += packets
	}
	e.sent.Add(flow.Volume{Packets: uint64(packets), Bytes: (after - before) * uint64(b.bytes())})
}

// httpsBefore is the number of buffers to port 443 among the first n.
func (e *experiment) httpsBefore(n uint64) int {
	return int(n/sequenceLength)*e.https[sequenceLength] + e.https[n%sequenceLength]
}

func (e *experiment) poll(t *testing.T) {
	t.Helper()
	e.now = e.now.Add(pollInterval)
	_, err := e.k.sampling.poll(e.now, func(s *packet.Sample) {
		e.samples = append(e.samples, weighed{
			pool: float64(s.Pool), packets: float64(s.Segments), bytes: float64(s.WireLen),
			https: binary.NativeEndian.Uint16(s.Data[36:]) == httpsPort, small: s.WireLen < largeLength,
		})
	})
	require.NoError(t, err)
}

// estimated is one number about a run and what it really was.
type estimated struct {
	name string
	interval
	truth float64
}

func (e *experiment) estimates() []estimated {
	bytes, https, first := add(e.samples, bytesOf, isHTTPS), add(e.samples, packetsOf, isHTTPS), add(e.samples, packetsOf, isSmall)
	return []estimated{
		{"packets", https.total(), e.truth.packets},
		{"bytes", bytes.total(), e.truth.bytes},
		{"packets to port 443", https.share(), e.truth.https / e.truth.packets},
		{"packets that come first", first.share(), e.truth.small / e.truth.packets},
	}
}

func packetsOf(s *weighed) float64 { return s.packets }
func bytesOf(s *weighed) float64   { return s.bytes }
func isHTTPS(s *weighed) bool      { return s.https }
func isSmall(s *weighed) bool      { return s.small }

// What docs/packets.md promises of the interval, in each case that makes it hard. Of 100 runs 93 are one standard deviation less
// than 95: of 28 intervals some would fall below that with most seeds. More runs (EBPFPACKETS_RUNS) come closer: the table in
// docs/packets.md is of 1,000.
func TestIntervalsCoverTheTruth(t *testing.T) {
	testenv.Privileged(t)
	runs := 100
	if more, err := strconv.Atoi(os.Getenv("EBPFPACKETS_RUNS")); err == nil {
		runs = more
	}
	for _, e := range experiments {
		t.Run(e.name, func(t *testing.T) {
			require.GreaterOrEqual(t, runtime.NumCPU(), 2)
			e.start(t)
			covered, off, width, samples := map[string]int{}, map[string]float64{}, map[string]float64{}, 0
			for range runs {
				e.run(t)
				samples += len(e.samples)
				for _, one := range e.estimates() {
					if one.covers(one.truth) {
						covered[one.name]++
					}
					off[one.name] += (one.estimate/one.truth - 1) / float64(runs)
					width[one.name] += (one.high - one.low) / 2 / one.truth / float64(runs)
				}
			}
			t.Logf("%d samples per run", samples/runs)
			for _, one := range e.estimates() {
				t.Logf("%-25s covered in %d of %d runs, off by %+.1f %% on average, interval +-%.0f %%", one.name, covered[one.name], runs,
					100*off[one.name], 100*width[one.name])
				require.GreaterOrEqual(t, covered[one.name], 93*runs/100, one.name)
			}
			seconds := float64(runs) * (float64(e.polls)*pollInterval.Seconds() + e.idle.Seconds())
			got := drain(t, e.k)
			require.Equal(t, e.sent, got.Ledger.Seen, "the truth is what was sent")
			require.LessOrEqual(t, float64(got.Samples[packet.KindRandom].Emitted), experimentBudget*(seconds+1))
		})
	}
}

// The example of docs/packets.md.
func TestWorkedExample(t *testing.T) {
	s := sums{pools: 300_000, squares: 594_000_000, largest: 6200, x: 360_000, xx: 840_000, part: 72_000, partXX: 150_000}
	packets, share := s.total(), s.share()
	require.InDelta(t, 300_600, packets.low, 50)
	require.InDelta(t, 419_400, packets.high, 50)
	require.InDelta(t, 0.129, share.low, 0.0005)
	require.InDelta(t, 0.297, share.high, 0.0005)
}
