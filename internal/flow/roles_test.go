// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"bytes"
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	low  = 32768 // Linux' default
	long = -watchTime / sec
)

// rolesConfig is that of most tests here: it knows the ephemeral ports.
var rolesConfig = Config{MaxFlows: 100, IdleTimeout: 15 * time.Second, ActiveTimeout: 60 * time.Second, EphemeralLow: low}

// pair is a client's port and a server's.
type pair struct {
	proto          uint8
	client, server uint16
}

func (p pair) key() Key {
	k := request
	k.Proto, k.SrcPort, k.DstPort = p.proto, p.client, p.server
	return k
}

// out is a packet of the client at second at, in one of the server.
func (p pair) out(flags uint8, h Handshake, at int64) *Slot {
	return slot(p.key(), DirectionEgress, flags, h, at, at)
}

func (p pair) in(flags uint8, h Handshake, at int64) *Slot {
	return slot(p.key().Reversed(), DirectionIngress, flags, h, at, at)
}

// toldRoles are what a flow and its records say.
type toldRoles struct {
	fromClient bool // forward is the client's direction
	method     Initiator
}

// rolesOf adds slots, which are one flow, and returns what it and its record say.
func rolesOf(t *testing.T, table *Table, slots []*Slot) toldRoles {
	t.Helper()
	var f *Flow
	for _, s := range slots {
		f = table.added(s, nil)
	}
	told := toldRoles{f.Key().SrcAddr == client, f.Initiator()}
	addr, _, known := f.Client()
	assert.Equal(t, told.method != InitiatorUnknown, known)
	assert.Equal(t, told.fromClient, addr == client)

	before, got := table.Len(), records(nil)
	table.Flush(EndReasonForcedEnd, got.add)
	require.Len(t, got, before)
	i := slices.IndexFunc(got, func(r Record) bool { return r.Key == slots[0].Key || r.Key == slots[0].Reversed() })
	assert.Equal(t, told.method, got[i].Initiator)
	assert.Equal(t, told.fromClient, got[i].Key.SrcAddr == client)
	assert.Equal(t, told.fromClient, got[i].Direction == DirectionEgress)
	return told
}

