// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/netns"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// handleOf holds the namespace of a test.
func handleOf(tb testing.TB, n *testenv.NetNS) *netns.Namespace {
	tb.Helper()
	found, err := netns.Find([]string{n.Path()})
	require.NoError(tb, err)
	require.Len(tb, found, 1)
	handle, err := netns.Open(found[0])
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, handle.Close()) })
	return handle
}

// observe counts in the namespace of a test until that ends.
func (k *Kernel) observe(tb testing.TB, number uint16, ns *testenv.NetNS) *Namespace {
	tb.Helper()
	n, err := k.Observe(number, handleOf(tb, ns))
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, n.Close()) })
	return n
}

func (n *Namespace) attachSite(tb testing.TB, s site) {
	tb.Helper()
	require.NoError(tb, n.Attach(iface.Interface{Index: uint32(s.Index), Name: s.Name, HWType: hwEthernet}, s.direction))
}

// spaced is traffic between the two ends of a pair, the left one observed in a namespace of its own.
type spaced struct {
	*crossing
	number uint16
	arps   int
	frames int
}

// Packets of equal flows at equal indexes of three namespaces, one of them the process's own, count apart: flows, class slots, samples,
// fragments, and ICMP errors.
func TestNamespacesNeverMix(t *testing.T) {
	for way, cfg := range attachWays(t) {
		t.Run(way, func(t *testing.T) {
			cfg.Samples, cfg.FirstPerFlow, cfg.SnapLength, cfg.MaxPerSecond, cfg.Quotes = true, 1, 64, 100_000, true
			k := load(t, cfg)
			pin(t, 0) // before it is 6.11, one CPU: packets of a namespace meet those of another in one region
			var all []*spaced
			for i, number := range []uint16{0, 7, MaxNamespace} {
				s := &spaced{crossing: newCrossing(t), number: number, arps: 3 + i, frames: 100 * (1 + i)}
				all = append(all, s)
				at := s.sites()[0]
				require.Equal(t, all[0].left.Index, at.Index, "equal indexes")
				if number == 0 {
					k.attachEnd(t, at.End, at.direction)
					continue
				}
				k.observe(t, number, at.NetNS).attachSite(t, at)
			}
			for _, s := range all {
				s.sendApart(s.number == 7)
			}
			got := drain(t, k)
			samples := map[uint16]int{}
			_, err := k.ReadSamples(func(s *packet.Sample) { samples[s.NetNS]++ })
			require.NoError(t, err)
			var sum flow.Volume
			for _, s := range all {
				s.requireApart(got, samples)
				sum.Add(s.sender.Sent)
			}
			require.Equal(t, sum, got.Ledger.Seen)
			require.Zero(t, got.Ledger.Entries[flow.ReasonOverflow])
		})
	}
}

const (
	arpFrame        = "ffffffffffff 02000000000a 0806 0001080006040001 02000000000a 0a4d0001 000000000000 0a4d0002"
	firstOne        = "020000000002 02000000000a 0800 4500 0030 4242 2000 40 11 0000 0a630001 0a630002 1234 0035 0100 0000 0000000000000000000000000000000000000000"
	laterOne        = "020000000002 02000000000a 0800 4500 0024 4242 0003 40 11 0000 0a630001 0a630002 00000000000000000000000000000000"
	unreachableICMP = "020000000002 02000000000a 0800 4500 0038 0000 0000 40 01 0000 0a630009 0a630001 0301 0000 00000000 4500 0020 0000 0000 40 11 0000 0a630002 0a630001 0035 1234 000c 0000"
)

// sendApart sends the datagrams, ARP frames, a later fragment, whose first one only one namespace has, and an ICMP error.
func (s *spaced) sendApart(first bool) {
	s.t.Helper()
	s.sender.Datagrams(&s.datagrams, 0, s.frames)
	for range s.arps {
		s.sender.Raw(octets(s.t, arpFrame))
	}
	if first {
		s.sender.Raw(octets(s.t, firstOne))
	}
	s.sender.Raw(octets(s.t, laterOne))
	s.sender.Raw(octets(s.t, unreachableICMP))
}

func octets(t *testing.T, text string) (b []byte) {
	t.Helper()
	_, err := fmt.Sscanf(strings.ReplaceAll(text, " ", ""), "%x", &b)
	require.NoError(t, err)
	return b
}

