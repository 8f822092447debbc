// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pipeline"
	otelreceiver "go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

// generator lets a host count one flow, which has ended, and sample one packet, with a number of their own.
type generator struct {
	*fakeHost
	n atomic.Int64
}

func (*generator) Start() {}
func (*generator) Stop()  {}

func (g *generator) Generate() []receivertest.UniqueIDAttrVal {
	n := g.n.Add(1)
	s := udp("10.0.0.1:1000", fmt.Sprintf("10.0.0.2:%d", n), flow.DirectionEgress, 3, 300, 1, 1)
	s.First, s.Last = 1, 1 // long ago
	g.count(s)
	g.do(func() {
		g.samples = append(g.samples, packet.Sample{Reasons: packet.ReasonRandom, Pool: uint64(n), Segments: 1, Data: make([]byte, 14)})
	})
	select {
	case g.pressure <- struct{}{}: // a drain, and so a message, for a few of them
	default:
	}
	time.Sleep(time.Millisecond)
	return []receivertest.UniqueIDAttrVal{numbered(eventFlow, n), numbered(eventPacket, n)}
}

func numbered(event string, n int64) receivertest.UniqueIDAttrVal {
	return receivertest.UniqueIDAttrVal(fmt.Sprint(event, " ", n))
}

// named gives the records of the factory's receivers the attribute by which the check tells them apart.
func named(inner otelreceiver.Factory) otelreceiver.Factory {
	numbers := map[string]string{eventFlow: attrDestinationPort, eventPacket: attrPacketPool}
	create := func(ctx context.Context, set otelreceiver.Settings, cfg component.Config, next consumer.Logs) (otelreceiver.Logs, error) {
		name := func(ctx context.Context, ld plog.Logs) error {
			for _, r := range ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
				n, _ := r.Attributes().Get(numbers[r.EventName()])
				r.Attributes().PutStr(receivertest.UniqueIDAttrName, string(numbered(r.EventName(), n.Int())))
			}
			return next.ConsumeLogs(ctx, ld)
		}
		wrapped, err := consumer.NewLogs(name, consumer.WithCapabilities(consumer.Capabilities{MutatesData: true}))
		if err != nil {
			return nil, err
		}
		return inner.CreateLogs(ctx, set, cfg, wrapped)
	}
	return otelreceiver.NewFactory(inner.Type(), inner.CreateDefaultConfig, otelreceiver.WithLogs(create, metadata.LogsStability))
}

// The check expects that a record is offered until it is taken or refused for good: as often as that may take. Cumulative
// metrics are exempt: a refused point is not offered again, since the next one of its series says the same and more.
func TestRecordsAreOfferedAsTheContractWantsIt(t *testing.T) {
	before := retryDelays
	t.Cleanup(func() { retryDelays = before })
	retryDelays = slices.Repeat([]time.Duration{100 * time.Microsecond}, 100)
	h, cfg := newFakeHost("eth0"), testConfig()
	cfg.Flows.MaxFlows = 1 << 20 // and so a queue for as many messages
	receivertest.CheckConsumeContract(receivertest.CheckConsumeContractParams{
		T: t, Factory: named(newFactory(h)), Signal: pipeline.SignalLogs, Config: cfg,
		Generator: &generator{fakeHost: h}, GenerateCount: 500,
	})
}

// deltas lets a generator say that each of its flows is one delta point.
type deltas struct{ *generator }

func (d deltas) Generate() []receivertest.UniqueIDAttrVal { return d.generator.Generate()[:1] }

// namedDeltas does for metrics what named does for records. Points of 0 say that nothing came: they have no number.
func namedDeltas(inner otelreceiver.Factory) otelreceiver.Factory {
	create := func(ctx context.Context, set otelreceiver.Settings, cfg component.Config, next consumer.Metrics) (otelreceiver.Metrics, error) {
		name := func(ctx context.Context, md pmetric.Metrics) error {
			for _, m := range md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
				points := m.Sum().DataPoints()
				points.RemoveIf(func(dp pmetric.NumberDataPoint) bool { return dp.IntValue() == 0 })
				for _, dp := range points.All() {
					n, _ := dp.Attributes().Get(attrDestinationPort)
					dp.Attributes().PutStr(receivertest.UniqueIDAttrName, string(numbered(eventFlow, n.Int())))
				}
			}
			if md.DataPointCount() == 0 {
				return nil
			}
			return next.ConsumeMetrics(ctx, md)
		}
		wrapped, err := consumer.NewMetrics(name, consumer.WithCapabilities(consumer.Capabilities{MutatesData: true}))
		if err != nil {
			return nil, err
		}
		return inner.CreateMetrics(ctx, set, cfg, wrapped)
	}
	return otelreceiver.NewFactory(inner.Type(), inner.CreateDefaultConfig, otelreceiver.WithMetrics(create, metadata.MetricsStability))
}

// Each number is a series of its own, with one count: it has to be in exactly one point that was taken or dropped.
func TestDeltasAreOfferedAsTheContractWantsIt(t *testing.T) {
	before := maxPoints
	t.Cleanup(func() { maxPoints = before })
	maxPoints = 20 // outcomes differ within one collection
	h, cfg := newFakeHost("eth0"), deltaConfig()
	cfg.MetricsBuilder.Metrics.NetworkFlowPackets.Enabled = false
	cfg.MetricsBuilder.Metrics.NetworkFlowActive.Enabled = false
	receivertest.CheckConsumeContract(receivertest.CheckConsumeContractParams{
		T: t, Factory: namedDeltas(newFactory(h)), Signal: pipeline.SignalMetrics, Config: cfg,
		Generator: deltas{&generator{fakeHost: h}}, GenerateCount: 500,
	})
}
