// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/frames"
)

// manyFlows returns one slot for each of n conversations.
func manyFlows(n int) []flow.Slot {
	slots := make([]flow.Slot, n)
	for i := range slots {
		slots[i] = udp("10.0.0.1:1000", "10.0.0.2:53", flow.DirectionEgress, 3, 300, 1, 1)
		binary.BigEndian.PutUint32(slots[i].DstAddr[12:], uint32(i))
	}
	return slots
}

// BenchmarkDrain takes slots from a source that costs nothing: table, metrics and telemetry.
func BenchmarkDrain(b *testing.B) {
	for _, n := range []int{1, 1000, 10000, 100000} {
		b.Run(fmt.Sprintf("flows=%d", n), func(b *testing.B) {
			c := testConfig()
			c.Flows.MaxFlows = n
			h := newFakeHost("eth0")
			h.clock = func() time.Time { return epoch.Add(2 * time.Second) } // no flow is idle
			e := newEngine(c, nopSettings(), h)
			e.clock = h.clock
			e.nextMetrics, e.nextLogs = consumertest.NewNop(), consumertest.NewNop()
			require.NoError(b, e.load())
			require.NoError(b, e.attach())
			defer func() { require.NoError(b, e.release()) }()
			slots := manyFlows(n)
			taken := make([]flow.Slot, n)
			drain := func() {
				copy(taken, slots)
				h.slots = taken
				e.drainOnce()
			}
			drain() // fills the table
			b.ReportAllocs()
			for b.Loop() {
				drain()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/flow")
		})
	}
}

// BenchmarkFlowRecords writes a full message of flow records.
func BenchmarkFlowRecords(b *testing.B) {
	table := flow.NewTable(flow.Config{MaxFlows: maxRecords, IdleTimeout: time.Hour, ActiveTimeout: time.Hour})
	q := &batch{observed: 1, view: eth0}
	for _, s := range manyFlows(maxRecords) {
		table.Add(&s, nil)
	}
	table.Flush(flow.EndReasonForcedEnd, func(r *flow.Record) { q.flows = append(q.flows, *r) })
	w := logsWriter{resource: pcommon.NewResource(), version: "1.2.3"}
	b.ReportAllocs()
	for b.Loop() {
		w.write(q)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/maxRecords, "ns/record")
}

// BenchmarkPacketRecords decodes and writes full messages of packet records, in turns with records that say nothing but their event and
// times; beside them, what comes before pdata.
func BenchmarkPacketRecords(b *testing.B) {
	for _, of := range []struct {
		name  string
		batch *batch
	}{
		{"TCP_IPv4", packetsOfADay(false)},
		{"TCP_IPv6_VLAN", packetsOfADay(true)},
		{"carriers", everyCarrier(b)},
	} {
		for _, payload := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/payload=%t", of.name, payload), func(b *testing.B) {
				w := logsWriter{resource: pcommon.NewResource(), version: "1.2.3", packets: packetWriter{payload: payload}}
				of.batch.view = eth0
				inTurns(b, "record", len(of.batch.packets), "full", func() { w.write(of.batch) }, "empty", func() { writeEmpty(&w, len(of.batch.packets)) })
			})
		}
	}
	b.Run("decode", func(b *testing.B) {
		q := packetsOfADay(false)
		var w packetWriter
		b.ReportAllocs()
		for b.Loop() {
			begin := 0
			for i := range q.packets {
				s := q.packets[i].Sample
				s.Data = q.frames[begin:q.packets[i].end]
				begin = q.packets[i].end
				w.decoder.Decode(&s, &w.details)
				w.line = packet.AppendLine(w.line[:0], &s, &w.details)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(q.packets)), "ns/record")
	})
}

// writeEmpty writes records that say no more than any does.
func writeEmpty(w *logsWriter, n int) {
	records := w.write(&batch{}).ResourceLogs().At(0).ScopeLogs().At(0).LogRecords()
	records.EnsureCapacity(n)
	for range n {
		r := records.AppendEmpty()
		r.SetEventName(eventPacket)
		r.SetTimestamp(1)
		r.SetObservedTimestamp(1)
	}
}

