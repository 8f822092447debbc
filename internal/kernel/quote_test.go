// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// icmpError is an IPv4 frame with an error that quotes a packet, which begins with its IP header.
func icmpError(typ, code byte, quoted []byte) []byte {
	f := append(udpFrame(0x0a0000fe, 0x0a000001, 0, 0, 42), quoted...)
	f[23], f[34], f[35] = unix.IPPROTO_ICMP, typ, code
	return f
}

func icmp6Error(typ byte, quoted []byte) []byte {
	f := append(udp6Frame(0xfe, 1, 0, 0), quoted...)
	f[20], f[54], f[55] = unix.IPPROTO_ICMPV6, typ, 0
	return f
}

// withOptions puts eight bytes of options into an IPv4 packet.
func withOptions(p []byte) []byte {
	q := append(append(append([]byte{}, p[:20]...), make([]byte, 8)...), p[20:]...)
	q[0] = 0x47
	return q
}

// withFragmentHeader puts one into an IPv6 packet.
func withFragmentHeader(p []byte, offset uint16) []byte {
	h := make([]byte, 8)
	h[0] = p[6]
	binary.BigEndian.PutUint16(h[2:], offset)
	q := append(append(append([]byte{}, p[:40]...), h...), p[40:]...)
	q[6] = unix.IPPROTO_FRAGMENT
	return q
}

func tagged(f []byte, id uint16) []byte {
	tag := []byte{0x81, 0, byte(id >> 8), byte(id)}
	return append(append(append([]byte{}, f[:12]...), tag...), f[12:]...)
}

// sentKey is the key of a packet of ours, and echo of a ping.
func sentKey(proto uint8, src, dst uint16) flow.Key {
	return flow.Key{
		SrcAddr: flow.Addr{12: 10, 15: 1}, DstAddr: flow.Addr{12: 10, 15: 2},
		SrcPort: src, DstPort: dst, IfIndex: loopback, Proto: proto,
	}
}

func sentKey6(proto uint8, src, dst uint16) flow.Key {
	prefix := flow.Addr{0x20, 0x01, 0x0d, 0xb8, 15: 1}
	k := flow.Key{SrcAddr: prefix, DstAddr: prefix, SrcPort: src, DstPort: dst, IfIndex: loopback, Proto: proto, IPv6: true}
	k.DstAddr[15] = 2
	return k
}

