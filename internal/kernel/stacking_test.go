// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// town is a testenv.Town with a test that observes it.
type town struct {
	*testenv.Town
	t *testing.T
}

func newTown(t *testing.T) *town {
	t.Helper()
	return &town{testenv.NewTown(t), t}
}

// interfaces lists those of a namespace by name.
func (w *town) interfaces(ns *testenv.NetNS) (all []iface.Interface, byName map[string]iface.Interface) {
	w.t.Helper()
	var err error
	ns.Do(func() { all, err = iface.List() })
	require.NoError(w.t, err)
	byName = map[string]iface.Interface{}
	for _, i := range all {
		byName[i.Name] = i
	}
	return all, byName
}

// observe attaches k to interfaces, and to no other, and says how they are joined.
func (w *town) observe(k *Kernel, names ...string) {
	w.t.Helper()
	all, byName := w.interfaces(w.Host)
	hooks := map[uint32]iface.Hooks{}
	for _, i := range all {
		if !slices.Contains(names, i.Name) {
			require.NoError(w.t, k.Detach(i.Index))
		}
	}
	for _, name := range names {
		w.attach(k, w.Host, byName, name)
		hooks[byName[name].Index] = iface.Hooks{Ingress: true, Egress: true}
	}
	require.NoError(w.t, k.Stack(iface.Stack(all, hooks)))
}

func (w *town) attach(k *Kernel, ns *testenv.NetNS, byName map[string]iface.Interface, name string) {
	w.t.Helper()
	i, ok := byName[name]
	require.True(w.t, ok, "no interface %q", name)
	var err [2]error
	ns.Do(func() {
		err = [2]error{k.Attach(i, flow.DirectionIngress), k.Attach(i, flow.DirectionEgress)}
	})
	require.NoError(w.t, err[0])
	require.NoError(w.t, err[1])
}

// route is a way between two places and back.
type route struct {
	name     string
	from, to [2]string // home, "" is the host, and address
	truth    [2]string // home, and its interface, at which every packet passes once; of lo the egress hook
	sets     []string  // of interfaces of the host: at each set every packet passes a hook, or several
}

const carrier = 4789 // RFC 7348

// bridged are the bridge and all of its ports: of each packet that it hands up it is known whether a port counts it.
const bridged = "poda podb podd up0 p0 br0"

