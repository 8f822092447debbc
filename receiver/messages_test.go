// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/ebpfpackets/ebpfpackets/internal/app"
	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// everyMessage has every attribute of every protocol.
func everyMessage() []app.Message {
	question := app.DNS{HasQuestion: true, ID: 7, Type: 28, Class: 1, Name: "example.com"}
	answer := question
	answer.Response, answer.ResponseCode, answer.Truncated, answer.AnswerCount = true, 3, true, 2
	answer.Answers = []string{"2001:db8::1", "192.0.2.1"}
	mdns := app.DNS{Variant: app.VariantMDNS, ID: 0}
	return []app.Message{
		{DNS: &question},
		{DNS: &answer, Answers: true, Elapsed: 1500 * time.Microsecond},
		{DNS: &mdns},
		{TLS: &app.TLS{ServerName: "example.com", ALPN: []string{"h2", "http/1.1"}, Versions: []uint16{0x0304, 0x0303}, JA4: "t13d1516h2_8daaf6152771_e5627efa2ab1", JA3: "ada70206e40642a3e4461f35503241d5"}},
		{TLS: &app.TLS{Server: true, Version: 0x0303, Cipher: 0xc02f, Resumed: true, KnowsResumed: true, ChosenALPN: "h2"}, Answers: true, Elapsed: time.Millisecond},
		{TLS: &app.TLS{Server: true, Version: 0x0304, Cipher: 0x1301, RetryRequest: true}},
		{HTTP: &app.HTTP{
			Version: "1.1", Method: "POST", Path: "/api/items", Host: "example.com", Port: 8080, UserAgent: "curl/8", ContentType: "application/json", ContentLength: 0,
			AuthScheme: "bearer", APIKey: true, HasTrace: true, TraceID: [16]byte{1, 15: 2}, SpanID: [8]byte{3, 7: 4}, TraceFlags: 1, TraceState: "a=b",
		}},
		{HTTP: &app.HTTP{Response: true, Version: "1.0", Status: 404, ContentType: "text/html", ContentLength: 12}, Cut: true, Answers: true, Elapsed: 20 * time.Millisecond},
		{HTTP: &app.HTTP{Version: "2", GRPC: true, ContentLength: -1}},
	}
}

func TestMessageRecordsGolden(t *testing.T) {
	b := &batch{observed: 1, view: eth0}
	s := carrier(t, "TCP without options")
	s.Reasons = packet.ReasonProtocol
	var p packet.Packet
	packet.Decode(&s, &p)
	for _, m := range everyMessage() {
		m.Key = p.Key
		b.addSample(&s, epoch.UnixNano()+6e8)
		b.attach(&m)
	}
	unanswered := everyMessage()[0]
	unanswered.Time, unanswered.TimedOut, unanswered.Direction = epoch.UnixNano(), true, flow.DirectionEgress
	unanswered.Key = flowRecord("10.0.0.1:40000", "10.0.0.2:53", protoUDP, flow.InitiatorPort, half(1, 78, 0), half(1, 178, 0)).Key
	b.addMessage(&unanswered, epoch.UnixNano()+6e8)
	w := logsWriter{resource: pcommon.NewResource(), version: "1.2.3"}
	compareLogs(t, "packets_messages", w.write(b))
}

func TestFlowRecordsSayWhatMessagesSaidGolden(t *testing.T) {
	f := flowRecord("10.0.0.1:40000", "10.0.0.2:443", protoTCP, flow.InitiatorSYN, half(5, 500, syn|ack), half(4, 400, syn|ack))
	b := &batch{
		observed: epoch.UnixNano() + 5e9, view: eth0, flows: []flow.Record{f, f},
		labels: []app.Label{{Protocol: "tls", Version: "1.3", ServerName: "example.com"}, {}},
	}
	w := logsWriter{resource: pcommon.NewResource(), version: "1.2.3"}
	compareLogs(t, "flow_labels", w.write(b))
}

// segment is a frame with a payload, as the kernel copies one that is part of a message.
type segment struct {
	from, to string
	seq      uint32
	payload  string
	cut      int // bytes that were not copied
	ingress  bool
	reasons  packet.Reasons // beside protocol
}

// hand puts what was sent into the ring, in the order of time, a millisecond apart, and has it read. Each acknowledges what came
// from the other side; streams begin at 1.
func (b *bench) hand(segments ...segment) {
	b.t.Helper()
	ends := map[string]uint32{}
	b.host.do(func() {
		for _, s := range segments {
			b.now = b.now.Add(time.Millisecond)
			b.host.samples = append(b.host.samples, s.sample(b.now, max(ends[s.to], 1)))
			ends[s.from] = s.seq + uint32(len(s.payload))
		}
	})
	b.readSamples()
}

