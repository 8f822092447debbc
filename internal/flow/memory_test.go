// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// numbered is one of 2^32 tuples between high ports.
func numbered(proto uint8, n uint32) Key {
	k := pair{proto, 40000, 50000}.key()
	k.SrcAddr[12], k.SrcAddr[13], k.SrcAddr[14], k.SrcAddr[15] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
	return k
}

// endOne adds a flow of one packet of k at second at, and lets it end.
func endOne(t *testing.T, table *Table, k Key, at int64) *Flow {
	t.Helper()
	d := DirectionEgress
	if k.SrcAddr == server {
		d = DirectionIngress
	}
	f := *table.added(slot(k, d, 0, 0, at, at), nil)
	table.Expire(t0+(at+15)*sec, nil)
	require.Zero(t, table.Len())
	return &f
}

func watchedTable(maxFlows int) *Table {
	config := rolesConfig
	config.MaxFlows = maxFlows
	table := NewTable(config)
	table.Watch(map[Place]int64{request.Place(): t0 + long*sec})
	return table
}

func TestMemoryIsBounded(t *testing.T) {
	const ended, size = 1_000_000, 1000
	table := watchedTable(size)
	at := int64(0)
	for n := range uint32(ended) {
		table.Add(slot(numbered(protoUDP, n), DirectionEgress, 0, 0, at, at), nil)
		if n%size == size-1 {
			table.Expire(t0+(at+15)*sec, nil)
			require.Zero(t, table.Len())
			at += 120 // else the memory were incomplete, and no roles known
		}
	}
	assert.Len(t, table.memory.ring, size)
	assert.LessOrEqual(t, cap(table.memory.ring), 2*size)
	assert.Len(t, table.memory.index, size)
	for n := uint32(ended - size); n < ended; n++ {
		s := slot(numbered(protoUDP, n).Reversed(), DirectionIngress, 0, 0, at-100, at-100)
		require.Equal(t, numbered(protoUDP, n), table.added(s, nil).Key())
	}
}

func TestMemoryForgetsTheOldestFirst(t *testing.T) {
	table := watchedTable(2)
	remembers := func(n uint32, at int64) bool {
		return table.added(slot(numbered(protoUDP, n).Reversed(), DirectionIngress, 0, 0, at, at), nil).Key() == numbered(protoUDP, n)
	}
	for n := range uint32(3) {
		endOne(t, table, numbered(protoUDP, n), int64(n)*16)
	}
	assert.False(t, remembers(0, 50))
	assert.True(t, remembers(2, 50))

	table.Flush(EndReasonForcedEnd, nil) // begins anew, with the same order
	table.Watch(map[Place]int64{request.Place(): t0})
	for n := range uint32(3) {
		endOne(t, table, numbered(protoUDP, n), 1000+int64(n)*16)
	}
	assert.True(t, remembers(1, 1050))
	assert.False(t, remembers(0, 1050))
}

// While tuples that were alive in the last two minutes are forgotten, a first packet proves nothing: its tuple may be one
// of them.
func TestAFirstPacketProvesNothingWhileTooMuchIsForgotten(t *testing.T) {
	const first, unknown = InitiatorFirstPacket, InitiatorUnknown
	table := watchedTable(3)
	for n, tt := range []struct {
		at   int64
		want Initiator
	}{
		{0, first}, {20, first}, {40, first}, // fill the memory
		{60, first},                   // its end pushes out that of second 0
		{80, unknown}, {100, unknown}, // and these two those of second 20 and 40
		{159, unknown}, {280, first}, // this one that of second 60, two minutes before the next is over
		{281, first},
	} {
		assert.Equal(t, tt.want, endOne(t, table, numbered(protoUDP, uint32(n)), tt.at).Initiator(), "second %d", tt.at)
	}

	t.Run("to the nanosecond", func(t *testing.T) {
		for early := range int64(2) {
			table := watchedTable(1)
			endOne(t, table, numbered(protoUDP, 0), 0)
			endOne(t, table, numbered(protoUDP, 1), 20)
			s := slot(numbered(protoUDP, 2), DirectionEgress, 0, 0, 120, 120)
			s.First -= early
			assert.Equal(t, []Initiator{first, unknown}[early], table.added(s, nil).Initiator())
		}
	})
	t.Run("until a flush, if the clock was set back", func(t *testing.T) {
		table := watchedTable(1)
		endOne(t, table, numbered(protoUDP, 0), 0)
		endOne(t, table, numbered(protoUDP, 1), 20)
		table.Flush(EndReasonForcedEnd, nil)
		table.Watch(map[Place]int64{request.Place(): t0 - 1000*sec})
		assert.Equal(t, first, endOne(t, table, numbered(protoUDP, 2), -800).Initiator())
	})
	t.Run("not while only TCP is forgotten, which has handshakes", func(t *testing.T) {
		table := watchedTable(2)
		for n := range uint32(10) {
			k := numbered(protoTCP, n)
			table.Add(slot(k, DirectionEgress, syn|ack, hSYN, int64(n), int64(n)), nil)
		}
		table.Expire(t0+30*sec, nil)
		require.Len(t, table.memory.ring, 2)
		assert.Equal(t, first, endOne(t, table, numbered(protoUDP, 0), 31).Initiator())
	})
	t.Run("not while a tuple that ended often is remembered by its last end", func(t *testing.T) {
		table := watchedTable(3)
		k := numbered(protoUDP, 0)
		endOne(t, table, k, 0)
		for at := int64(20); at < 600; at += 20 {
			f := endOne(t, table, k.Reversed(), at)
			assert.Equal(t, k, f.Key())
			assert.Equal(t, first, f.Initiator())
		}
		assert.Equal(t, first, endOne(t, table, numbered(protoUDP, 1), 600).Initiator())
	})
}

