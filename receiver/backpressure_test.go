// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.uber.org/multierr"

	"github.com/ebpfpackets/ebpfpackets/internal/app"
	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

// One test for each sentence of what the README says under "When the next consumer refuses". Time is the test's own: what
// takes minutes here takes none.

// alive is a bench that runs by itself, in a bubble of testing/synctest.
func alive(t *testing.T, c *Config, next consumer.Logs) (*bench, *componenttest.Telemetry) {
	return aliveForBoth(t, c, nil, next)
}

func aliveForBoth(t *testing.T, c *Config, metrics consumer.Metrics, logs consumer.Logs) (*bench, *componenttest.Telemetry) {
	time.Sleep(time.Until(epoch)) // when the bench begins
	b, tel := measured(t, c, metrics, logs)
	b.engine.clock, b.host.clock = time.Now, time.Now
	b.logs.delays = retryDelays
	return b, tel
}

// single counts one packet of a flow that no other number has, and its answer if the number is odd.
func (b *bench) single(number int) {
	s := udp("10.0.0.1:1000", "10.0.0.2:2000", flow.DirectionEgress, 1, uint64(60+number%1000), 0, 0)
	s.DstPort, s.SrcPort = uint16(number), uint16(number>>16)
	s.First = time.Now().UnixNano()
	s.Last = s.First
	b.host.count(s)
	if number%2 == 1 {
		back := s
		back.Key, back.Direction = s.Reversed(), flow.DirectionIngress
		back.First, back.Last, back.Bytes = s.First+1, s.First+1, 2*s.Bytes
		b.host.count(back)
	}
}

// numbersOf returns the numbers of single.
func numbersOf(ld plog.Logs) (all []int) {
	for _, r := range recordsOf(ld).All() {
		low, _ := r.Attributes().Get(attrDestinationPort)
		high, _ := r.Attributes().Get(attrSourcePort)
		all = append(all, int(high.Int()<<16|low.Int()))
	}
	return all
}

func recordsOf(ld plog.Logs) plog.LogRecordSlice {
	return ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords()
}

func logsConsumer(t *testing.T, f consumer.ConsumeLogsFunc) consumer.Logs {
	t.Helper()
	c, err := consumer.NewLogs(f, consumer.WithCapabilities(consumer.Capabilities{MutatesData: true}))
	require.NoError(t, err)
	return c
}

func metricsConsumer(t *testing.T, f consumer.ConsumeMetricsFunc) consumer.Metrics {
	t.Helper()
	c, err := consumer.NewMetrics(f, consumer.WithCapabilities(consumer.Capabilities{MutatesData: true}))
	require.NoError(t, err)
	return c
}

func marshalled(t *testing.T, ld plog.Logs) string {
	t.Helper()
	bytes, err := (&plog.JSONMarshaler{}).MarshalLogs(ld)
	require.NoError(t, err)
	return string(bytes)
}

// "Retryable: the same records again, at most 3 times or 5 s, then dropped and counted."
func TestRefusedRecordsAreOfferedAgainThreeTimesAndThenCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var offered []string
		next := logsConsumer(t, func(_ context.Context, ld plog.Logs) error {
			offered = append(offered, marshalled(t, ld))
			ld.ResourceLogs().RemoveIf(func(plog.ResourceLogs) bool { return true }) // it may
			return errTest
		})
		b, tel := alive(t, testConfig(), next)
		began := time.Now()
		b.logs.push(t.Context(), twoFlows())
		require.Len(t, offered, 4)
		for _, again := range offered[1:] {
			assert.Equal(t, offered[0], again)
		}
		assert.Equal(t, 3250*time.Millisecond, time.Since(began))
		assert.Equal(t, map[string]int64{"refused": 2}, valuesOf(t, tel, "otelcol_ebpfpackets_receiver_record_sheds", "cause"))
	})
}

func TestAConsumerThatRefusesSlowlyGetsFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		next := logsConsumer(t, func(context.Context, plog.Logs) error {
			calls++
			time.Sleep(2 * time.Second)
			return errTest
		})
		b, tel := alive(t, testConfig(), next)
		began := time.Now()
		b.logs.push(t.Context(), twoFlows())
		assert.Equal(t, 2, calls, "the third would begin after 5.25 s")
		assert.Less(t, time.Since(began), retryBudget)
		assert.Equal(t, map[string]int64{"refused": 2}, valuesOf(t, tel, "otelcol_ebpfpackets_receiver_record_sheds", "cause"))
	})
}

