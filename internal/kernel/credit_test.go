// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// simulate polls every 100 ms; use says how many samples each CPU wants between two polls. It returns what each one got.
func simulate(rate float64, polls int, wants func(cpu int) int, cpus int) []int {
	now := time.Unix(0, 0)
	c := newCredit(rate, cpus, now, rand.New(rand.NewPCG(3, 4)))
	left, got := make([]int32, cpus), make([]int, cpus)
	for i, n := range c.grants(now, left) {
		left[i] = int32(n)
	}
	for range polls {
		for i := range left {
			n := min(int(left[i]), wants(i))
			left[i] -= int32(n)
			got[i] += n
		}
		now = now.Add(100 * time.Millisecond)
		for i, n := range c.grants(now, left) {
			left[i] += int32(n)
		}
	}
	return got
}

func sum(all []int) (n int) {
	for _, one := range all {
		n += one
	}
	return n
}

func TestOneBusyCPUOfManyGetsNearlyTheWholeBudget(t *testing.T) {
	got := simulate(100, 600, func(cpu int) int { return map[int]int{3: 1000}[cpu] }, 8)
	require.Greater(t, got[3], 5900)
	require.LessOrEqual(t, sum(got), 6010)
}

func TestBusyCPUsShareTheBudget(t *testing.T) {
	got := simulate(100, 600, func(int) int { return 1000 }, 4)
	require.InDelta(t, 6000, sum(got), 20)
	for _, one := range got {
		require.InDelta(t, 1500, one, 150)
	}
}

func TestBudgetBelowTheNumberOfCPUsStarvesNone(t *testing.T) {
	got := simulate(5, 6000, func(int) int { return 1 }, 16)
	require.InDelta(t, 3000, sum(got), 20)
	for _, one := range got {
		require.Greater(t, one, 100)
	}
}

func TestACPUThatWasIdleHasCreditForABurst(t *testing.T) {
	for _, others := range []int{0, 1} { // samples that each of the others wants between two polls
		poll := make([]int, 8)
		got := simulate(100, 300, func(cpu int) int {
			if poll[cpu]++; cpu != 3 {
				return others
			} else if poll[cpu] == 300 {
				return 50
			}
			return 0
		}, 8)
		require.Equal(t, 50, got[3])
	}
}

func TestBudgetIsNeverExceeded(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		rate, cpus := 1+random.Float64()*1000, 1+random.IntN(64)
		got := simulate(rate, 50, func(int) int { return random.IntN(100) }, cpus)
		require.LessOrEqual(t, float64(sum(got)), rate*5+max(rate/10, 1))
	}
}

// used is how much of its credit a CPU uses that selects so many buffers before the next poll, on average.
func used(d demand, credits uint32, selected int) float64 {
	chance, plenty := d.spread(credits)
	left := float64(credits)
	for range selected {
		left -= min(1, chance*min(left, float64(plenty)))
	}
	return float64(credits) - left
}

func TestCreditIsForWhoeverComesWhileDemandIsLow(t *testing.T) {
	var d demand
	require.InDelta(t, 100, used(d, 100, 100), 1e-9, "nothing is known")
	d.note(10, time.Second)
	require.InDelta(t, 10, used(d, 100, 10), 1e-9, "far below what there is")
}

func TestCreditOutlastsThePoll(t *testing.T) {
	var d demand
	d.note(9000, time.Second)
	require.InDelta(t, 50.0/spreadPolls, used(d, 50, 9000), 0.01)
	require.Less(t, used(d, 50, 90_000), 49.0, "of ten times as many buffers, the last ones have a chance, too")
}

func TestDemandRemembersBursts(t *testing.T) {
	var d demand
	d.note(8000, time.Second)
	for range 10 {
		d.note(0, 100*time.Millisecond)
	}
	require.InDelta(t, 4000, float64(d), 0.1, "half after a second")
	d.note(0, time.Minute)
	require.Less(t, float64(d), 1e-9)
	d.note(7, time.Minute)
	require.InDelta(t, 7, float64(d), 1e-9)
}
