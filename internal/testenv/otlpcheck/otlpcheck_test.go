// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package otlpcheck

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

const announced = `
scope_name: scope
resource_attributes:
  host.name: {type: string}
attributes:
  network.io.direction: {type: string, enum: [receive, transmit]}
  network.interface.name: {type: string}
  event_source.address: {type: string, name_override: source.address}
  source.port: {type: int}
  flow.start: {type: int}
  flow.end: {type: int}
  flow.connection.start: {type: int}
  packet.sampling.reasons: {type: slice}
metrics:
  network.flow.packets:
    unit: "{packet}"
    sum: {monotonic: true}
    attributes: [network.interface.name, network.io.direction]
  network.flow.active:
    unit: "{flow}"
    sum: {monotonic: false}
    attributes: [network.interface.name]
events:
  network.flow:
    attributes: [event_source.address, source.port, network.io.direction, flow.start, flow.end, flow.connection.start]
  network.packet:
    attributes: [packet.sampling.reasons]
`

func names(t *testing.T) *Names {
	t.Helper()
	n, err := ReadNames(strings.NewReader(announced))
	require.NoError(t, err)
	return n
}

// point is one point of a metric and what surrounds it.
type point struct {
	scope, version  string
	name, unit      string
	monotonic       bool
	temporality     pmetric.AggregationTemporality
	resource, attrs map[string]any
	start, time     pcommon.Timestamp
	value           int64
}

func packets(start, time pcommon.Timestamp, value int64) point {
	return point{
		scope: "scope", version: "1.2.3", name: "network.flow.packets", unit: "{packet}", monotonic: true,
		temporality: pmetric.AggregationTemporalityCumulative,
		resource:    map[string]any{"host.name": "h"},
		attrs:       map[string]any{"network.io.direction": "receive", "network.interface.name": "eth0"},
		start:       start, time: time, value: value,
	}
}

func active(time pcommon.Timestamp, value int64) point {
	p := packets(1, time, value)
	p.name, p.unit, p.monotonic = "network.flow.active", "{flow}", false
	p.attrs = map[string]any{"network.interface.name": "eth0"}
	return p
}

func delta(start, time pcommon.Timestamp, value int64) point {
	p := packets(start, time, value)
	p.temporality = pmetric.AggregationTemporalityDelta
	return p
}

func (p point) with(change func(*point)) point {
	change(&p)
	return p
}

func (p point) message(t *testing.T) pmetric.Metrics {
	t.Helper()
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	require.NoError(t, rm.Resource().Attributes().FromRaw(p.resource))
	sm := rm.ScopeMetrics().AppendEmpty()
	sm.Scope().SetName(p.scope)
	sm.Scope().SetVersion(p.version)
	m := sm.Metrics().AppendEmpty()
	m.SetName(p.name)
	m.SetUnit(p.unit)
	sum := m.SetEmptySum()
	sum.SetIsMonotonic(p.monotonic)
	sum.SetAggregationTemporality(p.temporality)
	dp := sum.DataPoints().AppendEmpty()
	dp.SetStartTimestamp(p.start)
	dp.SetTimestamp(p.time)
	dp.SetIntValue(p.value)
	require.NoError(t, dp.Attributes().FromRaw(p.attrs))
	return md
}

