// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/ebpfpackets/ebpfpackets/internal/app"
	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
)

const (
	// sampleInterval is how often samples are read. The kernel grants new credit at each read and expects one at least
	// every 100 ms.
	sampleInterval = 90 * time.Millisecond
	// idleInterval is how often they are looked for when none came for samplePatience.
	idleInterval   = 500 * time.Millisecond
	samplePatience = 2 * time.Second
	// sampleDelay is how long samples wait for others to share a message with.
	sampleDelay = time.Second
	// keepSlots is for how many slots memory is kept between drains, even if a drain needs few: about 10 MiB. Memory for
	// more is kept while at least a quarter of it is used.
	keepSlots = 1 << 16
	// expireInterval is how often flows are looked at that may be over, if there are more drains.
	expireInterval = time.Second
	// finalDrains is how often the last drain is tried: nobody comes after it.
	finalDrains = 3
	// askTime is how long network namespaces are asked for counters before one drain, beyond the first; the next one goes on.
	askTime = 10 * time.Millisecond
)

// drainState belongs to the drain loop.
type drainState struct {
	slots     []flow.Slot     // of the drain in progress; kept for the next if not too many
	numbers   []flow.Number   // of their flows, if a metric needs roles
	choice    choice          // ended flows
	limit     recordLimit     // of them
	evicted   int64           // flows that found no room, of the drain in progress
	limited   shedding        // by limit
	crowded   shedding        // out of the queue of records
	time      int64           // ns since 1970 of the last drain, at first of Start; runs backwards only with a new life of all series
	booted    int64           // kernel.Drained.Booted of that drain; 0: there was none
	expired   int64           // ns since 1970 of the last drain after which flows were looked at
	collected int64           // ns since 1970 of the drain of the last collection
	failing   bool            // drains
	skipping  bool            // collections
	broken    map[string]bool // identities of the ledger that did not hold at the last drain
	late      bool            // packets of a late CPU were seen
	drift     drift
	asking    []*namespace         // whose interfaces are still to be asked
	watched   map[flow.Place]watch // of each attached interface
	low       map[uint16]uint16    // what the table and the metrics know of ports
	samples   *batch               // not sent yet; the sample loop's
	ending    bool                 // shutting down: nothing is counted any more
	last      []*batch             // records of the end, until deliver queues them
}

// watch is since when every packet at an interface was counted.
type watch struct {
	attaching uint64 // that it began with
	since     int64  // ns since 1970 of the first drain after that
}

// drainLoop drains at each interval and at each collection, which keep their times however long a drain takes.
func (e *engine) drainLoop(ctx context.Context) {
	interval := e.cfg.drainInterval() // never longer than that of collections
	collection := time.Now().Add(e.cfg.CollectionInterval)
	next := time.NewTimer(interval)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.source.Pressure():
			e.drainOnce() // at once: interfaces are asked when there is time
			continue
		case <-next.C:
		}
		e.drainAndCompare()
		if late := time.Since(collection); late >= 0 {
			e.collect()
			collection = collection.Add(late.Truncate(e.cfg.CollectionInterval) + e.cfg.CollectionInterval) // those that were missed are not made up for
		}
		next.Reset(min(interval, time.Until(collection)))
	}
}

// drainAndCompare is drainOnce, and compares what was counted with what interfaces count themselves, if that is due.
func (e *engine) drainAndCompare() bool {
	own := e.askInterfaces(e.clock())
	drained := e.drainOnce()
	if drained && own != nil {
		now := e.places.now()
		e.tel.setDrift(e.drain.drift.compare(own, now.attached), now, e.cfg.flowDirections())
	}
	return drained
}

// drainOnce takes the kernel's counters and gives them to the table, the metrics and own telemetry. It reports whether it could.
func (e *engine) drainOnce() bool {
	began := e.clock()
	e.drain.slots = e.drain.slots[:0]
	d, err := e.source.Drain(func(s *flow.Slot) { e.drain.slots = append(e.drain.slots, *s) })
	e.reportDrain(err)
	if err != nil {
		return false
	}
	e.advance(d)
	e.watchInterfaces()
	e.learnPorts()
	e.attribute(d)
	e.drain.drift.addDrained(e.drain.slots, d.Classes)
	flows := 0
	if e.table != nil {
		e.table.Advance(e.drain.time)
		e.expireFlows()
		flows = e.table.Len()
	}
	e.sendFlows()
	e.countEvicted()
	if cap(e.drain.slots) > max(keepSlots, 4*len(e.drain.slots)) {
		e.drain.slots, e.drain.numbers = nil, nil
	}
	e.reportDrained(d)
	e.reportSeries()
	e.tel.add(d, flows)
	e.tel.EbpfpacketsReceiverDrainDuration.Record(context.Background(), e.clock().Sub(began).Seconds(), e.tel.with())
	return true
}

