// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// NetNS is a network namespace without a name: it exists while its file, one of its sockets or one of its processes does.
// Its methods fail the test.
type NetNS struct {
	tb   testing.TB
	file *os.File
	link *netlink.Handle
}

// NewNetNS makes a namespace whose only interface is lo, up. Nothing in it speaks by itself.
func NewNetNS(tb testing.TB) *NetNS {
	tb.Helper()
	n := &NetNS{tb: tb}
	restore := leaveNetNS(tb)
	defer restore()
	if err := unix.Unshare(unix.CLONE_NEWNET); errors.Is(err, unix.EPERM) {
		LeaveOut(tb, "needs CAP_SYS_ADMIN, to make a network namespace")
	} else {
		require.NoError(tb, err, "make a network namespace")
	}
	var err error
	n.file, err = os.Open("/proc/thread-self/ns/net")
	require.NoError(tb, err)
	tb.Cleanup(func() { n.file.Close() })
	n.link, err = netlink.NewHandleAt(netns.NsHandle(n.file.Fd()), unix.NETLINK_ROUTE)
	require.NoError(tb, err)
	tb.Cleanup(n.link.Close)
	quieten(tb)
	lo, err := n.link.LinkByName("lo")
	require.NoError(tb, err)
	require.NoError(tb, n.link.LinkSetUp(lo))
	return n
}

// leaveNetNS keeps the goroutine on its thread, which may now change its namespace, until restore is called. A thread that
// cannot be restored ends with its goroutine.
func leaveNetNS(tb testing.TB) (restore func()) {
	runtime.LockOSThread()
	before, err := os.Open("/proc/thread-self/ns/net")
	require.NoError(tb, err)
	return func() {
		defer before.Close()
		if unix.Setns(int(before.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}
}

// quieten turns off what the interfaces of the thread's namespace would say by themselves. The rest is up to Pair: without
// ARP an interface neither asks for neighbours nor reports multicast groups.
func quieten(tb testing.TB) {
	for _, s := range []struct{ name, value string }{
		{"accept_dad", "0"},
		{"dad_transmits", "0"},
		{"autoconf", "0"},
		{"accept_ra", "0"},
		{"router_solicitations", "0"},
		{"addr_gen_mode", "1"}, // no link-local address
	} {
		for _, scope := range []string{"all", "default"} {
			path := "/proc/sys/net/ipv6/conf/" + scope + "/" + s.name
			require.NoError(tb, os.WriteFile(path, []byte(s.value), 0o644))
		}
	}
}

// Do runs f in the namespace, on a thread of its own. Sockets made by f stay there; goroutines started by f do not.
func (n *NetNS) Do(f func()) {
	n.tb.Helper()
	restore := leaveNetNS(n.tb)
	defer restore()
	require.NoError(n.tb, unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET))
	f()
}

// Link speaks rtnetlink in the namespace.
func (n *NetNS) Link() *netlink.Handle { return n.link }

// Start starts a command in the namespace, and says when it has ended, and how. It is killed at the end of the test, or of
// the test's process, at the latest.
func (n *NetNS) Start(cmd *exec.Cmd) (ended <-chan error) {
	n.tb.Helper()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	var err error
	n.Do(func() { err = cmd.Start() })
	require.NoError(n.tb, err, "start %v", cmd)
	result, done := make(chan error, 1), make(chan struct{})
	go func() {
		result <- cmd.Wait()
		close(done)
	}()
	n.tb.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-done
	})
	return result
}

// Run runs a program in the namespace and returns what it printed.
func (n *NetNS) Run(name string, args ...string) string {
	n.tb.Helper()
	cmd := exec.CommandContext(n.tb.Context(), name, args...)
	var out []byte
	var err error
	n.Do(func() { out, err = cmd.CombinedOutput() })
	require.NoError(n.tb, err, "%v: %s", cmd, out)
	return string(out)
}

// Path leads to the namespace while the test's process lives and the test has not ended.
func (n *NetNS) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// Mount makes the namespace appear at path, as "ip netns add" does, and returns what makes it vanish from there. It does so at the
// end of the test at the latest.
func (n *NetNS) Mount(path string) (unmount func()) {
	n.tb.Helper()
	require.NoError(n.tb, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(n.tb, os.WriteFile(path, nil, 0o444))
	require.NoError(n.tb, unix.Mount(n.Path(), path, "", unix.MS_BIND, ""))
	unmount = sync.OnceFunc(func() {
		require.NoError(n.tb, unix.Unmount(path, unix.MNT_DETACH))
		require.NoError(n.tb, os.Remove(path))
	})
	n.tb.Cleanup(unmount)
	return unmount
}
