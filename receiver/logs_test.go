// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/golden"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/pdatatest/plogtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// compareLogs compares everything, times and order included.
func compareLogs(t *testing.T, name string, got plog.Logs) {
	t.Helper()
	written := filepath.Join(t.TempDir(), "got.yaml")
	require.NoError(t, golden.WriteLogsToFile(written, got))
	gotBytes, err := os.ReadFile(written)
	require.NoError(t, err)
	if *update {
		require.NoError(t, os.WriteFile(goldenPath(name), gotBytes, 0o600))
	}
	want, err := golden.ReadLogs(goldenPath(name))
	require.NoError(t, err)
	require.NoError(t, plogtest.CompareLogs(want, got)) // the difference in words
	bytes, err := os.ReadFile(goldenPath(name))
	require.NoError(t, err)
	assert.Equal(t, string(bytes), string(gotBytes))
}

func TestFlowRecordsGolden(t *testing.T) {
	c := testConfig()
	b := newBench(t, c, newFakeHost("eth0"), nil, consumertest.NewNop())
	closed := conversation("10.0.0.1:40000", "10.0.0.2:443")
	for i := range closed {
		closed[i].TCPFlags |= fin
	}
	b.host.count(closed...)
	b.host.count(udp("[2001:db8::1]:5353", "[2001:db8::2]:53", flow.DirectionEgress, 2, 200, 1, 1.5))
	b.after(5 * time.Second)
	compareLogs(t, "flow_end_of_flow", b.logs.writer.write(b.batch()))

	ping := udp("10.0.0.9:77", "10.0.0.1:2048" /* identifier 77, echo request */, flow.DirectionIngress, 3, 294, 5, 7)
	ping.Proto, ping.Tagged, ping.VLAN, ping.IfIndex = 1, true, 7, 99 // an interface without a name
	b.host.count(ping)
	b.after(12 * time.Second) // the UDP flow is idle
	compareLogs(t, "flow_idle_timeout", b.logs.writer.write(b.batch()))

	b.now = b.now.Add(time.Second)
	b.ended()
	compareLogs(t, "flow_forced_end", b.logs.writer.write(b.batch()))
}

// half returns one direction of a record.
func half(packets, bytes uint64, flags uint8) flow.Half {
	return flow.Half{Volume: flow.Volume{Packets: packets, Bytes: bytes}, TCPFlags: flags}
}

// flowRecord returns the record of 2.5 s of traffic that left from src.
func flowRecord(src, dst string, proto uint8, by flow.Initiator, forward, reverse flow.Half) flow.Record {
	s := udp(src, dst, flow.DirectionEgress, 0, 0, 1, 3.5)
	s.Proto = proto
	return flow.Record{
		Key: s.Key, Direction: s.Direction, Forward: forward, Reverse: reverse, Start: s.First, End: s.Last, ConnectionStart: s.First,
		EndReason: flow.EndReasonIdleTimeout, Initiator: by, Answered: reverse.Packets > 0,
	}
}

