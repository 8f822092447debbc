// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	sec = int64(time.Second)
	t0  = 1_700_000_000 * sec // when tests begin

	fin, syn, rst, psh, ack = tcpFIN, tcpSYN, tcpRST, tcpPSH, tcpACK

	hSYN, hSYNACK = HandshakeSYN, HandshakeSYNACK
)

var (
	client = Addr{12: 10, 15: 9} // the higher address: roles must not follow the order of addresses
	server = Addr{12: 10, 15: 1}

	request = Key{ // client to server
		SrcAddr: client, DstAddr: server, SrcPort: 40000, DstPort: 443, IfIndex: 2, Proto: protoTCP,
	}
	answer = request.Reversed()

	testConfig = Config{MaxFlows: 100, IdleTimeout: 15 * time.Second, ActiveTimeout: 60 * time.Second}
)

// slot is one packet of 100 bytes each second from first to last, in seconds after t0.
func slot(k Key, d Direction, flags uint8, h Handshake, first, last int64) *Slot {
	n := uint64(last - first + 1)
	return &Slot{
		Key: k, Direction: d, TCPFlags: flags, Handshake: h,
		Volume: Volume{Packets: n, Bytes: 100 * n}, First: t0 + first*sec, Last: t0 + last*sec,
	}
}

// sent and received are slots of the client's host: request on egress, answer on ingress.
func sent(flags uint8, h Handshake, first, last int64) *Slot {
	return slot(request, DirectionEgress, flags, h, first, last)
}

func received(flags uint8, h Handshake, first, last int64) *Slot {
	return slot(answer, DirectionIngress, flags, h, first, last)
}

func half(packets uint64, flags uint8) Half {
	return Half{Volume: Volume{Packets: packets, Bytes: 100 * packets}, TCPFlags: flags}
}

// added adds s and returns its flow.
func (t *Table) added(s *Slot, end func(*Record)) *Flow { return t.Get(t.Add(s, end), s) }

// records collects.
type records []Record

func (rs *records) add(r *Record) { *rs = append(*rs, *r) }

func (rs *records) take() []Record {
	taken := *rs
	*rs = nil
	return taken
}

