// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/netns"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func find(t *testing.T, patterns ...string) []netns.Found {
	t.Helper()
	found, err := netns.Find(patterns)
	require.NoError(t, err)
	return found
}

func paths(found []netns.Found) (all []string) {
	for _, f := range found {
		all = append(all, f.Path)
	}
	return all
}

// here returns the namespace of the calling thread.
func here(t *testing.T) netns.ID {
	t.Helper()
	id, err := netns.Own()
	require.NoError(t, err)
	return id
}

func TestFind(t *testing.T) {
	testenv.Privileged(t)
	dir := t.TempDir()
	red, blue := testenv.NewNetNS(t), testenv.NewNetNS(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	red.Mount(at("red"))
	blue.Mount(at("blue"))
	unmount := red.Mount(at("rouge"))
	require.NoError(t, os.WriteFile(at("file"), nil, 0o600)) // "ip netns add" before its mount
	require.NoError(t, os.Symlink("/nowhere", at("link")))
	require.NoError(t, unix.Mkfifo(at("pipe"), 0o600)) // nobody may wait for it

	found := find(t, at("*"))
	assert.Equal(t, []string{at("blue"), at("red"), at("rouge")}, paths(found))
	assert.Equal(t, found[1].ID, found[2].ID, "two paths to one")
	assert.NotEqual(t, found[0].ID, found[1].ID)
	assert.Equal(t, []string{at("rouge"), at("red")}, paths(find(t, at("rou*"), at("r[eo]*"), at("none"), at("file/ns"))), "each once, in this order")
	unmount()
	assert.Equal(t, []string{at("red")}, paths(find(t, at("r*"))))

	own := find(t, "/proc/thread-self/ns/net", fmt.Sprintf("/proc/%d/n?/net", os.Getpid()))
	require.Len(t, own, 2)
	assert.Equal(t, here(t), own[0].ID)
	assert.Equal(t, here(t), own[1].ID)
}

func TestOpenRefusesWhatIsNotWhatWasFound(t *testing.T) {
	testenv.Privileged(t)
	path := filepath.Join(t.TempDir(), "red")
	unmount := testenv.NewNetNS(t).Mount(path)
	was := find(t, path)[0]
	unmount()
	_, err := netns.Open(was)
	require.ErrorIs(t, err, os.ErrNotExist)
	testenv.NewNetNS(t).Mount(path)
	_, err = netns.Open(was)
	require.ErrorIs(t, err, netns.ErrReplaced)
	_, err = netns.Open(find(t, "/proc/self/ns/mnt")[0])
	require.ErrorIs(t, err, netns.ErrNotNetwork)
	require.EqualError(t, err, `open network namespace "/proc/self/ns/mnt": this is a namespace of another kind`)
}

// What runs in a namespace runs on a thread that comes home, whatever becomes of the function.
func TestDo(t *testing.T) {
	testenv.Privileged(t)
	red := testenv.NewNetNS(t)
	found := find(t, red.Path())[0]
	n, err := netns.Open(found)
	require.NoError(t, err)
	home := here(t)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			assert.ErrorIs(t, n.Do(func() error {
				assert.Equal(t, found.ID, here(t))
				return os.ErrInvalid
			}), os.ErrInvalid)
			assert.Equal(t, home, here(t))
		})
	}
	all.Wait()
	assert.Equal(t, map[netns.ID]bool{home: true}, threads(t))

	var nobody *netns.Namespace
	require.NoError(t, nobody.Do(func() error { assert.Equal(t, home, here(t)); return nil }), "that of the process")
	require.NoError(t, nobody.Close())
	require.NoError(t, n.Close())
	require.ErrorContains(t, n.Do(func() error { assert.Fail(t, "it is closed"); return nil }), "enter network namespace")
}

// threads returns the namespaces in which threads of this process are.
func threads(t *testing.T) map[netns.ID]bool {
	t.Helper()
	all := map[netns.ID]bool{}
	for _, f := range find(t, fmt.Sprintf("/proc/%d/task/*/ns/net", os.Getpid())) {
		all[f.ID] = true
	}
	return all
}

// What others read of the process is of its first thread, which stays at home: it could not end if it cannot come home.
func TestTheFirstThreadStaysAtHome(t *testing.T) {
	testenv.Privileged(t)
	n, err := netns.Open(find(t, testenv.NewNetNS(t).Path())[0])
	require.NoError(t, err)
	defer func() { require.NoError(t, n.Close()) }()
	home, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	var all sync.WaitGroup
	for range 1000 {
		all.Go(func() {
			assert.NoError(t, n.Do(func() error {
				now, err := os.Readlink("/proc/self/ns/net")
				assert.Equal(t, home, now)
				return err
			}))
		})
	}
	all.Wait()
}

// A thread that cannot come home ends, and so runs nothing else.
func TestAThreadThatCannotComeHomeEnds(t *testing.T) {
	testenv.Privileged(t)
	red := testenv.NewNetNS(t)
	n, err := netns.Open(find(t, red.Path())[0])
	require.NoError(t, err)
	defer func() { require.NoError(t, n.Close()) }()
	restore := netns.BlockWayHome(errors.New("no way"))
	var tid int
	err = n.Do(func() error { tid = unix.Gettid(); return nil })
	restore()
	require.ErrorContains(t, err, "leave network namespace")
	require.ErrorContains(t, err, "no way")
	require.Eventually(t, func() bool {
		return errors.Is(unix.Tgkill(os.Getpid(), tid, 0), syscall.ESRCH)
	}, 10*time.Second, time.Millisecond, "the thread is still there")
}

// Opening, entering and closing leaves no file open.
func TestHoldingAndLettingGo(t *testing.T) {
	testenv.Privileged(t)
	path := filepath.Join(t.TempDir(), "red")
	testenv.NewNetNS(t).Mount(path)
	files := openFiles(t)
	for range 100 {
		n, err := netns.Open(find(t, path)[0])
		require.NoError(t, err)
		require.NoError(t, n.Do(func() error { return nil }))
		require.NoError(t, n.Close())
	}
	assert.Equal(t, files, openFiles(t))
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}

func TestGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "red")
	require.NoError(t, os.Symlink("/proc/thread-self/ns/net", path))
	was := find(t, path)[0]
	assert.False(t, netns.Gone(was))
	require.NoError(t, os.Remove(path))
	assert.True(t, netns.Gone(was))
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	assert.True(t, netns.Gone(was), "it is something else")
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.Symlink(path, path))
	assert.False(t, netns.Gone(was), "it cannot be looked at")
}

// Without the right to look at a process nothing is told of its namespace, but that it cannot be.
func TestWhatMayNotBeLookedAtIsSaid(t *testing.T) {
	testenv.Privileged(t)
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o711))
	testenv.NewNetNS(t).Mount(filepath.Join(dir, "red"))
	var found []netns.Found
	var err error
	asNobody(t, func() { found, err = netns.Find([]string{dir + "/*", "/proc/1/ns/net"}) })
	assert.Empty(t, found)
	var refused *netns.RefusedError
	require.ErrorAs(t, err, &refused)
	assert.Equal(t, 2, refused.Paths)
	require.ErrorContains(t, err, "look for network namespaces: ")
	require.ErrorContains(t, err, dir)
	require.ErrorContains(t, err, "(of other users' processes this takes CAP_SYS_PTRACE)")
}

// asNobody runs f on a thread that may do nothing, and that ends with it.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()                                                  // never unlocked
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534) // of this thread only
		if errno != 0 {
			done <- errno
			return
		}
		f()
		done <- nil
	}()
	require.NoError(t, <-done)
}