func TestInitiator(t *testing.T) {
	type roles struct {
		fromClient bool // forward is the client's direction
		method     Initiator
	}
	clientBySYN, unknownClient := roles{true, InitiatorSYN}, roles{true, InitiatorUnknown}
	serverBySYN, unknownServer := roles{false, InitiatorSYN}, roles{false, InitiatorUnknown}

	for _, tt := range []struct {
		name  string
		slots []*Slot
		want  roles
	}{
		{"a SYN names its source", []*Slot{sent(syn, hSYN, 0, 0)}, clientBySYN},
		{"a SYN names its source although its slot has ACKs too", []*Slot{sent(syn|ack|psh, hSYN, 0, 5)}, clientBySYN},
		{"SYN without ACK in the flags is a SYN even if nobody says so", []*Slot{sent(syn, 0, 0, 0)}, clientBySYN},
		{"SYN with ACK in the flags alone says nothing", []*Slot{sent(syn|ack, 0, 0, 5)}, unknownClient},
		{"a SYN-ACK names its destination", []*Slot{received(syn|ack, hSYNACK, 1, 1)}, clientBySYN},
		{"a whole handshake", []*Slot{sent(syn|ack, hSYN, 0, 5), received(syn|ack, hSYNACK, 1, 5)}, clientBySYN},
		{"a SYN counts more than an earlier first packet", []*Slot{received(ack, 0, 0, 0), sent(syn, hSYN, 3, 3)}, clientBySYN},
		{"simultaneous open: the earlier SYN", []*Slot{
			sent(syn|ack, hSYN|hSYNACK, 1, 5), received(syn|ack, hSYN|hSYNACK, 0, 5),
		}, serverBySYN},
		{"simultaneous open at one time: unknown, the lower endpoint is forward", []*Slot{
			sent(syn|ack, hSYN|hSYNACK, 0, 5), received(syn|ack, hSYN|hSYNACK, 0, 5),
		}, unknownServer},
		{"two SYNs at one time and an earlier one: that one", []*Slot{
			sent(syn, hSYN, 3, 3), received(syn, hSYN, 3, 3), sent(syn, hSYN, 0, 0),
		}, clientBySYN},
		{"a simultaneous open from one side: its SYN", []*Slot{sent(syn|ack, hSYN|hSYNACK, 0, 5)}, clientBySYN},
		{"SYN-ACK from both without SYN: unknown", []*Slot{sent(syn|ack, hSYNACK, 0, 5), received(syn|ack, hSYNACK, 1, 5)}, unknownClient},
		{"the middle of a connection is no evidence", []*Slot{received(ack|psh, 0, 1, 5), sent(ack, 0, 0, 5)}, unknownClient},
		{"unknown: forward is the earliest packet's direction", []*Slot{sent(ack|psh, 0, 1, 5), received(ack, 0, 0, 5)}, unknownServer},
		{"unknown at one time: the lower endpoint's", []*Slot{sent(ack, 0, 0, 5), received(ack, 0, 0, 5)}, unknownServer},
	} {
		t.Run(tt.name, func(t *testing.T) {
			forEachOrder(tt.slots, func(slots []*Slot) {
				table, got := NewTable(testConfig), records(nil)
				var f *Flow
				for _, s := range slots {
					f = table.added(s, got.add)
				}
				want := answer
				direction := DirectionIngress
				if tt.want.fromClient {
					want, direction = request, DirectionEgress
				}
				assert.Equal(t, want, f.Key())
				assert.Equal(t, tt.want.method, f.Initiator())
				addr, port, ok := f.Client()
				assert.Equal(t, tt.want.method != InitiatorUnknown, ok)
				assert.Equal(t, want.SrcAddr, addr)
				assert.Equal(t, want.SrcPort, port)
				addr, port, ok = f.Server()
				assert.Equal(t, tt.want.method != InitiatorUnknown, ok)
				assert.Equal(t, want.DstAddr, addr)
				assert.Equal(t, want.DstPort, port)

				table.Flush(EndReasonForcedEnd, got.add)
				require.Len(t, got, 1)
				assert.Equal(t, want, got[0].Key)
				assert.Equal(t, direction, got[0].Direction)
				assert.Equal(t, tt.want.method, got[0].Initiator)
			})
		})
	}

	t.Run("UDP has no handshake", func(t *testing.T) {
		k := request
		k.Proto = 17
		f := NewTable(testConfig).added(slot(k, DirectionEgress, 0, 0, 0, 0), nil)
		assert.Equal(t, InitiatorUnknown, f.Initiator())
		assert.False(t, f.Answered())
	})
	t.Run("after a record, neither the direction nor the roles change", func(t *testing.T) {
		table, got := NewTable(testConfig), records(nil)
		table.Add(received(ack, 0, 0, 60), got.add)
		table.Expire(t0+60*sec, got.add)
		f := table.added(sent(syn, hSYN, 61, 61), got.add)
		_, _, known := f.Server()
		assert.False(t, known)
		table.Add(sent(ack, 0, -5, -5), got.add) // an earlier packet than any before
		table.Flush(EndReasonForcedEnd, got.add)
		require.Len(t, got, 2)
		for _, r := range got {
			assert.Equal(t, answer, r.Key)
			assert.Equal(t, DirectionIngress, r.Direction)
			assert.Equal(t, InitiatorUnknown, r.Initiator)
			assert.Equal(t, t0, r.ConnectionStart)
		}
		assert.Equal(t, half(0, 0), got[1].Forward)
		assert.Equal(t, half(2, syn|ack), got[1].Reverse)
	})
}

