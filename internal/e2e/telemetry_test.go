// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// scrape reads the collector's own telemetry from its Prometheus endpoint.
func scrape(t *testing.T, ns *testenv.NetNS) string {
	t.Helper()
	return ns.Run(testenv.Tool(t, "curl"), "-sSf", "http://localhost:8888/metrics")
}

// sample returns the value of the first series that the pattern matches up to its end.
func sample(t *testing.T, metrics, pattern string) int64 {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + pattern + ` (\S+)$`).FindStringSubmatch(metrics)
	if !assert.NotNil(t, m, "no series %s", pattern) {
		return -1
	}
	v, err := strconv.ParseFloat(m[1], 64)
	require.NoError(t, err)
	return int64(v)
}

// TestOwnTelemetryTellsTheLedger has the ledger in the telemetry while the collector runs.
func TestOwnTelemetryTellsTheLedger(t *testing.T) {
	left, right := testenv.Pair(t, testenv.PairConfig{})
	c := start(t, left.NetNS, fast)
	s := left.NewSender()
	want := sendOthers(s, left, right)
	ledger := func(metric, entry string) string {
		return `otelcol_ebpfpackets_receiver_ledger_` + metric + `\{[^}]*entry="` + entry + `"[^}]*\}`
	}
	seen := regexp.MustCompile(ledger("packets", "seen") + fmt.Sprintf(" %d\n", s.Sent.Packets))
	text := scrape(t, left.NetNS)
	for deadline := time.Now().Add(patience); !seen.MatchString(text) && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
		text = scrape(t, left.NetNS)
	}
	accounted := s.Sent.Packets - want.notIP.Packets - want.unparsed.Packets
	assert.EqualValues(t, accounted, sample(t, text, ledger("packets", "accounted")))
	assert.EqualValues(t, want.notIP.Packets, sample(t, text, ledger("packets", "not_ip")))
	assert.EqualValues(t, want.notIP.Bytes, sample(t, text, ledger("io", "not_ip")))
	assert.EqualValues(t, 1, sample(t, text, ledger("packets", "unparsed_bad_ipv4")))
	assert.EqualValues(t, 1, sample(t, text, ledger("packets", "unparsed_bad_ipv6")))
	assert.EqualValues(t, 1, sample(t, text, `otelcol_ebpfpackets_receiver_interfaces\{[^}]*state="attached"[^}]*\}`))
	assert.Positive(t, sample(t, text, `otelcol_ebpfpackets_receiver_kernel_memory\{[^}]*\}`))
	assert.NotRegexp(t, `(?m)^otelcol_ebpfpackets_receiver_ledger_mismatches\{[^}]*\} [^0]`, text)
	if t.Failed() {
		t.Log(text)
	}
	c.stop()
}
