// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// startConfined starts a child that may do no more than c, and returns its first line.
func startConfined(t *testing.T, at site, c testenv.Confinement) (first string) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	wrap := c.Wrap(t)
	_, said := beginChild(t, at, child{}, exec.CommandContext(t.Context(), wrap[0], append(wrap[1:], self)...))
	return <-said
}

// memlockCharged reports whether this kernel charges maps to RLIMIT_MEMLOCK.
func memlockCharged(t *testing.T) bool {
	t.Helper()
	version, err := features.LinuxVersionCode()
	require.NoError(t, err)
	return version < 5<<16|11<<8
}

var three = []int{unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_PERFMON}

// tooLittle is less locked memory than the maps need.
const tooLittle = 64 << 10

// What a process may not do is named, with the remedy. TestKernels runs this on kernels that differ in what they ask for.
func TestAMissingPrivilegeIsNamed(t *testing.T) {
	at := newCrossing(t).sites()[0]
	for n, c := range needed {
		t.Run(c.name, func(t *testing.T) {
			others := slices.Delete(slices.Clone(three), n, n+1)
			require.Equal(t, fmt.Sprintf("missing %s (%s); %s", c.name, c.why, grant), startConfined(t, at, testenv.Confinement{Capabilities: others}))
		})
	}
	t.Run("memlock", func(t *testing.T) {
		want := "attached" // from 5.11 on the limit is not looked at
		if memlockCharged(t) {
			want = "lift the memlock limit (below Linux 5.11 needs CAP_SYS_RESOURCE, or an unlimited RLIMIT_MEMLOCK: LimitMEMLOCK=infinity in a " +
				"systemd unit, --ulimit memlock=-1 of Docker): failed to set memlock rlimit: operation not permitted"
		}
		require.Equal(t, want, startConfined(t, at, testenv.Confinement{Capabilities: three, Memlock: tooLittle}))
	})
}

// CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON, and CAP_SYS_RESOURCE for an unlimited RLIMIT_MEMLOCK.
func TestOtherCapabilitiesStandForThem(t *testing.T) {
	r := newCrossing(t)
	at := r.sites()[0]
	capabilities := []int{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN}
	if memlockCharged(t) {
		capabilities = append(capabilities, unix.CAP_SYS_RESOURCE)
	}
	require.Equal(t, "attached", startConfined(t, at, testenv.Confinement{Capabilities: capabilities, Memlock: tooLittle}))
	r.send()
	require.Equal(t, uint64(packetsSent), countedBy(t, ourProgramAt(t, at)))
}

// Capabilities of a user namespace do not count.
func TestAUserNamespaceIsNamed(t *testing.T) {
	at := newCrossing(t).sites()[0]
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
	}
	_, said := beginChild(t, at, child{}, cmd)
	require.Equal(t, "load programs: probe tcx: load program: operation not permitted "+
		"(the capabilities are there; this is a user namespace, whose capabilities do not count for bpf(2): run outside of it)", <-said)
}

// What is said of a refusal is what the process can see.
func TestWhatMayRefuseIsNamed(t *testing.T) {
	const unknown = "a security module such as SELinux, or kernel lockdown, may forbid bpf(2)"
	first := map[string]string{"status": "Seccomp:\t0\n", "uid_map": "         0          0 4294967295\n"}
	for _, c := range []struct{ file, text, want string }{
		{"", "", unknown},
		{"status", "Seccomp:\t2\nSeccomp_filters:\t1\n", "a seccomp filter is in force here"},
		{"status", "NoNewPrivs:\t1\nSeccomp:\t1\n", unknown},
		{"uid_map", "         0       1000          1\n", "this is a user namespace"},
		{"lockdown", "none [integrity] confidentiality\n", "the kernel is locked down (integrity)"},
		{"lockdown", "none integrity [confidentiality]\n", "the kernel is locked down (confidentiality)"},
		{"lockdown", "[none] integrity confidentiality\n", unknown},
	} {
		dir := t.TempDir() + "/"
		files := maps.Clone(first)
		if c.file != "" {
			files[c.file] = c.text
		}
		for name, text := range files {
			require.NoError(t, os.WriteFile(dir+name, []byte(text), 0o600))
		}
		found := refusers(dir, dir)
		require.Len(t, found, 1, "%+v", c)
		require.True(t, strings.HasPrefix(found[0], c.want), "%+v: %q", c, found[0])
	}
	require.Equal(t, []string{unknown}, refusers("/none/", "/none/"))
	explained := explain(fmt.Errorf("create map: %w (MEMLOCK may be too low, consider rlimit.RemoveMemlock)", unix.EPERM))
	require.ErrorIs(t, explained, unix.EPERM)
	require.True(t, strings.HasPrefix(explained.Error(), "create map: operation not permitted (the capabilities are there; "), explained)
}

// The programs need no type information of the kernel, and nothing is pinned; but per-CPU maps need the list of CPUs.
func TestWithoutSysIsNamed(t *testing.T) {
	at := newCrossing(t).sites()[0]
	require.Equal(t, "load programs: list online CPUs: open /sys/devices/system/cpu/online: no such file or directory: needs a sysfs, mounted at /sys",
		startConfined(t, at, testenv.Confinement{Capabilities: three, Hide: []string{"/sys"}}))
}

// ourProgramAt is the only one of ours at a site, however it is attached.
func ourProgramAt(t *testing.T, at site) ebpf.ProgramID {
	t.Helper()
	tcx, err := haveTCX()
	require.NoError(t, err)
	if !tcx {
		ours, _, _ := split(t, filtersAt(t, at))
		return ebpf.ProgramID(ours.program)
	}
	programs := programsAt(t, at)
	require.Len(t, programs, 1)
	return programs[0]
}
