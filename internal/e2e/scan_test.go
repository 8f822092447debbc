// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

const (
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
)

// scan sends a SYN to each of 65,535 ports, and has the other end answer with flags, unless they are 0. Half way it calls
// during. No stack takes part: its answers would be too few, and not known in advance.
func scan(from, to *testenv.End, answer uint8, during func()) {
	probe, reply := from.NewSender(), to.NewSender()
	scanner := netip.AddrPortFrom(from.V4, 50_000)
	for port := 1; port <= 65_535; port++ {
		target := netip.AddrPortFrom(to.V4, uint16(port))
		probe.Frame(testenv.Frame{Src: from.MAC, Dst: testenv.Nobody, From: scanner, To: target, Proto: 6, TCPFlags: flagSYN})
		if answer != 0 {
			reply.Frame(testenv.Frame{Src: to.MAC, Dst: testenv.Nobody, From: target, To: scanner, Proto: 6, TCPFlags: answer})
		}
		if port == 32_768 {
			during()
		}
	}
}

// TestScansDoNotFillTheOutput scans all ports from either side, with the default limits. Series and records stay below them,
// every packet is counted, and an open service is seen as one before, during and after.
func TestScansDoNotFillTheOutput(t *testing.T) {
	for _, tt := range []struct {
		name    string
		answer  uint8
		inbound bool
	}{
		{"closed ports", flagRST | flagACK, true},
		{"filtered ports", 0, true},
		{"outbound, all ports answer", flagSYN | flagACK, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			left, right := testenv.Pair(t, testenv.PairConfig{})
			serveHTTP(t, left, 80)
			curl := testenv.Tool(t, "curl")
			c := start(t, left.NetNS, `
interfaces: {include: [left0]}
collection_interval: 1s
packets: {random_one_in: 0}
`)
			before, began := left.Counters(), time.Now()
			told := int64(0)
			visit := func() { // and wait until the metrics tell it
				right.Run(curl, "-sSf", "-o", "/dev/null", "http://"+left.V4.String()+"/")
				c.awaitOutput(func(out *otlpcheck.Output) bool { return out.Total("network.flow.packets", service) > told })
				told = c.read().Total("network.flow.packets", service)
			}
			visit()
			if tt.inbound {
				scan(right, left, tt.answer, visit)
			} else {
				scan(left, right, tt.answer, visit)
			}
			visit()
			settle(left)
			out := c.stop()
			lasted := time.Since(began)

			truth := left.Counters().Since(before)
			testenv.RequireDelivered(t, truth, right.Counters())
			assert.Equal(t, truth.Transmitted, out.counted("left0", "transmit"))
			assert.Equal(t, truth.Received, out.counted("left0", "receive"))
			assert.LessOrEqual(t, mostPoints(out), 2000, "cardinality_limit")
			ports := serverPorts(out)
			assert.LessOrEqual(t, len(ports), 256+256*int(lasted/time.Second), "idle ports make room, once in a collection")
			if tt.inbound {
				assert.Equal(t, map[int64]bool{80: true}, ports, "no scanned port is a service")
			}
			assert.Len(t, starts(out, service), 1, "the service keeps its series")
			assert.LessOrEqual(t, len(out.Flows()), 500*(60+int(lasted/time.Second)+1), "max_records_per_second, and a minute's worth at once")
			t.Logf("%d flow records, %d values of server.port, %d points at most, in %v", len(out.Flows()), len(ports), mostPoints(out), lasted)
		})
	}
}

// service matches what the service sent.
var service = otlpcheck.Has(map[string]any{"server.port": int64(80), "network.io.direction": "transmit"})

// mostPoints is how many points any metric had in one collection.
func mostPoints(r result) (most int) {
	type moment struct {
		metric string
		time   pcommon.Timestamp
	}
	points := map[moment]int{}
	for _, md := range r.Metrics {
		for _, m := range md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
			for _, p := range m.Sum().DataPoints().All() {
				at := moment{m.Name(), p.Timestamp()}
				points[at]++
				most = max(most, points[at])
			}
		}
	}
	return most
}

// serverPorts are the values of server.port.
func serverPorts(r result) map[int64]bool {
	ports := map[int64]bool{}
	r.eachPoint("network.flow.packets", func(attrs pcommon.Map, _ pcommon.Timestamp) {
		if v, ok := attrs.Get("server.port"); ok {
			ports[v.Int()] = true
		}
	})
	return ports
}

// starts are the start times of the points that match.
func starts(r result, match func(pcommon.Map) bool) map[pcommon.Timestamp]bool {
	all := map[pcommon.Timestamp]bool{}
	r.eachPoint("network.flow.packets", func(attrs pcommon.Map, start pcommon.Timestamp) {
		if match(attrs) {
			all[start] = true
		}
	})
	return all
}

func (r result) eachPoint(metric string, visit func(attrs pcommon.Map, start pcommon.Timestamp)) {
	for _, md := range r.Metrics {
		for _, m := range md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
			if m.Name() != metric {
				continue
			}
			for _, p := range m.Sum().DataPoints().All() {
				visit(p.Attributes(), p.StartTimestamp())
			}
		}
	}
}
