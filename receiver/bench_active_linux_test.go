// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package receiver

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// elsewhere is the host, with the interfaces of another namespace.
type elsewhere struct {
	linux
	ns *testenv.NetNS
}

func (h elsewhere) load(c sourceConfig, notice func(string)) (source, error) {
	s, err := h.linux.load(c, notice)
	return sourceElsewhere{s, h.ns}, err
}

func (h elsewhere) interfaces() (all []iface.Interface, err error) {
	h.ns.Do(func() { all, err = h.linux.interfaces() })
	return all, err
}

func (h elsewhere) counters() (all map[uint32]iface.Counters, err error) {
	h.ns.Do(func() { all, err = h.linux.counters() })
	return all, err
}

func (h elsewhere) watch(ctx context.Context, changed func()) (err error) {
	h.ns.Do(func() { err = h.linux.watch(ctx, changed) })
	return err
}

type sourceElsewhere struct {
	source
	ns *testenv.NetNS
}

func (s sourceElsewhere) Attach(i iface.Interface, d flow.Direction) (err error) {
	s.ns.Do(func() { err = s.source.Attach(i, d) })
	return err
}

func (s sourceElsewhere) Sweep(i iface.Interface) (programs int, err error) {
	s.ns.Do(func() { programs, err = s.source.Sweep(i) })
	return programs, err
}

func (s sourceElsewhere) Detach(ifindex uint32) (err error) {
	s.ns.Do(func() { err = s.source.Detach(ifindex) })
	return err
}

func (s sourceElsewhere) Close() (err error) {
	s.ns.Do(func() { err = s.source.Close() })
	return err
}

// crowd is traffic of so many flows that take turns, each of them active all the time.
type crowd struct {
	flows    int
	rate     int // packets/s
	maxFlows int // of the receiver; 0: the default
}

// share is what a receiver took.
type share struct {
	packets, held int     // packets/s that came; flows in the table
	core          float64 // of one CPU
	control       float64 // what the process takes without receiver, beside the sending thread; not in core
	anon, rss     int     // growth in bytes: of memory of its own, and of all that it maps
}

const (
	crowdWarmUp = 20 * time.Second // longer than idle_timeout: the table has been filled, and flows ended
	crowdTime   = time.Minute      // two collections, and active_timeout
	controlTime = 10 * time.Second
	pumpPause   = 5 * time.Millisecond
)

// BenchmarkActiveFlows shows what the receiver takes at default settings while many flows are active: CPU time of the process but for the
// thread that sends, on which the program in the kernel runs, too; memory against that before Start. The next consumer does nothing.
func BenchmarkActiveFlows(b *testing.B) {
	testenv.Privileged(b)
	var table strings.Builder
	t := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "flows\tpackets/s\tmax_flows\tflows held\tof a core\tcontrol\town memory MiB\tRSS MiB\t")
	for _, c := range []crowd{{10_000, 10_000, 0}, {50_000, 50_000, 0}, {100_000, 20_000, 0}, {100_000, 100_000, 131_072}, {100_000, 100_000, 0}} {
		b.Run(fmt.Sprintf("flows=%d/rate=%d/max=%d", c.flows, c.rate, c.maxFlows), func(b *testing.B) {
			b.ReportMetric(0, "ns/op")
			s := c.measure(b)
			b.ReportMetric(100*s.core, "%core")
			b.ReportMetric(float64(s.anon)/(1<<20), "MiB")
			fmt.Fprintf(t, "%d\t%d\t%d\t%d\t%.2f %%\t%.2f %%\t%.1f\t%.1f\t\n", c.flows, s.packets, c.config().Flows.MaxFlows, s.held, 100*s.core,
				100*s.control, float64(s.anon)/(1<<20), float64(s.rss)/(1<<20))
		})
	}
	require.NoError(b, t.Flush())
	load, err := os.ReadFile("/proc/loadavg")
	require.NoError(b, err)
	fmt.Printf("\nload average %.14s\n%s\n", load, table.String())
}

func (c *crowd) config() *Config {
	cfg := createDefaultConfig().(*Config)
	cfg.Interfaces.Include = []string{"right0"}
	if c.maxFlows > 0 {
		cfg.Flows.MaxFlows = c.maxFlows
	}
	return cfg
}

