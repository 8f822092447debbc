// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/golden"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/pdatatest/pmetrictest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

var update = flag.Bool("update", false, "write golden files instead of comparing with them")

func goldenPath(name string) string { return filepath.Join("testdata", "golden", name+".yaml") }

// compareMetrics compares everything, times and order included.
func compareMetrics(t *testing.T, name string, messages []pmetric.Metrics) {
	t.Helper()
	require.Len(t, messages, 1)
	got, err := golden.MarshalMetricsYAML(messages[0])
	require.NoError(t, err)
	if *update {
		require.NoError(t, os.WriteFile(goldenPath(name), got, 0o600))
	}
	want, err := golden.ReadMetrics(goldenPath(name))
	require.NoError(t, err)
	require.NoError(t, pmetrictest.CompareMetrics(want, messages[0])) // the difference in words
	bytes, err := os.ReadFile(goldenPath(name))
	require.NoError(t, err)
	assert.Equal(t, string(bytes), string(got))
}

func egress(d ...flow.Slot) []flow.Slot { return d }

// conversation is a TCP connection that this host opened and whose server answered.
func conversation(client, server string) []flow.Slot {
	return egress(
		opening(tcp(client, server, flow.DirectionEgress, syn|ack|psh, 5, 500, 1, 2), flow.HandshakeSYN),
		tcp(server, client, flow.DirectionIngress, syn|ack|psh, 4, 4000, 1.1, 2.1),
	)
}

func TestMetricsGolden(t *testing.T) {
	c := testConfig()
	b := newBench(t, c, newFakeHost("eth0", "eth1"), consumertest.NewNop(), nil)
	b.host.count(conversation("10.0.0.1:40000", "10.0.0.2:443")...)
	b.host.count(udp("[fe80::1]:5353", "[ff02::fb]:5353", flow.DirectionEgress, 2, 200, 1, 1))
	icmp := udp("10.0.0.3:0", "10.0.0.1:0", flow.DirectionIngress, 1, 98, 1, 1)
	icmp.Proto, icmp.IfIndex = 1, 2
	b.host.count(icmp)
	b.host.do(func() {
		b.host.classes = []kernel.Class{
			{Reason: flow.ReasonOverflow, IfIndex: 1, Direction: flow.DirectionIngress, Volume: flow.Volume{Packets: 7, Bytes: 700}},
			{Reason: flow.ReasonOverflow, Direction: flow.DirectionEgress, Volume: flow.Volume{Packets: 1, Bytes: 60}}, // interface unknown
			{Reason: flow.ReasonARP, IfIndex: 1, Volume: flow.Volume{Packets: 9, Bytes: 540}},
			{Reason: flow.ReasonBadIPv4, IfIndex: 1, Volume: flow.Volume{Packets: 3, Bytes: 180}},
		}
	})
	b.after(3 * time.Second)
	compareMetrics(t, "metrics_first", b.points())

	b.host.count(tcp("10.0.0.1:40000", "10.0.0.2:443", flow.DirectionEgress, ack, 1, 66, 4, 4))
	b.after(2 * time.Second)
	compareMetrics(t, "metrics_second", b.points())
}

func TestMetricsWithEveryAttributeGolden(t *testing.T) {
	c := testConfig()
	m := &c.MetricsBuilder.Metrics
	m.NetworkFlowIo.EnabledAttributes = nil
	for name := range attrBits {
		m.NetworkFlowIo.EnabledAttributes = append(m.NetworkFlowIo.EnabledAttributes, metadata.NetworkFlowIoMetricAttributeKey(name))
	}
	m.NetworkFlowPackets.EnabledAttributes = []metadata.NetworkFlowPacketsMetricAttributeKey{"network.io.direction"}
	m.NetworkFlowActive.EnabledAttributes = append(m.NetworkFlowActive.EnabledAttributes, "server.port")
	b := newBench(t, c, newFakeHost("eth0"), consumertest.NewNop(), nil)
	b.host.count(conversation("10.0.0.1:40000", "10.0.0.2:443")...)
	tagged := udp("[2001:db8::1]:500", "[2001:db8::2]:500", flow.DirectionIngress, 2, 200, 1, 1)
	tagged.Tagged, tagged.VLAN = true, 42
	fragment := udp("10.0.0.1:0", "10.0.0.2:0", flow.DirectionEgress, 1, 1500, 1, 1)
	fragment.LaterFragment = true
	b.host.count(tagged, fragment)
	b.after(3 * time.Second)
	compareMetrics(t, "metrics_every_attribute", b.points())
}

