// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"fmt"
	"net/netip"
	"strconv"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/ebpfpackets/ebpfpackets/internal/app"
	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
)

// maxFrameBytes bounds the captured bytes of a message: whoever comes to it ends the message.
const maxFrameBytes = 256 << 10

// sampled is a sample that waits to be written. Its bytes are in frames of its batch: whatever a record says is read from
// them when it is written.
type sampled struct {
	packet.Sample              // Data is nil
	observed      int64        // ns since 1970 when it was read, never before Time
	end           int          // of its bytes in frames
	message       *app.Message // that it completes, if any
}

func (b *batch) addSample(s *packet.Sample, observed int64) {
	b.frames = append(b.frames, s.Data...)
	p := sampled{Sample: *s, observed: max(observed, s.Time), end: len(b.frames)}
	p.Data, p.Message = nil, nil
	b.packets = append(b.packets, p)
}

// full reports whether the samples of b are enough for a message.
func (b *batch) full() bool {
	return len(b.packets) >= maxRecords || len(b.frames)+b.messages*messageBytes >= maxFrameBytes
}

// packetWriter writes network.packet records, one at a time.
type packetWriter struct {
	oneIn     int
	flowOneIn int
	payload   bool // packet.data is written
	decoder   packet.Decoder
	details   packet.Details
	line      []byte
}

func (w *packetWriter) writeAll(records plog.LogRecordSlice, b *batch) {
	begin := 0
	for i := range b.packets {
		p := &b.packets[i]
		s := p.Sample
		s.Data = b.frames[begin:p.end]
		begin = p.end
		r := records.AppendEmpty()
		r.SetObservedTimestamp(pcommon.Timestamp(p.observed))
		at := b.view.of(flow.Place{NetNS: uint32(s.NetNS), IfIndex: s.IfIndex})
		if p.Segments == 0 { // there is no packet
			w.writeMessage(r, &s, p.message, at)
			continue
		}
		w.write(r, &s, p.message, at)
	}
}

func (w *packetWriter) write(r plog.LogRecord, s *packet.Sample, message *app.Message, at place) {
	h := &w.details
	w.decoder.Decode(s, h)
	r.SetEventName(eventPacket)
	r.SetSeverityNumber(plog.SeverityNumberInfo)
	r.SetTimestamp(pcommon.Timestamp(s.Time))
	w.line = packet.AppendLine(appendHook(w.line[:0], at, s.Direction), s, h)
	if message != nil {
		w.line = appendMessage(append(w.line, ": "...), message)
	}
	r.Body().SetStr(string(w.line))

	m := r.Attributes()
	m.EnsureCapacity(32)
	putPlace(m, at, s.Direction)
	w.putSample(m, s)
	putLink(m, h)
	switch {
	case message != nil && h.Key != message.Key: // all of the copied bytes say more than those that a record may be made of
		putTuple(m, &message.Key)
	case h.Reason == flow.ReasonAccounted:
		putTuple(m, &h.Key)
		putIP(m, h)
		putTransport(m, h)
	default:
		if h.Reason == flow.ReasonARP {
			putARP(m, h)
		}
		if len(h.Tags) > 0 {
			m.PutInt(attrVLANID, int64(h.Tags[0].ID()))
		}
		if !packet.Cut(s, h.Reason) {
			m.PutStr(attrPacketLedgerEntry, h.Reason.Entry())
		}
		if h.EtherType != 0 {
			m.PutInt(attrPacketEtherType, int64(h.EtherType))
		}
	}
	if message != nil {
		putMessage(r, message)
	}
	if w.payload {
		m.PutEmptyBytes(attrPacketData).FromRaw(s.Data)
	}
}

// appendHook writes where a packet was seen, as tcpdump -i any does.
func appendHook(b []byte, at place, d flow.Direction) []byte {
	for _, word := range []string{at.namespace, at.iface} {
		if word != "" {
			b = append(append(b, word...), ' ')
		}
	}
	if d == flow.DirectionEgress {
		return append(b, "Out "...)
	}
	return append(b, "In "...)
}

// putSample writes what the sample is, and what is needed to scale it.
func (w *packetWriter) putSample(m pcommon.Map, s *packet.Sample) {
	m.PutInt(attrPacketLength, int64(s.WireLen))
	m.PutInt(attrPacketCaptured, int64(len(s.Data)))
	m.PutInt(attrPacketSegments, int64(s.Segments))
	putReasons(m.PutEmptySlice(attrPacketReasons), s.Reasons)
	if s.Reasons.Has(packet.KindRandom) {
		m.PutInt(attrPacketOneIn, int64(w.oneIn))
		m.PutInt(attrPacketPool, int64(s.Pool))
	}
	if s.Reasons.Has(packet.KindFlow) {
		m.PutInt(attrPacketFlowOneIn, int64(w.flowOneIn))
		m.PutInt(attrPacketFlowPool, int64(s.FlowPool))
	}
	if s.Reasons.Has(packet.KindFirst) {
		m.PutInt(attrPacketFirstNumber, int64(s.Number))
	}
}

