// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/frames"
)

// TestTsharkReadsTheSameHeads asks about heads that are well-formed: of others each reader has its own idea. Of bytes that are no ASCII
// it writes each apart, and behind a line that is continued it reads no field.
func TestTsharkReadsTheSameHeads(t *testing.T) {
	heads := []string{
		getRequest,
		okResponse,
		"POST /a/b,c=1?d=e#f HTTP/1.0\r\nHOST:example.org\r\nuser-agent:  spaces  \r\nContent-Length: 3\r\nContent-Type: Application/JSON\r\n\r\n",
		"HEAD /caf%C3%A9 HTTP/1.1\r\nHost: [2001:db8::1]:81\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET / HTTP/1.1\nHost: lf.example\nUser-Agent: lf\n\n",
		"DELETE / HTTP/1.1\r\nHost: a\r\nX: b\r\nUser-Agent: behind\r\n\r\n",
		"HTTP/1.1 304 Not Modified\r\n\r\n",
		"HTTP/1.0 404\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
	}
	var all []frames.Frame
	for i, text := range heads {
		from, to := netip.MustParseAddrPort(fmt.Sprintf("192.0.2.1:%d", 40000+i)), netip.MustParseAddrPort("192.0.2.2:80")
		f := testenv.Frame{From: from, To: to, Proto: protoTCP, TCPFlags: 0x18, Payload: len(text)}
		b := f.AppendTo(nil)
		copy(b[len(b)-len(text):], text)
		all = append(all, frames.Frame{Data: b})
	}
	path := filepath.Join(t.TempDir(), "heads.pcap")
	require.NoError(t, frames.WritePcap(path, all))
	rows := testenv.Tshark(t, path, []string{
		"http.request.method", "http.request.uri", "http.request.version", "http.response.version", "http.response.code", "http.host",
		"http.user_agent", "http.content_type", "http.content_length_header",
	}, "tcp.desegment_tcp_streams:FALSE")
	require.Len(t, rows, len(heads))
	for i, row := range rows {
		word := func(field string) string { return strings.Join(row["http."+field], ";") }
		h := head(t, heads[i])
		path, _, _ := strings.Cut(word("request.uri"), "?")
		path, _, _ = strings.Cut(path, "#")
		assert.Equal(t, []string{word("request.method"), path}, []string{h.Method, h.Path}, heads[i])
		assert.Equal(t, "HTTP/"+h.Version, word("request.version")+word("response.version"), heads[i])
		assert.Equal(t, h.Response, word("response.code") != "", heads[i])
		if h.Response {
			assert.Equal(t, fmt.Sprint(h.Status), word("response.code"))
		}
		host := h.Host
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		if h.Port != 0 {
			host += fmt.Sprint(":", h.Port)
		}
		assert.Equal(t, word("host"), host, heads[i])
		assert.Equal(t, strings.TrimSpace(word("user_agent")), h.UserAgent, heads[i])
		media, _, _ := strings.Cut(strings.ToLower(word("content_type")), ";")
		assert.Equal(t, media, h.ContentType, heads[i])
		if h.ContentLength >= 0 {
			assert.Equal(t, word("content_length_header"), fmt.Sprint(h.ContentLength))
		} else {
			assert.Empty(t, word("content_length_header"))
		}
	}
}
