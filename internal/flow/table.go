// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

// Package flow joins what the kernel counted into conversations. A slot is one direction on one CPU between two drains;
// a flow is both directions, over its whole life; Scope says at which interfaces. It knows neither the kernel nor OpenTelemetry.
package flow

import (
	"iter"
	"maps"
	"math"
	"time"
)

const (
	// closeGrace is how long a closed TCP flow waits for its last acknowledgements before its record is written. It is
	// measured from the last FIN or RST. Packets after that begin a new flow, whose roles the ports tell, if anything does.
	closeGrace = 2 * time.Second

	chunkFlows = 1024           // flows allocated at once; a chunk never moves
	none       = math.MaxUint32 // no flow
)

// Config bounds a Table.
type Config struct {
	MaxFlows      int           // flows held at once; at least 1
	IdleTimeout   time.Duration // without packets, after which a flow ends
	ActiveTimeout time.Duration // after which a flow that continues is told
	Scope         Scope         // where the two directions of a flow may count
	EphemeralLow  uint16        // first port that hosts give to clients, ip_local_port_range, where Ports says nothing else; 0: ports say nothing about roles
}

// Number is where a Table keeps a flow, and maybe another one after it.
type Number uint32

// Table holds the flows of all interfaces. It is not safe for concurrent use, and must not be called from the callbacks
// that it calls; the *Record they get is valid until they return. A nil callback drops the records.
//
// Memory is about 420 bytes per flow (27 MB for 65,536, measured), and 64 per flow that ended and may go on (4.2 MB for as
// many), allocated when needed and kept once used.
type Table struct {
	config Config
	index  map[uint64]uint32 // number of each live flow, by hash: small enough to stay in the cache while the flows are not
	chunks []*[chunkFlows]Flow
	used   uint32 // flows with a lower number were handed out before
	free   uint32 // first of the flows to use again, linked by newer
	apart  int    // flows whose identity is not common to both directions, see shared

	memory memory
	since  map[Place]int64   // what Watch was told
	ports  map[uint16]uint16 // what Ports was told
	now    int64             // of the last Advance: the slots being added are later

	oldest, newest uint32 // ends of the order of use

	record Record // of the callback in progress
}

// NewTable returns an empty table.
func NewTable(c Config) *Table {
	c.MaxFlows = max(c.MaxFlows, 1)
	return &Table{
		config: c, index: map[uint64]uint32{}, free: none, oldest: none, newest: none,
		memory: newMemory(c.MaxFlows), now: math.MinInt64,
	}
}

// Watch says at which interfaces every packet is counted, and since when (ns since 1970), and replaces what was said
// before. At any other interface, and for watchTime after counting began, no first packet seen is taken for the first sent.
// It concerns the flows that begin later.
func (t *Table) Watch(since map[Place]int64) { t.since = maps.Clone(since) }

// Ports says which is the first port that clients are given in a namespace, by its number, and replaces what was said before;
// where it is not said, it is Config.EphemeralLow. It concerns the flows that begin later.
func (t *Table) Ports(low map[uint16]uint16) { t.ports = maps.Clone(low) }

// Len returns the number of flows.
func (t *Table) Len() int { return len(t.index) }

// Add merges s into its flow and returns it. If that flow is new and the table full, the flow that was added to least
// recently is told to end and dropped: as EndReasonLackOfResources, or as EndReasonEndOfFlow if it had closed anyway. A
// handshake after the end of a closed TCP flow ends that flow (EndReasonEndOfFlow) and begins a new one.
//
// It returns the number of the flow, for Get.
func (t *Table) Add(s *Slot, end func(*Record)) Number {
	i, h := t.config.Scope.identify(&s.Key, s.Direction)
	if t.config.Scope.apart(&i) {
		i = t.shared(&i, h, s.hook())
	}
	n, ok := t.find(&i)
	if ok && t.at(n).reopenedBy(s) {
		t.end(n, EndReasonEndOfFlow, end)
		ok = false
	}
	if ok {
		t.unlink(n)
	} else {
		n = t.begin(&i, s, end)
	}
	t.link(n)
	f := t.at(n)
	if t.config.Scope == ScopeNamespace {
		f.witness = max(f.witness, t.witness(s)) // the other half may count elsewhere
	}
	f.add(s, h)
	return Number(n)
}

// find returns the live flow that i is.
func (t *Table) find(i *id) (n uint32, ok bool) {
	n, ok = t.index[t.memory.hash(i)]
	return n, ok && t.at(n).id == *i
}

// shared returns the identity under which packets of i, at a hook, are found: what is common to both directions, so that they meet, each
// with its own tunnel id and VLAN. Only where the same addresses and ports talk in two tunnels at a time, between the same
// ends, or in two VLANs, the one that came later keeps these: then the two directions meet if they have the same.
func (t *Table) shared(i *id, h uint8, at Hook) id {
	if t.apart > 0 {
		if _, ok := t.find(i); ok {
			return *i
		}
	}
	common := t.config.Scope.common(i)
	if n, ok := t.find(&common); ok && t.at(n).contradicts(h, i.tunnelID(), at) {
		return *i
	}
	return common
}

