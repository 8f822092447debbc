// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package receiver

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"net"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/ebpfpackets/ebpfpackets/internal/app"
	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// BenchmarkMessages reads samples of questions and answers and writes full messages of their records, in turns with the same samples as
// records of packets that nobody reads. Each pair is a connection of its own, and is forgotten before it comes again. It is CPU time
// of the process, so that other load counts little, with everything that collecting garbage costs.
func BenchmarkMessages(b *testing.B) {
	clientHello, serverHello := hellos(b)
	for _, of := range []struct {
		name             string
		proto            uint8
		port             uint16
		question, answer string
	}{
		{"DNS", protoUDP, 53, dnsMessage(b, false), dnsMessage(b, true)},
		{
			"HTTP", protoTCP, 80,
			"GET /index.html HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n" +
				"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n",
			"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 1234\r\nServer: test\r\n\r\n" + strings.Repeat("x", 1234),
		},
		{"TLS", protoTCP, 443, clientHello, serverHello},
	} {
		b.Run(of.name, func(b *testing.B) {
			samples := make([]packet.Sample, 0, maxRecords)
			for i := range maxRecords / 2 {
				client, server := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(10000+i)), netip.AddrPortFrom(netip.MustParseAddr("198.51.100.2"), of.port)
				samples = append(samples, sampleOf(of.proto, client, server, of.question, 0), sampleOf(of.proto, server, client, of.answer, len(of.question)))
				samples[2*i].Direction = flow.DirectionEgress
			}
			m := newMessageBench(b, samples)
			var read, unread []float64
			for range 21 {
				read = append(read, m.timeOf(b, true))
				unread = append(unread, m.timeOf(b, false))
			}
			compare(b, "record", "read", read, "unread", unread)
			b.ReportMetric(1e9/read[len(read)/2], "records/s")
			b.ReportMetric(testing.AllocsPerRun(10, func() { m.write(true) })/float64(len(samples)), "read-allocs/record")
			b.ReportMetric(testing.AllocsPerRun(10, func() { m.write(false) })/float64(len(samples)), "unread-allocs/record")
		})
	}
}

// messageBench is what samples pass on their way to records, and a clock.
type messageBench struct {
	samples []packet.Sample
	reader  *messageReader
	writer  logsWriter
	now     int64
}

func newMessageBench(b *testing.B, samples []packet.Sample) *messageBench {
	b.Helper()
	c := testConfig()
	c.Packets.Protocols, c.Packets.HTTPPath = []string{"dns", "tls", "http"}, true
	m := &messageBench{
		samples: samples,
		reader:  newMessageReader(c, true),
		writer:  logsWriter{resource: pcommon.NewResource(), version: "1.2.3"},
		now:     epoch.UnixNano(),
	}
	m.requireAnswers(b)
	return m
}

func (m *messageBench) write(read bool) plog.Logs {
	q := &batch{observed: m.now, view: eth0}
	for i := range m.samples {
		m.now += int64(time.Microsecond)
		m.samples[i].Time = m.now
		if read {
			m.reader.add(q, &m.samples[i], m.now)
		} else {
			q.addSample(&m.samples[i], m.now)
		}
	}
	m.now += int64(10 * time.Minute) // nothing waits that long
	if read {
		m.reader.expire(m.now, 0, func(*app.Message) {})
	}
	return m.writer.write(q)
}

// timeOf returns the ns of CPU of one record, all of one turn of 20 ms, beginning with a clean heap.
func (m *messageBench) timeOf(b *testing.B, read bool) float64 {
	b.Helper()
	const turn = 20 * time.Millisecond
	runtime.GC()
	records, began := 0, processTime(b)
	for processTime(b)-began < turn {
		m.write(read)
		records += len(m.samples)
	}
	runtime.GC()
	return float64(processTime(b)-began) / float64(records)
}

// requireAnswers wants a record of each sample, and that half of them are answers.
func (m *messageBench) requireAnswers(b *testing.B) {
	b.Helper()
	for range 2 {
		records := m.write(true).ResourceLogs().At(0).ScopeLogs().At(0).LogRecords()
		require.Equal(b, len(m.samples), records.Len())
		answers := 0
		for _, r := range records.All() {
			if _, ok := r.Attributes().Get(attrMessageResponseTime); ok {
				answers++
			}
		}
		require.Equal(b, len(m.samples)/2, answers)
	}
}

// sampleOf is one with this payload as the kernel copies it with default settings. With TCP it is the first of its connection, which
// acknowledges so many bytes of the other side.
func sampleOf(proto uint8, from, to netip.AddrPort, payload string, acknowledged int) packet.Sample {
	f := testenv.Frame{From: from, To: to, Proto: proto, TCPFlags: psh | ack, Payload: len(payload)}
	frame := f.AppendTo(nil)
	copy(frame[len(frame)-len(payload):], payload)
	if proto == protoTCP {
		const number = 14 + 20 + 8 // behind Ethernet, IPv4, ports and sequence number, which is 1
		binary.BigEndian.PutUint32(frame[number:], uint32(1+acknowledged))
	}
	return packet.Sample{
		IfIndex: 1, Direction: flow.DirectionIngress, Reasons: packet.ReasonProtocol, Segments: 1, WireLen: uint32(len(frame)),
		Data: frame[:min(len(frame), 256)], Message: frame[:min(len(frame), 2048)],
	}
}

func dnsMessage(b *testing.B, response bool) string {
	b.Helper()
	name := dnsmessage.MustNewName("www.example.com.")
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, Response: response, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	if response {
		header := dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: 60}
		m.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AResource{A: [4]byte{203, 0, 113, 9}}}}
	}
	packed, err := m.Pack()
	require.NoError(b, err)
	return string(packed)
}

// hellos are the first records of a client and a server of crypto/tls.
func hellos(b *testing.B) (client, server string) {
	b.Helper()
	host := httptest.NewTLSServer(nil)
	defer host.Close()
	conn, err := net.Dial("tcp", host.Listener.Addr().String())
	require.NoError(b, err)
	heard := &listener{Conn: conn}
	roots := x509.NewCertPool()
	roots.AddCert(host.Certificate())
	ends := tls.Client(heard, &tls.Config{ServerName: "example.com", RootCAs: roots, MinVersion: tls.VersionTLS13})
	defer ends.Close()
	_, err = ends.Write([]byte("HEAD / HTTP/1.0\r\n\r\n"))
	require.NoError(b, err)
	_, err = io.ReadAll(ends) // until the server is done
	require.NoError(b, err)
	first := func(said []byte) string { return string(said[:5+int(said[3])<<8+int(said[4])]) }
	return first(heard.written), first(heard.read)
}

// listener keeps what passes through a connection.
type listener struct {
	net.Conn
	written, read []byte
}

func (l *listener) Write(b []byte) (int, error) {
	l.written = append(l.written, b...)
	return l.Conn.Write(b)
}

func (l *listener) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	l.read = append(l.read, b[:n]...)
	return n, err
}
