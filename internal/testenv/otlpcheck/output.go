// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package otlpcheck

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// The names of the log events.
const (
	EventFlow   = "network.flow"
	EventPacket = "network.packet"
)

// Output is what one run of a receiver emitted, in order.
type Output struct {
	Metrics []pmetric.Metrics
	Logs    []plog.Logs
}

// Read adds the JSON lines of the file exporter that are in r, and says how many bytes they are: a last line that is not
// whole yet is left for the next time.
func (o *Output) Read(r io.Reader) (size int64, err error) {
	lines := bufio.NewReader(r)
	for number := 1; ; number++ {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return size, nil
		}
		if err == nil {
			err = o.add(line)
		}
		if err != nil {
			return size, fmt.Errorf("read OTLP JSON line %d: %w", number, err)
		}
		size += int64(len(line))
	}
}

func (o *Output) add(line []byte) error {
	switch {
	case bytes.HasPrefix(line, []byte(`{"resourceMetrics"`)):
		md, err := (&pmetric.JSONUnmarshaler{}).UnmarshalMetrics(line)
		if err != nil {
			return err
		}
		o.Metrics = append(o.Metrics, md)
	case bytes.HasPrefix(line, []byte(`{"resourceLogs"`)):
		ld, err := (&plog.JSONUnmarshaler{}).UnmarshalLogs(line)
		if err != nil {
			return err
		}
		o.Logs = append(o.Logs, ld)
	default:
		return fmt.Errorf("neither metrics nor logs: %.40s", line)
	}
	return nil
}

// Check feeds all of it to a new checker.
func (o *Output) Check(names *Names) error {
	c := New(names)
	o.Feed(c)
	return c.Err()
}

// Feed feeds all of it to c.
func (o *Output) Feed(c *Checker) {
	for _, md := range o.Metrics {
		c.Metrics(md)
	}
	for _, ld := range o.Logs {
		c.Logs(ld)
	}
}

// Total adds up a sum over all series whose attributes match: of a cumulative series the last point of each start time, of a
// delta series every point. Match may be nil.
func (o *Output) Total(name string, match func(pcommon.Map) bool) (total int64) {
	last := map[string]int64{}
	o.eachSum(name, func(resource pcommon.Map, s pmetric.Sum) {
		for _, p := range s.DataPoints().All() {
			switch {
			case match != nil && !match(p.Attributes()):
			case s.AggregationTemporality() == pmetric.AggregationTemporalityDelta:
				total += p.IntValue()
			default:
				last[fmt.Sprint(p.StartTimestamp(), identity(resource), identity(p.Attributes()))] = p.IntValue()
			}
		}
	})
	for _, v := range last {
		total += v
	}
	return total
}

func (o *Output) eachSum(name string, visit func(resource pcommon.Map, s pmetric.Sum)) {
	for _, md := range o.Metrics {
		for _, rm := range md.ResourceMetrics().All() {
			for _, sm := range rm.ScopeMetrics().All() {
				for _, m := range sm.Metrics().All() {
					if m.Name() == name && m.Type() == pmetric.MetricTypeSum {
						visit(rm.Resource().Attributes(), m.Sum())
					}
				}
			}
		}
	}
}

// Has matches the attributes that have all of these values; a value of nil says that the attribute must be absent.
func Has(want map[string]any) func(pcommon.Map) bool {
	return func(m pcommon.Map) bool {
		for name, w := range want {
			v, ok := m.Get(name)
			if ok != (w != nil) || ok && v.AsString() != fmt.Sprint(w) {
				return false
			}
		}
		return true
	}
}

// At matches what one interface counted in one direction, "receive" or "transmit".
func At(iface, direction string) func(pcommon.Map) bool {
	return Has(map[string]any{"network.interface.name": iface, "network.io.direction": direction})
}

// Flow is one record of EventFlow.
type Flow struct {
	Interface, Direction   string
	ReverseInterface       string // "": Interface, if ReverseDirection is "", too
	ReverseDirection       string // "": not Direction
	Transport, Type        string
	Source, Destination    netip.AddrPort // port 0: none
	Client, Server         netip.AddrPort // not valid: unknown
	Start, End, Connection time.Time
	EndReason, Method      string
	Bytes, Packets         int64
	ReverseBytes           int64
	ReversePackets         int64
	Flags, ReverseFlags    int64
	Observed               time.Time
	Attributes             map[string]any // all of them
}