// inTurns reports what two ways to make n of something take for each, and the one beside the other.
func inTurns(b *testing.B, unit string, n int, name string, subject func(), other string, control func()) {
	var subjects, controls []float64
	for range 21 {
		subjects = append(subjects, timeOf(subject)/float64(n))
		controls = append(controls, timeOf(control)/float64(n))
	}
	compare(b, unit, name, subjects, other, controls)
	b.ReportMetric(testing.AllocsPerRun(10, subject)/float64(n), name+"-allocs/"+unit)
	b.ReportMetric(testing.AllocsPerRun(10, control)/float64(n), other+"-allocs/"+unit)
}

// compare reports the medians of times that were taken in turns, that of their ratios, and the middle half of these.
func compare(b *testing.B, unit, name string, subjects []float64, other string, controls []float64) {
	b.ReportMetric(0, "ns/op") // of the whole comparison: says nothing
	ratios := make([]float64, len(subjects))
	for i := range ratios {
		ratios[i] = subjects[i] / controls[i]
	}
	for _, v := range [][]float64{subjects, controls, ratios} {
		slices.Sort(v)
	}
	b.ReportMetric(subjects[len(subjects)/2], name+"-ns/"+unit)
	b.ReportMetric(controls[len(controls)/2], other+"-ns/"+unit)
	b.ReportMetric(ratios[len(ratios)/2], name+"/"+other)
	b.ReportMetric(ratios[len(ratios)/4], "lower-quartile")
	b.ReportMetric(ratios[len(ratios)*3/4], "upper-quartile")
}

// everyCarrier is a message of every kind of frame.
func everyCarrier(b *testing.B) *batch {
	q := &batch{}
	for i := range maxRecords {
		s := carrier(b, frames.Carriers[i%len(frames.Carriers)].Name)
		q.addSample(&s, 1)
	}
	return q
}

// fullMetrics returns metrics with n series of the attributes that are on by default.
func fullMetrics(n int) *metrics { return metricsWith(n, fullKey(0).attrs) }

// metricsWith returns metrics with n series that tell these of the default attributes.
func metricsWith(n int, attrs attrSet) *metrics {
	c := testConfig()
	c.CardinalityLimit = n + 1
	m := newMetrics(c, 1, defaultEphemeralLow)
	m.active = nil
	for i := range n {
		k := fullKey(uint16(i))
		k.attrs = attrs
		m.volumes[0].add(&k, flow.Volume{Packets: 1, Bytes: 60}, 2)
	}
	return m
}

// fullKey returns the series of a port, with the attributes that are on by default.
func fullKey(port uint16) seriesKey {
	return seriesKey{
		attrs: hasInterface | hasDirection | hasTransport | hasType | hasServerPort, iface: "eth0", proto: protoTCP, serverPort: port,
	}
}

func collectOnce(m *metrics, now int64) []pmetric.Metrics {
	w := metricsWriter{resource: pcommon.NewResource(), version: "1.2.3"}
	m.collect(&w, now, nil, &view{})
	messages := w.finished()
	m.settle(make([]outcome, len(messages)))
	return messages
}

// collectNaively writes the same points as one does who has not measured: metric after metric, attribute after attribute,
// in the order of the map, ports as strings.
func collectNaively(m *metrics, now int64) []pmetric.Metrics {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	sm := rm.ScopeMetrics().AppendEmpty()
	for _, i := range m.volumes[0].instruments {
		metric := sm.Metrics().AppendEmpty()
		metric.SetName(i.name)
		metric.SetUnit(i.unit)
		metric.SetDescription(i.description)
		sum := metric.SetEmptySum()
		sum.SetIsMonotonic(i.monotonic)
		sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		for key, s := range m.volumes[0].byKey {
			dp := sum.DataPoints().AppendEmpty()
			dp.SetStartTimestamp(pcommon.Timestamp(s.start))
			dp.SetTimestamp(pcommon.Timestamp(now))
			dp.SetIntValue(int64(i.value(s.volume)))
			dp.Attributes().PutStr(attrInterfaceName, key.iface)
			dp.Attributes().PutStr(attrIODirection, directionName(key.direction))
			dp.Attributes().PutStr(attrTransport, transportNames[key.proto])
			dp.Attributes().PutStr(attrType, typeName(key.ipv6))
			dp.Attributes().PutStr(attrServerPort, strconv.Itoa(int(key.serverPort)))
		}
	}
	return []pmetric.Metrics{md}
}

