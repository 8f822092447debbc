// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"fmt"
	"strconv"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/ebpfpackets/ebpfpackets/internal/app"
	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
)

const (
	// maxLabels bounds what is remembered of flows for their records: about 6 MiB with the longest names.
	maxLabels = 16384
	// messageBytes stands for what a message takes while it waits to be written.
	messageBytes = 1 << 10
)

// messageReader reads the messages that samples are part of. It belongs to the sample loop; labels serve the drain loop, too.
type messageReader struct {
	tracker *app.Tracker
	labels  *app.Labels // nil: no flow records
	missed  uint32      // what the source said last of packets that were not copied
	decoder packet.Decoder
	details packet.Details
}

func newMessageReader(c *Config, flowRecords bool) *messageReader {
	r := &messageReader{tracker: app.NewTracker(c.messages())}
	if flowRecords {
		idle := c.Flows.ActiveTimeout + c.Flows.IdleTimeout + 2*maxDrainInterval // a flow that goes on is asked for that often
		r.labels = app.NewLabels(min(maxLabels, c.Flows.MaxFlows), idle, c.scope())
	}
	return r
}

// add adds one record for each message that s completes. A sample that only belongs to a message which others complete is none
// by itself, unless it was chosen for another reason, too.
func (r *messageReader) add(b *batch, s *packet.Sample, observed int64) {
	one, told := *s, false
	r.read(s, func(m *app.Message) {
		if !m.Completed {
			b.addMessage(m, observed) // s only made room, or showed that the rest of m was lost
			return
		}
		b.addSample(&one, observed)
		b.attach(m)
		told = true
		one.Reasons = packet.ReasonProtocol // it was chosen once: only the first record counts for the other reasons
	})
	if !told && s.Reasons != packet.ReasonProtocol {
		b.addSample(s, observed)
	}
}

// read offers what s carries to the tracker. Visit gets the messages that it tells for that.
func (r *messageReader) read(s *packet.Sample, visit func(*app.Message)) {
	whole := *s
	whole.Data = s.Message
	h := &r.details
	payload := r.decoder.DecodePayload(&whole, h)
	if !h.HasPayloadLen {
		return
	}
	seg := app.Segment{
		Time: s.Time, Key: h.Key, Direction: s.Direction,
		Seq: h.TCPSeq, Ack: h.TCPAck, TCPFlags: h.TCPFlags, Payload: payload, Length: max(int(h.PayloadLen), len(payload)),
	}
	if h.MoreFragments { // of the IP packet: how much payload they have, this one does not say
		seg.Length++
	}
	if h.TCPFlags&packet.TCPSYN != 0 { // which comes before the first byte; RFC 9293 3.4
		seg.Seq++
	}
	r.tracker.Read(&seg, r.learning(visit))
}

// expire gives up what has waited too long. Visit gets what is told of it. Missed is what the source says of packets that were not
// copied, asked after all samples before now were read.
func (r *messageReader) expire(now int64, missed uint32, visit func(*app.Message)) {
	if missed != r.missed {
		r.missed = missed
		r.tracker.Missed()
	}
	r.tracker.Expire(now, r.learning(visit))
	if r.labels != nil {
		r.labels.Expire(now)
	}
}

func (r *messageReader) learning(visit func(*app.Message)) func(*app.Message) {
	return func(m *app.Message) {
		if r.labels != nil && !m.TimedOut {
			r.labels.Learn(m)
		}
		visit(m)
	}
}

// counts returns what became of messages, and how many labels of flows were pushed out.
func (r *messageReader) counts() (app.Counts, uint64) {
	if r.labels == nil {
		return r.tracker.Counts(), 0
	}
	return r.tracker.Counts(), r.labels.PushedOut()
}

// label gives each flow of b what its messages said of it.
func (r *messageReader) label(b *batch) {
	b.labels = make([]app.Label, len(b.flows))
	for i := range b.flows {
		f := &b.flows[i]
		b.labels[i], _ = r.labels.Of(f.Key, f.Direction)
		r.forget(f)
	}
}

// forget drops what messages said of a flow that ended, told or not: the next one with its tuple may be another.
func (r *messageReader) forget(f *flow.Record) {
	if f.EndReason != flow.EndReasonActiveTimeout {
		r.labels.Forget(f.Key, f.Direction)
	}
}