func TestMetricRules(t *testing.T) {
	other := map[string]any{"network.io.direction": "transmit", "network.interface.name": "eth0"}
	for _, c := range []struct {
		name   string
		points []point
		want   string // part of the fault; "": accepted
	}{
		{"a growing cumulative", []point{packets(1, 10, 5), packets(1, 20, 5), packets(1, 30, 6)}, ""},
		{"a falling cumulative", []point{packets(1, 10, 5), packets(1, 20, 4)}, "fell from 5 to 4"},
		{"a restart", []point{packets(1, 10, 5), packets(12, 20, 1)}, ""},
		{"a restart at the last point", []point{packets(1, 10, 5), packets(10, 20, 1)}, ""},
		{"a restart in the past", []point{packets(1, 10, 5), packets(9, 20, 1)}, "restarted at 9"},
		{"an up-down sum may fall", []point{active(10, 5), active(20, 4)}, ""},
		{"two series at one time", []point{packets(1, 10, 5), packets(1, 10, 5).with(func(p *point) { p.attrs = other })}, ""},
		{"two hosts at one time", []point{packets(1, 10, 5), packets(1, 10, 5).with(func(p *point) { p.resource = nil })}, ""},
		{"two points of one identity", []point{packets(1, 10, 5), packets(1, 10, 5)}, "two points of one identity"},
		{"two points that differ in start only", []point{packets(1, 10, 5), packets(2, 10, 5)}, "two points of one identity"},
		{"time goes back", []point{packets(1, 10, 5), packets(1, 9, 5)}, "time went back"},
		{"deltas without seam", []point{delta(1, 10, 5), delta(10, 20, 1)}, ""},
		{"overlapping deltas", []point{delta(1, 10, 5), delta(9, 20, 1)}, "overlaps"},
		{"a gap between deltas", []point{delta(1, 10, 5), delta(11, 20, 1)}, "gap from 10 to 11"},
		{"a gap after a timeout", []point{delta(1, 10, 5), delta(10, 20, 0), delta(51, 60, 1)}, ""},
		{"a gap before a timeout", []point{delta(1, 10, 5), delta(10, 20, 0), delta(50, 60, 1)}, "gap from 20 to 50"},
		{"an overlap after a timeout", []point{delta(1, 10, 5), delta(10, 100, 0), delta(99, 200, 1)}, "overlaps"},
		{"deltas, then a sum", []point{delta(1, 10, 5), packets(10, 20, 6)}, "is Cumulative, before it was Delta"},
		{"mixed over series", []point{packets(1, 10, 5), delta(1, 10, 5).with(func(p *point) { p.attrs = other })}, "is Delta, before it was Cumulative"},
		{"an up-down delta", []point{active(10, 5).with(func(p *point) { p.temporality = pmetric.AggregationTemporalityDelta })}, "is a delta of an up-down sum"},
		{"no temporality", []point{packets(1, 10, 5), packets(1, 20, 5).with(func(p *point) { p.temporality = 0 })}, "has no aggregation temporality"},
		{"start is time", []point{packets(10, 10, 0)}, ""},
		{"start after time", []point{packets(11, 10, 0)}, "start 11 is after time 10"},
		{"no start", []point{packets(0, 10, 0)}, "no start time"},
		{"no time", []point{packets(0, 0, 0)}, "no time"},
		{"a negative count", []point{packets(1, 10, -1)}, "a monotonic sum is -1"},
		{"no unit", []point{packets(1, 10, 0).with(func(p *point) { p.unit = "" })}, "has no unit"},
		{"another unit", []point{packets(1, 10, 0).with(func(p *point) { p.unit = "By" })}, `has unit "By"`},
		{"monotonic or not", []point{packets(1, 10, 0).with(func(p *point) { p.monotonic = false })}, "monotonic is false"},
		{"an unknown metric", []point{packets(1, 10, 0).with(func(p *point) { p.name = "x" })}, `metric "x" is not in metadata.yaml`},
		{"an unknown attribute", []point{packets(1, 10, 0).with(func(p *point) { p.attrs = map[string]any{"x": 1} })}, `attribute "x" is not`},
		{"an attribute of another metric", []point{active(10, 0).with(func(p *point) { p.attrs = other })}, `attribute "network.io.direction" is not`},
		{"an unknown value", []point{packets(1, 10, 0).with(func(p *point) { p.attrs = map[string]any{"network.io.direction": "up"} })}, `has the value "up"`},
		{"a value of another type", []point{packets(1, 10, 0).with(func(p *point) { p.attrs = map[string]any{"network.interface.name": 1} })}, "is of type Int"},
		{"the overflow point", []point{packets(1, 10, 0).with(func(p *point) { p.attrs = map[string]any{"otel.metric.overflow": true} })}, ""},
		{"an unknown resource attribute", []point{packets(1, 10, 0).with(func(p *point) { p.resource = map[string]any{"x": "y"} })}, `attribute "x" is not`},
		{"another scope", []point{packets(1, 10, 0).with(func(p *point) { p.scope = "" })}, `scope name is ""`},
		{"no version", []point{packets(1, 10, 0).with(func(p *point) { p.version = "" })}, "scope has no version"},
	} {
		checker := New(names(t))
		checker.Dropped = 50 // ns
		for _, p := range c.points {
			checker.Metrics(p.message(t))
		}
		judge(t, c.name, c.want, checker.Err())
	}
	gauge := pmetric.NewMetrics()
	m := gauge.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	m.SetName("network.flow.packets")
	m.SetEmptyGauge()
	checker := New(names(t))
	checker.Metrics(gauge)
	judge(t, "a gauge", "is a Gauge", checker.Err())
}

func judge(t *testing.T, name, want string, err error) {
	t.Helper()
	if want == "" {
		assert.NoError(t, err, name)
	} else {
		assert.ErrorContains(t, err, want, name)
	}
}

// flowRecord returns a message with one good flow record, changed by change.
func flowRecord(t *testing.T, change func(plog.LogRecord)) plog.Logs {
	t.Helper()
	ld := plog.NewLogs()
	sl := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty()
	sl.Scope().SetName("scope")
	sl.Scope().SetVersion("1.2.3")
	r := sl.LogRecords().AppendEmpty()
	r.SetEventName(EventFlow)
	r.SetTimestamp(20)
	r.SetObservedTimestamp(30)
	r.SetSeverityNumber(plog.SeverityNumberInfo)
	require.NoError(t, r.Attributes().FromRaw(map[string]any{
		"flow.connection.start": 5, "flow.start": 10, "flow.end": 20, "source.address": "192.0.2.1", "source.port": 7,
	}))
	change(r)
	return ld
}

