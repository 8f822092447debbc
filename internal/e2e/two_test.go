// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

// two has two receivers, each of which writes a file of its own.
func two(c *collector, one, other string) string {
	return fmt.Sprintf(`
receivers:
  ebpfpackets/one: {interfaces: {include: [%[1]s]}, packets: {random_one_in: 0}}
  ebpfpackets/other: {interfaces: {include: [%[2]s]}, packets: {random_one_in: 0}}
exporters:
  file/one: {path: %[3]s, flush_interval: 100ms}
  file/other: {path: %[3]s.other, flush_interval: 100ms}
service:
  telemetry: {logs: {encoding: json}, metrics: {level: none}}
  pipelines:
    metrics/one: {receivers: [ebpfpackets/one], exporters: [file/one]}
    logs/one: {receivers: [ebpfpackets/one], exporters: [file/one]}
    metrics/other: {receivers: [ebpfpackets/other], exporters: [file/other]}
    logs/other: {receivers: [ebpfpackets/other], exporters: [file/other]}
`, one, other, c.output)
}

// TestTwoReceiversCountByThemselves has two receivers in one collector, with programs, tables and series of their own. At one
// interface each of them counts every packet, and says so.
func TestTwoReceiversCountByThemselves(t *testing.T) {
	for _, tt := range []struct {
		name, one, other string
		warned           bool
	}{
		{"at different interfaces", "left0", "right0", false},
		{"at the same interface", "left0", "left0", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testenv.Privileged(t)
			left, right := testenv.Pair(t, testenv.PairConfig{})
			right.MoveTo(left.NetNS, right.Name)
			c := launchAs(t, left.NetNS, func(c *collector) string { return two(c, tt.one, tt.other) })
			c.awaitReady()
			s := left.NewSender()
			d := &testenv.Datagrams{Flows: 100, Payloads: []int{0, 1000}, Src: left.MAC, Dst: testenv.Nobody}
			s.Datagrams(d, 0, 10_000)
			c.terminate()

			for file, observed := range map[string]string{c.output: tt.one, c.output + ".other": tt.other} {
				out := result{Output: (&collector{t: t, output: file}).read()}
				names, err := otlpcheck.OpenNames("../../metadata.yaml")
				require.NoError(t, err)
				require.NoError(t, out.Check(names))
				direction := map[string]string{left.Name: "transmit", right.Name: "receive"}[observed]
				assert.Equal(t, s.Sent, out.counted(observed, direction))
				assert.Equal(t, s.Sent, sum(out), "and nothing else")
				var records flow.Volume
				for _, f := range out.Flows() {
					records.Add(flow.Volume{Packets: uint64(f.Packets + f.ReversePackets), Bytes: uint64(f.Bytes + f.ReverseBytes)})
				}
				assert.Equal(t, s.Sent, records)
				assert.Len(t, out.Flows(), d.Flows)
			}
			assert.Equal(t, tt.warned, strings.Contains(c.log.String(), "Two receivers count at the same interface"))
		})
	}
}
