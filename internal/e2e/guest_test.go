// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

// TestMain lets the test be a command that may do less.
func TestMain(m *testing.M) {
	testenv.BeConfined()
	os.Exit(m.Run())
}

const nobody = 65534

// confined starts a collector that may do no more than may. What it writes, it writes as the user in that.
func confined(t *testing.T, ns *testenv.NetNS, settings string, may testenv.Confinement) *collector {
	t.Helper()
	return launchAs(t, ns, func(c *collector) string {
		require.NoError(t, os.Chown(filepath.Dir(c.output), may.User, may.User))
		require.NoError(t, openWay(filepath.Dir(c.output)))
		return c.config(settings)
	}, may.Wrap(t)...)
}

// way is one that packets take to a host and from it.
type way struct {
	at, beyond *testenv.End // the interface of the host, and where its packets go to and come from
	out, in    string       // interfaces of the host that count them, by direction
	vlan       int64        // outermost; 0: none
	tags       uint64       // that they have where they count
	again      uint64       // interfaces of the host that see them as well
}

const datagramsEachWay = 1000

// send sends datagrams both ways, and adds what is to be counted.
func (w *way) send(t *testing.T, want map[string]flow.Volume) {
	t.Helper()
	d := &testenv.Datagrams{Flows: 50, Payloads: []int{0, 100, 1400}, Src: w.at.MAC, Dst: testenv.Nobody}
	for _, x := range []struct {
		from  *testenv.End
		where string
	}{{w.at, w.out + " transmit"}, {w.beyond, w.in + " receive"}} {
		s := x.from.NewSender()
		s.Datagrams(d, 0, datagramsEachWay)
		require.Zero(t, s.Dropped)
		const tagLength = 4
		v := want[x.where]
		v.Add(flow.Volume{Packets: s.Sent.Packets, Bytes: s.Sent.Bytes + tagLength*w.tags*s.Sent.Packets})
		want[x.where] = v
	}
}

// waysThroughVLANs are those of an interface, of a VLAN of it, and of a VLAN in another: the inner tag is in the frame then, the
// outer one beside it.
func waysThroughVLANs(left, right *testenv.End) []way {
	ways := []way{{at: left, beyond: right, out: "left0", in: "left0"}}
	const id, outer, inner = 7, 8, 9
	simple, beyond := left.AddVLAN("vlan7", id, netlink.VLAN_PROTOCOL_8021Q), right.AddVLAN("vlan7", id, netlink.VLAN_PROTOCOL_8021Q)
	if simple == nil {
		return ways
	}
	service, beyondService := left.AddVLAN("vlan8", outer, netlink.VLAN_PROTOCOL_8021AD), right.AddVLAN("vlan8", outer, netlink.VLAN_PROTOCOL_8021AD)
	customer, beyondCustomer := service.AddVLAN("vlan9", inner, netlink.VLAN_PROTOCOL_8021Q), beyondService.AddVLAN("vlan9", inner, netlink.VLAN_PROTOCOL_8021Q)
	return append(ways,
		way{at: simple, beyond: beyond, out: "left0", in: "left0", vlan: id, tags: 1, again: 1},
		way{at: customer, beyond: beyondCustomer, out: "left0", in: "left0", vlan: outer, tags: 2, again: 2})
}

// waysThroughABond are those of a bond of two ports, of which one is sent to, and of a VLAN of the bond.
func waysThroughABond(t *testing.T, host *testenv.NetNS) []way {
	t.Helper()
	port0, beyond := testenv.Pair(t, testenv.PairConfig{})
	port1, _ := testenv.Pair(t, testenv.PairConfig{})
	port0.MoveTo(host, "port0")
	port1.MoveTo(host, "port1")
	bond := host.AddBond("bond0", port0, port1)
	if bond == nil {
		return nil
	}
	const id = 5
	vlan, beyondVLAN := bond.AddVLAN("vlan5", id, netlink.VLAN_PROTOCOL_8021Q), beyond.AddVLAN("vlan5", id, netlink.VLAN_PROTOCOL_8021Q)
	return []way{
		{at: bond, beyond: beyond, out: "bond0", in: "port0", again: 1},
		{at: vlan, beyond: beyondVLAN, out: "bond0", in: "port0", vlan: id, tags: 1, again: 2},
	}
}

