// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"
	"unsafe"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	conventions "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/ebpfpackets/ebpfpackets/internal/app"
	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

// schemaURL names the version of the names of tier 1, those of the semantic conventions (docs/data.md).
const schemaURL = conventions.SchemaURL

// maxRecords is how many log records one message holds: 2.2 to 2.7 MB of OTLP protobuf (bench: RecordSize). Receivers of OTLP by gRPC take 4 MiB
// unless told otherwise.
const maxRecords = 2000

// batch is what becomes one message of log records. It holds values and no pdata: it is small, and a consumer that
// refuses a message may have changed it.
type batch struct {
	observed int64 // ns since 1970 when its flows, or the first of its packets, were taken from the kernel
	view     *view // of places; shared
	flows    []flow.Record
	labels   []app.Label // of flows, if messages are read
	packets  []sampled
	frames   []byte // of packets, one behind the other
	messages int    // of packets
}

// bytes returns what b takes in memory.
func (b *batch) bytes() int64 {
	return int64(cap(b.flows))*recordBytes + int64(len(b.labels))*labelBytes +
		int64(cap(b.packets))*sampledBytes + int64(cap(b.frames)) + int64(b.messages)*messageBytes
}

// What each of them takes in memory.
const (
	recordBytes  = int64(unsafe.Sizeof(flow.Record{}))
	labelBytes   = int64(unsafe.Sizeof(app.Label{}))
	sampledBytes = int64(unsafe.Sizeof(sampled{}))
)

// logsWriter writes batches as pdata.
type logsWriter struct {
	resource pcommon.Resource
	version  string
	networks *networks // nil: flow records name none
	packets  packetWriter
}

func (w *logsWriter) write(b *batch) plog.Logs {
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	w.resource.CopyTo(rl.Resource())
	rl.SetSchemaUrl(schemaURL)
	sl := rl.ScopeLogs().AppendEmpty()
	sl.Scope().SetName(metadata.ScopeName)
	sl.Scope().SetVersion(w.version)
	records := sl.LogRecords()
	records.EnsureCapacity(len(b.flows) + len(b.packets))
	for i := range b.flows {
		r := records.AppendEmpty()
		r.SetObservedTimestamp(pcommon.Timestamp(b.observed))
		var label app.Label
		if b.labels != nil {
			label = b.labels[i]
		}
		w.writeFlow(r, &b.flows[i], &label, b.view)
	}
	w.packets.writeAll(records, b)
	renameLogs(ld)
	return ld
}

func (w *logsWriter) writeFlow(r plog.LogRecord, f *flow.Record, label *app.Label, v *view) {
	at, back := v.of(f.Key.Place()), ""
	if f.Elsewhere {
		back = v.of(flow.Place{NetNS: uint32(f.Key.NetNS), IfIndex: f.ReverseHook.IfIndex}).iface
	}
	r.SetEventName(eventFlow)
	r.SetSeverityNumber(plog.SeverityNumberInfo)
	r.SetTimestamp(pcommon.Timestamp(f.End))
	r.Body().SetStr(flowLine(f, label, at, back))
	m := r.Attributes()
	m.EnsureCapacity(40)
	putPlace(m, at, f.Direction)
	source, destination := putTuple(m, &f.Key)
	w.putNetworks(m, &f.Key)
	if f.Initiator != flow.InitiatorUnknown {
		m.PutStr(attrClientAddress, source)
		m.PutStr(attrServerAddress, destination)
		if f.Key.HasPorts() {
			m.PutInt(attrClientPort, int64(f.Key.SrcPort))
			m.PutInt(attrServerPort, int64(f.Key.DstPort))
		}
	}
	if id, ok := f.Key.CommunityID(); ok {
		m.PutStr(attrFlowCommunityID, id)
	}
	switch {
	case f.Key.HasICMP():
		typ, code := f.Key.ICMP()
		m.PutInt(attrFlowICMPType, int64(typ))
		m.PutInt(attrFlowICMPCode, int64(code))
	case f.Key.LaterFragment:
		m.PutBool(attrFlowLaterFragments, true)
	}
	m.PutInt(attrFlowStart, f.Start)
	m.PutInt(attrFlowEnd, f.End)
	m.PutInt(attrFlowConnectionStart, f.ConnectionStart)
	m.PutStr(attrFlowEndReason, f.EndReason.String())
	m.PutStr(attrFlowInitiatorMethod, f.Initiator.String())
	m.PutInt(attrFlowIOBytes, int64(f.Forward.Bytes))
	m.PutInt(attrFlowIOPackets, int64(f.Forward.Packets))
	m.PutInt(attrFlowReverseBytes, int64(f.Reverse.Bytes))
	m.PutInt(attrFlowReversePackets, int64(f.Reverse.Packets))
	if f.Key.Proto == protoTCP && !f.Key.LaterFragment {
		m.PutInt(attrFlowTCPFlags, int64(f.Forward.TCPFlags))
		m.PutInt(attrFlowReverseTCPFlags, int64(f.Reverse.TCPFlags))
	}
	putEthernet(m, &f.Forward)
	putLabel(m, label)
	putReverseHook(m, f, back)
	putReverseTunnel(m, f)
	forwardFacts.put(m, &f.Forward)
	reverseFacts.put(m, &f.Reverse)
}

