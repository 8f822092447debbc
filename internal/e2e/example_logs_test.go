// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

// TestExampleLogs compares the file at the host with the one that the gateway writes, and both with what was sent.
func TestExampleLogs(t *testing.T) {
	testenv.Privileged(t)
	left, right := testenv.Pair(t, testenv.PairConfig{})
	ca := newAuthority(t)
	atHost, atGateway := filepath.Join(t.TempDir(), "records"), filepath.Join(t.TempDir(), "records")
	gateway := example{
		files: []string{"logs/gateway.yaml"},
		env:   []string{"TLS_DIR=" + ca.issue(right.V4), "RECORDS_DIR=" + atGateway},
	}.start(t, right.NetNS)
	agent := example{
		files: []string{"logs/agent.yaml"},
		settings: `
receivers:
  ebpfpackets:
    interfaces: {include: [left0]}
    flows: {idle_timeout: 1s, max_records_per_second: 100000}
    packets: {random_one_in: 10, max_per_second: 100000}
service: {telemetry: {logs: {encoding: json}}}
`,
		env:  []string{"TLS_DIR=" + ca.issue(), "RECORDS_DIR=" + atHost, fmt.Sprintf("GATEWAY_ENDPOINT=%s:4317", right.V4)},
		host: "host-one",
	}.start(t, left.NetNS)
	agent.output, gateway.output = filepath.Join(atHost, "records.jsonl"), filepath.Join(atGateway, "host-one.jsonl")
	s := left.NewSender()
	d := &testenv.Datagrams{Flows: 500, Payloads: []int{100}, Src: left.MAC, Dst: testenv.Nobody}
	s.Datagrams(d, 0, 10_000)
	require.Eventually(t, func() bool {
		_, err := os.Stat(agent.output) // it comes with the first record
		return err == nil
	}, patience, 10*time.Millisecond)
	agent.awaitOutput(func(out *otlpcheck.Output) bool { return told(out) == s.Sent })
	out := agent.stop() // which hands what waits to the gateway
	gateway.terminate()

	assert.Equal(t, s.Sent, out.ledger.accounted, "nothing else was counted")
	assert.NotZero(t, out.ledger.filtered.Packets, "the exports were not")
	assert.Len(t, out.Flows(), d.Flows)
	assert.InDelta(t, 1000, len(out.Packets()), 200)
	assert.Equal(t, recordsOf(t, out.Output), recordsOf(t, gateway.read()))
}

// recordsOf returns all log records, each as JSON, sorted.
func recordsOf(t *testing.T, out *otlpcheck.Output) (records []string) {
	t.Helper()
	for _, logs := range out.Logs {
		for _, resource := range logs.ResourceLogs().All() {
			for _, scope := range resource.ScopeLogs().All() {
				for _, record := range scope.LogRecords().All() {
					records = append(records, recordAsJSON(t, record))
				}
			}
		}
	}
	slices.Sort(records)
	return records
}

func recordAsJSON(t *testing.T, record plog.LogRecord) string {
	t.Helper()
	text, err := json.Marshal(map[string]any{
		"event": record.EventName(), "body": record.Body().AsRaw(), "time": record.Timestamp(), "observed": record.ObservedTimestamp(),
		"attributes": record.Attributes().AsRaw(),
	})
	require.NoError(t, err)
	return string(text)
}