func (s *segment) sample(at time.Time, acked uint32) packet.Sample {
	f := testenv.Frame{From: netip.MustParseAddrPort(s.from), To: netip.MustParseAddrPort(s.to), Proto: protoTCP, TCPFlags: ack, Payload: len(s.payload)}
	if f.To.Port() == 53 || f.From.Port() == 53 {
		f.Proto = protoUDP
	}
	data := f.AppendTo(nil)
	copy(data[len(data)-len(s.payload):], s.payload)
	if f.Proto == protoTCP {
		binary.BigEndian.PutUint32(data[len(data)-len(s.payload)-16:], s.seq)
		binary.BigEndian.PutUint32(data[len(data)-len(s.payload)-12:], acked)
	}
	out := packet.Sample{
		Time: at.UnixNano(), IfIndex: 1, Direction: flow.DirectionEgress, Reasons: packet.ReasonProtocol | s.reasons, Pool: 1,
		Segments: 1, WireLen: uint32(len(data)), Message: data[:len(data)-s.cut],
	}
	out.Data = out.Message[:min(len(out.Message), 128)]
	if s.ingress {
		out.Direction = flow.DirectionIngress
	}
	return out
}

// poll lets time pass, in which samples are looked for.
func (b *bench) poll(d time.Duration) {
	for ; d > 0; d -= idleInterval {
		b.now = b.now.Add(min(d, idleInterval))
		b.readSamples()
	}
}

func messagesConfig(protocols ...string) *Config {
	c := testConfig()
	c.Packets.Protocols = protocols
	return c
}

// told writes what waits, and returns the bodies and the records.
func (b *bench) told() (bodies []string, records []plog.LogRecord) {
	b.sendSamples()
	for len(b.logs.queue) > 0 {
		for _, r := range b.logs.writer.write(b.batch()).ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
			bodies, records = append(bodies, r.Body().Str()), append(records, r)
		}
	}
	return bodies, records
}

const (
	client, server, resolver = "10.0.0.1:40000", "10.0.0.2:8080", "10.0.0.2:53"
	request                  = "GET /a?secret HTTP/1.1\r\nHost: example.com\r\n\r\n"
	response                 = "HTTP/1.1 204 No Content\r\n\r\n"
)

func TestAMessageInTwoSegmentsIsOneRecord(t *testing.T) {
	b, tel := measured(t, messagesConfig("http"), nil, consumertest.NewNop())
	b.hand(
		segment{client, server, 1, request[:9], 0, false, 0},
		segment{client, server, 10, request[9:], 0, false, 0},
		segment{server, client, 1, response, 0, true, 0},
	)
	bodies, records := b.told()
	require.Equal(t, []string{
		"eth0 Out IP 10.0.0.1.40000 > 10.0.0.2.8080: Flags [.], seq 10:46, ack 1, win 65535, length 36: http/1.1 GET example.com/a",
		"eth0 In IP 10.0.0.2.8080 > 10.0.0.1.40000: Flags [.], seq 1:28, ack 46, win 65535, length 27: http/1.1 204 after 1ms",
	}, bodies)
	length, _ := records[0].Attributes().Get(attrPacketCaptured)
	assert.Equal(t, int64(14+20+20+36), length.Int(), "of the packet that completed it")
	assert.Equal(t, map[string]int64{"http told": 2}, nonzero(valuesOf(t, tel, "otelcol_ebpfpackets_receiver_messages", "protocol", "outcome")))
	assert.Equal(t, map[string]int64{"http answered": 1}, nonzero(valuesOf(t, tel, "otelcol_ebpfpackets_receiver_requests", "protocol", "outcome")))
}

func nonzero(m map[string]int64) map[string]int64 {
	for k, v := range m {
		if v == 0 {
			delete(m, k)
		}
	}
	return m
}

// The tuple is that of the flow inside of the tunnel, which snap_length cuts off, and the message was read of.
func TestAMessageKnowsItsFlowBetterThanTheRecordsBytes(t *testing.T) {
	s := carrier(t, "TCP without options")
	s.Data = s.Data[:30]
	m := everyMessage()[0]
	m.Key = flowRecord("10.0.0.1:40000", "10.0.0.2:53", protoUDP, flow.InitiatorPort, half(1, 78, 0), half(1, 178, 0)).Key
	b := &batch{view: eth0}
	b.addSample(&s, 1)
	b.attach(&m)
	w := logsWriter{resource: pcommon.NewResource()}
	record := w.write(b).ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
	source, _ := record.Attributes().Get(attrSourceAddress)
	assert.Equal(t, "10.0.0.1", source.Str())
}

