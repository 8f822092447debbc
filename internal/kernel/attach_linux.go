// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package kernel

import (
	"errors"
	"fmt"
	"io"
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

// attached is a program at a hook.
type attached interface {
	io.Closer
	// there reports whether it still is: whoever may detach it, and its interface goes with it.
	there() (bool, error)
}

type attachment struct {
	attached
	name string
}

// Attach counts one direction of one interface from now on; doing so twice is a no-op. It takes about 8 ms, a grace period
// under RTNL. A tcx link is not pinned: it goes with the process, however that ends. Where there is no tcx, Attach must run in the
// network namespace of the interface, as it must for tcx.
func (k *Kernel) Attach(i iface.Interface, d flow.Direction) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	h := hook{i.Index, d}
	if _, ok := k.links[h]; ok {
		return nil
	}
	a, err := k.attach(i, d)
	if err != nil {
		return fmt.Errorf("attach %s %s to %q (ifindex %d): %w", k.way(), d, i.Name, i.Index, err)
	}
	k.links[h] = attachment{a, i.Name}
	return nil
}

// way names how programs are attached.
func (k *Kernel) way() string {
	if k.cfg.clsact {
		return "clsact"
	}
	return "tcx"
}

func (k *Kernel) attach(i iface.Interface, d flow.Direction) (attached, error) {
	if k.closed {
		return nil, os.ErrClosed
	}
	program, err := k.program(i.LinkHeader(), d)
	if err != nil {
		return nil, fmt.Errorf("hardware type %d: %w", i.HWType, err)
	}
	if !k.cfg.clsact {
		return attachTCX(i.Index, d, program, k.cfg.AttachLast)
	}
	c, err := attachClsact(i.Index, d, program, k.cfg.AttachLast)
	if err != nil {
		return nil, err
	}
	if c.behind {
		k.notice(fmt.Sprintf("clsact %s of %q: no priority is free before the filters of others; packets that these end are not counted", d, i.Name))
	}
	return c, nil
}

// tcx is a link of ours.
type tcx struct{ link.Link }

func attachTCX(ifindex uint32, d flow.Direction, program *ebpf.Program, last bool) (attached, error) {
	at := [...]ebpf.AttachType{flow.DirectionIngress: ebpf.AttachTCXIngress, flow.DirectionEgress: ebpf.AttachTCXEgress}[d]
	anchor := link.Head() // before programs that may end the chain and so hide packets
	if last {
		anchor = link.Tail()
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: int(ifindex), Program: program, Attach: at, Anchor: anchor})
	if err != nil {
		return nil, err
	}
	return tcx{l}, nil
}

// there: the kernel keeps the link of an interface that is gone, without one.
func (t tcx) there() (bool, error) {
	info, err := t.Info()
	if err != nil {
		return false, err
	}
	return info.TCX().Ifindex != 0, nil
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

// DropLost forgets the programs at an interface that are there no more, and returns how many: somebody else has detached them, or they
// went with an interface whose index is now that of another. Attach attaches them anew.
func (k *Kernel) DropLost(ifindex uint32) (lost int, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	for _, d := range []flow.Direction{flow.DirectionIngress, flow.DirectionEgress} {
		h := hook{ifindex, d}
		a, ok := k.links[h]
		if !ok {
			continue
		}
		there, err := a.there()
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("look for %s %s at %q (ifindex %d): %w", k.way(), d, a.name, ifindex, err))
		case !there:
			lost++
			errs = append(errs, k.detach(h))
		}
	}
	return lost, errors.Join(errs...)
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
	if err := a.Close(); err != nil {
		return fmt.Errorf("detach %s %s from %q (ifindex %d): %w", k.way(), h.direction, a.name, h.ifindex, err)
	}
	return nil
}
