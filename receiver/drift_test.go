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

func TestDriftIsOfEachNamespace(t *testing.T) {
	h := newFakeHost("eth0")
	red := h.newSpace(10, "/run/netns/red")
	b, tel := measuredOn(t, h, spacesConfig("host", "/run/netns/*"), consumertest.NewNop(), nil)
	h.do(func() {
		h.own = map[uint32]iface.Counters{1: {Transmitted: 1}}
		red.own = map[uint32]iface.Counters{1: {Transmitted: 1}}
	})
	b.after(time.Second)
	s := udp("10.0.0.1:40000", "10.0.0.2:53", flow.DirectionEgress, 7, 700, 0, 0)
	s.NetNS = 1
	h.count(s)
	b.after(driftInterval)
	b.after(driftInterval)
	drifts := valuesOf(t, tel, "otelcol_ebpfpackets_receiver_interface_drift", attrNamespaceName, attrInterfaceName, attrIODirection)
	assert.Equal(t, map[string]int64{"host eth0 receive": 0, "host eth0 transmit": 0, "red eth0 receive": 0, "red eth0 transmit": 7}, drifts)
}

// A namespace that does not answer has no drift until it does, and then what it had, and what is gone has none.
func TestDriftOutlastsSilence(t *testing.T) {
	h := newFakeHost("eth0")
	red := h.newSpace(10, "/run/netns/red")
	b, tel := measuredOn(t, h, spacesConfig("/run/netns/*"), consumertest.NewNop(), nil)
	sent := func(packets uint64) {
		s := udp("10.0.0.1:40000", "10.0.0.2:53", flow.DirectionEgress, packets, 700, 0, 0)
		s.NetNS = 1
		h.count(s)
	}
	drift := func() map[string]int64 {
		if _, err := tel.GetMetric("otelcol_ebpfpackets_receiver_interface_drift"); err != nil {
			return map[string]int64{}
		}
		return valuesOf(t, tel, "otelcol_ebpfpackets_receiver_interface_drift", attrIODirection)
	}
	red.own = map[uint32]iface.Counters{1: {}}
	b.after(driftInterval)
	sent(7)
	b.after(driftInterval)
	assert.Equal(t, map[string]int64{"receive": 0, "transmit": 7}, drift())
	sent(2)
	h.do(func() { red.own, red.ownErr = nil, errTest })
	b.after(driftInterval)
	assert.Empty(t, drift())
	h.do(func() { red.own, red.ownErr = map[uint32]iface.Counters{1: {}}, nil })
	b.after(driftInterval)
	assert.Equal(t, map[string]int64{"receive": 0, "transmit": 9}, drift())
	h.do(func() { delete(h.spaces, "/run/netns/red") })
	b.look()
	b.after(driftInterval)
	assert.Empty(t, drift())
}

// Namespaces that take long to answer are asked one before each drain, and none before a drain that is pressing.
func TestAskingForDriftIsBounded(t *testing.T) {
	h := newFakeHost("eth0")
	b, tel := measuredOn(t, h, spacesConfig("/run/netns/*"), consumertest.NewNop(), nil)
	for n, name := range []string{"red", "blue"} {
		s := h.newSpace(uint64(10+n), "/run/netns/"+name)
		s.own, s.slow = map[uint32]iface.Counters{1: {}}, askTime
	}
	b.look()
	told := func() (names []string) {
		for name := range valuesOf(t, tel, "otelcol_ebpfpackets_receiver_interface_drift", attrNamespaceName) {
			names = append(names, name)
		}
		return names
	}
	b.now = b.now.Add(driftInterval)
	require.True(t, b.drainOnce())
	_, err := tel.GetMetric("otelcol_ebpfpackets_receiver_interface_drift")
	require.Error(t, err, "nobody was asked")
	b.after(0)
	assert.Len(t, told(), 1)
	b.after(0)
	assert.Len(t, told(), 2, "the first is told still")
}
