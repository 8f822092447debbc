// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

func TestTheLimitSavesUpAMinute(t *testing.T) {
	now := epoch.UnixNano()
	after := func(d time.Duration) int64 { now += int64(d); return now }
	l := newRecordLimit(7, now)
	require.Equal(t, 420, l.allowed(now), "a burst right after Start is told")
	l.spend(420)
	assert.Zero(t, l.allowed(now))
	assert.Zero(t, l.allowed(after(time.Second/7)), "a record costs a seventh of a second, rounded up")
	assert.Equal(t, 1, l.allowed(after(time.Nanosecond)))
	for range 999_999 {
		l.allowed(after(time.Microsecond))
	}
	assert.Equal(t, 7+1, l.allowed(after(time.Microsecond)), "fractions add up")
	l.spend(8)
	assert.Equal(t, 420, l.allowed(after(time.Hour)))
	assert.Equal(t, 420, l.allowed(math.MaxInt64), "a clock that jumps ahead earns no more")
}

func TestTheLimitGoesOnAfterTheClockWasSetBack(t *testing.T) {
	now := epoch.UnixNano()
	l := newRecordLimit(10, now)
	l.spend(595)
	for range 3 {
		now -= int64(time.Hour)
		assert.Equal(t, 5, l.allowed(now), "nothing is earned, and nothing taken away")
	}
	assert.Equal(t, 15, l.allowed(now+int64(time.Second)))
}

// In any time T, no more than the limit's T and what a minute saved up.
func TestNoTimeTellsMoreThanTheLimitAndAMinuteSavedUp(t *testing.T) {
	const perSecond = 13
	r := rand.New(rand.NewPCG(1, 2))
	l := newRecordLimit(perSecond, 0)
	var times []int64
	told := []int{0} // before each of times
	for now, i := int64(0), 0; i < 400; i++ {
		now += r.Int64N(int64(20 * time.Second))
		n := min(l.allowed(now), r.IntN(400))
		l.spend(n)
		times, told = append(times, now), append(told, told[i]+n)
	}
	closest := math.Inf(1)
	for from := range times {
		for to := from; to < len(times); to++ {
			bound := perSecond * (time.Duration(times[to]-times[from]) + limitSpan).Seconds()
			closest = min(closest, bound-float64(told[to+1]-told[from]))
		}
	}
	assert.GreaterOrEqual(t, closest, 0.0)
	assert.Less(t, closest, 1.0, "the limit was never reached: this test shows nothing")
}

// randomRecords returns n records, of which many are alike but for their ports.
func randomRecords(r *rand.Rand, n int) []flow.Record {
	records := make([]flow.Record, n)
	for i := range records {
		f := &records[i]
		f.Answered = r.IntN(2) == 0
		f.Forward.Volume = flow.Volume{Packets: r.Uint64N(3), Bytes: 100 * r.Uint64N(4)}
		f.Reverse.Volume = flow.Volume{Packets: r.Uint64N(3), Bytes: 100 * r.Uint64N(4)}
		f.Start = r.Int64N(4)
		f.Key = flow.Key{SrcPort: uint16(i), DstPort: uint16(i >> 16), Proto: protoUDP}
	}
	return records
}

func (c *choice) records() (all []flow.Record) {
	for _, b := range c.batches {
		all = append(all, b.flows...)
	}
	return all
}

func TestAnsweredAndLargerFlowsAreToldFirst(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, room := range []int{0, 1, 2, 3, 100, maxRecords - 1, maxRecords, maxRecords + 1, 2*maxRecords + 7, 6000} {
		records := randomRecords(r, 5000)
		best := func(a, b flow.Record) int {
			answered := map[bool]int{true: 0, false: 1}
			return cmp.Or(
				answered[a.Answered]-answered[b.Answered],
				-cmp.Compare(a.Forward.Bytes+a.Reverse.Bytes, b.Forward.Bytes+b.Reverse.Bytes),
				-cmp.Compare(a.Forward.Packets+a.Reverse.Packets, b.Forward.Packets+b.Reverse.Packets),
				cmp.Compare(a.Start, b.Start),
				-cmp.Compare(a.Key.SrcPort, b.Key.SrcPort),
			)
		}
		want := slices.SortedFunc(slices.Values(records), best)
		want = want[:min(room, len(want))]
		for range 2 { // in any order
			r.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
			c := choice{room: room}
			var all, told tally
			for i := range records {
				all.add(&records[i])
				c.add(&records[i])
			}
			for _, f := range c.records() {
				told.add(&f)
			}
			got := c.records()
			slices.SortFunc(got, best)
			assert.True(t, slices.Equal(want, got), "room for %d", room)
			assert.Equal(t, len(want), c.count)
			assert.Equal(t, all.minus(told), c.shed)
		}
	}
}

func TestWhatIsToldOfEqualFlowsDoesNotDependOnTheirOrder(t *testing.T) {
	records := make([]flow.Record, 9)
	set := []func(k *flow.Key){
		func(k *flow.Key) { k.SrcAddr[3] = 1 }, func(k *flow.Key) { k.DstAddr[3] = 1 },
		func(k *flow.Key) { k.SrcPort = 1 }, func(k *flow.Key) { k.DstPort = 1 },
		func(k *flow.Key) { k.Proto = 1 }, func(k *flow.Key) { k.IfIndex = 1 },
		func(k *flow.Key) { k.NetNS = 1 }, func(k *flow.Key) { k.VLAN = 1 },
	}
	for i, f := range set {
		f(&records[i].Key)
	}
	for i := range records {
		for j := range records {
			assert.Equal(t, cmp.Compare(j, i), compareRecords(&records[i], &records[j]), "%d, %d", i, j)
		}
	}
}

