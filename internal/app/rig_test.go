// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/http2/hpack"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

var everything = Config{DNS: true, TLS: true, HTTP: true, HTTPPath: true}

// rig is a Tracker, what it told, and a clock. It acknowledges what the other half sent last, as TCP does.
type rig struct {
	*Tracker
	now  int64
	told []Message
	ends map[streamKey]uint32
}

func newRig() *rig {
	return &rig{Tracker: NewTracker(everything), now: 1_700_000_000_000_000_000, ends: map[streamKey]uint32{}}
}

func (r *rig) visit(m *Message) { r.told = append(r.told, *m) }

// read gives one segment, a millisecond after the one before.
func (r *rig) read(s Segment) {
	r.now += int64(time.Millisecond)
	s.Time = r.now
	s.Length = max(s.Length, len(s.Payload))
	if s.Ack == 0 {
		s.Ack = r.ends[streamKey{s.Key.Reversed(), 1 - s.Direction}]
	}
	r.ends[streamKey{s.Key, s.Direction}] = s.Seq + uint32(s.Length)
	r.Read(&s, r.visit)
}

// wait lets time pass, in which Expire is called as often as it asks for.
func (r *rig) wait(d time.Duration) {
	for ; d > time.Second; d -= time.Second {
		r.skip(time.Second)
	}
	r.skip(d)
}

// skip lets time pass, or sets the clock.
func (r *rig) skip(d time.Duration) {
	r.now += int64(d)
	r.Expire(r.now, r.visit)
}

// requireIdentity wants that what is documented at Counts holds, and that memory is what it is said to be.
func (r *rig) requireIdentity(t *testing.T) {
	t.Helper()
	requireIdentity(t, r.Tracker)
}

func requireIdentity(t *testing.T, tracker *Tracker) {
	t.Helper()
	c := tracker.Counts()
	for p := range ProtocolCount {
		given := uint64(0)
		for _, n := range c.GivenUp[p] {
			given += n
		}
		require.Equal(t, c.Begun[p], c.Told[p]+given+c.Open[p], "messages of protocol %d: %+v", p, c)
		require.Equal(t, c.Asked[p], c.Answered[p]+c.Unanswered[p]+c.Unknown[p]+c.Forgotten[p]+c.Waiting[p], "questions of protocol %d: %+v", p, c)
	}
	held := 0
	for _, table := range [...]*recent[streamKey, *stream]{tracker.open, tracker.quiet} {
		require.LessOrEqual(t, table.len(), tracker.limits.streams)
		for e := range table.all() {
			s := e.value
			held += s.size()
			require.Same(t, table, s.table)
			require.Equal(t, table == tracker.open, s.isOpen())
			require.LessOrEqual(t, len(s.pieces), tracker.limits.pieces)
			for i := range s.pieces {
				p := &s.pieces[i]
				require.False(t, p.borrowed, "a piece that is only lent was kept")
				require.Equal(t, p.state == ended, p.b == nil, "a message that ended holds memory")
				require.NotEqual(t, fresh, p.state)
				require.True(t, i == 0 || distance(s.pieces[i-1].end(), p.seq) >= 0, "pieces overlap")
			}
		}
	}
	require.Equal(t, held, tracker.bytes)
	require.LessOrEqual(t, held, tracker.limits.bytes)
}

// v4 is a key between two hosts, as their client sends.
func v4(proto uint8, client, server uint16) flow.Key {
	k := flow.Key{SrcPort: client, DstPort: server, IfIndex: 3, Proto: proto}
	copy(k.SrcAddr[12:], []byte{192, 0, 2, 1})
	copy(k.DstAddr[12:], []byte{198, 51, 100, 2})
	return k
}

// ask and answer are segments between that client and server, seen where the client is.
func ask(k flow.Key, seq uint32, payload string) Segment {
	return Segment{Key: k, Direction: flow.DirectionEgress, Seq: seq, TCPFlags: 0x10, Payload: []byte(payload)}
}

