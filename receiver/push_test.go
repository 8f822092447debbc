// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadatatest"
)

// measured is a bench whose own telemetry can be read.
func measured(t *testing.T, c *Config, metrics consumer.Metrics, logs consumer.Logs) (*bench, *componenttest.Telemetry) {
	return measuredOn(t, newFakeHost("eth0"), c, metrics, logs)
}

func measuredOn(t *testing.T, h *fakeHost, c *Config, metrics consumer.Metrics, logs consumer.Logs) (*bench, *componenttest.Telemetry) {
	tel := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, tel.Shutdown(context.Background())) })
	b := &bench{t: t, host: h, now: epoch}
	set := nopSettings()
	set.ID = component.NewID(metadata.Type)
	set.TelemetrySettings = tel.NewTelemetrySettings()
	b.engine = newEngine(c, set, b.host)
	b.engine.clock = func() time.Time { return b.now }
	b.host.clock = b.engine.clock
	b.nextMetrics, b.nextLogs = metrics, logs
	require.NoError(t, b.load())
	require.NoError(t, b.attach())
	b.setOwn()
	t.Cleanup(func() { require.NoError(t, b.release()) })
	if b.logs != nil {
		b.logs.delays = []time.Duration{time.Millisecond, time.Millisecond, time.Millisecond}
	}
	if b.metricsPusher != nil {
		b.metricsPusher.pause = time.Millisecond
	}
	return b, tel
}

// replies is a consumer of logs that answers its calls in turn, the last answer for ever, and spoils what it refuses.
type replies struct {
	answers []error
	calls   int
	taken   []plog.Logs
	offered []int // records of each call
}

func (r *replies) consumer(t *testing.T) consumer.Logs {
	c, err := consumer.NewLogs(func(_ context.Context, ld plog.Logs) error {
		err := r.answers[min(r.calls, len(r.answers)-1)]
		r.calls++
		r.offered = append(r.offered, ld.LogRecordCount())
		if err == nil {
			r.taken = append(r.taken, ld)
		} else {
			ld.ResourceLogs().RemoveIf(func(plog.ResourceLogs) bool { return true })
		}
		return err
	}, consumer.WithCapabilities(consumer.Capabilities{MutatesData: true}))
	require.NoError(t, err)
	return c
}

func twoFlows() *batch {
	return &batch{observed: 1, flows: make([]flow.Record, 2)}
}

func sum(n int64, attrs ...attribute.KeyValue) []metricdata.DataPoint[int64] {
	return []metricdata.DataPoint[int64]{{Value: n, Attributes: attribute.NewSet(append(attrs, attribute.String("receiver", "ebpfpackets"))...)}}
}

func TestLogsAreOfferedAgainAsLongAsItHelps(t *testing.T) {
	permanent := consumererror.NewPermanent(errTest)
	rest := plog.NewLogs()
	rest.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty().SetEventName(eventFlow)
	partial, none := consumererror.NewLogs(errTest, rest), consumererror.NewLogs(errTest, plog.NewLogs())
	event := attribute.String("event", eventFlow)
	for name, c := range map[string]struct {
		answers         []error
		offered         []int
		delivered, shed int64
		cause           string
	}{
		"taken":                       {[]error{nil}, []int{2}, 2, 0, ""},
		"refused once":                {[]error{errTest, nil}, []int{2, 2}, 2, 0, ""},
		"refused three times":         {[]error{errTest, errTest, errTest, nil}, []int{2, 2, 2, 2}, 2, 0, ""},
		"refused for ever":            {[]error{errTest}, []int{2, 2, 2, 2}, 0, 2, "refused"},
		"permanent":                   {[]error{permanent}, []int{2}, 0, 2, "permanent"},
		"refused, then permanent":     {[]error{errTest, permanent}, []int{2, 2}, 0, 2, "permanent"},
		"one taken, one refused once": {[]error{partial, errTest, nil}, []int{2, 1, 1}, 2, 0, ""},
		"taken, and an error":         {[]error{none}, []int{2}, 2, 0, ""},
		"one taken, one refused":      {[]error{partial, permanent}, []int{2, 1}, 1, 1, "permanent"},
	} {
		t.Run(name, func(t *testing.T) {
			r := replies{answers: c.answers}
			b, tel := measured(t, testConfig(), nil, r.consumer(t))
			b.logs.push(t.Context(), twoFlows())
			assert.Equal(t, c.offered, r.offered)
			if c.delivered > 0 {
				metadatatest.AssertEqualEbpfpacketsReceiverRecords(t, tel, sum(c.delivered, event), metricdatatest.IgnoreTimestamp())
			}
			if c.shed > 0 {
				metadatatest.AssertEqualEbpfpacketsReceiverRecordSheds(t, tel, sum(c.shed, event, attribute.String("cause", c.cause)), metricdatatest.IgnoreTimestamp())
			}
			assert.Equal(t, c.delivered, total(t, tel, "otelcol_receiver_accepted_log_records"))
			assert.Equal(t, c.shed, total(t, tel, "otelcol_receiver_refused_log_records")+total(t, tel, "otelcol_receiver_failed_log_records"))
		})
	}
}

