// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadatatest"
)

// valuesOf returns the values of an own metric by the attributes that its points differ in, a space between two.
func valuesOf(t *testing.T, tel *componenttest.Telemetry, name string, attrs ...attribute.Key) map[string]int64 {
	t.Helper()
	m, err := tel.GetMetric(name)
	require.NoError(t, err)
	var points []metricdata.DataPoint[int64]
	switch data := m.Data.(type) {
	case metricdata.Sum[int64]:
		points = data.DataPoints
	case metricdata.Gauge[int64]:
		points = data.DataPoints
	}
	values := map[string]int64{}
	for _, p := range points {
		var words []string
		for _, attr := range attrs {
			v, _ := p.Attributes.Value(attr)
			words = append(words, v.AsString())
		}
		values[strings.Join(words, " ")] = p.Value
	}
	return values
}

func TestLedgerInOwnTelemetry(t *testing.T) {
	c := testConfig()
	c.Packets.FirstPerFlow = 3
	b, tel := measured(t, c, consumertest.NewNop(), consumertest.NewNop())
	for range 2 { // running totals
		b.host.count(conversation("10.0.0.1:40000", "10.0.0.2:443")...)
		b.host.do(func() {
			b.host.classes = []kernel.Class{
				{Reason: flow.ReasonOverflow, IfIndex: 1, Volume: flow.Volume{Packets: 7, Bytes: 700}},
				{Reason: flow.ReasonARP, IfIndex: 1, Volume: flow.Volume{Packets: 2, Bytes: 84}},
				{Reason: flow.ReasonLLC, IfIndex: 1, Volume: flow.Volume{Packets: 1, Bytes: 60}},
				{Reason: flow.ReasonBadIPv4, IfIndex: 1, Volume: flow.Volume{Packets: 3, Bytes: 180}},
				{Reason: flow.ReasonDuplicate, IfIndex: 1, Volume: flow.Volume{Packets: 1, Bytes: 60}},
			}
			b.host.sampled = kernel.Samples{
				packet.KindRandom: {Selected: 10, Emitted: 7, RateLimited: 2, RingFull: 1},
				packet.KindFirst:  {Selected: 200, Emitted: 100, RateLimited: 70, RingFull: 30},
			}
		})
		b.after(time.Second)
	}
	packets := valuesOf(t, tel, "otelcol_ebpfpackets_receiver_ledger_packets", "entry")
	want := map[string]int64{"seen": 46, "accounted": 18, "duplicate": 2, "overflow": 14, "not_ip": 6, "unparsed_bad_ipv4": 6}
	for entry, n := range want {
		assert.Equal(t, n, packets[entry], entry)
	}
	assert.Len(t, packets, len(entries(&kernel.Ledger{})), "every entry, also at zero")
	io := valuesOf(t, tel, "otelcol_ebpfpackets_receiver_ledger_io", "entry")
	assert.Equal(t, int64(2*(4500+700+84+60+180+60)), io["seen"])
	var others int64
	for entry, n := range io {
		if entry != seen {
			others += n
		}
	}
	assert.Equal(t, io[seen], others)
	assert.Equal(t, map[string]int64{
		"random selected": 20, "random emitted": 14, "random rate_limited": 4, "random ring_full": 2,
		"first selected": 400, "first emitted": 200, "first rate_limited": 140, "first ring_full": 60,
	}, valuesOf(t, tel, "otelcol_ebpfpackets_receiver_samples", "reason", "outcome"), "of the kinds that are on")
	assert.Equal(t, "Final ledger: seen 46 packets (11168 bytes) = accounted 18 packets (9000 bytes) + filtered 0 packets (0 bytes) + duplicate 2 packets (120 bytes) + overflow 14 packets (1400 bytes)"+
		" + not IP 6 packets (288 bytes) + unparsed 6 packets (360 bytes)", b.tel.summary())
}