// TestInterfacesOnInterfacesCountOnce has the collector count at VLANs of an interface, one in another, and at a bond with its
// ports and a VLAN, all of which come while it runs and are chosen by their kind. Each packet counts once, and weighs what crosses
// the wire.
//
// The collector may do as little as possible: another user than root, three capabilities alone, no type information of the
// kernel, no bpf file system. TestKernels of internal/kernelmatrix runs this on other kernels, which are locked down and restricted
// as far as they let themselves.
func TestInterfacesOnInterfacesCountOnce(t *testing.T) {
	testenv.Privileged(t)
	if testenv.InGuest() {
		restrict(t)
	}
	left, right := testenv.Pair(t, testenv.PairConfig{})
	c := confined(t, left.NetNS, `
interfaces: {include: ["kind:veth", "kind:vlan", "kind:bond"], deduplicate: true}
collection_interval: 500ms
packets: {random_one_in: 0}
metrics:
  network.flow.packets: {attributes: [network.interface.name, network.io.direction, network.vlan.id]}
`, testenv.Confinement{
		Capabilities: []int{unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_PERFMON}, User: nobody, Hide: []string{"/sys/kernel", "/sys/fs"},
	})
	c.awaitReady()
	ways := append(waysThroughVLANs(left, right), waysThroughABond(t, left.NetNS)...)
	observed := interfacesOf(t, left.NetNS, "veth", "vlan", "bond")
	for name := range observed {
		c.awaitLog(`"interface":"` + name + `"`)
	}
	time.Sleep(time.Second) // until the programs know how they are joined
	programs := map[ebpf.ProgramID]bool{}
	for _, index := range observed {
		for _, id := range programsAt(t, left.NetNS, index) {
			programs[id] = true
		}
	}
	require.Len(t, programs, 2, "one for each direction, at every interface")

	want := map[string]flow.Volume{}
	duplicate := uint64(0)
	for i := range ways {
		ways[i].send(t, want)
		duplicate += 2 * datagramsEachWay * ways[i].again
	}
	out := c.stop()

	var told flow.Volume
	for name, index := range observed {
		for _, direction := range []string{"receive", "transmit"} {
			got := out.counted(name, direction)
			assert.Equal(t, want[name+" "+direction], got, "%s %s", name, direction)
			told.Add(got)
		}
		assert.Empty(t, programsAt(t, left.NetNS, index), "at %s", name)
	}
	for _, w := range ways {
		if w.vlan != 0 {
			assert.EqualValues(t, 2*datagramsEachWay, out.Total("network.flow.packets", otlpcheck.Has(map[string]any{"network.vlan.id": w.vlan})))
		}
	}
	assert.EqualValues(t, 2*datagramsEachWay*len(ways), told.Packets)
	assert.Equal(t, told, out.ledger.accounted)
	assert.Equal(t, duplicate, out.ledger.duplicate.Packets)
	assert.Equal(t, told.Packets+duplicate, out.ledger.seen.Packets)
	for id := range programs {
		assert.Eventually(t, func() bool { return programGone(id) }, patience, 10*time.Millisecond, "program %d", id)
	}
	const clsact = "Kernel: no tcx, which Linux 6.6 has: programs are attached as filters of clsact qdiscs"
	assert.Equal(t, !haveTCX(t), strings.Contains(c.log.String(), clsact))
}

// interfacesOf returns the indexes of the interfaces of some kinds in a namespace, by name.
func interfacesOf(t *testing.T, ns *testenv.NetNS, kinds ...string) map[string]int {
	t.Helper()
	links, err := ns.Link().LinkList()
	require.NoError(t, err)
	all := map[string]int{}
	for _, l := range links {
		if slices.Contains(kinds, l.Type()) {
			all[l.Attrs().Name] = l.Attrs().Index
		}
	}
	return all
}

// haveTCX goes by the version: kernels of the matrix are no distribution's with more in them.
func haveTCX(t *testing.T) bool {
	t.Helper()
	version, err := features.LinuxVersionCode()
	require.NoError(t, err)
	return version >= 6<<16|6<<8
}

// programsAt returns the programs at the hooks of an interface, however they are attached. Without a filter there is no qdisc clsact.
func programsAt(t *testing.T, ns *testenv.NetNS, index int) (programs []ebpf.ProgramID) {
	t.Helper()
	l, err := ns.Link().LinkByIndex(index)
	require.NoError(t, err)
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := ns.Link().FilterList(l, parent)
		require.NoError(t, err)
		for _, f := range filters {
			if p, ok := f.(*netlink.BpfFilter); ok {
				programs = append(programs, ebpf.ProgramID(p.Id))
			}
		}
	}
	qdiscs, err := ns.Link().QdiscList(l)
	require.NoError(t, err)
	hasClsact := slices.ContainsFunc(qdiscs, func(q netlink.Qdisc) bool { return q.Type() == "clsact" })
	require.Equal(t, len(programs) > 0, hasClsact)
	if haveTCX(t) {
		programs = append(programs, attached(t, &testenv.End{NetNS: ns, Index: index})...)
	}
	return programs
}

// restrict makes a guest as strict as its kernel can be: confidentiality includes integrity. There is no way back.
func restrict(t *testing.T) {
	t.Helper()
	require.NoError(t, unix.Mount("securityfs", "/sys/kernel/security", "securityfs", 0, ""))
	for path, value := range map[string]string{
		"/sys/kernel/security/lockdown":              "confidentiality",
		"/proc/sys/kernel/unprivileged_bpf_disabled": "1",
		"/proc/sys/kernel/perf_event_paranoid":       "4",
	} {
		require.NoError(t, os.WriteFile(path, []byte(value), 0o644))
	}
}