func (c *crowd) measure(b *testing.B) (s share) {
	b.Helper()
	s.control = c.control(b)
	near, far := testenv.Pair(b, testenv.PairConfig{})
	sender := c.sender(near)
	runtime.GC()
	anon, rss := memoryOf(b)
	e := newEngine(c.config(), nopSettings(), elsewhere{ns: far.NetNS})
	e.nextMetrics, e.nextLogs = consumertest.NewNop(), consumertest.NewNop()
	require.NoError(b, e.start(b.Context()))
	sender.start()
	time.Sleep(crowdWarmUp)
	s.core, s.packets = sender.measure(b, crowdTime)
	s.core -= s.control
	s.anon, s.rss = memoryOf(b)
	s.anon, s.rss = s.anon-anon, s.rss-rss
	e.tel.mu.Lock()
	s.held = e.tel.flows
	e.tel.mu.Unlock()
	require.NoError(b, sender.stop())
	require.NoError(b, e.shutdown(context.Background()))
	require.Equal(b, far.Counters().Received.Packets, e.tel.ledger.Seen.Packets, "the ledger has what the interface received")
	return s
}

// control is what the process takes beside the sender while there is no receiver: the runtime looks after a thread that never sleeps.
func (c *crowd) control(b *testing.B) float64 {
	b.Helper()
	near, _ := testenv.Pair(b, testenv.PairConfig{})
	sender := c.sender(near)
	sender.start()
	time.Sleep(time.Second)
	core, _ := sender.measure(b, controlTime)
	require.NoError(b, sender.stop())
	return core
}

// pump sends at a rate, from a thread of its own.
type pump struct {
	*crowd
	hose   *testenv.Hose
	ask    chan chan pumped
	ended  chan error
	asking chan pumped
}

type pumped struct {
	packets int
	cpu     time.Duration // of the thread
}

func (c *crowd) sender(near *testenv.End) *pump {
	frames := make([][]byte, c.flows)
	for i := range frames {
		n := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		f := testenv.Frame{
			Src: near.MAC, Dst: testenv.MAC{2, 0, 0, 0, 0, 0xee}, Proto: protoUDP, Payload: 58, // nobody's address: dropped behind the hook
			From: netip.AddrPortFrom(n, uint16(32768+i%28000)), To: netip.MustParseAddrPort("198.18.0.1:443"),
		}
		frames[i] = f.AppendTo(nil)
	}
	return &pump{crowd: c, hose: near.NewHose(frames), ask: make(chan chan pumped), ended: make(chan error), asking: make(chan pumped)}
}

func (p *pump) start() { go func() { p.ended <- p.run() }() }

// run sends what is due after every pause, flow after flow, until ask is closed.
func (p *pump) run() error {
	runtime.LockOSThread() // and never unlock: its CPU time is asked for
	numbers := make([]uint32, 0, p.rate)
	pause := unix.Timespec{Nsec: int64(pumpPause)}
	began, sent := time.Now(), 0
	for {
		due := int(time.Since(began).Seconds() * float64(p.rate))
		for numbers = numbers[:0]; sent < due && len(numbers) < cap(numbers); sent++ {
			numbers = append(numbers, uint32(sent%p.flows))
		}
		if err := p.hose.Send(numbers); err != nil {
			return err
		}
		select {
		case answer, ok := <-p.ask:
			if !ok {
				return nil
			}
			var spent unix.Timespec
			if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &spent); err != nil {
				return err
			}
			answer <- pumped{sent, time.Duration(spent.Nano())}
		default:
			// The runtime must not know: it would wake another thread of its own each time, which is not the receiver's share.
			_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&pause)), 0, 0)
		}
	}
}

// measure returns what part of a core all other threads of the process take, and the packets/s that are sent.
func (p *pump) measure(b *testing.B, window time.Duration) (core float64, rate int) {
	b.Helper()
	cpu, before, began := processTime(b), p.progress(), time.Now()
	time.Sleep(window)
	elapsed, after := time.Since(began), p.progress()
	core = float64(processTime(b)-cpu-(after.cpu-before.cpu)) / float64(elapsed)
	return core, int(float64(after.packets-before.packets) / elapsed.Seconds())
}

func (p *pump) progress() pumped {
	p.ask <- p.asking
	return <-p.asking
}

func (p *pump) stop() error {
	close(p.ask)
	return <-p.ended
}

func processTime(b *testing.B) time.Duration {
	b.Helper()
	var spent unix.Timespec
	require.NoError(b, unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &spent))
	return time.Duration(spent.Nano())
}

var (
	rssAnon = regexp.MustCompile(`(?m)^RssAnon:\s*(\d+) kB$`)
	vmRSS   = regexp.MustCompile(`(?m)^VmRSS:\s*(\d+) kB$`)
)

// memoryOf returns the memory of the process in bytes: that of its own, and all that it maps, which the kernel's table is part of.
func memoryOf(b *testing.B) (anon, rss int) {
	b.Helper()
	text, err := os.ReadFile("/proc/self/status")
	require.NoError(b, err)
	read := func(line *regexp.Regexp) int {
		m := line.FindSubmatch(text)
		require.NotNil(b, m, "%s in /proc/self/status", line)
		kib, err := strconv.Atoi(string(m[1]))
		require.NoError(b, err)
		return kib << 10
	}
	return read(rssAnon), read(vmRSS)
}
