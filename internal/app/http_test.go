// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2/hpack"
)

const parent = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"

// head reads one that is whole.
func head(t *testing.T, text string) *HTTP {
	t.Helper()
	var m Message
	n, err := readHTTP([]byte(text+"GET / body"), &m)
	require.NoError(t, err, "%q", text)
	require.Equal(t, len(text), n)
	return m.HTTP
}

func TestHTTPHeads(t *testing.T) {
	request := func(change func(h *HTTP)) HTTP {
		h := HTTP{Version: "1.1", Method: "GET", Path: "/", ContentLength: -1}
		change(&h)
		return h
	}
	for _, tt := range []struct {
		name, text string
		want       HTTP
	}{
		{"the least", "GET / HTTP/1.1\r\n\r\n", request(func(*HTTP) {})},
		{"a request", getRequest, request(func(h *HTTP) { h.Path, h.Host, h.Port, h.UserAgent = "/index.html", "www.example.com", 8080, "test/1" })},
		{"HTTP/1.0 and another method", "PROPFIND / HTTP/1.0\r\n\r\n", request(func(h *HTTP) { h.Version, h.Method = "1.0", "PROPFIND" })},
		{"LF alone", "GET / HTTP/1.1\nHost: a\n\n", request(func(h *HTTP) { h.Host = "a" })},
		{"a line that is continued", "GET / HTTP/1.1\r\nX: a\r\n b\r\n\tc\r\nHost: a\r\n\r\n", request(func(h *HTTP) { h.Host = "a" })},
		{"fragment", "GET /a#b?c HTTP/1.1\r\n\r\n", request(func(h *HTTP) { h.Path = "/a" })},
		{"absolute form wins over Host", "GET http://User:pw@A.example:81/x?q HTTP/1.1\r\nHost: b\r\n\r\n", request(func(h *HTTP) { h.Path, h.Host, h.Port = "/x", "a.example", 81 })},
		{"absolute form without path", "GET http://a?q HTTP/1.1\r\n\r\n", request(func(h *HTTP) { h.Host = "a" })},
		{"authority form", "CONNECT a.example:443 HTTP/1.1\r\n\r\n", request(func(h *HTTP) { h.Method, h.Path, h.Host, h.Port = "CONNECT", "", "a.example", 443 })},
		{"asterisk form", "OPTIONS * HTTP/1.1\r\n\r\n", request(func(h *HTTP) { h.Method, h.Path = "OPTIONS", "*" })},
		{"an IPv6 host", "GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n", request(func(h *HTTP) { h.Host, h.Port = "2001:db8::1", 80 })},
		{"a host that is none", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", request(func(*HTTP) {})},
		{"a port that is none", "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", request(func(*HTTP) {})},
		{"two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", request(func(h *HTTP) { h.Host = "a" })},
		{"user agent with control bytes", "GET / HTTP/1.1\r\nUser-Agent: a\x1b[1mb\xff\r\n\r\n", request(func(h *HTTP) { h.UserAgent = "a[1mb\ufffd" })},
		{"content", "GET / HTTP/1.1\r\nCONTENT-LENGTH:12\r\nContent-type: Text/HTML ; charset=x\r\n\r\n", request(func(h *HTTP) { h.ContentLength, h.ContentType = 12, "text/html" })},
		{"two lengths", "GET / HTTP/1.1\r\nContent-Length: 12\r\nContent-Length: 13\r\n\r\n", request(func(*HTTP) {})},
		{"the same length twice", "GET / HTTP/1.1\r\nContent-Length: 12\r\nContent-Length: 12\r\n\r\n", request(func(h *HTTP) { h.ContentLength = 12 })},
		{"a length with a sign", "GET / HTTP/1.1\r\nContent-Length: +12\r\n\r\n", request(func(*HTTP) {})},
		{"a type that is none", "GET / HTTP/1.1\r\nContent-Type: secret value\r\n\r\n", request(func(*HTTP) {})},
		{"API key", "GET / HTTP/1.1\r\nX-Api-Key: k\r\n\r\n", request(func(h *HTTP) { h.APIKey = true })},
		{"empty API key", "GET / HTTP/1.1\r\nX-Api-Key:\r\n\r\n", request(func(*HTTP) {})},
		{"a response", okResponse, HTTP{Response: true, Version: "1.1", Status: 200, ContentType: "text/html", ContentLength: 1234}},
		{"without reason", "HTTP/1.0 404\r\n\r\n", HTTP{Response: true, Version: "1.0", Status: 404, ContentLength: -1}},
		{"reason in another alphabet", "HTTP/1.1 404 \xe9\t!\r\n\r\n", HTTP{Response: true, Version: "1.1", Status: 404, ContentLength: -1}},
		{"Host of a response", "HTTP/1.1 200 \r\nHost: a\r\n\r\n", HTTP{Response: true, Version: "1.1", Status: 200, ContentLength: -1}},
		{"trace", "GET / HTTP/1.1\r\n" + parent + "tracestate: a=1, b@c=2\r\ntracestate: d=3\r\n\r\n", request(func(h *HTTP) {
			h.HasTrace, h.TraceFlags, h.TraceState = true, 1, "a=1,b@c=2,d=3"
			h.TraceID = [16]byte{0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x43, 0xdd, 0x84, 0x48, 0xeb, 0x21, 0x1c, 0x80, 0x31, 0x9c}
			h.SpanID = [8]byte{0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31}
		})},
		{"two traces", "GET / HTTP/1.1\r\n" + parent + parent + "tracestate: a=1\r\n\r\n", request(func(*HTTP) {})},
		{"tracestate alone", "GET / HTTP/1.1\r\ntracestate: a=1\r\n\r\n", request(func(*HTTP) {})},
	} {
		t.Run(tt.name, func(t *testing.T) { assert.Equal(t, tt.want, *head(t, tt.text)) })
	}
}

func TestNoHTTPHeads(t *testing.T) {
	for _, text := range []string{
		"GET  / HTTP/1.1\r\n", "GET / HTTP/1.1 \r\n", "GET /a b HTTP/1.1\r\n", "GET / HTTP/1.2\r\n", "GET / HTTP/2.0\r\n", "GET /\r\n",
		"GET a HTTP/1.1\r\n", "GET * HTTP/1.1\r\n", "GET  HTTP/1.1\r\n", "CONNECT / HTTP/1.1\r\n", "GET 1://a HTTP/1.1\r\n", "GET http:///a HTTP/1.1\r\n",
		"G(T / HTTP/1.1\r\n", strings.Repeat("G", 33) + " / HTTP/1.1\r\n", " / HTTP/1.1\r\n", "GET /\x00 HTTP/1.1\r\n", "GET /\x01", "GET /\rx",
		"HTTP/1.1 20 OK\r\n", "HTTP/1.1 2000 OK\r\n", "HTTP/1.1\r\n", "HTTP/1.3 200 OK\r\n", "HTTP/1.1  200 OK\r\n", "HTTP/1.1 abc\r\n",
		"GET / HTTP/1.1\r\nno colon\r\n", "GET / HTTP/1.1\r\nHost : a\r\n", "GET / HTTP/1.1\r\n: a\r\n", "GET / HTTP/1.1\r\na: b\rc\r\n", "GET / HTTP/1.1\r\na: \x00",
	} {
		var m Message
		_, err := readHTTP([]byte(text), &m)
		assert.ErrorIs(t, err, errMalformed, "%q", text)
	}
}

func TestAuthorizationSchemes(t *testing.T) {
	for value, want := range map[string]string{
		"Bearer abc": "bearer", "bAsIc abc": "basic", "AWS4-HMAC-SHA256 Credential=a": "aws4-hmac-sha256", "Negotiate": "negotiate",
		"abc": "other", "abc def": "other", "Bearer\tabc": "other", "": "", strings.Repeat("b", 100) + " x": "other",
	} {
		assert.Equal(t, want, head(t, "GET / HTTP/1.1\r\nAuthorization: "+value+"\r\n\r\n").AuthScheme, "%q", value)
	}
}

func TestTraceparent(t *testing.T) {
	id, span := "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	for value, want := range map[string]bool{
		"00-" + id + "-" + span + "-01":                      true,
		"cc-" + id + "-" + span + "-01":                      true,
		"cc-" + id + "-" + span + "-01-more":                 true,
		"cc-" + id + "-" + span + "-01more":                  false,
		"00-" + id + "-" + span + "-01-more":                 false,
		"ff-" + id + "-" + span + "-01":                      false,
		"00-" + strings.ToUpper(id) + "-" + span + "-01":     false,
		"00-" + strings.Repeat("0", 32) + "-" + span + "-01": false,
		"00-" + id + "-" + strings.Repeat("0", 16) + "-01":   false,
		"00-" + id + "-" + span + "-0":                       false,
		"00-" + id + "_" + span + "-01":                      false,
		"00-" + id[:31] + "g-" + span + "-01":                false,
		"0x-" + id + "-" + span + "-01":                      false,
	} {
		h := head(t, "GET / HTTP/1.1\r\ntraceparent: "+value+"\r\ntracestate: a=1\r\n\r\n")
		assert.Equal(t, want, h.HasTrace, value)
		if !want {
			assert.Equal(t, HTTP{Version: "1.1", Method: "GET", Path: "/", ContentLength: -1}, *h)
		}
	}
}

