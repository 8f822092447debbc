// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kernel

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseCPUs(t *testing.T) {
	for list, want := range map[string][]int{
		"0":        {0},
		"0-3":      {0, 1, 2, 3},
		"0,2-3,64": {0, 2, 3, 64},
	} {
		got, err := parseCPUs(list)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, list := range []string{"", "a", "3-1", "0-", "0,,1", "-1", "99999999"} {
		_, err := parseCPUs(list)
		require.ErrorContains(t, err, "not a list of CPUs", "%q", list)
	}
}

func TestMemoryCeilingShrinksSlots(t *testing.T) {
	cpus := func(n int) (list []int) {
		for i := range n {
			list = append(list, i)
		}
		return list
	}
	for _, c := range []struct {
		name  string
		cfg   Config
		slots int
	}{
		{"two CPUs get the default", Config{cpus: cpus(2)}, DefaultSlots},
		{"64 CPUs stay below 64 MiB", Config{cpus: cpus(64)}, 4096},
		{"256 CPUs", Config{cpus: cpus(256)}, 1024},
		{"a ceiling nothing fits under leaves the least", Config{cpus: cpus(256), MemoryCeiling: 1}, MinSlots},
		{"a chosen size is kept", Config{cpus: cpus(2), Slots: MaxSlots}, MaxSlots},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := fit(c.cfg)
			require.NoError(t, err)
			require.Equal(t, c.slots, got.Slots)
			if got.MemoryCeiling > 1 {
				require.LessOrEqual(t, 2*len(c.cfg.cpus)*regionSize(got.Slots), got.MemoryCeiling)
			}
		})
	}
}

func TestBadConfigIsRefused(t *testing.T) {
	for message, cfg := range map[string]Config{
		"slots of a region must be a power of two from 256 to 32768, got 1000":  {Slots: 1000},
		"slots of a region must be a power of two from 256 to 32768, got 65536": {Slots: 65536},
		"snap length must be from 1 to 9216 bytes, got 0":                       {Samples: true, RandomOneIn: 1},
		"snap length must be from 1 to 9216 bytes, got 9217":                    {Samples: true, RandomOneIn: 1, SnapLength: 9217},
	} {
		_, err := fit(cfg)
		require.EqualError(t, err, message)
	}
}

func TestJiffiesAreComparedModulo32Bits(t *testing.T) {
	i := instant{unix: 1e18, jiffies: 3, tick: 4e6}
	require.Equal(t, int64(1e18), i.jiffy(3))
	require.Equal(t, int64(1e18-4e6), i.jiffy(2))
	require.Equal(t, int64(1e18-5*4e6), i.jiffy(0xfffffffe), "jiffies wrapped since")
	require.Equal(t, int64(1e18+4e6), i.jiffy(4), "a program that ran at the flip")
}

// A load and a close leave the process as it was.
func TestCloseLeavesNothing(t *testing.T) {
	load(t, Config{}) // what the library keeps open for good is open now
	before := openFiles(t)
	for range 20 {
		k, err := Load(Config{Samples: true, RandomOneIn: 10, SnapLength: 64, MaxPerSecond: 1})
		require.NoError(t, err)
		require.NoError(t, k.Close())
		require.NoError(t, k.Close(), "closing twice is harmless")
	}
	require.Equal(t, before, openFiles(t))
}

// A load that fails half way does so too.
func TestFailedLoadLeavesNothing(t *testing.T) {
	load(t, Config{})
	before := openFiles(t)
	for range 20 {
		_, err := Load(Config{Slots: 3})
		require.ErrorContains(t, err, "load programs: slots of a region must be a power of two")
	}
	require.Equal(t, before, openFiles(t))
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}