func TestBothDirectionsOfAConversationAreOneFlow(t *testing.T) {
	udp := request
	udp.Proto = 17
	vlan := request
	vlan.Tagged, vlan.VLAN = true, 7
	fragment := udp
	fragment.LaterFragment, fragment.SrcPort, fragment.DstPort = true, 0, 0
	v6 := request
	v6.IPv6 = true
	self := request
	self.DstAddr, self.DstPort = self.SrcAddr, self.SrcPort
	local := request
	local.SrcAddr = local.DstAddr
	with := func(change func(k *Key)) Key {
		k := answer
		change(&k)
		return k
	}
	in, out := DirectionIngress, DirectionEgress

	for _, tt := range []struct {
		name  string
		slots []*Slot
		want  int
	}{
		{"request out and answer in", []*Slot{slot(request, out, 0, 0, 0, 0), slot(answer, in, 0, 0, 0, 0)}, 1},
		{"request in and answer out", []*Slot{slot(request, in, 0, 0, 0, 0), slot(answer, out, 0, 0, 0, 0)}, 1},
		{"one direction on two CPUs", []*Slot{slot(request, in, 0, 0, 0, 0), slot(request, in, 0, 0, 0, 0)}, 1},
		{"loopback shows each packet twice: two flows", []*Slot{
			slot(request, out, 0, 0, 0, 0), slot(request, in, 0, 0, 0, 0),
			slot(answer, out, 0, 0, 0, 0), slot(answer, in, 0, 0, 0, 0),
		}, 2},
		{"between two ports of one address, likewise", []*Slot{
			slot(local, out, 0, 0, 0, 0), slot(local, in, 0, 0, 0, 0),
			slot(local.Reversed(), out, 0, 0, 0, 0), slot(local.Reversed(), in, 0, 0, 0, 0),
		}, 2},
		{"from an endpoint to itself: one flow per hook", []*Slot{slot(self, out, 0, 0, 0, 0), slot(self, in, 0, 0, 0, 0)}, 2},
		{"UDP", []*Slot{slot(udp, in, 0, 0, 0, 0), slot(udp.Reversed(), out, 0, 0, 0, 0)}, 1},
		{"VLAN", []*Slot{slot(vlan, in, 0, 0, 0, 0), slot(vlan.Reversed(), out, 0, 0, 0, 0)}, 1},
		{"IPv6", []*Slot{slot(v6, in, 0, 0, 0, 0), slot(v6.Reversed(), out, 0, 0, 0, 0)}, 1},
		{"later fragments are a flow beside that of the first", []*Slot{slot(udp, in, 0, 0, 0, 0), slot(fragment, in, 0, 0, 0, 0)}, 2},
		{"another interface", []*Slot{slot(request, out, 0, 0, 0, 0), slot(with(func(k *Key) { k.IfIndex++ }), in, 0, 0, 0, 0)}, 2},
		{"another namespace", []*Slot{slot(request, out, 0, 0, 0, 0), slot(with(func(k *Key) { k.NetNS++ }), in, 0, 0, 0, 0)}, 2},
		{"another protocol", []*Slot{slot(request, out, 0, 0, 0, 0), slot(with(func(k *Key) { k.Proto = 132 }), in, 0, 0, 0, 0)}, 2},
		{"another port", []*Slot{slot(request, out, 0, 0, 0, 0), slot(with(func(k *Key) { k.DstPort++ }), in, 0, 0, 0, 0)}, 2},
		{"another VLAN", []*Slot{slot(vlan, out, 0, 0, 0, 0), slot(with(func(k *Key) { k.Tagged, k.VLAN = true, 8 }), in, 0, 0, 0, 0)}, 2},
		{"a priority tag", []*Slot{slot(request, out, 0, 0, 0, 0), slot(with(func(k *Key) { k.Tagged = true }), in, 0, 0, 0, 0)}, 2},
		{"IPv4 and the IPv6 address of the same bytes", []*Slot{slot(request, out, 0, 0, 0, 0), slot(with(func(k *Key) { k.IPv6 = true }), in, 0, 0, 0, 0)}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table, got := NewTable(testConfig), records(nil)
			packets := uint64(0)
			conversations := map[Conversation]bool{}
			for _, s := range tt.slots {
				c, _ := ScopeInterface.Converse(&s.Key, s.Direction)
				conversations[c] = true
				assert.NotNil(t, table.added(s, got.add))
				packets += s.Packets
			}
			assert.Equal(t, tt.want, table.Len())
			assert.Len(t, conversations, tt.want)
			table.Flush(EndReasonForcedEnd, got.add)
			assert.Len(t, got, tt.want)
			for _, r := range got { // a half has the direction it was seen on
				for _, s := range tt.slots {
					if s.Key == r.Key && s.Direction == r.Direction {
						assert.NotZero(t, r.Forward)
						packets -= r.Forward.Packets
						break
					}
				}
				packets -= r.Reverse.Packets
			}
			assert.Zero(t, packets, "forward is the direction of one of the slots")
		})
	}
}

// forEachOrder calls f with every order of slots: within a drain they come in any.
func forEachOrder(slots []*Slot, f func([]*Slot)) {
	var permute func(n int)
	permute = func(n int) {
		if n == len(slots) {
			f(slots)
			return
		}
		for i := n; i < len(slots); i++ {
			slots[n], slots[i] = slots[i], slots[n]
			permute(n + 1)
			slots[n], slots[i] = slots[i], slots[n]
		}
	}
	permute(0)
}

func TestAnswered(t *testing.T) {
	opening := sent(syn|ack, hSYN, 0, 0)
	for _, tt := range []struct {
		name  string
		slots []*Slot
		want  bool
	}{
		{"silence is no answer", []*Slot{opening}, false},
		{"RST is no answer", []*Slot{opening, received(rst|ack, 0, 0, 0)}, false},
		{"SYN-ACK is", []*Slot{opening, received(syn|ack, hSYNACK, 0, 0)}, true},
		{"an acknowledgement is", []*Slot{opening, received(ack, 0, 0, 0)}, true},
		{"SYN-ACK and then RST is", []*Slot{opening, received(syn|rst|ack, hSYNACK, 0, 1)}, true},
		{"data and then RST is", []*Slot{opening, received(psh|rst|ack, 0, 0, 1)}, true},
		{"RST is none, but what another CPU saw is", []*Slot{opening, received(rst|ack, 0, 0, 0), received(ack, 0, 0, 0)}, true},
		{"with unknown roles, both sides must have spoken", []*Slot{sent(ack, 0, 0, 0), received(ack, 0, 0, 0)}, true},
		{"with unknown roles, one side is no answer", []*Slot{sent(ack, 0, 0, 0), sent(ack|psh, 0, 1, 1)}, false},
		{"with unknown roles, RST is none either", []*Slot{sent(ack, 0, 0, 0), received(rst, 0, 0, 0)}, false},
		{"the client's own packets are no answer", []*Slot{opening, sent(ack|psh, 0, 0, 1)}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table := NewTable(testConfig)
			var f *Flow
			for _, s := range tt.slots {
				f = table.added(s, nil)
			}
			assert.Equal(t, tt.want, f.Answered())
			var got records
			table.Flush(EndReasonForcedEnd, got.add)
			assert.Equal(t, tt.want, got[0].Answered)
		})
	}
}

