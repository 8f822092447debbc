// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// attachWays are those in which this kernel lets programs be attached.
func attachWays(t *testing.T) map[string]Config {
	t.Helper()
	testenv.Privileged(t)
	ways := map[string]Config{"tcx": {}, "clsact": {Clsact: true}}
	tcx, err := haveTCX()
	require.NoError(t, err)
	if !tcx {
		delete(ways, "tcx")
	}
	return ways
}

// crossing is a pair and what is sent from its left end to its right one.
type crossing struct {
	t           *testing.T
	left, right *testenv.End
	sender      *testenv.Sender
	datagrams   testenv.Datagrams
}

func newCrossing(t *testing.T) *crossing {
	t.Helper()
	r := &crossing{t: t}
	r.left, r.right = testenv.Pair(t, testenv.PairConfig{})
	r.sender = r.left.NewSender()
	r.datagrams = testenv.Datagrams{Flows: 50, Payloads: []int{0, 100, 1452}, Src: r.left.MAC, Dst: r.right.MAC}
	return r
}

// packetsSent are few enough for the backlog of a CPU, which takes 1,000.
const packetsSent = 500

// send sends packetsSent packets and returns when they have passed both hooks.
func (r *crossing) send() {
	r.t.Helper()
	want := r.right.IPReceived() + packetsSent
	r.sender.Datagrams(&r.datagrams, 0, packetsSent)
	for began := time.Now(); r.right.IPReceived() != want; time.Sleep(time.Millisecond) {
		require.Less(r.t, time.Since(began), 10*time.Second, "packets are missing")
	}
}

// site is where a program is attached: packets leave through the left end and come in through the right one.
type site struct {
	*testenv.End
	direction flow.Direction
}

func (r *crossing) sites() []site {
	return []site{{r.left, flow.DirectionEgress}, {r.right, flow.DirectionIngress}}
}

func (r *crossing) attach(k *Kernel) {
	r.t.Helper()
	for _, s := range r.sites() {
		k.attachEnd(r.t, s.End, s.direction)
	}
}

func (r *crossing) detach(k *Kernel) {
	r.t.Helper()
	for _, s := range r.sites() {
		require.NoError(r.t, k.detach(hook{uint32(s.Index), s.direction}))
	}
}

// requireSeen wants that k counted so many packets at each site since the last time.
func (r *crossing) requireSeen(k *Kernel, packets uint64, msg ...any) {
	r.t.Helper()
	got := drain(r.t, k)
	for _, d := range []flow.Direction{flow.DirectionEgress, flow.DirectionIngress} {
		_, _, sum := got.direction(d)
		require.Equal(r.t, packets, sum.Packets, append([]any{d}, msg...)...)
	}
}

// stranger is a program of somebody else. It counts what passes it.
type stranger struct {
	t       *testing.T
	program *ebpf.Program
	counts  *ebpf.Map
}

func newStranger(t *testing.T, verdict int32) *stranger {
	t.Helper()
	counts, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	require.NoError(t, err)
	t.Cleanup(func() { counts.Close() })
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "stranger", Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMapValue(asm.R1, counts.FD(), 0),
		asm.Mov.Imm(asm.R2, 1),
		asm.StoreXAdd(asm.R1, asm.R2, asm.DWord),
		asm.Mov.Imm(asm.R0, verdict),
		asm.Return(),
	}})
	require.NoError(t, err)
	t.Cleanup(func() { program.Close() })
	return &stranger{t, program, counts}
}

// seen returns how many packets passed it since the last time.
func (s *stranger) seen() (n uint64) {
	s.t.Helper()
	require.NoError(s.t, s.counts.Lookup(uint32(0), &n))
	require.NoError(s.t, s.counts.Put(uint32(0), uint64(0)))
	return n
}

func (s *stranger) attachTCX(at site) {
	s.t.Helper()
	at.Do(func() {
		l, err := attachTCX(uint32(at.Index), at.direction, s.program, true)
		require.NoError(s.t, err)
		s.t.Cleanup(func() { l.Close() })
	})
}

// addFilter adds it by the means of a library that we do not use for ours.
func (s *stranger) addFilter(at site, priority uint16, handle uint32) {
	s.t.Helper()
	require.NoError(s.t, at.Link().FilterAdd(&netlink.BpfFilter{
		FilterAttrs: filterAttrs(at, priority, handle), Fd: s.program.FD(), Name: "stranger", DirectAction: true,
	}))
}

func filterAttrs(at site, priority uint16, handle uint32) netlink.FilterAttrs {
	return netlink.FilterAttrs{LinkIndex: at.Index, Parent: parents[at.direction], Priority: priority, Handle: handle, Protocol: unix.ETH_P_ALL}
}

func addQdisc(t *testing.T, e *testenv.End) {
	t.Helper()
	require.NoError(t, e.Link().QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: e.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}))
}

// programsAt are those attached with tcx, in their order.
func programsAt(t *testing.T, at site) (ids []ebpf.ProgramID) {
	t.Helper()
	attach := [...]ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress}[at.direction]
	at.Do(func() {
		result, err := link.QueryPrograms(link.QueryOptions{Target: at.Index, Attach: attach})
		require.NoError(t, err)
		for _, p := range result.Programs {
			ids = append(ids, p.ID)
		}
	})
	return ids
}