func TestLogRules(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(plog.LogRecord)
		want   string
	}{
		{"a good record", func(plog.LogRecord) {}, ""},
		{"a flow of one packet", func(r plog.LogRecord) { r.Attributes().PutInt("flow.start", 20) }, ""},
		{"an end before its start", func(r plog.LogRecord) { r.Attributes().PutInt("flow.start", 21) }, "ends at 20, before it starts at 21"},
		{"no end", func(r plog.LogRecord) { r.Attributes().Remove("flow.end") }, "needs flow.start and flow.end"},
		{"a timestamp other than flow.end", func(r plog.LogRecord) { r.SetTimestamp(19) }, "timestamp 19 is not flow.end 20"},
		{"a connection younger than its record", func(r plog.LogRecord) { r.Attributes().PutInt("flow.connection.start", 11) }, "the connection starts at 11"},
		{"no timestamp", func(r plog.LogRecord) { r.SetTimestamp(0) }, "no timestamp"},
		{"no observed timestamp", func(r plog.LogRecord) { r.SetObservedTimestamp(0) }, "no observed timestamp"},
		{"no event name", func(r plog.LogRecord) { r.SetEventName("") }, "without event name"},
		{"an unknown event", func(r plog.LogRecord) { r.SetEventName("x") }, `event "x" is not`},
		{"no severity", func(r plog.LogRecord) { r.SetSeverityNumber(0) }, "no severity"},
		{"an unknown attribute", func(r plog.LogRecord) { r.Attributes().PutInt("x", 1) }, `attribute "x" is not`},
		{"the attribute of another event", func(r plog.LogRecord) { r.Attributes().PutEmptySlice("packet.sampling.reasons") }, "is not in metadata.yaml"},
		{"a name that is overridden", func(r plog.LogRecord) { r.Attributes().PutStr("event_source.address", "a") }, "is not in metadata.yaml"},
		{"a value of another type", func(r plog.LogRecord) { r.Attributes().PutStr("source.port", "7") }, "is of type Str"},
	} {
		checker := New(names(t))
		checker.Logs(flowRecord(t, c.change))
		judge(t, c.name, c.want, checker.Err())
	}
}

func TestOnlyTheFirstFaultsAreTold(t *testing.T) {
	checker := New(names(t))
	for range 100 {
		checker.Metrics(packets(0, 10, 0).message(t))
	}
	assert.ErrorContains(t, checker.Err(), "and 179 more")
}

func TestTheProjectsOwnNames(t *testing.T) {
	n, err := OpenNames("../../../metadata.yaml")
	require.NoError(t, err)
	assert.Contains(t, n.Metrics, "network.flow.io")
	assert.Contains(t, n.allowed(n.Events[EventFlow].Attributes), "source.address")
}

func TestReadAndAddUp(t *testing.T) {
	transmit := func(p *point) {
		p.attrs = map[string]any{"network.io.direction": "transmit", "network.interface.name": "eth0"}
	}
	var file bytes.Buffer
	for _, md := range []pmetric.Metrics{
		packets(1, 10, 5).message(t), packets(1, 20, 7).message(t), packets(21, 30, 2).message(t), // restarted: 7 + 2
		packets(1, 30, 100).with(transmit).message(t),
	} {
		b, err := (&pmetric.JSONMarshaler{}).MarshalMetrics(md)
		require.NoError(t, err)
		file.Write(append(b, '\n'))
	}
	b, err := (&plog.JSONMarshaler{}).MarshalLogs(flowRecord(t, func(plog.LogRecord) {}))
	require.NoError(t, err)
	file.Write(append(b, '\n'))
	whole := file.Len()
	file.WriteString(`{"resourceLogs":[{`) // still being written

	var out Output
	size, err := out.Read(&file)
	require.NoError(t, err)
	assert.EqualValues(t, whole, size)
	require.NoError(t, out.Check(names(t)))
	assert.EqualValues(t, 9, out.Total("network.flow.packets", At("eth0", "receive")))
	assert.EqualValues(t, 109, out.Total("network.flow.packets", nil))
	assert.Zero(t, out.Total("network.flow.packets", Has(map[string]any{"network.interface.name": nil})))
	flows := out.Flows()
	require.Len(t, flows, 1)
	assert.Equal(t, netip.MustParseAddrPort("192.0.2.1:7"), flows[0].Source)
	assert.False(t, flows[0].Client.IsValid())
	assert.Equal(t, time.Unix(0, 20), flows[0].End)
	assert.Empty(t, out.Packets())

	_, err = out.Read(strings.NewReader("what\n"))
	assert.ErrorContains(t, err, "line 1: neither metrics nor logs: what")
}
