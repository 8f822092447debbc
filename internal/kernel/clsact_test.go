// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

func rtnlIn(t *testing.T, e *testenv.End) *rtnl {
	t.Helper()
	var r *rtnl
	var err error
	e.Do(func() { r, err = openRTNL() })
	require.NoError(t, err)
	t.Cleanup(r.close)
	return r
}

func requireQdisc(t *testing.T, e *testenv.End, want string) {
	t.Helper()
	kind, err := rtnlIn(t, e).qdisc(uint32(e.Index))
	require.NoError(t, err)
	require.Equal(t, want, kind)
}

func filtersAt(t *testing.T, s site) []tcFilter {
	t.Helper()
	all, err := rtnlIn(t, s.End).filters(uint32(s.Index), s.direction)
	require.NoError(t, err)
	return all
}

// split takes ours out of the filters, and says how many of the others were before it.
func split(t *testing.T, all []tcFilter) (ours tcFilter, before int, others []tcFilter) {
	t.Helper()
	count := 0
	for i, f := range all {
		if f.ours() {
			count++
			ours, before = f, i
		} else {
			others = append(others, f)
		}
	}
	require.Equal(t, 1, count, "filters of ours in %+v", all)
	return ours, before, others
}

// addU32 adds a filter that is no program, and that no packet of the tests matches.
func addU32(t *testing.T, at site, priority uint16) {
	t.Helper()
	require.NoError(t, at.Link().FilterAdd(&netlink.U32{
		FilterAttrs: filterAttrs(at, priority, 0), ClassId: 1,
		Sel: &netlink.TcU32Sel{Flags: netlink.TC_U32_TERMINAL, Keys: []netlink.TcU32Key{{Mask: 0xffffffff, Val: 0xdeadbeef, Off: 12}}},
	}))
}

func TestPriorityIsBeforeOrBehindOthers(t *testing.T) {
	program := func(p uint16) tcFilter { return tcFilter{priority: p, kind: "bpf", protocol: unix.ETH_P_ALL} }
	other := func(p uint16) tcFilter { return tcFilter{priority: p, kind: "flower", protocol: unix.ETH_P_IP} }
	for _, c := range []struct {
		name        string
		others      []tcFilter
		first, last uint16
	}{
		{"nobody", nil, priorityFirst, priorityLast},
		{"between", []tcFilter{other(0xc000)}, priorityFirst, priorityLast},
		{"before the usual one", []tcFilter{other(100), other(10)}, 9, priorityLast},
		{"behind the usual one", []tcFilter{other(0xfff0)}, priorityFirst, 0xfff1},
		{"a program at the first", []tcFilter{program(1), other(2)}, 1, priorityLast},
		{"no program at the first", []tcFilter{other(1), other(2), other(4)}, 3, priorityLast},
		{"a program behind it", []tcFilter{other(1), program(2)}, 2, priorityLast},
		{"a program at the last", []tcFilter{program(0xffff)}, priorityFirst, 0xffff},
		{"no program at the last", []tcFilter{other(0xffff), other(0xfffe)}, priorityFirst, 0xfffd},
		{"a program for one protocol", []tcFilter{{priority: 1, kind: "bpf", protocol: unix.ETH_P_IP}}, 2, priorityLast},
	} {
		require.Equal(t, c.first, priority(c.others, false), c.name)
		require.Equal(t, c.last, priority(c.others, true), c.name)
	}
}

// Filters of others, programs and others, before and after ours, stay as they are and see every packet, while we come, go and come
// again; so does their qdisc.
func TestFiltersOfOthersStay(t *testing.T) {
	for _, last := range []bool{false, true} {
		t.Run(map[bool]string{false: "first", true: "last"}[last], func(t *testing.T) {
			r := newCrossing(t)
			var theirs []*stranger
			want := map[site][]tcFilter{}
			for _, s := range r.sites() {
				addQdisc(t, s.End)
				for i, priority := range []uint16{1, 10, 60000, 0xffff} {
					other := newStranger(t, tcxNext32)
					other.addFilter(s, priority, uint32(i+1))
					theirs = append(theirs, other)
				}
				addU32(t, s, 20)
				want[s] = filtersAt(t, s)
			}
			for range 2 {
				k := load(t, Config{Clsact: true, AttachLast: last})
				r.attach(k)
				r.send()
				r.requireSeen(k, packetsSent)
				for _, s := range r.sites() {
					ours, before, others := split(t, filtersAt(t, s))
					require.Equal(t, want[s], others)
					require.Equal(t, filterName, ours.name, "the qdisc is not ours")
					require.Equal(t, map[bool]int{false: 0, true: len(others) - 1}[last], before, "at 65535 a program is before those that it shares it with")
				}
				require.NoError(t, k.Close())
				for _, s := range r.sites() {
					require.Equal(t, want[s], filtersAt(t, s))
				}
				r.send()
				for i, other := range theirs {
					require.Equal(t, uint64(2*packetsSent), other.seen(), "program %d", i)
				}
			}
		})
	}
}

