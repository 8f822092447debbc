// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Confinement is what a command may do, and no more: whatever it executes cannot get further capabilities. It needs no program of
// the host, since a guest of internal/kernelmatrix has none.
type Confinement struct {
	Capabilities []int    // CAP_*: the only ones, also of a user that is not root
	User         int      // and group; 0: root
	Memlock      uint64   // RLIMIT_MEMLOCK in bytes; 0: as it is
	Hide         []string // directories that are empty to it
}

const confinedArg = "be-confined"

// Wrap returns what is put in front of a command. TestMain of the test must call BeConfined.
func (c Confinement) Wrap(tb testing.TB) []string {
	tb.Helper()
	text, err := json.Marshal(c)
	require.NoError(tb, err)
	self, err := os.Executable()
	require.NoError(tb, err)
	return []string{self, confinedArg, string(text)}
}

// BeConfined turns the process into the command that Wrap was put in front of, if it was.
func BeConfined() {
	if len(os.Args) < 4 || os.Args[1] != confinedArg {
		return
	}
	err := becomeConfined(os.Args[2], os.Args[3:])
	fmt.Fprintln(os.Stderr, "confine:", err)
	os.Exit(1)
}

func becomeConfined(text string, command []string) error {
	var c Confinement
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	path, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	runtime.LockOSThread() // all this is said of a thread, and execve leaves no other
	if err := errors.Join(c.limitMemory(), c.hide(), c.dropCapabilities()); err != nil {
		return err
	}
	return unix.Exec(path, command, os.Environ())
}

func (c *Confinement) limitMemory() error {
	if c.Memlock == 0 {
		return nil
	}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: c.Memlock, Max: c.Memlock}); err != nil {
		return fmt.Errorf("limit locked memory: %w", err)
	}
	return nil
}

func (c *Confinement) hide() error {
	if len(c.Hide) == 0 {
		return nil
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts to ourselves: %w", err)
	}
	for _, dir := range c.Hide {
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("hide %q: %w", dir, err)
		}
	}
	return nil
}

// dropCapabilities leaves those that are listed, as capabilities(7) says that execve keeps them.
func (c *Confinement) dropCapabilities() error {
	wanted := [2]uint32{}
	for _, n := range c.Capabilities {
		wanted[n/32] |= 1 << (n % 32)
	}
	for n := 0; unix.Prctl(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0) == nil; n++ { // EINVAL behind the last
		if wanted[n/32]&(1<<(n%32)) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(n), 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d: %w", n, err)
		}
	}
	if err := c.changeUser(); err != nil {
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	for i, set := range wanted {
		data[i] = unix.CapUserData{Effective: set, Permitted: set, Inheritable: set}
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	for _, n := range c.Capabilities {
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(n), 0, 0); err != nil {
			return fmt.Errorf("keep capability %d: %w", n, err)
		}
	}
	return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}

// changeUser uses system calls of this thread: those of Go would ask all.
func (c *Confinement) changeUser() error {
	if c.User == 0 {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return err
	}
	id := uintptr(c.User)
	for _, call := range [][4]uintptr{{unix.SYS_SETGROUPS}, {unix.SYS_SETRESGID, id, id, id}, {unix.SYS_SETRESUID, id, id, id}} {
		if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
			return fmt.Errorf("become user %d: %w", c.User, errno)
		}
	}
	return nil
}