func TestTraceState(t *testing.T) {
	long := "k=" + strings.Repeat("v", 250)
	for value, want := range map[string]string{
		"a=1 ,, b=2": "a=1,b=2", "a= 1": "a= 1", "A=1": "", "a": "", "=1": "", "a=": "", "a=1=2": "", "a=\x80": "", "a=1,B=2": "", "_a=1": "",
		"0a_-*/@z=!~": "0a_-*/@z=!~", "a=" + strings.Repeat("v", 257): "",
		long + "," + long + "," + long + ",x=1": long + "," + long, // whole ones from the left
		strings.Repeat("a=1,", 33):              strings.TrimSuffix(strings.Repeat("a=1,", 32), ","),
	} {
		assert.Equal(t, want, head(t, "GET / HTTP/1.1\r\n"+parent+"tracestate: "+value+"\r\n\r\n").TraceState, value)
	}
}

func TestBoundsOfHTTP(t *testing.T) {
	long := strings.Repeat("é", 2000)
	h := head(t, "GET /"+long+" HTTP/1.1\r\nUser-Agent: "+long+"\r\nHost: "+strings.Repeat("a", 256)+"\r\nContent-Type: a/"+strings.Repeat("b", 127)+"\r\n\r\n")
	assert.Equal(t, "/"+long[:MaxPath-2], h.Path)
	assert.Equal(t, long[:maxUserAgent], h.UserAgent)
	assert.Empty(t, h.Host+h.ContentType)
	assert.Equal(t, strings.Repeat("a", maxUserAgent), head(t, "GET / HTTP/1.1\r\nUser-Agent: "+strings.Repeat("a", 999)+"\r\n\r\n").UserAgent)
}

