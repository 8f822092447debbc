// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"math"
	"math/rand/v2"
	"time"
)

// credit shares one rate among CPUs without a clock or a lock in the kernel: user space grants, a program uses up. The busy
// CPUs share what is earned; one that is idle keeps what it has, and gets more while they leave half of it. It stops by itself
// when nobody reads.
type credit struct {
	rate   float64 // per second, all CPUs together
	budget float64 // earned and not granted yet, at most one second's worth
	held   []int32
	last   time.Time
	random *rand.Rand
}

func newCredit(rate float64, cpus int, now time.Time, random *rand.Rand) *credit {
	return &credit{rate: rate, budget: max(rate/10, 1), held: make([]int32, cpus), last: now, random: random}
}

// grants returns what each CPU gets, given what each still holds of earlier grants. The sum of all grants up to any moment
// is at most rate x time + the first tenth of a second's worth; what a CPU holds is at most one second's, and it keeps
// that while it is idle: when all CPUs become busy at once, as many second's worths as there are CPUs may be used at once.
// A CPU whose credit is below zero used some in advance; it is granted that, too, and so the budget pays for it.
func (c *credit) grants(now time.Time, outstanding []int32) []uint32 {
	c.budget = min(c.budget+c.rate*now.Sub(c.last).Seconds(), max(c.rate, 1))
	c.last = now
	grants := make([]uint32, len(outstanding))
	busy := c.busy(outstanding)
	for n, i := range busy {
		share := max(int32(c.budget/float64(len(busy)-n)), 1)
		if c.budget >= 1 && share > outstanding[i] {
			grants[i] = uint32(share - outstanding[i])
			c.budget -= float64(grants[i])
		}
	}
	for i := range grants {
		c.held[i] = outstanding[i] + int32(grants[i])
	}
	c.provide(grants)
	return grants
}

// provide gives what the busy CPUs left to the one that holds least: a CPU with but one credit would tell the first question
// after a pause, and not the answer that comes before the next grant.
func (c *credit) provide(grants []uint32) {
	least := 0
	for i, held := range c.held {
		if held < c.held[least] {
			least = i
		}
	}
	if spare := min(c.budget-c.rate/2, c.rate-float64(c.held[least])); spare >= 1 {
		grants[least] += uint32(spare)
		c.held[least] += int32(spare)
		c.budget -= math.Floor(spare)
	}
}

// busy lists the CPUs that used credit since the last grant or have none, beginning with any of them: what does not divide
// evenly is not always the same CPU's, and a budget smaller than their number starves none.
func (c *credit) busy(outstanding []int32) []int {
	var busy []int
	first := c.random.IntN(len(outstanding))
	for n := range outstanding {
		i := (first + n) % len(outstanding)
		if outstanding[i] <= 0 || outstanding[i] < c.held[i] {
			busy = append(busy, i)
		}
	}
	return busy
}

// demand is how many buffers one CPU is expected to select until the next poll: as many as between any two of late, so that
// bursts that come again find credit left.
type demand float64

const (
	demandHalfLife = time.Second
	spreadPolls    = 5 // credit left is to last so many polls; a second, which is what credit holds at most, has eleven
)

func (d *demand) note(selected uint32, elapsed time.Duration) {
	*d = max(demand(selected), *d*demand(math.Exp2(-elapsed.Seconds()/demandHalfLife.Seconds())))
}

// spread says how likely a selected buffer is to be emitted: chance x the lesser of plenty and the credits left, of which there
// are so many now. At a chance of 1 none is left out while there is credit.
func (d demand) spread(credits uint32) (chance float64, plenty uint32) {
	plenty = max(credits/2, 1)
	return min(1, float64(credits)/float64(plenty)/(spreadPolls*max(float64(d), 1e-9))), plenty
}