// total returns the sum of the points of one of the Collector's own metrics, 0 if it has none.
func total(t *testing.T, tel *componenttest.Telemetry, name string) (n int64) {
	t.Helper()
	m, err := tel.GetMetric(name)
	if err != nil {
		return 0
	}
	for _, dp := range m.Data.(metricdata.Sum[int64]).DataPoints {
		n += dp.Value
	}
	return n
}

func TestRetriesStopAfterTheirBudget(t *testing.T) {
	var budget time.Duration
	for _, d := range retryDelays {
		budget += d
	}
	assert.Less(t, budget, retryBudget)
	assert.Len(t, retryDelays, 3)

	r := replies{answers: []error{errTest}}
	b, _ := measured(t, testConfig(), nil, r.consumer(t))
	b.logs.delays = []time.Duration{time.Hour}
	b.logs.push(t.Context(), twoFlows())
	assert.Equal(t, 1, r.calls)
}

func TestAFullQueueDropsAndCounts(t *testing.T) {
	b, tel := measured(t, testConfig(), nil, consumertest.NewNop())
	for range cap(b.logs.queue) + 3 {
		b.logs.offer(&batch{packets: make([]sampled, 5)})
	}
	assert.Len(t, b.logs.queue, cap(b.logs.queue))
	metadatatest.AssertEqualEbpfpacketsReceiverRecordSheds(t, tel,
		sum(15, attribute.String("event", eventPacket), attribute.String("cause", "queue_full")), metricdatatest.IgnoreTimestamp())
}

func TestWhatShutdownCannotDeliverIsCounted(t *testing.T) {
	r := replies{answers: []error{errTest}}
	b, tel := measured(t, testConfig(), nil, r.consumer(t))
	b.logs.delays = []time.Duration{time.Second}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.logs.push(ctx, twoFlows()) // refused
	b.logs.offer(twoFlows())     // never begun
	close(b.logs.queue)
	b.logs.run(ctx)
	assert.Equal(t, 1, r.calls)
	metadatatest.AssertEqualEbpfpacketsReceiverRecordSheds(t, tel,
		sum(4, attribute.String("event", eventFlow), attribute.String("cause", "shutdown")), metricdatatest.IgnoreTimestamp())
}

func TestTheEndInterruptsTheWaitForOneMoreAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := replies{answers: []error{errTest}}
		b, tel := alive(t, testConfig(), r.consumer(t))
		b.logs.delays = []time.Duration{time.Second, time.Second} // less than the budget
		began := time.Now()
		time.AfterFunc(time.Second/2, func() { close(b.logs.ending) })
		b.logs.push(t.Context(), twoFlows())
		b.logs.push(t.Context(), twoFlows())
		assert.Equal(t, time.Second/2, time.Since(began))
		assert.Equal(t, 3, r.calls, "one more, and once")
		assert.Equal(t, map[string]int64{"shutdown": 4}, valuesOf(t, tel, "otelcol_ebpfpackets_receiver_record_sheds", "cause"))
	})
}

// pushed collects and lets the pusher run until it has pushed that.
func (b *bench) pushed(ctx context.Context) {
	b.collect()
	close(b.metricsPusher.queue)
	b.metricsPusher.run(ctx)
	b.metricsPusher.queue = make(chan []pmetric.Metrics, 1)
	b.settle()
}

