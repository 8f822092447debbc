// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/plog"
	otelreceiver "go.opentelemetry.io/collector/receiver"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
)

// pipelines are the receivers of both signals of one configuration.
type pipelines struct {
	metrics otelreceiver.Metrics
	logs    otelreceiver.Logs
}

func create(t *testing.T, h *fakeHost, cfg *Config, set otelreceiver.Settings, nextMetrics consumer.Metrics, nextLogs consumer.Logs) pipelines {
	t.Helper()
	f := newFactory(h)
	var p pipelines
	var err error
	p.metrics, err = f.CreateMetrics(t.Context(), set, cfg, nextMetrics)
	require.NoError(t, err)
	p.logs, err = f.CreateLogs(t.Context(), set, cfg, nextLogs)
	require.NoError(t, err)
	return p
}

// soon waits for what another goroutine does.
func soon(t *testing.T, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, 5*time.Second, 5*time.Millisecond)
}

func TestBothPipelinesShareOneEngine(t *testing.T) {
	h := newFakeHost("eth0")
	var metrics consumertest.MetricsSink
	var logs consumertest.LogsSink
	p := create(t, h, testConfig(), nopSettings(), &metrics, &logs)
	require.NoError(t, p.metrics.Start(t.Context(), componenttest.NewNopHost()))
	require.NoError(t, p.logs.Start(t.Context(), componenttest.NewNopHost()))
	require.Len(t, h.loaded, 1)
	assert.Equal(t, sourceConfig{quotes: true, samples: true, packets: testConfig().Packets, idle: testConfig().Flows.IdleTimeout}, h.loaded[0])

	h.count(conversation("10.0.0.1:40000", "10.0.0.2:443")...)
	h.do(func() {
		h.samples = []packet.Sample{{Time: 1, IfIndex: 1, Segments: 1, Pool: 1, Reasons: packet.ReasonRandom, Data: make([]byte, 64)}}
	})
	soon(t, func() bool { return metrics.DataPointCount() > 0 })

	h.count(udp("10.0.0.1:1000", "10.0.0.2:2000", flow.DirectionEgress, 3, 300, 1, 1)) // just before the end
	require.NoError(t, p.metrics.Shutdown(t.Context()))
	require.NoError(t, p.logs.Shutdown(t.Context()))
	require.NoError(t, p.logs.Shutdown(t.Context()))
	assert.True(t, h.stopped)
	assert.Equal(t, 1, h.closed)

	all := metrics.AllMetrics()
	var total int64
	for _, dp := range pointsOf(all[len(all)-1:], instrumentPackets.name).All() {
		total += dp.IntValue()
	}
	assert.Equal(t, int64(5+4+3), total)
	assert.Equal(t, 3, logs.LogRecordCount(), "two flows and a sample")
}

func TestAConfigurationCanBeUsedAgainAfterShutdown(t *testing.T) {
	h, cfg := newFakeHost("eth0"), testConfig()
	f := newFactory(h)
	for i := range 3 {
		r, err := f.CreateMetrics(t.Context(), nopSettings(), cfg, consumertest.NewNop())
		require.NoError(t, err)
		require.NoError(t, r.Start(t.Context(), componenttest.NewNopHost()))
		require.NoError(t, r.Shutdown(t.Context()))
		assert.Equal(t, i+1, h.closed)
	}
}

func TestShutdownWithoutStart(t *testing.T) {
	h := newFakeHost("eth0")
	p := create(t, h, testConfig(), nopSettings(), consumertest.NewNop(), consumertest.NewNop())
	require.NoError(t, p.metrics.Shutdown(t.Context()))
	require.NoError(t, p.logs.Shutdown(t.Context()))
	require.NoError(t, p.logs.Start(t.Context(), componenttest.NewNopHost()), "too late: does nothing")
	assert.Empty(t, h.loaded)
}

