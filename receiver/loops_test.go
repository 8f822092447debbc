// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
)

// for how long loop runs, in time that only the loops and the test pass.
func during(d time.Duration, loop func(context.Context)) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	loop(ctx)
}

func TestACollectionIsNotDrainedTwice(t *testing.T) {
	for name, c := range map[string]struct {
		interval time.Duration
		drains   int // in 10 minutes and a second
	}{"a multiple of the drains": {30 * time.Second, 120}, "collections alone": {5 * time.Second, 120}, "odd": {7 * time.Second, 2*600/7 + 1}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := testConfig()
				cfg.CollectionInterval = c.interval
				b := newBench(t, cfg, newFakeHost("eth0"), consumertest.NewNop(), nil)
				during(10*time.Minute+time.Second, b.drainLoop)
				assert.InDelta(t, c.drains, b.host.drains, 1)
			})
		})
	}
}

// reads returns how often samples are read in d.
func (b *bench) reads(d time.Duration) int {
	var before, after int
	b.host.do(func() { before = b.host.reads })
	time.Sleep(d)
	b.host.do(func() { after = b.host.reads })
	return after - before
}

func TestSamplesAreReadOftenWhileThereAreSome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, testConfig(), newFakeHost("eth0"), nil, consumertest.NewNop())
		ctx, cancel := context.WithCancel(t.Context())
		go b.sampleLoop(ctx)
		assert.InDelta(t, samplePatience/sampleInterval, b.reads(samplePatience), 2)
		time.Sleep(time.Second)
		assert.InDelta(t, time.Minute/idleInterval, b.reads(time.Minute), 2)
		b.host.do(func() { b.host.samples = []packet.Sample{{Data: make([]byte, 14), Segments: 1}} })
		time.Sleep(idleInterval)
		assert.InDelta(t, time.Second/sampleInterval, b.reads(time.Second), 2)
		cancel()
		synctest.Wait()
	})
}

func TestMemoryForManySlotsIsNotKeptForEver(t *testing.T) {
	c := testConfig()
	c.Flows.MaxFlows = 1
	b := newBench(t, c, newFakeHost("eth0"), consumertest.NewNop(), nil)
	b.host.count(manyFlows(keepSlots + 1)...)
	b.after(time.Second)
	b.after(time.Second)
	assert.Zero(t, cap(b.drain.slots))
	assert.Zero(t, cap(b.drain.numbers))
	b.host.count(manyFlows(10)...)
	b.after(time.Second)
	assert.NotZero(t, cap(b.drain.slots))
}

// The order that source asks for: no drain runs beside Stop, and one comes after it.
func TestWhatIsCountedUntilStopIsSaid(t *testing.T) {
	h := newFakeHost("eth0")
	var metrics consumertest.MetricsSink
	var logs consumertest.LogsSink
	b := newBench(t, testConfig(), h, &metrics, &logs)
	h.do(func() {
		h.untilStop = []flow.Slot{udp("10.0.0.1:1000", "10.0.0.2:2000", flow.DirectionEgress, 3, 300, 1, 1)}
		h.hold = make(chan struct{})
	})
	b.engine.clock = time.Now
	h.clock = time.Now
	b.run()
	h.pressure <- struct{}{}
	soon(t, h.draining.Load)
	h.do(func() { h.failures = 3 }) // the one in progress, and two of the end
	time.AfterFunc(20*time.Millisecond, func() { close(h.hold) })
	require.NoError(t, b.shutdown(context.Background()))
	assert.False(t, h.misused.Load(), "Stop beside a drain")
	assert.Equal(t, int64(3), pointsOf(metrics.AllMetrics(), instrumentPackets.name).At(0).IntValue())
	assert.Equal(t, 1, logs.LogRecordCount())
	assert.Equal(t, 4, h.drains)
}

// At the end there is nothing to keep up with: what finds no room waits for it.
func TestTheEndWaitsForSlowConsumers(t *testing.T) {
	var metrics consumertest.MetricsSink
	var logs consumertest.LogsSink
	metricsGate, logsGate := make(chan struct{}), make(chan struct{})
	var offered atomic.Bool
	nextMetrics, err := consumer.NewMetrics(func(ctx context.Context, md pmetric.Metrics) error {
		offered.Store(true)
		<-metricsGate
		return metrics.ConsumeMetrics(ctx, md)
	})
	require.NoError(t, err)
	nextLogs, err := consumer.NewLogs(func(ctx context.Context, ld plog.Logs) error {
		<-logsGate
		return logs.ConsumeLogs(ctx, ld)
	})
	require.NoError(t, err)
	h := newFakeHost("eth0")
	b := newBench(t, testConfig(), h, nextMetrics, nextLogs)
	b.engine.clock = time.Now
	h.clock = time.Now
	b.logs.queue = make(chan *batch, 1)
	b.run()
	h.count(udp("10.0.0.1:1000", "10.0.0.2:53", flow.DirectionEgress, 3, 300, 1, 1))
	soon(t, offered.Load)
	h.count(manyFlows(5 * maxRecords)...)
	go func() {
		time.Sleep(20 * time.Millisecond)
		close(logsGate)
		for logs.LogRecordCount() <= 5*maxRecords { // the last drain hands over its records before the last collection
			time.Sleep(time.Millisecond)
		}
		time.Sleep(50 * time.Millisecond)
		close(metricsGate)
	}()
	require.NoError(t, b.shutdown(context.Background()))
	all := metrics.AllMetrics()
	var packets int64
	for _, dp := range pointsOf(all[len(all)-1:], instrumentPackets.name).All() {
		packets += dp.IntValue()
	}
	assert.Equal(t, int64(3+3*5*maxRecords), packets)
	var records int64
	for _, ld := range logs.AllLogs() {
		for _, r := range ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
			n, _ := r.Attributes().Get(attrFlowIOPackets)
			records += n.Int()
		}
	}
	assert.Equal(t, packets, records)
}

// Pressure may ask for a hundred drains in a second, and flows may be many: they are looked at once.
func TestFlowsAreLookedAtOnceASecond(t *testing.T) {
	h := newFakeHost("eth0")
	c := testConfig()
	c.CollectionInterval = time.Minute
	b := newBench(t, c, h, nil, consumertest.NewNop())
	held := func() int { return b.table.Len() }
	h.count(udp("10.0.0.1:1000", "10.0.0.2:53", flow.DirectionEgress, 3, 300, 1, 1))
	b.after(time.Second) // of its last packet
	b.after(b.cfg.Flows.IdleTimeout - 500*time.Millisecond)
	b.after(999 * time.Millisecond)
	assert.Equal(t, 1, held(), "over, and not looked at")
	b.after(time.Millisecond)
	assert.Zero(t, held())
}