// tls.cipher must be a name that is registered.
func TestACipherWithoutANameIsInTheBodyAlone(t *testing.T) {
	s := carrier(t, "TCP without options")
	b := &batch{view: eth0}
	b.addSample(&s, 1)
	b.attach(&app.Message{TLS: &app.TLS{Server: true, Version: 0x0303, Cipher: 0xcc13}})
	w := logsWriter{resource: pcommon.NewResource()}
	record := w.write(b).ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
	_, found := record.Attributes().Get(attrTLSCipher)
	assert.False(t, found)
	assert.Contains(t, record.Body().Str(), "tls ServerHello 1.2 0xcc13")
}

// What no message comes of is no record, unless the packet was chosen for another reason, too.
func TestSamplesWithoutAMessage(t *testing.T) {
	b, tel := measured(t, messagesConfig("http"), nil, consumertest.NewNop())
	b.hand(
		segment{client, server, 1, "GET no head\r\n", 0, false, 0},
		segment{client, server, 1000, "GET / HT", 0, false, packet.ReasonRandom},
		segment{client, resolver, 0, "not asked for", 0, false, packet.ReasonRandom},
	)
	bodies, records := b.told()
	require.Len(t, bodies, 2)
	for _, r := range records {
		_, found := r.Attributes().Get(attrProtocolName)
		assert.False(t, found)
	}
	assert.Equal(t, map[string]int64{"http malformed": 1}, nonzero(valuesOf(t, tel, "otelcol_ebpfpackets_receiver_messages", "protocol", "outcome")))
	b.hand()
	bodies, _ = b.told()
	require.Empty(t, bodies, "an empty message would be pushed")
}

// Of two messages in one packet the first is the record of the packet, whatever else chose it.
func TestTwoMessagesInOnePacket(t *testing.T) {
	b := newBench(t, messagesConfig("http"), newFakeHost("eth0"), nil, consumertest.NewNop())
	b.hand(segment{client, server, 1, request + request, 0, false, packet.ReasonRandom})
	_, records := b.told()
	require.Len(t, records, 2)
	for i, want := range [][]any{{"random", "protocol"}, {"protocol"}} {
		reasons, _ := records[i].Attributes().Get(attrPacketReasons)
		assert.Equal(t, want, reasons.Slice().AsRaw())
		path, _ := records[i].Attributes().Get(attrURLPath)
		assert.Equal(t, "/a", path.Str())
	}
}

// A head whose rest is lost is told without a packet: the one that shows it has no part in it.
func TestACutHeadIsToldByItself(t *testing.T) {
	b := newBench(t, messagesConfig("http"), newFakeHost("eth0"), nil, consumertest.NewNop())
	b.hand(segment{client, server, 1, "GET /lost HTTP/1.1\r\nHost: a", 0, false, 0})
	began := b.now
	b.now = b.now.Add(6 * time.Second)
	b.hand()
	bodies, records := b.told()
	require.Equal(t, []string{"eth0 Out tcp 10.0.0.1:40000 > 10.0.0.2:8080: http/1.1 GET /lost"}, bodies)
	assert.Equal(t, began, records[0].Timestamp().AsTime())
	cut, _ := records[0].Attributes().Get(attrMessageCut)
	assert.True(t, cut.Bool())
}

