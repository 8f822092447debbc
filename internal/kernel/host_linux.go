// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package kernel

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
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
	{unix.CAP_PERFMON, "CAP_PERFMON", true, "without it the verifier hardens every memory access, at ten times the cost per packet"},
}

const grant = `run as root, or grant it: "setcap cap_bpf,cap_net_admin,cap_perfmon+ep <collector>", or ` +
	`AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_PERFMON in a systemd unit`

const grantNamespaces = `run as root, or grant it: "setcap cap_bpf,cap_net_admin,cap_perfmon,cap_sys_admin+ep <collector>", or ` +
	`AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_PERFMON CAP_SYS_ADMIN in a systemd unit, or observe the own namespace only`

// checkHost refuses hosts on which the programs would not load or not count exactly, and says which and why; namespaces: or on which other
// network namespaces could not be entered.
func checkHost(namespaces bool) error {
	var uname unix.Utsname
	if err := unix.Uname(&uname); err != nil {
		return fmt.Errorf("read the kernel version: %w", err)
	}
	// A feature that cannot be probed: since 3253cb49cbad programs on the same CPU may preempt each other there.
	if strings.Contains(unix.ByteSliceToString(uname.Version[:]), "PREEMPT_RT") {
		return errors.New("PREEMPT_RT kernels are not supported: programs may interrupt each other there and counts would be lost")
	}
	return checkCapabilities(namespaces)
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

// explain adds to an error what the kernel does not say.
func explain(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w (capabilities are present: a container's seccomp profile, a user namespace or kernel lockdown may forbid bpf)", err)
	}
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) {
		return fmt.Errorf("%w; please report it with your kernel version", err)
	}
	return err
}