// addMessage adds the record of a message without a packet: a question that was not answered, or what was captured of a head
// whose end did not come.
func (b *batch) addMessage(m *app.Message, observed int64) {
	b.addSample(&packet.Sample{
		Time: m.Time, IfIndex: m.Key.IfIndex, NetNS: m.Key.NetNS, Direction: m.Direction, Reasons: packet.ReasonProtocol,
	}, observed)
	b.attach(m)
}

// attach gives m to the sample that was added last.
func (b *batch) attach(m *app.Message) {
	b.packets[len(b.packets)-1].message = new(*m)
	b.messages++
}

// writeMessage writes the record of a message without a packet.
func (w *packetWriter) writeMessage(r plog.LogRecord, s *packet.Sample, message *app.Message, at place) {
	r.SetEventName(eventPacket)
	r.SetSeverityNumber(plog.SeverityNumberInfo)
	r.SetTimestamp(pcommon.Timestamp(s.Time))
	w.line = appendTuple(appendHook(w.line[:0], at, s.Direction), &message.Key, "", "")
	w.line = appendMessage(append(w.line, ": "...), message)
	if message.TimedOut {
		w.line = append(w.line, ", no answer"...)
	}
	r.Body().SetStr(string(w.line))
	m := r.Attributes()
	putPlace(m, at, s.Direction)
	putReasons(m.PutEmptySlice(attrPacketReasons), s.Reasons)
	putTuple(m, &message.Key)
	putMessage(r, message)
}

// The values of packet.message.type.
const (
	messageRequest  = "request"
	messageResponse = "response"
)

func messageType(response bool) string {
	if response {
		return messageResponse
	}
	return messageRequest
}

func isResponse(m *app.Message) bool {
	switch m.Protocol() {
	case app.ProtocolDNS:
		return m.DNS.Response
	case app.ProtocolTLS:
		return m.TLS.Server
	}
	return m.HTTP.Response
}

// putMessage writes what a message says.
func putMessage(r plog.LogRecord, message *app.Message) {
	m := r.Attributes()
	label := message.Label()
	m.PutStr(attrProtocolName, label.Protocol)
	putStr(m, attrProtocolVersion, label.Version)
	m.PutStr(attrMessageType, messageType(isResponse(message)))
	if message.Answers {
		m.PutDouble(attrMessageResponseTime, message.Elapsed.Seconds())
	}
	if message.TimedOut {
		m.PutStr(attrErrorType, "timeout")
	}
	if message.Cut {
		m.PutBool(attrMessageCut, true)
	}
	switch message.Protocol() {
	case app.ProtocolDNS:
		putDNS(m, message.DNS)
	case app.ProtocolTLS:
		putTLS(m, message.TLS)
	case app.ProtocolHTTP:
		putHTTP(m, message.HTTP)
		putTrace(r, message.HTTP)
	}
}

func putDNS(m pcommon.Map, d *app.DNS) {
	m.PutInt(attrDNSID, int64(d.ID))
	if d.HasQuestion {
		m.PutStr(attrDNSQuestionName, d.Name)
		m.PutStr(attrDNSQuestionType, app.DNSType(d.Type))
		m.PutStr(attrDNSQuestionClass, app.DNSClass(d.Class))
	}
	if !d.Response {
		return
	}
	m.PutStr(attrDNSResponseCode, app.DNSResponseCode(d.ResponseCode))
	m.PutBool(attrDNSTruncated, d.Truncated)
	m.PutInt(attrDNSAnswerCount, int64(d.AnswerCount))
	putStrings(m, attrDNSAnswers, d.Answers)
}

func putTLS(m pcommon.Map, t *app.TLS) {
	if t.Server {
		m.PutStr(attrTLSProtocolName, app.TLSProtocol(t.Version))
		m.PutStr(attrTLSProtocolVersion, app.TLSVersion(t.Version))
		putStr(m, attrTLSCipher, app.TLSCipher(t.Cipher))
		if t.KnowsResumed {
			m.PutBool(attrTLSResumed, t.Resumed)
		}
		if t.RetryRequest {
			m.PutBool(attrTLSRetryRequest, true)
		}
		putStr(m, attrTLSNextProtocol, t.ChosenALPN)
		return
	}
	putStr(m, attrServerAddress, t.ServerName)
	putStrings(m, attrTLSALPN, t.ALPN)
	versions := make([]string, len(t.Versions))
	for i, v := range t.Versions {
		versions[i] = app.TLSVersion(v)
	}
	putStrings(m, attrTLSVersions, versions)
	putStr(m, attrTLSJA3, t.JA3)
	putStr(m, attrTLSJA4, t.JA4)
}