func TestWhoIsTheClient(t *testing.T) {
	https, tcpHigh, bgp := pair{protoTCP, 40000, 443}, pair{protoTCP, 40000, 50000}, pair{protoTCP, 179, 179}
	dns, udpHigh, ntp := pair{protoUDP, 40000, 53}, pair{protoUDP, 40000, 50000}, pair{protoUDP, 123, 123}
	sctp, gre := pair{protoSCTP, 40000, 2905}, pair{47, 0, 0}
	echo, unreachable := pair{protoICMP, 0x1234, 8 << 8}, pair{protoICMP, 0, 3 << 8}
	fragment := dns.out(0, 0, 0)
	fragment.LaterFragment, fragment.SrcPort, fragment.DstPort = true, 0, 0

	for _, tt := range []struct {
		name    string
		watched int64 // second from which on; 1: not at all
		slots   []*Slot
		want    toldRoles
	}{
		{"TCP: a SYN counts more than ports", long, []*Slot{https.in(syn, hSYN, 0)}, toldRoles{false, InitiatorSYN}},
		{"TCP: the SYN was lost, the SYN-ACK names the client", long, []*Slot{tcpHigh.in(syn|ack, hSYNACK, 0)}, toldRoles{true, InitiatorSYN}},
		{"TCP: asymmetric routing, the SYN-ACK and what follows it", 1, []*Slot{
			tcpHigh.in(syn|ack, hSYNACK, 0), tcpHigh.in(ack|psh, 0, 1),
		}, toldRoles{true, InitiatorSYN}},
		{"TCP: simultaneous open at one time is nobody's, whatever the ports say", long, []*Slot{
			https.out(syn|ack, hSYN|hSYNACK, 0), https.in(syn|ack, hSYN|hSYNACK, 0),
		}, toldRoles{false, InitiatorUnknown}},
		{"TCP: SYN-ACK from both is nobody's, whatever the ports say", long, []*Slot{
			https.out(syn|ack, hSYNACK, 0), https.in(syn|ack, hSYNACK, 1),
		}, toldRoles{true, InitiatorUnknown}},
		{"TCP: the middle of a connection to a low port, the server seen first", long, []*Slot{
			https.in(ack, 0, 0), https.out(ack, 0, 1),
		}, toldRoles{true, InitiatorPort}},
		{"TCP: the middle of a connection between high ports", long, []*Slot{tcpHigh.out(ack, 0, 0)}, toldRoles{true, InitiatorUnknown}},
		{"TCP: the middle of a connection between low ports", long, []*Slot{bgp.in(ack, 0, 0)}, toldRoles{false, InitiatorUnknown}},
		{"TCP: a SYN after what ports said overrides it", long, []*Slot{https.out(ack, 0, 0), https.in(syn, hSYN, 3)}, toldRoles{false, InitiatorSYN}},

		{"UDP between high ports: the first packet's side", long, []*Slot{udpHigh.in(0, 0, 0), udpHigh.out(0, 0, 1)}, toldRoles{false, InitiatorFirstPacket}},
		{"UDP between high ports, not watched", 1, []*Slot{udpHigh.out(0, 0, 0), udpHigh.in(0, 0, 1)}, toldRoles{true, InitiatorUnknown}},
		{"UDP between high ports, not watched long enough", long + 1, []*Slot{udpHigh.out(0, 0, 0)}, toldRoles{true, InitiatorUnknown}},
		{"UDP between high ports, both first at one time", long, []*Slot{udpHigh.out(0, 0, 0), udpHigh.in(0, 0, 0)}, toldRoles{false, InitiatorUnknown}},
		{"UDP between high ports, three packets, two first at one time", long, []*Slot{
			udpHigh.out(0, 0, 1), udpHigh.in(0, 0, 1), udpHigh.out(0, 0, 0),
		}, toldRoles{true, InitiatorFirstPacket}},
		{"UDP to a low port, watched", long, []*Slot{dns.out(0, 0, 0), dns.in(0, 0, 1)}, toldRoles{true, InitiatorFirstPacket}},
		{"UDP to a low port, not watched long enough", long + 1, []*Slot{dns.in(0, 0, 0), dns.out(0, 0, 1)}, toldRoles{true, InitiatorPort}},
		{"UDP to a low port, both first at one time", long, []*Slot{dns.out(0, 0, 0), dns.in(0, 0, 0)}, toldRoles{true, InitiatorPort}},
		{"UDP between low ports, watched", long, []*Slot{ntp.out(0, 0, 0), ntp.in(0, 0, 1)}, toldRoles{true, InitiatorFirstPacket}},
		{"UDP between low ports, not watched", 1, []*Slot{ntp.in(0, 0, 0), ntp.out(0, 0, 1)}, toldRoles{false, InitiatorUnknown}},
		{"UDP: asymmetric routing, answers only: the first packet contradicts the port", long, []*Slot{
			dns.in(0, 0, 0), dns.in(0, 0, 1),
		}, toldRoles{false, InitiatorUnknown}},
		{"UDP: asymmetric routing, requests only", long, []*Slot{dns.out(0, 0, 0)}, toldRoles{true, InitiatorFirstPacket}},
		{"UDP: a source port of 0 is no port", 1, []*Slot{pair{protoUDP, 40000, 0}.out(0, 0, 0)}, toldRoles{true, InitiatorUnknown}},
		{"UDP: the last port below the ephemeral ones", 1, []*Slot{pair{protoUDP, low, low - 1}.in(0, 0, 0)}, toldRoles{true, InitiatorPort}},

		{"SCTP, watched", long, []*Slot{sctp.out(0, 0, 0)}, toldRoles{true, InitiatorFirstPacket}},
		{"SCTP, not watched", 1, []*Slot{sctp.in(0, 0, 0)}, toldRoles{true, InitiatorPort}},
		{"GRE has no ports and may be old", long, []*Slot{gre.out(0, 0, 0)}, toldRoles{true, InitiatorUnknown}},
		{"ICMP: an echo request", 1, []*Slot{echo.out(0, 0, 0)}, toldRoles{true, InitiatorQuestion}},
		{"ICMP: the reply seen first", 1, []*Slot{echo.in(0, 0, 0), echo.out(0, 0, 1)}, toldRoles{true, InitiatorQuestion}},
		{"ICMP: an error asks nobody", long, []*Slot{unreachable.out(0, 0, 0)}, toldRoles{true, InitiatorUnknown}},
		{"a later fragment has no ports", long, []*Slot{fragment}, toldRoles{true, InitiatorUnknown}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			forEachOrder(tt.slots, func(slots []*Slot) {
				table := NewTable(rolesConfig)
				if tt.watched <= 0 {
					table.Watch(map[Place]int64{request.Place(): t0 + tt.watched*sec})
				}
				assert.Equal(t, tt.want, rolesOf(t, table, slots))
			})
		})
	}

	t.Run("without an ephemeral range, ports say nothing", func(t *testing.T) {
		assert.Equal(t, toldRoles{true, InitiatorUnknown}, rolesOf(t, NewTable(testConfig), []*Slot{https.out(ack, 0, 0)}))
	})
}

