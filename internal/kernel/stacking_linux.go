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

// Stack tells the programs how the interfaces of the namespace are joined. It replaces what they were told before, and needs
// Config.Deduplicate.
func (n *Namespace) Stack(all map[uint32]iface.Stacking) error {
	n.k.mu.Lock()
	defer n.k.mu.Unlock()
	return n.stack(all)
}

func (n *Namespace) stack(all map[uint32]iface.Stacking) error {
	var errs []error
	for index := range n.stacks {
		if _, ok := all[index]; !ok {
			errs = append(errs, n.k.objects.Stackings.Delete(n.place(index)))
		}
	}
	said := maps.Clone(all)
	for index, s := range all {
		if was, ok := n.stacks[index]; ok && was == s {
			continue
		}
		if err := n.k.objects.Stackings.Update(n.place(index), compileStacking(s), ebpf.UpdateAny); err != nil {
			errs = append(errs, err)
			delete(said, index)
		}
	}
	n.stacks = said
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("tell the programs how interfaces are joined: %w", err)
	}
	return nil
}

// place names an interface in the map stackings.
func (n *Namespace) place(index uint32) bpfPlace {
	return bpfPlace{Ifindex: index, Netns: uint32(n.number)}
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
