// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"net"
	"net/netip"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

// only returns the one record whose attributes are as wanted.
func (r result) only(t *testing.T, want map[string]any) otlpcheck.Flow {
	t.Helper()
	var found []otlpcheck.Flow
	for _, f := range r.Flows() {
		same := true
		for name, value := range want {
			same = same && f.Attributes[name] == value
		}
		if same {
			found = append(found, f)
		}
	}
	require.Len(t, found, 1, "%v", want)
	return found[0]
}

// requireAttributes wants these attributes; nil: that it is not there.
func requireAttributes(t *testing.T, f *otlpcheck.Flow, want map[string]any) {
	t.Helper()
	for name, value := range want {
		assert.Equal(t, value, f.Attributes[name], name)
	}
}

// TestFlowRecordsSayWhatHeadersSaid has ping set TTL and DSCP, which the answers have their own way of.
func TestFlowRecordsSayWhatHeadersSaid(t *testing.T) {
	left, right := testenv.Pair(t, testenv.PairConfig{})
	ping, curl := testenv.Tool(t, "ping"), testenv.Tool(t, "curl")
	serveHTTP(t, right, 80)
	c := start(t, left.NetNS, "interfaces: {include: [left0]}\npackets: {random_one_in: 0}\n")
	left.Run(ping, "-n", "-q", "-c3", "-i0.2", "-t", "7", "-Q", "184", right.V4.String()) // expedited forwarding, RFC 3246
	left.Run(ping, "-n", "-q", "-c3", "-i0.2", "-t", "9", right.V6.String())
	left.Run(curl, "-sSf", "http://["+right.V6.String()+"]/")
	settle(left)
	out := c.stop()

	macs := map[string]any{
		"flow.ethernet.source":      net.HardwareAddr(left.MAC[:]).String(),
		"flow.ethernet.destination": net.HardwareAddr(right.MAC[:]).String(),
	}
	v4 := out.only(t, map[string]any{"network.transport": "icmp"})
	requireAttributes(t, &v4, macs)
	requireAttributes(t, &v4, map[string]any{
		"flow.io.packets": int64(3), "flow.ip.ttl.min": int64(7), "flow.ip.ttl.max": int64(7), "flow.ip.dscp": int64(46),
		"flow.reverse.ip.ttl.min": int64(64), "flow.reverse.ip.ttl.max": int64(64), "flow.reverse.ip.dscp": int64(46),
		"flow.ip.dscp_varies": nil, "flow.ip.ce_packets": nil, "flow.ip.flow_label": nil, "flow.icmp_errors.unreachable": nil,
	})
	v6 := out.only(t, map[string]any{"network.transport": "ipv6-icmp"})
	requireAttributes(t, &v6, macs)
	requireAttributes(t, &v6, map[string]any{
		"flow.ip.ttl.min": int64(9), "flow.ip.ttl.max": int64(9), "flow.ip.dscp": nil, "flow.reverse.ip.ttl.min": int64(64),
	})
	web := out.only(t, map[string]any{"network.transport": "tcp"})
	requireAttributes(t, &web, map[string]any{"flow.ip.ttl.min": int64(64), "flow.reverse.ip.ttl.min": int64(64)})
	for _, name := range []string{"flow.ip.flow_label", "flow.reverse.ip.flow_label"} { // Linux sets one of its own choice
		assert.Positive(t, web.Attributes[name], name)
	}
}

// TestICMPErrorsAreToldByTheirFlow asks closed ports and hosts that are too far away.
func TestICMPErrorsAreToldByTheirFlow(t *testing.T) {
	left, right := testenv.Pair(t, testenv.PairConfig{})
	ping, sh := testenv.Tool(t, "ping"), testenv.Tool(t, "sh")
	right.Run(sh, "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
	ip := testenv.Tool(t, "ip")
	left.Run(ip, "route", "add", "192.0.2.0/24", "via", right.V4.String())
	right.Run(ip, "route", "add", "192.0.2.0/24", "dev", right.Name) // back to where it came from, if the TTL were not over
	c := start(t, left.NetNS, "interfaces: {include: [left0]}\npackets: {random_one_in: 0}\ncollection_interval: 1s\n")
	const asked = 3 // Linux sends a burst of 6 errors to one host, then one a second
	for _, v6 := range []bool{false, true} {
		s := left.ListenUDP(v6, 40000) // not connected: it would fail with what came back for the datagram before
		for range asked {
			_, err := s.WriteToUDPAddrPort([]byte("anyone?"), netip.AddrPortFrom(right.Addr(v6), 9))
			require.NoError(t, err)
			time.Sleep(50 * time.Millisecond)
		}
	}
	left.Run(sh, "-c", ping+" -n -q -c2 -i0.2 -W1 -t1 192.0.2.1 || true") // fails without an answer
	settle(left)
	linked := regexp.MustCompile(`otelcol_ebpfpackets_receiver_icmp_errors\{[^}]*link="linked"[^}]*\} 8\n`)
	require.Eventually(t, func() bool { return linked.MatchString(scrape(t, left.NetNS)) }, patience/6, 100*time.Millisecond)
	for _, link := range []string{"unknown_flow", "unread"} { // no series until there is one
		assert.NotContains(t, scrape(t, left.NetNS), `link="`+link+`"`)
	}
	out := c.stop()

	for _, version := range []string{"ipv4", "ipv6"} {
		f := out.only(t, map[string]any{"network.transport": "udp", "network.type": version})
		requireAttributes(t, &f, map[string]any{
			"flow.io.packets": int64(asked), "flow.reverse.io.packets": int64(0), "flow.icmp_errors.unreachable": int64(asked),
			"flow.reverse.icmp_errors.unreachable": nil, "flow.icmp_errors.time_exceeded": nil, "flow.icmp_errors.too_big": nil,
		})
	}
	far := out.only(t, map[string]any{"network.transport": "icmp", "destination.address": "192.0.2.1"})
	requireAttributes(t, &far, map[string]any{"flow.io.packets": int64(2), "flow.icmp_errors.time_exceeded": int64(2), "flow.icmp_errors.unreachable": nil})
	assert.Equal(t, left.Counters().Transmitted.Packets, out.ledger.accounted.Packets-out.counted("left0", "receive").Packets)
}