func TestFlowsThatArePushedOutAreCountedOnce(t *testing.T) {
	c := testConfig()
	c.Flows.MaxFlows = 1
	b, tel := measured(t, c, nil, consumertest.NewNop())
	for range 3 { // each pushes out the flow before, the one of the drain before included
		b.host.count(udp("10.0.0.1:1000", "10.0.0.2:2000", flow.DirectionEgress, 3, 300, 1, 1))
		b.host.count(udp("10.0.0.1:1000", "10.0.0.2:2001", flow.DirectionEgress, 3, 300, 1, 1))
		b.after(time.Millisecond)
	}
	b.after(time.Millisecond)
	metadatatest.AssertEqualEbpfpacketsReceiverFlowEvictions(t, tel, sum(5), metricdatatest.IgnoreTimestamp())
}

func TestICMPErrorsAreCountedByTheirLink(t *testing.T) {
	b, tel := measured(t, testConfig(), nil, consumertest.NewNop())
	sent := udp("10.0.0.1:1000", "10.0.0.2:2000", flow.DirectionEgress, 3, 300, 1, 1)
	other := udp("10.0.0.1:1000", "10.0.0.2:2001", flow.DirectionEgress, 3, 300, 1, 1)
	for range 2 {
		b.host.count(sent)
		b.host.do(func() {
			b.host.quotes = []flow.Quote{
				{Key: sent.Key, Direction: sent.Direction, Error: flow.ICMPUnreachable, Count: 3},
				{Key: other.Key, Direction: other.Direction, Error: flow.ICMPTooBig, Count: 2},
			}
			b.host.quotesLost = 4
		})
		b.after(time.Second)
	}
	assert.Equal(t, map[string]int64{"linked": 6, "unknown_flow": 4, "unread": 8},
		valuesOf(t, tel, "otelcol_ebpfpackets_receiver_icmp_errors", "link"))
	b.ended()
	records := b.records()
	require.Len(t, records, 1)
	assert.Equal(t, flow.ICMPErrors{Unreachable: 6}, records[0].Forward.Errors)
}

func TestGaugesOfOwnTelemetry(t *testing.T) {
	c := testConfig()
	c.Flows.MaxFlows = 1
	b, tel := measured(t, c, consumertest.NewNop(), consumertest.NewNop())
	b.host.count(conversation("10.0.0.1:40000", "10.0.0.2:443")...)
	b.host.count(udp("10.0.0.1:1000", "10.0.0.2:2000", flow.DirectionEgress, 3, 300, 1, 1))
	b.after(time.Second)
	b.collect()
	b.now = b.now.Add(7 * time.Second)

	ignore := metricdatatest.IgnoreTimestamp()
	metadatatest.AssertEqualEbpfpacketsReceiverFlows(t, tel, sum(1), ignore)
	metadatatest.AssertEqualEbpfpacketsReceiverFlowsLimit(t, tel, sum(1), ignore)
	metadatatest.AssertEqualEbpfpacketsReceiverFlowEvictions(t, tel, sum(1), ignore)
	metadatatest.AssertEqualEbpfpacketsReceiverTableSlots(t, tel, sum(3), ignore)
	metadatatest.AssertEqualEbpfpacketsReceiverTableSlotsLimit(t, tel, sum(16384), ignore)
	metadatatest.AssertEqualEbpfpacketsReceiverKernelMemory(t, tel, sum(4096), ignore)
	metadatatest.AssertEqualEbpfpacketsReceiverDrainAge(t, tel, []metricdata.DataPoint[float64]{{Value: 7, Attributes: attribute.NewSet(attribute.String("receiver", "ebpfpackets"))}}, ignore)
	assert.Equal(t, map[string]int64{"attached": 1, "pending": 0, "failed": 0}, valuesOf(t, tel, "otelcol_ebpfpackets_receiver_interfaces", "state"))
	assert.Equal(t, map[string]int64{"network.flow.io": 3, "network.flow.packets": 3, "network.flow.active": 1},
		valuesOf(t, tel, "otelcol_ebpfpackets_receiver_series", "metric"))
	assert.Equal(t, map[string]int64{"network.flow.io": 2000, "network.flow.packets": 2000, "network.flow.active": 2000},
		valuesOf(t, tel, "otelcol_ebpfpackets_receiver_series_limit", "metric"))
	_, err := tel.GetMetric("otelcol_ebpfpackets_receiver_drain_duration")
	assert.NoError(t, err)
}

