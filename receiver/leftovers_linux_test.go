// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package receiver

import (
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// leaveFilter leaves at an interface what a killed process does: a filter, in a qdisc of its own.
func leaveFilter(t *testing.T, e *testenv.End) {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
	require.NoError(t, err)
	defer program.Close()
	require.NoError(t, e.Link().QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: e.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}))
	require.NoError(t, e.Link().FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: e.Index, Parent: netlink.HANDLE_MIN_EGRESS, Priority: 3769, Handle: 0xbeef, Protocol: unix.ETH_P_ALL},
		Fd:          program.FD(), Name: "ebpfpackets+clsact", DirectAction: true,
	}))
}

// hasClsact reports whether an interface has the qdisc.
func hasClsact(t *testing.T, e *testenv.End) bool {
	t.Helper()
	all, err := e.Link().QdiscList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: e.Index}})
	require.NoError(t, err)
	for _, q := range all {
		if q.Type() == "clsact" && q.Attrs().LinkIndex == e.Index {
			return true
		}
	}
	return false
}

// What killed predecessors left goes at every interface of the namespaces that are observed, though another one is selected now: in the receiver's own, in
// one that is there at the start, and in one that comes later.
func TestLeftoversGoWhereNothingIsSelected(t *testing.T) {
	testenv.Privileged(t)
	t.Run("own", func(t *testing.T) {
		ns := testenv.NewNetNS(t)
		pair, host := ns.AddVeth("left0", "right0"), linux{clsact: true}
		leaveFilter(t, pair[0])
		cfg := testConfig()
		cfg.Interfaces.Include = []string{"right0"}
		e := newEngine(cfg, nopSettings(), elsewhere{linux: host, ns: ns})
		e.nextMetrics = consumertest.NewNop()
		require.NoError(t, e.start(t.Context()))
		soon(t, func() bool { return !hasClsact(t, pair[0]) })
		require.True(t, hasClsact(t, pair[1]))
		require.NoError(t, e.shutdown(t.Context()))
		require.False(t, hasClsact(t, pair[1]))
	})
	t.Run("others", func(t *testing.T) {
		dir, first, later := t.TempDir(), testenv.NewNetNS(t), testenv.NewNetNS(t)
		first.Mount(filepath.Join(dir, "first"))
		cfg := spacesConfig(filepath.Join(dir, "*"))
		cfg.Interfaces.Include = []string{"right0"}
		e := newEngine(cfg, nopSettings(), linux{clsact: true})
		e.nextMetrics = consumertest.NewNop()
		pair, laterPair := first.AddVeth("left0", "right0"), later.AddVeth("left0", "right0")
		leaveFilter(t, pair[0])
		leaveFilter(t, laterPair[0])
		require.NoError(t, e.start(t.Context()))
		soon(t, func() bool { return !hasClsact(t, pair[0]) && hasClsact(t, pair[1]) })
		require.True(t, hasClsact(t, laterPair[0]))
		later.Mount(filepath.Join(dir, "later"))
		soon(t, func() bool { return !hasClsact(t, laterPair[0]) && hasClsact(t, laterPair[1]) })
		require.NoError(t, e.shutdown(t.Context()))
	})
}

// Each interface at which nothing is attached is swept, once, whatever becomes of it.
func TestEachInterfaceIsSweptOnce(t *testing.T) {
	h := newFakeHost("eth0", "veth0", "veth1")
	h.sweepErr = unix.EPERM
	cfg := testConfig()
	cfg.Interfaces.Include = []string{"eth0"}
	b := newBench(t, cfg, h, consumertest.NewNop(), nil)
	b.interfaces.sweep(t.Context())
	b.interfaces.sweep(t.Context())
	require.Equal(t, []string{"veth0", "veth1"}, h.swept)
}
