// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// serveWords thinks, and answers each request with a text of ten bytes; of path /absent there is none. More may be nil.
func serveWords(t *testing.T, e *testenv.End, port uint16, more http.HandlerFunc) {
	t.Helper()
	server := &http.Server{
		ReadHeaderTimeout: patience,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if more != nil {
				more(w, r)
			}
			_, _ = io.Copy(io.Discard, r.Body)
			time.Sleep(thinking)
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			if r.URL.Path == "/absent" {
				w.WriteHeader(http.StatusNotFound)
			}
			_, _ = w.Write([]byte("ten bytes\n"))
		}),
	}
	t.Cleanup(func() { server.Close() })
	for _, v6 := range []bool{false, true} {
		l := e.ListenTCP(v6, port)
		go func() { _ = server.Serve(l) }()
	}
}

// requireExchange wants one request with these attributes, and an answer to it with those. It returns when the request was sent.
func (r result) requireExchange(t *testing.T, version string, request, response map[string]any) time.Time {
	t.Helper()
	m := r.message(t, request)
	label := map[string]any{"network.protocol.name": "http", "network.protocol.version": version, "packet.message.cut": nil}
	requireSays(t, &m, label)
	requireSays(t, &m, map[string]any{
		"packet.message.type": "request", "network.io.direction": "transmit", "http.response.status_code": nil,
		"packet.message.response_time": nil, "http.response.body.size": nil, "http.response.header.content-type": nil,
	})
	answer := r.answer(t, &m)
	requireSays(t, &answer, label)
	requireSays(t, &answer, response)
	requireSays(t, &answer, map[string]any{
		"network.io.direction": "receive", "http.request.method": nil, "url.path": nil, "server.address": nil, "user_agent.original": nil,
		"http.response.header.content-type": texts("text/plain"), "http.response.body.size": int64(10),
	})
	requireElapsed(t, &answer, thinking, answer.Time.Sub(m.Time))
	r.requireLabel(t, &m, "http", version, m.Attributes["server.address"])
	return m.Time
}

// TestHTTPMessages compares the records with what curl was told to send and the server to answer.
func TestHTTPMessages(t *testing.T) {
	left, right := testenv.Pair(t, testenv.PairConfig{})
	curl := testenv.Tool(t, "curl")
	serveWords(t, right, 80, nil)
	c := start(t, left.NetNS, messageSettings)
	for _, v6 := range []bool{false, true} {
		resolve := "web.example:80:" + right.V4.String()
		agent := "agent/4 (test)"
		if v6 {
			resolve, agent = "web.example:80:["+right.V6.String()+"]", "agent/6 (test)"
		}
		common := []string{"-sS", "--resolve", resolve, "-A", agent}
		left.Run(curl, append(common, "http://Web.Example/one/path?with=query#and")...)
		left.Run(curl, append(common, "--http1.0", "http://web.example/absent")...)
		left.Run(curl, append(common, "-H", "Content-Type: application/json; x=y", "-d", `{"a":"body"}`, "http://web.example/posted")...)
	}
	out := c.stopAfter(t, left.NetNS, outcomes{"http": {"told": 2 * 6}})
	ok, absent := map[string]any{"http.response.status_code": int64(200)}, map[string]any{"http.response.status_code": int64(404)}
	for version, agent := range map[string]string{"ipv4": "agent/4 (test)", "ipv6": "agent/6 (test)"} {
		request := func(method, path string, contentType, size any) map[string]any {
			return map[string]any{
				"network.type": version, "user_agent.original": agent, "server.address": "web.example", "server.port": nil,
				"destination.port": int64(80), "http.request.method": method, "url.path": path,
				"http.request.header.content-type": contentType, "http.request.body.size": size,
				"packet.http.authorization.scheme": nil, "packet.http.api_key": nil,
			}
		}
		out.requireExchange(t, "1.1", request("GET", "/one/path", nil, nil), ok)
		out.requireExchange(t, "1.1", request("POST", "/posted", texts("application/json"), int64(12)), ok)
		old := request("GET", "/absent", nil, nil)
		sent := out.message(t, old)
		requireSays(t, &sent, map[string]any{"network.protocol.version": "1.0"})
		answer := out.answer(t, &sent)
		requireSays(t, &answer, absent)
	}
}

