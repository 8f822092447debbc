// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"testing"

	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

func (k *Kernel) requireLost(t *testing.T, want int, e *testenv.End, msg string) {
	t.Helper()
	lost, err := k.DropLost(uint32(e.Index))
	require.NoError(t, err)
	require.Equal(t, want, lost, msg)
}

var bothDirections = []flow.Direction{flow.DirectionIngress, flow.DirectionEgress}

// What somebody else takes from an interface is noticed and attached anew, and the other direction counts on meanwhile.
func TestWhatOthersTakeIsAttachedAnew(t *testing.T) {
	takes := map[string]map[string]func(t *testing.T, k *Kernel, at site){
		"tcx": {"a link": func(t *testing.T, k *Kernel, at site) {
			id := idOf(t, k.objects.EgressL2)
			for i := new(link.Iterator); i.Next(); {
				info, err := i.Link.Info()
				require.NoError(t, err)
				if info.Program == id {
					require.NoError(t, i.Link.(interface{ Detach() error }).Detach())
				}
			}
		}},
		"clsact": {
			"a filter": func(t *testing.T, _ *Kernel, at site) {
				ours, _, _ := split(t, filtersAt(t, at))
				require.NoError(t, rtnlIn(t, at.End).deleteFilter(uint32(at.Index), at.direction, &ours))
			},
			"a filter, and puts another there": func(t *testing.T, _ *Kernel, at site) {
				ours, _, _ := split(t, filtersAt(t, at))
				require.NoError(t, rtnlIn(t, at.End).deleteFilter(uint32(at.Index), at.direction, &ours))
				newStranger(t, tcxNext32).addFilter(at, ours.priority, ours.handle)
			},
		},
	}
	for way, cfg := range attachWays(t) {
		for what, take := range takes[way] {
			t.Run(way+" "+what, func(t *testing.T) {
				k, r := load(t, cfg), newCrossing(t)
				at := r.sites()[0]
				k.attachEnd(t, at.End, bothDirections...)
				k.requireLost(t, 0, at.End, "all is there")
				before := whatIsOpen(t)
				t.Run("taken", func(t *testing.T) { take(t, k, at) })
				r.send()
				require.Zero(t, drain(t, k).Ledger.Seen.Packets)
				k.requireLost(t, 1, at.End, "egress")
				k.requireLost(t, 0, at.End, "it is told once")
				k.attachEnd(t, at.End, bothDirections...)
				k.requireLost(t, 0, at.End, "it is there again")
				r.send()
				require.Equal(t, uint64(packetsSent), drain(t, k).Ledger.Seen.Packets)
				require.Equal(t, before, whatIsOpen(t))
			})
		}
	}
}

// A qdisc takes both filters along. The next one that we add goes with us.
func TestALostQdiscIsAddedAnew(t *testing.T) {
	k, r := load(t, Config{Clsact: true}), newCrossing(t)
	at := r.sites()[0]
	k.attachEnd(t, at.End, bothDirections...)
	require.NoError(t, rtnlIn(t, at.End).deleteClsact(uint32(at.Index)))
	k.requireLost(t, 2, at.End, "both directions")
	k.attachEnd(t, at.End, bothDirections...)
	r.send()
	require.Equal(t, uint64(packetsSent), drain(t, k).Ledger.Seen.Packets)
	require.NoError(t, k.Detach(uint32(at.Index)))
	requireQdisc(t, at.End, "")
}

// An interface that is made anew under the index of one that is gone has nothing of ours, whatever its name.
func TestAnIndexThatComesAgainIsAnotherInterface(t *testing.T) {
	for way, cfg := range attachWays(t) {
		t.Run(way, func(t *testing.T) {
			k, n := load(t, cfg), testenv.NewNetNS(t)
			add := func() {
				require.NoError(t, n.Link().LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "again0", Index: 4711}, PeerName: "peer0"}))
			}
			remove := func() {
				require.NoError(t, n.Link().LinkDel(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: "again0"}}))
			}
			e := &testenv.End{NetNS: n, Name: "again0", Index: 4711}
			add()
			k.attachEnd(t, e, bothDirections...)
			remove()
			add()
			k.requireLost(t, 2, e, "they went with the first")
			k.attachEnd(t, e, bothDirections...)
			k.requireLost(t, 0, e, "those of the second")
		})
	}
}

// An interface that moves to another namespace and back keeps its index. With tcx it keeps its programs, too; its qdisc it loses.
func TestAnInterfaceThatComesBack(t *testing.T) {
	for way, cfg := range attachWays(t) {
		t.Run(way, func(t *testing.T) {
			k, r := load(t, cfg), newCrossing(t)
			k.attachEnd(t, r.left, bothDirections...)
			home, index := r.left.NetNS, r.left.Index
			r.left.MoveTo(testenv.NewNetNS(t), "left0")
			r.left.MoveTo(home, "left0")
			require.Equal(t, index, r.left.Index)
			k.requireLost(t, map[string]int{"tcx": 0, "clsact": 2}[way], r.left, way)
			k.attachEnd(t, r.left, bothDirections...)
			r.left.NewSender().Datagrams(&testenv.Datagrams{Flows: 1, Payloads: []int{0}, Src: r.left.MAC, Dst: testenv.Nobody}, 0, 7)
			require.Equal(t, uint64(7), drain(t, k).Ledger.Seen.Packets)
		})
	}
}

func BenchmarkDropLost(b *testing.B) {
	for _, clsact := range []bool{false, true} {
		b.Run(map[bool]string{false: "tcx", true: "clsact"}[clsact], func(b *testing.B) {
			k, n := load(b, Config{Clsact: clsact}), testenv.NewNetNS(b)
			e := n.AddVeth("left0", "right0")[0]
			n.Do(func() {
				for _, d := range bothDirections {
					require.NoError(b, k.Attach(iface.Interface{Index: uint32(e.Index), Name: e.Name, HWType: hwEthernet}, d))
				}
			})
			for b.Loop() {
				if lost, err := k.DropLost(uint32(e.Index)); lost != 0 || err != nil {
					b.Fatal(lost, err)
				}
			}
		})
	}
}