func TestWatchSaysWhereAFirstPacketCounts(t *testing.T) {
	udp := pair{protoUDP, 40000, 50000}
	at := func(ifindex uint32, ns uint16, port uint16) *Slot {
		s := udp.out(0, 0, 0)
		s.IfIndex, s.NetNS, s.SrcPort = ifindex, ns, port
		return s
	}
	table := NewTable(rolesConfig)
	since := map[Place]int64{{IfIndex: 2}: t0 + long*sec, {IfIndex: 3}: t0 + long*sec + 1, {NetNS: 7, IfIndex: 3}: t0 + long*sec}
	table.Watch(since)
	since[Place{IfIndex: 4}] = t0 + long*sec // the table has its own
	assert.Equal(t, InitiatorFirstPacket, table.added(at(2, 0, 40001), nil).Initiator())
	assert.Equal(t, InitiatorUnknown, table.added(at(3, 0, 40001), nil).Initiator(), "a nanosecond too short")
	assert.Equal(t, InitiatorUnknown, table.added(at(4, 0, 40001), nil).Initiator(), "not watched")
	assert.Equal(t, InitiatorUnknown, table.added(at(2, 1, 40001), nil).Initiator(), "interface 2 of another namespace")
	assert.Equal(t, InitiatorFirstPacket, table.added(at(3, 7, 40001), nil).Initiator(), "interface 3 of another namespace")

	table.Watch(map[Place]int64{{IfIndex: 4}: t0 + long*sec})
	assert.Equal(t, InitiatorUnknown, table.added(at(2, 0, 40002), nil).Initiator(), "no longer watched")
	assert.Equal(t, InitiatorFirstPacket, table.added(at(4, 0, 40002), nil).Initiator())
}

