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
	left, got := c.grants(now, make([]uint32, cpus)), make([]int, cpus)
	for range polls {
		for i := range left {
			n := min(int(left[i]), wants(i))
			left[i] -= uint32(n)
			got[i] += n
		}
		now = now.Add(100 * time.Millisecond)
		for i, n := range c.grants(now, left) {
			left[i] += n
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

func TestBudgetIsNeverExceeded(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		rate, cpus := 1+random.Float64()*1000, 1+random.IntN(64)
		got := simulate(rate, 50, func(int) int { return random.IntN(100) }, cpus)
		require.LessOrEqual(t, float64(sum(got)), rate*5+max(rate/10, 1))
	}
}