func TestCardinalityLimitGolden(t *testing.T) {
	c := testConfig()
	c.CardinalityLimit = 3
	m := &c.MetricsBuilder.Metrics
	m.NetworkFlowActive.Enabled, m.NetworkFlowPackets.Enabled = false, false
	m.NetworkFlowIo.EnabledAttributes = []metadata.NetworkFlowIoMetricAttributeKey{"destination.port"}
	b := newBench(t, c, newFakeHost("eth0"), consumertest.NewNop(), nil)
	for port := range 5 {
		b.host.count(udp("10.0.0.1:1000", fmt.Sprintf("10.0.0.2:%d", 50+port), flow.DirectionEgress, 1, 100, 1, 1))
	}
	b.after(3 * time.Second)
	compareMetrics(t, "metrics_cardinality_limit", b.points())
}

func TestServerPortIsEarned(t *testing.T) {
	const client, server = "10.0.0.1:40000", "10.0.0.2:443"
	request := opening(tcp(client, server, flow.DirectionEgress, syn, 1, 60, 1, 1), flow.HandshakeSYN)
	for name, c := range map[string]struct {
		slots []flow.Slot
		want  bool
	}{
		"handshake and answer":      {conversation(client, server), true},
		"answer drained on its own": {[]flow.Slot{conversation(client, server)[1], conversation(client, server)[0]}, true},
		"no answer":                 {egress(request), false},
		"refused":                   {egress(request, tcp(server, client, flow.DirectionIngress, rst|ack, 1, 54, 1, 1)), false},
		"high port":                 {conversation(client, "10.0.0.2:50000"), false},
		"no handshake seen":         {egress(tcp(client, server, flow.DirectionEgress, ack, 1, 60, 1, 1), tcp(server, client, flow.DirectionIngress, ack, 1, 60, 1, 1)), true},
		"nor an answer":             {egress(tcp(client, server, flow.DirectionEgress, ack, 1, 60, 1, 1)), false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, testConfig(), newFakeHost("eth0"), consumertest.NewNop(), nil)
			b.host.count(c.slots...)
			b.after(2 * time.Second)
			_, has := pointsOf(b.points(), instrumentIO.name).At(0).Attributes().Get(attrServerPort)
			assert.Equal(t, c.want, has)
		})
	}
}

func TestServerPortHasABoundedNumberOfValues(t *testing.T) {
	b := newBench(t, testConfig(), newFakeHost("eth0"), consumertest.NewNop(), nil)
	for port := 1; port <= maxServerPorts+10; port++ {
		b.host.count(conversation("10.0.0.1:40000", fmt.Sprintf("10.0.0.2:%d", port))...)
	}
	b.after(2 * time.Second)
	ports := map[int64]bool{}
	points := pointsOf(b.points(), instrumentPackets.name)
	var total int64
	for _, dp := range points.All() {
		total += dp.IntValue()
		if p, ok := dp.Attributes().Get(attrServerPort); ok {
			ports[p.Int()] = true
		}
	}
	assert.Len(t, ports, maxServerPorts)
	assert.Equal(t, int64(9*(maxServerPorts+10)), total)
}

func TestOnlyAnOmittedServerPortCounts(t *testing.T) {
	for name, c := range map[string]struct {
		attributes int // of the defaults, server.port is the last
		want       int64
	}{"asked for": {6, 9 * 10}, "not asked for": {5, 0}} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig()
			m := &cfg.MetricsBuilder.Metrics
			m.NetworkFlowIo.EnabledAttributes = m.NetworkFlowIo.EnabledAttributes[:c.attributes]
			m.NetworkFlowPackets.EnabledAttributes = m.NetworkFlowPackets.EnabledAttributes[:c.attributes]
			b, tel := measured(t, cfg, consumertest.NewNop(), nil)
			for port := 1; port <= maxServerPorts+10; port++ {
				b.host.count(conversation("10.0.0.1:40000", fmt.Sprintf("10.0.0.2:%d", port))...)
			}
			b.after(2 * time.Second)
			assert.Equal(t, c.want, total(t, tel, "otelcol_ebpfpackets_receiver_server_port_omissions"))
		})
	}
}

// Ports make room when their series have gone, and not before.
func TestServerPortsAreReleasedWithTheirSeries(t *testing.T) {
	c := testConfig()
	c.SeriesTimeout = time.Minute
	b := newBench(t, c, newFakeHost("eth0"), consumertest.NewNop(), nil)
	named := func(first int) int {
		ports := map[int64]bool{}
		for port := first; port < first+maxServerPorts; port++ {
			b.host.count(conversation("10.0.0.1:40000", fmt.Sprintf("10.0.0.2:%d", port))...)
		}
		for _, dp := range pointsOf(b.pointsAfter(time.Second), instrumentIO.name).All() {
			if p, ok := dp.Attributes().Get(attrServerPort); ok && p.Int() >= int64(first) {
				ports[p.Int()] = true
			}
		}
		return len(ports)
	}
	assert.Equal(t, maxServerPorts, named(1))
	assert.Equal(t, 0, named(1001), "all are in use")
	b.pointsAfter(time.Second)
	b.pointsAfter(time.Minute)
	assert.Equal(t, maxServerPorts, named(2001))
}