// A limit, not a wish: slots have no flags of SCTP, so the ABORT of a closed port is an answer like any other. Of UDP a closed
// port answers by ICMP, which is another flow.
func TestAnyPacketAnswersWithoutFlags(t *testing.T) {
	for _, proto := range []uint8{protoUDP, protoSCTP} {
		there, back := sent(0, 0, 0, 0), received(0, 0, 0, 0)
		there.Proto, back.Proto = proto, proto
		table := NewTable(testConfig)
		assert.False(t, table.added(there, nil).Answered(), proto)
		assert.True(t, table.added(back, nil).Answered(), proto)
	}
}

func TestRecordTellsWhatTheSlotsSaid(t *testing.T) {
	table, got := NewTable(testConfig), records(nil)
	slots := []*Slot{
		received(syn|ack|psh, hSYNACK, 1, 7), sent(ack|psh, 0, 3, 9), sent(syn|ack, hSYN, 0, 2),
	}
	forEachOrder(slots, func(slots []*Slot) {
		for _, s := range slots {
			table.Add(s, got.add)
		}
		table.Flush(EndReasonForcedEnd, got.add)
		assert.Equal(t, []Record{{
			Key: request, Direction: DirectionEgress,
			Forward: half(10, syn|ack|psh), Reverse: half(7, syn|ack|psh),
			Start: t0, End: t0 + 9*sec, ConnectionStart: t0,
			EndReason: EndReasonForcedEnd, Initiator: InitiatorSYN, Answered: true,
		}}, got.take())
		assert.Zero(t, table.Len())
	})
}

func TestTimesOutOfOrder(t *testing.T) {
	t.Run("an older slot does not bring the end forward", func(t *testing.T) {
		table, got := NewTable(testConfig), records(nil)
		table.Add(sent(ack, 0, 10, 12), got.add)
		table.Add(sent(ack, 0, 3, 5), got.add)
		table.Expire(t0+26*sec, got.add)
		assert.Empty(t, got)
		table.Expire(t0+27*sec, got.add)
		require.Len(t, got, 1)
		assert.Equal(t, t0+3*sec, got[0].Start)
		assert.Equal(t, t0+12*sec, got[0].End)
		assert.Equal(t, t0+3*sec, got[0].ConnectionStart)
	})
	t.Run("a slot from the future ends nothing", func(t *testing.T) {
		table, got := NewTable(testConfig), records(nil)
		table.Add(sent(rst, 0, 1000, 1000), got.add)
		table.Expire(t0, got.add)
		assert.Empty(t, got)
	})
	t.Run("a record is bounded by its own packets even if the record before ended later", func(t *testing.T) {
		table, got := NewTable(testConfig), records(nil)
		table.Add(sent(ack, 0, 0, 60), got.add)
		table.Expire(t0+60*sec, got.add)
		table.Add(received(ack, 0, 58, 59), got.add)
		table.Expire(t0+74*sec, got.add)
		require.Len(t, got, 1, "idle counts from second 60")
		table.Expire(t0+75*sec, got.add)
		require.Len(t, got, 2)
		assert.Equal(t, t0+58*sec, got[1].Start)
		assert.Equal(t, t0+59*sec, got[1].End)
	})
}