var routes = []route{
	{"pod to uplink over a bridge", [2]string{"poda", "10.1.0.2"}, [2]string{"up0", "10.1.0.9"}, [2]string{"poda", "eth0"},
		[]string{bridged, "poda up0 br0", "poda up0", "poda br0", "up0 br0", "poda", "up0", bridged + " far0 lo"}},
	{"pod to pod over a bridge", [2]string{"poda", "10.1.0.2"}, [2]string{"podb", "10.1.0.3"}, [2]string{"poda", "eth0"},
		[]string{bridged, "poda podb", "poda", "podb", "podb br0"}},
	{"pod to pod over two bridges", [2]string{"poda", "10.1.0.2"}, [2]string{"podc", "10.1.0.4"}, [2]string{"poda", "eth0"},
		[]string{bridged + " br1 p1 podc", "poda p0 p1 podc", "p0 p1", "p0", "p1", "br0 p0 p1 br1", "p1 podc br1"}},
	{"pod to host over a bridge", [2]string{"poda", "10.1.0.2"}, [2]string{"", "10.1.0.1"}, [2]string{"poda", "eth0"},
		[]string{bridged, "br0", "poda", "poda podb podd up0 p0"}},
	{"host to uplink over a bridge", [2]string{"", "10.1.0.1"}, [2]string{"up0", "10.1.0.9"}, [2]string{"up0", "eth0"},
		[]string{bridged, "br0", "up0", "poda podb podd up0 p0"}},
	{"host to routed neighbour", [2]string{"", "10.2.0.1"}, [2]string{"far0", "10.2.0.2"}, [2]string{"far0", "eth0"},
		[]string{bridged + " far0 lo", "far0"}},
	{"pod to routed neighbour", [2]string{"poda", "10.1.0.2"}, [2]string{"far0", "10.2.0.2"}, [2]string{"poda", "eth0"},
		[]string{bridged + " far0", "br0 far0", "poda", "br0", "far0", "poda podb podd up0 p0", "poda podb podd up0 p0 far0", bridged}},
	{"routed back by the bridge", [2]string{"poda", "10.1.0.2"}, [2]string{"podd", "10.4.0.2"}, [2]string{"poda", "eth0"},
		[]string{bridged, "br0", "poda", "podd"}},
	{"loopback", [2]string{"", "127.0.0.1"}, [2]string{"", "127.0.0.1"}, [2]string{"", "lo"}, []string{"lo", "lo far0 " + bridged}},
	{"addresses of the host", [2]string{"", "10.2.0.1"}, [2]string{"", "10.1.0.1"}, [2]string{"", "lo"}, []string{"lo", "lo far0 " + bridged}},
	{"macvlan", [2]string{"", "10.3.0.1"}, [2]string{"far0", "10.3.0.2"}, [2]string{"far0", "eth0"},
		[]string{"far0 mac0", "far0", "mac0"}},
	{"pod routed through a macvlan", [2]string{"podb", "10.1.0.3"}, [2]string{"far0", "10.3.0.2"}, [2]string{"podb", "eth0"},
		[]string{bridged + " far0 mac0", "far0 mac0", "mac0", "far0", "podb", "poda podb podd up0 p0 mac0", "br0 far0"}},
	{"macvlan of another namespace", [2]string{"mac1", "10.3.0.5"}, [2]string{"far0", "10.3.0.2"}, [2]string{"mac1", "eth0"},
		[]string{"far0 mac0", "far0"}},
	{"macvlan to macvlan of another namespace", [2]string{"mac1", "10.3.0.5"}, [2]string{"", "10.3.0.1"}, [2]string{"mac1", "eth0"},
		[]string{"far0 mac0", "mac0"}},
	{"tunnel", [2]string{"", "10.5.0.1"}, [2]string{"far0", "10.5.0.2"}, [2]string{"far0", "vx0"}, []string{"vx0", "vx0 far0 " + bridged}},
	{"pod routed into a tunnel", [2]string{"podd", "10.4.0.2"}, [2]string{"far0", "10.5.0.2"}, [2]string{"podd", "eth0"},
		[]string{"vx0", "vx0 far0 " + bridged, "poda podb podd up0 p0", "br0 far0"}},
}

// exchange sends datagrams both ways and a TCP connection's bytes, and returns the ports by which their flows are known.
func (w *town) exchange(r *route) (ports []uint16) {
	w.t.Helper()
	client, server := w.End(r.from[0], r.from[1]), w.End(r.to[0], r.to[1])
	_, answers := testenv.Talk(client, server)
	ports = append(ports, answers.Port())
	for _, ends := range [][2]*testenv.End{{client, server}, {server, client}} {
		done := testenv.Transfer(ends[0], ends[1], false, 3<<20)
		ports = append(ports, done.Server.Port())
	}
	time.Sleep(20 * time.Millisecond) // last acknowledgements
	return ports
}

// told sums up what was counted of each protocol of the flows with these ports, wherever.
func told(got *taken, ports []uint16) map[uint8]flow.Volume {
	sums := map[uint8]flow.Volume{}
	for i := range got.slots {
		s := &got.slots[i]
		if slices.Contains(ports, s.SrcPort) || slices.Contains(ports, s.DstPort) {
			addTo(sums, s.Proto, s.Volume)
		}
	}
	return sums
}

// requireOnce wants that k counts what passes on the way once, at any of the sets of interfaces.
func (w *town) requireOnce(k, truth *Kernel, r *route) {
	_, there := w.interfaces(w.NS(r.truth[0]))
	w.attach(truth, w.NS(r.truth[0]), there, r.truth[1])
	if r.truth[1] == "lo" {
		require.NoError(w.t, truth.detach(hook{there["lo"].Index, flow.DirectionIngress}))
	}
	defer func() { require.NoError(w.t, truth.Detach(there[r.truth[1]].Index)) }()
	for _, set := range r.sets {
		w.observe(k, strings.Fields(set)...)
		testenv.Talk(w.End(r.from[0], r.from[1]), w.End(r.to[0], r.to[1])) // neighbours are found
		drain(w.t, k)                                                      // or a port used again would count what found them
		drain(w.t, truth)
		ports := w.exchange(r)
		got, want := drain(w.t, k), drain(w.t, truth)
		expected := told(&want, ports)
		require.Contains(w.t, expected, uint8(unix.IPPROTO_TCP))
		require.Equal(w.t, uint64(150), expected[unix.IPPROTO_UDP].Packets)
		require.Equal(w.t, expected, told(&got, ports), "at %s", set)
		if at := strings.Fields(set); slices.Contains(at, "vx0") && slices.Contains(at, "far0") { // what carries them counts, too
			carriers := told(&got, []uint16{carrier})[unix.IPPROTO_UDP].Packets
			inner := expected[unix.IPPROTO_UDP].Packets + expected[unix.IPPROTO_TCP].Packets
			require.InDelta(w.t, inner, carriers, 10, "and those of ARP")
		}
	}
	w.observe(k)
}

