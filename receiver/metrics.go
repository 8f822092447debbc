// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"slices"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

// instrument is how one metric is written. documentation.md says the same; a test compares the two.
type instrument struct {
	name, unit, description string
	monotonic               bool
	value                   func(flow.Volume) uint64
}

var (
	instrumentIO = instrument{
		name: metadata.MetricsInfo.NetworkFlowIo.Name, unit: "By", monotonic: true,
		description: "Bytes from source to destination as they cross the wire, link header and tags included.",
		value:       func(v flow.Volume) uint64 { return v.Bytes },
	}
	instrumentPackets = instrument{
		name: metadata.MetricsInfo.NetworkFlowPackets.Name, unit: "{packet}", monotonic: true,
		description: "Packets from source to destination as they cross the wire, after segmentation.",
		value:       func(v flow.Volume) uint64 { return v.Packets },
	}
	instrumentActive = instrument{
		name: metadata.MetricsInfo.NetworkFlowActive.Name, unit: "{flow}",
		description: "Conversations with traffic that have not ended.",
		value:       func(v flow.Volume) uint64 { return v.Packets }, // one for each flow
	}
)

// group is metrics that share their series.
type group struct {
	*aggregator
	instruments []instrument
}

// said returns the part of v that the metrics of g say.
func (g *group) said(v flow.Volume) (out flow.Volume) {
	for _, i := range g.instruments {
		switch i.name {
		case instrumentIO.name:
			out.Bytes = v.Bytes
		case instrumentPackets.name:
			out.Packets = v.Packets
		}
	}
	return out
}

// metrics turns slots into the points of the enabled metrics.
//
// One collection is in flight at most: the next is written when the outcome of each of its messages is known. A point that
// was taken, or will never be, is settled. What any other said is owed, and the next point of its series says it, and more:
// that takes no memory but the series.
type metrics struct {
	volumes     []*group // one, or two if io and packets have different attributes
	volumeWants attrSet  // of any of them
	active      *group   // nil: not wanted

	ports, activePorts serverPorts       // of volumes and of active
	ephemeralLow       uint16            // where low says nothing else
	low                map[uint16]uint16 // first port that clients are given, by number of the namespace; never written
	networks           *networks
	roles              roles // of the slot in progress

	flight   [][]part // by message, of the collection in flight
	inFlight bool
	offered  bool   // a point of this life of all series
	former   []part // last points of the life before, which are not settled yet
}

// newMetrics returns nil if every metric is off.
func newMetrics(c *Config, start int64, ephemeralLow uint16) *metrics {
	m := &metrics{ephemeralLow: ephemeralLow, networks: newNetworks(c.Networks)}
	conf := &c.MetricsBuilder.Metrics
	aggregate := func(wants attrSet) *aggregator {
		return newAggregator(wants, c.CardinalityLimit, int64(c.SeriesTimeout), start)
	}
	if conf.NetworkFlowIo.Enabled {
		m.addVolume(attrSetOf(conf.NetworkFlowIo.EnabledAttributes), instrumentIO, aggregate)
	}
	if conf.NetworkFlowPackets.Enabled {
		m.addVolume(attrSetOf(conf.NetworkFlowPackets.EnabledAttributes), instrumentPackets, aggregate)
	}
	for _, g := range m.volumes {
		g.delta = c.AggregationTemporality == temporalityDelta
		m.ports.use(g.aggregator)
	}
	if conf.NetworkFlowActive.Enabled { // what is there now is no difference to anything: always cumulative
		m.active = &group{aggregate(attrSetOf(conf.NetworkFlowActive.EnabledAttributes)), []instrument{instrumentActive}}
		m.activePorts.use(m.active.aggregator)
	}
	if len(m.groups()) == 0 {
		return nil
	}
	return m
}

func (m *metrics) addVolume(wants attrSet, i instrument, aggregate func(attrSet) *aggregator) {
	m.volumeWants |= wants
	for _, g := range m.volumes {
		if g.wants == wants {
			g.instruments = append(g.instruments, i)
			return
		}
	}
	m.volumes = append(m.volumes, &group{aggregate(wants), []instrument{i}})
}

func (m *metrics) groups() []*group {
	if m.active == nil {
		return m.volumes
	}
	return append(slices.Clip(m.volumes), m.active)
}

// needsTable reports whether a metric needs to know conversations.
func (m *metrics) needsTable() bool {
	return m.active != nil || m.volumeWants&needsRoles != 0
}

// addSlot adds s, which belongs to f; nil if that is not known. It returns the packets that server.port was left out of
// because all its values are in use.
func (m *metrics) addSlot(s *flow.Slot, f *flow.Flow, at place, now int64) (omitted uint64) {
	if !m.setRoles(f, m.volumeWants, &m.ports) {
		omitted = s.Packets
	}
	var n sites
	if m.volumeWants&needsNetworks != 0 {
		n = sites{m.networks.number(s.Src()), m.networks.number(s.Dst())}
	}
	for _, g := range m.volumes {
		k := slotKey(g.wants, s, at, &m.roles, n)
		g.add(&k, s.Volume, now)
	}
	return omitted
}