func TestMaxFlowsPushesOutTheLeastRecentlyActive(t *testing.T) {
	key := func(n byte) Key {
		k := request
		k.SrcAddr[14] = n
		return k
	}
	numbers := map[byte]Number{}
	of := func(n byte, flags uint8) *Slot { return slot(key(n), DirectionIngress, flags, 0, int64(n), int64(n)) }
	add := func(table *Table, n byte, flags uint8, end func(*Record)) { numbers[n] = table.Add(of(n, flags), end) }
	config := testConfig
	config.MaxFlows = 3
	table, got := NewTable(config), records(nil)
	for _, n := range []byte{1, 2, 3} {
		add(table, n, ack, got.add)
	}
	add(table, 1, ack, got.add) // now 2 is the least recent
	assert.Empty(t, got)
	add(table, 4, ack, got.add)
	require.Len(t, got, 1)
	assert.Equal(t, key(2), got[0].Key)
	assert.Equal(t, EndReasonLackOfResources, got[0].EndReason)
	assert.Equal(t, 3, table.Len())
	assert.Nil(t, table.Get(numbers[2], of(2, 0)), "its place is taken")
	assert.Equal(t, numbers[2], numbers[4])
	assert.Equal(t, key(4), table.Get(numbers[4], of(4, 0)).Key())

	got.take()
	for _, n := range []byte{5, 6, 7, 8} {
		add(table, n, ack, got.add)
	}
	var order []Key
	for _, r := range got {
		order = append(order, r.Key)
	}
	assert.Equal(t, []Key{key(3), key(1), key(4), key(5)}, order)
	assert.Equal(t, 3, table.Len())

	t.Run("a closed flow that is pushed out had ended anyway", func(t *testing.T) {
		config.MaxFlows = 1
		table, got := NewTable(config), records(nil)
		add(table, 1, rst, got.add)
		add(table, 2, ack, got.add)
		require.Len(t, got, 1)
		assert.Equal(t, EndReasonEndOfFlow, got[0].EndReason)
	})
	t.Run("a table holds at least one flow", func(t *testing.T) {
		table := NewTable(Config{})
		add(table, 1, ack, nil)
		add(table, 2, ack, nil)
		assert.Equal(t, 1, table.Len())
	})
}

// Flows are found by 64 bits of hash. Where chance gives two the same, the one that is there is told and makes room: no packet
// is counted under a tuple that is not its own.
func TestTwoFlowsWithOneHash(t *testing.T) {
	var ended records
	table := NewTable(testConfig)
	first, other := sent(ack, 0, 0, 0), sent(ack, 0, 1, 1)
	other.SrcPort++
	n := table.Add(first, ended.add)
	firstID, _ := ScopeInterface.identify(&first.Key, first.Direction)
	otherID, _ := ScopeInterface.identify(&other.Key, other.Direction)
	delete(table.index, table.memory.hash(&firstID))
	table.index[table.memory.hash(&otherID)] = uint32(n)

	f := table.added(other, ended.add)
	require.Equal(t, other.SrcPort, f.Key().SrcPort)
	require.Len(t, ended, 1)
	require.Equal(t, EndReasonLackOfResources, ended[0].EndReason)
	require.Equal(t, first.Key, ended[0].Key)
	require.Equal(t, half(1, ack), ended[0].Forward)
}

func TestStorageIsUsedAgain(t *testing.T) {
	config := testConfig
	config.MaxFlows = 3000
	table := NewTable(config)
	k := request
	for n := range 10_000 { // many more flows than there is room for, all ended in between
		k.SrcPort, k.IfIndex = uint16(n), uint32(n)
		f := table.added(slot(k, DirectionEgress, syn, hSYN, 0, 0), nil)
		assert.Equal(t, k, f.Key())
		assert.Equal(t, InitiatorSYN, f.Initiator())
		if n%2500 == 2499 {
			number := table.Add(slot(k, DirectionEgress, ack, 0, 0, 0), nil)
			table.Expire(t0+20*sec, nil)
			require.Zero(t, table.Len())
			require.Nil(t, table.Get(number, slot(k, DirectionEgress, ack, 0, 0, 0)))
		}
	}
	assert.LessOrEqual(t, len(table.chunks)*chunkFlows, 3072)
}

func TestAllVisitsEveryLiveFlowOnce(t *testing.T) {
	table := NewTable(testConfig)
	want := map[Key]bool{}
	k := request
	for n := range uint16(20) {
		k.SrcPort = n
		s := slot(k, DirectionEgress, ack, 0, int64(n), int64(n))
		table.Add(s, nil)
		if n >= 5 {
			want[k] = true
		}
	}
	table.Expire(t0+19*sec, nil) // ports 0 to 4 are idle for 15 s
	got := map[Key]bool{}
	for f := range table.All() {
		assert.False(t, got[f.Key()])
		got[f.Key()] = true
	}
	assert.Equal(t, want, got)
	for range table.All() {
		break
	}
}