func (s *spaced) requireApart(got taken, samples map[uint16]int) {
	s.t.Helper()
	flows := map[flow.Key]flow.Volume{}
	var sum flow.Volume
	later := 0
	for _, slot := range got.slots {
		if slot.NetNS == s.number {
			addTo(flows, slot.Key, slot.Volume)
			sum.Add(slot.Volume)
			if slot.LaterFragment {
				later++
			}
		}
	}
	for number, want := range s.datagrams.Volumes(s.frames) {
		key := s.datagrams.Key(number)
		key.IfIndex, key.NetNS = uint32(s.left.Index), s.number
		require.Equal(s.t, want, flows[key], "flow %d of namespace %d", number, s.number)
	}
	var arps uint64
	for _, c := range got.Classes {
		if c.NetNS == s.number {
			require.Equal(s.t, flow.ReasonARP, c.Reason)
			require.Equal(s.t, uint32(s.left.Index), c.IfIndex)
			arps += c.Packets
			sum.Add(c.Volume)
		}
	}
	require.EqualValues(s.t, s.arps, arps)
	require.Equal(s.t, s.sender.Sent, sum, "namespace %d", s.number)
	require.Equal(s.t, s.number != 7, later == 1, "a first fragment is of its namespace")
	quotes := 0
	for _, q := range got.Quotes {
		if q.NetNS == s.number {
			quotes += int(q.Count)
		}
	}
	require.Equal(s.t, 1, quotes)
	require.Equal(s.t, len(flows), samples[s.number], "the first packet of each flow")
}

// How interfaces are joined is said of each namespace.
func TestStackingsAreOfANamespace(t *testing.T) {
	k := load(t, Config{Deduplicate: true})
	var sites []site
	var spaces []*Namespace
	for number := uint16(1); number <= 2; number++ {
		r := newCrossing(t)
		n := k.observe(t, number, r.left.NetNS)
		n.attachSite(t, r.sites()[0])
		sites, spaces = append(sites, r.sites()[0]), append(spaces, n)
	}
	require.NoError(t, spaces[0].Stack(map[uint32]iface.Stacking{uint32(sites[0].Index): {Egress: true}}))
	require.NoError(t, spaces[1].Stack(nil))
	for _, s := range sites {
		s.NewSender().Datagrams(&testenv.Datagrams{Flows: 1, Payloads: []int{0}, Src: s.MAC, Dst: testenv.Nobody}, 0, 5)
	}
	got := drain(t, k)
	require.Len(t, got.Classes, 1)
	require.Equal(t, flow.ReasonDuplicate, got.Classes[0].Reason)
	require.Equal(t, uint16(1), got.Classes[0].NetNS)
	require.Len(t, got.slots, 1)
	require.Equal(t, uint16(2), got.slots[0].NetNS)
	require.NoError(t, spaces[0].Close())
	require.Error(t, k.objects.Stackings.Lookup(bpfPlace{Ifindex: uint32(sites[0].Index), Netns: 1}, new(bpfStacking)), "it went with its namespace")
}

// A namespace that is closed leaves nothing: no program, no file, nothing at its interfaces.
func TestAClosedNamespaceLeavesNothing(t *testing.T) {
	for way, cfg := range attachWays(t) {
		t.Run(way, func(t *testing.T) {
			k, r := load(t, cfg), newCrossing(t)
			handle := handleOf(t, r.left.NetNS)
			at := r.sites()[0]
			visit := func() (programs []ebpf.ProgramID) {
				n, err := k.Observe(1, handle)
				require.NoError(t, err)
				_, err = k.Observe(1, handle)
				require.ErrorContains(t, err, "must be 1 to 4095 and free, got 1")
				n.attachSite(t, at)
				require.NoError(t, n.Attach(iface.Interface{Index: uint32(at.Index), Name: at.Name, HWType: hwEthernet}, at.direction), "twice is once")
				for _, p := range n.programs {
					programs = append(programs, idOf(t, p.Ingress), idOf(t, p.Egress))
				}
				require.Len(t, programs, 2, "no more than one kind of interfaces needs")
				r.send()
				require.Equal(t, uint64(packetsSent), drain(t, k).Ledger.Seen.Packets)
				require.NoError(t, n.Close())
				require.NoError(t, n.Close(), "closing twice is harmless")
				require.ErrorIs(t, n.Attach(iface.Interface{Index: uint32(at.Index), HWType: hwEthernet}, at.direction), os.ErrClosed)
				return programs
			}
			visit()
			before := whatIsOpen(t)
			var programs []ebpf.ProgramID
			for range 5 {
				programs = append(programs, visit()...)
			}
			require.Equal(t, before, whatIsOpen(t))
			for _, id := range programs {
				require.Eventually(t, func() bool { return gone(programError(id)) == nil && programError(id) != nil }, 5*time.Second, time.Millisecond, "program %d", id)
			}
			if cfg.Clsact {
				requireQdisc(t, at.End, "")
			}
			r.send()
			require.Zero(t, drain(t, k).Ledger.Seen.Packets)
		})
	}
}

