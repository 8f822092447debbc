// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// onceConfig is for packets that count at one interface each.
var onceConfig = Config{MaxFlows: 100, IdleTimeout: 15 * time.Second, ActiveTimeout: 60 * time.Second, EphemeralLow: low, Scope: ScopeNamespace}

// at returns k as it is counted at an interface, in a VLAN unless that is 0.
func at(k Key, ifindex uint32, vlan uint16) Key {
	k.IfIndex, k.VLAN, k.Tagged = ifindex, vlan, vlan != 0
	return k
}

// Where the two directions of a conversation count is how docs/design.md, "Counted once", has it.
func TestBothDirectionsMeetWhereverTheyCount(t *testing.T) {
	const veth, uplink, bridge, lo = 2, 3, 4, 1
	in, out := DirectionIngress, DirectionEgress
	ping, pong := request, answer
	ping.Proto, ping.SrcPort, ping.DstPort = protoICMP, 7, 8<<8
	pong.Proto, pong.SrcPort, pong.DstPort = protoICMP, 8<<8, 7
	for _, tt := range []struct {
		name       string
		there      Key
		d          Direction
		back       Key
		back0      Direction
		elsewhere  bool
		interfaces int // flows, were each interface to have its own
	}{
		{"pod to uplink over a bridge", at(request, veth, 0), in, at(answer, uplink, 0), in, true, 2},
		{"the other way round", at(request, uplink, 0), in, at(answer, veth, 0), in, true, 2},
		{"host to uplink through a bridge", at(request, bridge, 0), out, at(answer, uplink, 0), in, true, 2},
		{"one interface", at(request, veth, 0), out, at(answer, veth, 0), in, false, 1},
		{"loopback, which counts on egress", at(request, lo, 0), out, at(answer, lo, 0), out, true, 2},
		{"untagged there, tagged back", at(request, veth, 0), in, at(answer, uplink, 5), in, true, 2},
		{"tagged there, untagged back", at(request, uplink, 5), in, at(answer, veth, 0), in, true, 2},
		{"routed between two VLANs of one interface", at(request, uplink, 5), in, at(answer, uplink, 7), in, true, 2},
		{"one interface and VLAN", at(request, veth, 5), out, at(answer, veth, 5), in, false, 1},
		{"a ping", at(ping, veth, 0), in, at(pong, uplink, 0), in, true, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			slots := []*Slot{slot(tt.there, tt.d, 0, 0, 0, 2), slot(tt.back, tt.back0, 0, 0, 1, 1)}
			forEachOrder(slots, func(slots []*Slot) {
				apart, table, got := NewTable(rolesConfig), NewTable(onceConfig), records(nil)
				conversations := map[Conversation]uint8{}
				for _, s := range slots {
					apart.Add(s, nil)
					require.NotNil(t, table.added(s, got.add))
					c, half := ScopeNamespace.Converse(&s.Key, s.Direction)
					conversations[c] |= 1 << half
				}
				require.Equal(t, tt.interfaces, apart.Len())
				require.Equal(t, 1, table.Len())
				require.Len(t, conversations, 1)
				for _, halves := range conversations {
					require.EqualValues(t, 3, halves)
				}
				table.Flush(EndReasonForcedEnd, got.add)
				require.Len(t, got, 1)
				r := got[0]
				require.Equal(t, tt.there, r.Key)
				require.Equal(t, tt.d, r.Direction)
				require.EqualValues(t, 3, r.Forward.Packets)
				require.EqualValues(t, 1, r.Reverse.Packets)
				require.Equal(t, tt.elsewhere, r.Elsewhere)
				if tt.elsewhere {
					require.Equal(t, Hook{tt.back.IfIndex, tt.back.VLAN, tt.back.Tagged, tt.back0}, r.ReverseHook)
				}
			})
		})
	}
	t.Run("another namespace is another flow", func(t *testing.T) {
		table := NewTable(onceConfig)
		other := at(answer, uplink, 0)
		other.NetNS = 1
		table.Add(slot(at(request, veth, 0), in, 0, 0, 0, 0), nil)
		table.Add(slot(other, in, 0, 0, 0, 0), nil)
		assert.Equal(t, 2, table.Len())
	})
	t.Run("from an endpoint to itself: one half", func(t *testing.T) {
		table, got := NewTable(onceConfig), records(nil)
		self := request
		self.DstAddr, self.DstPort = self.SrcAddr, self.SrcPort
		table.Add(slot(self, out, 0, 0, 0, 0), got.add)
		table.Flush(EndReasonForcedEnd, got.add)
		require.Len(t, got, 1)
		assert.EqualValues(t, 1, got[0].Forward.Packets)
		assert.Equal(t, out, got[0].Direction)
		assert.False(t, got[0].Elsewhere, "of the way back nothing is known")
	})
}