// expireFlows ends the flows that are over, but not at each of the drains that pressure asks for, of which there may be a hundred in a
// second: it looks at every flow. After the last drain it is done in any case.
func (e *engine) expireFlows() {
	since := e.drain.time - e.drain.expired
	if !e.drain.ending && since >= 0 && since < int64(min(expireInterval, e.cfg.drainInterval())) {
		return
	}
	e.drain.expired = e.drain.time
	e.table.Expire(e.drain.time, e.endFlow)
}

// askInterfaces returns what interfaces count themselves, just before a drain: of the namespaces that are still to be asked, as many as
// there is time for; nil if it is not due.
func (e *engine) askInterfaces(now time.Time) map[flow.Place]iface.Counters {
	d := &e.drain
	if len(d.asking) == 0 {
		if !d.drift.due(now) {
			return nil
		}
		d.asking = e.namespaces.sorted()
	}
	all := map[flow.Place]iface.Counters{}
	for began := time.Now(); len(d.asking) > 0 && time.Since(began) < askTime; d.asking = d.asking[1:] {
		s := d.asking[0]
		own, err := s.space.counters()
		if err != nil {
			e.log.Debug("Reading the counters of interfaces failed; interface_drift has a gap", zap.String("namespace", s.name), zap.Error(err))
			d.drift.silence(s.number)
		}
		for index, c := range own {
			all[flow.Place{NetNS: uint32(s.number), IfIndex: index}] = c
		}
	}
	return all
}

// watchInterfaces tells the table since when we count at each interface: what it knows of who spoke first rests on that. The
// time is that of the drain, in the one clock that the table knows.
func (e *engine) watchInterfaces() {
	attachings := e.places.now().attachings
	if e.table == nil || maps.EqualFunc(attachings, e.drain.watched, func(n uint64, w watch) bool { return n == w.attaching }) {
		return
	}
	watched, since := make(map[flow.Place]watch, len(attachings)), make(map[flow.Place]int64, len(attachings))
	for at, n := range attachings {
		w := e.drain.watched[at]
		if w.attaching != n {
			w = watch{n, e.drain.time}
		}
		watched[at], since[at] = w, w.since
	}
	e.drain.watched = watched
	e.table.Watch(since)
}

// learnPorts tells the table and the metrics which ports clients are given, in each namespace.
func (e *engine) learnPorts() {
	low := e.places.now().low
	if maps.Equal(low, e.drain.low) {
		return
	}
	e.drain.low = low
	if e.table != nil {
		e.table.Ports(low)
	}
	if e.metrics != nil {
		e.metrics.low = low
	}
}

// attribute adds the slots of one drain to the table first, so that all of its evidence about roles is known, and then
// to the metrics.
func (e *engine) attribute(d *kernel.Drained) {
	numbers := e.drain.numbers[:0] // of the flows of the slots, if a metric needs their roles
	if e.table != nil {
		needed := e.metrics != nil && e.metrics.volumeWants&needsRoles != 0
		if needed {
			numbers = slices.Grow(numbers, len(e.drain.slots))
		}
		for i := range e.drain.slots {
			n := e.table.Add(&e.drain.slots[i], e.endFlow)
			if needed {
				numbers = append(numbers, n)
			}
		}
	}
	e.drain.numbers = numbers
	e.link(d)
	if e.metrics != nil {
		e.measure(d)
	}
}

// link adds ICMP errors to the flows that they quote.
func (e *engine) link(d *kernel.Drained) {
	var linked, unknown int64
	for i := range d.Quotes {
		q := &d.Quotes[i]
		if e.table != nil && e.table.Quote(q) {
			linked += int64(q.Count)
		} else {
			unknown += int64(q.Count)
		}
	}
	e.tel.countQuotes(linked, unknown, int64(d.QuotesLost))
}

// measure adds one drain to the metrics.
func (e *engine) measure(d *kernel.Drained) {
	e.settle() // what was told may make room
	v := e.places.now()
	var omitted uint64
	for i := range e.drain.slots {
		s := &e.drain.slots[i]
		var f *flow.Flow
		if len(e.drain.numbers) > 0 {
			f = e.table.Get(e.drain.numbers[i], s)
		}
		omitted += e.metrics.addSlot(s, f, v.of(s.Place()), e.drain.time)
	}
	for i := range d.Classes {
		e.metrics.addClass(&d.Classes[i], v.of(d.Classes[i].Place()), e.drain.time)
	}
	if omitted > 0 {
		e.tel.EbpfpacketsReceiverServerPortOmissions.Add(context.Background(), int64(omitted), e.tel.with())
	}
}