// What goes in comes out once: whatever is evicted, expired, reopened or flushed, per direction of the hook and per
// interface, and every flow ends exactly once. With ScopeNamespace, wherever it counts: per direction of the conversation.
func TestVolumeIsConserved(t *testing.T) {
	type place struct {
		key       Key // both directions of it are distinct
		direction Direction
	}
	for seed := range uint64(40) {
		once := seed%2 == 1
		r := rand.New(rand.NewPCG(seed, 1))
		config := Config{
			MaxFlows: 1 + r.IntN(60), IdleTimeout: 15 * time.Second, ActiveTimeout: 40 * time.Second, EphemeralLow: 2,
		}
		if once {
			config.Scope = ScopeNamespace
		}
		table := NewTable(config)
		table.Watch(map[Place]int64{request.Place(): t0 - 1000*sec})
		in, out := map[place]Volume{}, map[place]Volume{}
		begun, ended := 0, 0
		now := t0
		volume := func(m map[place]Volume, p place, v Volume) {
			if v == (Volume{}) {
				return
			}
			if once {
				p = place{at(p.key, 0, 0), 0}
				p.key.Tunnel = Tunnel{}
			}
			sum := m[p]
			sum.Add(v)
			m[p] = sum
		}
		end := func(rec *Record) {
			volume(out, place{rec.Key, rec.Direction}, rec.Forward.Volume)
			volume(out, place{rec.Key.Reversed(), 1 - rec.Direction}, rec.Reverse.Volume)
			if rec.EndReason != EndReasonActiveTimeout {
				ended++
			}
			require.LessOrEqual(t, rec.Start, rec.End)
			require.LessOrEqual(t, rec.ConnectionStart, rec.End)
			require.NotEmpty(t, rec.EndReason.String())
		}
		for range 3000 {
			now += r.Int64N(sec)
			k := request
			k.SrcAddr[15], k.SrcPort = byte(r.IntN(4)), uint16(r.IntN(12))
			k.DstAddr[15], k.DstPort = byte(r.IntN(4)), uint16(r.IntN(3))
			k.Proto = []uint8{protoTCP, 17}[r.IntN(2)]
			if once {
				k = at(k, uint32(2+r.IntN(3)), uint16(r.IntN(3)))
				k.Tunnel.ID, k.Tunnel.HasID = uint32(r.IntN(2)), true
			}
			if r.IntN(2) == 0 {
				k = k.Reversed()
			}
			first := now - r.Int64N(5*sec)
			s := &Slot{
				Key: k, Direction: Direction(r.IntN(2)), First: first, Last: first + r.Int64N(sec),
				Volume: Volume{Packets: 1 + r.Uint64N(9), Bytes: 60 + r.Uint64N(9000)},
			}
			if k.Proto == protoTCP {
				s.TCPFlags, s.Handshake = uint8(r.IntN(32)), Handshake(r.IntN(4))*Handshake(r.IntN(2))
			}
			volume(in, place{s.Key, s.Direction}, s.Volume)
			before, endedBefore := table.Len(), ended
			table.Add(s, end)
			begun += table.Len() - before + ended - endedBefore
			require.LessOrEqual(t, table.Len(), config.MaxFlows)
			if r.IntN(50) == 0 {
				table.Expire(now, end)
			}
			if r.IntN(500) == 0 {
				now += r.Int64N(60 * sec)
			}
			if r.IntN(1000) == 0 {
				table.Flush(EndReasonForcedEnd, end)
			}
		}
		table.Flush(EndReasonForcedEnd, end)
		require.Zero(t, table.Len())
		require.Equal(t, in, out, "seed %d", seed)
		require.Equal(t, begun, ended, "seed %d", seed)
	}
}

func TestReasonsHaveNames(t *testing.T) {
	assert.Equal(t, "idle_timeout", EndReasonIdleTimeout.String())
	assert.Equal(t, "active_timeout", EndReasonActiveTimeout.String())
	assert.Equal(t, "end_of_flow", EndReasonEndOfFlow.String())
	assert.Equal(t, "forced_end", EndReasonForcedEnd.String())
	assert.Equal(t, "lack_of_resources", EndReasonLackOfResources.String())
	assert.Empty(t, EndReason(0).String())
	assert.Empty(t, EndReason(99).String())
	assert.Equal(t, "syn", InitiatorSYN.String())
	assert.Equal(t, "first_packet", InitiatorFirstPacket.String())
	assert.Equal(t, "port", InitiatorPort.String())
	assert.Equal(t, "unknown", InitiatorUnknown.String())
	assert.Empty(t, Initiator(99).String())
}

func TestShortReasonsAreThoseThatSaySo(t *testing.T) {
	for r := range ReasonCount {
		assert.Equal(t, strings.HasPrefix(r.Entry(), "unparsed_short_"), r.Short(), r.Entry())
	}
}