func TestPathOnlyIfAskedFor(t *testing.T) {
	r := newRig()
	r.Tracker = NewTracker(Config{HTTP: true})
	r.read(ask(v4(protoTCP, 40000, 80), 0, getRequest))
	require.Len(t, r.told, 1)
	assert.Empty(t, r.told[0].HTTP.Path)
}

func TestOnlyProtocolsThatAreAskedFor(t *testing.T) {
	r := newRig()
	r.Tracker = NewTracker(Config{})
	for i, m := range messages() {
		r.read(m.cut(uint32(i) * 10_000)[0])
	}
	r.read(ask(v4(protoUDP, 40000, 53), 0, dns(7, false, "a.")))
	assert.Empty(t, r.told)
	assert.Equal(t, Counts{}, r.Counts())
}

func TestHTTP2(t *testing.T) {
	assert.Equal(t, hpack.AppendHuffmanString(nil, typeGRPC), typeGRPCHuffman)
	for suffix := range 256 {
		huffman := hpack.AppendHuffmanString(nil, typeGRPC+string([]byte{byte(suffix)}))
		assert.Equal(t, typeGRPCHuffman, huffman[:len(typeGRPCHuffman)])
	}
	settings, fields := frameHTTP2(4, 0, ""), fieldsHTTP2("application/grpc")
	request, other := frameHTTP2(frameHeaders, flagEndHeaders, fields), frameHTTP2(frameHeaders, flagEndHeaders, fieldsHTTP2("application/json"))
	middle := strings.Index(fields, string(typeGRPCHuffman)) + 5
	for _, tt := range []struct {
		name, behind string
		want         bool
	}{
		{"gRPC", settings + request, true},
		{"with a suffix", settings + frameHTTP2(frameHeaders, flagEndHeaders, fieldsHTTP2("application/grpc+proto")), true},
		{"as plain text", settings + frameHTTP2(frameHeaders, flagEndHeaders, "\x0f\x10\x10application/grpc"), true},
		{"with the end of the stream", frameHTTP2(frameHeaders, flagEndHeaders|1, fields), true},
		{"in two frames", frameHTTP2(frameHeaders, 0, fields[:middle]) + frameHTTP2(frameContinuation, flagEndHeaders, fields[middle:]), true},
		{"another type", settings + other, false},
		{"no fields", settings + frameHTTP2(frameHeaders, flagEndHeaders, ""), false},
		{"in a frame before", frameHTTP2(0xfa, flagEndHeaders, fields) + other, false},
		{"in the body", other + frameHTTP2(0, 0, fields), false},
		{"in another request", other + request, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig()
			r.read(ask(v4(protoTCP, 40000, 80), 0, string(prefaceHTTP2)+tt.behind))
			require.Len(t, r.told, 1)
			assert.Equal(t, HTTP{Version: "2", GRPC: tt.want, ContentLength: -1}, *r.told[0].HTTP)
			assert.Zero(t, r.Counts().Asked)
			r.requireIdentity(t)
		})
	}
}

