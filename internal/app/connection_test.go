// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Heads with bodies.
const (
	chunkedPost     = "POST /up HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
	chunkedResponse = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	endless         = "HTTP/1.0 200 OK\r\n\r\n"
	serverError     = "HTTP/1.1 500 SECRET\r\n\r\n"
)

func post(length int64) string {
	return fmt.Sprintf("POST /up HTTP/1.1\r\nContent-Length: %d\r\n\r\n", length)
}

func responseOf(status int, length int64) string {
	return fmt.Sprintf("HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n", status, length)
}

// TestBodiesAreNoMessages: whatever they begin with, wherever a segment of them begins, and however long they take.
func TestBodiesAreNoMessages(t *testing.T) {
	k := v4(protoTCP, 40000, 80)
	for name, tt := range map[string]struct {
		heads []Segment // in order
		body  Segment   // far behind the last of them
	}{
		"an upload":                 {[]Segment{ask(k, 0, post(5_000_000))}, ask(k, 1000, getRequest)},
		"1 MiB behind":              {[]Segment{ask(k, 0, post(5_000_000))}, ask(k, window+1000, getRequest)},
		"3 GiB behind":              {[]Segment{ask(k, 77, post(4<<30-1))}, ask(k, 3<<30, getRequest)},
		"5 GiB":                     {[]Segment{ask(k, 77, post(5<<30))}, ask(k, 3<<30, getRequest)},
		"a chunked upload":          {[]Segment{ask(k, 0, chunkedPost)}, ask(k, 3<<30, getRequest)},
		"contradicting lengths":     {[]Segment{ask(k, 0, "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n")}, ask(k, 1000, getRequest)},
		"after an interim response": {[]Segment{ask(k, 0, chunkedPost), answer(k, 0, "HTTP/1.1 100 Continue\r\n\r\n")}, ask(k, 1000, getRequest)},
		"after an earlier answer":   {[]Segment{ask(k, 0, get("/")+chunkedPost), answer(k, 0, status(200))}, ask(k, 1000, getRequest)},
		"a download":                {[]Segment{ask(k, 0, get("/")), answer(k, 0, responseOf(200, 5_000_000))}, answer(k, 4_000_000, serverError)},
		"a chunked download":        {[]Segment{ask(k, 0, get("/")), answer(k, 0, chunkedResponse)}, answer(k, 3<<30, serverError)},
		"until the end":             {[]Segment{ask(k, 0, get("/")), answer(k, 0, endless)}, answer(k, 3<<30, serverError)},
		"before a pipelined answer": {[]Segment{ask(k, 0, get("/")+get("/")), answer(k, 0, chunkedResponse)}, answer(k, 1000, serverError)},
		"a request that was sent":   {[]Segment{ask(k, 0, "TRACE / HTTP/1.1\r\n\r\n")}, answer(k, 0, getRequest)},
		"a response as upload":      {[]Segment{ask(k, 0, get("/"))}, ask(k, uint32(len(get("/"))), serverError)},
		"a hello":                   {[]Segment{ask(k, 0, post(5_000_000))}, ask(k, 1000, tls13().client)},
		"HTTP/2":                    {[]Segment{ask(k, 0, callHTTP2("a/b"))}, ask(k, 1000, getRequest)},
		"HTTP/2 of the server":      {[]Segment{ask(k, 0, callHTTP2("a/b"))}, answer(k, 1000, serverError)},
		"a WebSocket":               {[]Segment{ask(k, 0, get("/")), answer(k, 0, status(101))}, answer(k, 1000, serverError)},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig()
			for _, s := range tt.heads {
				r.read(s)
			}
			heads := len(r.told)
			require.GreaterOrEqual(t, heads, len(tt.heads))
			r.wait(6 * time.Second)
			answered := r.Counts().Answered
			r.read(tt.body)
			r.wait(6 * time.Second)
			require.Len(t, r.told, heads, "%+v", r.last(t).HTTP)
			assert.Equal(t, answered, r.Counts().Answered)
			r.requireIdentity(t)
		})
	}
}

// TestABodyInOneSegmentWithItsHead is that of TRACE (RFC 9110 9.3.8), or holds whole messages (RFC 9112 10.1).
func TestABodyInOneSegmentWithItsHead(t *testing.T) {
	k := v4(protoTCP, 40000, 80)
	for _, head := range []string{endless, chunkedResponse, responseOf(200, int64(len(getRequest+okResponse)))} {
		for _, body := range []string{getRequest + okResponse, okResponse + getRequest} {
			r := newRig()
			r.read(ask(k, 0, "TRACE / HTTP/1.1\r\n\r\n"))
			r.read(answer(k, 0, head+body))
			require.Len(t, r.told, 2, "%q", head+body)
			r.requireIdentity(t)
		}
	}
}

