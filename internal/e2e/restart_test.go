// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"math"
	"testing"

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
