// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pmetric"
	otelreceiver "go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
	"github.com/ebpfpackets/ebpfpackets/internal/netns"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

// start is when every test with injected time begins: 2026-01-02 03:04:05 UTC.
var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// fakeHost is a platform without a kernel. All fields may be changed while it runs, under mu.
type fakeHost struct {
	mu        sync.Mutex
	ifaces    []iface.Interface
	loadErr   error
	listErr   error
	lists     int
	attachErr map[string]error // by interface name
	refused   []time.Time      // attempts to attach
	onAttach  func()           // not nil: called when a hook was attached
	drainErr  error
	changed   func()
	loaded    []sourceConfig
	clock     func() time.Time

	booted     int64       // kernel.Drained.Booted
	slots      []flow.Slot // what the next drain takes
	classes    []kernel.Class
	samples    []packet.Sample
	mismatches []kernel.Mismatch
	lateCPU    uint64
	quotes     []flow.Quote
	quotesLost uint64
	own        map[uint32]iface.Counters // of the interfaces themselves
	attached   map[uint32]int            // hooks by ifindex
	hwTypes    []uint16                  // of the interfaces that were attached, one for each hook
	lost       map[uint32]int            // hooks by ifindex that somebody else emptied
	stacks     map[uint32]iface.Stacking // what the programs were told last
	stackErr   error
	swept      []string // names of interfaces
	sweepErr   error
	pressure   chan struct{}
	stopped    bool
	closed     int
	drains     int
	reads      int
	untilStop  []flow.Slot   // counted just before Stop
	failures   int           // drains that fail yet
	hold       chan struct{} // not nil: drains last until it is closed
	draining   atomic.Bool
	misused    atomic.Bool // Stop and Drain were called at a time
	watchErr   error
	watches    int
	deaf       chan error // not nil: what ends watching
	sampled    kernel.Samples
	missed     uint32   // packets of messages
	missing    []string // features

	spaces  map[string]*fakeSpace // other namespaces, by path
	findErr error
	blind   bool       // nothing is found
	opening *fakeSpace // held last
}

func newFakeHost(names ...string) *fakeHost {
	h := &fakeHost{clock: time.Now, attached: map[uint32]int{}, attachErr: map[string]error{}, pressure: make(chan struct{}, 1), spaces: map[string]*fakeSpace{}}
	for i, name := range names {
		h.ifaces = append(h.ifaces, ethernet(uint32(i+1), name))
	}
	return h
}

func ethernet(index uint32, name string) iface.Interface {
	return iface.Interface{Index: index, Name: name, Kind: "veth", HWType: 1, Up: true}
}

func (h *fakeHost) load(c sourceConfig, _ func(string)) (source, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.loaded = append(h.loaded, c)
	if h.loadErr != nil {
		return nil, h.loadErr
	}
	h.stopped = false
	return fakeSource{fakeHost: h}, nil
}

func (h *fakeHost) interfaces() ([]iface.Interface, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lists++
	return append([]iface.Interface(nil), h.ifaces...), h.listErr
}

func (h *fakeHost) counters() (map[uint32]iface.Counters, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.own, h.listErr
}

func (h *fakeHost) watch(ctx context.Context, changed func()) error {
	told := make(chan struct{}, 1) // changed is for one goroutine to call
	h.mu.Lock()
	h.changed = func() { told <- struct{}{} }
	h.watches++
	err, deaf := h.watchErr, h.deaf
	h.mu.Unlock()
	if err != nil {
		return err
	}
	changed()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-deaf:
			return err
		case <-told:
			changed()
		}
	}
}

func (h *fakeHost) ephemeralLow() uint16 { return defaultEphemeralLow }

// count makes the next drain take slots. After Stop nothing is counted.
func (h *fakeHost) count(slots ...flow.Slot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped {
		return
	}
	h.slots = append(h.slots, slots...)
}

