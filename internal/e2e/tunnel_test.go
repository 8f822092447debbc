// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

// TestWhoseFlowATunnelledPacketIs has programs talk through a VXLAN, seen from beneath.
func TestWhoseFlowATunnelledPacketIs(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, side := range []string{"outer", "inner"} {
			t.Run(fmt.Sprintf("%s, over IPv6 %v", side, v6), func(t *testing.T) {
				left, right := testenv.Pair(t, testenv.PairConfig{MTU: 1600})
				l, r := testenv.VXLAN(left, right, v6, 4789)
				curl, ping := testenv.Tool(t, "curl"), testenv.Tool(t, "ping")
				serveHTTP(t, r, 80)
				c := start(t, left.NetNS, "interfaces: {include: [left0]}\ntunnels: "+side+"\npackets: {random_one_in: 1, max_per_second: 10000}\n")
				before := left.Counters()
				l.Run(curl, "-sSf", "http://"+r.V4.String()+"/")
				l.Run(curl, "-sSf", "http://["+r.V6.String()+"]/")
				l.Run(ping, "-n", "-q", "-c3", "-i0.2", "-t", "7", r.V4.String())
				left.Run(ping, "-n", "-q", "-c3", "-i0.2", right.V4.String()) // beside the tunnel
				settle(left)
				out := c.stop()

				counted := left.Counters().Since(before)
				transmitted, received := flowVolumes(out.Flows())
				assert.Equal(t, counted.Transmitted, transmitted, "bytes are those that crossed the wire")
				assert.Equal(t, counted.Received, received)
				beside := out.only(t, map[string]any{"network.transport": "icmp", "destination.address": right.V4.String()})
				assert.NotContains(t, beside.Attributes, "network.tunnel.type")
				if side == "outer" {
					for _, f := range out.Flows() {
						assert.NotContains(t, f.Attributes, "network.tunnel.type")
						assert.Contains(t, []string{"udp", "icmp"}, f.Transport)
					}
					return
				}
				tunnel := map[string]any{
					"network.tunnel.type": "vxlan", "network.tunnel.id": int64(42),
					"network.tunnel.source.address": left.Addr(v6).String(), "network.tunnel.destination.address": right.Addr(v6).String(),
				}
				web4 := out.only(t, map[string]any{"network.transport": "tcp", "network.type": "ipv4"})
				web6 := out.only(t, map[string]any{"network.transport": "tcp", "network.type": "ipv6"})
				far := out.only(t, map[string]any{"network.transport": "icmp", "destination.address": r.V4.String()})
				requireAttributes(t, &web4, tunnel)
				requireAttributes(t, &web6, tunnel)
				requireAttributes(t, &far, tunnel)
				requireAttributes(t, &web4, map[string]any{"source.address": l.V4.String(), "server.port": int64(80), "flow.initiator.method": "syn"})
				requireAttributes(t, &web6, map[string]any{"source.address": l.V6.String(), "server.port": int64(80), "flow.end_reason": "end_of_flow"})
				requireAttributes(t, &far, map[string]any{"flow.io.packets": int64(3), "flow.reverse.io.packets": int64(3), "flow.ip.ttl.min": int64(7)})
				require.Len(t, out.Flows(), 4)
				port80 := otlpcheck.Has(map[string]any{"network.transport": "tcp", "server.port": int64(80)})
				port := flow.Volume{Packets: uint64(out.Total("network.flow.packets", port80)), Bytes: uint64(out.Total("network.flow.io", port80))}
				want := flow.Volume{
					Packets: uint64(web4.Packets + web4.ReversePackets + web6.Packets + web6.ReversePackets),
					Bytes:   uint64(web4.Bytes + web4.ReverseBytes + web6.Bytes + web6.ReverseBytes),
				}
				assert.Equal(t, want, port, "metrics go by the inner flow")
				for _, p := range out.Packets() {
					if p.Transport == "tcp" {
						assert.Equal(t, "vxlan", p.Attributes["network.tunnel.type"])
					}
				}
			})
		}
	}
}