func TestScansDoNotFillTheMemory(t *testing.T) {
	for _, tt := range []struct {
		name string
		scan func(k Key, add func(*Slot))
	}{
		{"a scan without answers", func(k Key, add func(*Slot)) {
			add(slot(k, DirectionIngress, syn, hSYN, 1, 2))
		}},
		{"a scan of closed ports", func(k Key, add func(*Slot)) {
			add(slot(k, DirectionIngress, syn, hSYN, 1, 1))
			add(slot(k.Reversed(), DirectionEgress, rst|ack, 0, 1, 1))
		}},
		{"a scan with ACKs, of which only the ports are known", func(k Key, add func(*Slot)) {
			add(slot(k, DirectionIngress, ack, 0, 1, 2))
		}},
		{"a flood that is answered", func(k Key, add func(*Slot)) {
			add(slot(k, DirectionIngress, syn, hSYN, 1, 1))
			add(slot(k.Reversed(), DirectionEgress, syn|ack, hSYNACK, 1, 9))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table := watchedTable(4096)
			tcp, udp := pair{protoTCP, 40000, 50000}, pair{protoUDP, 40000, 50000}
			table.Add(tcp.out(syn|ack, hSYN, 0), nil)
			table.Add(udp.out(0, 0, 0), nil)
			table.Expire(t0+15*sec, nil)
			for port := range uint16(65535) { // most of them are pushed out
				k := request
				k.DstAddr, k.DstPort = Addr{12: 10, 15: 77}, port+1
				tt.scan(k, func(s *Slot) { table.Add(s, nil) })
			}
			table.Expire(t0+30*sec, nil)
			require.Zero(t, table.Len())
			assert.Len(t, table.memory.ring, 2)
			assert.Equal(t, tcp.key(), table.added(tcp.in(ack, 0, 31), nil).Key())
			assert.Equal(t, udp.key(), table.added(udp.in(0, 0, 31), nil).Key())
			other := pair{protoUDP, 40001, 50000}
			assert.Equal(t, InitiatorFirstPacket, table.added(other.out(0, 0, 31), nil).Initiator())
		})
	}
}