// do runs f under the lock.
func (h *fakeHost) do(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

type fakeSource struct{ *fakeHost }

func (s fakeSource) Attach(i iface.Interface, _ flow.Direction) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.attachErr[i.Name]; err != nil {
		s.refused = append(s.refused, s.clock())
		return err
	}
	s.attached[i.Index]++
	s.hwTypes = append(s.hwTypes, i.HWType)
	if s.onAttach != nil {
		s.onAttach()
	}
	return nil
}

func (s fakeSource) DropLost(index uint32) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lost := s.lost[index]
	if lost > 0 {
		delete(s.lost, index)
		s.attached[index] -= lost
	}
	return lost, nil
}

func (s fakeSource) Detach(index uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.attached, index)
	return nil
}

func (s fakeSource) Sweep(i iface.Interface) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.swept = append(s.swept, i.Name)
	return 0, s.sweepErr
}

func (s fakeSource) Stack(all map[uint32]iface.Stacking) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stacks = all
	return s.stackErr
}

func (s fakeSource) Pressure() <-chan struct{} { return s.pressure }

func (s fakeSource) Drain(visit func(*flow.Slot)) (*kernel.Drained, error) {
	s.draining.Store(true)
	defer s.draining.Store(false)
	if s.hold != nil {
		<-s.hold
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drains++
	if s.drainErr != nil {
		return nil, s.drainErr
	}
	if s.failures > 0 {
		s.failures--
		return nil, errTest
	}
	d := &kernel.Drained{Time: s.clock().UnixNano(), Booted: s.booted, Classes: s.classes, Slots: len(s.slots), Mismatches: s.mismatches, Samples: s.sampled, LateCPU: s.lateCPU}
	d.Quotes, d.QuotesLost, s.quotes, s.quotesLost = s.quotes, s.quotesLost, nil, 0
	for i := range s.slots {
		d.Ledger.Entries[flow.ReasonAccounted].Add(s.slots[i].Volume)
		d.Ledger.Seen.Add(s.slots[i].Volume)
		visit(&s.slots[i])
		s.slots[i] = flow.Slot{} // valid during visit only
	}
	for _, c := range s.classes {
		d.Ledger.Entries[c.Reason].Add(c.Volume)
		d.Ledger.Seen.Add(c.Volume)
	}
	s.slots, s.classes, s.mismatches, s.sampled = nil, nil, nil, kernel.Samples{}
	return d, nil
}

func (s fakeSource) ReadSamples(visit func(*packet.Sample)) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	n := len(s.samples)
	for i := range s.samples {
		visit(&s.samples[i])
	}
	s.samples = nil
	return n, nil
}

func (s fakeSource) MissedMessages() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.missed
}

func (s fakeSource) Stop() error {
	if s.draining.Load() {
		s.misused.Store(true)
	}
	s.count(s.untilStop...)
	s.do(func() { s.stopped = true })
	return nil
}

func (s fakeSource) Close() error {
	s.do(func() { s.closed++ })
	return nil
}

func (s fakeSource) Missing() []string { return s.missing }
func (s fakeSource) MemoryBytes() int  { return 4096 }
func (s fakeSource) SlotLimit() int    { return 16384 }

// recordingHost is a component.Host that keeps status events.
type recordingHost struct {
	component.Host
	mu     sync.Mutex
	events []*componentstatus.Event
}

func newRecordingHost() *recordingHost { return &recordingHost{Host: componenttest.NewNopHost()} }

func (h *recordingHost) Report(e *componentstatus.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

func (h *recordingHost) statuses() []componentstatus.Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []componentstatus.Status
	for _, e := range h.events {
		all = append(all, e.Status())
	}
	return all
}

// testConfig selects every interface and collects often.
func testConfig() *Config {
	c := createDefaultConfig().(*Config)
	c.Interfaces.Include = []string{"*"}
	c.CollectionInterval = minInterval
	return c
}

// bench is an engine whose time and steps the test controls: nothing runs by itself.
type bench struct {
	*engine
	t          *testing.T
	host       *fakeHost
	interfaces *interfaces // of the own namespace
	now        time.Time
}

