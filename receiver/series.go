// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// attrSet is a set of attributes: those that a metric wants, or those that a point has.
type attrSet uint16

const (
	hasInterface attrSet = 1 << iota
	hasDirection
	hasTransport
	hasType
	hasServerPort
	hasSourceAddress
	hasSourcePort
	hasDestinationAddress
	hasDestinationPort
	hasClientAddress
	hasServerAddress
	hasVLAN
	hasSourceCIDR
	hasDestinationCIDR
	hasNamespace
	isOverflow // otel.metric.overflow: the one point of what found no series
)

// seriesKey is the identity of a point: the attributes in attrs, all other fields zero.
type seriesKey struct {
	attrs          attrSet
	direction      flow.Direction
	proto          uint8
	ipv6           bool
	vlan           uint16
	srcPort        uint16
	dstPort        uint16
	serverPort     uint16
	srcNet, dstNet uint16 // numbers of labels in networks
	src, dst       netip.Addr
	client, server netip.Addr
	iface          string
	namespace      string
}

// compare gives points an order that is the same in every collection.
func (k *seriesKey) compare(o *seriesKey) int {
	if c := cmp.Compare(k.namespace, o.namespace); c != 0 {
		return c
	}
	if c := cmp.Compare(k.iface, o.iface); c != 0 {
		return c
	}
	// One number for what is small: cmp.Or knows all of its arguments before it looks at the first.
	if c := cmp.Compare(k.order(), o.order()); c != 0 {
		return c
	}
	return cmp.Or(
		k.server.Compare(o.server),
		k.client.Compare(o.client),
		k.src.Compare(o.src),
		k.dst.Compare(o.dst),
		cmp.Compare(k.srcPort, o.srcPort),
		cmp.Compare(k.dstPort, o.dstPort),
		cmp.Compare(k.srcNet, o.srcNet),
		cmp.Compare(k.dstNet, o.dstNet),
		cmp.Compare(k.vlan, o.vlan),
		cmp.Compare(k.attrs, o.attrs),
	)
}

// order holds direction, transport, type and server port, the first in the highest bits.
func (k *seriesKey) order() (n uint64) {
	if k.ipv6 {
		n = 1
	}
	return uint64(k.direction)<<32 | uint64(k.proto)<<24 | n<<16 | uint64(k.serverPort)
}

// spread tells most series of one host apart.
func (k *seriesKey) spread() uint {
	return uint(k.serverPort) + uint(k.srcPort) + uint(k.dstPort)*3 + uint(k.direction)*31 + uint(k.proto)*7 + uint(len(k.iface))*11
}

// series is what one point says.
type series struct {
	key     seriesKey
	volume  flow.Volume // since the series began
	offered flow.Volume // as much of it as the point offered last says, alone or with those before it
	settled flow.Volume // as much of it as was taken, or will never be
	start   int64       // ns since 1970 where its next point begins
	traffic int64       // ns since 1970 of the last drain that added to it
	changed uint64      // collection that volume last changed in
	told    uint64      // last collection whose point of it was settled: taken, or refused for good and not said by a later one
	dropped bool        // it is in no collection any more
}

// quiet reports whether s may go: a whole collection in which it did not change was settled. So its last count has been
// told, and a series that comes later in every drain is not taken for one without traffic. A series that counts what is
// there now has said zero by then.
func (s *series) quiet() bool { return s.changed < s.told }

// value returns what the next point of s says.
func (s *series) value(delta bool) flow.Volume {
	if delta {
		return s.volume.Minus(s.settled)
	}
	return s.volume
}

// settle notes that the point of s in collection round, at time, was taken or will never be. The next delta begins there.
func (s *series) settle(delta bool, round uint64, time int64) {
	s.told, s.settled = round, s.offered
	if delta {
		s.start = time
	}
}

const recentSeries = 64 // a power of two

// aggregator holds the series of one metric, or of two with the same attributes. It gives the sums of what was added,
// whatever the cardinality: a series goes only after its last count was settled, and what finds no room is added to the
// overflow series.
type aggregator struct {
	wants   attrSet
	delta   bool  // a settled point is the beginning of the next; else sums are cumulative
	limit   int   // of series, the overflow series included
	timeout int64 // ns without traffic after which a series is dropped

	byKey    map[seriesKey]*series
	recent   [recentSeries]*series // some of them, to be found without the map
	order    []*series             // of byKey: those of the last collection as they were sorted then, and those that came since
	overflow *series
	since    int64  // ns since 1970 where the collection being filled begins
	round    uint64 // number of the collection being filled, from 1

	idle      []*series // candidates to make room in idleRound, the one idle for longest last
	idleRound uint64
}