func TestOnlyWhatExistsIsObserved(t *testing.T) {
	b, tel := measured(t, testConfig(), nil, nil)
	b.after(time.Second)
	for _, name := range []string{"series", "series_limit", "flows", "flows_limit", "samples"} {
		_, err := tel.GetMetric("otelcol_ebpfpackets_receiver_" + name)
		assert.Error(t, err, name)
	}
}

// observe returns what b logs from now on, as level and message.
func (b *bench) observe() func() []string {
	core, logged := observer.New(zap.InfoLevel)
	b.engine.log = zap.New(core)
	return func() (lines []string) {
		for _, l := range logged.TakeAll() {
			lines = append(lines, l.Level.String()+": "+l.Message)
		}
		return lines
	}
}

func TestMismatchesAreCountedAndLoggedOnChange(t *testing.T) {
	b, tel := measured(t, testConfig(), consumertest.NewNop(), nil)
	logged := b.observe()
	for range 3 {
		b.host.do(func() {
			b.host.mismatches = []kernel.Mismatch{{Identity: "bytes", Want: 1, Got: 2}, {Identity: "bytes", Region: 1, Want: 3, Got: 4}}
		})
		b.after(time.Second)
	}
	assert.Equal(t, []string{"error: The ledger does not add up; this is a defect of the receiver, please report it"}, logged())
	metadatatest.AssertEqualEbpfpacketsReceiverLedgerMismatches(t, tel, sum(6, attribute.String("identity", "bytes")), metricdatatest.IgnoreTimestamp())
	b.after(time.Second)
	b.after(time.Second)
	assert.Equal(t, []string{"info: The ledger adds up again"}, logged())
	b.host.do(func() { b.host.mismatches = []kernel.Mismatch{{Identity: "bytes"}, {Identity: "buffers"}} })
	b.after(time.Second)
	assert.Len(t, logged(), 2, "one for each identity")
}

func TestSkippedCollectionsAreCountedAndLoggedOnChange(t *testing.T) {
	b, tel := measured(t, testConfig(), consumertest.NewNop(), nil)
	logged := b.observe()
	for range 4 {
		b.after(time.Second)
		b.collect()
	}
	assert.Equal(t, []string{"warn: The next consumer is more than one collection_interval behind; leaving out collections of metrics"}, logged())
	metadatatest.AssertEqualEbpfpacketsReceiverCollectionSkips(t, tel, sum(3), metricdatatest.IgnoreTimestamp())
	b.taken()
	for range 2 {
		b.pointsAfter(time.Second)
	}
	assert.Equal(t, []string{"info: The next consumer of metrics keeps up again"}, logged())
}

func TestACPUThatCameLateIsAWarningOnce(t *testing.T) {
	b, _ := measured(t, testConfig(), consumertest.NewNop(), nil)
	logged := b.observe()
	b.after(time.Second)
	assert.Empty(t, logged())
	b.host.do(func() { b.host.lateCPU = 7 })
	for range 3 {
		b.after(time.Second)
	}
	assert.Equal(t, []string{"warn: A CPU came online after Start; its packets are counted as overflow, without a flow: restart the collector to give it a table"}, logged())
}

func TestFailingDrainsAreCountedAndReportedOnChange(t *testing.T) {
	b, tel := measured(t, testConfig(), consumertest.NewNop(), nil)
	host := newRecordingHost()
	b.status.add(host)
	logged := b.observe()
	b.host.do(func() { b.host.drainErr = errors.New("wait for running programs: out of memory") })
	assert.False(t, b.drainOnce())
	assert.False(t, b.drainOnce())
	b.collect()
	assert.Empty(t, b.metricsPusher.queue, "nothing new to say")
	b.host.do(func() { b.host.drainErr = nil })
	b.after(time.Second)
	assert.Equal(t, []componentstatus.Status{componentstatus.StatusRecoverableError, componentstatus.StatusOK}, host.statuses())
	assert.Equal(t, []string{
		"error: Taking the kernel's counters failed; they are kept for the next time", "info: Taking the kernel's counters works again",
	}, logged())
	metadatatest.AssertEqualEbpfpacketsReceiverDrainErrors(t, tel, sum(2), metricdatatest.IgnoreTimestamp())
}

