// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// TestExamplePrometheus has two hosts send metrics through one gateway, which offers them to Prometheus' scrapes and writes them to it.
// Both ways Prometheus must know, of each host by its name, what was sent there.
func TestExamplePrometheus(t *testing.T) {
	testenv.Privileged(t)
	one, gateway := testenv.Pair(t, testenv.PairConfig{})
	other, beside := testenv.Pair(t, testenv.PairConfig{Beside: gateway})
	config := hurriedScrapes(t)
	p := runPrometheus(t, gateway.NetNS, config, "--web.enable-remote-write-receiver")
	ca := newAuthority(t)
	example{
		files:   []string{"prometheus/gateway-scrape.yaml", "prometheus/gateway-remote-write.yaml"},
		env:     []string{"TLS_DIR=" + ca.issue(gateway.V4, beside.V4)},
		program: fullBinary(t),
	}.start(t, gateway.NetNS)

	packets, bytes := map[string]string{}, map[string]string{}
	for i, host := range []struct {
		name    string
		end, to *testenv.End
	}{{"host-one", one, gateway}, {"host-other", other, beside}} {
		example{
			files: []string{"prometheus/agent.yaml"},
			settings: `
receivers:
  ebpfpackets: {interfaces: {include: [left0]}, collection_interval: 500ms}
`,
			env:  []string{"TLS_DIR=" + ca.issue(), fmt.Sprintf("GATEWAY_ENDPOINT=%s:4317", host.to.V4)},
			host: host.name,
		}.start(t, host.end.NetNS)
		s := host.end.NewSender()
		s.Datagrams(&testenv.Datagrams{Flows: 100, Payloads: []int{100}, Src: host.end.MAC, Dst: testenv.Nobody}, 0, 10_000*(i+1))
		packets[host.name], bytes[host.name] = fmt.Sprint(s.Sent.Packets), fmt.Sprint(s.Sent.Bytes)
	}
	for _, job := range []string{"gateway", ""} { // of what was scraped, and of what was written
		total := func(metric string) map[string]string {
			return p.values(fmt.Sprintf("sum by (host_name) (%s{job=%q})", metric, job), "host_name")
		}
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			assert.Equal(c, packets, total("network_flow_packets_total"))
			assert.Equal(c, bytes, total("network_flow_io_bytes_total"))
		}, patience, 200*time.Millisecond, "job %q", job)
	}
	t.Log(p.query("network_flow_packets_total"))
}

// hurriedScrapes returns the path of the shipped configuration with scrapes twice a second. Nothing else changes.
func hurriedScrapes(t *testing.T) string {
	t.Helper()
	shipped, err := os.ReadFile(filepath.Join(examples, "prometheus/prometheus.yaml"))
	require.NoError(t, err)
	require.Contains(t, string(shipped), "scrape_interval: 30s")
	config := filepath.Join(t.TempDir(), "prometheus.yaml")
	hurried := strings.Replace(string(shipped), "scrape_interval: 30s", "scrape_interval: 500ms", 1)
	require.NoError(t, os.WriteFile(config, []byte(hurried), 0o644))
	return config
}
