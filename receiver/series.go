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
	src, dst       netip.Addr
	client, server netip.Addr
	iface          string
}

// compare gives points an order that is the same in every collection.
func (k *seriesKey) compare(o *seriesKey) int {
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

// series is what one point says.
type series struct {
	key     seriesKey
	volume  flow.Volume
	start   int64  // ns since 1970: volume was zero then
	traffic int64  // ns since 1970 of the last drain that added to it
	round   uint64 // collection that volume last changed in
}

// aggregator holds the series of one metric, or of two with the same attributes. It gives the sums of what was added,
// cumulative, whatever the cardinality: a series goes only after its last count was delivered, and what finds no room is
// added to the overflow series.
type aggregator struct {
	wants   attrSet
	limit   int   // of series, the overflow series included
	timeout int64 // ns without traffic after which a series is dropped

	byKey    map[seriesKey]*series
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

// add adds v, drained at now. Collections up to delivered have reached the next consumer.
func (a *aggregator) add(key *seriesKey, v flow.Volume, now int64, delivered uint64) {
	s, ok := a.byKey[*key]
	if !ok {
		s = a.claim(key, delivered)
	}
	s.volume.Add(v)
	s.traffic, s.round = now, a.round
}

// claim returns a new series for key, or the overflow series.
func (a *aggregator) claim(key *seriesKey, delivered uint64) *series {
	if len(a.byKey) >= a.limit-1 && !a.makeRoom(delivered) {
		if a.overflow == nil {
			a.overflow = &series{key: seriesKey{attrs: isOverflow}, start: a.since}
		}
		return a.overflow
	}
	s := &series{key: *key, start: a.since}
	a.byKey[*key] = s
	return s
}

// quiet reports whether s may go: a whole collection in which it did not change has reached the next consumer. So its
// last count has been told, and a series that comes later in every drain is not taken for one without traffic. A series
// that counts what is there now has said zero by then.
func (s *series) quiet(delivered uint64) bool { return s.round < delivered }

// makeRoom drops the series idle for longest, if there is one.
func (a *aggregator) makeRoom(delivered uint64) bool {
	if a.idleRound != a.round {
		a.idleRound = a.round
		a.idle = a.idle[:0]
		for _, s := range a.byKey {
			if s.quiet(delivered) {
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
		if s.round < a.round { // else it had traffic since the list was made
			delete(a.byKey, s.key)
			return true
		}
	}
	return false
}

// collect ends the collection being filled at now: it drops series that timed out and returns the others in order, and
// the number of the collection.
func (a *aggregator) collect(now int64, delivered uint64) ([]*series, uint64) {
	expired := func(s *series) bool { return s.quiet(delivered) && now-s.traffic >= a.timeout }
	all := make([]*series, 0, a.len())
	for _, s := range a.byKey {
		if expired(s) {
			delete(a.byKey, s.key)
			continue
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(x, y *series) int { return x.key.compare(&y.key) })
	if a.overflow != nil && expired(a.overflow) {
		a.overflow = nil
	}
	if a.overflow != nil {
		all = append(all, a.overflow)
	}
	round := a.round
	a.round++
	a.since = now
	return all, round
}

// restart begins a new life of all series at now: what they counted is told, and the clock may have been set back. They
// stay, so that one that is no longer there still says so.
func (a *aggregator) restart(now int64) {
	a.since = now
	for _, s := range a.byKey {
		s.restart(now)
	}
	if a.overflow != nil {
		a.overflow.restart(now)
	}
}

func (s *series) restart(now int64) { s.volume, s.start, s.traffic = flow.Volume{}, now, now }

// zero begins a count of what is there now, instead of a sum.
func (a *aggregator) zero() {
	for _, s := range a.byKey {
		s.volume = flow.Volume{}
	}
	if a.overflow != nil {
		a.overflow.volume = flow.Volume{}
	}
}
