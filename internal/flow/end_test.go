// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestEnds(t *testing.T) {
	type end struct {
		at     int64 // seconds after t0
		reason EndReason
	}
	for _, tt := range []struct {
		name  string
		slots []*Slot
		want  []end
	}{
		{"without packets for the idle timeout", []*Slot{sent(ack, 0, 0, 3)}, []end{{18, EndReasonIdleTimeout}}},
		{"idle counts from the last packet of either side", []*Slot{sent(ack, 0, 0, 3), received(ack, 0, 0, 5)}, []end{{20, EndReasonIdleTimeout}}},
		{"FIN from both sides, after the grace period", []*Slot{sent(fin|ack, 0, 0, 3), received(fin|ack, 0, 0, 4)}, []end{{6, EndReasonEndOfFlow}}},
		{"acknowledgements do not prolong the grace period", []*Slot{
			sent(fin|ack, 0, 0, 3), received(fin|ack, 0, 0, 4), sent(ack, 0, 5, 5),
		}, []end{{6, EndReasonEndOfFlow}}},
		{"RST from the client", []*Slot{sent(rst, 0, 0, 3)}, []end{{5, EndReasonEndOfFlow}}},
		{"RST from the server", []*Slot{sent(syn, hSYN, 0, 0), received(rst|ack, 0, 0, 0)}, []end{{2, EndReasonEndOfFlow}}},
		{"FIN from one side only: idle", []*Slot{sent(fin|ack, 0, 0, 3)}, []end{{18, EndReasonIdleTimeout}}},
		{"FIN twice from one side: idle", []*Slot{sent(fin|ack, 0, 0, 0), sent(fin|ack, 0, 1, 3)}, []end{{18, EndReasonIdleTimeout}}},
		{"a long flow is told, and its end too, although nothing came since", []*Slot{sent(ack, 0, 0, 60)}, []end{
			{60, EndReasonActiveTimeout}, {75, EndReasonIdleTimeout},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			forEachOrder(tt.slots, func(slots []*Slot) {
				table, got := NewTable(testConfig), records(nil)
				for _, s := range slots {
					table.Add(s, got.add)
				}
				var ends []end
				for at := slots[0].Last/sec - t0/sec; at < 200; at++ {
					table.Expire(t0+at*sec-1, got.add) // a nanosecond before
					require.Empty(t, got)
					table.Expire(t0+at*sec, got.add)
					for _, r := range got.take() {
						ends = append(ends, end{at, r.EndReason})
					}
					table.Expire(t0+at*sec, got.add) // nothing is told twice
					require.Empty(t, got)
				}
				assert.Equal(t, tt.want, ends)
				assert.Zero(t, table.Len())
			})
		})
	}
}

func TestActiveTimeoutContinuesTheFlow(t *testing.T) {
	table, got := NewTable(testConfig), records(nil)
	table.Add(sent(syn|ack, hSYN, 0, 30), got.add)
	table.Add(received(syn|ack|psh, hSYNACK, 1, 61), got.add)
	table.Expire(t0+62*sec, got.add)
	first := got.take()

	table.Expire(t0+70*sec, got.add) // 60 s after the record before, but the new one would be empty
	assert.Empty(t, got)
	table.Add(received(ack, 0, 72, 74), got.add)
	table.Expire(t0+80*sec, got.add) // the flow is 80 s old, its untold packets 8 s
	assert.Empty(t, got)
	table.Expire(t0+89*sec, got.add)
	second := got.take()

	assert.Equal(t, []Record{{
		Key: request, Direction: DirectionEgress,
		Forward: half(31, syn|ack), Reverse: half(61, syn|ack|psh),
		Start: t0, End: t0 + 61*sec, ConnectionStart: t0,
		EndReason: EndReasonActiveTimeout, Initiator: InitiatorSYN, Answered: true,
	}}, first)
	assert.Equal(t, []Record{{
		Key: request, Direction: DirectionEgress,
		Reverse: half(3, ack), // the flags of this record's packets
		Start:   t0 + 72*sec, End: t0 + 74*sec, ConnectionStart: t0,
		EndReason: EndReasonIdleTimeout, Initiator: InitiatorSYN, Answered: true, // in the record before
	}}, second)
}

