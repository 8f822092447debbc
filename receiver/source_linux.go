// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package receiver

import (
	"context"
	"os"

	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
)

// linux is the host as it is.
type linux struct{}

func (linux) load(c sourceConfig, notice func(string)) (source, error) {
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
		Notice:       notice,
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

func (linux) interfaces() ([]iface.Interface, error)          { return iface.List() }
func (linux) counters() (map[uint32]iface.Counters, error)    { return iface.Count() }
func (linux) watch(ctx context.Context, changed func()) error { return iface.Watch(ctx, changed) }

func (linux) ephemeralLow() uint16 {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return defaultEphemeralLow
	}
	return parseEphemeralLow(b)
}
