// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadatatest"
)

// judge is a next consumer of metrics that keeps what it takes, and spoils what it refuses.
type judge struct {
	answer  func() error
	taken   otlpcheck.Output
	dropped flow.Volume // with a permanent error
}

func (j *judge) consumer(t *testing.T) consumer.Metrics {
	c, err := consumer.NewMetrics(func(_ context.Context, md pmetric.Metrics) error {
		err := j.answer()
		switch {
		case err == nil:
			kept := pmetric.NewMetrics()
			md.CopyTo(kept)
			j.taken.Metrics = append(j.taken.Metrics, kept)
		case consumererror.IsPermanent(err):
			one := otlpcheck.Output{Metrics: []pmetric.Metrics{md}}
			j.dropped.Add(volumeOf(&one))
		}
		md.ResourceMetrics().RemoveIf(func(pmetric.ResourceMetrics) bool { return true })
		return err
	}, consumer.WithCapabilities(consumer.Capabilities{MutatesData: true}))
	require.NoError(t, err)
	return c
}

func volumeOf(o *otlpcheck.Output) flow.Volume {
	return flow.Volume{
		Packets: uint64(o.Total(instrumentPackets.name, nil)),
		Bytes:   uint64(o.Total(instrumentIO.name, nil)),
	}
}

func taking() *judge { return &judge{answer: func() error { return nil }} }

var errPermanent = consumererror.NewPermanent(errTest)

var temporalities = []string{temporalityDelta, temporalityCumulative}

func deltaConfig() *Config { return portConfig(temporalityDelta) }

// portConfig has one series for each destination port.
func portConfig(temporality string) *Config {
	c := testConfig()
	c.AggregationTemporality = temporality
	m := &c.MetricsBuilder.Metrics
	m.NetworkFlowIo.EnabledAttributes = []metadata.NetworkFlowIoMetricAttributeKey{attrDestinationPort}
	m.NetworkFlowPackets.EnabledAttributes = []metadata.NetworkFlowPacketsMetricAttributeKey{attrDestinationPort}
	return c
}

// requireChains checks everything that was taken, as a backend sees it.
func (j *judge) requireChains(t *testing.T, dropped time.Duration) {
	t.Helper()
	names, err := otlpcheck.OpenNames("metadata.yaml")
	require.NoError(t, err)
	c := otlpcheck.New(names)
	c.Dropped = dropped
	j.taken.Feed(c)
	require.NoError(t, c.Err())
}

// end does what a shutdown does.
func (b *bench) end(ctx context.Context) error {
	ctx, b.push.cancel = context.WithTimeout(ctx, b.flush)
	b.push.done.Go(func() { b.metricsPusher.run(ctx) })
	require.NoError(b.t, b.finish())
	b.deliver(ctx)
	return b.lost(ctx)
}

// volumeShed returns what own telemetry says was never told.
func volumeShed(t *testing.T, tel *componenttest.Telemetry) flow.Volume {
	return flow.Volume{
		Packets: uint64(total(t, tel, "otelcol_ebpfpackets_receiver_point_shed_packets")),
		Bytes:   uint64(total(t, tel, "otelcol_ebpfpackets_receiver_point_shed_io")),
	}
}

func (b *bench) traffic(r *rand.Rand, ports int) (v flow.Volume) {
	for range r.IntN(30) {
		s := udp("10.0.0.1:1000", fmt.Sprintf("10.0.0.2:%d", 1+int(r.ExpFloat64()*float64(ports))%60000), flow.DirectionEgress, 1+r.Uint64N(9), 60+r.Uint64N(900), 0, 0)
		v.Add(s.Volume)
		b.host.count(s)
	}
	class := kernel.Class{Reason: flow.ReasonOverflow, IfIndex: 1, Volume: flow.Volume{Packets: r.Uint64N(3), Bytes: r.Uint64N(200)}}
	v.Add(class.Volume)
	b.host.do(func() { b.host.classes = append(b.host.classes, class) })
	return v
}

