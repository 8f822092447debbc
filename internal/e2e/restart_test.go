// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// TestARestartBeginsNewSeries has a second collector say the same series as the first, from where that one ended: a backend
// sees a reset, and no interval twice.
func TestARestartBeginsNewSeries(t *testing.T) {
	for _, temporality := range []string{"cumulative", "delta"} {
		t.Run(temporality, func(t *testing.T) {
			left, _ := testenv.Pair(t, testenv.PairConfig{})
			s := left.NewSender()
			d := &testenv.Datagrams{Flows: 100, Payloads: []int{100}, Src: left.MAC, Dst: testenv.Nobody}
			var told flow.Volume
			var ended pcommon.Timestamp
			for range 2 {
				c := start(t, left.NetNS, fast+"aggregation_temporality: "+temporality+"\n")
				s.Datagrams(d, 0, 10_000)
				out := c.stop()
				told.Add(out.counted(left.Name, "transmit"))
				first, last := lifetime(out)
				require.NotZero(t, last)
				assert.Greater(t, first, ended, "nothing begins before the end of the life before")
				ended = last
			}
			assert.Equal(t, s.Sent, told)
		})
	}
}

// lifetime returns the earliest start and the latest time of all points.
func lifetime(r result) (first, last pcommon.Timestamp) {
	first = math.MaxUint64
	for _, md := range r.Metrics {
		for _, m := range md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
			for _, p := range m.Sum().DataPoints().All() {
				first, last = min(first, p.StartTimestamp()), max(last, p.Timestamp())
			}
		}
	}
	return first, last
}

// TestARestartMissesOnlyWhatComesBetween sends a packet every millisecond while one collector is replaced by another, and says how
// many nobody counted.
func TestARestartMissesOnlyWhatComesBetween(t *testing.T) {
	left, _ := testenv.Pair(t, testenv.PairConfig{})
	const settings = "interfaces: {include: [left0]}\ncollection_interval: 1s\n"
	first := start(t, left.NetNS, settings)
	var sent atomic.Uint64
	halt := steadily(left, &sent)
	time.Sleep(500 * time.Millisecond)

	asked := sent.Load()
	before := time.Now()
	first.terminate()
	ended := time.Now()
	second := start(t, left.NetNS, settings)
	ready := sent.Load()
	took := time.Since(before)
	time.Sleep(500 * time.Millisecond)
	halt()

	told := result{Output: first.read()}.counted(left.Name, "transmit")
	told.Add(second.stop().counted(left.Name, "transmit"))
	missed := sent.Load() - told.Packets
	t.Logf("%d of %d packets were counted by nobody; from SIGTERM to the end it took %v, to the next one's being ready %v, in which %d were sent",
		missed, sent.Load(), ended.Sub(before).Round(time.Millisecond), took.Round(time.Millisecond), ready-asked)
	assert.LessOrEqual(t, told.Packets, sent.Load(), "nothing is counted twice")
	assert.LessOrEqual(t, missed, ready-asked)
}

// steadily sends a packet every millisecond until halt is called, and counts those that are on their way.
func steadily(e *testenv.End, sent *atomic.Uint64) (halt func()) {
	s := e.NewSender()
	d := &testenv.Datagrams{Flows: 10, Payloads: []int{100}, Src: e.MAC, Dst: testenv.Nobody}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-tick.C:
				s.Datagrams(d, i, 1)
				sent.Add(1)
			}
		}
	}()
	return func() {
		close(stop)
		<-done
	}
}