// A qdisc that we added stays when others have come to use it, and goes when they have gone before us.
func TestOurQdiscStaysWhileOthersUseIt(t *testing.T) {
	r := newCrossing(t)
	at := r.sites()[0]
	for _, stays := range []bool{false, true} {
		k := load(t, Config{Clsact: true})
		k.attachEnd(t, at.End, at.direction)
		ours, _, _ := split(t, filtersAt(t, at))
		require.Equal(t, filterAndQdisc, ours.name)
		other := newStranger(t, tcxNext32)
		opposite := site{at.End, flow.DirectionIngress}
		other.addFilter(opposite, 7, 1)
		if !stays {
			require.NoError(t, at.Link().FilterDel(&netlink.BpfFilter{FilterAttrs: filterAttrs(opposite, 7, 1), Fd: -1}))
		}
		require.NoError(t, k.Close())
		requireQdisc(t, at.End, map[bool]string{false: "", true: "clsact"}[stays])
		if stays {
			require.Len(t, filtersAt(t, opposite), 1)
		}
	}
}

// The older qdisc "ingress" is in the place of clsact: what comes in can be counted, what goes out cannot, and must not be taken
// for it.
func TestAnIngressQdiscHasNoEgress(t *testing.T) {
	k, r := load(t, Config{Clsact: true}), newCrossing(t)
	require.NoError(t, r.right.Link().QdiscAdd(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: r.right.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS,
	}}))
	i := iface.Interface{Index: uint32(r.right.Index), Name: r.right.Name, HWType: hwEthernet}
	r.right.Do(func() {
		require.ErrorContains(t, k.Attach(i, flow.DirectionEgress), `the qdisc "ingress" is in the place of clsact, and sees no egress`)
		require.NoError(t, k.Attach(i, flow.DirectionIngress))
	})
	r.send()
	require.Equal(t, uint64(packetsSent), drain(t, k).Ledger.Seen.Packets)
	require.NoError(t, k.Detach(i.Index))
	requireQdisc(t, r.right, "ingress")
	require.Empty(t, filtersAt(t, site{r.right, flow.DirectionIngress}))
}

// Two of us at the same hooks count all packets each; the first to go leaves the other alone, the last takes the qdisc.
func TestTwoOfUsWithClsact(t *testing.T) {
	for _, first := range []int{0, 1} {
		r := newCrossing(t)
		both := []*Kernel{load(t, Config{Clsact: true}), load(t, Config{Clsact: true})}
		r.attach(both[0])
		r.attach(both[1])
		r.send()
		r.requireSeen(both[0], packetsSent)
		r.requireSeen(both[1], packetsSent)
		require.NoError(t, both[first].Close())
		requireQdisc(t, r.left, "clsact")
		r.send()
		r.requireSeen(both[1-first], packetsSent)
		require.NoError(t, both[1-first].Close())
		requireQdisc(t, r.left, "")
		requireQdisc(t, r.right, "")
	}
}

// A filter that the kernel refuses leaves neither a qdisc nor a file.
func TestARefusedFilterLeavesNothing(t *testing.T) {
	testenv.Privileged(t)
	r := newCrossing(t)
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SocketFilter, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R0, 0), asm.Return(),
	}})
	require.NoError(t, err)
	defer program.Close()
	before := whatIsOpen(t)
	r.left.Do(func() {
		_, err := attachClsact(uint32(r.left.Index), flow.DirectionEgress, program, false, new(patience))
		require.ErrorContains(t, err, "add a filter: ")
		require.ErrorIs(t, err, unix.EINVAL)
	})
	require.Equal(t, before, whatIsOpen(t))
	requireQdisc(t, r.left, "")
}

