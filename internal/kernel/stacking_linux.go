// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package kernel

import (
	"errors"
	"fmt"

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
// Config.Deduplicate. What they could not be told the next call tells.
func (n *Namespace) Stack(all map[uint32]iface.Stacking) error {
	n.k.mu.Lock()
	defer n.k.mu.Unlock()
	return n.stack(all)
}

func (n *Namespace) stack(all map[uint32]iface.Stacking) error {
	if n.stacks == nil {
		n.stacks = map[uint32]iface.Stacking{}
	}
	var errs []error
	for index := range n.stacks {
		if _, ok := all[index]; ok {
			continue
		}
		if err := n.k.objects.Stackings.Delete(n.place(index)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, err)
			continue
		}
		delete(n.stacks, index)
	}
	for index, s := range all {
		if was, ok := n.stacks[index]; ok && was == s {
			continue
		}
		if err := n.k.objects.Stackings.Update(n.place(index), compileStacking(s), ebpf.UpdateAny); err != nil {
			errs = append(errs, err)
			continue
		}
		n.stacks[index] = s
	}
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
