// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Jiffies that were read long before the other clocks are read again.
func TestClocksAreReadTogether(t *testing.T) {
	k := load(t, Config{})
	var readings []uint32
	c := clock{tick: k.clock.tick, jiffies: func() (uint32, error) {
		jiffies, err := k.clock.jiffies()
		readings = append(readings, jiffies)
		if len(readings) == 1 {
			time.Sleep(80 * time.Millisecond)
		}
		return jiffies, err
	}}
	at, err := c.now()
	require.NoError(t, err)
	require.Greater(t, len(readings), 1)
	require.Equal(t, readings[len(readings)-1], at.jiffies)
}

// A reading of the clock that fails at Stop costs no packet and no date.
func TestAClockThatFailsAtStop(t *testing.T) {
	k := load(t, Config{cpus: []int{0}})
	pin(t, 0)
	frame := udpFrame(1, 2, 3, 4, 60)
	inject(t, k.objects.IngressL2, frame, nil)
	drain(t, k)
	time.Sleep(50 * time.Millisecond)
	began := time.Now()
	inject(t, k.objects.IngressL2, frame, nil)
	time.Sleep(50 * time.Millisecond)
	failed := errors.New("no memory")
	k.clock.jiffies = func() (uint32, error) { return 0, failed }
	stopping := time.Now()
	require.ErrorIs(t, k.Stop(), failed)
	stopped := time.Now()
	got := drain(t, k)
	require.WithinRange(t, time.Unix(0, got.Time), stopping.Add(-time.Millisecond), stopped.Add(time.Millisecond))
	require.Len(t, got.slots, 1)
	within := float64(2*k.clock.tick + int64(2*time.Millisecond))
	require.InDelta(t, began.UnixNano(), got.slots[0].First, within)
	require.InDelta(t, began.UnixNano(), got.slots[0].Last, within)
}
