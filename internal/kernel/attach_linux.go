// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package kernel

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

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
// under RTNL. A tcx link is not pinned: it goes with the process, however that ends.
func (n *Namespace) Attach(i iface.Interface, d flow.Direction) error {
	n.k.mu.Lock()
	defer n.k.mu.Unlock()
	h := hook{i.Index, d}
	if _, ok := n.links[h]; ok {
		return nil
	}
	a, err := n.attach(i, d)
	if err != nil {
		return fmt.Errorf("attach %s %s to %q (ifindex %d): %w", n.k.way(), d, i.Name, i.Index, err)
	}
	n.links[h] = attachment{a, i.Name}
	return nil
}

// way names how programs are attached.
func (k *Kernel) way() string {
	if k.cfg.Clsact {
		return "clsact"
	}
	return "tcx"
}

func (n *Namespace) attach(i iface.Interface, d flow.Direction) (a attached, err error) {
	if n.closed || n.k.closed {
		return nil, os.ErrClosed
	}
	program, err := n.program(i.LinkHeader(), d)
	if err != nil {
		return nil, fmt.Errorf("hardware type %d: %w", i.HWType, err)
	}
	err = n.handle.Do(func() (err error) {
		a, err = n.k.attachHere(i, d, program)
		return err
	})
	if err != nil && a != nil { // the way home failed
		return nil, errors.Join(err, n.release(a))
	}
	return a, err
}

// attachHere must run in the network namespace of the interface.
func (k *Kernel) attachHere(i iface.Interface, d flow.Direction, program *ebpf.Program) (attached, error) {
	if !k.cfg.Clsact {
		return attachTCX(i.Index, d, program, k.cfg.AttachLast)
	}
	c, err := attachClsact(i.Index, d, program, k.cfg.AttachLast, &k.patience)
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

// DropLost forgets the programs at an interface that are there no more, and returns how many: somebody else has detached them, or they
// went with an interface whose index is now that of another. Attach attaches them anew.
func (n *Namespace) DropLost(ifindex uint32) (lost int, err error) {
	n.k.mu.Lock()
	defer n.k.mu.Unlock()
	var errs []error
	for _, d := range []flow.Direction{flow.DirectionIngress, flow.DirectionEgress} {
		h := hook{ifindex, d}
		a, ok := n.links[h]
		if !ok {
			continue
		}
		there, err := a.there()
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("look for %s %s at %q (ifindex %d): %w", n.k.way(), d, a.name, ifindex, err))
		case !there:
			lost++
			errs = append(errs, n.detach(h))
		}
	}
	return lost, errors.Join(errs...)
}

// Sweep removes the filters, and the qdisc, that killed predecessors left at an interface, and returns how many filters it were. Attach does so
// where it attaches. With tcx nothing is ever left.
func (n *Namespace) Sweep(i iface.Interface) (filters int, err error) {
	if !n.k.cfg.Clsact {
		return 0, nil
	}
	n.k.mu.Lock()
	defer n.k.mu.Unlock()
	err = n.handle.Do(func() (err error) {
		filters, err = sweepClsact(i.Index, &n.k.patience)
		return err
	})
	if err != nil {
		return filters, fmt.Errorf("remove what a killed process left at %q (ifindex %d): %w", i.Name, i.Index, err)
	}
	return filters, nil
}

// detachPause is after each hook, without a lock: a tcx link holds RTNL for a grace period, and whoever waits for that gets it now.
const detachPause = time.Millisecond

// Detach stops counting at an interface, both directions.
func (n *Namespace) Detach(ifindex uint32) error {
	return n.detachEach([]hook{{ifindex, flow.DirectionIngress}, {ifindex, flow.DirectionEgress}})
}

// detachEach must be called without the lock, so that those who attach elsewhere come in between.
func (n *Namespace) detachEach(hooks []hook) error {
	var errs []error
	for _, h := range hooks {
		n.k.mu.Lock()
		_, ok := n.links[h]
		errs = append(errs, n.detach(h))
		n.k.mu.Unlock()
		if ok {
			time.Sleep(detachPause)
		}
	}
	return errors.Join(errs...)
}

func (n *Namespace) hooks() []hook { return slices.Collect(maps.Keys(n.links)) }

func (n *Namespace) detach(h hook) error {
	a, ok := n.links[h]
	if !ok {
		return nil
	}
	delete(n.links, h)
	if err := n.release(a.attached); err != nil {
		return fmt.Errorf("detach %s %s from %q (ifindex %d): %w", n.k.way(), h.direction, a.name, h.ifindex, err)
	}
	return nil
}

// release: a filter is taken back where it was added, a link anywhere. Where nobody can go any more, the filter's own sockets still are.
func (n *Namespace) release(a attached) error {
	c, ok := a.(*clsact)
	if !ok {
		return a.Close()
	}
	there := false
	err := n.handle.Do(func() error { there = true; return c.Close() })
	if !there {
		err = errors.Join(err, c.close(nil))
	}
	return err
}