func newBench(t *testing.T, c *Config, host *fakeHost, metrics consumer.Metrics, logs consumer.Logs) *bench {
	b := &bench{t: t, host: host, now: epoch}
	set := receivertest.NewNopSettings(metadata.Type)
	b.engine = newEngine(c, set, host)
	b.engine.version = "1.2.3"
	b.engine.name = func() (string, error) { return "host-a", nil }
	b.engine.clock = func() time.Time { return b.now }
	host.clock = b.engine.clock
	b.nextMetrics, b.nextLogs = metrics, logs
	require.NoError(t, b.load())
	require.NoError(t, b.attach())
	b.setOwn()
	t.Cleanup(func() { require.NoError(t, b.release()) })
	return b
}

// setOwn finds the interfaces of the own namespace, if that is observed.
func (b *bench) setOwn() {
	if own := b.namespaces.all[netns.ID{}]; own != nil {
		b.interfaces = own.interfaces
	}
}

// after lets time pass and drains.
func (b *bench) after(d time.Duration) {
	b.now = b.now.Add(d)
	require.True(b.t, b.drainAndCompare())
}

// points collects, delivers and returns the points of one collection.
func (b *bench) points() []pmetric.Metrics {
	b.collect()
	return b.taken()
}

// taken takes the collection in flight.
func (b *bench) taken() []pmetric.Metrics {
	messages := <-b.metricsPusher.queue
	b.metricsPusher.outcomes <- slices.Repeat([]outcome{outcomeTaken}, len(messages))
	return messages
}

// ended ends everything, and queues the last records; there is room for them.
func (b *bench) ended() {
	require.NoError(b.t, b.finish())
	if b.logs != nil {
		b.logs.finish(b.t.Context(), b.drain.last)
	}
}

// batch returns the next queued batch of records.
func (b *bench) batch() *batch {
	select {
	case q := <-b.logs.queue:
		b.logs.waiting.Add(-q.bytes())
		return q
	default:
		require.FailNow(b.t, "no batch queued")
		return nil
	}
}

// tcp and udp return slots of conversations between a and b, seconds after epoch.
func tcp(src, dst string, d flow.Direction, flags uint8, packets, bytes uint64, first, last float64) flow.Slot {
	s := udp(src, dst, d, packets, bytes, first, last)
	s.Proto, s.TCPFlags = protoTCP, flags
	return s
}

func udp(src, dst string, d flow.Direction, packets, bytes uint64, first, last float64) flow.Slot {
	from, to := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	return flow.Slot{
		Key: flow.Key{
			SrcAddr: addr(from.Addr()), DstAddr: addr(to.Addr()), SrcPort: from.Port(), DstPort: to.Port(),
			IfIndex: 1, Proto: protoUDP, IPv6: from.Addr().Is6(),
		},
		Direction: d,
		Volume:    flow.Volume{Packets: packets, Bytes: bytes},
		First:     epoch.UnixNano() + int64(first*1e9),
		Last:      epoch.UnixNano() + int64(last*1e9),
	}
}

func addr(a netip.Addr) (b flow.Addr) {
	if a.Is4() {
		v4 := a.As4()
		copy(b[12:], v4[:])
		return b
	}
	return a.As16()
}

const (
	fin = 1 << 0
	syn = 1 << 1
	rst = 1 << 2
	psh = 1 << 3
	ack = 1 << 4
)

// handshake marks the slot of the opening side.
func opening(s flow.Slot, h flow.Handshake) flow.Slot {
	s.Handshake = h
	return s
}

// eth0 is interface 1 of the own namespace.
var eth0 = &view{names: map[flow.Place]place{{IfIndex: 1}: {iface: "eth0"}}}

var errTest = errors.New("no room")

func nopSettings() otelreceiver.Settings { return receivertest.NewNopSettings(metadata.Type) }
