// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
)

// talk lets 5 s pass in which one conversation has one packet.
func (b *bench) talk() {
	at := b.now.Sub(epoch).Seconds() + 4
	b.host.count(udp("10.0.0.1:1000", "10.0.0.2:2000", flow.DirectionEgress, 1, 100, at, at))
	b.after(5 * time.Second)
}

// records takes all flow records that wait.
func (b *bench) records() (all []flow.Record) {
	for len(b.logs.queue) > 0 {
		all = append(all, b.batch().flows...)
	}
	return all
}

func TestFlowsAfterTheClockWasSetBack(t *testing.T) {
	b := newBench(t, testConfig(), newFakeHost("eth0"), nil, consumertest.NewNop())
	core, logged := observer.New(zap.WarnLevel)
	b.engine.log = zap.New(core)
	b.talk()
	old := b.drain.time
	b.now = b.now.Add(-time.Hour)
	for range 6 {
		b.talk()
	}
	all := b.records()
	require.Len(t, all, 1, "the flow goes on")
	assert.Equal(t, flow.EndReasonForcedEnd, all[0].EndReason)
	assert.Less(t, all[0].End, old)
	assert.Equal(t, 1, b.table.Len())
	require.Equal(t, 1, logged.Len())
	assert.Equal(t, time.Hour-5*time.Second, logged.All()[0].ContextMap()["by"])

	b.after(b.cfg.Flows.IdleTimeout)
	all = b.records()
	require.Len(t, all, 1)
	assert.Equal(t, flow.EndReasonIdleTimeout, all[0].EndReason)
	assert.Equal(t, uint64(6), all[0].Forward.Packets)
}

// A stream has two lives: both add up to what was counted, and the intervals of the second are real.
func TestPointsAfterTheClockWasSetBack(t *testing.T) {
	refuse := false
	var sink consumertest.MetricsSink
	next, err := consumer.NewMetrics(func(ctx context.Context, md pmetric.Metrics) error {
		if refuse {
			md.ResourceMetrics().RemoveIf(func(pmetric.ResourceMetrics) bool { return true }) // it may
			return errTest
		}
		return sink.ConsumeMetrics(ctx, md)
	}, consumer.WithCapabilities(consumer.Capabilities{MutatesData: true}))
	require.NoError(t, err)
	b := newBench(t, testConfig(), newFakeHost("eth0"), next, nil)
	b.talk()
	b.pushed(t.Context())
	b.talk()
	refuse = true
	b.pushed(t.Context())
	b.talk()
	old := b.drain.time
	b.now = b.now.Add(-time.Hour)
	b.talk()
	require.Len(t, b.metricsPusher.queue, 1, "at once")
	b.pushed(t.Context()) // the last word: refused
	began := b.drain.time
	refuse = false
	for range 3 { // the first says what is owed
		b.talk()
		b.pushed(t.Context())
	}

	points := pointsOf(sink.AllMetrics(), instrumentPackets.name)
	require.Equal(t, 4, points.Len())
	var values []int64
	for _, dp := range points.All() {
		values = append(values, dp.IntValue())
	}
	assert.Equal(t, []int64{1, 3, 3, 4}, values)
	assert.Equal(t, pcommon.Timestamp(old+1), points.At(1).Timestamp())
	for _, name := range []string{instrumentIO.name, instrumentActive.name} {
		for _, dp := range pointsOf(sink.AllMetrics(), name).All() {
			assert.Less(t, dp.StartTimestamp(), dp.Timestamp(), name)
		}
	}
	for i, after := range []time.Duration{10 * time.Second, 15 * time.Second} {
		dp := points.At(2 + i)
		assert.Equal(t, pcommon.Timestamp(began), dp.StartTimestamp())
		assert.Equal(t, pcommon.Timestamp(began+int64(after)), dp.Timestamp())
	}
}

// set sets the wall clock.
func (b *bench) set(by time.Duration) {
	b.now = b.now.Add(by)
	b.host.booted += int64(by)
}

// The first point of a new life counts what was counted since the drain before, so that is where it begins.
func TestSeriesBeginBeforeWhatTheyCountAfterTheClockWasSetBack(t *testing.T) {
	for _, offered := range []bool{true, false} {
		b := newBench(t, testConfig(), newFakeHost("eth0"), consumertest.NewNop(), nil)
		b.host.booted = 1
		b.talk()
		if offered {
			b.points()
			b.talk()
		}
		drained := b.now
		b.set(-time.Hour)
		b.talk()
		if offered {
			b.taken() // the last word of the old life
		}
		p := pointsOf(b.pointsAfter(time.Second), instrumentPackets.name).At(0)
		assert.Equal(t, drained.Add(-time.Hour).UTC(), p.StartTimestamp().AsTime())
		assert.Equal(t, b.now.UTC(), p.Timestamp().AsTime())
	}
}

// A flow that ended at the step forward may go on: it seems to have been silent for longer than it was.
func TestNobodyWasFirstBeforeTheClockWasSetForward(t *testing.T) {
	b := newBench(t, testConfig(), newFakeHost("eth0"), nil, consumertest.NewNop())
	b.host.booted = 1
	const client, server = "10.0.0.1:51820", "10.0.0.2:51820"
	at := func() float64 { return b.now.Sub(epoch).Seconds() + 4 }
	b.host.count(udp(client, server, flow.DirectionEgress, 1, 100, at(), at()))
	b.after(5 * time.Second)
	b.set(10 * time.Minute)
	b.after(5 * time.Second)
	require.Len(t, b.records(), 1)

	for _, want := range []flow.Initiator{flow.InitiatorUnknown, flow.InitiatorFirstPacket} {
		b.host.count(udp(server, client, flow.DirectionIngress, 1, 100, at(), at()))
		b.after(5 * time.Second)
		b.after(3 * time.Minute)
		all := b.records()
		require.Len(t, all, 1)
		assert.Equal(t, want, all[0].Initiator)
	}
}

func TestABusyConsumerGetsTheLastPointsBeforeTheClockWasSetBack(t *testing.T) {
	b := newBench(t, testConfig(), newFakeHost("eth0"), consumertest.NewNop(), nil)
	b.talk()
	b.collect() // in flight
	b.talk()
	old := b.drain.time
	b.now = b.now.Add(-time.Hour)
	b.talk()
	assert.Equal(t, int64(1), pointsOf(b.taken(), instrumentPackets.name).At(0).IntValue())
	last := pointsOf(b.pointsAfter(time.Second), instrumentPackets.name).At(0)
	assert.Equal(t, int64(2), last.IntValue())
	assert.Equal(t, pcommon.Timestamp(old+1), last.Timestamp())
	assert.Equal(t, int64(1), pointsOf(b.pointsAfter(time.Second), instrumentPackets.name).At(0).IntValue())
}

func TestSamplesAfterTheClockWasSetBack(t *testing.T) {
	b := newBench(t, testConfig(), newFakeHost("eth0"), nil, consumertest.NewNop())
	b.host.do(func() {
		b.host.samples = []packet.Sample{{Time: epoch.UnixNano() + 7, Data: make([]byte, 14), Segments: 1}}
	})
	b.readSamples()
	b.now = b.now.Add(-time.Hour)
	b.readSamples()
	s := b.batch().packets[0]
	assert.Equal(t, s.Time, s.observed, "never before it was")
}