// One record for each thing that makes a record say more or less.
func flowCases() map[string]flow.Record {
	handshake := flowRecord("10.0.0.1:40000", "10.0.0.2:443", protoTCP, flow.InitiatorSYN, half(5, 500, syn|ack|psh|fin), half(1, 4000, syn|ack|fin))
	handshake.EndReason = flow.EndReasonEndOfFlow
	tagged := flowRecord("10.0.0.1:40000", "10.0.0.2:53", protoUDP, flow.InitiatorPort, half(1, 78, 0), half(1, 178, 0))
	tagged.Key.Tagged, tagged.Key.VLAN = true, 7
	tagged.Direction = flow.DirectionIngress
	fragment := flowRecord("10.0.0.1:0", "10.0.0.2:0", protoTCP, flow.InitiatorUnknown, half(3, 4500, 0), half(0, 0, 0))
	fragment.Key.LaterFragment = true
	nameless := flowRecord("10.0.0.1:0", "10.0.0.2:0", 50, flow.InitiatorUnknown, half(1, 100, 0), half(0, 0, 0))
	nameless.Key.IfIndex = 99
	facts := flowRecord("[2001:db8::1]:40000", "[2001:db8::2]:53", protoUDP, flow.InitiatorPort, half(5, 500, 0), half(4, 400, 0))
	facts.Forward.Facts = flow.Facts{
		CEPackets: 2, FlowLabel: 0xabcde, SrcMAC: flow.MAC{2, 0, 0, 0, 0, 1}, DstMAC: flow.MAC{2, 0, 0, 0, 0, 2}, HasMACs: true,
		TTLMin: 62, TTLMax: 64, DSCP: 46, DSCPVaries: true,
	}
	facts.Reverse.Facts = flow.Facts{CEPackets: 1, FlowLabel: 1, TTLMin: 55, TTLMax: 55, DSCP: 10, DSCPVaries: true}
	errs := flowRecord("10.0.0.1:40000", "10.0.0.2:53", protoUDP, flow.InitiatorPort, half(3, 300, 0), half(0, 0, 0))
	errs.Forward.Errors = flow.ICMPErrors{Unreachable: 3, TooBig: 2, TimeExceeded: 1}
	errs.Reverse.Errors = flow.ICMPErrors{Unreachable: 4, TooBig: 5, TimeExceeded: 6}
	tunnel := flowRecord("10.0.0.1:40000", "10.0.0.2:53", protoUDP, flow.InitiatorPort, half(1, 128, 0), half(1, 228, 0))
	tunnel.Key.Tunnel = flow.Tunnel{Src: flow.Addr{12: 192, 15: 1}, Dst: flow.Addr{12: 192, 15: 2}, ID: 42, Kind: flow.TunnelVXLAN, HasID: true}
	tunnel.ReverseTunnelID = flow.TunnelID{ID: 42, HasID: true}
	turned := tunnel
	turned.ReverseTunnelID = flow.TunnelID{ID: 43, HasID: true}
	gre := tunnel
	gre.Key.Tunnel = flow.Tunnel{Src: flow.Addr{0x20, 1, 15: 1}, Dst: flow.Addr{0x20, 1, 15: 2}, Kind: flow.TunnelGRE, IPv6: true}
	elsewhere := flowRecord("10.0.0.1:40000", "10.0.0.2:53", protoUDP, flow.InitiatorPort, half(1, 78, 0), half(1, 182, 0))
	elsewhere.Elsewhere, elsewhere.ReverseHook = true, flow.Hook{IfIndex: 2, Tagged: true, VLAN: 7, Direction: flow.DirectionEgress}
	loopback := flowRecord("127.0.0.1:40000", "127.0.0.1:53", protoUDP, flow.InitiatorPort, half(1, 78, 0), half(1, 178, 0))
	loopback.Elsewhere, loopback.ReverseHook = true, flow.Hook{IfIndex: 1, Direction: flow.DirectionEgress}
	return map[string]flow.Record{
		"flow_elsewhere":        elsewhere,
		"flow_loopback_once":    loopback,
		"flow_facts":            facts,
		"flow_icmp_errors":      errs,
		"flow_tunnel":           tunnel,
		"flow_tunnel_ids":       turned,
		"flow_tunnel_no_id":     gre,
		"flow_tcp_syn":          handshake,
		"flow_udp_first_packet": flowRecord("10.0.0.1:40000", "10.0.0.2:9999", protoUDP, flow.InitiatorFirstPacket, half(2, 200, 0), half(2, 600, 0)),
		"flow_port":             flowRecord("10.0.0.1:40000", "10.0.0.2:22", protoTCP, flow.InitiatorPort, half(2, 200, psh|ack), half(2, 300, ack)),
		"flow_unknown":          flowRecord("10.0.0.1:40000", "10.0.0.2:50000", protoTCP, flow.InitiatorUnknown, half(2, 200, ack), half(0, 0, 0)),
		"flow_icmp_question":    flowRecord("10.0.0.1:77", "10.0.0.2:2048", 1, flow.InitiatorQuestion, half(3, 294, 0), half(3, 294, 0)),
		"flow_icmp_message":     flowRecord("10.0.0.1:0", "10.0.0.2:771", 1, flow.InitiatorUnknown, half(1, 98, 0), half(0, 0, 0)), // type 3 code 3
		"flow_ipv6":             flowRecord("[2001:db8::1]:40000", "[2001:db8::2]:53", protoSCTP, flow.InitiatorPort, half(1, 90, 0), half(1, 120, 0)),
		"flow_vlan":             tagged,
		"flow_later_fragment":   fragment,
		"flow_nameless":         nameless,
	}
}