// Whatever the consumer answers: what it took, and what own telemetry says was shed, add up to what the kernel counted.
func TestPointsAndShedVolumesAddUp(t *testing.T) {
	before := maxPoints
	t.Cleanup(func() { maxPoints = before })
	for seed := range uint64(80) {
		temporality := temporalities[seed%2]
		t.Run(fmt.Sprint(temporality, " ", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 3))
			maxPoints = 2 + r.IntN(30)
			j := &judge{answer: func() error { return []error{nil, nil, errTest, errPermanent}[r.IntN(4)] }}
			c := portConfig(temporality)
			c.CardinalityLimit, c.SeriesTimeout = 2+r.IntN(40), 3*time.Second
			if r.IntN(2) == 0 { // two sets of series
				c.MetricsBuilder.Metrics.NetworkFlowPackets.EnabledAttributes = nil
			}
			b, tel := measured(t, c, j.consumer(t), nil)
			var want flow.Volume
			for range 100 {
				want.Add(b.traffic(r, 1+r.IntN(30)))
				b.after(time.Duration(1+r.IntN(1000)) * time.Millisecond)
				switch r.IntN(4) {
				case 0:
				case 1:
					b.collect()
					want.Add(b.traffic(r, 20))
					b.after(time.Second)
					b.pushed(t.Context()) // the consumer was busy until then
				default:
					b.pushed(t.Context())
				}
			}
			permanent := volumeShed(t, tel)
			b.settle()
			want.Add(b.traffic(r, 20))
			b.after(time.Second)
			b.end(t.Context())

			got := volumeOf(&j.taken)
			got.Add(volumeShed(t, tel))
			assert.Equal(t, want, got)
			if temporality == temporalityCumulative {
				assert.Zero(t, permanent)
				return
			}
			assert.NotZero(t, permanent)
			assert.Equal(t, int64(j.dropped.Packets), valuesOf(t, tel, "otelcol_ebpfpackets_receiver_point_shed_packets", "cause")["permanent"])
			assert.Equal(t, int64(j.dropped.Bytes), valuesOf(t, tel, "otelcol_ebpfpackets_receiver_point_shed_io", "cause")["permanent"])
		})
	}
}

// Permanent errors apart, a backend sees intervals without seam, but where a series was dropped.
func TestDeltasOfOneSeriesFollowEachOther(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 4))
			j := &judge{answer: func() error { return []error{nil, errTest}[r.IntN(2)] }}
			c := deltaConfig()
			c.SeriesTimeout = 3 * time.Second
			b, tel := measured(t, c, j.consumer(t), nil)
			var want flow.Volume
			for range 200 {
				want.Add(b.traffic(r, 50))
				b.after(time.Duration(1+r.IntN(1000)) * time.Millisecond)
				b.pushed(t.Context())
			}
			j.answer = func() error { return nil }
			b.end(t.Context())
			assert.Equal(t, want, volumeOf(&j.taken))
			assert.Zero(t, volumeShed(t, tel))
			j.requireChains(t, c.SeriesTimeout)
		})
	}
}

// point is start and time since epoch, and value.
type deltaPoint struct {
	start, time time.Duration
	value       int64
}

// packetsOf returns the points of network.flow.packets that were taken, in order.
func (j *judge) packetsOf() (points []deltaPoint) {
	for _, dp := range pointsOf(j.taken.Metrics, instrumentPackets.name).All() {
		points = append(points, deltaPoint{dp.StartTimestamp().AsTime().Sub(epoch), dp.Timestamp().AsTime().Sub(epoch), dp.IntValue()})
	}
	return points
}

func (b *bench) three() {
	b.host.count(udp("10.0.0.1:1000", "10.0.0.2:2000", flow.DirectionEgress, 3, 300, 1, 1))
}

