// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// canaries are distinct secrets, each for one place of a message.
type canaries map[string]string

// sing returns the secret of a place.
func (c canaries) sing(place string) string {
	if c[place] == "" {
		c[place] = "canary" + rand.Text()
	}
	return c[place]
}

// ofHello takes what a hello has at fixed places (RFC 8446 4.1.2), and of the session that is at its end (4.2.11).
func (c canaries) ofHello(hello []byte, resumes bool) {
	c[fmt.Sprintf("random, resumed %t", resumes)] = string(hello[11:43])
	c[fmt.Sprintf("session id, resumed %t", resumes)] = string(hello[44:76])
	if resumes {
		c["binder"] = string(hello[len(hello)-32:])
		c["ticket"] = string(hello[len(hello)-96 : len(hello)-64])
	}
}

// TestSecretsStay puts secrets wherever a message may have them, and looks for each in every byte that left the collector.
func TestSecretsStay(t *testing.T) {
	left, right := testenv.Pair(t, testenv.PairConfig{})
	curl := testenv.Tool(t, "curl")
	secrets, heard := canaries{}, new(safeBuffer)
	inResponse := map[string]string{
		"Set-Cookie": "session=" + secrets.sing("set-cookie"), "Location": "/?" + secrets.sing("location"),
		"WWW-Authenticate": "Basic realm=" + secrets.sing("realm"),
	}
	body := secrets.sing("response body")
	serveWords(t, right, 80, func(w http.ResponseWriter, r *http.Request) {
		request, _ := httputil.DumpRequest(r, true)
		_, _ = heard.Write(request)
		for name, value := range inResponse {
			w.Header().Set(name, value)
		}
		w.Header().Set("Content-Type", "text/plain; boundary="+body)
		_, _ = io.WriteString(w, body)
	})
	serveTLS(t, right, 443)
	c := start(t, left.NetNS, messageSettings)

	inRequest := canaries{}
	host := netip.AddrPortFrom(right.V4, 80).String()
	for path, request := range map[string][]string{
		"/bearer": {"-H", "Authorization: Bearer " + inRequest.sing("bearer")},
		"/basic":  {"-u", inRequest.sing("user") + ":" + inRequest.sing("password")},
		"/none":   {"-H", "Authorization: " + inRequest.sing("without scheme")},
		"/fields": {
			"-H", "Cookie: a=" + inRequest.sing("cookie"), "-H", "X-Api-Key: " + inRequest.sing("x-api-key"),
			"-H", "Proxy-Authorization: Basic " + inRequest.sing("proxy"), "-H", "Referer: http://from.example/" + inRequest.sing("referer"),
			"-H", "X-Other: " + inRequest.sing("other field"), "-H", "Content-Type: text/plain; boundary=" + inRequest.sing("parameter"),
			"-d", inRequest.sing("request body"),
		},
	} {
		said := left.Run(curl, append(request, "-sSi", "http://"+host+path+"?"+inRequest.sing("query of "+path))...)
		for _, place := range slices.Sorted(maps.Keys(secrets)) {
			require.Contains(t, said, secrets[place], "the server says it")
		}
	}
	left.Run(curl, "-sS", "--request-target",
		"http://"+inRequest.sing("userinfo")+":"+inRequest.sing("userinfo password")+"@web.example/proxied?"+inRequest.sing("query of a proxy"), "http://"+host)
	for place, secret := range inRequest {
		said := func(form string) bool { return strings.Contains(heard.String(), form) }
		require.True(t, said(secret) || slices.ContainsFunc(base64Of([]byte(secret)), said), "%s was sent", place)
	}
	maps.Copy(secrets, inRequest)

	cache := tls.NewLRUClientSessionCache(1)
	for _, resumes := range []bool{false, true} {
		client := tlsClient{name: "tls.example", alpn: []string{"http/1.1", strings.Repeat("x", 250)}, resumes: resumes}
		client.dial(t, left, netip.AddrPortFrom(right.V6, 443), cache)
		secrets.ofHello(client.hello, resumes)
	}
	out := c.stopAfter(t, left.NetNS, outcomes{"http": {"told": 10}, "tls": {"told": 4}})

	for path, want := range map[string]map[string]any{
		"/bearer":  {"packet.http.authorization.scheme": "bearer", "packet.http.api_key": nil},
		"/basic":   {"packet.http.authorization.scheme": "basic"},
		"/none":    {"packet.http.authorization.scheme": "other"},
		"/fields":  {"packet.http.authorization.scheme": nil, "packet.http.api_key": true, "http.request.header.content-type": texts("text/plain")},
		"/proxied": {"packet.http.authorization.scheme": nil, "server.address": "web.example"},
	} {
		m := out.message(t, map[string]any{"url.path": path})
		requireSays(t, &m, want)
	}
	requireSilent(t, c, secrets)
}

// requireSilent looks for every secret in all that left the collector, in the ways in which JSON may hold it.
func requireSilent(t *testing.T, c *collector, secrets canaries) {
	t.Helper()
	output, err := os.ReadFile(c.output)
	require.NoError(t, err)
	require.Contains(t, string(output), "/fields", "what is no secret left")
	output = bytes.ToLower(append(output, c.log.String()...))
	require.Greater(t, len(secrets), 20)
	for place, secret := range secrets {
		for _, form := range slices.Concat([]string{secret, hex.EncodeToString([]byte(secret))}, base64Of([]byte(secret))) {
			assert.False(t, bytes.Contains(output, []byte(strings.ToLower(form))), "the secret of %s", place)
		}
	}
}
