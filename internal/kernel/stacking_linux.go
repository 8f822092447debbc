// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package kernel

import (
	"errors"
	"fmt"
	"maps"

	"github.com/cilium/ebpf"

	"github.com/ebpfpackets/ebpfpackets/internal/iface"
)

// maxStackings is how many interfaces may be joined to others; their memory is taken when they are. Of those beyond, packets
// count more than once.
const maxStackings = 16384

// Bits of struct stacking in bpf/contract.h.
const (
	stackingKnown = 1 << iota
	stackingIngress
	stackingEgress
)

// Stack tells the programs how interfaces are joined. It replaces what they were told before, and needs Config.Deduplicate.
func (k *Kernel) Stack(all map[uint32]iface.Stacking) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	for index := range k.stacks {
		if _, ok := all[index]; !ok {
			errs = append(errs, k.objects.Stackings.Delete(index))
		}
	}
	said := maps.Clone(all)
	for index, s := range all {
		if was, ok := k.stacks[index]; ok && was == s {
			continue
		}
		if err := k.objects.Stackings.Update(index, compileStacking(s), ebpf.UpdateAny); err != nil {
			errs = append(errs, err)
			delete(said, index)
		}
	}
	k.stacks = said
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("tell the programs how interfaces are joined: %w", err)
	}
	return nil
}

func compileStacking(s iface.Stacking) bpfStacking {
	c := bpfStacking{Through: s.Through}
	if s.Known {
		c.Bits |= stackingKnown
	}
	if s.Ingress {
		c.Bits |= stackingIngress
	}
	if s.Egress {
		c.Bits |= stackingEgress
	}
	return c
}
