// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"sync/atomic"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

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

// volumeMetrics are metrics that share their series.
type volumeMetrics struct {
	*aggregator
	instruments []instrument
}

// metrics turns slots into the points of the enabled metrics. Only delivered may be touched by another goroutine.
type metrics struct {
	volumes     []volumeMetrics // one, or two if io and packets have different attributes
	volumeWants attrSet         // of any of them
	active      *aggregator     // nil: not wanted

	ports        serverPorts
	ephemeralLow uint16
	roles        roles // of the slot in progress

	delivered atomic.Uint64 // number of the last collection that the next consumer took
}

// newMetrics returns nil if every metric is off.
func newMetrics(c *Config, start int64, ephemeralLow uint16) *metrics {
	m := &metrics{ephemeralLow: ephemeralLow}
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
	if conf.NetworkFlowActive.Enabled {
		m.active = aggregate(attrSetOf(conf.NetworkFlowActive.EnabledAttributes))
	}
	if len(m.volumes) == 0 && m.active == nil {
		return nil
	}
	return m
}

func (m *metrics) addVolume(wants attrSet, i instrument, aggregate func(attrSet) *aggregator) {
	m.volumeWants |= wants
	for n := range m.volumes {
		if m.volumes[n].wants == wants {
			m.volumes[n].instruments = append(m.volumes[n].instruments, i)
			return
		}
	}
	m.volumes = append(m.volumes, volumeMetrics{aggregate(wants), []instrument{i}})
}

// needsTable reports whether a metric needs to know conversations.
func (m *metrics) needsTable() bool {
	return m.active != nil || m.volumeWants&needsRoles != 0
}

// addSlot adds s, which belongs to f; nil if that is not known. It returns the packets that server.port was left out of
// because all its values are in use.
func (m *metrics) addSlot(s *flow.Slot, f *flow.Flow, name string, now int64) (omitted uint64) {
	if !m.setRoles(f, m.volumeWants) {
		omitted = s.Packets
	}
	for _, v := range m.volumes {
		k := slotKey(v.wants, s, name, &m.roles)
		v.add(&k, s.Volume, now, m.delivered.Load())
	}
	return omitted
}

// addClass adds packets that were counted but not attributed to a flow. Those that are not IP or could not be parsed
// live in the ledger only.
func (m *metrics) addClass(c *kernel.Class, name string, now int64) {
	if c.Reason != flow.ReasonOverflow {
		return
	}
	for _, v := range m.volumes {
		k := classKey(v.wants, c, name)
		v.add(&k, c.Volume, now, m.delivered.Load())
	}
}

// setRoles sets m.roles to those of f. A server's port is named once it has answered and if it is not one that the host
// gives to clients. It reports false if wants asks for the port and there was no room for it.
func (m *metrics) setRoles(f *flow.Flow, wants attrSet) bool {
	m.roles = roles{}
	if f == nil || f.Initiator() == flow.InitiatorUnknown {
		return true
	}
	k := f.Key()
	m.roles = roles{known: true, client: k.Src(), server: k.Dst()}
	if wants&hasServerPort == 0 || k.DstPort == 0 || k.DstPort >= m.ephemeralLow || !hasPorts(&k) || !f.Answered() {
		return true
	}
	if !m.ports.admit(k.DstPort) {
		return false
	}
	m.roles.serverPort = k.DstPort
	return true
}

// collect ends the collection at now and returns its points in messages of bounded size, and its number, to be stored in
// delivered. Table may be nil if nothing needs it.
func (m *metrics) collect(now int64, table *flow.Table, names map[uint32]string, res pcommon.Resource, version string) ([]pmetric.Metrics, uint64) {
	w := metricsWriter{resource: res, version: version, now: now}
	delivered := m.delivered.Load()
	var round uint64
	ports := map[uint16]struct{}{}
	for _, v := range m.volumes {
		var all []*series
		all, round = v.collect(now, delivered)
		for _, i := range v.instruments {
			w.write(&i, all)
		}
		keepPorts(ports, all)
	}
	if m.active != nil && table != nil {
		m.countActive(table, names, now, delivered)
		var all []*series
		all, round = m.active.collect(now, delivered)
		w.write(&instrumentActive, all)
		keepPorts(ports, all)
	}
	m.ports.release(ports)
	return w.messages, round
}

// restart begins a new life of all series at now, after a collection.
func (m *metrics) restart(now int64) {
	for _, v := range m.volumes {
		v.restart(now)
	}
	if m.active != nil {
		m.active.restart(now)
	}
}

func (m *metrics) countActive(table *flow.Table, names map[uint32]string, now int64, delivered uint64) {
	m.active.zero()
	for f := range table.All() {
		m.setRoles(f, m.active.wants)
		k := activeKey(m.active.wants, f, names[f.Key().IfIndex], &m.roles)
		m.active.add(&k, flow.Volume{Packets: 1}, now, delivered)
	}
}

func keepPorts(ports map[uint16]struct{}, all []*series) {
	for _, s := range all {
		if s.key.attrs&hasServerPort != 0 {
			ports[s.key.serverPort] = struct{}{}
		}
	}
}

// maxPoints is how many points one message holds: about 1 MiB, a quarter of what gRPC accepts by default.
const maxPoints = 4000

// metricsWriter writes points as pdata, starting a new message when one is full.
type metricsWriter struct {
	resource pcommon.Resource
	version  string
	now      int64

	messages []pmetric.Metrics
	metrics  pmetric.MetricSlice // of the last message
	room     int                 // points that still fit into it
}

func (w *metricsWriter) write(i *instrument, all []*series) {
	for len(all) > 0 {
		if w.room == 0 {
			w.begin()
		}
		n := min(len(all), w.room)
		w.room -= n
		w.sum(i, all[:n])
		all = all[n:]
	}
}

func (w *metricsWriter) begin() {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	w.resource.CopyTo(rm.Resource())
	rm.SetSchemaUrl(schemaURL)
	sm := rm.ScopeMetrics().AppendEmpty()
	sm.Scope().SetName(metadata.ScopeName)
	sm.Scope().SetVersion(w.version)
	w.messages = append(w.messages, md)
	w.metrics = sm.Metrics()
	w.room = maxPoints
}

func (w *metricsWriter) sum(i *instrument, all []*series) {
	metric := w.metrics.AppendEmpty()
	metric.SetName(i.name)
	metric.SetUnit(i.unit)
	metric.SetDescription(i.description)
	sum := metric.SetEmptySum()
	sum.SetIsMonotonic(i.monotonic)
	sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	sum.DataPoints().EnsureCapacity(len(all))
	for _, s := range all {
		dp := sum.DataPoints().AppendEmpty()
		dp.SetStartTimestamp(pcommon.Timestamp(s.start))
		dp.SetTimestamp(pcommon.Timestamp(w.now))
		dp.SetIntValue(int64(i.value(s.volume)))
		s.key.put(dp.Attributes())
	}
}

// series returns how many series each metric has.
func (m *metrics) series() map[string]int {
	n := map[string]int{}
	for _, v := range m.volumes {
		for _, i := range v.instruments {
			n[i.name] = v.len()
		}
	}
	if m.active != nil {
		n[instrumentActive.name] = m.active.len()
	}
	return n
}