// A flow that is pushed out while its first drain is still being added may have an earlier packet in a slot to come.
func TestAFlowPushedOutByItsOwnDrainHasNoFirstPacket(t *testing.T) {
	udp, dns := pair{protoUDP, 40000, 50000}, pair{protoUDP, 40000, 53}
	config := rolesConfig
	config.MaxFlows = 1
	for _, tt := range []struct {
		name    string
		tuple   pair
		drained int64 // second of the drain before, which the packet follows or not
		want    toldRoles
	}{
		{"in its first drain", udp, -1, toldRoles{false, InitiatorUnknown}},
		{"in its first drain, when ports know", dns, -1, toldRoles{true, InitiatorPort}},
		{"later", udp, 0, toldRoles{false, InitiatorFirstPacket}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table, got := NewTable(config), records(nil)
			table.Watch(map[Place]int64{request.Place(): t0 + long*sec})
			table.Expire(t0+tt.drained*sec, got.add)
			table.Add(tt.tuple.in(0, 0, 0), got.add)
			table.Add(pair{protoUDP, 1, 1}.out(0, 0, 1), got.add)
			require.Len(t, got, 1)
			assert.Equal(t, EndReasonLackOfResources, got[0].EndReason)
			assert.Equal(t, tt.want, toldRoles{got[0].Key.SrcAddr == client, got[0].Initiator})

			f := table.added(tt.tuple.out(0, 0, 0), got.add) // what the rest of the drain says continues it
			assert.Equal(t, tt.want.method, f.Initiator())
		})
	}
}

func TestAFlowPushedOutAfterTheClockWasSetBack(t *testing.T) {
	config := rolesConfig
	config.MaxFlows = 1
	table, got := NewTable(config), records(nil)
	table.Expire(t0+1000*sec, nil)
	table.Flush(EndReasonForcedEnd, nil)
	table.Watch(map[Place]int64{request.Place(): t0 + long*sec})
	table.Add(pair{protoUDP, 40000, 50000}.in(0, 0, 0), got.add)
	table.Add(pair{protoUDP, 1, 1}.out(0, 0, 1), got.add)
	require.Len(t, got, 1)
	assert.Equal(t, InitiatorUnknown, got[0].Initiator, "it is pushed out by its own drain")
}

// Whatever the order of the slots of a drain, flows and records are the same, roles included: with idle and active
// timeouts, memories of both kinds, and handshakes that contradict each other. Only the end of TCP flows is left out.
func TestRolesDoNotDependOnTheOrderOfSlots(t *testing.T) {
	methods := map[Initiator]int{}
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 7))
		drains := randomDrains(r)
		var want []Record
		for n := range 6 {
			table, got := NewTable(rolesConfig), records(nil)
			table.Watch(map[Place]int64{{IfIndex: 2}: t0 + long*sec, {IfIndex: 3}: t0})
			for i, slots := range drains {
				r.Shuffle(len(slots), func(i, j int) { slots[i], slots[j] = slots[j], slots[i] })
				for k := range slots {
					table.Add(&slots[k], got.add)
				}
				table.Expire(t0+int64(i+1)*10*sec, got.add)
			}
			table.Flush(EndReasonForcedEnd, got.add)
			slices.SortFunc(got, compareRecords)
			if n == 0 {
				want = got
				continue
			}
			require.Equal(t, want, []Record(got), "seed %d", seed)
		}
		for _, r := range want {
			methods[r.Initiator]++
		}
	}
	for _, i := range []Initiator{InitiatorUnknown, InitiatorSYN, InitiatorFirstPacket, InitiatorPort} {
		assert.Greater(t, methods[i], 500, "%s: a test of what does not happen", i)
	}
}

// compareRecords orders records that one flow or two can have.
func compareRecords(a, b Record) int {
	return cmp.Or(
		cmp.Compare(a.Start, b.Start), cmp.Compare(a.End, b.End), cmp.Compare(a.EndReason, b.EndReason),
		cmp.Compare(a.Key.Proto, b.Key.Proto), cmp.Compare(a.Key.IfIndex, b.Key.IfIndex),
		cmp.Compare(a.Key.SrcPort, b.Key.SrcPort), cmp.Compare(a.Key.DstPort, b.Key.DstPort),
		bytes.Compare(a.Key.SrcAddr[:], b.Key.SrcAddr[:]),
	)
}