// "Permanent: dropped and counted", at once.
func TestPermanentlyRefusedRecordsAreCountedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := replies{answers: []error{consumererror.NewPermanent(errTest)}}
		b, tel := alive(t, testConfig(), r.consumer(t))
		began := time.Now()
		b.logs.push(t.Context(), twoFlows())
		assert.Equal(t, 1, r.calls)
		assert.Zero(t, time.Since(began))
		assert.Equal(t, map[string]int64{"permanent": 2}, valuesOf(t, tel, "otelcol_ebpfpackets_receiver_record_sheds", "cause"))
	})
}

// "Never an unbounded queue", and nothing waits for a consumer: it blocks for a minute.
func TestAConsumerThatBlocksHoldsUpNothingAndGetsWhatFittedOnceAndInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var blocked atomic.Bool
		var taken [][]int // by message
		next := logsConsumer(t, func(_ context.Context, ld plog.Logs) error {
			if !blocked.Swap(true) {
				time.Sleep(time.Minute)
			}
			taken = append(taken, numbersOf(ld))
			return nil
		})
		c := testConfig()
		c.CollectionInterval, c.Flows.IdleTimeout, c.Flows.MaxFlows = 10*time.Second, 3*time.Second, 100
		b, tel := alive(t, c, next)
		b.run()
		number := 0
		second := func() {
			for range 10 {
				b.single(number)
				number++
				time.Sleep(time.Second / 10)
			}
			assert.LessOrEqual(t, len(b.logs.queue), queueLength(c.Flows.MaxFlows))
		}
		for !blocked.Load() {
			second()
		}
		var before, after int
		b.host.do(func() { before = b.host.drains })
		for range 50 { // of the minute
			second()
		}
		b.host.do(func() { after = b.host.drains })
		assert.InDelta(t, 50, after-before, 1, "a drain each second")
		assert.Len(t, b.logs.queue, cap(b.logs.queue))
		for range 40 { // the block ends
			second()
		}
		require.NoError(t, b.shutdown(context.Background()))
		all, last := 0, -1
		for _, numbers := range taken {
			slices.Sort(numbers) // those of one drain end together
			assert.IsIncreasing(t, append([]int{last}, numbers...), "once and in order")
			last = numbers[len(numbers)-1]
			all += len(numbers)
		}
		sheds := valuesOf(t, tel, "otelcol_ebpfpackets_receiver_record_sheds", "cause")
		assert.Equal(t, int64(number-all), sheds["queue_full"])
		assert.Len(t, sheds, 1)
		assert.Greater(t, sheds["queue_full"], int64(300), "of 600")
	})
}

// What the README says of the memory of waiting records, in this order.
var waitingSaid = regexp.MustCompile(`(?s)(\d+) messages and ([\d.]+) MB with default settings \(measured, full: ([\d.]+) MB of heap\).*` +
	`A flow record takes (\d+) bytes, (\d+)\s+more with .packets.protocols., a sample (\d+).* up to ([\d.]+) MB as pdata`)

func TestWaitingRecordsTakeTheMemoryThatTheReadmeSays(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	said := waitingSaid.FindStringSubmatch(string(readme))
	require.NotNil(t, said)
	number := func(i int) float64 {
		n, err := strconv.ParseFloat(said[i], 64)
		require.NoError(t, err)
		return n
	}
	c := createDefaultConfig().(*Config)
	assert.Equal(t, strconv.Itoa(queueLength(c.Flows.MaxFlows)), said[1])
	bound := float64(queueBytes(c.Flows.MaxFlows))
	assert.InDelta(t, bound/1e6, number(2), 0.05)
	for name, fill := range map[string]func(b *bench){
		"flow records": func(b *bench) {
			sizes := rand.New(rand.NewPCG(11, 12))
			for range 50 {
				for range sizes.IntN(10 * maxRecords) {
					b.endFlow(&flow.Record{})
				}
				b.sendFlows()
			}
		},
		"samples": func(b *bench) {
			s := packet.Sample{Data: make([]byte, c.Packets.SnapLength)}
			for range 200 * maxRecords {
				b.takeSample(&s, 1)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := testConfig()
			c.Flows.MaxRecordsPerSecond = maxFlowRecords
			b := newBench(t, c, newFakeHost("eth0"), nil, consumertest.NewNop()) // nobody takes any
			held := float64(heap(1, func() *bench { fill(b); return b }))
			t.Logf("%d messages, %.1f MB of at most %.1f", len(b.logs.queue), held/1e6, bound/1e6)
			assert.Greater(t, held, 0.9*bound, "the queue is full")
			assert.Less(t, held, 1.1*bound)
			if name == "flow records" {
				assert.InEpsilon(t, held/1e6, number(3), 0.05)
			}
		})
	}
	assert.Equal(t, fmt.Sprint(recordBytes), said[4])
	assert.Equal(t, fmt.Sprint(labelBytes), said[5])
	assert.Equal(t, fmt.Sprint(sampledBytes), said[6])
	w := logsWriter{resource: pcommon.NewResource()}
	largest := 0.0
	for _, r := range recordsOfADay {
		r.batch.view = eth0
		largest = max(largest, float64(heap(10, func() plog.Logs { return w.write(r.batch) }))/10/1e6)
	}
	t.Logf("%.2f MB as pdata", largest)
	assert.InEpsilon(t, largest, number(7), 0.06) // with the race detector allocations are larger: 5.71 instead of 5.39 MB
}

