// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package otlpcheck

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// Checker is fed with everything one run of a receiver emits, in order.
type Checker struct {
	// Dropped is how long after the beginning of the last interval in which it counted something a delta series may begin
	// anew, leaving a gap: the receiver's series_timeout; 0: never.
	Dropped time.Duration

	names       *Names
	last        map[string]history                        // by identity
	temporality map[string]pmetric.AggregationTemporality // by metric
	errors      []error
}

// history is what the points of one identity said.
type history struct {
	last    pmetric.NumberDataPoint
	counted pcommon.Timestamp // start of the last point that was not 0
}

// maxErrors is how many faults are told; a systematic one would fill the screen.
const maxErrors = 20

// New returns a checker that knows no point yet.
func New(names *Names) *Checker {
	return &Checker{names: names, last: map[string]history{}, temporality: map[string]pmetric.AggregationTemporality{}}
}

// Err returns the faults found so far.
func (c *Checker) Err() error {
	if n := len(c.errors); n > maxErrors {
		return errors.Join(append(slices.Clone(c.errors[:maxErrors]), fmt.Errorf("and %d more", n-maxErrors))...)
	}
	return errors.Join(c.errors...)
}

func (c *Checker) fault(format string, args ...any) {
	c.errors = append(c.errors, fmt.Errorf(format, args...))
}

// Metrics checks one message.
func (c *Checker) Metrics(md pmetric.Metrics) {
	for _, rm := range md.ResourceMetrics().All() {
		c.resource(rm.Resource())
		for _, sm := range rm.ScopeMetrics().All() {
			c.scope(sm.Scope())
			for _, m := range sm.Metrics().All() {
				c.metric(m, strings.Join([]string{identity(rm.Resource().Attributes()), sm.Scope().Name(), m.Name()}, " "))
			}
		}
	}
}

// Logs checks one message.
func (c *Checker) Logs(ld plog.Logs) {
	for _, rl := range ld.ResourceLogs().All() {
		c.resource(rl.Resource())
		for _, sl := range rl.ScopeLogs().All() {
			c.scope(sl.Scope())
			for _, r := range sl.LogRecords().All() {
				c.record(r)
			}
		}
	}
}

func (c *Checker) resource(r pcommon.Resource) {
	c.attributes("resource", r.Attributes(), c.names.Resource)
}

func (c *Checker) scope(s pcommon.InstrumentationScope) {
	if s.Name() != c.names.ScopeName {
		c.fault("scope name is %q, not %q", s.Name(), c.names.ScopeName)
	}
	if s.Version() == "" {
		c.fault("scope has no version")
	}
}

func (c *Checker) attributes(of string, m pcommon.Map, allowed map[string]attribute) {
	for name, v := range m.All() {
		a, ok := allowed[name]
		if !ok {
			c.fault("%s: attribute %q is not in metadata.yaml", of, name)
			continue
		}
		if wrong := a.accepts(v); wrong != "" {
			c.fault("%s: attribute %q %s", of, name, wrong)
		}
	}
}

func (c *Checker) metric(m pmetric.Metric, series string) {
	known, ok := c.names.Metrics[m.Name()]
	switch {
	case !ok:
		c.fault("metric %q is not in metadata.yaml", m.Name())
		return
	case m.Unit() == "":
		c.fault("metric %q has no unit", m.Name())
	case m.Unit() != known.Unit:
		c.fault("metric %q has unit %q, not %q", m.Name(), m.Unit(), known.Unit)
	}
	if m.Type() != pmetric.MetricTypeSum || known.Sum == nil {
		c.fault("metric %q is a %s: only sums are known here", m.Name(), m.Type())
		return
	}
	if m.Sum().IsMonotonic() != known.Sum.Monotonic {
		c.fault("metric %q: monotonic is %v, not %v", m.Name(), m.Sum().IsMonotonic(), known.Sum.Monotonic)
	}
	c.temporalityOf(m)
	allowed := c.names.allowed(known.Attributes)
	allowed[overflowAttribute] = attribute{Type: "bool"}
	for _, p := range m.Sum().DataPoints().All() {
		c.attributes(m.Name(), p.Attributes(), allowed)
		c.point(m, p, series+" "+identity(p.Attributes()))
	}
}

// temporalityOf checks that every message says the same, and that no number of things there now is a difference.
func (c *Checker) temporalityOf(m pmetric.Metric) {
	now := m.Sum().AggregationTemporality()
	before, ok := c.temporality[m.Name()]
	c.temporality[m.Name()] = now
	switch {
	case now == pmetric.AggregationTemporalityUnspecified:
		c.fault("metric %q has no aggregation temporality", m.Name())
	case ok && now != before:
		c.fault("metric %q is %s, before it was %s", m.Name(), now, before)
	case now == pmetric.AggregationTemporalityDelta && !m.Sum().IsMonotonic():
		c.fault("metric %q is a delta of an up-down sum", m.Name())
	}
}