// Frames that the bridge sends to every port, and those that it sends back out of the port where they came in.
func TestWhatABridgeFloodsAndTurnsRoundCountsOnce(t *testing.T) {
	w := newTown(t)
	hairpin := testenv.MAC{2, 0, 0, 0, 0, 0x77} // lives behind the pod's own port
	w.Host.Run("bridge", "link", "set", "dev", "poda", "hairpin", "on")
	w.Host.Run("bridge", "fdb", "add", "02:00:00:00:00:77", "dev", "poda", "master", "static")
	_, there := w.interfaces(w.Homes["poda"])
	pod := &testenv.End{NetNS: w.Homes["poda"], Name: "eth0", Index: int(there["eth0"].Index)}
	k := load(t, Config{Deduplicate: true})
	for _, c := range []struct {
		to  testenv.MAC
		set string
	}{{hairpin, bridged}, {hairpin, "poda"}, {testenv.Nobody, bridged}, {testenv.Nobody, "poda podb"}, {testenv.Nobody, "podb br0"}} {
		w.observe(k, strings.Fields(c.set)...)
		s := pod.NewSender()
		d := &testenv.Datagrams{Flows: 10, Payloads: []int{100, 1000}, Src: testenv.MAC{2, 0, 0, 0, 1, 0}, Dst: c.to}
		s.Datagrams(d, 0, 500)
		time.Sleep(100 * time.Millisecond)
		require.Zero(t, s.Dropped)
		got := drain(t, k)
		var sum flow.Volume
		for i := range got.slots { // the only datagrams
			if got.slots[i].Proto == unix.IPPROTO_UDP {
				sum.Add(got.slots[i].Volume)
			}
		}
		require.Equal(t, s.Sent, sum, "to %v at %s", c.to, c.set)
	}
}

func TestEachPacketCountsOnce(t *testing.T) {
	w := newTown(t)
	for form, object := range map[string]object{"full": objectFull, "old": objectOld} {
		k, truth := load(t, Config{Deduplicate: true, object: object}), load(t, Config{})
		for i := range routes {
			t.Run(form+"/"+routes[i].name, func(t *testing.T) {
				w.t = t
				w.requireOnce(k, truth, &routes[i])
			})
		}
	}
}

// What the programs could not be told they are told the next time, and until then it is known what they believe.
func TestAStackingThatFailedIsToldAgain(t *testing.T) {
	k := load(t, Config{Deduplicate: true})
	ingress, egress := iface.Stacking{Known: true, Ingress: true}, iface.Stacking{Known: true, Egress: true}
	require.NoError(t, k.Stack(map[uint32]iface.Stacking{7: ingress, 8: ingress, 9: ingress}))
	want := map[uint32]iface.Stacking{7: egress, 9: ingress}

	working := k.objects.Stackings
	broken, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}) // has no room for such keys
	require.NoError(t, err)
	k.objects.Stackings = broken
	require.ErrorContains(t, k.Stack(want), "tell the programs how interfaces are joined")
	k.objects.Stackings = working
	require.NoError(t, broken.Close())
	require.NoError(t, k.Stack(want))
	require.Equal(t, map[bpfPlace]bpfStacking{
		{Ifindex: 7}: compileStacking(egress), {Ifindex: 9}: compileStacking(ingress),
	}, stackings(t, k))
	require.NoError(t, k.Stack(nil))
	require.Empty(t, stackings(t, k))
}

// stackings is what the programs have been told.
func stackings(t *testing.T, k *Kernel) map[bpfPlace]bpfStacking {
	t.Helper()
	all := map[bpfPlace]bpfStacking{}
	var at bpfPlace
	var s bpfStacking
	entries := k.objects.Stackings.Iterate()
	for entries.Next(&at, &s) {
		all[at] = s
	}
	require.NoError(t, entries.Err())
	return all
}