// "Shutdown flushes within its bound", even if the consumer never returns, and counts what was lost.
func TestShutdownBesideAConsumerThatNeverReturnsCountsWhatIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		next := logsConsumer(t, func(context.Context, plog.Logs) error {
			<-release // it has no ear for its context
			return nil
		})
		c := testConfig()
		c.Flows.IdleTimeout, c.Flows.MaxFlows = time.Second, 1
		b, tel := alive(t, c, next)
		b.run()
		for i := range 300 {
			b.single(i)
			time.Sleep(100 * time.Millisecond)
		}
		began := time.Now()
		require.ErrorContains(t, b.shutdown(context.Background()), "flush log records: ")
		assert.LessOrEqual(t, time.Since(began), flushTimeout+time.Second)
		lost := func() map[string]int64 {
			sheds := valuesOf(t, tel, "otelcol_ebpfpackets_receiver_record_sheds", "cause")
			assert.Equal(t, int64(300), sheds["shutdown"]+sheds["queue_full"])
			assert.GreaterOrEqual(t, sheds["shutdown"], int64(1+cap(b.logs.queue)), "what it had, and what waited")
			return sheds
		}
		before := lost()
		close(release)
		synctest.Wait()
		assert.Equal(t, before, lost(), "what it takes after all was counted as lost")
		assert.Zero(t, total(t, tel, "otelcol_ebpfpackets_receiver_records"))
	})
}

// fanOut does as the Collector where a receiver is in several pipelines: each gets a copy it may change, and their errors
// are joined by multierr, which hands a single one on as it is.
func fanOut(t *testing.T, consumers ...consumer.Logs) consumer.Logs {
	return logsConsumer(t, func(ctx context.Context, ld plog.Logs) (errs error) {
		for _, c := range consumers {
			clone := plog.NewLogs()
			ld.CopyTo(clone)
			errs = multierr.Append(errs, c.ConsumeLogs(ctx, clone))
		}
		return errs
	})
}

func fanOutMetrics(t *testing.T, consumers ...consumer.Metrics) consumer.Metrics {
	return metricsConsumer(t, func(ctx context.Context, md pmetric.Metrics) (errs error) {
		for _, c := range consumers {
			clone := pmetric.NewMetrics()
			md.CopyTo(clone)
			errs = multierr.Append(errs, c.ConsumeMetrics(ctx, clone))
		}
		return errs
	})
}