// randomDrains are slots of few tuples, 10 s each drain, often at the same times.
func randomDrains(r *rand.Rand) [][]Slot {
	drains := make([][]Slot, 30)
	for i := range drains {
		for range r.IntN(12) {
			k := pair{
				[]uint8{protoTCP, protoTCP, protoUDP, protoUDP, protoSCTP, 47}[r.IntN(6)],
				[]uint16{40000, 123}[r.IntN(2)], []uint16{50000, 123, 443}[r.IntN(3)],
			}.key()
			k.IfIndex = 2 + uint32(r.IntN(2))
			d := DirectionEgress
			if r.IntN(2) == 0 {
				k, d = k.Reversed(), DirectionIngress
			}
			s := slot(k, d, 0, 0, int64(i)*10+r.Int64N(3), int64(i)*10+3+r.Int64N(3))
			if k.Proto == protoTCP {
				s.TCPFlags = []uint8{ack, ack | psh, syn | ack}[r.IntN(3)]
				if s.TCPFlags&syn != 0 {
					s.Handshake = Handshake(r.IntN(4))
				}
			}
			drains[i] = append(drains[i], *s)
		}
	}
	return drains
}

// A long flow is told in parts: each with its own volume and flags, all with the same beginning and roles.
func TestTheRecordsOfALongFlowAddUp(t *testing.T) {
	tcp := pair{protoTCP, 40000, 443}
	table, got := NewTable(rolesConfig), records(nil)
	var sentBytes, receivedBytes uint64
	add := func(s *Slot) {
		if s.SrcAddr == client {
			sentBytes += s.Bytes
		} else {
			receivedBytes += s.Bytes
		}
		table.Add(s, got.add)
	}
	for at := int64(0); at < 300; at += 5 {
		out, in, h := uint8(ack), uint8(ack), Handshake(0)
		switch at {
		case 0:
			in |= psh // the first record knows no more than the port
		case 100:
			out, h = ack|syn, hSYN // too late: the roles are fixed
		case 200:
			out |= psh
		case 295:
			out, in = out|fin, in|fin
		}
		add(slot(tcp.key().Reversed(), DirectionIngress, in, 0, at, at+1))
		add(slot(tcp.key(), DirectionEgress, out, h, at+1, at+3))
		table.Expire(t0+(at+5)*sec, got.add)
	}
	table.Expire(t0+400*sec, got.add)
	require.Zero(t, table.Len())

	var forward, reverse, sum Volume
	for i, r := range got {
		assert.Equal(t, tcp.key(), r.Key)
		assert.Equal(t, DirectionEgress, r.Direction)
		assert.Equal(t, InitiatorPort, r.Initiator)
		assert.Equal(t, t0, r.ConnectionStart)
		assert.True(t, r.Answered)
		assert.Equal(t, t0+int64(i)*60*sec, r.Start)
		assert.Equal(t, t0+(int64(i)*60+58)*sec, r.End)
		forward.Add(r.Forward.Volume)
		reverse.Add(r.Reverse.Volume)
		sum.Add(r.Volume())
	}
	var flags [][2]uint8
	var reasons []EndReason
	for _, r := range got {
		flags = append(flags, [2]uint8{r.Forward.TCPFlags, r.Reverse.TCPFlags})
		reasons = append(reasons, r.EndReason)
	}
	assert.Equal(t, [][2]uint8{{ack, ack | psh}, {ack | syn, ack}, {ack, ack}, {ack | psh, ack}, {ack | fin, ack | fin}}, flags)
	active := EndReasonActiveTimeout
	assert.Equal(t, []EndReason{active, active, active, active, EndReasonEndOfFlow}, reasons)
	assert.Equal(t, sentBytes, forward.Bytes)
	assert.Equal(t, receivedBytes, reverse.Bytes)
	assert.Equal(t, Volume{300, 30_000}, sum)
}

// Which ports are given to clients is a setting of each namespace.
func TestPortsAreThoseOfANamespace(t *testing.T) {
	at := func(ns uint16) *Slot {
		s := pair{protoTCP, 40000, 20000}.out(ack, 0, 0)
		s.NetNS = ns
		return s
	}
	table := NewTable(rolesConfig)
	table.Ports(map[uint16]uint16{1: 1024, 2: 30000})
	assert.Equal(t, InitiatorPort, table.added(at(0), nil).Initiator(), "what the configuration says")
	assert.Equal(t, InitiatorUnknown, table.added(at(1), nil).Initiator(), "both are clients' ports there")
	assert.Equal(t, InitiatorPort, table.added(at(2), nil).Initiator())
	table.Ports(nil)
	assert.Equal(t, InitiatorPort, table.added(at(3), nil).Initiator())
}