func TestMemoryForRecordsIsBoundedByTheLimitNotByTheFlowsThatEnd(t *testing.T) {
	const room = 2*maxRecords + 500
	c := choice{room: room}
	records := randomRecords(rand.New(rand.NewPCG(5, 6)), 200_000)
	for i := range records[:room+1] {
		c.add(&records[i])
	}
	i := room
	assert.Zero(t, testing.AllocsPerRun(len(records)-room-2, func() {
		i++
		c.add(&records[i])
	}))
	assert.Equal(t, int64(len(records)-room), c.shed.flows)
	kept := 0
	for _, b := range c.batches {
		kept += cap(b.flows)
	}
	assert.LessOrEqual(t, kept, 3*maxRecords)
	assert.Equal(t, room, cap(c.heap))
}

// oneEach counts n flows of one packet, of which those with a low number are larger, and lets them end.
func (b *bench) oneEach(n int) {
	for i := range n {
		at := b.now.Sub(epoch).Seconds()
		s := udp("10.0.0.1:1000", "10.0.0.2:2000", flow.DirectionEgress, 1, uint64(60+n-i), at, at)
		s.SrcPort = uint16(i)
		b.host.count(s)
	}
	b.after(b.cfg.Flows.IdleTimeout)
}

func TestFlowsEndedAreRecordsAndSheds(t *testing.T) {
	c := testConfig()
	c.Flows.MaxRecordsPerSecond = 2
	c.Flows.IdleTimeout = 15 * time.Second
	b, tel := measured(t, c, nil, consumertest.NewNop())
	logged := b.observe()
	b.oneEach(150)
	first := b.records()
	require.Len(t, first, 120, "a minute's worth")
	assert.Equal(t, uint64(60+150-119), slices.MinFunc(first, func(x, y flow.Record) int {
		return cmp.Compare(x.Forward.Bytes, y.Forward.Bytes)
	}).Forward.Bytes)
	b.oneEach(40)
	require.Len(t, b.records(), 30, "what 15 s earned")
	b.oneEach(29)
	require.Len(t, b.records(), 29)

	assert.Equal(t, map[string]int64{"rate_limit": 30 + 10}, valuesOf(t, tel, "otelcol_ebpfpackets_receiver_record_sheds", "cause"))
	assert.Equal(t, map[string]int64{"rate_limit": 30 + 10}, valuesOf(t, tel, "otelcol_ebpfpackets_receiver_record_shed_packets", "cause"))
	assert.Equal(t, map[string]int64{"rate_limit": 30*61 + 30*29/2 + 10*61 + 10*9/2}, valuesOf(t, tel, "otelcol_ebpfpackets_receiver_record_shed_io", "cause"))
	assert.Equal(t, []string{"warn: More flows end than flows.max_records_per_second lets through; answered and larger ones are told, the rest is " +
		"counted as shed: raise it, or raise flows.active_timeout so that long flows are told less often, or leave traffic out with filters"}, logged())
}

func TestTheFinalFlushIsLimitedToo(t *testing.T) {
	c := testConfig()
	c.Flows.MaxRecordsPerSecond = 1
	b, tel := measured(t, c, nil, consumertest.NewNop())
	for i := range 100 {
		s := udp("10.0.0.1:1000", "10.0.0.2:2000", flow.DirectionEgress, 1, 100, 0, 0)
		s.SrcPort = uint16(i)
		b.host.count(s)
	}
	b.ended()
	assert.Len(t, b.records(), 60)
	assert.Equal(t, map[string]int64{"rate_limit": 40}, valuesOf(t, tel, "otelcol_ebpfpackets_receiver_record_sheds", "cause"))
}

func TestTheLimitIsSaidOnChange(t *testing.T) {
	c := testConfig()
	c.Flows.MaxRecordsPerSecond = 1
	c.Flows.IdleTimeout = time.Second
	b, _ := measured(t, c, nil, consumertest.NewNop())
	logged := b.observe()
	for range 3 { // bursts of an active timeout
		b.oneEach(90)
		b.after(time.Minute)
	}
	assert.Len(t, logged(), 1)
	b.now = b.now.Add(-time.Hour)
	b.after(time.Second)
	assert.Equal(t, []string{"warn: The clock was set back; flows end here, and series begin anew"}, logged())
	b.after(shedPatience - time.Second)
	assert.Empty(t, logged())
	b.after(time.Second)
	b.after(shedPatience)
	assert.Equal(t, []string{"info: flows.max_records_per_second lets all flow records through again"}, logged())
	b.oneEach(90)
	assert.Len(t, logged(), 1)
}

func TestAFullQueueIsNotTheLimit(t *testing.T) {
	b, tel := measured(t, testConfig(), nil, consumertest.NewNop())
	logged := b.observe()
	for range cap(b.logs.queue) {
		b.logs.offer(&batch{})
	}
	b.oneEach(3)
	assert.Equal(t, map[string]int64{metadata.AttributeCauseQueueFull.String(): 3}, valuesOf(t, tel, "otelcol_ebpfpackets_receiver_record_sheds", "cause"))
	assert.Equal(t, []string{"warn: The next consumer of log records is too far behind; flow records that find no room in the queue are counted as shed: " +
		"give exporters a sending_queue, so that no consumer blocks"}, logged())
	before := b.drain.limit.credit
	b.oneEach(3)
	assert.GreaterOrEqual(t, b.drain.limit.credit, before, "what was not queued costs nothing")
	assert.Empty(t, logged())
	<-b.logs.queue
	b.after(shedPatience)
	assert.Equal(t, []string{"info: All flow records find room in the queue again"}, logged())
}
