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
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
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

	ping := udp("10.0.0.9:0", "10.0.0.1:0", flow.DirectionIngress, 3, 294, 5, 7)
	ping.Proto, ping.Tagged, ping.VLAN, ping.IfIndex = 1, true, 7, 99 // an interface without a name
	b.host.count(ping)
	b.after(12 * time.Second) // the UDP flow is idle
	compareLogs(t, "flow_idle_timeout", b.logs.writer.write(b.batch()))

	b.now = b.now.Add(time.Second)
	b.finish(t.Context())
	compareLogs(t, "flow_forced_end", b.logs.writer.write(b.batch()))
}

func TestPacketRecordsGolden(t *testing.T) {
	b := newBench(t, testConfig(), newFakeHost("eth0"), nil, consumertest.NewNop())
	at := epoch.UnixNano() + 5e8
	tcp := sampled{
		Packet: packet.Packet{
			Key: conversation("10.0.0.1:40000", "10.0.0.2:443")[0].Key, TTL: 64, DSCP: 46, ECN: 1,
			HasTCP: true, TCPFlags: psh | ack, TCPSeq: 1000, TCPAck: 2000, TCPWindow: 512,
		},
		time: at, direction: flow.DirectionEgress, reasons: packet.ReasonRandom, length: 3000, captured: 256, pool: 1234, segments: 2,
	}
	opening := tcp
	opening.TCPFlags, opening.segments, opening.length = syn, 1, 74
	icmp := sampled{
		Packet: packet.Packet{Key: flow.Key{IfIndex: 1, Proto: 58, IPv6: true, Tagged: true, VLAN: 3}, TTL: 255, HasICMP: true, ICMPType: 135},
		time:   at, reasons: packet.ReasonRandom, length: 90, captured: 90, pool: 1, segments: 1,
	}
	arp := sampled{
		Packet: packet.Packet{Reason: flow.ReasonARP, EtherType: 0x0806, Key: flow.Key{IfIndex: 1}},
		time:   at, reasons: packet.ReasonRandom, length: 60, captured: 60, pool: 9, segments: 1,
	}
	short := arp
	short.Reason, short.EtherType = flow.ReasonShortEthernet, 0
	short.length, short.captured = 12, 12
	cut := short // the kernel saw all of its headers
	cut.Reason, cut.length, cut.captured = flow.ReasonShortIPv6Extension, 1514, 128
	packets := []sampled{tcp, opening, icmp, arp, short, cut}
	for i := range packets {
		packets[i].observed = epoch.UnixNano() + 6e8
	}
	compareLogs(t, "packets", b.logs.writer.write(&batch{names: b.interfaces.names(), packets: packets}))
}

// Every name that leaves is in the table, and every record has both times, an event name and a severity.
func TestRecordsKeepTheContract(t *testing.T) {
	for _, name := range []string{"flow_end_of_flow", "flow_idle_timeout", "flow_forced_end", "packets"} {
		ld, err := golden.ReadLogs(goldenPath(name))
		require.NoError(t, err)
		for _, r := range ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
			assert.NotZero(t, r.Timestamp())
			assert.NotZero(t, r.ObservedTimestamp())
			assert.Contains(t, []string{eventFlow, eventPacket}, r.EventName())
			assert.Equal(t, plog.SeverityNumberInfo, r.SeverityNumber())
			assert.NotEmpty(t, r.Body().Str())
			for attr := range r.Attributes().All() {
				assert.Contains(t, attributeTiers, attr)
			}
		}
	}
}

func TestSamplesAreDecodedAndSentTogether(t *testing.T) {
	b := newBench(t, testConfig(), newFakeHost("eth0"), nil, consumertest.NewNop())
	arp := make([]byte, 42)
	arp[12], arp[13] = 0x08, 0x06
	sample := packet.Sample{Time: epoch.UnixNano(), IfIndex: 1, Reasons: packet.ReasonRandom, Pool: 7, Segments: 1, WireLen: 42, Data: arp}
	b.host.do(func() { b.host.samples = []packet.Sample{sample, sample} })
	b.readSamples()
	assert.Empty(t, b.logs.queue, "samples wait for others")
	b.host.do(func() { b.host.samples = []packet.Sample{sample} })
	b.now = b.now.Add(sampleDelay)
	b.readSamples()
	q := b.batch()
	require.Len(t, q.packets, 3)
	assert.Equal(t, flow.ReasonARP, q.packets[0].Reason)
	assert.Equal(t, uint64(7), q.packets[0].pool)
	assert.Less(t, q.packets[0].observed, q.packets[2].observed, "each was observed when it was read, not when the message was begun")
	assert.Equal(t, uint32(42), q.packets[0].captured)
}