func TestOnlyWhatAPipelineNeedsIsBuilt(t *testing.T) {
	off := func(c *Config) {
		c.LogsBuilder.Events.NetworkFlow.Enabled, c.LogsBuilder.Events.NetworkPacket.Enabled = false, false
	}
	flowsOff := func(c *Config) { c.LogsBuilder.Events.NetworkFlow.Enabled = false }
	packetsOff := func(c *Config) {
		c.LogsBuilder.Events.NetworkPacket.Enabled, c.Packets.Protocols = false, []string{"tls"}
		c.Packets.FlowOneIn, c.Packets.FirstPerFlow = 10, 1
	}
	noMetrics := func(c *Config) {
		m := &c.MetricsBuilder.Metrics
		m.NetworkFlowActive.Enabled, m.NetworkFlowIo.Enabled, m.NetworkFlowPackets.Enabled = false, false, false
	}
	withoutRoles := func(c *Config) {
		m := &c.MetricsBuilder.Metrics
		m.NetworkFlowActive.Enabled, m.NetworkFlowPackets.Enabled = false, false
		m.NetworkFlowIo.EnabledAttributes = m.NetworkFlowIo.EnabledAttributes[:1]
	}
	for name, c := range map[string]struct {
		metrics, logs           bool
		change                  func(*Config)
		samples, records, table bool
		kinds                   []packet.Kind // if not random alone
		series                  bool
		info                    []string
	}{
		"both":         {metrics: true, logs: true, samples: true, records: true, table: true, series: true},
		"metrics only": {metrics: true, table: true, series: true, info: []string{"No logs pipeline: no flow records, no samples"}},
		"logs only":    {logs: true, samples: true, records: true, table: true, info: []string{"No metrics pipeline: no series"}},
		"events off":   {metrics: true, logs: true, change: off, table: true, series: true, info: []string{"Event network.flow is off: no flow records", "Event network.packet is off: no samples"}},
		"messages for flows": {
			metrics: true, logs: true, change: packetsOff, samples: true, kinds: []packet.Kind{packet.KindProtocol}, records: true, table: true, series: true,
			info: []string{"Event network.packet is off: no samples but of messages, which flow records name the protocol and the server of"},
		},
		"messages for nobody": {
			metrics: true, logs: true, change: func(c *Config) { packetsOff(c); off(c) }, table: true, series: true,
			info: []string{"Event network.flow is off: no flow records", "Event network.packet is off: no samples"},
		},
		"metrics off":       {metrics: true, logs: true, change: noMetrics, samples: true, records: true, table: true, info: []string{"All metrics are off: no series"}},
		"nobody asks roles": {metrics: true, change: withoutRoles, series: true, info: []string{"No logs pipeline: no flow records, no samples"}},
		"sampling off":      {logs: true, change: func(c *Config) { c.Packets.RandomOneIn = 0 }, records: true, table: true, info: []string{"packets.random_one_in, flow_one_in and first_per_flow are 0, and protocols is empty: no samples", "No metrics pipeline: no series"}},
		"samples only":      {logs: true, change: flowsOff, samples: true, info: []string{"Event network.flow is off: no flow records", "No metrics pipeline: no series"}},
		"no records": {logs: true, change: func(c *Config) { flowsOff(c); c.Packets.RandomOneIn = 0 }, info: []string{
			"Event network.flow is off: no flow records", "packets.random_one_in, flow_one_in and first_per_flow are 0, and protocols is empty: no samples", "No metrics pipeline: no series",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, h := testConfig(), newFakeHost("eth0")
			if c.change != nil {
				c.change(cfg)
			}
			core, seenLogs := observer.New(zap.InfoLevel)
			set := nopSettings()
			set.Logger = zap.New(core)
			e := newEngine(cfg, set, h)
			if c.metrics {
				e.nextMetrics = consumertest.NewNop()
			}
			if c.logs {
				e.nextLogs = consumertest.NewNop()
			}
			require.NoError(t, e.load())
			defer func() { require.NoError(t, e.release()) }()
			assert.Equal(t, c.samples, h.loaded[0].samples)
			if c.kinds == nil && c.samples {
				c.kinds = []packet.Kind{packet.KindRandom}
			}
			assert.Equal(t, c.kinds, h.loaded[0].packets.kinds())
			assert.Equal(t, c.records, e.flowRecords)
			assert.Equal(t, c.records || c.samples, e.logs != nil)
			assert.Equal(t, c.table, e.table != nil)
			assert.Equal(t, c.series, e.metrics != nil)
			var info []string
			for _, l := range seenLogs.All() {
				info = append(info, l.Message)
			}
			assert.Equal(t, c.info, info)
		})
	}
}

func TestStartFailsWhenLoadingFails(t *testing.T) {
	h := newFakeHost("eth0")
	h.loadErr = errors.New("load programs: missing CAP_BPF")
	p := create(t, h, testConfig(), nopSettings(), consumertest.NewNop(), consumertest.NewNop())
	require.EqualError(t, p.metrics.Start(t.Context(), componenttest.NewNopHost()), "load programs: missing CAP_BPF")
	require.EqualError(t, p.logs.Start(t.Context(), componenttest.NewNopHost()), "load programs: missing CAP_BPF", "the same for every pipeline")
	assert.Len(t, h.loaded, 1)
	require.NoError(t, p.metrics.Shutdown(t.Context()))
	require.NoError(t, p.logs.Shutdown(t.Context()))
}

