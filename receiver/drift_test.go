// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
)

func TestDriftIsWhatTheInterfaceCountsOtherwise(t *testing.T) {
	b, tel := measured(t, testConfig(), consumertest.NewNop(), nil)
	own := func(received, transmitted uint64) {
		b.host.do(func() {
			b.host.own = map[uint32]iface.Counters{1: {Received: received, Transmitted: transmitted}, 9: {Received: 7}}
		})
	}
	drift := func() (received, transmitted int64) {
		got, err := tel.GetMetric("otelcol_ebpfpackets_receiver_interface_drift")
		require.NoError(t, err)
		points := got.Data.(metricdata.Gauge[int64]).DataPoints
		require.Len(t, points, 2, "both directions of the one attached interface")
		for _, p := range points {
			name, _ := p.Attributes.Value(attrInterfaceName)
			assert.Equal(t, "eth0", name.AsString())
			if d, _ := p.Attributes.Value(attrIODirection); d.AsString() == "receive" {
				received = p.Value
			} else {
				transmitted = p.Value
			}
		}
		return received, transmitted
	}
	count := func(sent uint64) {
		b.host.count(udp("10.0.0.1:1000", "10.0.0.2:2000", flow.DirectionEgress, sent, 100*sent, 1, 1))
		b.host.do(func() {
			b.host.classes = []kernel.Class{{Reason: flow.ReasonARP, IfIndex: 1, Direction: flow.DirectionIngress, Volume: flow.Volume{Packets: 2, Bytes: 120}}}
		})
	}
	own(1000, 5000) // before we came
	count(5)
	b.after(driftInterval)
	received, transmitted := drift()
	assert.Zero(t, received, "it begins with what was before")
	assert.Zero(t, transmitted)

	own(1002, 5010)
	count(7)
	b.after(driftInterval)
	received, transmitted = drift()
	assert.EqualValues(t, 0, received, "class slots count as well")
	assert.EqualValues(t, -3, transmitted, "the interface has counted three more")

	own(1002, 5010)
	count(4)
	b.after(time.Second) // not asked, but counted
	b.after(driftInterval)
	received, transmitted = drift()
	assert.EqualValues(t, 2, received)
	assert.EqualValues(t, 1, transmitted)
}

func TestDriftForgetsInterfacesThatAreGone(t *testing.T) {
	var d drift
	attached := map[flow.Place]bool{{IfIndex: 3}: true}
	d.add(flow.Place{IfIndex: 3}, flow.DirectionEgress, 10)
	assert.Len(t, d.compare(map[flow.Place]iface.Counters{{IfIndex: 3}: {}}, attached), 1)
	assert.Empty(t, d.compare(map[flow.Place]iface.Counters{{IfIndex: 3}: {}}, nil))
	assert.Empty(t, d.counted)
	assert.Empty(t, d.base)
	d.add(flow.Place{IfIndex: 3}, flow.DirectionEgress, 4)
	assert.Equal(t, map[flow.Place][2]int64{{IfIndex: 3}: {}}, d.compare(map[flow.Place]iface.Counters{{IfIndex: 3}: {}}, attached), "the same index later is another interface")
}