// addClass adds packets that were counted but not attributed to a flow. Those that are not IP or could not be parsed
// live in the ledger only.
func (m *metrics) addClass(c *kernel.Class, at place, now int64) {
	if c.Reason != flow.ReasonOverflow {
		return
	}
	for _, g := range m.volumes {
		k := classKey(g.wants, c, at)
		g.add(&k, c.Volume, now)
	}
}

// setRoles sets m.roles to those of f. A server's port is named once it has answered and if it is not one that the host
// gives to clients. It reports false if wants asks for the port and there was no room for it among ports.
func (m *metrics) setRoles(f *flow.Flow, wants attrSet, ports *serverPorts) bool {
	m.roles = roles{}
	if f == nil || f.Initiator() == flow.InitiatorUnknown {
		return true
	}
	k := f.Key()
	m.roles = roles{known: true, client: k.Src(), server: k.Dst()}
	if wants&hasServerPort == 0 || k.DstPort == 0 || k.DstPort >= m.firstEphemeral(k.NetNS) || !k.HasPorts() || !f.Answered() {
		return true
	}
	if !ports.admit(k.DstPort) {
		return false
	}
	m.roles.serverPort = k.DstPort
	return true
}

// firstEphemeral returns the first port that clients are given in a namespace.
func (m *metrics) firstEphemeral(space uint16) uint16 {
	if low, ok := m.low[space]; ok {
		return low
	}
	return m.ephemeralLow
}

// collect ends the collection at now and writes its points to w. Nothing may be in flight; this is, then. While points
// of the life before are owed, they come first: this life waits. Table may be nil if nothing needs it.
func (m *metrics) collect(w *metricsWriter, now int64, table *flow.Table, v *view) {
	w.networks = m.networks
	for _, p := range m.former {
		w.write(p)
	}
	if len(m.former) == 0 {
		m.offered = true
		m.countActive(table, v, now)
		for _, g := range m.groups() {
			all, round := g.collect(now)
			w.write(part{group: g, all: all, round: round, time: now})
		}
		m.ports.collected()
		m.activePorts.collected()
	}
	m.flight, m.inFlight = w.parts, true
}

// settle takes the outcome of each message in flight. It returns the volume that was refused for good.
func (m *metrics) settle(outcomes []outcome) (dropped flow.Volume) {
	for i, o := range outcomes {
		for _, p := range m.flight[i] {
			if !p.settledBy(o) {
				continue
			}
			v := p.settle()
			if o == outcomeDropped {
				dropped.Add(v)
			}
		}
	}
	m.flight, m.inFlight = nil, false
	owed := m.former[:0]
	for _, p := range m.former {
		if !p.settled() {
			owed = append(owed, p)
		}
	}
	m.former = owed
	return dropped
}

// restart ends the life of all series at end, in the time of a clock that was set back, and begins a new one at now. A
// life of which nothing was offered goes on, from an earlier beginning: so there are two lives at most.
func (m *metrics) restart(end, now int64, table *flow.Table, v *view) {
	if !m.offered {
		for _, g := range m.groups() {
			g.move(now)
		}
		return
	}
	m.offered = false
	m.end(end, now, table, v)
}

// end ends the life of all series at end, whose last points are owed from then on. The next begins at now; after a shutdown there
// is none.
func (m *metrics) end(end, now int64, table *flow.Table, v *view) {
	m.countActive(table, v, end)
	for _, g := range m.groups() {
		old, round := g.aggregator.restart(end, now)
		m.former = append(m.former, part{group: g, all: old, round: round, time: end, last: true})
	}
	m.ports.collected()
	m.activePorts.collected()
}

// untold returns the volume that was counted and not settled.
func (m *metrics) untold() (v flow.Volume) {
	for _, g := range m.volumes {
		for s := range g.all {
			v.Add(g.said(s.volume.Minus(s.settled)))
		}
	}
	for _, p := range m.former {
		for _, s := range p.all {
			v.Add(p.said(s.volume.Minus(s.settled)))
		}
	}
	return v
}

// countActive counts the conversations that are there now.
func (m *metrics) countActive(table *flow.Table, v *view, now int64) {
	if m.active == nil {
		return
	}
	m.active.zero()
	for f := range table.All() {
		m.setRoles(f, m.active.wants, &m.activePorts)
		key := f.Key()
		k := activeKey(m.active.wants, f, v.of(key.Place()), &m.roles)
		m.active.add(&k, flow.Volume{Packets: 1}, now)
	}
}

// series returns how many series each metric has.
func (m *metrics) series() map[string]int {
	n := map[string]int{}
	for _, g := range m.groups() {
		for _, i := range g.instruments {
			n[i.name] = g.len()
		}
	}
	return n
}