// "Behind a fan-out an error may mean that another pipeline took the data."
func TestBehindAFanOutTheOtherPipelineGetsRefusedRecordsAgain(t *testing.T) {
	permanent := consumererror.NewPermanent(errTest)
	rest := plog.NewLogs()
	writeOneFlow(rest)
	partial := consumererror.NewLogs(errTest, rest)
	for name, c := range map[string]struct {
		answers         []error // of one pipeline; the other takes everything
		offered         []int   // records of each message that the other got
		taken           int     // records of the messages that the one took whole
		delivered, shed int64   // what is counted
		cause           string
	}{
		"takes":                         {[]error{nil}, []int{2}, 2, 2, 0, ""},
		"refuses twice":                 {[]error{errTest, errTest, nil}, []int{2, 2, 2}, 2, 2, 0, ""},
		"refuses":                       {[]error{errTest}, []int{2, 2, 2, 2}, 0, 0, 2, "refused"},
		"refuses for good":              {[]error{permanent}, []int{2}, 0, 0, 2, "permanent"},
		"takes a part and then all":     {[]error{partial, nil}, []int{2, 1}, 1, 2, 0, ""},
		"takes a part and then nothing": {[]error{partial, errTest}, []int{2, 1, 1, 1}, 0, 1, 1, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			accepting, other := replies{answers: []error{nil}}, replies{answers: c.answers}
			b, tel := measured(t, testConfig(), nil, fanOut(t, accepting.consumer(t), other.consumer(t), consumertest.NewNop()))
			b.logs.push(t.Context(), twoFlows())
			assert.Equal(t, c.offered, accepting.offered)
			taken := 0
			for _, ld := range other.taken {
				taken += ld.LogRecordCount()
			}
			assert.Equal(t, c.taken, taken)
			assert.Equal(t, c.delivered, total(t, tel, "otelcol_ebpfpackets_receiver_records"))
			assert.Equal(t, c.shed, total(t, tel, "otelcol_ebpfpackets_receiver_record_sheds"))
			if c.shed > 0 {
				assert.Equal(t, map[string]int64{c.cause: c.shed}, valuesOf(t, tel, "otelcol_ebpfpackets_receiver_record_sheds", "cause"))
			}
		})
	}
}

// "With deltas those that took the data count it twice", behind a fan-out or of a message that was taken in part, and nobody knows:
// nothing was shed.
func TestDeltasThatWereTakenAndRefusedCountTwice(t *testing.T) {
	refuseOnce := func() *judge {
		refused := false
		return &judge{answer: func() error {
			if refused {
				return nil
			}
			refused = true
			return errTest
		}}
	}
	for name, c := range map[string]struct {
		keep  int // series that the accepting pipeline takes of the first message, of two
		twice flow.Volume
	}{
		"all":    {2, flow.Volume{Packets: 6, Bytes: 600}},
		"a part": {1, flow.Volume{Packets: 3, Bytes: 300}},
	} {
		t.Run(name, func(t *testing.T) {
			accepting, refusing := taking(), refuseOnce()
			first := true
			accepted := accepting.consumer(t)
			part := metricsConsumer(t, func(ctx context.Context, md pmetric.Metrics) error {
				if first {
					onlySeries(md, c.keep)
					first = false
				}
				return accepted.ConsumeMetrics(ctx, md)
			})
			b, tel := measured(t, deltaConfig(), fanOutMetrics(t, part, refusing.consumer(t)), nil)
			for _, to := range []string{"10.0.0.2:2000", "10.0.0.2:2001"} {
				b.host.count(udp("10.0.0.1:1000", to, flow.DirectionEgress, 3, 300, 1, 1))
			}
			b.after(time.Second)
			b.pushed(t.Context())
			require.NoError(t, b.end(t.Context()))
			want := flow.Volume{Packets: 6, Bytes: 600}
			assert.Equal(t, want, volumeOf(&refusing.taken))
			want.Add(c.twice)
			assert.Equal(t, want, volumeOf(&accepting.taken))
			assert.Zero(t, volumeShed(t, tel))
		})
	}
}

func onlySeries(md pmetric.Metrics, n int) {
	for _, m := range md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
		kept := 0
		m.Sum().DataPoints().RemoveIf(func(pmetric.NumberDataPoint) bool { kept++; return kept > n })
	}
}

// What one pipeline leaves of a message is not what the others left of it.
func TestAPartOfOnePipelineIsNotTheRestOfAll(t *testing.T) {
	rest := plog.NewLogs()
	writeOneFlow(rest)
	some, none := replies{answers: []error{consumererror.NewLogs(errTest, rest), nil}}, replies{answers: []error{errTest, nil}}
	b, _ := measured(t, testConfig(), nil, fanOut(t, some.consumer(t), none.consumer(t)))
	b.logs.push(t.Context(), twoFlows())
	assert.Equal(t, []int{2, 2}, none.offered)
}

// An exporter with wait_for_result and batch gives all callers one error, with the records of all of them.
func TestWhatOthersLeftIsNotOfferedAgain(t *testing.T) {
	all := plog.NewLogs()
	for range 3 {
		writeOneFlow(all)
	}
	r := replies{answers: []error{consumererror.NewLogs(errTest, all), nil}}
	b, tel := measured(t, testConfig(), nil, r.consumer(t))
	b.logs.push(t.Context(), twoFlows())
	assert.Equal(t, []int{2, 2}, r.offered)
	assert.EqualValues(t, 2, total(t, tel, "otelcol_ebpfpackets_receiver_records"))
}

