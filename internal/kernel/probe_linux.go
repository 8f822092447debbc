// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package kernel

import (
	"errors"
	"fmt"
	"math"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// floor is the oldest kernel that the programs are tested on.
const floor = "5.10"

// haveTCX attaches a program to an interface that cannot be.
func haveTCX() (bool, error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	})
	if err != nil {
		return false, fmt.Errorf("probe tcx: %w", err)
	}
	defer func() { _ = program.Close() }() // its end changes nothing
	l, err := link.AttachTCX(link.TCXOptions{Interface: math.MaxUint32, Program: program, Attach: ebpf.AttachTCXIngress})
	switch {
	case err == nil:
		return true, l.Close()
	case errors.Is(err, unix.ENODEV):
		return true, nil
	case errors.Is(err, link.ErrNotSupported):
		return false, nil
	}
	return false, fmt.Errorf("probe tcx: %w", err)
}

// feature is one that the programs cannot do without.
type feature struct {
	name  string
	since string // version of Linux; a distribution's kernel may have it earlier
	probe func() error
}

var required = []feature{
	{"map type ringbuf", "5.8", func() error { return features.HaveMapType(ebpf.RingBuf) }},
	{"map flag BPF_F_MMAPABLE", "5.5", func() error { return features.HaveMapFlag(features.BPF_F_MMAPABLE) }},
	{"helper bpf_ktime_get_boot_ns", "5.8", func() error { return features.HaveProgramHelper(ebpf.SchedCLS, asm.FnKtimeGetBootNs) }},
	{"helper bpf_jiffies64", "5.6", func() error { return features.HaveProgramHelper(ebpf.SchedCLS, asm.FnJiffies64) }},
	{"bounded loops", "5.3", features.HaveBoundedLoops},
	{"instruction set v3", "5.1", features.HaveV3ISA},
}

// lacking names what this kernel lacks of them, and is asked when loading has failed.
func lacking(all []feature) (missing []error) {
	for _, f := range all {
		if errors.Is(f.probe(), ebpf.ErrNotSupported) {
			missing = append(missing, fmt.Errorf("this kernel has no %s (Linux %s has); %s is the oldest that is supported", f.name, f.since, floor))
		}
	}
	return missing
}
