// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"bytes"
	"cmp"
	"time"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

// limitSpan is for how long flow records that nobody needed are saved up.
const limitSpan = time.Minute

// recordLimit bounds how many flow records leave. Each second of drain time earns perSecond of them, and those of one
// limitSpan are saved up: a burst after quieter minutes is told, and no more than perSecond x (T + limitSpan) leave in any
// time T.
type recordLimit struct {
	perSecond int64
	credit    int64 // a nanosecond earns perSecond, a record costs a second of nanoseconds: exact, without fractions
	until     int64 // ns since 1970 up to which credit was earned
}

func newRecordLimit(perSecond int, now int64) recordLimit {
	return recordLimit{int64(perSecond), int64(perSecond) * int64(limitSpan), now}
}

// allowed returns how many records may leave at now. A clock that was set back earns nothing, and goes on from there.
func (l *recordLimit) allowed(now int64) int {
	if earned := min(now-l.until, int64(limitSpan)); earned > 0 {
		l.credit = min(l.credit+earned*l.perSecond, int64(limitSpan)*l.perSecond)
	}
	l.until = now
	return int(l.credit / int64(time.Second))
}

func (l *recordLimit) spend(records int) { l.credit -= int64(records) * int64(time.Second) }

// choice holds the flow records of one drain that may leave: all of them until there are more than room, then the best.
// Its memory is bounded by room, however many flows end.
type choice struct {
	begun    bool
	room     int                     // records
	cause    metadata.AttributeCause // why there is no more
	observed int64                   // of all batches
	view     *view                   // of all batches

	batches []*batch           // all but the last are full
	count   int                // records in them
	heap    []uint32           // the numbers of all records, the worst first; empty until there are more than room
	shed    tally              // what found no room
	forget  func(*flow.Record) // hears of that; nil: nobody does
	before  int                // records of the choice before
}

// reset makes c ready for the next drain.
func (c *choice) reset() {
	clear(c.batches)
	*c = choice{batches: c.batches[:0], before: c.count}
}

// add takes r, and lets go of the worst record if that is one too many.
func (c *choice) add(r *flow.Record) {
	if c.count < c.room {
		c.append(r)
		return
	}
	if len(c.heap) == 0 {
		c.order()
	}
	if c.room == 0 || compareRecords(r, c.at(c.heap[0])) <= 0 {
		c.letGo(r)
		return
	}
	worst := c.at(c.heap[0])
	c.letGo(worst)
	*worst = *r
	c.sink(0)
}

// letGo counts r, which is not told.
func (c *choice) letGo(r *flow.Record) {
	c.shed.add(r)
	if c.forget != nil {
		c.forget(r)
	}
}

func (c *choice) append(r *flow.Record) {
	if c.count%maxRecords == 0 {
		expected := max(c.before, c.count) // when many end at once, most batches are full
		c.batches = append(c.batches, &batch{
			observed: c.observed, view: c.view, flows: make([]flow.Record, 0, min(expected, maxRecords, c.room-c.count)),
		})
	}
	b := c.batches[len(c.batches)-1]
	b.flows = append(b.flows, *r)
	c.count++
}

// at returns record n in the order in which they came.
func (c *choice) at(n uint32) *flow.Record { return &c.batches[n/maxRecords].flows[n%maxRecords] }

// order makes the heap.
func (c *choice) order() {
	c.heap = make([]uint32, c.count)
	for n := range c.heap {
		c.heap[n] = uint32(n)
	}
	for i := len(c.heap)/2 - 1; i >= 0; i-- {
		c.sink(i)
	}
}

// sink moves entry i of the heap below all that are worse.
func (c *choice) sink(i int) {
	for {
		worst := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(c.heap); child++ {
			if compareRecords(c.at(c.heap[child]), c.at(c.heap[worst])) < 0 {
				worst = child
			}
		}
		if worst == i {
			return
		}
		c.heap[i], c.heap[worst] = c.heap[worst], c.heap[i]
		i = worst
	}
}

// compareRecords returns whether a says less (-1) or more (1) than b. Answered flows come first: a scan is many flows that
// nobody answers. Then those with more bytes, with more packets, and the older; the tuple decides the rest, so that what is
// told does not depend on the order in which flows end.
func compareRecords(a, b *flow.Record) int {
	if a.Answered != b.Answered {
		if a.Answered {
			return 1
		}
		return -1
	}
	v, w := a.Volume(), b.Volume()
	if v.Bytes != w.Bytes {
		return cmp.Compare(v.Bytes, w.Bytes)
	}
	if v.Packets != w.Packets {
		return cmp.Compare(v.Packets, w.Packets)
	}
	if a.Start != b.Start {
		return cmp.Compare(b.Start, a.Start)
	}
	return compareKeys(&a.Key, &b.Key)
}

func compareKeys(a, b *flow.Key) int {
	return cmp.Or(
		bytes.Compare(a.SrcAddr[:], b.SrcAddr[:]),
		bytes.Compare(a.DstAddr[:], b.DstAddr[:]),
		cmp.Compare(a.SrcPort, b.SrcPort),
		cmp.Compare(a.DstPort, b.DstPort),
		cmp.Compare(a.Proto, b.Proto),
		cmp.Compare(a.IfIndex, b.IfIndex),
		cmp.Compare(a.NetNS, b.NetNS),
		cmp.Compare(a.VLAN, b.VLAN),
	)
}

// beginChoice says how many of the flows that end now may be told: as many as the limit allows and, while running, as the
// queue can take. At the end they wait for room.
func (e *engine) beginChoice() {
	c := &e.drain.choice
	c.begun, c.observed, c.view = true, e.drain.time, e.places.now()
	if e.messages != nil {
		c.forget = e.messages.forget
	}
	c.room, c.cause = e.drain.limit.allowed(e.drain.time), metadata.AttributeCauseRateLimit
	bytes := recordBytes
	if e.messages != nil {
		bytes += labelBytes
	}
	if free := e.logs.free(bytes); free < c.room && !e.drain.ending {
		c.room, c.cause = free, metadata.AttributeCauseQueueFull
	}
}
