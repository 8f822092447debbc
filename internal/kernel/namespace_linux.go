// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package kernel

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/netns"
)

// Namespace attaches programs to the interfaces of one network namespace. Its methods may be called from anywhere, but Stack has one
// caller at a time, and Close comes last.
//
// Interface indexes and addresses say nothing without their namespace. So each has a number, which is part of every key: the programs of
// other namespaces are loaded anew, with that number as a constant, and share all maps with those of the process's own.
type Namespace struct {
	k        *Kernel
	number   uint16
	handle   *netns.Namespace // nil: that of the process
	links    map[hook]attachment
	stacks   map[uint32]iface.Stacking // what the programs know of its interfaces
	programs map[iface.LinkHeader]*hookPrograms
	closed   bool // no more links
}

// Observe lets programs be attached to the interfaces of another network namespace. What they count bears number, which must be 1 to
// MaxNamespace and not in use, and should not have been for as long as anything is remembered of the namespace that had it: flows
// that have not ended, fragments, roles. The handle must stay open until the Namespace is closed.
func (k *Kernel) Observe(number uint16, handle *netns.Namespace) (*Namespace, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.closed:
		return nil, os.ErrClosed
	case number == 0 || number > MaxNamespace || k.others[number] != nil:
		return nil, fmt.Errorf("number of a namespace must be 1 to %d and free, got %d", MaxNamespace, number)
	}
	n := &Namespace{k: k, number: number, handle: handle, links: map[hook]attachment{}, programs: map[iface.LinkHeader]*hookPrograms{}}
	k.others[number] = n
	return n, nil
}

// Close detaches everything in the namespace and frees its programs. It is idempotent.
func (n *Namespace) Close() error {
	n.k.mu.Lock()
	closed, hooks := n.closed, n.hooks()
	n.closed = true
	n.k.mu.Unlock()
	if closed {
		return nil
	}
	return errors.Join(n.detachEach(hooks), n.free())
}

func (n *Namespace) free() error {
	n.k.mu.Lock()
	defer n.k.mu.Unlock()
	var errs []error
	if len(n.stacks) > 0 {
		errs = append(errs, n.stack(nil))
	}
	for _, p := range n.programs {
		errs = append(errs, p.Ingress.Close(), p.Egress.Close())
	}
	delete(n.k.others, n.number)
	return errors.Join(errs...)
}

// closeNamespaces lets go of all interfaces.
func (k *Kernel) closeNamespaces() error {
	k.mu.Lock()
	k.closed = true
	others, hooks := slices.Collect(maps.Values(k.others)), k.hooks()
	k.mu.Unlock()
	var errs []error
	for _, n := range others {
		errs = append(errs, n.Close())
	}
	return errors.Join(append(errs, k.detachEach(hooks))...)
}

// hookPrograms are the programs for interfaces with one kind of link header.
type hookPrograms struct{ Ingress, Egress *ebpf.Program }

func (p *hookPrograms) of(d flow.Direction) *ebpf.Program {
	return [...]*ebpf.Program{flow.DirectionIngress: p.Ingress, flow.DirectionEgress: p.Egress}[d]
}

func (n *Namespace) program(h iface.LinkHeader, d flow.Direction) (*ebpf.Program, error) {
	if h != iface.LinkHeaderEthernet && h != iface.LinkHeaderNone {
		return nil, errors.New("link header not supported (Ethernet, loopback and devices without link header are, tunnels among them from Linux 5.14 on)")
	}
	if n.number == 0 {
		return n.k.objects.of(h).of(d), nil
	}
	p, ok := n.programs[h]
	if !ok {
		var err error
		if p, err = n.k.loadInstance(n.number, h); err != nil {
			return nil, fmt.Errorf("load programs for a network namespace: %w", explain(err))
		}
		n.programs[h] = p
	}
	return p.of(d), nil
}

func (o *objects) of(h iface.LinkHeader) *hookPrograms {
	if h == iface.LinkHeaderNone {
		return &hookPrograms{o.IngressL3, o.EgressL3}
	}
	return &hookPrograms{o.IngressL2, o.EgressL2}
}

// loadInstance loads the programs for one kind of link header once more, to count as in namespace number.
func (k *Kernel) loadInstance(number uint16, h iface.LinkHeader) (*hookPrograms, error) {
	spec, err := loadSpec(k.cfg)
	if err != nil {
		return nil, err
	}
	if err := spec.Variables[bpfVarNetns].Set(number); err != nil {
		return nil, fmt.Errorf("set %s: %w", bpfVarNetns, err)
	}
	sizeMaps(spec, k.cfg)
	options := &ebpf.CollectionOptions{MapReplacements: k.objects.maps()}
	if h == iface.LinkHeaderNone {
		var p struct {
			Ingress *ebpf.Program `ebpf:"ingress_l3"`
			Egress  *ebpf.Program `ebpf:"egress_l3"`
		}
		err = spec.LoadAndAssign(&p, options)
		return &hookPrograms{p.Ingress, p.Egress}, err
	}
	var p struct {
		Ingress *ebpf.Program `ebpf:"ingress_l2"`
		Egress  *ebpf.Program `ebpf:"egress_l2"`
	}
	err = spec.LoadAndAssign(&p, options)
	return &hookPrograms{p.Ingress, p.Egress}, err
}