// A half goes on where its packets are counted now: another way, another interface under an old name. Each record names where
// its first packet was counted, as its MAC addresses are those of that packet.
func TestAHalfThatCountsElsewhereFromNowOn(t *testing.T) {
	in := DirectionIngress
	table, got := NewTable(onceConfig), records(nil)
	var sum uint64
	add := func(k Key, first, last int64) Number {
		s := slot(k, in, ack, 0, first, last)
		sum += s.Packets
		n := table.Add(s, got.add)
		require.NotNil(t, table.Get(n, s))
		return n
	}
	n := add(at(request, 2, 0), 0, 9)
	assert.Equal(t, n, add(at(answer, 3, 0), 1, 9))
	assert.Equal(t, n, add(at(request, 7, 0), 10, 30))
	assert.Equal(t, n, add(at(request, 2, 0), 5, 6), "another CPU's")
	assert.Equal(t, n, add(at(answer, 8, 5), 10, 50))
	assert.EqualValues(t, 2, table.Get(n, slot(request, in, 0, 0, 0, 0)).Key().IfIndex)
	table.Expire(t0+60*sec, got.add)
	assert.Equal(t, n, add(at(request, 7, 0), 61, 62))
	assert.EqualValues(t, 7, table.Get(n, slot(request, in, 0, 0, 0, 0)).Key().IfIndex)
	table.Expire(t0+100*sec, got.add)
	require.Len(t, got, 2)
	assert.Equal(t, Hook{2, 0, false, in}, Hook{got[0].Key.IfIndex, got[0].Key.VLAN, got[0].Key.Tagged, got[0].Direction})
	assert.Equal(t, Hook{3, 0, false, in}, got[0].ReverseHook)
	assert.EqualValues(t, 7, got[1].Key.IfIndex)
	assert.Equal(t, Hook{3, 0, false, in}, got[1].ReverseHook, "without packets, where it counted before")
	assert.Zero(t, got[1].Reverse.Packets)
	assert.Equal(t, sum, got[0].Volume().Packets+got[1].Volume().Packets)
}

// The same addresses and ports in two VLANs are two conversations if a direction has both tags at a time.
func TestVLANsWithTheSameTuple(t *testing.T) {
	table, got := NewTable(onceConfig), records(nil)
	in, out := DirectionIngress, DirectionEgress
	slots := []*Slot{}
	for vlan := range uint16(3) {
		slots = append(slots, slot(at(request, 2, 5+vlan), out, ack, 0, 0, int64(vlan)))
	}
	for vlan := range uint16(3) {
		slots = append(slots, slot(at(answer, 2, 7-vlan), in, ack, 0, 0, int64(2-vlan)))
	}
	for _, s := range slots {
		assert.NotNil(t, table.added(s, got.add))
	}
	assert.Equal(t, 3, table.Len())
	assert.True(t, table.Quote(&Quote{Key: at(request, 3, 6), Direction: out, Error: ICMPTooBig, Count: 1}))
	assert.True(t, table.Quote(&Quote{Key: at(request, 3, 99), Direction: out, Error: ICMPTooBig, Count: 1}), "nobody's VLAN: the first's")
	table.Flush(EndReasonForcedEnd, got.add)
	require.Len(t, got, 3)
	for _, r := range got {
		assert.True(t, r.Key.Tagged)
		assert.False(t, r.Elsewhere)
		assert.Equal(t, uint64(r.Key.VLAN-4), r.Forward.Packets)
		assert.Equal(t, uint64(r.Key.VLAN-4), r.Reverse.Packets)
		assert.Equal(t, r.Key.VLAN < 7, r.Forward.Errors.TooBig == 1)
	}
	assert.Zero(t, table.apart)
}

