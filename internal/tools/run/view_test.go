// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

const (
	flowLine = `{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"1000000000","eventName":"network.flow","body":{"stringValue":"tcp a > b"}}]}]}]}`
	second   = 1_000_000_000
)

// metricsLine is what the file exporter writes of one series at eth0 each way.
func metricsLine(seconds, received, sent int) string {
	points := func(r, s int) string {
		point := func(direction string, n int) string {
			return fmt.Sprintf(`{"timeUnixNano":"%d","asInt":"%d","attributes":[{"key":"network.interface.name","value":{"stringValue":"eth0"}},{"key":"network.io.direction","value":{"stringValue":%q}}]}`, seconds*second, n, direction)
		}
		return point("receive", r) + "," + point("transmit", s)
	}
	return `{"resourceMetrics":[{"scopeMetrics":[{"metrics":[` +
		`{"name":"network.flow.io","sum":{"dataPoints":[` + points(received*100, sent*100) + `]}},` +
		`{"name":"network.flow.packets","sum":{"dataPoints":[` + points(received, sent) + `]}}]}]}]}`
}

func TestView(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lines []string
		want  string
	}{
		{"a flow record is its body", []string{flowLine}, "TIME flow    tcp a > b\n"},
		{
			"totals come with rates from the second collection on",
			[]string{metricsLine(10, 1, 2), metricsLine(15, 11, 2)},
			"TIME totals  eth0: received 1 packets 100 B, sent 2 packets 200 B; 0 flows active, 2 series\n" +
				"TIME totals  eth0: received 11 packets 1.1 kB (2/s 200 B/s), sent 2 packets 200 B (0/s 0 B/s); 0 flows active, 2 series\n",
		},
		{
			"nothing is said of an interface without traffic",
			[]string{metricsLine(10, 1, 2), metricsLine(15, 1, 2)},
			"TIME totals  eth0: received 1 packets 100 B, sent 2 packets 200 B; 0 flows active, 2 series\n",
		},
		{"a line that is no OTLP is named", []string{"{"}, "run: not OTLP JSON: unexpected end of JSON input\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			v := newView(&out)
			for _, line := range tt.lines {
				v.line([]byte(line))
			}
			got := regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d\.\d\d\d`).ReplaceAllString(out.String(), "TIME")
			if got != tt.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, tt.want)
			}
		})
	}
}

func TestViewKeepsTheLedgerForTheEnd(t *testing.T) {
	var out bytes.Buffer
	v := newView(&out)
	v.logs(strings.NewReader(`{"level":"info","msg":"Final ledger: seen 3 packets","otelcol.component.id":"ebpfpackets"}` + "\n" +
		`{"level":"info","msg":"Everything is ready."}` + "\n"))
	if out.Len() > 0 {
		t.Errorf("shown before the end: %s", out.String())
	}
	v.summary("out.jsonl")
	if want := "\nrun: 0 flow records, 0 sampled packets, all in out.jsonl\nrun: Final ledger: seen 3 packets\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestAmount(t *testing.T) {
	for n, want := range map[float64]string{0: "0 B", 999: "999 B", 1100: "1.1 kB", 2.5e6: "2.5 MB", 3e13: "30.0 TB"} {
		if got := amount(n, "B"); got != want {
			t.Errorf("amount(%v) = %q, want %q", n, got, want)
		}
	}
}