func newAggregator(wants attrSet, limit int, timeout, start int64) *aggregator {
	return &aggregator{wants: wants, limit: limit, timeout: timeout, byKey: map[seriesKey]*series{}, since: start, round: 1}
}

// len returns how many series there are.
func (a *aggregator) len() int {
	n := len(a.byKey)
	if a.overflow != nil {
		n++
	}
	return n
}

// all visits every series in no particular order.
func (a *aggregator) all(yield func(*series) bool) {
	for _, s := range a.byKey {
		if !yield(s) {
			return
		}
	}
	if a.overflow != nil {
		yield(a.overflow)
	}
}

// add adds v, drained at now.
func (a *aggregator) add(key *seriesKey, v flow.Volume, now int64) {
	s := a.find(key)
	s.volume.Add(v)
	s.traffic, s.changed = now, a.round
}

// find returns the series of key, or the overflow series. Slots share few series, and to compare with one of them is
// less than to hash a key of this size.
func (a *aggregator) find(key *seriesKey) *series {
	r := &a.recent[key.spread()%recentSeries]
	if s := *r; s != nil && !s.dropped && s.key == *key {
		return s
	}
	s, ok := a.byKey[*key]
	if !ok {
		s = a.claim(key)
	}
	*r = s
	return s
}

// claim returns a new series for key, or the overflow series.
func (a *aggregator) claim(key *seriesKey) *series {
	if len(a.byKey) >= a.limit-1 && !a.makeRoom() {
		if a.overflow == nil {
			a.overflow = &series{key: seriesKey{attrs: isOverflow}, start: a.since}
		}
		return a.overflow
	}
	s := &series{key: *key, start: a.since}
	a.byKey[*key] = s
	a.order = append(a.order, s)
	return s
}

func (a *aggregator) drop(s *series) {
	delete(a.byKey, s.key)
	s.dropped = true
}

// makeRoom drops the series idle for longest, if there is one.
func (a *aggregator) makeRoom() bool {
	if a.idleRound != a.round {
		a.idleRound = a.round
		a.idle = a.idle[:0]
		for _, s := range a.byKey {
			if s.quiet() {
				a.idle = append(a.idle, s)
			}
		}
		slices.SortFunc(a.idle, func(x, y *series) int {
			return cmp.Or(cmp.Compare(y.traffic, x.traffic), y.key.compare(&x.key))
		})
	}
	for n := len(a.idle); n > 0; n = len(a.idle) {
		s := a.idle[n-1]
		a.idle[n-1], a.idle = nil, a.idle[:n-1]
		// Since the list was made, it may have had traffic, or have gone.
		if s.changed < a.round && !s.dropped {
			a.drop(s)
			return true
		}
	}
	return false
}

// collect ends the collection being filled at now: it drops series that timed out and returns the others in order, and
// the number of the collection.
func (a *aggregator) collect(now int64) ([]*series, uint64) {
	expired := func(s *series) bool { return s.quiet() && now-s.traffic >= a.timeout }
	a.order = slices.DeleteFunc(a.order, func(s *series) bool {
		if !s.dropped && expired(s) {
			a.drop(s)
		}
		return s.dropped
	})
	// They are in order but for the new ones: to sort them out of the order of the map was a sixth of a collection.
	slices.SortFunc(a.order, func(x, y *series) int { return x.key.compare(&y.key) })
	if a.overflow != nil && expired(a.overflow) {
		a.overflow = nil
	}
	all := append(make([]*series, 0, a.len()), a.order...)
	if a.overflow != nil {
		all = append(all, a.overflow)
	}
	round := a.round
	a.round++
	a.since = now
	return all, round
}

// restart ends the life of all series at end and begins a new one at now, which may be earlier. It returns the old ones
// and the number of their last collection. The new life has the same series, so that one that is no longer there says so.
func (a *aggregator) restart(end, now int64) ([]*series, uint64) {
	old, round := a.collect(end)
	a.recent = [recentSeries]*series{}
	a.since = now
	a.order = a.order[:0]
	for _, s := range old {
		anew := &series{key: s.key, start: now, traffic: now, changed: round}
		if s == a.overflow {
			a.overflow = anew
		} else {
			a.byKey[s.key] = anew
			a.order = append(a.order, anew)
		}
	}
	return old, round
}

// move moves the beginning of all series to now, if that is earlier. Only for series of which no point was offered yet.
func (a *aggregator) move(now int64) {
	a.since = min(a.since, now)
	for s := range a.all {
		s.start, s.traffic = min(s.start, now), min(s.traffic, now)
	}
}

// zero begins a count of what is there now, instead of a sum.
func (a *aggregator) zero() {
	for s := range a.all {
		s.volume = flow.Volume{}
	}
}
