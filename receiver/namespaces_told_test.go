// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
)

// What is emitted bears the name; where only the own namespace is to be observed, nothing does.
func TestEverythingSaysItsNamespace(t *testing.T) {
	for _, c := range []struct {
		namespaces []string
		want       map[string]int64 // packets by namespace
	}{
		{[]string{"host", "/run/netns/*"}, map[string]int64{"host": 3, "red": 40}},
		{[]string{"host"}, map[string]int64{"": 43}},
	} {
		h := newFakeHost("eth0")
		h.newSpace(10, "/run/netns/red")
		b := newBench(t, spacesConfig(c.namespaces...), h, consumertest.NewNop(), consumertest.NewNop())
		own := udp("10.0.0.1:40000", "10.0.0.2:53", flow.DirectionEgress, 3, 300, 0, 0)
		red := udp("10.0.0.1:40000", "10.0.0.2:53", flow.DirectionEgress, 30, 3000, 0, 0)
		if len(c.want) > 1 {
			red.NetNS = 1
		}
		h.count(own, red)
		h.do(func() {
			h.classes = []kernel.Class{{Reason: flow.ReasonOverflow, IfIndex: 1, NetNS: red.NetNS, Direction: flow.DirectionEgress, Volume: flow.Volume{Packets: 10, Bytes: 1000}}}
		})
		b.after(time.Second)
		packets, active := map[string]int64{}, map[string]int64{}
		for _, md := range b.points() {
			eachPoint(md, func(metric string, p pmetric.NumberDataPoint) {
				switch space := stringOf(p.Attributes(), attrNamespaceName); metric {
				case instrumentPackets.name:
					packets[space] += p.IntValue()
				case instrumentActive.name:
					active[space] += p.IntValue()
				}
			})
		}
		assert.Equal(t, c.want, packets)
		for space := range c.want {
			assert.EqualValues(t, 1, active[space], space)
		}
		b.after(time.Minute)
		told := map[string]int64{}
		records := b.logs.writer.write(b.batch()).ResourceLogs().At(0).ScopeLogs().At(0).LogRecords()
		for i := range records.Len() {
			m := records.At(i).Attributes()
			n, _ := m.Get(attrFlowIOPackets)
			told[stringOf(m, attrNamespaceName)] += n.Int()
			if space := stringOf(m, attrNamespaceName); space != "" {
				assert.Contains(t, records.At(i).Body().Str(), " "+space+" eth0: ")
			}
		}
		want := maps.Clone(c.want)
		for space := range want {
			if len(want) == 1 || space == "red" {
				want[space] -= 10 // not attributed to a flow
			}
		}
		assert.Equal(t, want, told)
	}
}

func stringOf(m pcommon.Map, name string) string {
	if v, ok := m.Get(name); ok {
		return v.Str()
	}
	return ""
}

func eachPoint(md pmetric.Metrics, f func(metric string, p pmetric.NumberDataPoint)) {
	all := md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics()
	for i := range all.Len() {
		points := all.At(i).Sum().DataPoints()
		for j := range points.Len() {
			f(all.At(i).Name(), points.At(j))
		}
	}
}

// Samples have a namespace, too, and the first words of their line say it.
func TestSamplesSayTheirNamespace(t *testing.T) {
	at := place{iface: "eth0", namespace: "red"}
	assert.Equal(t, "red eth0 Out ", string(appendHook(nil, at, flow.DirectionEgress)))
	m := pcommon.NewMap()
	putPlace(m, at, flow.DirectionEgress)
	assert.Equal(t, "red", stringOf(m, attrNamespaceName))
}

// Records of two namespaces with equal interfaces: of flows and of samples, also where the interface is not known.
func TestRecordsOfNamespacesGolden(t *testing.T) {
	v := &view{
		names:  map[flow.Place]place{{IfIndex: 1}: {"eth0", "host"}, {NetNS: 1, IfIndex: 1}: {"eth0", "red"}},
		spaces: map[uint32]string{0: "host", 1: "red"},
	}
	own := flowRecord("10.0.0.1:40000", "10.0.0.2:53", protoUDP, flow.InitiatorFirstPacket, half(1, 60, 0), half(1, 90, 0))
	red, gone := own, own
	red.Key.NetNS = 1
	gone.Key.NetNS, gone.Key.IfIndex = 1, 9
	b := &batch{observed: epoch.UnixNano() + 5e9, view: v, flows: []flow.Record{own, red, gone}}
	s := carrier(t, "a SYN with every usual option, and data")
	s.NetNS = 1
	b.addSample(&s, epoch.UnixNano()+6e8)
	w := logsWriter{resource: pcommon.NewResource(), version: "1.2.3", packets: packetWriter{oneIn: 1000}}
	compareLogs(t, "namespaces", w.write(b))
}

// A port that is given to clients in one namespace may be a server's in another.
func TestServerPortsAreThoseOfANamespace(t *testing.T) {
	h := newFakeHost("eth0")
	red := h.newSpace(10, "/run/netns/red")
	red.low = 1024
	b := newBench(t, spacesConfig("host", "/run/netns/*"), h, consumertest.NewNop(), nil)
	for _, ns := range []uint16{0, 1} {
		there := opening(tcp("10.0.0.1:40000", "10.0.0.2:8080", flow.DirectionEgress, syn|ack, 2, 200, 0, 0.1), flow.HandshakeSYN)
		back := opening(tcp("10.0.0.2:8080", "10.0.0.1:40000", flow.DirectionIngress, syn|ack|psh, 2, 200, 0.05, 0.1), flow.HandshakeSYNACK)
		there.NetNS, back.NetNS = ns, ns
		h.count(there, back)
	}
	b.after(time.Second)
	ports := map[string]bool{}
	for _, md := range b.points() {
		eachPoint(md, func(_ string, p pmetric.NumberDataPoint) {
			if _, ok := p.Attributes().Get(attrServerPort); ok {
				ports[stringOf(p.Attributes(), attrNamespaceName)] = true
			}
		})
	}
	assert.Equal(t, map[string]bool{"host": true}, ports)

	h.do(func() { red.low = 2048 })
	for _, s := range b.namespaces.sorted() {
		require.NoError(t, s.interfaces.sync())
	}
	assert.EqualValues(t, 2048, b.places.now().low[1], "it was changed since")
}
