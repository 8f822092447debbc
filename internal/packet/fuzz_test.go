// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/frames"
)

func FuzzDecode(f *testing.F) {
	for _, frame := range slices.Concat(frames.All, frames.Offloaded, frames.ICMP) {
		f.Add(frame.L3, frame.Tagged, frame.VLANTCI, frame.Data)
	}
	f.Fuzz(func(t *testing.T, l3, tagged bool, tci uint16, data []byte) {
		s := packet.Sample{IfIndex: 7, NetNS: 3, L3: l3, Tagged: tagged, VLANTCI: tci, Data: slices.Clip(data)}
		p := dirty()
		packet.Decode(&s, &p) // a read past the end of a clipped slice panics

		for _, behind := range []byte{0x00, 0xff} {
			require.Equal(t, p, decodeBefore(s, behind), "bytes behind the frame were read")
		}
		if p.Reason == flow.ReasonAccounted {
			requireAccounted(t, &s, &p)
		} else {
			requireUnread(t, &p)
		}
	})
}

// decodeBefore decodes s with bytes of the given value between the length and the capacity of its data.
func decodeBefore(s packet.Sample, behind byte) packet.Packet {
	n := len(s.Data)
	s.Data = append(slices.Clone(s.Data), bytes.Repeat([]byte{behind}, 128)...)[:n]
	p := dirty()
	packet.Decode(&s, &p)
	return p
}

func requireUnread(t *testing.T, p *packet.Packet) {
	require.Less(t, p.Reason, flow.ReasonCount)
	require.NotEqual(t, flow.ReasonOverflow, p.Reason, "that is for the kernel's table to say")
	require.Equal(t, packet.Packet{
		Reason:    p.Reason,
		Key:       flow.Key{IfIndex: 7, NetNS: 3},
		EtherType: p.EtherType,
	}, *p)
	if p.Reason == flow.ReasonEtherType {
		require.GreaterOrEqual(t, p.EtherType, uint16(1536))
	}
}

func requireAccounted(t *testing.T, s *packet.Sample, p *packet.Packet) {
	k := &p.Key
	require.Equal(t, [2]uint32{7, 3}, [2]uint32{k.IfIndex, uint32(k.NetNS)})
	require.LessOrEqual(t, k.VLAN, uint16(4095))
	require.True(t, k.Tagged || k.VLAN == 0, "a VLAN without a tag")
	require.Equal(t, k.IPv6, k.Src().Is6())
	if !k.IPv6 {
		require.Zero(t, [12]byte(k.SrcAddr[:12]))
		require.Zero(t, [12]byte(k.DstAddr[:12]))
	}
	requireLink(t, s, p)
	requireTransport(t, s, p)
}

func requireLink(t *testing.T, s *packet.Sample, p *packet.Packet) {
	switch {
	case s.L3:
		require.False(t, p.Key.Tagged)
		require.Zero(t, p.EtherType)
	case p.Key.IPv6:
		require.Equal(t, uint16(0x86dd), p.EtherType)
	default:
		require.Equal(t, uint16(0x0800), p.EtherType)
	}
	if s.Tagged && !s.L3 {
		require.Equal(t, s.VLANTCI&0x0fff, p.Key.VLAN, "the offloaded tag is the outermost")
	}
}

func requireTransport(t *testing.T, s *packet.Sample, p *packet.Packet) {
	k := &p.Key
	hasPorts := !k.LaterFragment && slices.Contains([]uint8{6, 17, 132}, k.Proto)
	require.True(t, hasPorts || p.HasICMP || k.SrcPort == 0 && k.DstPort == 0, "ports of a protocol that has none")
	require.Equal(t, !k.LaterFragment && k.Proto == 6, p.HasTCP)
	require.Equal(t, !k.LaterFragment && (k.Proto == 1 && !k.IPv6 || k.Proto == 58 && k.IPv6), p.HasICMP)
	if !p.HasTCP {
		require.Zero(t, [4]uint32{uint32(p.TCPFlags), p.TCPSeq, p.TCPAck, uint32(p.TCPWindow)})
	}
	if !p.HasICMP {
		require.Zero(t, [2]uint8{p.ICMPType, p.ICMPCode})
	}

	least := 20
	if k.IPv6 {
		least = 40
	}
	if !s.L3 {
		least += 14
	}
	require.GreaterOrEqual(t, int(p.HeaderLen), least)
	require.LessOrEqual(t, int(p.HeaderLen), 14+2*4+40+8*2048+60)
	if hasPorts && !p.HasTCP || p.HasICMP {
		require.LessOrEqual(t, int(p.HeaderLen), len(s.Data), "a transport header past the end")
	}
}