// While one namespace is let go of, whose links go one after the other, another one can be attached to.
func TestLettingGoLetsOthersAttach(t *testing.T) {
	k, ns := load(t, Config{}), testenv.NewNetNS(t)
	n, err := k.Observe(1, handleOf(t, ns))
	require.NoError(t, err)
	for i := range 10 {
		for _, e := range ns.AddVeth(fmt.Sprint("left", i), fmt.Sprint("right", i)) {
			for _, d := range bothDirections {
				n.attachSite(t, site{e, d})
			}
		}
	}
	r := newCrossing(t)
	other := k.observe(t, 2, r.left.NetNS)
	links := func() int {
		k.mu.Lock()
		defer k.mu.Unlock()
		return len(n.links)
	}
	closed := make(chan error)
	go func() { closed <- n.Close() }()
	require.Eventually(t, func() bool { return links() < 40 }, 10*time.Second, time.Millisecond)
	other.attachSite(t, r.sites()[0])
	require.NotZero(t, links())
	require.NoError(t, <-closed)
	require.Zero(t, links())
}

func programError(id ebpf.ProgramID) error {
	p, err := ebpf.NewProgramFromID(id)
	if err == nil {
		p.Close()
	}
	return err
}

// killChild returns when nothing is left of the process but what it left behind.
func killChild(t *testing.T, at site, c child) {
	t.Helper()
	p, _ := startChild(t, at, c)
	require.NoError(t, p.Kill())
	require.Eventually(t, func() bool { return syscall.Kill(p.Pid, 0) != nil }, 10*time.Second, time.Millisecond, "it is still there")
}

// What a killed predecessor left in a namespace goes when its successor attaches there.
func TestLeftoversGoInEveryNamespace(t *testing.T) {
	r := newCrossing(t)
	at := r.sites()[0]
	killChild(t, at, child{Clsact: true, Lease: time.Minute})
	k := load(t, Config{Clsact: true})
	n := k.observe(t, 1, at.NetNS)
	n.attachSite(t, at)
	split(t, filtersAt(t, at)) // one of ours
	r.send()
	require.Equal(t, uint64(packetsSent), drain(t, k).Ledger.Seen.Packets)
	require.NoError(t, n.Close())
	requireQdisc(t, at.End, "")
}

// What it left where no successor attaches goes, too, and the qdisc if one of us added it and nobody uses it. What others have stays, and so does what
// a process of ours has that lives.
func TestLeftoversGoWhereNobodyAttaches(t *testing.T) {
	r := newCrossing(t)
	left := r.sites()[0]
	hooks := func(ends [2]*testenv.End) (a, b site) {
		return site{ends[0], flow.DirectionEgress}, site{ends[1], flow.DirectionEgress}
	}
	shared, theirs := hooks(left.AddVeth("shared0", "theirs0"))
	alive, never := hooks(left.AddVeth("alive0", "never0"))

	addQdisc(t, theirs.End)
	startChild(t, alive, child{Clsact: true, Lease: time.Minute})
	living, _, _ := split(t, filtersAt(t, alive))
	all := child{Clsact: true, Lease: time.Minute}
	for _, s := range []site{left, shared, theirs, alive} {
		all.Both = append(all.Both, uint32(s.Index))
	}
	killChild(t, left, all)
	newStranger(t, tcxNext32).addFilter(shared, 7, 1)
	_, _, others := split(t, filtersAt(t, shared))
	require.Len(t, filtersAt(t, alive), 2)

	k := load(t, Config{Clsact: true})
	n := k.observe(t, 1, left.NetNS)
	for _, c := range []struct {
		site
		swept  int
		qdisc  string
		leaves []tcFilter
	}{
		{left, 2, "", nil},
		{shared, 2, "clsact", others},
		{theirs, 2, "clsact", nil},
		{alive, 2, "clsact", []tcFilter{living}},
		{never, 0, "", nil},
	} {
		swept, err := n.Sweep(iface.Interface{Index: uint32(c.Index), Name: c.Name})
		require.NoError(t, err, c.Name)
		require.Equal(t, c.swept, swept, c.Name)
		require.Equal(t, c.leaves, filtersAt(t, c.site), c.Name)
		require.Empty(t, filtersAt(t, site{c.End, flow.DirectionIngress}), c.Name)
		requireQdisc(t, c.End, c.qdisc)
	}
}