func putReasons(s pcommon.Slice, r packet.Reasons) {
	for kind := range packet.KindCount {
		if r.Has(kind) {
			s.AppendEmpty().SetStr(kind.String())
		}
	}
}

func putLink(m pcommon.Map, h *packet.Details) {
	if h.HasEthernet {
		m.PutStr(attrPacketEthernetSource, h.SrcMAC.String())
		m.PutStr(attrPacketEthernetDestination, h.DstMAC.String())
	}
	if len(h.Tags) > 0 {
		m.PutInt(attrPacketVLANPriority, int64(h.Tags[0].Priority()))
	}
	if inside := h.Key.Tunnel.Kind != 0; len(h.Tags) > 1 || inside && len(h.Tags) > 0 { // network.vlan.id is then that of the packet inside
		ids := m.PutEmptySlice(attrPacketVLANIDs)
		for _, t := range h.Tags {
			ids.AppendEmpty().SetInt(int64(t.ID()))
		}
	}
	if len(h.Labels) > 0 {
		labels := m.PutEmptySlice(attrPacketMPLSLabels)
		for _, l := range h.Labels {
			labels.AppendEmpty().SetInt(int64(l.Label()))
		}
	}
}

func putARP(m pcommon.Map, h *packet.Details) {
	if h.HasARP {
		m.PutStr(attrPacketARPOperation, arpOperation(h.ARPOperation))
	}
	if !h.HasARPEndpoint {
		return
	}
	m.PutStr(attrPacketARPSenderAddress, h.ARPSender.Addr.String())
	m.PutStr(attrPacketARPSenderMAC, h.ARPSender.MAC.String())
	m.PutStr(attrPacketARPTargetAddress, h.ARPTarget.Addr.String())
	if h.ARPTarget.MAC != (packet.MAC{}) {
		m.PutStr(attrPacketARPTargetMAC, h.ARPTarget.MAC.String())
	}
}

// arpOperation names an operation; RFC 826, RFC 903.
func arpOperation(n uint16) string {
	names := [...]string{1: "request", 2: "reply", 3: "reverse_request", 4: "reverse_reply"}
	if n > 0 && int(n) < len(names) {
		return names[n]
	}
	return strconv.Itoa(int(n))
}

func putIP(m pcommon.Map, h *packet.Details) {
	m.PutInt(attrPacketTTL, int64(h.TTL))
	m.PutInt(attrPacketDSCP, int64(h.DSCP))
	m.PutInt(attrPacketECN, int64(h.ECN))
	if h.HasIPID {
		m.PutInt(attrPacketIPID, int64(h.IPID))
	}
	if !h.Key.IPv6 {
		m.PutBool(attrPacketDontFragment, h.DontFragment)
	}
	if h.FlowLabel != 0 {
		m.PutInt(attrPacketFlowLabel, int64(h.FlowLabel))
	}
	if h.HasFragment {
		m.PutInt(attrPacketFragmentOffset, int64(h.FragmentOffset))
		m.PutBool(attrPacketFragmentMore, h.MoreFragments)
	}
	if h.HasPayloadLen {
		m.PutInt(attrPacketPayloadLength, int64(h.PayloadLen))
	}
	putNames(m, attrPacketIPOptions, unpadded(h.IPOptions), packet.IPOptionName)
	putNames(m, attrPacketIPExtensions, h.Extensions, packet.ExtensionName)
}

// unpadded removes end of list and no-operation, in place; RFC 791 3.1.
func unpadded(kinds []uint8) []uint8 {
	kept := kinds[:0]
	for _, k := range kinds {
		if k > 1 {
			kept = append(kept, k)
		}
	}
	return kept
}

// putNames writes a list of numbers by their names, if there are any.
func putNames(m pcommon.Map, attribute string, numbers []uint8, name func(uint8) string) {
	if len(numbers) == 0 {
		return
	}
	s := m.PutEmptySlice(attribute)
	s.EnsureCapacity(len(numbers))
	for _, n := range numbers {
		s.AppendEmpty().SetStr(name(n))
	}
}

