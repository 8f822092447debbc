// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/featuregate"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

const exampleGate = "receiver.ebpfpackets.UseExampleNames"

var exampleRenames = []rename{
	{gate: exampleGate, about: "An example.", since: "v0.2.0", kind: kindMetric, from: "network.flow.io", to: "example.io"},
	{gate: exampleGate, kind: kindAttribute, from: attrVLANID, to: "example.vlan"},
	{gate: exampleGate, kind: kindAttribute, from: attrFlowIOPackets, to: "example.packets"},
	{gate: exampleGate, kind: kindEvent, from: eventFlow, to: "example.flow"},
}

func TestAGateRenamesMetricsAttributesAndEvents(t *testing.T) {
	for name, enabled := range map[string]bool{"on": true, "off": false} {
		t.Run(name, func(t *testing.T) {
			registry, before := featuregate.NewRegistry(), renames
			t.Cleanup(func() { renames = before })
			renames = registerRenames(registry, exampleRenames)
			require.NoError(t, registry.Set(exampleGate, enabled))

			c := testConfig()
			c.MetricsBuilder.Metrics.NetworkFlowIo.EnabledAttributes = append(c.MetricsBuilder.Metrics.NetworkFlowIo.EnabledAttributes, attrVLANID)
			b := newBench(t, c, newFakeHost("eth0"), consumertest.NewNop(), consumertest.NewNop())
			s := udp("10.0.0.1:1000", "10.0.0.2:2000", flow.DirectionEgress, 3, 300, 1, 1)
			s.Tagged, s.VLAN = true, 42
			b.host.count(s)
			b.after(time.Second)
			messages := b.points()
			b.after(time.Hour)
			ld := b.logs.writer.write(b.batch())

			metric, attribute, event := "network.flow.io", attrVLANID, eventFlow
			if enabled {
				metric, attribute, event = "example.io", "example.vlan", "example.flow"
			}
			points := pointsOf(messages, metric)
			require.Equal(t, 1, points.Len())
			vlan, ok := points.At(0).Attributes().Get(attribute)
			require.True(t, ok)
			assert.Equal(t, int64(42), vlan.Int())
			assert.Equal(t, 5, points.At(0).Attributes().Len())
			assert.Equal(t, 1, pointsOf(messages, "network.flow.packets").Len(), "another name")
			assert.Equal(t, schemaURL, messages[0].ResourceMetrics().At(0).SchemaUrl())

			record := ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
			assert.Equal(t, event, record.EventName())
			left := tallyOf(ld)
			assert.Equal(t, flow.Volume{Packets: 3, Bytes: 300}, left.volume, "what a consumer gives back is still understood")
			assert.EqualValues(t, 1, left.flows)
			vlan, ok = record.Attributes().Get(attribute)
			require.True(t, ok)
			assert.Equal(t, int64(42), vlan.Int())
		})
	}
}

// What is on offer may only touch names that are ours to change.
func TestRenamesOnOfferAreOfTheLowerTiers(t *testing.T) {
	for _, r := range append(renames, registerRenames(featuregate.NewRegistry(), exampleRenames)...) {
		assert.Contains(t, tiers[r.kind], r.from)
		assert.Greater(t, tiers[r.kind][r.from], tierSemconv, r.from)
		assert.Regexp(t, `^receiver\.ebpfpackets\.[A-Z][A-Za-z]+$`, r.gate)
	}
}

func BenchmarkRenameNothing(b *testing.B) {
	c := testConfig()
	m := newMetrics(c, 1, defaultEphemeralLow)
	m.active = nil
	s := udp("10.0.0.1:1000", "10.0.0.2:2000", flow.DirectionEgress, 3, 300, 1, 1)
	m.addSlot(&s, nil, place{iface: "eth0"}, 2)
	var w metricsWriter
	m.collect(&w, 3, nil, &view{})
	b.ReportAllocs()
	for b.Loop() {
		renameMetrics(w.messages[0])
	}
}