func idOf(t *testing.T, p *ebpf.Program) ebpf.ProgramID {
	t.Helper()
	info, err := p.Info()
	require.NoError(t, err)
	id, ok := info.ID()
	require.True(t, ok)
	return id
}

// Whatever the way, each flow is counted at both hooks as it was sent, under drains, and nothing is left behind.
func TestEachWayOfAttachingIsExact(t *testing.T) {
	for way, cfg := range attachWays(t) {
		t.Run(way, func(t *testing.T) {
			k, r := load(t, cfg), newCrossing(t)
			r.attach(k)
			c := collect(t, k)
			const rounds = 40
			for range rounds {
				r.send()
			}
			c.stop()
			want := map[sideKey]flow.Volume{}
			for number, v := range r.datagrams.Volumes(packetsSent) {
				for _, s := range r.sites() {
					key := r.datagrams.Key(number)
					key.IfIndex = uint32(s.Index)
					want[sideKey{key, s.direction}] = flow.Volume{Packets: rounds * v.Packets, Bytes: rounds * v.Bytes}
				}
			}
			require.Equal(t, want, c.flows)
			require.Equal(t, uint64(2*rounds*packetsSent), c.ledger.Seen.Packets)
			r.detach(k)
			r.send()
			require.Zero(t, drain(t, k).Ledger.Seen)
			for _, s := range r.sites() {
				if way == "tcx" {
					require.Empty(t, programsAt(t, s))
				}
				requireQdisc(t, s.End, "")
			}
		})
	}
}

// Programs of others before and after ours stay, in their order, and see every packet, while we come, go and come again.
func TestTCXProgramsOfOthersStay(t *testing.T) {
	for _, last := range []bool{false, true} {
		t.Run(map[bool]string{false: "first", true: "last"}[last], func(t *testing.T) {
			r := newCrossing(t)
			before, after := newStranger(t, tcxNext32), newStranger(t, tcxNext32)
			at := r.sites()[0]
			before.attachTCX(at)
			for round := range 2 {
				k := load(t, Config{AttachLast: last})
				k.attachEnd(t, at.End, at.direction)
				if round == 0 {
					after.attachTCX(at)
				}
				ours, theirs := idOf(t, k.objects.EgressL2), []ebpf.ProgramID{idOf(t, before.program), idOf(t, after.program)}
				want := [][2][]ebpf.ProgramID{
					{{ours, theirs[0], theirs[1]}, {theirs[0], ours, theirs[1]}}, // after came behind us
					{{ours, theirs[0], theirs[1]}, {theirs[0], theirs[1], ours}},
				}[round][map[bool]int{false: 0, true: 1}[last]]
				require.Equal(t, want, programsAt(t, at))
				r.send()
				require.Equal(t, uint64(packetsSent), drain(t, k).Ledger.Seen.Packets)
				require.Equal(t, [2]uint64{packetsSent, packetsSent}, [2]uint64{before.seen(), after.seen()})
				require.NoError(t, k.Close())
				require.Equal(t, theirs, programsAt(t, at))
				r.send()
				require.Equal(t, [2]uint64{packetsSent, packetsSent}, [2]uint64{before.seen(), after.seen()})
			}
		})
	}
}

const (
	tcxNext32 = -1
	tcxPass   = 0 // TCX_PASS, TC_ACT_OK: ends the chain
)

// What a program of others ends is counted by us if we are first, and hidden from us if we are last.
func TestOrderDecidesWhatOthersHide(t *testing.T) {
	for way, cfg := range attachWays(t) {
		for _, last := range []bool{false, true} {
			t.Run(way+map[bool]string{false: " first", true: " last"}[last], func(t *testing.T) {
				cfg := cfg
				cfg.AttachLast = last
				k, r := load(t, cfg), newCrossing(t)
				var theirs []*stranger
				for _, s := range r.sites() {
					other := newStranger(t, tcxPass)
					if cfg.Clsact {
						addQdisc(t, s.End)
						other.addFilter(s, 10, 1)
					} else {
						other.attachTCX(s)
					}
					theirs = append(theirs, other)
				}
				r.attach(k)
				r.send()
				r.requireSeen(k, map[bool]uint64{false: packetsSent, true: 0}[last])
				for _, other := range theirs {
					require.Equal(t, uint64(packetsSent), other.seen())
				}
			})
		}
	}
}

// An interface that is not there, or of an unknown kind, says so in each way, and leaves nothing open.
func TestAttachToNothingFails(t *testing.T) {
	for way, cfg := range attachWays(t) {
		k, r := load(t, cfg), newCrossing(t)
		before := whatIsOpen(t)
		r.left.Do(func() {
			err := k.Attach(iface.Interface{Index: 1 << 30, Name: "gone0", HWType: hwEthernet}, flow.DirectionIngress)
			require.ErrorContains(t, err, "attach "+way+` ingress to "gone0" (ifindex 1073741824): `)
			require.ErrorIs(t, err, unix.ENODEV)
		})
		require.Equal(t, before, whatIsOpen(t))
	}
}
