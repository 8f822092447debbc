// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"slices"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

// outcome is what became of a message.
type outcome uint8

const (
	outcomeOwed    outcome = iota // not taken: its points are owed
	outcomeTaken                  // by the next consumer
	outcomeDropped                // refused for good
)

// part is series all of whose points are in one message: what becomes of the message becomes of them.
type part struct {
	*group
	all   []*series
	round uint64 // number of the collection
	time  int64  // ns since 1970 of the points
	last  bool   // of a life that a clock step or a shutdown ended: nothing says later what these points say
}

// settledBy reports whether o is the last word on p. Cumulative points that were refused for good are owed like others: the
// next say the same and more, and a series that was dropped before one was taken would be a loss that nobody counts.
func (p *part) settledBy(o outcome) bool {
	return o == outcomeTaken || o == outcomeDropped && (p.delta || p.last)
}

// settle notes that the points of p were taken, or will never be. It returns what they said that no taken point had said before.
func (p *part) settle() (v flow.Volume) {
	for _, s := range p.all {
		v.Add(s.offered.Minus(s.settled))
		s.settle(p.delta, p.round, p.time)
	}
	return p.said(v)
}

// settled forgets the series whose points were settled, and reports whether those are all.
func (p *part) settled() bool {
	p.all = slices.DeleteFunc(p.all, func(s *series) bool { return s.told >= p.round })
	return len(p.all) == 0
}

// maxPoints is how many points one message holds: about 1 MiB, a quarter of what gRPC accepts by default. Tests lower it.
var maxPoints = 4000

// metricsWriter writes points as pdata, starting a new message when one is full.
type metricsWriter struct {
	resource pcommon.Resource
	version  string
	networks *networks

	messages []pmetric.Metrics
	parts    [][]part            // of each message
	metrics  pmetric.MetricSlice // of the last message
	room     int                 // points that still fit into it
}

// write writes the points of all instruments of p. A series is in one message.
func (w *metricsWriter) write(p part) {
	for all := p.all; len(all) > 0; {
		if w.room < len(p.instruments) {
			w.begin()
		}
		n := min(len(all), w.room/len(p.instruments))
		p.all, all = all[:n], all[n:]
		w.room -= n * len(p.instruments)
		w.parts[len(w.parts)-1] = append(w.parts[len(w.parts)-1], p)
		for _, s := range p.all {
			s.offered = s.volume
		}
		for i := range p.instruments {
			w.sum(&p.instruments[i], &p)
		}
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
	w.parts = append(w.parts, nil)
	w.metrics = sm.Metrics()
	w.room = maxPoints
}

func (w *metricsWriter) sum(i *instrument, p *part) {
	metric := w.metrics.AppendEmpty()
	metric.SetName(i.name)
	metric.SetUnit(i.unit)
	metric.SetDescription(i.description)
	sum := metric.SetEmptySum()
	sum.SetIsMonotonic(i.monotonic)
	sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	if p.delta {
		sum.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	}
	sum.DataPoints().EnsureCapacity(len(p.all))
	for _, s := range p.all {
		dp := sum.DataPoints().AppendEmpty()
		dp.SetStartTimestamp(pcommon.Timestamp(s.start))
		dp.SetTimestamp(pcommon.Timestamp(p.time))
		dp.SetIntValue(int64(i.value(s.value(p.delta))))
		s.key.put(dp.Attributes(), w.networks)
	}
}

// finished returns the messages, with the names that feature gates give.
func (w *metricsWriter) finished() []pmetric.Metrics {
	for _, md := range w.messages {
		renameMetrics(md)
	}
	return w.messages
}