func TestRolesOutliveTheFlow(t *testing.T) {
	tcp, tcpPort := pair{protoTCP, 40000, 50000}, pair{protoTCP, 40000, 443}
	udp, dns, sctp := pair{protoUDP, 40000, 50000}, pair{protoUDP, 40000, 53}, pair{protoSCTP, 40000, 50000}
	opened := []*Slot{tcp.out(syn|ack, hSYN, 0), tcp.in(syn|ack, hSYNACK, 0), tcp.in(ack|psh, 0, 1)}

	for _, tt := range []struct {
		name    string
		earlier []*Slot
		ended   int64 // second of the Expire before the slots
		slots   []*Slot
		want    toldRoles
	}{
		{"TCP: the server speaks first after an idle timeout", opened, 16,
			[]*Slot{tcp.in(ack|psh, 0, 30), tcp.out(ack, 0, 31)}, toldRoles{true, InitiatorSYN}},
		{"TCP: the server's half alone, when its data came with its SYN-ACK", []*Slot{tcp.in(syn|ack|psh, hSYNACK, 0)}, 16,
			[]*Slot{tcp.in(ack, 0, 30)}, toldRoles{true, InitiatorSYN}},
		{"TCP: so after hours", opened, 7200, []*Slot{tcp.in(ack|psh, 0, 7201)}, toldRoles{true, InitiatorSYN}},
		{"TCP: a handshake begins another, with other roles", opened, 16,
			[]*Slot{tcp.out(ack, 0, 31), tcp.in(syn, hSYN, 30)}, toldRoles{false, InitiatorSYN}},
		{"TCP: a handshake that names nobody is not overruled", opened, 16,
			[]*Slot{tcp.in(syn, hSYN, 30), tcp.out(syn, hSYN, 30), tcp.out(ack, 0, 31)}, toldRoles{false, InitiatorUnknown}},
		{"TCP: what the ports said they say again", []*Slot{tcpPort.in(ack, 0, 0)}, 16,
			[]*Slot{tcpPort.in(ack, 0, 30)}, toldRoles{true, InitiatorPort}},
		{"TCP: after the end of a connection, stray packets are nobody's", append(opened[:3:3], tcp.in(rst, 0, 2)), 16,
			[]*Slot{tcp.in(ack, 0, 17)}, toldRoles{false, InitiatorUnknown}},
		{"TCP: a SYN without answer is not remembered", []*Slot{tcp.out(syn, hSYN, 0)}, 16,
			[]*Slot{tcp.in(ack, 0, 17)}, toldRoles{false, InitiatorUnknown}},
		{"TCP: nor is a handshake given up", []*Slot{tcp.out(syn, hSYN, 0), tcp.in(syn|ack, hSYNACK, 0)}, 16,
			[]*Slot{tcp.in(ack, 0, 17)}, toldRoles{false, InitiatorUnknown}},

		{"UDP: the server speaks first after an idle timeout", []*Slot{udp.out(0, 0, 0), udp.in(0, 0, 1)}, 16,
			[]*Slot{udp.in(0, 0, 30), udp.out(0, 0, 31)}, toldRoles{true, InitiatorFirstPacket}},
		{"UDP: the server of a low port speaks first after an idle timeout", []*Slot{dns.out(0, 0, 0), dns.in(0, 0, 1)}, 16,
			[]*Slot{dns.in(0, 0, 30)}, toldRoles{true, InitiatorFirstPacket}},
		{"UDP: a request without answer counts, the answer may be late", []*Slot{udp.out(0, 0, 0)}, 16,
			[]*Slot{udp.in(0, 0, 20)}, toldRoles{true, InitiatorFirstPacket}},
		{"UDP: forgotten a moment before two minutes", []*Slot{udp.out(0, 0, 1)}, 120,
			[]*Slot{udp.in(0, 0, 121)}, toldRoles{true, InitiatorFirstPacket}},
		{"UDP: forgotten after two minutes", []*Slot{udp.out(0, 0, 1)}, 121,
			[]*Slot{udp.in(0, 0, 122)}, toldRoles{false, InitiatorFirstPacket}},
		{"UDP: of unknown roles before, the first packet is not the first", []*Slot{udp.out(0, 0, 0), udp.in(0, 0, 0)}, 16,
			[]*Slot{udp.out(0, 0, 30)}, toldRoles{true, InitiatorUnknown}},
		{"UDP: answers only stay unknown", []*Slot{dns.in(0, 0, 0)}, 16, []*Slot{dns.in(0, 0, 30)}, toldRoles{false, InitiatorUnknown}},
		{"UDP: another tuple has no past", []*Slot{dns.out(0, 0, 0)}, 16, []*Slot{udp.in(0, 0, 30)}, toldRoles{false, InitiatorFirstPacket}},
		{"SCTP: as UDP", []*Slot{sctp.out(0, 0, 0)}, 16, []*Slot{sctp.in(0, 0, 30)}, toldRoles{true, InitiatorFirstPacket}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			forEachOrder(tt.slots, func(slots []*Slot) {
				table := NewTable(rolesConfig)
				table.Watch(map[Place]int64{request.Place(): t0 + long*sec})
				for _, s := range tt.earlier {
					table.Add(s, nil)
				}
				table.Expire(t0+tt.ended*sec, nil)
				require.Zero(t, table.Len())
				assert.Equal(t, tt.want, rolesOf(t, table, slots))
			})
		})
	}

	t.Run("roles are handed on from flow to flow", func(t *testing.T) {
		table := NewTable(rolesConfig)
		for _, s := range opened {
			table.Add(s, nil)
		}
		for at := int64(30); at < 600; at += 30 {
			table.Expire(t0+at*sec, nil)
			require.Zero(t, table.Len())
			f := table.added(tcp.in(ack, 0, at+1), nil)
			assert.Equal(t, InitiatorSYN, f.Initiator())
			assert.Equal(t, tcp.key(), f.Key())
			assert.True(t, f.Answered())
		}
	})
	t.Run("of a flow that was pushed out, too", func(t *testing.T) {
		config := rolesConfig
		config.MaxFlows = 1
		table := NewTable(config)
		for _, s := range opened {
			table.Add(s, nil)
		}
		table.Add(udp.out(0, 0, 2), nil)
		f := table.added(tcp.in(ack|psh, 0, 3), nil)
		assert.Equal(t, InitiatorSYN, f.Initiator())
		assert.Equal(t, tcp.key(), f.Key())
	})
	t.Run("but not a flush, after which times do not compare", func(t *testing.T) {
		table := NewTable(rolesConfig)
		watched := map[Place]int64{request.Place(): t0 + long*sec}
		table.Watch(watched)
		table.Add(tcp.out(syn|ack, hSYN, 0), nil)
		table.Add(udp.out(0, 0, 0), nil)
		table.Expire(t0+16*sec, nil)
		table.Flush(EndReasonForcedEnd, nil)
		assert.Equal(t, InitiatorUnknown, table.added(tcp.in(ack, 0, 17), nil).Initiator())
		assert.Equal(t, InitiatorUnknown, table.added(udp.in(0, 0, 17), nil).Initiator(), "nobody watches yet")
		table.Flush(EndReasonForcedEnd, nil)
		table.Watch(watched)
		f := table.added(udp.in(0, 0, 17), nil)
		assert.Equal(t, InitiatorFirstPacket, f.Initiator())
		assert.Equal(t, udp.key().Reversed(), f.Key())
	})
}
