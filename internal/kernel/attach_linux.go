// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package kernel

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
)

// hook is a place a program is attached to.
type hook struct {
	ifindex   uint32
	direction flow.Direction
}

type attachment struct {
	link link.Link
	name string
}

// Attach counts one direction of one interface from now on; doing so twice is a no-op. It takes about 8 ms, a grace period
// under RTNL. The link is not pinned: it goes with the process, however that ends.
func (k *Kernel) Attach(i iface.Interface, d flow.Direction) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return fmt.Errorf("attach tcx %s to %q (ifindex %d): %w", d, i.Name, i.Index, os.ErrClosed)
	}
	h := hook{i.Index, d}
	if _, ok := k.links[h]; ok {
		return nil
	}
	l, err := k.attach(i, d)
	if err != nil {
		return fmt.Errorf("attach tcx %s to %q (ifindex %d): %w", d, i.Name, i.Index, err)
	}
	k.links[h] = attachment{link: l, name: i.Name}
	return nil
}

func (k *Kernel) attach(i iface.Interface, d flow.Direction) (link.Link, error) {
	program, err := k.program(i.LinkHeader(), d)
	if err != nil {
		return nil, fmt.Errorf("hardware type %d: %w", i.HWType, err)
	}
	at := ebpf.AttachTCXIngress
	if d == flow.DirectionEgress {
		at = ebpf.AttachTCXEgress
	}
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: int(i.Index),
		Program:   program,
		Attach:    at,
		Anchor:    link.Head(), // before programs that may end the chain and so hide packets
	})
	if errors.Is(err, link.ErrNotSupported) {
		return nil, fmt.Errorf("%w: tcx links need Linux 6.6 or newer", err)
	}
	return l, err
}

func (k *Kernel) program(h iface.LinkHeader, d flow.Direction) (*ebpf.Program, error) {
	switch h {
	case iface.LinkHeaderEthernet:
		return [...]*ebpf.Program{k.objects.IngressL2, k.objects.EgressL2}[d], nil
	case iface.LinkHeaderNone:
		return [...]*ebpf.Program{k.objects.IngressL3, k.objects.EgressL3}[d], nil
	}
	return nil, errors.New("link header not supported (Ethernet, loopback and devices without link header are)")
}

// Detach stops counting at an interface, both directions.
func (k *Kernel) Detach(ifindex uint32) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	for _, d := range []flow.Direction{flow.DirectionIngress, flow.DirectionEgress} {
		errs = append(errs, k.detach(hook{ifindex, d}))
	}
	return errors.Join(errs...)
}

func (k *Kernel) detachAll() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	var errs []error
	for h := range k.links {
		errs = append(errs, k.detach(h))
	}
	return errors.Join(errs...)
}

func (k *Kernel) detach(h hook) error {
	a, ok := k.links[h]
	if !ok {
		return nil
	}
	delete(k.links, h)
	if err := a.link.Close(); err != nil {
		return fmt.Errorf("detach tcx %s from %q (ifindex %d): %w", h.direction, a.name, h.ifindex, err)
	}
	return nil
}
