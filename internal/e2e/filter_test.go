// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

// TestWhatIsFilteredIsInTheLedgerOnly sends datagrams of which the half that is IPv6 is filtered.
func TestWhatIsFilteredIsInTheLedgerOnly(t *testing.T) {
	left, _ := testenv.Pair(t, testenv.PairConfig{})
	c := start(t, left.NetNS, fast+`filters: [{action: skip, cidr: "2001:db8::/32", protocol: udp}]`)
	before := left.Counters()
	s := left.NewSender()
	d := &testenv.Datagrams{Flows: 1000, Payloads: []int{0, 0, 1000, 1000}, Src: left.MAC, Dst: testenv.Nobody}
	s.Datagrams(d, 0, 100_000)
	out := c.stop()
	truth := left.Counters().Since(before).Transmitted
	require.Equal(t, s.Sent, truth)

	var want [2]flow.Volume // IPv4, IPv6
	for number, v := range d.Volumes(100_000) {
		want[number%2].Add(v)
	}
	assert.Equal(t, truth, out.ledger.seen)
	assert.Equal(t, want[1], out.ledger.filtered)
	assert.Equal(t, want[0], out.counted(left.Name, "transmit"))
	assert.Len(t, out.Flows(), d.Flows/2)
	for _, f := range out.Flows() {
		require.True(t, f.Source.Addr().Is4())
	}
	told := out.counted(left.Name, "")
	told.Add(out.ledger.filtered)
	assert.Equal(t, truth, told, "metrics + filtered = interface")
}

// The port that exports go to.
const exportPort = 4318

// exporting lets the collector export over the interface that it observes, besides writing a file, and sample every packet.
func exporting(c *collector, to *testenv.End, filters string) string {
	return fmt.Sprintf(`
receivers:
  ebpfpackets:
    interfaces: {include: [left0]}
    collection_interval: 500ms
    packets: {random_one_in: 1, max_per_second: 1000000}
    flows: {idle_timeout: 1s, active_timeout: 1s}
    filters: %s
exporters:
  file: {path: %s, flush_interval: 100ms}
  otlp_http: {endpoint: "http://%s:%d", compression: none}
service:
  telemetry: {logs: {encoding: json}, metrics: {level: none}}
  pipelines:
    metrics: {receivers: [ebpfpackets], exporters: [file, otlp_http]}
    logs: {receivers: [ebpfpackets], exporters: [file, otlp_http]}
`, filters, c.output, to.V4, exportPort)
}

// exports counts the samples and flow records of the collector's own exports.
func exports(out *otlpcheck.Output) (n int) {
	for _, p := range out.Packets() {
		if p.Source.Port() == exportPort || p.Destination.Port() == exportPort {
			n++
		}
	}
	for _, f := range out.Flows() {
		if f.Source.Port() == exportPort || f.Destination.Port() == exportPort {
			n++
		}
	}
	return n
}

// TestExportsOverAnObservedInterface has the documented filter end the circle in which every export makes packets, and those
// make records to export. Without it the circle goes on for ever.
func TestExportsOverAnObservedInterface(t *testing.T) {
	testenv.Privileged(t)
	for _, tt := range []struct {
		name, filters string
		circle        bool
	}{
		{"with the filter", `[{action: skip, cidr: %s/32, port: 4318, protocol: tcp}]`, false},
		{"without", `[]`, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			left, right := testenv.Pair(t, testenv.PairConfig{})
			serveHTTP(t, right, exportPort)
			filters := tt.filters
			if !tt.circle {
				filters = fmt.Sprintf(filters, right.V4)
			}
			c := launchAs(t, left.NetNS, func(c *collector) string { return exporting(c, right, filters) })
			c.awaitReady()
			testenv.Echo(left, right, false, 10, 100)
			c.awaitOutput(func(out *otlpcheck.Output) bool { return len(out.Packets()) >= 20 && len(out.Flows()) >= 1 })
			if tt.circle {
				n := exports(c.read())
				c.awaitOutput(func(out *otlpcheck.Output) bool { return exports(out) > n+100 })
				c.terminate()
				return
			}
			time.Sleep(3 * time.Second) // exports go on: of metrics twice a second
			out := c.stop()
			assert.Zero(t, exports(out.Output))
			assert.Greater(t, out.ledger.filtered.Packets, uint64(20), "there were exports")
			assert.Equal(t, out.ledger.accounted, sum(out))
		})
	}
}

// sum is what the metrics say of all interfaces.
func sum(r result) flow.Volume {
	return flow.Volume{
		Packets: uint64(r.Total("network.flow.packets", otlpcheck.Has(nil))),
		Bytes:   uint64(r.Total("network.flow.io", otlpcheck.Has(nil))),
	}
}