// endFlow takes the record of a flow that ended, or lasted long.
func (e *engine) endFlow(r *flow.Record) {
	if r.EndReason == flow.EndReasonLackOfResources {
		e.drain.evicted++
	}
	if !e.flowRecords {
		return
	}
	if !e.drain.choice.begun {
		e.beginChoice()
	}
	e.drain.choice.add(r)
}

// countEvicted counts the flows of a drain at once: a flood pushes out hundreds of thousands.
func (e *engine) countEvicted() {
	if e.drain.evicted > 0 {
		e.tel.EbpfpacketsReceiverFlowEvictions.Add(context.Background(), e.drain.evicted, e.tel.with())
		e.drain.evicted = 0
	}
}

// sendFlows queues the records of the flows that ended, as many as may be told.
func (e *engine) sendFlows() {
	if !e.flowRecords {
		return
	}
	c := &e.drain.choice
	for _, b := range c.batches {
		if e.messages != nil {
			e.messages.label(b)
		}
		e.send(b)
	}
	e.drain.limit.spend(c.count)
	e.logs.shed(c.cause, c.shed)
	e.reportChoice(c)
	c.reset()
}

// send queues b, or drops it if there is no room. At the end it keeps b, for deliver to wait for room.
func (e *engine) send(b *batch) {
	if e.drain.ending {
		e.drain.last = append(e.drain.last, b)
		return
	}
	e.logs.offer(b)
}

// sampleLoop reads samples often as long as some come. While none do, the kernel's credit is not used up, and what is
// earned of it is kept: a longer pause costs nothing but the age of the first sample after it.
func (e *engine) sampleLoop(ctx context.Context) {
	interval := sampleInterval
	t := time.NewTicker(interval)
	defer t.Stop()
	last := time.Now()
	for {
		want := idleInterval
		if e.readSamples() > 0 {
			last = time.Now()
		}
		if time.Since(last) < samplePatience {
			want = sampleInterval
		}
		if want != interval {
			interval = want
			t.Reset(interval)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// readSamples takes the samples that are there, and queues them when they are many or old enough. It returns how many
// there were.
func (e *engine) readSamples() int {
	now := e.clock().UnixNano()
	n, err := e.source.ReadSamples(func(s *packet.Sample) { e.takeSample(s, now) })
	e.status.set("samples", wrap("read samples", err))
	e.expireMessages(now)
	if b := e.drain.samples; b != nil && (now-b.observed >= int64(sampleDelay) || now < b.observed) { // or the clock was set back
		e.sendSamples()
	}
	return n
}

// takeSample adds the records of a sample to those that wait.
func (e *engine) takeSample(s *packet.Sample, now int64) {
	b := e.waiting(now)
	if s.Reasons.Has(packet.KindProtocol) {
		e.messages.add(b, s, now)
	} else {
		b.addSample(s, now)
	}
	if b.full() {
		e.sendSamples()
	}
}

// waiting returns the samples that wait to be sent.
func (e *engine) waiting(now int64) *batch {
	if e.drain.samples == nil {
		e.drain.samples = &batch{observed: now}
	}
	return e.drain.samples
}

// expireMessages gives up messages and questions that waited too long, and lets own telemetry say what became of all.
func (e *engine) expireMessages(now int64) {
	if e.messages == nil {
		return
	}
	e.messages.expire(now, e.source.MissedMessages(), func(m *app.Message) {
		b := e.waiting(now)
		b.addMessage(m, now)
		if b.full() {
			e.sendSamples()
		}
	})
	e.tel.setMessages(e.messages.counts())
}

// sendSamples queues what waits: nothing if no sample completed a message, or if they were read for the records of flows alone.
func (e *engine) sendSamples() {
	if b := e.drain.samples; e.packetRecords && b != nil && len(b.packets) > 0 {
		b.view = e.places.now() // now: an interface may have come since the first of them
		e.send(b)
	}
	e.drain.samples = nil
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// finish makes points and records of everything that was counted until Stop, and waits for no consumer: deliver does. It fails if
// that could not be taken from the kernel.
func (e *engine) finish() error {
	e.drain.ending = true
	if e.samples() {
		e.readSamples()
		e.sendSamples()
	}
	drained := false
	for n := 0; n < finalDrains && !drained; n++ {
		drained = e.drainOnce()
	}
	e.drain.time = max(e.drain.time, e.drain.collected+1) // whatever happened, there is a last collection
	if e.metrics != nil {
		e.metrics.end(e.drain.time, e.drain.time, e.table, e.places.now()) // it counts conversations, which the table still has
	}
	if e.table != nil {
		e.table.Flush(flow.EndReasonForcedEnd, e.endFlow)
		e.sendFlows()
	}
	if !drained {
		return fmt.Errorf("the last drain failed %d times: what was counted since the one before is lost", finalDrains)
	}
	return nil
}