func writeOneFlow(ld plog.Logs) {
	w := logsWriter{}
	w.writeFlow(ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty(), &flow.Record{}, &app.Label{}, nil)
}

// toldVolume returns the traffic that flow records tell.
func toldVolume(ld plog.Logs) (v flow.Volume) {
	for _, r := range recordsOf(ld).All() {
		for name, n := range map[string]*uint64{
			"flow.io.packets": &v.Packets, "flow.reverse.io.packets": &v.Packets, "flow.io.bytes": &v.Bytes, "flow.reverse.io.bytes": &v.Bytes,
		} {
			value, _ := r.Attributes().Get(name)
			*n += uint64(value.Int())
		}
	}
	return v
}

// erratic is a consumer that does everything consumers do. It is called by one goroutine.
type erratic struct {
	rand    *rand.Rand
	stuck   atomic.Bool // from now on waits for release
	release chan struct{}
	refuses time.Time // until then
	records int
	volume  flow.Volume
}

func (c *erratic) take(ld plog.Logs) {
	c.records += ld.LogRecordCount()
	c.volume.Add(toldVolume(ld))
}

func (c *erratic) consume(_ context.Context, ld plog.Logs) error {
	if c.stuck.Load() {
		<-c.release
		return errTest
	}
	if time.Now().Before(c.refuses) {
		return errTest
	}
	switch n := c.rand.IntN(100); {
	case n < 4:
		c.refuses = time.Now().Add(time.Duration(c.rand.IntN(8)) * time.Second)
		return errTest
	case n < 8:
		return consumererror.NewPermanent(errTest)
	case n < 20: // takes every other record
		taken, rest := plog.NewLogs(), plog.NewLogs()
		ld.CopyTo(rest)
		ld.CopyTo(taken)
		keep := func(odd int) func(plog.LogRecord) bool {
			i := 0
			return func(plog.LogRecord) bool { i++; return i%2 != odd }
		}
		recordsOf(rest).RemoveIf(keep(0))
		recordsOf(taken).RemoveIf(keep(1))
		c.take(taken)
		if n < 12 {
			return consumererror.NewLogs(consumererror.NewPermanent(errTest), rest)
		}
		return consumererror.NewLogs(errTest, rest)
	case n < 22:
		time.Sleep(time.Duration(c.rand.IntN(40)) * time.Second)
	}
	c.take(ld)
	return nil
}

// Volumes of delivered records + shed volumes = the ledger's accounted, and flows ended = records + shed: exactly, whatever
// becomes of records.
func TestTheVolumesOfRecordsAndOfShedsAddUpToTheLedger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := erratic{rand: rand.New(rand.NewPCG(7, 8)), release: make(chan struct{})}
		c := testConfig()
		c.CollectionInterval = time.Second
		c.Flows.IdleTimeout, c.Flows.ActiveTimeout, c.Flows.MaxFlows, c.Flows.MaxRecordsPerSecond = 3*time.Second, time.Hour, 100, 20
		b, tel := alive(t, c, logsConsumer(t, next.consume))
		b.run()
		r := rand.New(rand.NewPCG(9, 10))
		flows := 0
		for second := range 600 {
			for range r.IntN(60) {
				b.single(flows)
				flows++
			}
			if second == 595 {
				next.stuck.Store(true)
			}
			time.Sleep(time.Second)
		}
		require.Error(t, b.shutdown(context.Background()))
		sheds := valuesOf(t, tel, "otelcol_ebpfpackets_receiver_record_sheds", "cause")
		packets := valuesOf(t, tel, "otelcol_ebpfpackets_receiver_record_shed_packets", "cause")
		bytes := valuesOf(t, tel, "otelcol_ebpfpackets_receiver_record_shed_io", "cause")
		records, volume := int64(next.records), next.volume
		t.Logf("%d flows, %d delivered, shed %v", flows, records, sheds)
		assert.Equal(t, records, total(t, tel, "otelcol_ebpfpackets_receiver_records"))
		for cause := range metadata.MapAttributeCause {
			assert.NotZero(t, sheds[cause], "%s did not happen: this test shows nothing about it", cause)
			records += sheds[cause]
			volume.Add(flow.Volume{Packets: uint64(packets[cause]), Bytes: uint64(bytes[cause])})
		}
		assert.Equal(t, int64(flows), records)
		assert.Equal(t, b.tel.ledger.Entries[flow.ReasonAccounted], volume)
		close(next.release)
		synctest.Wait()
	})
}
