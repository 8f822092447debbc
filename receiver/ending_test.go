// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"fmt"
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

// What a shutdown says, beside consumers that hang. Time is the test's own.

// hangs are the ways in which a consumer does not answer.
var hangs = map[string]func(ctx context.Context, over <-chan struct{}) error{
	"waits for its context": func(ctx context.Context, _ <-chan struct{}) error { <-ctx.Done(); return ctx.Err() },
	"never returns":         func(_ context.Context, over <-chan struct{}) error { <-over; return nil },
}

// shutDownAmidTraffic lets b count for half a minute, with a sample and ten flows each second, and shuts it down
// between two collections. It returns what the kernel counted, and how that ended.
func shutDownAmidTraffic(t *testing.T, b *bench, halfway func()) (flow.Volume, error) {
	b.run()
	for i := range amidFlows {
		if i == 150 {
			halfway()
		}
		if i%10 == 0 {
			b.host.do(func() {
				b.host.samples = []packet.Sample{{Time: time.Now().UnixNano(), Data: make([]byte, 14), Segments: 1}}
			})
		}
		b.single(i)
		time.Sleep(100 * time.Millisecond)
	}
	began := time.Now()
	err := b.shutdown(context.Background())
	assert.LessOrEqual(t, time.Since(began), flushTimeout+time.Second)
	return b.tel.ledger.Entries[flow.ReasonAccounted], err
}

const amidFlows, amidSamples = 305, 31

func amidTraffic() *Config {
	c := testConfig()
	c.CollectionInterval, c.Flows.IdleTimeout, c.Flows.MaxFlows = time.Second, 3*time.Second, 100
	return c
}

// lastPoints returns the sums in the last message.
func lastPoints(all []pmetric.Metrics) flow.Volume {
	last := all[len(all)-1:]
	return flow.Volume{Packets: summed(last, instrumentPackets.name), Bytes: summed(last, instrumentIO.name)}
}

func summed(messages []pmetric.Metrics, name string) (n uint64) {
	for _, dp := range pointsOf(messages, name).All() {
		n += uint64(dp.IntValue())
	}
	return n
}

func TestMetricsThatHangTakeNoRecordsWithThemAtTheEnd(t *testing.T) {
	for name, hang := range hangs {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var hung atomic.Bool
				over := make(chan struct{})
				var metrics consumertest.MetricsSink
				next, err := consumer.NewMetrics(func(ctx context.Context, md pmetric.Metrics) error {
					if hung.Load() {
						return hang(ctx, over)
					}
					return metrics.ConsumeMetrics(ctx, md)
				})
				require.NoError(t, err)
				var logs consumertest.LogsSink
				b, tel := aliveForBoth(t, amidTraffic(), next, &logs)
				want, ended := shutDownAmidTraffic(t, b, func() { hung.Store(true) })

				var told flow.Volume
				for _, ld := range logs.AllLogs() {
					told.Add(toldVolume(ld))
				}
				assert.Equal(t, want, told)
				assert.Equal(t, amidFlows+amidSamples, logs.LogRecordCount())
				assert.Zero(t, total(t, tel, "otelcol_ebpfpackets_receiver_record_sheds"))
				lost := want.Minus(lastPoints(metrics.AllMetrics()))
				assert.NotZero(t, lost)
				assert.Equal(t, lost, volumeShed(t, tel))
				assert.EqualError(t, ended, fmt.Sprintf("flush metrics: %d packets, %d bytes lost: context deadline exceeded", lost.Packets, lost.Bytes))
				close(over)
				synctest.Wait()
			})
		})
	}
}

func TestRecordsThatHangTakeNoMetricsWithThemAtTheEnd(t *testing.T) {
	for name, hang := range hangs {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				over := make(chan struct{})
				next := logsConsumer(t, func(ctx context.Context, _ plog.Logs) error { return hang(ctx, over) })
				var metrics consumertest.MetricsSink
				b, tel := aliveForBoth(t, amidTraffic(), &metrics, next)
				want, ended := shutDownAmidTraffic(t, b, func() {
					assert.Len(t, b.logs.queue, cap(b.logs.queue), "nothing finds room any more")
				})

				assert.Equal(t, want, lastPoints(metrics.AllMetrics()))
				assert.Zero(t, volumeShed(t, tel))
				sheds := valuesOf(t, tel, "otelcol_ebpfpackets_receiver_record_sheds", "event", "cause")
				lost := sheds["network.flow shutdown"] + sheds["network.packet shutdown"]
				assert.EqualValues(t, amidFlows+amidSamples, lost+sheds["network.flow queue_full"]+sheds["network.packet queue_full"])
				assert.EqualError(t, ended, fmt.Sprintf("flush log records: %d lost: context deadline exceeded", lost))
				close(over)
				synctest.Wait()
			})
		})
	}
}