func dnsQuestion(t *testing.T) string {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 9, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("example.com."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	wire, err := m.Pack()
	require.NoError(t, err)
	return string(wire)
}

func TestAQuestionWithoutAnAnswerIsToldAgain(t *testing.T) {
	b, tel := measured(t, messagesConfig("dns"), nil, consumertest.NewNop())
	b.hand(segment{client, resolver, 0, dnsQuestion(t), 0, false, 0})
	asked := b.now
	b.poll(4 * time.Second)
	bodies, _ := b.told()
	require.Len(t, bodies, 1)
	b.poll(2 * time.Second)
	bodies, records := b.told()
	require.Equal(t, []string{"eth0 Out udp 10.0.0.1:40000 > 10.0.0.2:53: dns request example.com A, no answer"}, bodies)
	assert.Equal(t, asked, records[0].Timestamp().AsTime())
	assert.Equal(t, asked.Add(5*time.Second), records[0].ObservedTimestamp().AsTime())
	cause, _ := records[0].Attributes().Get(attrErrorType)
	assert.Equal(t, "timeout", cause.Str())
	assert.Equal(t, map[string]int64{"dns unanswered": 1}, nonzero(valuesOf(t, tel, "otelcol_ebpfpackets_receiver_requests", "protocol", "outcome")))
}

// Nobody knows whether a question was answered if packets of messages were left out while it waited.
func TestAQuestionThatMayHaveBeenAnsweredIsNotToldAgain(t *testing.T) {
	oneWay := messagesConfig("dns")
	oneWay.Directions = []string{directionEgress}
	for name, tt := range map[string]struct {
		config *Config
		missed time.Duration // after the question; negative: before the one poll that reads it
		want   string
	}{
		"a packet was left out at once": {messagesConfig("dns"), -1, "dns unknown"},
		"a packet was left out later":   {messagesConfig("dns"), 4 * time.Second, "dns unknown"},
		"one that was left out before":  {messagesConfig("dns"), 0, "dns unanswered"},
		"one direction is seen":         {oneWay, 0, "dns unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			b, tel := measured(t, tt.config, nil, consumertest.NewNop())
			miss := func() { b.host.do(func() { b.host.missed += 3 }) }
			miss()
			b.hand()
			if tt.missed < 0 {
				miss()
			}
			b.hand(segment{client, resolver, 0, dnsQuestion(t), 0, false, 0})
			if tt.missed > 0 {
				b.poll(tt.missed)
				miss()
			}
			b.poll(6 * time.Second)
			assert.Equal(t, map[string]int64{tt.want: 1}, nonzero(valuesOf(t, tel, "otelcol_ebpfpackets_receiver_requests", "protocol", "outcome")))
			bodies, _ := b.told()
			assert.Equal(t, tt.want == "dns unanswered", len(bodies) == 2)
		})
	}
}

// The first fragment of a datagram does not say how much the others have.
func TestAFragmentedAnswerIsCut(t *testing.T) {
	b := newBench(t, messagesConfig("dns"), newFakeHost("eth0"), nil, consumertest.NewNop())
	for _, moreFragments := range []bool{false, true} {
		s := segment{client, resolver, 0, dnsQuestion(t), 0, false, 0}
		sample := s.sample(b.now, 0)
		if moreFragments {
			sample.Message[14+6] |= 0x20 // RFC 791 3.1
			sample.Message[14+20+8]++    // of the identifier: another question
		}
		b.host.do(func() { b.host.samples = append(b.host.samples, sample) })
		b.readSamples()
		_, records := b.told()
		require.Len(t, records, 1)
		_, cut := records[0].Attributes().Get(attrMessageCut)
		assert.Equal(t, moreFragments, cut)
	}
}

// Flow records say the protocol, as long as the flow goes on and not of the next with the same tuple.
func TestLabelsOfFlows(t *testing.T) {
	c := messagesConfig("http")
	c.Flows.ActiveTimeout = 10 * time.Second
	b := newBench(t, c, newFakeHost("eth0"), nil, consumertest.NewNop())
	talk := func() {
		at := b.now.Sub(epoch).Seconds()
		b.host.count(tcp("10.0.0.1:40000", "10.0.0.2:8080", flow.DirectionEgress, ack, 1, 100, at, at))
	}
	b.hand(segment{client, server, 1, request, 0, false, 0})
	talk()
	b.after(12 * time.Second)
	talk()
	b.after(20 * time.Second)
	talk()
	b.after(20 * time.Second)
	var names []string
	for len(b.logs.queue) > 0 {
		for i, batch := 0, b.batch(); i < len(batch.flows); i++ {
			names = append(names, batch.labels[i].ServerName)
		}
	}
	require.Equal(t, []string{"example.com", "example.com", ""}, names)
}

// A flow whose record is shed ended as well, a long one whose interim record is shed goes on.
func TestLabelsOfFlowsThatAreNotTold(t *testing.T) {
	for name, limit := range map[string]int64{"none is told": 0, "one is told": 1} {
		t.Run(name, func(t *testing.T) {
			c := messagesConfig("http")
			c.Flows.ActiveTimeout = 10 * time.Second
			b, tel := measured(t, c, nil, consumertest.NewNop())
			drain := func(d time.Duration) {
				b.drain.limit = recordLimit{1, limit * int64(time.Second), b.now.Add(d).UnixNano()}
				b.after(d)
			}
			for i, from := range []string{"10.0.0.1:40000", "10.0.0.1:40001", "10.0.0.1:40002"} {
				b.hand(segment{from, server, 1, request, 0, false, 0})
				for _, at := range []float64{0, 11} {
					b.host.count(tcp(from, server, flow.DirectionEgress, ack, 1, uint64(100+i), at, at))
				}
			}
			drain(12 * time.Second)
			assert.Equal(t, 3, b.messages.labels.Len())
			drain(20 * time.Second)
			assert.Equal(t, map[string]int64{"rate_limit": 6 - 2*limit}, valuesOf(t, tel, "otelcol_ebpfpackets_receiver_record_sheds", "cause"))
			assert.Zero(t, b.messages.labels.Len(), "the next connection from the same port would have the name")
		})
	}
}