func TestAddingToAFlowAllocatesNothing(t *testing.T) {
	table, s := NewTable(testConfig), sent(ack|psh, 0, 0, 0)
	table.Add(s, nil)
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		table.Get(table.Add(s, nil), s)
		table.Expire(t0, nil)
	}))

	t.Run("nor does a flow that begins, ends and is remembered", func(t *testing.T) {
		config := testConfig
		config.MaxFlows = 8
		table, n := NewTable(config), int64(0)
		one := func() {
			s := slot(numbered(protoUDP, uint32(n)), DirectionEgress, 0, 0, n, n)
			table.Add(s, nil)
			n++
			table.Expire(t0+(n+15)*sec, nil)
		}
		for range 1000 {
			one()
		}
		assert.Zero(t, testing.AllocsPerRun(100, one))
	})
}

func TestExpireLooksAtOneCacheLineOfAFlow(t *testing.T) {
	assert.EqualValues(t, 64, unsafe.Offsetof(Flow{}.id))
	assert.Zero(t, unsafe.Sizeof(Flow{})%64)
}

const benchFlows = 65_536

// benchSlots are both directions of benchFlows flows, in an order unlike that of storage.
func benchSlots() []Slot {
	slots := make([]Slot, 0, 2*benchFlows)
	for n := range uint32(benchFlows) {
		k := request
		k.SrcAddr[13], k.SrcAddr[14], k.SrcPort = byte(n>>8), byte(n), uint16(n)
		slots = append(slots, *slot(k, DirectionEgress, ack, 0, 0, 1), *slot(k.Reversed(), DirectionIngress, ack, 0, 0, 1))
	}
	r := rand.New(rand.NewPCG(1, 2))
	r.Shuffle(len(slots), func(i, j int) { slots[i], slots[j] = slots[j], slots[i] })
	return slots
}

func BenchmarkTable(b *testing.B) {
	slots := benchSlots()
	config := Config{MaxFlows: benchFlows, IdleTimeout: time.Hour, ActiveTimeout: time.Hour}
	full := NewTable(config)
	for i := range slots {
		full.Add(&slots[i], nil)
	}
	b.Run("add to a flow", func(b *testing.B) {
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			full.Add(&slots[n%len(slots)], nil)
		}
	})
	b.Run("add the few flows of a quiet host", func(b *testing.B) {
		b.ReportAllocs()
		table := NewTable(config)
		for n := 0; b.Loop(); n++ {
			table.Add(&slots[n%100], nil)
		}
	})
	b.Run("add to a flow whose halves count at two interfaces", func(b *testing.B) {
		b.ReportAllocs()
		config := config
		config.Scope = ScopeNamespace
		full, slots := NewTable(config), benchSlots()
		for i := range slots {
			if slots[i].Direction == DirectionIngress {
				slots[i].IfIndex++
			}
			full.Add(&slots[i], nil)
		}
		for n := 0; b.Loop(); n++ {
			full.Add(&slots[n%len(slots)], nil)
		}
	})
	b.Run("add a flow that pushes another out", func(b *testing.B) {
		b.ReportAllocs()
		table := NewTable(Config{MaxFlows: benchFlows / 2, IdleTimeout: time.Hour, ActiveTimeout: time.Hour})
		for n := 0; b.Loop(); n++ {
			s := &slots[n%len(slots)]
			s.IfIndex = uint32(n) // never seen before
			table.Add(s, nil)
		}
	})
	b.Run("add a UDP flow that pushes another out, which is remembered", func(b *testing.B) {
		b.ReportAllocs()
		table := NewTable(Config{MaxFlows: benchFlows / 2, IdleTimeout: time.Hour, ActiveTimeout: time.Hour})
		slots := benchSlots()
		for n := 0; b.Loop(); n++ {
			s := &slots[n%len(slots)]
			s.Proto, s.TCPFlags, s.IfIndex = protoUDP, 0, uint32(n) // never seen before
			table.Add(s, nil)
		}
	})
	b.Run("expire nothing of 65536 flows", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			full.Expire(t0, nil)
		}
	})
	b.Run("fill, expire all, per flow", func(b *testing.B) {
		b.ReportAllocs()
		table := NewTable(config)
		slots := benchSlots()[:benchFlows] // about three quarters of the flows
		for n := 0; b.Loop(); n++ {
			table.Add(&slots[n%len(slots)], nil)
			if n%len(slots) == len(slots)-1 {
				table.Expire(t0+7200*sec, nil)
			}
		}
	})
}