// Evidence of one half tells the roles of both: a handshake whose SYN was not seen, an answer that counts elsewhere, FIN from
// both sides.
func TestRolesRestOnBothHalves(t *testing.T) {
	in := DirectionIngress
	there, back := at(request, 2, 0), at(answer, 3, 5)
	t.Run("a connection", func(t *testing.T) {
		forEachOrder([]*Slot{slot(there, in, syn|ack|fin, hSYN, 0, 3), slot(back, in, syn|ack|fin, hSYNACK, 0, 3)}, func(slots []*Slot) {
			table, got := NewTable(onceConfig), records(nil)
			for _, s := range slots {
				table.Add(s, got.add)
			}
			table.Expire(t0+3*sec+int64(closeGrace), got.add)
			require.Len(t, got, 1)
			assert.Equal(t, there, got[0].Key)
			assert.Equal(t, InitiatorSYN, got[0].Initiator)
			assert.True(t, got[0].Answered)
			assert.Equal(t, EndReasonEndOfFlow, got[0].EndReason)
		})
	})
	t.Run("only the answer was seen", func(t *testing.T) {
		table, got := NewTable(onceConfig), records(nil)
		table.Add(slot(back, in, syn|ack, hSYNACK, 0, 0), got.add)
		table.Flush(EndReasonForcedEnd, got.add)
		assert.Equal(t, at(request, 3, 5), got[0].Key, "as if it came the same way")
		assert.Equal(t, DirectionEgress, got[0].Direction)
		assert.False(t, got[0].Elsewhere)
	})
	t.Run("an ICMP error at the interface of the other half", func(t *testing.T) {
		table, got := NewTable(onceConfig), records(nil)
		table.Add(slot(there, in, syn, hSYN, 0, 0), got.add)
		assert.True(t, table.Quote(&Quote{Key: at(request, 3, 5), Direction: DirectionEgress, Error: ICMPUnreachable, Count: 2}))
		assert.False(t, table.Quote(&Quote{Key: at(pair{protoTCP, 1, 2}.key(), 3, 0), Error: ICMPUnreachable, Count: 2}))
		table.Flush(EndReasonForcedEnd, got.add)
		assert.EqualValues(t, 2, got[0].Forward.Errors.Unreachable)
	})
	t.Run("the first packet, where both interfaces were watched", func(t *testing.T) {
		udp := pair{protoUDP, 40000, 50000}
		slots := []*Slot{slot(at(udp.key(), 2, 0), in, 0, 0, 0, 0), slot(at(udp.key().Reversed(), 3, 0), in, 0, 0, 1, 1)}
		for want, since := range map[Initiator]map[Place]int64{
			InitiatorFirstPacket: {{IfIndex: 2}: t0 + long*sec, {IfIndex: 3}: t0 + long*sec},
			InitiatorUnknown:     {{IfIndex: 2}: t0 + long*sec, {IfIndex: 3}: t0 + long*sec + 1},
		} {
			forEachOrder(slots, func(slots []*Slot) {
				table := NewTable(onceConfig)
				table.Watch(since)
				var f *Flow
				for _, s := range slots {
					f = table.added(s, nil)
				}
				assert.Equal(t, want, f.Initiator())
				assert.Equal(t, client, f.Key().SrcAddr)
			})
		}
	})
	t.Run("roles outlive the flow, wherever it goes on", func(t *testing.T) {
		table := NewTable(onceConfig)
		table.Add(slot(there, in, syn|ack|psh, hSYN, 0, 1), nil)
		table.Expire(t0+30*sec, nil)
		f := table.added(slot(back, in, ack, 0, 31, 31), nil)
		assert.Equal(t, InitiatorSYN, f.Initiator())
		assert.Equal(t, server, f.Key().DstAddr)
	})
}

// However far apart the interfaces of a flow may be, they are those of one namespace.
func TestNoScopeJoinsNamespaces(t *testing.T) {
	for _, scope := range []Scope{ScopeInterface, ScopeNamespace} {
		config := onceConfig
		config.Scope = scope
		table := NewTable(config)
		there := pair{protoUDP, 40000, 53}.out(0, 0, 0)
		back := pair{protoUDP, 40000, 53}.in(0, 0, 1)
		back.NetNS = 1
		table.Add(there, nil)
		table.Add(back, nil)
		assert.Equal(t, 2, table.Len())
		assert.False(t, table.Quote(&Quote{Key: Key{NetNS: 2, SrcAddr: there.SrcAddr, DstAddr: there.DstAddr, SrcPort: 40000, DstPort: 53, Proto: protoUDP, IfIndex: there.IfIndex}}))
	}
}