// TestHTTP2WithoutItsFirstRequest: that it is HTTP/2 is told when no more of it is to be expected.
func TestHTTP2WithoutItsFirstRequest(t *testing.T) {
	k, call := v4(protoTCP, 40000, 80), callHTTP2("application/grpc")
	for n := len(prefaceHTTP2); n < len(call)-1; n++ {
		fin, cut := ask(k, uint32(n), ""), ask(k, uint32(n), call[n:n+1])
		fin.TCPFlags |= tcpFIN
		cut.Length = 1000
		for _, tt := range []struct {
			name string
			seen string
			end  func(r *rig)
		}{
			{"nothing more comes", call[:n], func(r *rig) { r.wait(time.Millisecond) }},
			{"FIN", call[:n], func(r *rig) { r.read(fin) }},
			{"captured in part", call[:n+1], func(r *rig) { r.read(cut) }},
		} {
			r := newRig()
			r.read(ask(k, 0, call[:n]))
			r.wait(defaultLimits.patience - time.Millisecond)
			require.Empty(t, r.told, n)
			tt.end(r)
			require.Len(t, r.told, 1, "%s after %d bytes", tt.name, n)
			want := HTTP{Version: "2", GRPC: strings.Contains(tt.seen, string(typeGRPCHuffman)), Cut: true, ContentLength: -1}
			require.Equal(t, want, *r.told[0].HTTP, "%s after %d bytes", tt.name, n)
			r.requireIdentity(t)
		}
	}
}

// TestSecretsAreNotTold: wherever one may be, no field of any message has it, however the message is cut.
func TestSecretsAreNotTold(t *testing.T) {
	const canary = "c4n4ry"
	secret := func(field string) string { return field + "\r\nHost: user:" + canary + "@host\r\n\r\n" + canary }
	for _, text := range []string{
		secret("GET /?token=" + canary + " HTTP/1.1"),
		secret("GET /a?" + canary + "#" + canary + " HTTP/1.1"),
		secret("GET http://user:" + canary + "@host/a?b=" + canary + " HTTP/1.1"),
		secret("GET http://" + canary + "@host HTTP/1.1"),
		secret("CONNECT " + canary + "@host:443 HTTP/1.1"),
		secret("GET / HTTP/1.1\r\nAuthorization: Bearer " + canary),
		secret("GET / HTTP/1.1\r\nAuthorization: Basic  " + canary),
		secret("GET / HTTP/1.1\r\nAuthorization: " + canary),
		secret("GET / HTTP/1.1\r\nAuthorization: " + canary + " " + canary),
		secret("GET / HTTP/1.1\r\nAuthorization: Bearer\r\n " + canary),
		secret("GET / HTTP/1.1\r\nAuthorization: Digest username=\"" + canary + "\", nonce=" + canary),
		secret("GET / HTTP/1.1\r\nProxy-Authorization: Basic " + canary),
		secret("GET / HTTP/1.1\r\nCookie: id=" + canary),
		secret("GET / HTTP/1.1\r\nReferer: http://a/?" + canary),
		secret("GET / HTTP/1.1\r\nX-Api-Key: " + canary),
		secret("GET / HTTP/1.1\r\nX-Unknown: " + canary + "\r\n\t" + canary),
		secret("GET / HTTP/1.1\r\nContent-Type: text/plain; a=" + canary),
		secret("GET / HTTP/1.1\r\nContent-Length: " + canary),
		secret("GET / HTTP/1.1\r\nHost: a/" + canary),
		secret("GET / HTTP/1.1\r\nHost: a:" + canary),
		secret("GET / HTTP/1.1\r\ntraceparent: " + canary + "\r\ntracestate: a=" + canary),
		secret("HTTP/1.1 200 " + canary + "\r\nSet-Cookie: id=" + canary),
		secret("HTTP/1.1 302 Found\r\nLocation: /?" + canary),
		secret("HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=" + canary),
		secret("POST / HTTP/1.1\r\nContent-Length: 6"),
	} {
		m := sent{key: v4(protoTCP, 40000, 80), text: text}
		for i := 1; i <= len(text); i++ {
			for _, captured := range []bool{true, false} {
				r := newRig()
				parts := m.cut(0, i)
				if !captured { // the first part is all there is
					parts = parts[:1]
					parts[0].Length = len(text) + 1
				}
				for _, p := range parts {
					r.read(p)
				}
				r.wait(3600e9)
				for _, told := range r.told {
					requireNowhere(t, reflect.ValueOf(told), canary)
				}
				require.True(t, i < len(text) || len(r.told) == 1, "%q", text)
			}
		}
	}
}