func TestStatusJoinsProblemsAndEnds(t *testing.T) {
	var s status
	host := newRecordingHost()
	s.add(host)
	s.set("b", errors.New("second"))
	s.set("a", errors.New("first"))
	s.set("a", errors.New("first"))
	require.Len(t, host.events, 2)
	assert.EqualError(t, host.events[1].Err(), "first\nsecond")
	s.set("a", nil)
	s.set("b", nil)
	s.end(errTest)
	s.set("b", errors.New("too late"))
	assert.Equal(t, []componentstatus.Status{
		componentstatus.StatusRecoverableError, componentstatus.StatusRecoverableError, componentstatus.StatusRecoverableError,
		componentstatus.StatusOK, componentstatus.StatusPermanentError,
	}, host.statuses())
}

func TestParseEphemeralLow(t *testing.T) {
	for text, want := range map[string]uint16{
		"32768\t60999\n": 32768, "1024 65535": 1024, "": defaultEphemeralLow, "x\ty": defaultEphemeralLow, "0 1": defaultEphemeralLow,
	} {
		assert.Equal(t, want, parseEphemeralLow([]byte(text)), text)
	}
}

// Gauges of two receivers in one Collector must not overwrite each other.
func TestOwnTelemetryTellsReceiversApart(t *testing.T) {
	tel := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, tel.Shutdown(context.Background())) })
	h, running := newFakeHost("eth0"), map[string]*engine{}
	for name, include := range map[string]string{"one": "eth0", "two": "none-such0"} {
		cfg := testConfig()
		cfg.Interfaces.Include = []string{include}
		set := nopSettings()
		set.ID, set.TelemetrySettings = component.NewIDWithName(metadata.Type, name), tel.NewTelemetrySettings()
		running[name] = newEngine(cfg, set, h)
		running[name].nextMetrics = consumertest.NewNop()
		require.NoError(t, running[name].start(t.Context()))
	}
	m, err := tel.GetMetric("otelcol_ebpfpackets_receiver_interfaces")
	require.NoError(t, err)
	attached := map[string]int64{}
	for _, p := range m.Data.(metricdata.Gauge[int64]).DataPoints {
		if state, _ := p.Attributes.Value("state"); state.AsString() == "attached" {
			receiver, _ := p.Attributes.Value("receiver")
			attached[receiver.AsString()] = p.Value
		}
	}
	assert.Equal(t, map[string]int64{"ebpfpackets/one": 1, "ebpfpackets/two": 0}, attached)
	for _, e := range running {
		require.NoError(t, e.shutdown(t.Context()))
	}
}

// An alert on "no interface" must see a receiver that failed to start and was told to be quiet about it.
func TestAReceiverThatFailedToStartCountsAtNoInterface(t *testing.T) {
	tel := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, tel.Shutdown(context.Background())) })
	h, cfg, set := newFakeHost("eth0"), testConfig(), nopSettings()
	h.loadErr, cfg.ErrorMode = errTest, errorModeIgnore
	set.TelemetrySettings = tel.NewTelemetrySettings()
	e := newEngine(cfg, set, h)
	require.NoError(t, e.start(t.Context()))
	assert.Equal(t, map[string]int64{"attached": 0, "pending": 0, "failed": 0}, valuesOf(t, tel, "otelcol_ebpfpackets_receiver_interfaces", "state"))
	require.NoError(t, e.shutdown(t.Context()))
	_, err := tel.GetMetric("otelcol_ebpfpackets_receiver_interfaces")
	require.Error(t, err, "it has ended")
}