func TestRefusedMetricsAreNotOfferedAgainAndNothingIsLost(t *testing.T) {
	refuse := true
	var sink consumertest.MetricsSink
	next, err := consumer.NewMetrics(func(ctx context.Context, md pmetric.Metrics) error {
		if refuse {
			return errTest
		}
		return sink.ConsumeMetrics(ctx, md)
	})
	require.NoError(t, err)
	b, tel := measured(t, testConfig(), next, nil)
	b.host.count(udp("10.0.0.1:1000", "10.0.0.2:2000", flow.DirectionEgress, 3, 300, 1, 1))
	b.after(time.Second)
	b.pushed(t.Context())
	b.after(10 * time.Minute)
	b.pushed(t.Context())
	refuse = false
	b.after(10 * time.Minute)
	b.pushed(t.Context())
	assert.Equal(t, int64(300), pointsOf(sink.AllMetrics(), instrumentIO.name).At(0).IntValue(), "although its series timed out")
	assert.Equal(t, int64(3), total(t, tel, "otelcol_receiver_accepted_metric_points"))
	assert.Equal(t, int64(3+3), total(t, tel, "otelcol_receiver_refused_metric_points")+total(t, tel, "otelcol_receiver_failed_metric_points"))

	b.after(10 * time.Minute)
	b.pushed(t.Context())
	assert.Zero(t, b.metrics.series()[instrumentIO.name], "delivered, and dropped")
}

// A series whose last value nobody took stays, however often and for whatever reason it is refused: its counts would be lost
// without a word. Of deltas, what was refused for good is counted as shed, and the series may go.
func TestASeriesStaysUntilItsLastValueIsTaken(t *testing.T) {
	permanent := consumererror.NewPermanent(errTest)
	for _, c := range []struct {
		temporality string
		answer      error
		kept        int
		told        int64 // once the consumer takes
	}{
		{temporalityCumulative, nil, 0, 300},
		{temporalityCumulative, permanent, 1, 300},
		{temporalityCumulative, errTest, 1, 300},
		{temporalityDelta, permanent, 0, 0},
		{temporalityDelta, errTest, 1, 300},
	} {
		answer := c.answer
		var sink consumertest.MetricsSink
		next, err := consumer.NewMetrics(func(ctx context.Context, md pmetric.Metrics) error {
			if answer != nil {
				return answer
			}
			return sink.ConsumeMetrics(ctx, md)
		})
		require.NoError(t, err)
		cfg := testConfig()
		cfg.AggregationTemporality = c.temporality
		b, _ := measured(t, cfg, next, nil)
		b.host.count(udp("10.0.0.1:1000", "10.0.0.2:2000", flow.DirectionEgress, 3, 300, 1, 1))
		b.after(time.Second)
		b.pushed(t.Context())
		for range 3 { // nothing new, long after series_timeout
			b.after(time.Hour)
			b.pushed(t.Context())
		}
		name := fmt.Sprint(c.temporality, " ", c.answer)
		assert.Equal(t, c.kept, b.metrics.series()[instrumentIO.name], name)
		answer = nil
		b.after(time.Hour)
		b.pushed(t.Context())
		var told int64
		for _, md := range sink.AllMetrics() {
			for _, dp := range pointsOf([]pmetric.Metrics{md}, instrumentIO.name).All() {
				told = max(told, dp.IntValue())
			}
		}
		assert.Equal(t, c.told, told, name)
	}
}

func TestMetricsAreNotOfferedWhenThereIsNoMoreTime(t *testing.T) {
	var sink consumertest.MetricsSink
	b, _ := measured(t, testConfig(), &sink, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.after(time.Second)
	b.host.count(udp("10.0.0.1:1000", "10.0.0.2:2000", flow.DirectionEgress, 3, 300, 1, 1))
	b.after(time.Second)
	b.pushed(ctx)
	assert.Empty(t, sink.AllMetrics())
	assert.Equal(t, 1, b.metrics.series()[instrumentIO.name])
}

func TestASlowConsumerOfMetricsMissesCollectionsNotCounts(t *testing.T) {
	b, _ := measured(t, testConfig(), consumertest.NewNop(), nil)
	for range 3 {
		b.host.count(udp("10.0.0.1:1000", "10.0.0.2:2000", flow.DirectionEgress, 1, 100, 1, 1))
		b.after(time.Second)
		b.collect()
	}
	require.Len(t, b.metricsPusher.queue, 1)
	b.taken()
	assert.Equal(t, int64(300), pointsOf(b.pointsAfter(time.Second), instrumentIO.name).At(0).IntValue())
}

func (b *bench) pointsAfter(d time.Duration) []pmetric.Metrics {
	b.after(d)
	return b.points()
}