// A leftover whose interface somebody holds the lock of goes, but its qdisc stays: a filter may be about to come.
func TestLeftoversGoWithoutTheLock(t *testing.T) {
	r := newCrossing(t)
	at := r.sites()[0]
	killChild(t, at, child{Clsact: true, Lease: time.Minute})
	k := load(t, Config{Clsact: true})
	n := k.observe(t, 1, at.NetNS)
	defer lockOf(t, at.End)()
	swept, err := n.Sweep(iface.Interface{Index: uint32(at.Index), Name: at.Name})
	require.NoError(t, err)
	require.Equal(t, 1, swept)
	require.Empty(t, filtersAt(t, at))
	requireQdisc(t, at.End, "clsact")
}

// lockOf takes the lock of an interface, as one of us does that is about to attach, or anybody else.
func lockOf(t *testing.T, e *testenv.End) (release func()) {
	t.Helper()
	var lock *claim
	var err error
	e.Do(func() { lock, err = newClaim(fmt.Sprintf("%s.%d", filterName, e.Index)) })
	require.NoError(t, err)
	return func() { require.NoError(t, lock.release()) }
}

// BenchmarkInstance is what one more namespace costs: time to load the programs for interfaces with a link header, and their memory.
func BenchmarkInstance(b *testing.B) {
	k := load(b, Config{Samples: true, RandomOneIn: 1000, MaxPerSecond: 100, SnapLength: 256, Quotes: true})
	var charged, jited uint64
	for b.Loop() {
		p, err := k.loadInstance(1, iface.LinkHeaderEthernet)
		require.NoError(b, err)
		charged, jited = 0, 0
		for _, p := range []*ebpf.Program{p.Ingress, p.Egress} {
			info, err := p.Info()
			require.NoError(b, err)
			memory, _ := info.Memlock()
			code, _ := info.JitedSize()
			charged += memory
			jited += uint64(code)
			require.NoError(b, p.Close())
		}
	}
	b.ReportMetric(float64(charged), "charged-B")
	b.ReportMetric(float64(jited), "jited-B")
}

// A qdisc is removed under a lock that lies in its namespace, as the programs of others of us do.
func TestFiltersAreReleasedInTheirNamespace(t *testing.T) {
	k, r := load(t, Config{Clsact: true}), newCrossing(t)
	at := r.sites()[0]
	n := k.observe(t, 1, at.NetNS)
	n.attachSite(t, at)
	release := lockOf(t, at.End)
	require.NoError(t, n.Detach(uint32(at.Index)))
	release()
	require.Empty(t, filtersAt(t, at))
	requireQdisc(t, at.End, "clsact")
}

// Names that somebody keeps cost a second in all, not one for each hook, and none of them anything but the qdisc.
func TestNamesThatAreTakenDelayLittle(t *testing.T) {
	k, ns := load(t, Config{Clsact: true}), testenv.NewNetNS(t)
	n := k.observe(t, 1, ns)
	var ends []*testenv.End
	for i := range 10 {
		pair := ns.AddVeth(fmt.Sprint("left", i), fmt.Sprint("right", i))
		ends = append(ends, pair[0], pair[1])
		defer lockOf(t, pair[0])() // those between are free
	}
	began := time.Now()
	for _, e := range ends {
		for _, d := range bothDirections {
			n.attachSite(t, site{e, d})
		}
	}
	require.NoError(t, n.Close())
	require.Less(t, time.Since(began), 10*time.Second, "of 40 hooks, attached and detached, half of which had to wait")
	for i, e := range ends {
		require.Empty(t, filtersAt(t, site{e, flow.DirectionEgress}))
		requireQdisc(t, e, []string{"clsact", ""}[i%2])
	}
}

// A filter is taken back even where nobody can go any more; the qdisc stays, since its lock lies there.
func TestFiltersAreReleasedFromOutside(t *testing.T) {
	k, r := load(t, Config{Clsact: true}), newCrossing(t)
	at := r.sites()[0]
	found, err := netns.Find([]string{at.Path()})
	require.NoError(t, err)
	handle, err := netns.Open(found[0])
	require.NoError(t, err)
	n, err := k.Observe(1, handle)
	require.NoError(t, err)
	n.attachSite(t, at)
	split(t, filtersAt(t, at)) // one of ours
	require.NoError(t, handle.Close())
	require.ErrorContains(t, n.Detach(uint32(at.Index)), "enter network namespace")
	require.Empty(t, filtersAt(t, at))
	requireQdisc(t, at.End, "clsact")
	require.NoError(t, n.Close())
}