func TestADeltaIsOwedDroppedOrSettled(t *testing.T) {
	const s = time.Second
	for name, c := range map[string]struct {
		answer error
		want   []deltaPoint
		shed   int64
	}{
		"taken":     {nil, []deltaPoint{{0, 1 * s, 3}, {1 * s, 2 * s, 3}, {2 * s, 3 * s, 0}}, 0},
		"refused":   {errTest, []deltaPoint{{0, 2 * s, 6}, {2 * s, 3 * s, 0}}, 0},
		"permanent": {errPermanent, []deltaPoint{{1 * s, 2 * s, 3}, {2 * s, 3 * s, 0}}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			j := &judge{answer: func() error { return c.answer }}
			b, tel := measured(t, deltaConfig(), j.consumer(t), nil)
			b.three()
			b.after(s)
			b.pushed(t.Context())
			j.answer = func() error { return nil }
			b.three()
			b.after(s)
			b.pushed(t.Context())
			b.after(s)
			b.pushed(t.Context())
			assert.Equal(t, c.want, j.packetsOf())
			if c.shed > 0 {
				permanent := attribute.String("cause", "permanent")
				metadatatest.AssertEqualEbpfpacketsReceiverPointShedPackets(t, tel, sum(c.shed, permanent), metricdatatest.IgnoreTimestamp())
				metadatatest.AssertEqualEbpfpacketsReceiverPointShedIo(t, tel, sum(100*c.shed, permanent), metricdatatest.IgnoreTimestamp())
			}
			for _, md := range j.taken.Metrics {
				for _, m := range md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
					want := pmetric.AggregationTemporalityDelta
					if m.Name() == instrumentActive.name {
						want = pmetric.AggregationTemporalityCumulative
					}
					assert.Equal(t, want, m.Sum().AggregationTemporality(), m.Name())
				}
			}
		})
	}
}

// Each message has an outcome of its own: what one of them lost, the others do not say again.
func TestAMessageSettlesTheSeriesInIt(t *testing.T) {
	before := maxPoints
	t.Cleanup(func() { maxPoints = before })
	maxPoints = 4 // two series
	calls := 0
	j := &judge{answer: func() error {
		calls++
		return []error{nil, errTest, errPermanent, nil}[min(calls, 4)-1]
	}}
	c := deltaConfig()
	c.MetricsBuilder.Metrics.NetworkFlowActive.Enabled = false
	b, tel := measured(t, c, j.consumer(t), nil)
	count := func(packets uint64) {
		for port := range 6 {
			b.host.count(udp("10.0.0.1:1000", fmt.Sprintf("10.0.0.2:%d", 1+port), flow.DirectionEgress, packets, 60*packets, 1, 1))
		}
		b.after(time.Second)
		b.pushed(t.Context())
	}
	count(1)
	count(10)
	const s = time.Second
	assert.Equal(t, []deltaPoint{
		{0, s, 1}, {0, s, 1}, // taken
		{s, 2 * s, 10}, {s, 2 * s, 10}, // after it
		{0, 2 * s, 11}, {0, 2 * s, 11}, // owed, and more
		{s, 2 * s, 10}, {s, 2 * s, 10}, // after what was dropped
	}, j.packetsOf())
	assert.Equal(t, flow.Volume{Packets: 2, Bytes: 120}, volumeShed(t, tel))
}

func TestADeltaSeriesSaysZeroUntilItIsDroppedAndThenBeginsAnew(t *testing.T) {
	j := taking()
	c := deltaConfig()
	c.SeriesTimeout = 3 * time.Second
	b, _ := measured(t, c, j.consumer(t), nil)
	b.three()
	for range 6 {
		b.after(time.Second)
		b.pushed(t.Context())
	}
	b.three()
	b.after(time.Second)
	b.pushed(t.Context())
	const s = time.Second
	assert.Equal(t, []deltaPoint{{0, s, 3}, {s, 2 * s, 0}, {2 * s, 3 * s, 0}, {6 * s, 7 * s, 3}}, j.packetsOf())
	j.requireChains(t, c.SeriesTimeout)
}

func TestASlowConsumerGetsLongerDeltas(t *testing.T) {
	j := taking()
	b, _ := measured(t, deltaConfig(), j.consumer(t), nil)
	for range 3 {
		b.three()
		b.after(time.Second)
		b.collect() // the first; the others are left out
	}
	b.pushed(t.Context())
	b.three()
	b.after(time.Second)
	b.pushed(t.Context())
	const s = time.Second
	assert.Equal(t, []deltaPoint{{0, s, 3}, {s, 4 * s, 9}}, j.packetsOf())
}