func TestStartFailsWhenEveryAttachFails(t *testing.T) {
	h := newFakeHost("eth0", "eth1")
	h.attachErr["eth0"] = errors.New(`attach tcx ingress to "eth0": no`)
	h.attachErr["eth1"] = errors.New(`attach tcx ingress to "eth1": no`)
	p := create(t, h, testConfig(), nopSettings(), consumertest.NewNop(), consumertest.NewNop())
	require.EqualError(t, p.metrics.Start(t.Context(), componenttest.NewNopHost()), `2 interfaces failed, the first: attach tcx ingress to "eth0": no`)
	assert.Equal(t, 1, h.closed)
	require.NoError(t, p.metrics.Shutdown(t.Context()))
}

func TestErrorModeIgnoreKeepsTheCollectorUp(t *testing.T) {
	h, cfg := newFakeHost("eth0"), testConfig()
	h.loadErr = errors.New("load programs: missing CAP_BPF")
	cfg.ErrorMode = errorModeIgnore
	core, logged := observer.New(zap.ErrorLevel)
	set := nopSettings()
	set.Logger = zap.New(core)
	var metrics consumertest.MetricsSink
	p := create(t, h, cfg, set, &metrics, consumertest.NewNop())
	first, second := newRecordingHost(), newRecordingHost()
	require.NoError(t, p.metrics.Start(t.Context(), first))
	require.NoError(t, p.logs.Start(t.Context(), second))
	assert.Equal(t, []componentstatus.Status{componentstatus.StatusPermanentError}, first.statuses())
	assert.Equal(t, []componentstatus.Status{componentstatus.StatusPermanentError}, second.statuses(), "replayed to the second pipeline")
	assert.Equal(t, 1, logged.Len())
	require.NoError(t, p.metrics.Shutdown(t.Context()))
	require.NoError(t, p.logs.Shutdown(t.Context()))
	assert.Empty(t, metrics.AllMetrics())
}

func TestPressureDrainsAtOnce(t *testing.T) {
	h, cfg := newFakeHost("eth0"), testConfig()
	cfg.CollectionInterval, cfg.Flows.IdleTimeout = time.Hour, time.Hour
	cfg.SeriesTimeout = time.Hour
	p := create(t, h, cfg, nopSettings(), consumertest.NewNop(), consumertest.NewNop())
	require.NoError(t, p.metrics.Start(t.Context(), componenttest.NewNopHost()))
	h.pressure <- struct{}{}
	soon(t, func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.drains > 0
	})
	require.NoError(t, p.metrics.Shutdown(t.Context()))
}

// A consumer that never returns holds up neither drains nor, beyond its context, Shutdown.
func TestABlockedConsumerDoesNotHoldUpDrains(t *testing.T) {
	h := newFakeHost("eth0")
	release := make(chan struct{})
	blocked, err := consumer.NewLogs(func(context.Context, plog.Logs) error { <-release; return nil })
	require.NoError(t, err)
	var metrics consumertest.MetricsSink
	p := create(t, h, testConfig(), nopSettings(), &metrics, blocked)
	require.NoError(t, p.metrics.Start(t.Context(), componenttest.NewNopHost()))
	h.do(func() {
		h.samples = []packet.Sample{{Time: 1, Data: make([]byte, 14), Segments: 1}}
	})
	h.count(udp("10.0.0.1:1000", "10.0.0.2:2000", flow.DirectionEgress, 3, 300, 1, 1))
	soon(t, func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.drains > 3
	})
	soon(t, func() bool { return metrics.DataPointCount() > 0 })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	go func() {
		<-ctx.Done()
		time.Sleep(100 * time.Millisecond)
		close(release)
	}()
	err = p.metrics.Shutdown(ctx)
	require.EqualError(t, err, "flush log records: 1 lost: context deadline exceeded")
	assert.Equal(t, 1, h.closed)
}

