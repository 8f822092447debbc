// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"encoding/base64"
	"encoding/hex"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

// secret is sent by every program below, as its payload.
var secret = []byte("Payload-of-the-e2e")[:16] // as much as ping takes

// TestPacketRecordsSayWhatWasSent samples every packet of real programs, and finds each in its record: by what it is, and
// without a byte of what it carries unless that was asked for.
func TestPacketRecordsSayWhatWasSent(t *testing.T) {
	for _, payload := range []string{"false", "true"} {
		t.Run("payload "+payload, func(t *testing.T) {
			left, right := testenv.Pair(t, testenv.PairConfig{})
			curl, dig, ping := testenv.Tool(t, "curl"), testenv.Tool(t, "dig"), testenv.Tool(t, "ping")
			serveHTTP(t, right, 80)
			serveDNS(t, right)
			c := start(t, left.NetNS, `
interfaces: {include: [left0]}
packets: {random_one_in: 1, max_per_second: 10000, payload: `+payload+`}
`)
			pattern := hex.EncodeToString(secret)
			left.Run(ping, "-n", "-q", "-c2", "-i0.2", "-p", pattern, right.V4.String())
			left.Run(ping, "-n", "-q", "-c2", "-i0.2", "-p", pattern, right.V6.String())
			left.Run(curl, "-sSf", "-H", "X-Secret: "+string(secret), "http://"+right.V4.String()+"/")
			left.Run(dig, "@"+right.V6.String(), "+tries=1", "+time=5", string(secret)+".example.")
			settle(left)
			out := c.stop()

			l4, r4, l6, r6 := left.V4.String(), right.V4.String(), left.V6.String(), right.V6.String()
			for line, times := range map[string]int{
				"left0 Out IP " + l4 + " > " + r4 + ": ICMP echo request, id * seq 1, length 64":                                              1,
				"left0 In IP " + r4 + " > " + l4 + ": ICMP echo reply, id * seq 2, length 64":                                                 1,
				"left0 Out IP6 " + l6 + " > " + r6 + ": ICMP6, echo request, id * seq 2, length 64":                                           1,
				"left0 Out IP " + l4 + ".* > " + r4 + ".80: Flags [S], seq * options [mss 1460,sackOK,TS val * ecr 0,nop,wscale *], length 0": 1,
				"left0 In IP " + r4 + ".80 > " + l4 + ".*: Flags [S.], seq *, ack *, win *, options [mss 1460,sackOK,TS val *":                1,
				"left0 Out IP6 " + l6 + ".* > " + r6 + ".53: UDP, length *":                                                                   1,
			} {
				assert.Equal(t, times, count(out.Packets(), line), line)
			}
			requireSecret(t, c.output, payload == "true")
		})
	}
}

// TestSamplesOfFlows takes all packets of every flow, and tells which are the first.
func TestSamplesOfFlows(t *testing.T) {
	left, right := testenv.Pair(t, testenv.PairConfig{})
	curl := testenv.Tool(t, "curl")
	serveHTTP(t, right, 80)
	c := start(t, left.NetNS, `
interfaces: {include: [left0]}
packets: {random_one_in: 0, flow_one_in: 1, first_per_flow: 3, max_per_second: 10000}
`)
	left.Run(curl, "-sSf", "http://"+right.V4.String()+"/")
	left.Run(curl, "-sSf", "http://["+right.V6.String()+"]/")
	settle(left)
	out := c.stop()

	require.Len(t, out.Flows(), 2)
	for _, f := range out.Flows() {
		segments, first := int64(0), []any{}
		for _, p := range out.Packets() {
			if p.Type != f.Type {
				continue
			}
			segments += p.Segments
			assert.Contains(t, p.Reasons, "flow")
			assert.Equal(t, []any{int64(1), int64(1)}, []any{p.Attributes["packet.sampling.flow_one_in"], p.Attributes["packet.sampling.flow_pool"]})
			if slices.Contains(p.Reasons, any("first")) {
				first = append(first, p.Attributes["packet.sampling.first_number"])
			}
		}
		assert.Equal(t, f.Packets+f.ReversePackets, segments, "all of them, both ways")
		assert.Equal(t, []any{int64(1), int64(2), int64(3)}, first, "the handshake")
	}
}

// count returns how many bodies are like line, in which * is anything.
func count(packets []otlpcheck.Packet, line string) (n int) {
	parts := strings.Split(line, "*")
	for _, p := range packets {
		rest, ok := strings.CutPrefix(p.Body, parts[0])
		for _, part := range parts[1:] {
			var found bool
			_, rest, found = strings.Cut(rest, part)
			ok = ok && found
		}
		if ok {
			n++
		}
	}
	return n
}

// requireSecret looks for the secret in everything that left the collector, in the ways in which JSON may hold it.
func requireSecret(t *testing.T, path string, wanted bool) {
	t.Helper()
	output, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NotEmpty(t, output)
	found := slices.ContainsFunc(base64Of(secret), func(f string) bool { return strings.Contains(string(output), f) })
	assert.Equal(t, wanted, found, "in base64")
	assert.NotContains(t, strings.ToLower(string(output)), hex.EncodeToString(secret))
	assert.NotContains(t, string(output), string(secret))
}

// base64Of returns what base64 makes of bytes that others surround. It has three alignments; the first and last digits depend
// on the neighbours.
func base64Of(secret []byte) (forms []string) {
	for skipped := range 3 {
		padded := append(make([]byte, skipped), secret...)
		forms = append(forms, base64.StdEncoding.EncodeToString(padded[:len(padded)/3*3])[4:])
	}
	return forms
}