// requireNowhere looks into every string and byte that v holds.
func requireNowhere(t *testing.T, v reflect.Value, canary string) {
	t.Helper()
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			requireNowhere(t, v.Elem(), canary)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			requireNowhere(t, v.Field(i), canary)
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			requireNowhere(t, v.Index(i), canary)
		}
	case reflect.String:
		require.NotContains(t, strings.ToLower(v.String()), canary)
	case reflect.Map, reflect.Interface, reflect.Func, reflect.Chan:
		t.Fatalf("look into a %s, too", v.Kind())
	}
}

func FuzzHTTP(f *testing.F) {
	for _, m := range messages() {
		f.Add([]byte(m.text))
	}
	f.Add([]byte("GET http://u:p@h:1/p?q HTTP/1.1\nAuthorization: Bearer x\r\n" + parent + "tracestate: a=1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m Message
		n, err := readHTTP(bytes.Clone(b), &m)
		if err != nil {
			require.NotEqual(t, errors.Is(err, errMore), errors.Is(err, errMalformed))
			require.Zero(t, n)
		} else {
			require.Positive(t, n)
			require.LessOrEqual(t, n, len(b))
			requireAgain(t, b, n, &m)
		}
		if m.HTTP == nil {
			require.Error(t, err)
			return
		}
		requireShown(t, m.HTTP)
	})
}

// requireAgain wants the same of the same bytes whatever follows, and more bytes of any part.
func requireAgain(t *testing.T, b []byte, n int, want *Message) {
	if want.HTTP.Version == versionHTTP2 {
		return
	}
	var m Message
	again, err := readHTTP(append(bytes.Clone(b[:n]), "GET / HTTP/1.1\r\n\r\n"...), &m)
	require.NoError(t, err)
	require.Equal(t, n, again)
	require.Equal(t, want, &m)
	for i := range n {
		_, err := readHTTP(b[:i], &Message{})
		require.ErrorIs(t, err, errMore, "%q", b[:i])
	}
}

// requireShown wants that everything may be shown and is bounded.
func requireShown(t *testing.T, h *HTTP) {
	for value, most := range map[string]int{
		h.Method: maxMethod, h.Path: MaxPath, h.Host: maxHost, h.UserAgent: maxUserAgent, h.ContentType: maxContentType,
		h.AuthScheme: 32, h.TraceState: maxTraceState,
	} {
		require.LessOrEqual(t, len(value), max(most, MaxPath))
		require.True(t, utf8.ValidString(value), "%q", value)
		require.Equal(t, value, clean([]byte(value), MaxPath), "%q", value)
	}
	require.NotContains(t, h.Path, "?")
	require.NotContains(t, h.Path, "#")
	require.NotContains(t, h.Host, "@")
}