func putTransport(m pcommon.Map, h *packet.Details) {
	switch {
	case h.Beyond: // of no header is told what no packet has
	case h.HasTCP:
		putTCP(m, h)
	case h.HasICMP:
		putICMP(m, h)
	case h.HasIGMP:
		m.PutInt(attrPacketIGMPType, int64(h.IGMPType))
	case h.HasSCTP:
		m.PutInt(attrPacketSCTPTag, int64(h.SCTPTag))
		putNames(m, attrPacketSCTPChunks, h.SCTPChunks, packet.ChunkName)
	}
	if len(h.Groups) > 0 {
		groups := m.PutEmptySlice(attrPacketMulticastGroups)
		for _, g := range h.Groups {
			groups.AppendEmpty().SetStr(g.String())
		}
	}
	if h.Tunnel != 0 {
		m.PutStr(attrPacketTunnelType, h.Tunnel.String())
	}
	if h.HasTunnelID {
		m.PutInt(attrPacketTunnelID, int64(h.TunnelID))
	}
	if h.HasInner {
		innerNames.put(m, &h.Inner)
	}
}

func putTCP(m pcommon.Map, h *packet.Details) {
	m.PutInt(attrPacketTCPFlags, int64(h.TCPFlags))
	m.PutInt(attrPacketTCPSequence, int64(h.TCPSeq))
	if h.TCPFlags&packet.TCPACK != 0 {
		m.PutInt(attrPacketTCPAcknowledge, int64(h.TCPAck))
	}
	m.PutInt(attrPacketTCPWindow, int64(h.TCPWindow))
	if h.TCPFlags&packet.TCPURG != 0 {
		m.PutInt(attrPacketTCPUrgent, int64(h.TCPUrgent))
	}
	if h.HasMSS {
		m.PutInt(attrPacketTCPMSS, int64(h.MSS))
	}
	if h.HasWindowScale {
		m.PutInt(attrPacketTCPWindowScale, int64(h.WindowScale))
	}
	if h.SACKPermitted {
		m.PutBool(attrPacketTCPSACKPermitted, true)
	}
	if len(h.SACK) > 0 {
		blocks := m.PutEmptySlice(attrPacketTCPSACK)
		for _, b := range h.SACK {
			blocks.AppendEmpty().SetStr(fmt.Sprintf("%d:%d", b[0], b[1]))
		}
	}
	if h.HasTimestamps {
		m.PutInt(attrPacketTCPTimestamp, int64(h.Timestamp))
		m.PutInt(attrPacketTCPTimestampEcho, int64(h.TimestampEcho))
	}
}

func putICMP(m pcommon.Map, h *packet.Details) {
	m.PutInt(attrPacketICMPType, int64(h.ICMPType))
	m.PutInt(attrPacketICMPCode, int64(h.ICMPCode))
	if h.HasEcho {
		m.PutInt(attrPacketICMPID, int64(h.EchoID))
		m.PutInt(attrPacketICMPSequence, int64(h.EchoSeq))
	}
	if h.HasMTU {
		m.PutInt(attrPacketICMPMTU, int64(h.MTU))
	}
	putAddr(m, attrPacketICMPTarget, h.ICMPTarget)
	putAddr(m, attrPacketICMPDestination, h.ICMPDestination)
	if h.HasICMPLinkLayer {
		m.PutStr(attrPacketICMPLinkLayer, h.ICMPLinkLayer.String())
	}
	if h.HasQuoted {
		quotedNames.put(m, &h.Quoted)
	}
}

func putAddr(m pcommon.Map, attribute string, a netip.Addr) {
	if a.IsValid() {
		m.PutStr(attribute, a.String())
	}
}

// tupleNames are the attributes of the tuple of a packet that another one carries, or quotes.
type tupleNames struct{ transport, source, sourcePort, destination, destinationPort string }

var (
	innerNames = tupleNames{
		attrPacketInnerTransport, attrPacketInnerSourceAddress, attrPacketInnerSourcePort,
		attrPacketInnerDestinationAddress, attrPacketInnerDestinationPort,
	}
	quotedNames = tupleNames{
		attrPacketQuotedTransport, attrPacketQuotedSourceAddress, attrPacketQuotedSourcePort,
		attrPacketQuotedDestinationAddress, attrPacketQuotedDestinationPort,
	}
)

func (n *tupleNames) put(m pcommon.Map, k *flow.Key) {
	m.PutStr(n.transport, transportNames[k.Proto])
	m.PutStr(n.source, k.Src().String())
	m.PutStr(n.destination, k.Dst().String())
	if k.HasPorts() {
		m.PutInt(n.sourcePort, int64(k.SrcPort))
		m.PutInt(n.destinationPort, int64(k.DstPort))
	}
}