// Many of us come and go at one interface at the same time: none takes the qdisc from under another.
func TestManyOfUsComeAndGo(t *testing.T) {
	r := newCrossing(t)
	at := r.sites()[0]
	program := newStranger(t, tcxNext32).program
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			at.Do(func() {
				for range 20 {
					c, err := attachClsact(uint32(at.Index), at.direction, program, false, new(patience))
					if err != nil {
						t.Error(err)
						return
					}
					filters, err := c.rtnl.filters(c.ifindex, c.direction)
					found := false
					for _, f := range filters {
						found = found || f == c.filter
					}
					if !found || err != nil {
						t.Errorf("the filter is not there: %v", err)
					}
					if err := c.Close(); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
	running.Wait()
	requireQdisc(t, at.End, "")
}

// What is not ours any more is left alone: a filter that somebody replaced, an interface that is gone.
func TestCloseTakesNothingOfOthers(t *testing.T) {
	k, r := load(t, Config{Clsact: true}), newCrossing(t)
	at := r.sites()[0]
	k.attachEnd(t, at.End, at.direction)
	ours, _, _ := split(t, filtersAt(t, at))
	other := newStranger(t, tcxNext32)
	require.NoError(t, rtnlIn(t, at.End).deleteFilter(uint32(at.Index), at.direction, &ours))
	other.addFilter(at, ours.priority, ours.handle)
	want := filtersAt(t, at)
	require.NoError(t, k.Detach(uint32(at.Index)))
	require.Equal(t, want, filtersAt(t, at))

	k.attachEnd(t, at.End, at.direction)
	before := whatIsOpen(t)
	at.Delete()
	require.NoError(t, k.Detach(uint32(at.Index)))
	require.Equal(t, before.files-2, whatIsOpen(t).files, "a filter has two sockets")
}

// Where no priority is left before a filter that is no program, ours is behind it, and a notice says so.
func TestNoRoomBeforeOthersIsNoticed(t *testing.T) {
	var notices []string
	k, r := load(t, Config{Clsact: true, Notice: func(n string) { notices = append(notices, n) }}), newCrossing(t)
	at := r.sites()[0]
	addQdisc(t, at.End)
	addU32(t, at, 1)
	k.attachEnd(t, at.End, at.direction)
	_, before, _ := split(t, filtersAt(t, at))
	require.NotZero(t, before)
	require.Equal(t, []string{`clsact egress of "left0": no priority is free before the filters of others; packets that these end are not counted`}, notices)
}

// Neither files nor goroutines are left of a load that attaches with clsact.
func TestClsactLeavesNothing(t *testing.T) {
	r := newCrossing(t)
	load(t, Config{Clsact: true}) // what the library keeps open for good is open now
	before := whatIsOpen(t)
	for range 5 {
		k := load(t, Config{Clsact: true})
		r.attach(k)
		require.NoError(t, k.Close())
	}
	require.Equal(t, before, whatIsOpen(t))
}

// A lease that nobody renews ends, and with it counting; the next renewal says for how long, and counting goes on.
func TestAnExpiredLeaseIsNoticed(t *testing.T) {
	notices := make(chan string, 100)
	k, r := load(t, Config{Clsact: true, lease: time.Hour, Notice: func(n string) { notices <- n }}), newCrossing(t)
	r.attach(k)
	r.send()
	r.requireSeen(k, packetsSent)

	k.control.ValidUntil -= uint64(time.Hour/time.Duration(k.clock.tick)) + 1 // an hour later nobody has renewed it
	time.Sleep(50 * time.Millisecond)
	r.send()
	r.requireSeen(k, 0, "the lease has expired")

	require.NoError(t, k.renewLease())
	require.Regexp(t, `^for \d+(\.\d+)?m?s packets passed the clsact filters uncounted: this process stood still for longer than their lease of 1h0m0s$`, <-notices)
	r.send()
	r.requireSeen(k, packetsSent)
	require.NoError(t, k.renewLease())
	require.Empty(t, notices, "it was valid")
}

// tcx links go with their process: their programs have no lease to look at.
func TestTCXNeedsNoLease(t *testing.T) {
	k := load(t, Config{})
	require.Empty(t, k.Missing())
	require.Zero(t, leaseTicks(k.cfg, k.clock.tick))
	require.Zero(t, k.control.ValidUntil)
	require.Equal(t, []string{"no tcx, which Linux 6.6 has: programs are attached as filters of clsact qdiscs"}, load(t, Config{Clsact: true}).Missing())
}

func TestThisKernelHasTCXAndWhatIsRequired(t *testing.T) {
	testenv.Privileged(t)
	tcx, err := haveTCX()
	require.NoError(t, err)
	require.True(t, tcx)
	require.Empty(t, lacking(required))
}

func TestLackingNamesTheVersionNeeded(t *testing.T) {
	missing := errors.Join(lacking([]feature{
		{"map type ringbuf", "5.8", func() error { return ebpf.ErrNotSupported }},
		{"bounded loops", "5.3", func() error { return nil }},
		{"helper bpf_jiffies64", "5.6", func() error { return unix.EPERM }},
	})...)
	require.EqualError(t, missing, "this kernel has no map type ringbuf (Linux 5.8 has); 5.10 is the oldest that is supported")
}
