// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package kernel

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// needed lists the capabilities loading and attaching take; CAP_SYS_ADMIN stands for all but CAP_NET_ADMIN.
var needed = []struct {
	number int
	name   string
	admin  bool // CAP_SYS_ADMIN is enough
	why    string
}{
	{unix.CAP_BPF, "CAP_BPF", true, "to load programs and maps"},
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", false, "to attach them to interfaces"},
	{unix.CAP_PERFMON, "CAP_PERFMON", true, "without it the verifier refuses the programs"},
}

const grant = `run as root, or grant it: "setcap cap_bpf,cap_net_admin,cap_perfmon+ep <collector>", or ` +
	`AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_PERFMON in a systemd unit`

const grantNamespaces = `run as root, or grant it: "setcap cap_bpf,cap_net_admin,cap_perfmon,cap_sys_admin+ep <collector>", or ` +
	`AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_PERFMON CAP_SYS_ADMIN in a systemd unit, or observe the own namespace only`

// checkHost refuses hosts on which the programs would not load or not count exactly, and says which and why; with Namespaces: or on which
// other network namespaces could not be entered.
func checkHost(cfg *Config) error {
	version := cfg.version
	if version == "" {
		var uname unix.Utsname
		if err := unix.Uname(&uname); err != nil {
			return fmt.Errorf("read the kernel version: %w", err)
		}
		version = unix.ByteSliceToString(uname.Version[:])
	}
	// A feature that cannot be probed: since 3253cb49cbad programs on the same CPU may preempt each other there.
	if strings.Contains(version, "PREEMPT_RT") {
		return errors.New("PREEMPT_RT kernels are not supported: programs may interrupt each other there and counts would be lost")
	}
	return checkCapabilities(cfg.Namespaces)
}

func checkCapabilities(namespaces bool) error {
	effective, err := effectiveCapabilities()
	if err != nil {
		return err
	}
	var missing []error
	for _, c := range needed {
		if effective[c.number] || c.admin && effective[unix.CAP_SYS_ADMIN] {
			continue
		}
		missing = append(missing, fmt.Errorf("missing %s (%s); %s", c.name, c.why, grant))
	}
	if namespaces && !effective[unix.CAP_SYS_ADMIN] {
		missing = append(missing, fmt.Errorf("missing CAP_SYS_ADMIN (to enter other network namespaces, with setns); %s", grantNamespaces))
	}
	return errors.Join(missing...)
}

func effectiveCapabilities() (map[int]bool, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // 32 capabilities each
	if err := unix.Capget(&header, &data[0]); err != nil {
		return nil, fmt.Errorf("read capabilities: %w", err)
	}
	effective := map[int]bool{}
	for c := range 64 {
		effective[c] = data[c/32].Effective&(1<<(c%32)) != 0
	}
	return effective, nil
}

// liftMemlock is for kernels that charge maps to RLIMIT_MEMLOCK. Which do is told by a map that is refused; what refuses one from
// 5.11 on is something else, and will be told of the programs.
func liftMemlock() error {
	const firstCharged = 5<<16 | 11<<8 // KERNEL_VERSION(5, 11, 0): to the memory cgroup
	err := rlimit.RemoveMemlock()
	if version, versionErr := features.LinuxVersionCode(); versionErr == nil && version >= firstCharged {
		return nil
	}
	if err != nil {
		return fmt.Errorf("lift the memlock limit (below Linux 5.11 needs CAP_SYS_RESOURCE, or an unlimited RLIMIT_MEMLOCK: "+
			"LimitMEMLOCK=infinity in a systemd unit, --ulimit memlock=-1 of Docker): %w", err)
	}
	return nil
}

// explain adds to an error what the kernel does not say.
func explain(err error) error {
	if errors.Is(err, unix.EPERM) {
		const guess = " (MEMLOCK may be too low, consider rlimit.RemoveMemlock)" // of the library; liftMemlock has seen to it
		said := strings.ReplaceAll(err.Error(), guess, "")
		why := strings.Join(refusers("/proc/thread-self/", "/sys/kernel/security/"), "; ")
		return reworded{fmt.Sprintf("%s (the capabilities are there; %s)", said, why), err}
	}
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) {
		return fmt.Errorf("%w; please report it with your kernel version", err)
	}
	return err
}

// reworded is an error in other words.
type reworded struct {
	said string
	err  error
}

func (r reworded) Error() string { return r.said }
func (r reworded) Unwrap() error { return r.err }

// refusers are what may forbid bpf(2) to a process with capabilities, as far as it can see: files of its own in proc, and of
// security modules, which few have mounted.
func refusers(proc, security string) (found []string) {
	status, _ := os.ReadFile(proc + "status")
	if seccompFilter.Match(status) {
		found = append(found, "a seccomp filter is in force here, and must allow bpf(2): the profile of a container, SystemCallFilter= of a systemd unit")
	}
	users, err := os.ReadFile(proc + "uid_map")
	if err == nil && !slices.Equal(strings.Fields(string(users)), allUsers) {
		found = append(found, "this is a user namespace, whose capabilities do not count for bpf(2): run outside of it")
	}
	lockdown, _ := os.ReadFile(security + "lockdown")
	if m := lockdownMode.FindSubmatch(lockdown); m != nil {
		found = append(found, fmt.Sprintf("the kernel is locked down (%s)", m[1]))
	}
	if found == nil {
		found = []string{"a security module such as SELinux, or kernel lockdown, may forbid bpf(2)"}
	}
	return found
}

var (
	seccompFilter = regexp.MustCompile(`(?m)^Seccomp:\s*2$`)              // SECCOMP_MODE_FILTER; proc(5)
	allUsers      = []string{"0", "0", "4294967295"}                      // of the first user namespace; user_namespaces(7)
	lockdownMode  = regexp.MustCompile(`\[(integrity|confidentiality)\]`) // kernel_lockdown(7)
)
