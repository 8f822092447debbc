// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
)

// methodOfAFirstPacket returns what the record of a UDP flow that begins now says of its roles; its ports say nothing.
func (b *bench) methodOfAFirstPacket(ifindex uint32, to string) flow.Initiator {
	at := b.now.Sub(epoch).Seconds()
	s := udp("10.0.0.1:1000", to, flow.DirectionEgress, 1, 100, at, at)
	s.IfIndex = ifindex
	b.host.count(s)
	b.after(time.Second)
	b.records()
	b.after(b.cfg.Flows.IdleTimeout)
	all := b.records()
	require.Len(b.t, all, 1)
	return all[0].Initiator
}

func TestTheFirstPacketSeenIsTheFirstOnlyWhereWeWatched(t *testing.T) {
	b := newBench(t, testConfig(), newFakeHost("eth0"), nil, consumertest.NewNop())
	b.after(time.Second)
	assert.Equal(t, flow.InitiatorUnknown, b.methodOfAFirstPacket(1, "10.0.0.2:2001"))
	b.after(2 * time.Minute)
	assert.Equal(t, flow.InitiatorFirstPacket, b.methodOfAFirstPacket(1, "10.0.0.2:2002"))

	b.host.do(func() { b.host.ifaces = append(b.host.ifaces, ethernet(2, "eth1")) })
	b.step(time.Second)
	b.after(time.Second)
	assert.Equal(t, flow.InitiatorUnknown, b.methodOfAFirstPacket(2, "10.0.0.2:2003"), "a new interface")
	assert.Equal(t, flow.InitiatorFirstPacket, b.methodOfAFirstPacket(1, "10.0.0.2:2003"), "the old one is still watched")
	b.after(2 * time.Minute)
	assert.Equal(t, flow.InitiatorFirstPacket, b.methodOfAFirstPacket(2, "10.0.0.2:2004"))

	b.now = b.now.Add(-time.Hour)
	b.after(time.Second)
	assert.Equal(t, flow.InitiatorUnknown, b.methodOfAFirstPacket(1, "10.0.0.2:2005"), "the clock was set back")
	b.after(2 * time.Minute)
	assert.Equal(t, flow.InitiatorFirstPacket, b.methodOfAFirstPacket(1, "10.0.0.2:2006"))
}

// What passed while the programs were gone was not watched, though they were attached again before anybody drained.
func TestWatchingBeginsAnewWithThePrograms(t *testing.T) {
	for name, lose := range map[string]func(b *bench){
		"programs were lost": func(b *bench) {
			b.host.do(func() { b.host.lost = map[uint32]int{1: 1} })
			b.step(time.Second)
		},
		"made anew under the same index": func(b *bench) {
			b.host.do(func() { b.host.ifaces = nil })
			b.step(time.Second)
			b.host.do(func() { b.host.ifaces = []iface.Interface{ethernet(1, "eth0")} })
			b.step(time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, testConfig(), newFakeHost("eth0"), nil, consumertest.NewNop())
			b.after(time.Second)
			b.after(2 * time.Minute)
			assert.Equal(t, flow.InitiatorFirstPacket, b.methodOfAFirstPacket(1, "10.0.0.2:2001"))
			lose(b)
			b.after(time.Second)
			assert.Equal(t, flow.InitiatorUnknown, b.methodOfAFirstPacket(1, "10.0.0.2:2002"))
			b.after(2 * time.Minute)
			assert.Equal(t, flow.InitiatorFirstPacket, b.methodOfAFirstPacket(1, "10.0.0.2:2003"))
		})
	}
}

// An interface that is re-created under the index of one that was watched for long is a new one.
func TestWatchingEndsWithTheInterface(t *testing.T) {
	b := newBench(t, testConfig(), newFakeHost("eth0"), nil, consumertest.NewNop())
	b.after(time.Second)
	b.after(2 * time.Minute)
	b.host.do(func() { b.host.ifaces = nil })
	b.step(time.Second)
	b.after(time.Second)
	b.host.do(func() { b.host.ifaces = []iface.Interface{ethernet(1, "eth0")} })
	b.step(time.Second)
	b.after(time.Second)
	assert.Equal(t, flow.InitiatorUnknown, b.methodOfAFirstPacket(1, "10.0.0.2:2001"))
}