func (c *Checker) point(m pmetric.Metric, p pmetric.NumberDataPoint, series string) {
	if p.Timestamp() == 0 {
		c.fault("%s: no time", series)
	}
	if p.StartTimestamp() == 0 {
		c.fault("%s: no start time", series)
	}
	if p.StartTimestamp() > p.Timestamp() {
		c.fault("%s: start %d is after time %d", series, p.StartTimestamp(), p.Timestamp())
	}
	if m.Sum().IsMonotonic() && value(p) < 0 {
		c.fault("%s: a monotonic sum is %v", series, value(p))
	}
	before, ok := c.last[series]
	if ok {
		c.succession(m.Sum(), before, p, series)
	}
	now := history{pmetric.NewNumberDataPoint(), before.counted}
	p.CopyTo(now.last)
	if value(p) != 0 {
		now.counted = p.StartTimestamp()
	}
	c.last[series] = now
}

// succession compares two points of one identity, which follow each other.
func (c *Checker) succession(s pmetric.Sum, history history, p pmetric.NumberDataPoint, series string) {
	before := history.last
	switch {
	case p.Timestamp() == before.Timestamp():
		c.fault("%s: two points of one identity at %d", series, p.Timestamp())
	case p.Timestamp() < before.Timestamp():
		c.fault("%s: time went back from %d to %d", series, before.Timestamp(), p.Timestamp())
	case s.AggregationTemporality() == pmetric.AggregationTemporalityDelta:
		c.deltas(history, p, series)
	case p.StartTimestamp() == before.StartTimestamp():
		if s.IsMonotonic() && value(p) < value(before) {
			c.fault("%s: fell from %v to %v without a new start", series, value(before), value(p))
		}
	case p.StartTimestamp() < before.Timestamp():
		c.fault("%s: restarted at %d, before the last point at %d", series, p.StartTimestamp(), before.Timestamp())
	}
}

// deltas accepts only intervals without seam: the receiver says 0 for an interval in which nothing came, until it drops
// the series.
func (c *Checker) deltas(history history, p pmetric.NumberDataPoint, series string) {
	before := history.last
	switch {
	case p.StartTimestamp() < before.Timestamp():
		c.fault("%s: interval from %d overlaps the one until %d", series, p.StartTimestamp(), before.Timestamp())
	case p.StartTimestamp() > before.Timestamp() && !c.mayHaveGone(history, p):
		c.fault("%s: gap from %d to %d", series, before.Timestamp(), p.StartTimestamp())
	}
}

func (c *Checker) mayHaveGone(history history, p pmetric.NumberDataPoint) bool {
	return c.Dropped > 0 && p.StartTimestamp().AsTime().Sub(history.counted.AsTime()) >= c.Dropped
}

func (c *Checker) record(r plog.LogRecord) {
	name := r.EventName()
	known, ok := c.names.Events[name]
	switch {
	case name == "":
		c.fault("log record without event name: %s", r.Body().AsString())
		return
	case !ok:
		c.fault("event %q is not in metadata.yaml", name)
		return
	}
	if r.Timestamp() == 0 {
		c.fault("%s: no timestamp", name)
	}
	if r.ObservedTimestamp() == 0 {
		c.fault("%s: no observed timestamp", name)
	}
	if r.SeverityNumber() == plog.SeverityNumberUnspecified {
		c.fault("%s: no severity", name)
	}
	c.attributes(name, r.Attributes(), c.names.allowed(known.Attributes))
	if name == EventFlow {
		c.flow(r)
	}
}

func (c *Checker) flow(r plog.LogRecord) {
	start, ok1 := r.Attributes().Get("flow.start")
	end, ok2 := r.Attributes().Get("flow.end")
	if !ok1 || !ok2 {
		c.fault("%s: needs flow.start and flow.end", EventFlow)
		return
	}
	if end.Int() < start.Int() {
		c.fault("%s: ends at %d, before it starts at %d: %s", EventFlow, end.Int(), start.Int(), r.Body().AsString())
	}
	if int64(r.Timestamp()) != end.Int() {
		c.fault("%s: timestamp %d is not flow.end %d", EventFlow, r.Timestamp(), end.Int())
	}
	if first, ok := r.Attributes().Get("flow.connection.start"); ok && first.Int() > start.Int() {
		c.fault("%s: the connection starts at %d, after this record of it at %d", EventFlow, first.Int(), start.Int())
	}
}

// identity writes attributes so that equal sets are equal strings, whatever their order.
func identity(m pcommon.Map) string {
	values := map[string]string{}
	for name, v := range m.All() {
		values[name] = fmt.Sprintf("%s:%q", v.Type(), v.AsString())
	}
	var b strings.Builder
	b.WriteByte('{')
	for i, name := range slices.Sorted(maps.Keys(values)) {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s=%s", name, values[name])
	}
	b.WriteByte('}')
	return b.String()
}

func value(p pmetric.NumberDataPoint) float64 {
	if p.ValueType() == pmetric.NumberDataPointValueTypeDouble {
		return p.DoubleValue()
	}
	return float64(p.IntValue())
}