func TestWhatShutdownCannotTellIsShed(t *testing.T) {
	expired, cancel := context.WithCancel(t.Context())
	cancel()
	for _, temporality := range temporalities {
		for name, c := range map[string]struct {
			ctx    context.Context
			answer error
			cause  string
			err    string
		}{
			"refused":   {t.Context(), errTest, "shutdown", "flush metrics: 3 packets, 300 bytes lost: context deadline exceeded"},
			"no time":   {expired, nil, "shutdown", "flush metrics: 3 packets, 300 bytes lost: context canceled"},
			"permanent": {t.Context(), errPermanent, "permanent", ""},
		} {
			t.Run(temporality+" "+name, func(t *testing.T) {
				j := taking()
				b, tel := measured(t, portConfig(temporality), j.consumer(t), nil)
				b.flush = 50 * time.Millisecond
				b.three()
				b.after(time.Second)
				b.pushed(t.Context())
				j.answer = func() error { return c.answer }
				b.three() // the next collection
				b.now = b.now.Add(time.Second)
				err := b.end(c.ctx)
				if c.err == "" {
					require.NoError(t, err)
				} else {
					require.EqualError(t, err, c.err)
				}
				assert.Equal(t, flow.Volume{Packets: 3, Bytes: 300}, lastPoints(j.taken.Metrics))
				cause := attribute.String("cause", c.cause)
				metadatatest.AssertEqualEbpfpacketsReceiverPointShedPackets(t, tel, sum(3, cause), metricdatatest.IgnoreTimestamp())
				metadatatest.AssertEqualEbpfpacketsReceiverPointShedIo(t, tel, sum(300, cause), metricdatatest.IgnoreTimestamp())
			})
		}
	}
}

// The last collection is offered until it is taken: no other says what it says. What was taken of it is not offered again.
func TestTheLastCollectionIsOfferedUntilItIsTaken(t *testing.T) {
	before := maxPoints
	t.Cleanup(func() { maxPoints = before })
	maxPoints = 4 // two series
	for _, temporality := range temporalities {
		t.Run(temporality, func(t *testing.T) {
			answers := []error{nil, errTest, errTest /* of the first time */, errTest, nil, nil}
			calls := 0
			j := &judge{answer: func() error { calls++; return answers[calls-1] }}
			c := portConfig(temporality)
			c.MetricsBuilder.Metrics.NetworkFlowActive.Enabled = false
			b, tel := measured(t, c, j.consumer(t), nil)
			for port := range 6 {
				b.host.count(udp("10.0.0.1:1000", fmt.Sprintf("10.0.0.2:%d", 1+port), flow.DirectionEgress, 3, 300, 1, 1))
			}
			b.now = b.now.Add(time.Second)
			require.NoError(t, b.end(t.Context()))
			assert.Equal(t, 1+2+2+1, calls)
			assert.Equal(t, flow.Volume{Packets: 18, Bytes: 1800}, volumeOf(&j.taken))
			assert.Len(t, j.packetsOf(), 6, "each once")
			assert.Zero(t, volumeShed(t, tel))
			j.requireChains(t, 0)
		})
	}
}

// While there is a next point of a cumulative series, nothing is lost; a life that a clock step ended has none.
func TestCumulativePointsAreShedWhenNoOtherSaysTheSame(t *testing.T) {
	answer := errPermanent
	j := &judge{answer: func() error { return answer }}
	b, tel := measured(t, portConfig(temporalityCumulative), j.consumer(t), nil)
	for range 3 {
		b.three()
		b.after(time.Second)
		b.pushed(t.Context())
	}
	assert.Zero(t, volumeShed(t, tel), "the next says it all")

	b.now = b.now.Add(-time.Hour)
	b.three() // of the new life
	b.after(time.Second)
	b.pushed(t.Context())
	assert.Equal(t, flow.Volume{Packets: 9, Bytes: 900}, volumeShed(t, tel))
	answer = nil
	require.NoError(t, b.end(t.Context()))
	assert.Equal(t, flow.Volume{Packets: 3, Bytes: 300}, lastPoints(j.taken.Metrics))
	assert.Equal(t, map[string]int64{"permanent": 9}, valuesOf(t, tel, "otelcol_ebpfpackets_receiver_point_shed_packets", "cause"))
}