// TestHeadsBehindBodies are told: bodies end.
func TestHeadsBehindBodies(t *testing.T) {
	k := v4(protoTCP, 40000, 80)
	n := func(s string) uint32 { return uint32(len(s)) }
	tunnel := "CONNECT a:1 HTTP/1.1\r\n\r\n"
	for name, heads := range map[string][]Segment{
		"an upload":          {ask(k, 0, post(5000)), ask(k, n(post(5000))+5000, getRequest)},
		"an upload of 3 GiB": {ask(k, 0, post(3<<30)), ask(k, n(post(3<<30))+3<<30, getRequest)},
		"a chunked upload":   {ask(k, 0, chunkedPost), acked(answer(k, 0, status(200)), 5000), ask(k, 5000, getRequest)},
		"a chunked download": {ask(k, 0, get("/1")), answer(k, 0, chunkedResponse), acked(ask(k, n(get("/1")), getRequest), 9000), answer(k, 9000, status(200))},
		"a chunked download of 3 GiB": {
			ask(k, 0, get("/1")), answer(k, 0, chunkedResponse), acked(ask(k, n(get("/1")), getRequest), 3<<30), answer(k, 3<<30, status(200)),
		},
		"none of HEAD":         {ask(k, 0, "HEAD / HTTP/1.1\r\n\r\n"+getRequest), answer(k, 0, okResponse+okResponse)},
		"none of 304":          {ask(k, 0, getRequest), answer(k, 0, responseOf(304, 5000)+status(200))},
		"none of 204":          {ask(k, 0, getRequest), answer(k, 0, "HTTP/1.1 204 X\r\n\r\n"+status(200))},
		"a tunnel":             {ask(k, 0, tunnel), answer(k, 0, "HTTP/1.1 200 X\r\n\r\n"), ask(k, n(tunnel), tls13().client), answer(k, 19, tls13().server)},
		"another connection":   {ask(k, 0, chunkedPost), syn(ask(k, 9000, "")), ask(k, 9001, getRequest)},
		"an upgrade to HTTP/2": {ask(k, 0, getRequest), answer(k, 0, status(101)), ask(k, n(getRequest), callHTTP2("a/b"))},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig()
			want := 0
			for _, s := range heads {
				r.read(s)
				want += strings.Count(string(s.Payload), "HTTP/") // callHTTP2 has one, too
				if len(s.Payload) > 0 && s.Payload[0] == recordHandshake {
					want++
				}
			}
			require.Len(t, r.told, want)
			r.requireIdentity(t)
		})
	}
}

// acked is s with an acknowledgement, syn with a SYN.
func acked(s Segment, ack uint32) Segment {
	s.Ack = ack
	return s
}

func syn(s Segment) Segment {
	s.TCPFlags = tcpSYN
	return s
}

// TestLateHeadsKeepBodies: one that comes after what was sent behind it.
func TestLateHeadsKeepBodies(t *testing.T) {
	k := v4(protoTCP, 40000, 80)
	n := uint32(len(get("/1")))
	r := newRig()
	r.read(ask(k, n, post(5_000_000)))
	r.read(ask(k, 0, get("/1")))
	assert.Len(t, r.told, 2)
	r.read(ask(k, n+9000, getRequest))
	assert.Len(t, r.told, 2)
	r.requireIdentity(t)
}

// TestBodiesBehindHeadsThatAreCut: nobody knows where they begin.
func TestBodiesBehindHeadsThatAreCut(t *testing.T) {
	k := v4(protoTCP, 40000, 80)
	for head, want := range map[string]int{
		"POST / HTTP/1.1\r\nHost: a\r\n": 1, "GET / HTTP/1.1\r\nHost: a\r\n": 2, "GET / HTTP/1.1\r\nContent-Length: 5\r\nHost: a\r\n": 1,
	} {
		r := newRig()
		s := ask(k, 0, head)
		s.Length = 2000
		r.read(s)
		r.read(ask(k, 9000, getRequest))
		assert.Len(t, r.told, want, head)
		r.requireIdentity(t)
	}
}

// TestConnectionsAreForgotten after as long as their requests are.
func TestConnectionsAreForgotten(t *testing.T) {
	k := v4(protoTCP, 40000, 80)
	r := newRig()
	r.read(ask(k, 0, post(5_000_000)))
	r.wait(time.Duration(httpWait) - time.Second)
	r.read(ask(k, 1000, getRequest))
	assert.Len(t, r.told, 1)
	r.wait(2 * time.Second)
	assert.Zero(t, r.exchanges.http.len())
	r.read(ask(k, 200_000, getRequest))
	assert.Len(t, r.told, 2)
	r.requireIdentity(t)
}
