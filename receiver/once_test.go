// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

// onceBench counts every packet at one interface: what the client sends at pod0, what the server sends at up0.
func onceBench(t *testing.T, protocols ...string) *bench {
	c := messagesConfig(protocols...)
	c.Interfaces.Deduplicate = true
	return newBench(t, c, newFakeHost("pod0", "up0"), consumertest.NewNop(), consumertest.NewNop())
}

// onceConversation is that of a client and a server, seconds after epoch.
func onceConversation(at float64) (slots []flow.Slot) {
	back := tcp(server, client, flow.DirectionIngress, syn|ack|psh, 4, 4000, at+0.1, at+0.2)
	back.Handshake, back.IfIndex = flow.HandshakeSYNACK, 2
	return []flow.Slot{opening(tcp(client, server, flow.DirectionIngress, syn|ack|psh, 5, 500, at, at+0.1), flow.HandshakeSYN), back}
}

// Each half is in the metrics of the interface that counted it; the conversation is one: its roles are known, it is active
// once, and one record tells both halves.
func TestAConversationThatCountsAtTwoInterfacesIsOne(t *testing.T) {
	b := onceBench(t, "http")
	b.host.count(onceConversation(1)...)
	b.after(3 * time.Second)
	out := otlpcheck.Output{Metrics: b.points()}
	total := func(metric, iface, direction string) int64 {
		want := map[string]any{attrInterfaceName: iface}
		if direction != "" {
			want[attrIODirection], want[attrServerPort] = direction, 8080
		}
		return out.Total(metric, otlpcheck.Has(want))
	}
	assert.EqualValues(t, 500, total(instrumentIO.name, "pod0", "receive"))
	assert.EqualValues(t, 4000, total(instrumentIO.name, "up0", "receive"))
	assert.EqualValues(t, 500, total(instrumentIO.name, "pod0", ""))
	assert.EqualValues(t, 4000, total(instrumentIO.name, "up0", ""))
	assert.EqualValues(t, 1, total(instrumentActive.name, "pod0", ""))
	assert.EqualValues(t, 0, total(instrumentActive.name, "up0", ""))

	messages := []segment{{client, server, 1, request, 0, true, 0}, {server, client, 1, strings.Replace(response, "1.1", "1.0", 1), 0, true, 0}}
	b.hand(messages[0])
	reply := messages[1].sample(b.now.Add(time.Millisecond), uint32(1+len(request)))
	reply.IfIndex = 2
	b.host.samples = append(b.host.samples, reply)
	b.readSamples()
	bodies, records := b.told()
	require.Len(t, bodies, 2)
	assert.Contains(t, bodies[1], "up0 In IP", "a sample says where it was seen")
	elapsed, ok := records[1].Attributes().Get(attrMessageResponseTime)
	require.True(t, ok, bodies[1])
	assert.InDelta(t, 0.001, elapsed.Double(), 1e-9)

	b.after(b.cfg.Flows.IdleTimeout)
	bodies, records = b.told()
	require.Equal(t, []string{
		"tcp client 10.0.0.1:40000 > server 10.0.0.2:8080 http 1.0 example.com pod0: 5 packets 500 bytes, back 4 packets 4000 bytes at up0, in 200ms, idle_timeout",
	}, bodies)
	for name, want := range map[string]any{
		attrInterfaceName: "pod0", attrIODirection: "receive",
		attrFlowReverseInterface: "up0", attrFlowReverseDirection: "receive",
		attrFlowInitiatorMethod: "syn",
	} {
		got, _ := records[0].Attributes().Get(name)
		assert.Equal(t, want, got.Str(), name)
	}
}

// An interface that goes, while what passed it goes on at another, has a name as long as the record that begins with it is told.
func TestAFlowGoesOnWhenItsInterfaceIsGone(t *testing.T) {
	b := onceBench(t)
	seconds := func() float64 { return b.now.Sub(epoch).Seconds() }
	b.host.count(onceConversation(1)...)
	b.after(3 * time.Second)
	b.host.do(func() { b.host.ifaces = b.host.ifaces[1:] })
	b.step(0)
	var bytes, packets uint64
	for b.now.Before(epoch.Add(b.cfg.Flows.ActiveTimeout + 10*time.Second)) {
		moved := onceConversation(seconds())
		moved[0].Handshake, moved[0].IfIndex, moved[0].Direction = 0, 2, flow.DirectionEgress
		b.host.count(moved...)
		b.after(5 * time.Second)
		b.step(0)
		bytes, packets = bytes+4500, packets+9
	}
	all := b.logs.writer.write(b.batch()).ResourceLogs().At(0).ScopeLogs().At(0).LogRecords()
	require.Equal(t, 1, all.Len())
	assert.Contains(t, all.At(0).Body().Str(), "pod0: ")
	told := writtenVolume(all.At(0).Attributes())
	b.ended()
	all = b.logs.writer.write(b.batch()).ResourceLogs().At(0).ScopeLogs().At(0).LogRecords()
	require.Equal(t, 1, all.Len())
	assert.Contains(t, all.At(0).Body().Str(), "up0: ")
	for _, name := range []string{attrFlowReverseInterface, attrFlowReverseDirection} {
		_, ok := all.At(0).Attributes().Get(name)
		assert.False(t, ok, "it is the other direction of up0")
	}
	told.Add(writtenVolume(all.At(0).Attributes()))
	assert.Equal(t, flow.Volume{Packets: 9 + packets, Bytes: 4500 + bytes}, told)
}