func TestDeltasAfterTheClockWasSetBack(t *testing.T) {
	refuse := false
	j := &judge{answer: func() error {
		if refuse {
			return errTest
		}
		return nil
	}}
	b, _ := measured(t, deltaConfig(), j.consumer(t), nil)
	step := func() {
		b.three()
		b.after(time.Second)
		b.pushed(t.Context())
	}
	step()
	refuse = true
	step() // until 2 s, owed
	b.three()
	b.after(time.Second)
	b.now = b.now.Add(-time.Hour)
	step() // the last of the old time, at 3 s: owed; the first of the new one
	refuse = false
	step() // what is owed
	step()
	const s = time.Second
	began := 4*s - time.Hour
	assert.Equal(t, []deltaPoint{{0, s, 3}, {s, 3*s + 1, 6}, {began, began + 2*s, 9}}, j.packetsOf())
}

// However often the clock is set back while nobody takes anything: there is one former life, and nothing is lost.
func TestAClockThatIsSetBackAgainAndAgainOwesOneFormerLife(t *testing.T) {
	for name, answer := range map[string]error{"taken at last": nil, "never taken": errTest} {
		t.Run(name, func(t *testing.T) {
			j := &judge{answer: func() error { return errTest }}
			b, tel := measured(t, deltaConfig(), j.consumer(t), nil)
			steps := int64(10)
			for range steps {
				b.three()
				b.after(time.Minute)
				b.pushed(t.Context())
				b.now = b.now.Add(-time.Hour)
				assert.LessOrEqual(t, len(b.metrics.former), 2, "the volumes, and the active flows")
			}
			j.answer = func() error { return answer }
			b.end(t.Context())
			got := volumeOf(&j.taken)
			if answer != nil {
				got = volumeShed(t, tel)
			}
			assert.Equal(t, flow.Volume{Packets: uint64(3 * steps), Bytes: uint64(300 * steps)}, got)
		})
	}
}

// Random steps of the clock in both directions: nothing is lost or told twice, no interval ends before it begins.
func TestPointsAddUpWhateverTheClockDoes(t *testing.T) {
	for seed := range uint64(80) {
		temporality := temporalities[seed%2]
		t.Run(fmt.Sprint(temporality, " ", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 5))
			j := &judge{answer: func() error { return []error{nil, errTest, errPermanent}[r.IntN(3)] }}
			c := portConfig(temporality)
			b, tel := measured(t, c, j.consumer(t), nil)
			var want flow.Volume
			for range 100 {
				want.Add(b.traffic(r, 20))
				step := time.Duration(1+r.IntN(1000)) * time.Millisecond
				if r.IntN(5) == 0 {
					step = time.Duration(r.IntN(20)-15) * time.Second
				}
				b.after(step)
				switch r.IntN(3) {
				case 0:
					b.pushed(t.Context())
				case 1:
					b.collect()
				}
			}
			if b.metrics.inFlight {
				b.metricsPusher.outcomes <- b.metricsPusher.push(t.Context(), <-b.metricsPusher.queue)
				b.settle()
			}
			j.answer = func() error { return nil }
			permanent := volumeShed(t, tel)
			want.Add(b.traffic(r, 20))
			if seed%4 < 2 {
				b.now = b.now.Add(-time.Minute) // known to the last drain only
			}
			b.end(t.Context())
			got := volumeOf(&j.taken)
			got.Add(volumeShed(t, tel))
			assert.Equal(t, want, got)
			for _, name := range []string{instrumentIO.name, instrumentPackets.name, instrumentActive.name} {
				for _, dp := range pointsOf(j.taken.Metrics, name).All() {
					require.LessOrEqual(t, dp.StartTimestamp(), dp.Timestamp())
					require.GreaterOrEqual(t, dp.IntValue(), int64(0))
				}
			}
			assert.Equal(t, permanent, volumeShed(t, tel), "the end sheds nothing")
		})
	}
}
