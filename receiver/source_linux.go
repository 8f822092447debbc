// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package receiver

import (
	"context"
	"os"

	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
	"github.com/ebpfpackets/ebpfpackets/internal/netns"
)

// linux is the host as it is.
type linux struct {
	clsact bool // for tests: even if the kernel has tcx
}

func (l linux) load(c sourceConfig, notice func(string)) (source, error) {
	k, err := kernel.Load(kernel.Config{
		Filters:      c.filters,
		Tunnels:      c.tunnels,
		Deduplicate:  c.once,
		Quotes:       c.quotes,
		Samples:      c.samples,
		RandomOneIn:  c.packets.RandomOneIn,
		FlowOneIn:    c.packets.FlowOneIn,
		FirstPerFlow: c.packets.FirstPerFlow,
		FirstIdle:    2 * c.idle, // the kernel looks at a flow once between two drains: a third of it
		MaxPerSecond: c.packets.MaxPerSecond,
		SnapLength:   c.packets.SnapLength,
		Protocols:    c.packets.kernelProtocols(),
		AttachLast:   c.last,
		Namespaces:   c.enter,
		Notice:       notice,
		Clsact:       l.clsact,
	})
	if err != nil {
		return nil, err
	}
	return loaded{k}, nil
}

// loaded is a source.
type loaded struct{ *kernel.Kernel }

func (l loaded) Observe(number uint16, n *netns.Namespace) (observation, error) {
	return l.Kernel.Observe(number, n)
}

func (linux) ownSpace() (netns.ID, error)                         { return netns.Own() }
func (linux) findSpaces(patterns []string) ([]netns.Found, error) { return netns.Find(patterns) }
func (linux) spaceGone(f netns.Found) bool                        { return netns.Gone(f) }

func (linux) holdSpace(f netns.Found) (heldSpace, error) {
	n, err := netns.Open(f)
	if err != nil {
		return nil, err
	}
	return heldLinux{n}, nil
}

func (linux) interfaces() ([]iface.Interface, error)       { return iface.List() }
func (linux) counters() (map[uint32]iface.Counters, error) { return iface.Count() }

func (linux) watch(ctx context.Context, changed func()) error {
	l, err := iface.Listen()
	if err != nil {
		return err
	}
	return l.Watch(ctx, changed)
}

func (linux) ephemeralLow() uint16 {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return defaultEphemeralLow
	}
	return parseEphemeralLow(b)
}

// heldLinux is another namespace of the host.
type heldLinux struct{ n *netns.Namespace }

// in asks in the namespace.
func in[T any](n *netns.Namespace, ask func() (T, error)) (answer T, err error) {
	err = n.Do(func() (err error) {
		answer, err = ask()
		return err
	})
	return answer, err
}

func (h heldLinux) interfaces() ([]iface.Interface, error)       { return in(h.n, iface.List) }
func (h heldLinux) counters() (map[uint32]iface.Counters, error) { return in(h.n, iface.Count) }

// watch needs the namespace for its socket only.
func (h heldLinux) watch(ctx context.Context, changed func()) error {
	l, err := in(h.n, iface.Listen)
	if err != nil {
		if l != nil { // the way home failed
			l.Close()
		}
		return err
	}
	return l.Watch(ctx, changed)
}

func (h heldLinux) ephemeralLow() uint16 {
	low, err := in(h.n, func() (uint16, error) { return linux{}.ephemeralLow(), nil })
	if err != nil {
		return defaultEphemeralLow
	}
	return low
}

func (h heldLinux) handle() *netns.Namespace { return h.n }
func (h heldLinux) close() error             { return h.n.Close() }