func TestFlowRecordCasesGolden(t *testing.T) {
	b := newBench(t, testConfig(), newFakeHost("eth0", "eth1"), nil, consumertest.NewNop())
	for name, r := range flowCases() {
		t.Run(name, func(t *testing.T) {
			compareLogs(t, name, b.logs.writer.write(&batch{observed: epoch.UnixNano() + 5e9, view: b.places.now(), flows: []flow.Record{r}}))
		})
	}
}

// A flow that goes on keeps what names it; each record tells its own time and volume.
func TestAContinuedFlowGolden(t *testing.T) {
	c := testConfig()
	c.Flows.ActiveTimeout, c.Flows.IdleTimeout = 10*time.Second, 15*time.Second
	b := newBench(t, c, newFakeHost("eth0"), nil, consumertest.NewNop())
	b.host.count(opening(tcp("10.0.0.1:40000", "10.0.0.2:443", flow.DirectionEgress, syn|ack, 2, 200, 1, 2), flow.HandshakeSYN))
	b.host.count(tcp("10.0.0.2:443", "10.0.0.1:40000", flow.DirectionIngress, syn|ack, 1, 100, 1.5, 1.5))
	b.after(12 * time.Second)
	b.host.count(tcp("10.0.0.1:40000", "10.0.0.2:443", flow.DirectionEgress, ack, 3, 300, 12.5, 14))
	b.after(5 * time.Second)
	b.after(20 * time.Second)
	all := b.records()
	require.Len(t, all, 2)
	compareLogs(t, "flow_continuation", b.logs.writer.write(&batch{observed: b.drain.time, view: b.places.now(), flows: all}))
}

func TestFlowRecordsNameNetworksGolden(t *testing.T) {
	c := testConfig()
	c.Networks = []NetworkConfig{{CIDR: "10.0.0.0/8"}, {Name: "office", CIDR: "10.0.0.0/24"}}
	b := newBench(t, c, newFakeHost("eth0"), nil, consumertest.NewNop())
	inside := flowRecord("10.0.0.1:40000", "10.9.9.9:443", protoTCP, flow.InitiatorSYN, half(5, 500, syn|ack), half(4, 400, syn|ack))
	outside := flowRecord("192.0.2.1:40000", "10.0.0.2:443", protoTCP, flow.InitiatorSYN, half(5, 500, syn|ack), half(4, 400, syn|ack))
	observed := epoch.UnixNano() + 5e9
	compareLogs(t, "flow_networks", b.logs.writer.write(&batch{observed: observed, view: b.places.now(), flows: []flow.Record{inside, outside}}))
}

// Every record has both times, an event name and a severity. Each event has all of its attributes somewhere, and no other.
func TestRecordsKeepTheContract(t *testing.T) {
	c := readContract(t)
	want, got := map[string]map[string]bool{}, map[string]map[string]bool{}
	for event, e := range c.Events {
		want[event], got[event] = map[string]bool{}, map[string]bool{}
		for _, key := range e.Attributes {
			name := key
			if o := c.Attributes[key].NameOverride; o != "" {
				name = o
			}
			want[event][name] = true
		}
	}
	files, err := filepath.Glob(goldenPath("flow_*"))
	require.NoError(t, err)
	require.Len(t, files, len(flowCases())+6)
	for _, file := range append(files, goldenPath("namespaces"), goldenPath("packets"), goldenPath("packets_payload"), goldenPath("packets_messages")) {
		ld, err := golden.ReadLogs(file)
		require.NoError(t, err)
		for _, r := range ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
			assert.NotZero(t, r.Timestamp())
			assert.NotZero(t, r.ObservedTimestamp())
			assert.Equal(t, plog.SeverityNumberInfo, r.SeverityNumber())
			assert.NotEmpty(t, r.Body().Str())
			for attr := range r.Attributes().All() {
				assert.Contains(t, attributeTiers, attr)
				got[r.EventName()][attr] = true
			}
		}
	}
	assert.Equal(t, want, got)
}