// pointsOf returns the points of the metric called name.
func pointsOf(messages []pmetric.Metrics, name string) pmetric.NumberDataPointSlice {
	all := pmetric.NewNumberDataPointSlice()
	for _, md := range messages {
		for _, m := range md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
			if m.Name() == name {
				points := pmetric.NewNumberDataPointSlice()
				m.Sum().DataPoints().CopyTo(points)
				points.MoveAndAppendTo(all)
			}
		}
	}
	return all
}

func TestManyPointsLeaveInMessagesOfBoundedSize(t *testing.T) {
	c := testConfig()
	c.CardinalityLimit = 20000
	m := &c.MetricsBuilder.Metrics
	m.NetworkFlowIo.EnabledAttributes = append(m.NetworkFlowIo.EnabledAttributes, "destination.port")
	b := newBench(t, c, newFakeHost("eth0"), consumertest.NewNop(), nil)
	for port := range 9000 {
		b.host.count(udp("10.0.0.1:1000", fmt.Sprintf("10.0.0.2:%d", 1+port), flow.DirectionEgress, 1, 100, 1, 1))
	}
	b.after(time.Second)
	messages := b.points()
	assert.Len(t, messages, 3)
	for _, md := range messages {
		assert.LessOrEqual(t, md.DataPointCount(), maxPoints)
	}
	assert.Equal(t, 9000, pointsOf(messages, instrumentIO.name).Len())
}

// Everything at once: what leaves adds up to what the kernel counted, exactly.
func TestPointsAddUpToSlots(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	c := testConfig()
	c.CardinalityLimit, c.SeriesTimeout, c.Flows.MaxFlows = 40, 2*time.Second, 50
	for name := range attrBits {
		c.MetricsBuilder.Metrics.NetworkFlowIo.EnabledAttributes = append(c.MetricsBuilder.Metrics.NetworkFlowIo.EnabledAttributes, metadata.NetworkFlowIoMetricAttributeKey(name))
	}
	b := newBench(t, c, newFakeHost("eth0", "eth1"), consumertest.NewNop(), nil)
	var want flow.Volume
	io := ledgerOf{t, map[string]point{}}
	packets := ledgerOf{t, map[string]point{}}
	for range 100 {
		for range r.IntN(30) {
			s := udp(fmt.Sprintf("10.0.0.%d:%d", r.IntN(8), 1+r.IntN(3)), fmt.Sprintf("10.0.1.%d:%d", r.IntN(8), 1+r.IntN(3)),
				flow.Direction(r.IntN(2)), 1+r.Uint64N(9), 60+r.Uint64N(900), 0, 0)
			s.Proto, s.IfIndex = uint8(r.IntN(20)), uint32(r.IntN(3))
			want.Add(s.Volume)
			b.host.count(s)
		}
		b.after(time.Duration(r.IntN(1000)) * time.Millisecond)
		if r.IntN(2) == 0 {
			b.collectInto(&io, &packets)
		}
	}
	b.after(time.Millisecond)
	b.collectInto(&io, &packets)
	assert.Equal(t, want, flow.Volume{Packets: packets.total().Packets, Bytes: io.total().Packets})
}

func (b *bench) collectInto(io, packets *ledgerOf) {
	messages := b.points()
	for name, l := range map[string]*ledgerOf{instrumentIO.name: io, instrumentPackets.name: packets} {
		for _, dp := range pointsOf(messages, name).All() {
			id := fmt.Sprint(dp.Attributes().AsRaw())
			p := l.last[id]
			now := point{start: int64(dp.StartTimestamp()), time: int64(dp.Timestamp()), before: p.before, volume: flow.Volume{Packets: uint64(dp.IntValue())}}
			if p.start == now.start {
				require.GreaterOrEqual(b.t, now.volume.Packets, p.volume.Packets)
			} else {
				require.GreaterOrEqual(b.t, now.start, p.time)
				now.before.Add(p.volume)
			}
			require.Greater(b.t, now.time, p.time)
			l.last[id] = now
		}
	}
}

func TestTimeNeverRunsBackwards(t *testing.T) {
	b := newBench(t, testConfig(), newFakeHost("eth0"), consumertest.NewNop(), nil)
	b.host.count(udp("10.0.0.1:1000", "10.0.0.2:2000", flow.DirectionEgress, 3, 300, 1, 1))
	b.after(-400 * time.Millisecond)
	first := pointsOf(b.points(), instrumentIO.name).At(0)
	assert.Less(t, first.StartTimestamp(), first.Timestamp())
	b.after(-400 * time.Millisecond)
	second := pointsOf(b.points(), instrumentIO.name).At(0)
	assert.Less(t, first.Timestamp(), second.Timestamp())
	assert.Equal(t, first.StartTimestamp(), second.StartTimestamp())
}