func answer(k flow.Key, seq uint32, payload string) Segment {
	return Segment{Key: k.Reversed(), Direction: flow.DirectionIngress, Seq: seq, TCPFlags: 0x10, Payload: []byte(payload)}
}

// dns makes a message, with the standard library's encoder.
func dns(id uint16, response bool, name string) string {
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, Response: response, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	if response {
		header := dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 60}
		m.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AResource{A: [4]byte{203, 0, 113, 9}}}}
	}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return string(b)
}

// prefixed puts the length before a DNS message.
func prefixed(message string) string {
	return string([]byte{byte(len(message) >> 8), byte(len(message))}) + message
}

const (
	getRequest = "GET /index.html?q=1 HTTP/1.1\r\nHost: www.example.com:8080\r\nUser-Agent: test/1\r\nAccept: */*\r\n\r\n"
	okResponse = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 1234\r\n\r\n"
)

// frameHTTP2 makes a frame of stream 1; RFC 9113 4.1.
func frameHTTP2(typ, flags byte, payload string) string {
	n := len(payload)
	return string([]byte{byte(n >> 16), byte(n >> 8), byte(n), typ, flags, 0, 0, 0, 1}) + payload
}

// fieldsHTTP2 are those of a request, as x/net encodes them.
func fieldsHTTP2(contentType string) string {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, f := range [...][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", "/a.B/C"}, {":authority", "a:1"}, {"content-type", contentType}, {"te", "trailers"},
	} {
		must(e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
	}
	return b.String()
}

// callHTTP2 is what a client says up to the end of its first request's fields.
func callHTTP2(contentType string) string {
	return string(prefaceHTTP2) + frameHTTP2(4, 0, "\x00\x04\x00\x01\x00\x00") + frameHTTP2(8, 0, "\x00\x0f\x00\x01") +
		frameHTTP2(frameHeaders, flagEndHeaders, fieldsHTTP2(contentType))
}

// hellos are what crypto/tls says first in a handshake.
type hellos struct{ client, server string }

var tls13 = sync.OnceValue(func() hellos { return handshakes(&tls.Config{MinVersion: tls.VersionTLS13}, 1)[0] })

// tls12 is a handshake and one that resumes it.
var tls12 = sync.OnceValue(func() []hellos {
	return handshakes(&tls.Config{MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12}, 2) //nolint:gosec // many still speak it
})

func handshakes(c *tls.Config, n int) (all []hellos) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"tls.example.com"}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(err)
	server := c.Clone()
	server.Certificates = []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}}
	client := c.Clone()
	client.ServerName = "tls.example.com"
	client.InsecureSkipVerify = true
	client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	client.NextProtos = []string{"h2"}
	server.NextProtos = []string{"h2"}
	listener, err := net.Listen("tcp", "127.0.0.1:0") // a net.Pipe has no room for what the server says unasked
	must(err)
	defer listener.Close()
	for range n {
		a, err := net.Dial("tcp", listener.Addr().String())
		must(err)
		b, err := listener.Accept()
		must(err)
		near, far := &recorder{Conn: a}, &recorder{Conn: b}
		done := make(chan error, 1)
		go func() { done <- tls.Server(far, server).Handshake() }()
		must(tls.Client(near, client).Handshake())
		must(<-done)
		a.Close()
		b.Close()
		all = append(all, hellos{near.record(), far.record()})
	}
	return all
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// recorder keeps the first bytes that were written to a connection.
type recorder struct {
	net.Conn
	first []byte
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.first == nil {
		r.first = append(r.first, b...)
	}
	return r.Conn.Write(b)
}

// record returns the first TLS record.
func (r *recorder) record() string { return string(r.first[:5+int(r.first[3])<<8+int(r.first[4])]) }

// TestRig: the messages that tests are made of are what they are said to be.
func TestRig(t *testing.T) {
	for _, b := range []string{tls13().client, tls13().server, tls12()[1].client, tls12()[1].server} {
		assert.Equal(t, byte(22), b[0])
	}
	assert.Equal(t, byte(1), tls13().client[5])
	assert.Equal(t, byte(2), tls13().server[5])
}