// Flows lists the flow records in order.
func (o *Output) Flows() (flows []Flow) {
	for r := range o.records(EventFlow) {
		a := attributesOf(r)
		flows = append(flows, Flow{
			Interface: a.str("network.interface.name"), Direction: a.str("network.io.direction"),
			ReverseInterface: a.str("flow.reverse.interface.name"), ReverseDirection: a.str("flow.reverse.io.direction"),
			Transport: a.str("network.transport"), Type: a.str("network.type"),
			Source: a.endpoint("source"), Destination: a.endpoint("destination"),
			Client: a.endpoint("client"), Server: a.endpoint("server"),
			Start: a.time("flow.start"), End: a.time("flow.end"), Connection: a.time("flow.connection.start"),
			EndReason: a.str("flow.end_reason"), Method: a.str("flow.initiator.method"),
			Bytes: a.int("flow.io.bytes"), Packets: a.int("flow.io.packets"),
			ReverseBytes: a.int("flow.reverse.io.bytes"), ReversePackets: a.int("flow.reverse.io.packets"),
			Flags: a.int("flow.tcp_flags"), ReverseFlags: a.int("flow.reverse.tcp_flags"),
			Observed: r.ObservedTimestamp().AsTime(), Attributes: r.Attributes().AsRaw(),
		})
	}
	return flows
}

// Packet is one record of EventPacket.
type Packet struct {
	Interface, Direction  string
	Transport, Type       string
	Source, Destination   netip.AddrPort
	Time, Observed        time.Time
	Length, Captured      int64
	OneIn, Pool, Segments int64
	Reasons               []any
	Body                  string
	TraceID, SpanID       string         // hexadecimal; "" if there is none
	Flags                 uint32         // of the trace
	Attributes            map[string]any // all of them
}

// Packets lists the samples in order.
func (o *Output) Packets() (packets []Packet) {
	for r := range o.records(EventPacket) {
		a := attributesOf(r)
		packets = append(packets, Packet{
			Interface: a.str("network.interface.name"), Direction: a.str("network.io.direction"),
			Transport: a.str("network.transport"), Type: a.str("network.type"),
			Source: a.endpoint("source"), Destination: a.endpoint("destination"),
			Time: r.Timestamp().AsTime(), Observed: r.ObservedTimestamp().AsTime(),
			Length: a.int("packet.length"), Captured: a.int("packet.captured_length"),
			OneIn: a.int("packet.sampling.one_in"), Pool: a.int("packet.sampling.pool"), Segments: a.int("packet.segments"),
			Reasons: a.slice("packet.sampling.reasons"),
			Body:    r.Body().Str(), Attributes: r.Attributes().AsRaw(),
			TraceID: r.TraceID().String(), SpanID: r.SpanID().String(), Flags: uint32(r.Flags()),
		})
	}
	return packets
}

func (o *Output) records(event string) iter.Seq[plog.LogRecord] {
	return func(yield func(plog.LogRecord) bool) {
		for _, ld := range o.Logs {
			for _, rl := range ld.ResourceLogs().All() {
				for _, sl := range rl.ScopeLogs().All() {
					for _, r := range sl.LogRecords().All() {
						if r.EventName() == event && !yield(r) {
							return
						}
					}
				}
			}
		}
	}
}

// attributeReader reads attributes; what is absent is zero.
type attributeReader struct{ pcommon.Map }

func attributesOf(r plog.LogRecord) attributeReader { return attributeReader{r.Attributes()} }

func (a attributeReader) str(name string) string {
	if v, ok := a.Get(name); ok {
		return v.AsString()
	}
	return ""
}

func (a attributeReader) int(name string) int64 {
	if v, ok := a.Get(name); ok {
		return v.Int()
	}
	return 0
}

func (a attributeReader) slice(name string) []any {
	if v, ok := a.Get(name); ok && v.Type() == pcommon.ValueTypeSlice {
		return v.Slice().AsRaw()
	}
	return nil
}

func (a attributeReader) time(name string) time.Time { return time.Unix(0, a.int(name)) }

func (a attributeReader) endpoint(side string) netip.AddrPort {
	address, err := netip.ParseAddr(a.str(side + ".address"))
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(address, uint16(a.int(side+".port")))
}