// With the event off messages are read for the records of flows, and have none themselves: nor have questions without an answer, heads
// that are cut, and other samples.
func TestWithoutPacketRecordsFlowsSayWhatMessagesSaid(t *testing.T) {
	c := messagesConfig("dns", "http")
	c.LogsBuilder.Events.NetworkPacket.Enabled = false
	b, tel := measured(t, c, nil, consumertest.NewNop())
	b.hand(
		segment{client, server, 1, request, 0, false, 0},
		segment{client, server, 1 + uint32(len(request)), "GET /lost HTTP/1.1\r\nHost: a", 0, false, 0},
		segment{client, resolver, 0, dnsQuestion(t), 0, false, 0},
	)
	b.host.count(
		tcp(client, server, flow.DirectionEgress, ack, 1, 100, 0, 0),
		udp(client, resolver, flow.DirectionEgress, 1, 60, 0, 0),
	)
	b.poll(6 * time.Second)
	b.after(0)
	b.after(20 * time.Second)
	_, records := b.told()
	require.Len(t, records, 2)
	told := map[string]string{}
	for _, r := range records {
		require.Equal(t, eventFlow, r.EventName())
		protocol, _ := r.Attributes().Get(attrProtocolName)
		name, _ := r.Attributes().Get(attrFlowServerName)
		told[protocol.Str()] = name.Str()
	}
	assert.Equal(t, map[string]string{"http": "example.com", "dns": ""}, told)
	assert.Equal(t, map[string]int64{"http told": 2, "dns told": 1}, nonzero(valuesOf(t, tel, "otelcol_ebpfpackets_receiver_messages", "protocol", "outcome")))
	assert.Equal(t, map[string]int64{"dns unanswered": 1}, nonzero(valuesOf(t, tel, "otelcol_ebpfpackets_receiver_requests", "protocol", "outcome")))
}

func TestWithoutProtocolsNothingIsRead(t *testing.T) {
	b := newBench(t, testConfig(), newFakeHost("eth0"), nil, consumertest.NewNop())
	require.Nil(t, b.messages)
	c := messagesConfig("tls")
	c.Packets.RandomOneIn = 0
	b = newBench(t, c, newFakeHost("eth0"), nil, consumertest.NewNop())
	require.NotNil(t, b.messages, "protocols alone are a reason to sample")
}

// Credentials are nowhere, whatever is on.
func TestSecretsOfMessagesStayOnTheHost(t *testing.T) {
	secrets := []string{"qsecret", "asecret", "csecret", "ksecret", "rsecret", "usecret", "bsecret", "fsecret"}
	head := "POST http://usecret:usecret@example.com/path?q=qsecret#fsecret HTTP/1.1\r\nHost: usecret@example.com\r\nAuthorization: asecret asecret\r\n" +
		"Cookie: a=csecret\r\nX-Api-Key: ksecret\r\nReferer: http://rsecret/rsecret\r\nProxy-Authorization: Basic asecret\r\nContent-Length: 7\r\n\r\nbsecret"
	answer := "HTTP/1.1 200 OK\r\nSet-Cookie: a=csecret\r\nWWW-Authenticate: asecret\r\nLocation: /?qsecret\r\n\r\nbsecret"
	b := newBench(t, messagesConfig("dns", "tls", "http"), newFakeHost("eth0"), nil, consumertest.NewNop())
	b.hand(
		segment{client, server, 1, head, 0, false, packet.ReasonRandom},
		segment{server, client, 1, answer, 0, true, packet.ReasonRandom},
		segment{client, server, 5000, head, 60, false, packet.ReasonRandom},
	)
	b.sendSamples()
	protobuf, json := exported(t, b.logs.writer.write(b.batch()))
	for _, s := range secrets {
		assert.NotContains(t, string(protobuf), s)
		assert.NotContains(t, string(json), s)
	}
	assert.Equal(t, 2, strings.Count(string(json), `"/path"`), "but for what is asked for")
}
