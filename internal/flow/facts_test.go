// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func withFacts(s *Slot, f Facts) *Slot {
	s.Facts = f
	return s
}

// What the slots of one direction say is joined, in whatever order they come; the other direction's stays apart.
func TestFactsOfADirectionAreJoined(t *testing.T) {
	early := Facts{CEPackets: 1, FlowLabel: 7, SrcMAC: MAC{1}, DstMAC: MAC{2}, HasMACs: true, TTLMin: 60, TTLMax: 62, DSCP: 10}
	late := Facts{CEPackets: 2, FlowLabel: 8, SrcMAC: MAC{3}, DstMAC: MAC{4}, HasMACs: true, TTLMin: 61, TTLMax: 64, DSCP: 12}
	back := Facts{TTLMin: 255, TTLMax: 255, DSCP: 46, DSCPVaries: true}
	table, got := NewTable(testConfig), records(nil)
	slots := []*Slot{
		withFacts(sent(syn, hSYN, 0, 2), early), withFacts(sent(ack, 0, 3, 9), late), withFacts(received(syn|ack, hSYNACK, 1, 7), back),
	}
	forEachOrder(slots, func(slots []*Slot) {
		for _, s := range slots {
			table.Add(s, got.add)
		}
		table.Flush(EndReasonForcedEnd, got.add)
		records := got.take()
		require.Len(t, records, 1)
		joined := early
		joined.CEPackets, joined.TTLMax, joined.DSCPVaries = 3, 64, true
		assert.Equal(t, joined, records[0].Forward.Facts)
		assert.Equal(t, back, records[0].Reverse.Facts)
	})
}

func TestFactsAreThoseOfOneRecord(t *testing.T) {
	table, got := NewTable(testConfig), records(nil)
	table.Add(withFacts(sent(ack, 0, 0, 60), Facts{TTLMin: 1, TTLMax: 200, DSCP: 1, CEPackets: 5}), got.add)
	table.Expire(t0+60*sec, got.add)
	again := Facts{TTLMin: 64, TTLMax: 64, DSCP: 2}
	table.Add(withFacts(sent(ack, 0, 61, 62), again), got.add)
	table.Flush(EndReasonForcedEnd, got.add)
	require.Len(t, got, 2)
	assert.Equal(t, again, got[1].Forward.Facts)
}

func TestICMPErrorsBelongToTheFlowThatTheyQuote(t *testing.T) {
	quote := func(k Key, d Direction, e ICMPError, n uint64) *Quote {
		return &Quote{Key: k, Direction: d, Error: e, Count: n}
	}
	table, got := NewTable(testConfig), records(nil)
	table.Add(sent(ack, 0, 0, 1), got.add)
	table.Add(received(ack, 0, 0, 1), got.add)
	assert.True(t, table.Quote(quote(request, DirectionEgress, ICMPUnreachable, 2)))
	assert.True(t, table.Quote(quote(request, DirectionEgress, ICMPTooBig, 3)))
	assert.True(t, table.Quote(quote(answer, DirectionIngress, ICMPTimeExceeded, 4)))
	assert.False(t, table.Quote(quote(request, DirectionIngress, ICMPUnreachable, 1)), "on loopback that is another flow")
	unknown := request
	unknown.SrcPort++
	assert.False(t, table.Quote(quote(unknown, DirectionEgress, ICMPUnreachable, 1)))

	table.Expire(t0+61*sec, got.add) // idle
	assert.False(t, table.Quote(quote(request, DirectionEgress, ICMPUnreachable, 1)), "it ended")
	require.Len(t, got, 1)
	forward, reverse := got[0].Forward.Errors, got[0].Reverse.Errors
	if got[0].Key == answer {
		forward, reverse = reverse, forward
	}
	assert.Equal(t, ICMPErrors{Unreachable: 2, TooBig: 3}, forward)
	assert.Equal(t, ICMPErrors{TimeExceeded: 4}, reverse)
	assert.Equal(t, uint64(5), forward.Sum())
}