// TestHTTPRequestsOfOneConnection has Go's client ask one question after the other.
func TestHTTPRequestsOfOneConnection(t *testing.T) {
	left, right := testenv.Pair(t, testenv.PairConfig{})
	serveWords(t, right, 8080, nil)
	c := start(t, left.NetNS, strings.Replace(messageSettings, "[dns, tls, http]", "[dns, tls, http], http_path: false", 1))
	transport := &http.Transport{}
	conn := dial(t, left, net.TCPAddrFromAddrPort(netip.AddrPortFrom(right.V6, 8080)))
	transport.DialContext = func(context.Context, string, string) (net.Conn, error) { return conn, nil } // a second one is closed
	const asked = 5
	for i := range asked {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, fmt.Sprintf("http://%v/path/%d", netip.AddrPortFrom(right.V6, 8080), i),
			strings.NewReader(strings.Repeat("x", i+1)))
		require.NoError(t, err)
		request.Header.Set("User-Agent", fmt.Sprintf("go/%d", i))
		response, err := transport.RoundTrip(request)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, response.Body)
		require.NoError(t, err)
		response.Body.Close()
	}
	transport.CloseIdleConnections()
	out := c.stopAfter(t, left.NetNS, outcomes{"http": {"told": 2 * asked}})
	answers := out.messages(map[string]any{"packet.message.type": "response"})
	require.Len(t, answers, asked)
	for i := range asked {
		m := out.message(t, map[string]any{"user_agent.original": fmt.Sprintf("go/%d", i)})
		requireSays(t, &m, map[string]any{
			"http.request.method": "PUT", "url.path": nil, "server.address": right.V6.String(), "server.port": int64(8080),
			"http.request.body.size": int64(i + 1), "source.port": int64(conn.LocalAddr().(*net.TCPAddr).Port),
		})
		assert.NotContains(t, m.Body, "/path")
		assert.True(t, m.Time.Before(answers[i].Time))
		requireElapsed(t, &answers[i], thinking, answers[i].Time.Sub(m.Time))
	}
	request := out.message(t, map[string]any{"user_agent.original": "go/0"})
	out.requireLabel(t, &request, "http", "1.1", right.V6.String())
}

// TestTraceOfARequest sends traceparent, and finds the record in that trace.
func TestTraceOfARequest(t *testing.T) {
	left, right := testenv.Pair(t, testenv.PairConfig{})
	curl := testenv.Tool(t, "curl")
	serveWords(t, right, 80, nil)
	c := start(t, left.NetNS, messageSettings)
	const trace, sampled, other = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"
	url := "http://" + right.V4.String()
	left.Run(curl, "-sS", "-H", "traceparent: 00-"+trace+"-"+sampled+"-01", "-H", "tracestate: vendor=one,other=two", url+"/sampled")
	left.Run(curl, "-sS", "-H", "traceparent: 00-"+trace+"-"+other+"-00", url+"/not-sampled")
	left.Run(curl, "-sS", "-H", "traceparent: 00-"+strings.ToUpper(trace)+"-"+other+"-01", "-H", "tracestate: vendor=one", url+"/invalid")
	out := c.stopAfter(t, left.NetNS, outcomes{"http": {"told": 6}})
	for path, want := range map[string]struct {
		trace, span string
		flags       uint32
		state       any
	}{
		"/sampled":     {trace, sampled, 1, "vendor=one,other=two"},
		"/not-sampled": {trace, other, 0, nil},
		"/invalid":     {"", "", 0, nil},
	} {
		m := out.message(t, map[string]any{"url.path": path})
		assert.Equal(t, []any{want.trace, want.span, want.flags}, []any{m.TraceID, m.SpanID, m.Flags}, path)
		requireSays(t, &m, map[string]any{"packet.http.tracestate": want.state})
		answer := out.answer(t, &m)
		assert.Empty(t, answer.TraceID, "the server says none")
	}
}

// TestHTTPHeadInPieces has a request and its answer come in a few bytes at a time.
func TestHTTPHeadInPieces(t *testing.T) {
	left, right := testenv.Pair(t, testenv.PairConfig{})
	c := start(t, left.NetNS, messageSettings)
	request := []string{"GE", "T /in/piec", "es?q HTTP/1.1\r\nHo", "st: pieces.example:81\r\nUser-Agent: slow", "ly\r", "\n\r", "\n"}
	response := []string{"H", "TTP/1.", "1 203 Fine\r\nContent-", "Type: text/plain\r\nContent-Length: 10\r\n", "\r\n", "ten ", "bytes\n"}
	for _, v6 := range []bool{false, true} {
		l := right.ListenTCP(v6, 81)
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				time.Sleep(thinking)
				_ = inPieces(conn, response)
			}
		}()
		conn := dial(t, left, l.Addr().(*net.TCPAddr))
		require.NoError(t, inPieces(conn, request))
		said, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.Equal(t, strings.Join(response, ""), string(said))
		conn.Close()
	}
	out := c.stopAfter(t, left.NetNS, outcomes{"http": {"told": 4}})
	for _, version := range []string{"ipv4", "ipv6"} {
		out.requireExchange(t, "1.1", map[string]any{
			"network.type": version, "http.request.method": "GET", "url.path": "/in/pieces", "server.address": "pieces.example",
			"server.port": int64(81), "user_agent.original": "slowly", "packet.payload_length": int64(1), // of the last piece
		}, map[string]any{"http.response.status_code": int64(203), "packet.payload_length": int64(2)})
	}
}

// inPieces sends each piece in a segment of its own: Go sets TCP_NODELAY.
func inPieces(w io.Writer, pieces []string) error {
	for _, p := range pieces {
		if _, err := io.WriteString(w, p); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}