// putLabel writes what messages said of a flow.
func putLabel(m pcommon.Map, l *app.Label) {
	putStr(m, attrProtocolName, l.Protocol)
	putStr(m, attrProtocolVersion, l.Version)
	putStr(m, attrFlowServerName, l.ServerName)
}

// putNetworks writes the names that the configuration has for the networks of the two addresses.
func (w *logsWriter) putNetworks(m pcommon.Map, k *flow.Key) {
	if w.networks == nil {
		return
	}
	if name, ok := w.networks.name(k.Src()); ok {
		m.PutStr(attrSourceCIDR, name)
	}
	if name, ok := w.networks.name(k.Dst()); ok {
		m.PutStr(attrDestinationCIDR, name)
	}
}

// writtenVolume reads the traffic that writeFlow wrote. Who took it out of the record leaves none.
func writtenVolume(m pcommon.Map) flow.Volume {
	sum := func(names ...string) (n uint64) {
		for _, name := range names {
			if v, ok := m.Get(nameOf(kindAttribute, name)); ok {
				n += uint64(v.Int())
			}
		}
		return n
	}
	return flow.Volume{
		Packets: sum(attrFlowIOPackets, attrFlowReversePackets),
		Bytes:   sum(attrFlowIOBytes, attrFlowReverseBytes),
	}
}

func putPlace(m pcommon.Map, at place, d flow.Direction) {
	putStr(m, attrNamespaceName, at.namespace)
	putStr(m, attrInterfaceName, at.iface)
	m.PutStr(attrIODirection, directionName(d))
}

// putTuple writes what names a flow or a packet. It returns the addresses as they were written.
func putTuple(m pcommon.Map, k *flow.Key) (source, destination string) {
	source, destination = k.Src().String(), k.Dst().String()
	m.PutStr(attrTransport, transportNames[k.Proto])
	m.PutStr(attrType, typeName(k.IPv6))
	m.PutStr(attrSourceAddress, source)
	m.PutStr(attrDestinationAddress, destination)
	if k.HasPorts() {
		m.PutInt(attrSourcePort, int64(k.SrcPort))
		m.PutInt(attrDestinationPort, int64(k.DstPort))
	}
	if k.Tagged {
		m.PutInt(attrVLANID, int64(k.VLAN))
	}
	putTunnel(m, &k.Tunnel)
	return source, destination
}

// flowLine says a flow in one line, for people: who talked to whom and where, of what if that is known, how much each way, for how
// long, and why it is told now. Back is where the way back was counted, if that is another interface.
func flowLine(f *flow.Record, label *app.Label, at place, back string) string {
	from, to := "", ""
	if f.Initiator != flow.InitiatorUnknown {
		from, to = "client ", "server "
	}
	b := appendTuple(make([]byte, 0, 192), &f.Key, from, to)
	if f.Key.HasICMP() {
		typ, code := f.Key.ICMP()
		b = appendICMP(b, typ, code)
	}
	b = appendTunnel(b, &f.Key.Tunnel)
	b = appendPlace(b, label.Protocol, label.Version, label.ServerName, at.namespace, at.iface)
	b = appendVolume(append(b, ": "...), f.Forward.Volume)
	b = appendVolume(append(b, ", back "...), f.Reverse.Volume)
	if back != "" && back != at.iface {
		b = appendPlace(b, "at", back)
	}
	if n := f.Forward.Errors.Sum() + f.Reverse.Errors.Sum(); n > 0 {
		b = fmt.Appendf(b, " and %d ICMP errors", n)
	}
	b = append(b, ", in "...)
	b = append(b, time.Duration(f.End-f.Start).Round(time.Millisecond).String()...)
	b = append(b, ", "...)
	return string(append(b, f.EndReason.String()...))
}

// appendTunnel writes which tunnel a flow or a packet is in, if it is in one.
func appendTunnel(b []byte, t *flow.Tunnel) []byte {
	if t.Kind == 0 {
		return b
	}
	b = fmt.Appendf(b, " in %s", t.Kind)
	if t.HasID {
		b = fmt.Appendf(b, " %d", t.ID)
	}
	return b
}

func appendICMP(b []byte, typ, code uint8) []byte {
	return fmt.Appendf(b, " type %d code %d", typ, code)
}

// appendTuple writes the tuple, with words before its endpoints.
func appendTuple(b []byte, k *flow.Key, from, to string) []byte {
	b = append(b, transportNames[k.Proto]...)
	b = append(append(b, ' '), from...)
	b = appendEndpoint(b, k, k.Src(), k.SrcPort)
	b = append(append(b, " > "...), to...)
	return appendEndpoint(b, k, k.Dst(), k.DstPort)
}

func appendVolume(b []byte, v flow.Volume) []byte {
	b = strconv.AppendUint(b, v.Packets, 10)
	if v.Packets == 1 {
		b = append(b, " packet "...)
	} else {
		b = append(b, " packets "...)
	}
	return append(strconv.AppendUint(b, v.Bytes, 10), " bytes"...)
}

func appendEndpoint(b []byte, k *flow.Key, a netip.Addr, port uint16) []byte {
	if !k.HasPorts() {
		return a.AppendTo(b)
	}
	return netip.AddrPortFrom(a, port).AppendTo(b)
}

func appendPlace(b []byte, words ...string) []byte {
	for _, w := range words {
		if w != "" {
			b = append(append(b, ' '), w...)
		}
	}
	return b
}