// An error may come after the record of the packets that it is about: the next record tells it, once.
func TestALateICMPErrorIsToldOnce(t *testing.T) {
	table, got := NewTable(testConfig), records(nil)
	table.Add(sent(ack, 0, 0, 60), got.add)
	table.Expire(t0+60*sec, got.add)
	table.Quote(&Quote{Key: request, Direction: DirectionEgress, Error: ICMPUnreachable, Count: 1})
	table.Expire(t0+76*sec, got.add)
	require.Len(t, got, 2)
	assert.Zero(t, got[0].Forward.Errors)
	assert.Equal(t, ICMPErrors{Unreachable: 1}, got[1].Forward.Errors)
	assert.Zero(t, got[1].Forward.Volume)
	assert.Equal(t, []int64{t0 + 60*sec, t0 + 60*sec}, []int64{got[1].Start, got[1].End}, "its time is that of the last packet")
}

// in puts a key into a tunnel.
func in(k Key, src, dst Addr, id uint32) Key {
	k.Tunnel = Tunnel{Src: src, Dst: dst, ID: id, Kind: TunnelVXLAN, HasID: true}
	return k
}

// Cilium, OVN and GRE may use another id for each direction: they are one flow, and each direction tells its own.
func TestATunnelMayHaveTwoIDs(t *testing.T) {
	a, b := Addr{12: 192, 15: 1}, Addr{12: 192, 15: 2}
	table, got := NewTable(testConfig), records(nil)
	n := table.Add(slot(in(request, a, b, 100), DirectionEgress, syn, 0, 0, 1), got.add)
	assert.Equal(t, n, table.Add(slot(in(answer, b, a, 200), DirectionIngress, syn|ack, 0, 1, 1), got.add))
	assert.NotNil(t, table.Get(n, slot(in(answer, b, a, 200), DirectionIngress, syn|ack, 0, 1, 1)))
	assert.Equal(t, 1, table.Len())
	assert.True(t, table.Quote(&Quote{Key: in(request, a, b, 200), Direction: DirectionEgress, Error: ICMPTooBig, Count: 1}))
	table.Flush(EndReasonForcedEnd, got.add)
	require.Len(t, got, 1)
	assert.Equal(t, in(request, a, b, 100), got[0].Key)
	assert.Equal(t, TunnelID{ID: 200, HasID: true}, got[0].ReverseTunnelID)
	assert.True(t, got[0].Answered)
	assert.EqualValues(t, 1, got[0].Forward.Errors.TooBig)
}

// What two tenants say with the same tuple between the same ends is told apart by the tunnels' ids, if those are the same both ways.
func TestTenantsWithTheSameTuple(t *testing.T) {
	a, b := Addr{12: 192, 15: 1}, Addr{12: 192, 15: 2}
	table, got := NewTable(testConfig), records(nil)
	for _, id := range []uint32{1, 2, 3} {
		table.Add(slot(in(request, a, b, id), DirectionEgress, ack, 0, 0, int64(id)-1), got.add)
	}
	for _, id := range []uint32{3, 2, 1} {
		table.Add(slot(in(answer, b, a, id), DirectionIngress, ack, 0, 0, int64(id)-1), got.add)
	}
	assert.Equal(t, 3, table.Len())
	table.Flush(EndReasonForcedEnd, got.add)
	require.Len(t, got, 3)
	for _, r := range got {
		assert.Equal(t, TunnelID{ID: r.Key.Tunnel.ID, HasID: true}, r.ReverseTunnelID)
		assert.Equal(t, uint64(r.Key.Tunnel.ID), r.Forward.Packets)
		assert.Equal(t, uint64(r.Key.Tunnel.ID), r.Reverse.Packets)
	}
	assert.Zero(t, table.apart)
}

// Two tenants may use the same addresses: the tunnel tells them apart, and turns with the direction.
func TestTheTunnelBelongsToTheKey(t *testing.T) {
	a, b := Addr{12: 192, 15: 1}, Addr{12: 192, 15: 2}
	table, got := NewTable(testConfig), records(nil)
	table.Add(slot(in(request, a, b, 1), DirectionEgress, ack, 0, 0, 1), got.add)
	table.Add(slot(in(answer, b, a, 1), DirectionIngress, ack, 0, 0, 1), got.add)
	assert.Equal(t, 1, table.Len())
	table.Add(slot(in(request, a, b, 2), DirectionEgress, ack, 0, 0, 1), got.add)
	table.Add(sent(ack, 0, 0, 1), got.add)
	assert.Equal(t, 3, table.Len())
}
