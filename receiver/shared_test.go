// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pmetric"
	otelreceiver "go.opentelemetry.io/collector/receiver"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

// duo is a receiver with both signals, started. Time is the test's own.
type duo struct {
	t    *testing.T
	host *fakeHost
	pipelines
	metricsHost, logsHost *recordingHost
	metricsSink           consumertest.MetricsSink
	logsSink              consumertest.LogsSink
	tel                   *componenttest.Telemetry
}

func startDuo(t *testing.T) *duo {
	d := &duo{t: t, host: newFakeHost("eth0"), metricsHost: newRecordingHost(), logsHost: newRecordingHost(), tel: componenttest.NewTelemetry()}
	t.Cleanup(func() { require.NoError(t, d.tel.Shutdown(context.Background())) })
	set := nopSettings()
	set.ID = component.NewID(metadata.Type)
	set.TelemetrySettings = d.tel.NewTelemetrySettings()
	d.pipelines = create(t, d.host, testConfig(), set, &d.metricsSink, &d.logsSink)
	require.NoError(t, d.metrics.Start(t.Context(), d.metricsHost))
	require.NoError(t, d.logs.Start(t.Context(), d.logsHost))
	return d
}

// lives returns the packets that metrics tell in each life of their series.
func (d *duo) lives() (packets []int64) {
	last := map[int64]int64{} // by the beginning of the life: its last message counts
	var begins []int64
	for _, md := range d.metricsSink.AllMetrics() {
		points := pointsOf([]pmetric.Metrics{md}, instrumentPackets.name)
		begin, sum := int64(0), int64(0)
		for _, p := range points.All() {
			begin, sum = p.StartTimestamp().AsTime().UnixNano(), sum+p.IntValue()
		}
		if _, ok := last[begin]; !ok {
			begins = append(begins, begin)
		}
		last[begin] = sum
	}
	for _, begin := range begins {
		packets = append(packets, last[begin])
	}
	return packets
}

// records returns the packets that each flow record tells.
func (d *duo) records() (packets []int64) {
	for _, ld := range d.logsSink.AllLogs() {
		n := tallyOf(ld)
		packets = append(packets, int64(n.volume.Packets))
	}
	return packets
}

func (d *duo) count(packets uint64) {
	d.host.count(udp("10.0.0.1:1000", "10.0.0.2:2000", flow.DirectionEgress, packets, 100*packets, 1, 1))
}

func (d *duo) shutDown(r otelreceiver.Metrics) {
	d.t.Helper()
	require.NoError(d.t, r.Shutdown(d.t.Context()))
}

// A collector that reloads receivers shuts one signal down and leaves the other: what both counted until then is told, and the other
// goes on, alone.
func TestASignalGoesOnWithoutTheOther(t *testing.T) {
	for _, first := range []string{"metrics", "logs"} {
		t.Run(first+" first", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := startDuo(t)
				ends, stays, host := d.metrics, d.logs, d.logsHost
				if first == "logs" {
					ends, stays, host = d.logs, d.metrics, d.metricsHost
				}
				d.count(7)
				d.shutDown(ends)
				assert.Equal(t, []int64{7}, d.lives())
				assert.Equal(t, []int64{7}, d.records())
				d.host.do(func() { assert.True(t, d.host.stopped); assert.Equal(t, 1, d.host.closed) })

				time.Sleep(patience)
				synctest.Wait()
				require.Len(t, d.host.loaded, 2)
				assert.Equal(t, first == "metrics", d.host.loaded[1].samples, "only for records")
				d.count(3)
				time.Sleep(testConfig().CollectionInterval + time.Second/2)
				assert.Equal(t, map[string]int64{"attached": 1, "pending": 0, "failed": 0}, valuesOf(t, d.tel, "otelcol_ebpfpackets_receiver_interfaces", "state"))
				assert.EqualValues(t, 3, valuesOf(t, d.tel, "otelcol_ebpfpackets_receiver_ledger_packets", "entry")["accounted"])
				_, err := d.tel.GetMetric("otelcol_ebpfpackets_receiver_series")
				assert.Equal(t, first == "logs", err == nil, "series are told of as long as there are metrics")
				d.count(2)
				d.shutDown(stays)
				assert.Equal(t, 2, d.host.closed)
				if first == "logs" {
					assert.Equal(t, []int64{7, 5}, d.lives())
					assert.Equal(t, []int64{7}, d.records())
				} else {
					assert.Equal(t, []int64{7}, d.lives())
					assert.Equal(t, []int64{7, 5}, d.records())
				}
				assert.Empty(t, host.events, "nothing was wrong")
			})
		})
	}
}

// A collector that stops shuts all down, one after the other: there is one end, and nothing begins anew.
func TestAStopIsOneStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := startDuo(t)
		d.count(7)
		d.shutDown(d.logs)
		time.Sleep(patience / 2)
		d.shutDown(d.metrics)
		time.Sleep(10 * patience)
		assert.Len(t, d.host.loaded, 1)
		assert.Equal(t, 1, d.host.closed)
		assert.Equal(t, []int64{7}, d.lives())
		assert.Equal(t, []int64{7}, d.records())
	})
}

// A signal that was never started does not make the receiver go on.
func TestASignalThatWasNotStartedIsNotBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHost("eth0")
		p := create(t, h, testConfig(), nopSettings(), consumertest.NewNop(), consumertest.NewNop())
		require.NoError(t, p.metrics.Start(t.Context(), componenttest.NewNopHost()))
		require.NoError(t, p.metrics.Shutdown(t.Context()))
		time.Sleep(10 * patience)
		assert.Len(t, h.loaded, 1)

		require.NoError(t, p.logs.Start(t.Context(), componenttest.NewNopHost()))
		assert.Len(t, h.loaded, 2, "it is started for itself")
		require.NoError(t, p.logs.Shutdown(t.Context()))
		assert.Equal(t, 2, h.closed)
	})
}

func TestASignalThatCannotGoOnSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := startDuo(t)
		d.shutDown(d.logs)
		d.host.do(func() { d.host.loadErr = errTest })
		time.Sleep(patience)
		synctest.Wait()
		require.Equal(t, []componentstatus.Status{componentstatus.StatusPermanentError}, d.metricsHost.statuses())
		require.ErrorIs(t, d.metricsHost.events[0].Err(), errTest)
		assert.Empty(t, d.logsHost.events)
		d.shutDown(d.metrics)
	})
}

// What was wrong with the engine that ended is over, unless it is wrong again; the signal that was shut down hears no more of it.
func TestAProblemEndsWithItsEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := startDuo(t)
		d.host.do(func() { d.host.drainErr = errTest })
		time.Sleep(time.Minute)
		require.Equal(t, []componentstatus.Status{componentstatus.StatusRecoverableError}, d.metricsHost.statuses())
		require.ErrorContains(t, d.logs.Shutdown(t.Context()), "the last drain failed")
		d.host.do(func() { d.host.drainErr = nil })
		time.Sleep(time.Minute)
		assert.Equal(t, []componentstatus.Status{componentstatus.StatusRecoverableError, componentstatus.StatusOK}, d.metricsHost.statuses())
		assert.Equal(t, []componentstatus.Status{componentstatus.StatusRecoverableError}, d.logsHost.statuses())
		d.shutDown(d.metrics)
	})
}