// BenchmarkCollect writes the points of a full metric, in turns with a naive writer of the same points. Sorting, settling
// and cutting into messages are ours only.
func BenchmarkCollect(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprintf("series=%d", n), func(b *testing.B) {
			m := fullMetrics(n)
			require.Equal(b, 2*n, dataPoints(collectOnce(m, 3)))
			require.Equal(b, 2*n, dataPoints(collectNaively(m, 3)))
			inTurns(b, "point", 2*n, "ours", func() { collectOnce(m, 3) }, "naive", func() { collectNaively(m, 3) })
		})
	}
}

// A point costs what pdata's types ask for and no more: 3 allocations (the point, the wrapper of its integer, the array of its
// attributes), and one wrapper for the value of each attribute. What a collection costs beside its points is small beside 2,000 of them.
func TestAPointAllocatesWhatPdataAsksFor(t *testing.T) {
	const series, points = 1000, 2 * 1000
	var attrs attrSet
	for n, attr := range []attrSet{hasServerPort, hasInterface, hasDirection, hasTransport, hasType} {
		attrs |= attr
		m := metricsWith(series, attrs)
		require.Equal(t, points, dataPoints(collectOnce(m, 3)))
		perPoint := testing.AllocsPerRun(10, func() { collectOnce(m, 3) }) / points
		require.InDelta(t, 3+n+1, perPoint, 0.05, "%d attributes", n+1)
	}
}

func dataPoints(messages []pmetric.Metrics) (n int) {
	for _, md := range messages {
		n += md.DataPointCount()
	}
	return n
}

// timeOf returns the ns of one run, its garbage collections included: all of one turn of 20 ms, beginning with a clean heap.
func timeOf(f func()) float64 {
	runtime.GC()
	runs, began := 0, time.Now()
	for time.Since(began) < 20*time.Millisecond {
		f()
		runs++
	}
	runtime.GC()
	return float64(time.Since(began)) / float64(runs)
}

// BenchmarkEndedFlows takes the records of n flows that end in one drain, and forgets them: all of them, or all but the
// 30,000 that the limit lets through.
func BenchmarkEndedFlows(b *testing.B) {
	for _, limit := range []int{maxFlowRecords, 500} {
		for _, n := range []int{100, 10000, 100000} {
			b.Run(fmt.Sprintf("limit=%d/flows=%d", limit, n), func(b *testing.B) {
				c := testConfig()
				c.Flows.MaxFlows, c.Flows.MaxRecordsPerSecond = n, limit
				e := newEngine(c, nopSettings(), newFakeHost("eth0"))
				e.nextLogs = consumertest.NewNop()
				require.NoError(b, e.load())
				require.NoError(b, e.attach())
				defer func() { require.NoError(b, e.release()) }()
				var records []flow.Record
				for _, s := range manyFlows(n) {
					e.table.Add(&s, nil)
				}
				e.table.Flush(flow.EndReasonForcedEnd, func(r *flow.Record) { records = append(records, *r) })
				b.ReportAllocs()
				for b.Loop() {
					e.drain.time += int64(time.Minute)
					for i := range records {
						e.endFlow(&records[i])
					}
					e.sendFlows()
					for len(e.logs.queue) > 0 {
						<-e.logs.queue
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/record")
			})
		}
	}
}