// The Collector shuts down with a context that never ends.
func TestShutdownEndsByItself(t *testing.T) {
	for name, c := range map[string]struct {
		consume func(ctx context.Context, ld plog.Logs) error
		err     string
		flush   time.Duration
	}{
		"the consumer refuses": {func(context.Context, plog.Logs) error { return errTest }, "", time.Minute},
		"the consumer waits for its context": {func(ctx context.Context, _ plog.Logs) error {
			<-ctx.Done()
			return ctx.Err()
		}, "flush log records: 6000 lost: context deadline exceeded", 50 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			next, err := consumer.NewLogs(c.consume)
			require.NoError(t, err)
			b, tel := measured(t, testConfig(), nil, next)
			core, logged := observer.New(zap.InfoLevel)
			b.engine.log = zap.New(core)
			b.flush, b.logs.delays = c.flush, retryDelays
			b.run()
			b.host.count(manyFlows(3 * maxRecords)...)
			began := time.Now()
			err = b.shutdown(context.Background())
			assert.Less(t, time.Since(began), 5*time.Second)
			if c.err == "" {
				require.NoError(t, err)
			} else {
				require.EqualError(t, err, c.err)
			}
			assert.Equal(t, map[string]int64{"shutdown": 3 * maxRecords}, valuesOf(t, tel, "otelcol_ebpfpackets_receiver_record_sheds", "cause"))
			last := logged.All()[logged.Len()-1].Message
			assert.Contains(t, last, "Final ledger: seen 18000 packets")
		})
	}
}

func TestNothingLostIsNoError(t *testing.T) {
	slow, err := consumer.NewLogs(func(ctx context.Context, _ plog.Logs) error {
		<-ctx.Done()
		return nil // taken in the last moment
	})
	require.NoError(t, err)
	b := newBench(t, testConfig(), newFakeHost("eth0"), nil, slow)
	b.flush = 20 * time.Millisecond
	b.run()
	b.host.count(udp("10.0.0.1:1000", "10.0.0.2:2000", flow.DirectionEgress, 3, 300, 1, 1))
	require.NoError(t, b.shutdown(context.Background()))
}

func TestRestartsLeaveNothing(t *testing.T) { // goleak looks in TestMain
	h, cfg := newFakeHost("eth0"), testConfig()
	f := newFactory(h)
	for range 20 {
		r, err := f.CreateLogs(t.Context(), nopSettings(), cfg, consumertest.NewNop())
		require.NoError(t, err)
		require.NoError(t, r.Start(t.Context(), componenttest.NewNopHost()))
		h.count(udp("10.0.0.1:1000", "10.0.0.2:2000", flow.DirectionEgress, 3, 300, 1, 1))
		require.NoError(t, r.Shutdown(t.Context()))
	}
	assert.Equal(t, 20, h.closed)
}

// Nobody comes after the last drain: what it could not take is lost, and the Collector is told.
func TestALastDrainThatFailsIsAnErrorOfShutdown(t *testing.T) {
	h := newFakeHost("eth0")
	core, logged := observer.New(zap.ErrorLevel)
	set := nopSettings()
	set.Logger = zap.New(core)
	p := create(t, h, testConfig(), set, consumertest.NewNop(), consumertest.NewNop())
	require.NoError(t, p.metrics.Start(t.Context(), componenttest.NewNopHost()))
	h.do(func() { h.drainErr = errTest })
	err := p.metrics.Shutdown(t.Context())
	require.EqualError(t, err, "the last drain failed 3 times: what was counted since the one before is lost")
	assert.Equal(t, finalDrains, logged.FilterMessage("Taking the kernel's counters failed at the end").Len())
	assert.Equal(t, 1, h.closed)
}

// What the kernel lacks and the receiver does without is one line in the log, and in every event of the status.
func TestMissingFeaturesAreInLogAndStatus(t *testing.T) {
	h := newFakeHost("eth0")
	h.missing = []string{"no tcx: clsact", "no other"}
	core, logs := observer.New(zap.WarnLevel)
	set := nopSettings()
	set.Logger = zap.New(core)
	host := newRecordingHost()
	p := create(t, h, testConfig(), set, consumertest.NewNop(), consumertest.NewNop())
	require.NoError(t, p.metrics.Start(t.Context(), host))
	require.Len(t, host.events, 1)
	assert.Equal(t, componentstatus.StatusOK, host.events[0].Status())
	assert.Equal(t, map[string]any{"kernel": "no tcx: clsact; no other"}, host.events[0].Attributes().AsRaw())
	require.NoError(t, p.metrics.Shutdown(t.Context()))
	var lines []string
	for _, entry := range logs.All() {
		lines = append(lines, entry.Message)
	}
	assert.Equal(t, []string{"Kernel: no tcx: clsact", "Kernel: no other"}, lines)
}