// begin makes room for a flow that begins with s.
func (t *Table) begin(i *id, s *Slot, end func(*Record)) (n uint32) {
	hash := t.memory.hash(i)
	if n, ok := t.index[hash]; ok { // chance gave both one hash, in one of 2^48 look-ups among 65,536 flows
		t.pushOut(n, end)
	}
	c := t.clues(i, s) // before another flow may take its place in memory
	if len(t.index) >= t.config.MaxFlows {
		t.pushOut(t.oldest, end)
	}
	n = t.take()
	t.at(n).begin(*i, c)
	t.index[hash] = n
	if t.config.Scope.apart(i) {
		t.apart++
	}
	return n
}

// Get returns flow n, which s was added to; nil if that ended since. Its roles rest on the slots added so far: who has
// more slots of the same drain adds them all and then asks.
func (t *Table) Get(n Number, s *Slot) *Flow {
	f := t.at(uint32(n))
	i, _ := t.config.Scope.identify(&s.Key, s.Direction)
	if !f.live || f.id != i && f.id != t.config.Scope.common(&i) {
		return nil
	}
	return f
}

// All visits every flow in no particular order.
func (t *Table) All() iter.Seq[*Flow] {
	return func(yield func(*Flow) bool) {
		for n := range t.used {
			if f := t.at(n); f.live && !yield(f) {
				return
			}
		}
	}
}

// Advance says that all slots of a drain were added, which had counted until now.
func (t *Table) Advance(now int64) { t.now = now }

// Expire tells and drops the flows that are over at now: closed by TCP for longer than a grace period, or without
// packets for IdleTimeout. Flows whose untold packets began ActiveTimeout ago or earlier are told and continue; their
// next record starts with their next packet. It walks the whole table (0.2 ms for 65,536 flows on an AMD EPYC core, BenchmarkTable; some
// 10 ns a flow where they have left the cache), so call it about once a second. It is Advance, too.
func (t *Table) Expire(now int64, end func(*Record)) {
	t.Advance(now)
	for n := range t.used {
		f := t.at(n)
		if !f.live {
			continue
		}
		switch reason := f.due(now, &t.config); reason {
		case 0:
		case EndReasonActiveTimeout:
			t.tell(f, reason, end)
		default:
			t.end(n, reason, end)
		}
	}
}

// Flush tells every flow to end for reason (EndReasonForcedEnd at shutdown), or as EndReasonEndOfFlow if it had closed
// anyway, and empties the table. EndReasonForcedEnd also ends what was known of flows before and what Watch said: if the
// table is used again, it is because the clock was set back, and times before and after do not compare.
func (t *Table) Flush(reason EndReason, end func(*Record)) {
	for n := range t.used {
		if t.at(n).live {
			t.end(n, reason, end)
		}
	}
	if reason == EndReasonForcedEnd {
		t.memory.clear()
		t.since, t.now = nil, math.MinInt64
	}
}

// pushOut ends flow n to make room. If it began in the drain being added, the slot of its first packet may be still to come.
func (t *Table) pushOut(n uint32, end func(*Record)) {
	if f := t.at(n); f.first > t.now {
		f.distrustFirst()
	}
	t.end(n, EndReasonLackOfResources, end)
}

// end tells and drops flow n. The packets know better than we why a closed flow ended. That one is not remembered: of what
// still comes after the grace period the ports tell the server as a rule, and to remember every short connection would
// push out those that go on.
func (t *Table) end(n uint32, reason EndReason, end func(*Record)) {
	f := t.at(n)
	if f.closed() {
		reason = EndReasonEndOfFlow
	}
	t.tell(f, reason, end)
	if (reason == EndReasonIdleTimeout || reason == EndReasonLackOfResources) && f.teaches() {
		t.memory.remember(f)
	}
	t.unlink(n)
	delete(t.index, t.memory.hash(&f.id))
	if t.config.Scope.apart(&f.id) {
		t.apart--
	}
	f.live = false
	f.newer, t.free = t.free, n
}

func (t *Table) tell(f *Flow, reason EndReason, end func(*Record)) {
	f.export(&t.record, reason)
	if end != nil {
		end(&t.record)
	}
}

func (t *Table) at(n uint32) *Flow { return &t.chunks[n/chunkFlows][n%chunkFlows] }

// take returns the number of a flow that is not in use.
func (t *Table) take() uint32 {
	if n := t.free; n != none {
		t.free = t.at(n).newer
		return n
	}
	n := t.used
	if n%chunkFlows == 0 {
		t.chunks = append(t.chunks, new([chunkFlows]Flow))
	}
	t.used++
	return n
}

// link makes flow n the newest in order of use.
func (t *Table) link(n uint32) {
	f := t.at(n)
	f.older, f.newer = t.newest, none
	if t.newest == none {
		t.oldest = n
	} else {
		t.at(t.newest).newer = n
	}
	t.newest = n
}

func (t *Table) unlink(n uint32) {
	f := t.at(n)
	if f.older == none {
		t.oldest = f.newer
	} else {
		t.at(f.older).newer = f.newer
	}
	if f.newer == none {
		t.newest = f.older
	} else {
		t.at(f.newer).older = f.older
	}
}