func putHTTP(m pcommon.Map, h *app.HTTP) {
	if h.GRPC {
		m.PutStr(attrRPCSystem, "grpc")
	}
	contentType, size := attrHTTPRequestContentType, attrHTTPRequestSize
	if h.Response {
		contentType, size = attrHTTPResponseContentType, attrHTTPResponseSize
		m.PutInt(attrHTTPStatus, int64(h.Status))
	}
	if h.ContentType != "" {
		putStrings(m, contentType, []string{h.ContentType})
	}
	if h.ContentLength >= 0 {
		m.PutInt(size, h.ContentLength)
	}
	putStr(m, attrHTTPMethod, h.Method)
	putStr(m, attrURLPath, h.Path)
	putStr(m, attrServerAddress, h.Host)
	if h.Port != 0 {
		m.PutInt(attrServerPort, int64(h.Port))
	}
	putStr(m, attrUserAgent, h.UserAgent)
	putStr(m, attrHTTPAuthScheme, h.AuthScheme)
	if h.APIKey {
		m.PutBool(attrHTTPAPIKey, true)
	}
}

// putTrace makes the record part of the trace that the message says it belongs to: nothing verified that.
func putTrace(r plog.LogRecord, h *app.HTTP) {
	if !h.HasTrace {
		return
	}
	r.SetTraceID(h.TraceID)
	r.SetSpanID(h.SpanID)
	r.SetFlags(plog.LogRecordFlags(h.TraceFlags))
	putStr(r.Attributes(), attrHTTPTraceState, h.TraceState)
}

func putStr(m pcommon.Map, attribute, value string) {
	if value != "" {
		m.PutStr(attribute, value)
	}
}

func putStrings(m pcommon.Map, attribute string, values []string) {
	if len(values) == 0 {
		return
	}
	s := m.PutEmptySlice(attribute)
	s.EnsureCapacity(len(values))
	for _, v := range values {
		s.AppendEmpty().SetStr(v)
	}
}

// appendMessage says a message in a few words, for people.
func appendMessage(b []byte, m *app.Message) []byte {
	switch m.Protocol() {
	case app.ProtocolDNS:
		b = appendDNS(b, m)
	case app.ProtocolTLS:
		b = appendTLS(b, m.TLS)
	case app.ProtocolHTTP:
		b = appendHTTP(b, m.HTTP)
	}
	if m.Answers {
		b = append(b, " after "...)
		b = append(b, m.Elapsed.Round(time.Microsecond).String()...)
	}
	return b
}

func appendDNS(b []byte, m *app.Message) []byte {
	d := m.DNS
	b = append(append(b, m.Label().Protocol...), ' ')
	b = append(b, messageType(d.Response)...)
	if d.HasQuestion {
		b = appendPlace(b, d.Name, app.DNSType(d.Type))
	}
	if d.Response {
		b = appendPlace(b, app.DNSResponseCode(d.ResponseCode))
		b = appendPlace(b, d.Answers...)
	}
	return b
}

func appendTLS(b []byte, t *app.TLS) []byte {
	switch {
	case t.RetryRequest:
		return append(b, "tls HelloRetryRequest"...)
	case t.Server:
		cipher := app.TLSCipher(t.Cipher)
		if cipher == "" {
			cipher = fmt.Sprintf("%#04x", t.Cipher)
		}
		return appendPlace(append(b, "tls ServerHello"...), app.TLSVersion(t.Version), cipher, t.ChosenALPN)
	}
	return appendPlace(append(b, "tls ClientHello"...), t.ServerName, t.JA4)
}

func appendHTTP(b []byte, h *app.HTTP) []byte {
	b = append(append(b, "http/"...), h.Version...)
	if h.GRPC {
		b = append(b, " grpc"...)
	}
	if h.Response {
		b = strconv.AppendInt(append(b, ' '), int64(h.Status), 10)
		return appendPlace(b, h.ContentType)
	}
	return appendPlace(b, h.Method, h.Host+h.Path)
}