func TestAFlowThatEndsWithoutNewPacketsIsToldWithTheTimeOfItsLast(t *testing.T) {
	table, got := NewTable(testConfig), records(nil)
	table.Add(sent(syn|ack, hSYN, 0, 61), got.add)
	table.Expire(t0+61*sec, got.add)
	got.take()
	table.Expire(t0+90*sec, got.add)
	assert.Equal(t, []Record{{
		Key: request, Direction: DirectionEgress,
		Start: t0 + 61*sec, End: t0 + 61*sec, ConnectionStart: t0,
		EndReason: EndReasonIdleTimeout, Initiator: InitiatorSYN,
	}}, got.take())
}

func TestFINsOfTwoRecordsCloseAFlow(t *testing.T) {
	table, got := NewTable(testConfig), records(nil)
	table.Add(sent(fin|ack, 0, 0, 60), got.add)
	table.Expire(t0+60*sec, got.add)
	table.Add(received(fin|ack, 0, 61, 61), got.add)
	table.Expire(t0+63*sec, got.add)
	require.Len(t, got, 2)
	assert.Equal(t, EndReasonEndOfFlow, got[1].EndReason)
}

func TestPacketsAfterTheEnd(t *testing.T) {
	closeFlow := func(table *Table, end func(*Record)) {
		table.Add(sent(syn|fin|ack, hSYN, 0, 3), end)
		table.Add(received(syn|fin|ack, hSYNACK, 0, 4), end)
	}
	for _, tt := range []struct {
		name    string
		late    *Slot
		expire  bool // before the late slot
		flows   int
		newRole Initiator
	}{
		{"within the grace period they belong to the flow", sent(ack, 0, 5, 5), false, 1, InitiatorSYN},
		{"after it they begin a flow of unknown roles", sent(ack, 0, 8, 8), true, 2, InitiatorUnknown},
		{"a SYN begins a new flow at once", sent(syn, hSYN, 5, 5), false, 2, InitiatorSYN},
		{"so does a SYN-ACK that is added before its SYN", received(syn|ack, hSYNACK, 5, 5), false, 2, InitiatorSYN},
		{"a SYN before the end is the old flow's", sent(syn, hSYN, 4, 4), false, 1, InitiatorSYN},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table, got := NewTable(testConfig), records(nil)
			closeFlow(table, got.add)
			if tt.expire {
				table.Expire(t0+7*sec, got.add)
			}
			f := table.added(tt.late, got.add)
			assert.Equal(t, tt.newRole, f.Initiator())
			assert.Equal(t, 1, table.Len())
			table.Flush(EndReasonForcedEnd, got.add)
			require.Len(t, got, tt.flows)
			assert.Equal(t, EndReasonEndOfFlow, got[0].EndReason)
			if tt.flows == 2 {
				assert.Equal(t, EndReasonForcedEnd, got[1].EndReason)
				assert.Equal(t, tt.late.First, got[1].ConnectionStart)
				assert.Equal(t, uint64(1), got[1].Forward.Packets+got[1].Reverse.Packets)
			}
		})
	}

	t.Run("a SYN on a flow that did not end continues it", func(t *testing.T) {
		table := NewTable(testConfig)
		table.Add(sent(syn, hSYN, 0, 0), nil)
		table.Add(sent(syn, hSYN, 1, 1), nil) // sent again
		assert.Equal(t, 1, table.Len())
	})
	t.Run("a RST flood on one tuple is one flow", func(t *testing.T) {
		table, got := NewTable(testConfig), records(nil)
		for at := range int64(50) {
			table.Add(sent(rst, 0, at, at), got.add)
			table.Expire(t0+at*sec, got.add)
		}
		assert.Empty(t, got)
	})
}