// An ICMP error is counted as itself, and beside that noted for the flow that it quotes: with the key, and at the hook, at which
// the quoted packet was counted itself.
func TestICMPErrorsAreNotedForTheFlowTheyQuote(t *testing.T) {
	udp := udpFrame(0x0a000001, 0x0a000002, 5000, 53, 142)[14:]
	tcp := tcpFrame(0x10, 100)[14:]
	echo := udpFrame(0x0a000001, 0x0a000002, 0x0800, 0, 142)[14:]
	echo[9] = unix.IPPROTO_ICMP
	binary.BigEndian.PutUint16(echo[24:], 0x77)
	udp6 := udp6Frame(1, 2, 5000, 53)[14:]
	echo6 := udp6Frame(1, 2, 0x8000, 0)[14:]
	echo6[6] = unix.IPPROTO_ICMPV6
	later := sentKey6(unix.IPPROTO_UDP, 0, 0)
	later.LaterFragment = true
	onVLAN := sentKey(unix.IPPROTO_UDP, 5000, 53)
	onVLAN.Tagged, onVLAN.VLAN = true, 7

	for _, tt := range []struct {
		name  string
		frame []byte
		want  flow.ICMPError // 0: nothing is noted
		key   flow.Key
		lost  uint64
	}{
		{"port unreachable", icmpError(3, 3, udp), flow.ICMPUnreachable, sentKey(unix.IPPROTO_UDP, 5000, 53), 0},
		{"host unreachable, eight bytes quoted", icmpError(3, 1, tcp[:28]), flow.ICMPUnreachable, sentKey(unix.IPPROTO_TCP, 40000, 443), 0},
		{"fragmentation needed", icmpError(3, 4, tcp), flow.ICMPTooBig, sentKey(unix.IPPROTO_TCP, 40000, 443), 0},
		{"time exceeded", icmpError(11, 0, udp), flow.ICMPTimeExceeded, sentKey(unix.IPPROTO_UDP, 5000, 53), 0},
		{"time exceeded for a ping", icmpError(11, 0, echo), flow.ICMPTimeExceeded, sentKey(unix.IPPROTO_ICMP, 0x77, 0x0800), 0},
		{"quoted with options", icmpError(3, 3, withOptions(udp)), flow.ICMPUnreachable, sentKey(unix.IPPROTO_UDP, 5000, 53), 0},
		{"of a VLAN", tagged(icmpError(3, 3, udp), 7), flow.ICMPUnreachable, onVLAN, 0},
		{"IPv6 unreachable", icmp6Error(1, udp6), flow.ICMPUnreachable, sentKey6(unix.IPPROTO_UDP, 5000, 53), 0},
		{"IPv6 too big", icmp6Error(2, udp6), flow.ICMPTooBig, sentKey6(unix.IPPROTO_UDP, 5000, 53), 0},
		{"IPv6 time exceeded for a ping", icmp6Error(3, echo6), flow.ICMPTimeExceeded, sentKey6(unix.IPPROTO_ICMPV6, 0, 0x8000), 0},
		{"IPv6, first fragment quoted", icmp6Error(3, withFragmentHeader(udp6, 1)), flow.ICMPTimeExceeded, sentKey6(unix.IPPROTO_UDP, 5000, 53), 0},
		{"IPv6, later fragment quoted", icmp6Error(3, withFragmentHeader(udp6, 8)), flow.ICMPTimeExceeded, later, 0},
		{"redirect is no error", icmpError(5, 1, udp), 0, flow.Key{}, 0},
		{"parameter problem says nothing of the way", icmpError(12, 0, udp), 0, flow.Key{}, 0},
		{"echo reply quotes nothing", icmpError(0, 0, udp), 0, flow.Key{}, 0},
		{"type 3 of ICMPv4 is none of IPv6's", icmp6Error(129, udp6), 0, flow.Key{}, 0},
		{"seven bytes quoted", icmpError(3, 3, udp[:27]), 0, flow.Key{}, 1},
		{"nothing quoted", icmpError(3, 3, nil), 0, flow.Key{}, 1},
		{"rubbish quoted", icmpError(3, 3, make([]byte, 60)), 0, flow.Key{}, 1},
		{"IPv6 quoted by ICMP", icmpError(3, 3, udp6), 0, flow.Key{}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := load(t, Config{Quotes: true})
			pin(t, 0)
			for _, d := range []flow.Direction{flow.DirectionIngress, flow.DirectionEgress} {
				for range 3 {
					inject(t, k.programFor(t, false, d), tt.frame, nil)
				}
				got := drain(t, k)
				require.Equal(t, flow.Volume{Packets: 3, Bytes: 3 * uint64(len(tt.frame))}, got.Ledger.Entries[flow.ReasonAccounted])
				require.Len(t, got.slots, 1, "the error itself")
				require.Equal(t, 3*tt.lost, got.QuotesLost)
				if tt.want == 0 {
					require.Empty(t, got.Quotes)
					continue
				}
				require.Equal(t, []flow.Quote{{Key: tt.key, Direction: 1 - d, Error: tt.want, Count: 3}}, got.Quotes)
			}
		})
	}
}

// Who forges errors fills no slots that packets need, and errors cost nothing where nobody wants them.
func TestQuotesGiveWayToPackets(t *testing.T) {
	quote := func(port uint16) []byte {
		return icmpError(3, 3, udpFrame(0x0a000001, 0x0a000002, port, 53, 142)[14:])
	}
	t.Run("half full", func(t *testing.T) {
		k := load(t, Config{Quotes: true, Slots: MinSlots})
		pin(t, 0)
		const errors = 1000
		for port := range uint16(errors) {
			inject(t, k.objects.IngressL2, quote(port), nil)
		}
		got := drain(t, k)
		require.Len(t, got.slots, 1)
		require.Equal(t, uint64(errors), got.slots[0].Packets)
		require.Len(t, got.Quotes, MinSlots/2-1)
		require.Equal(t, uint64(errors-len(got.Quotes)), got.QuotesLost)
	})
	t.Run("filtered", func(t *testing.T) {
		k := load(t, Config{Quotes: true, Filters: []Filter{skip("10.0.0.254/32", nil, nil)}})
		pin(t, 0)
		inject(t, k.objects.IngressL2, quote(1), nil)
		got := drain(t, k)
		require.Empty(t, got.slots)
		require.Empty(t, got.Quotes)
		require.Zero(t, got.QuotesLost)
	})
	t.Run("not wanted", func(t *testing.T) {
		k := load(t, Config{})
		pin(t, 0)
		inject(t, k.objects.IngressL2, quote(1), nil)
		got := drain(t, k)
		require.Len(t, got.slots, 1)
		require.Empty(t, got.Quotes)
	})
}
