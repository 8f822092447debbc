// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
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

// Only what asks for more than the plain form needs instructions that old kernels lack.
func TestFormFollowsKernelAndConfiguration(t *testing.T) {
	const v510, v517, v518, untold = 5<<16 | 10<<8, 5<<16 | 17<<8 | 255, 5<<16 | 18<<8, 0
	plain := Config{Samples: true, RandomOneIn: 10, Quotes: true, Filters: make([]Filter, 1)}
	for _, version := range []uint32{untold, v510, v517, v518} {
		require.Equal(t, objectPlain, plain.choose(version))
	}
	for name, cfg := range map[string]Config{
		"clsact": {Clsact: true}, "tunnels": {Tunnels: true}, "deduplicate": {Deduplicate: true}, "flows": {FlowOneIn: 2},
		"first": {FirstPerFlow: 1}, "protocols": {Protocols: ProtocolDNS},
	} {
		for version, want := range map[uint32]object{untold: objectOld, v510: objectOld, v517: objectOld, v518: objectFull} {
			require.Equal(t, want, cfg.choose(version), "%s, %#x", name, version)
		}
	}
}

// uname(2) says how a kernel was built. These are Debian's words; the refusal comes before any privilege is asked for.
func TestRealTimeKernelsAreToldByTheirVersion(t *testing.T) {
	_, err := Load(Config{version: "#1 SMP PREEMPT_RT Debian 7.3.4-1~bpo13+1 (2026-11-15)"})
	require.EqualError(t, err, "PREEMPT_RT kernels are not supported: programs may interrupt each other there and counts would be lost")
	for _, version := range []string{
		"#1 SMP PREEMPT_DYNAMIC Debian 6.12.117-1 (2026-11-12)",
		"#1 SMP Debian 5.10.262-1 (2026-07-31)",
	} {
		load(t, Config{version: version})
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
		{"unless what tunnels need makes a region larger than a map value may be", Config{cpus: cpus(2), Slots: MaxSlots, Tunnels: true}, MaxSlots / 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := fit(c.cfg)
			require.NoError(t, err)
			require.Equal(t, c.slots, got.Slots)
			if got.MemoryCeiling > 1 {
				require.LessOrEqual(t, 2*len(c.cfg.cpus)*regionSize(got.Slots, got.Tunnels), got.MemoryCeiling)
			}
		})
	}
}

// Regions are numbered in the order of CPUs that were online at load, which need not be all, nor begin with the first.
func TestEachCPUCountsIntoItsRegion(t *testing.T) {
	online, err := onlineCPUs()
	require.NoError(t, err)
	for _, cpus := range [][]int{{0}, {1}, {0, 1}, {1, 0}, {0, 2, 1}} {
		k := load(t, Config{cpus: cpus})
		for _, cpu := range online[:min(2, len(online))] { // 0 and 1, or what there is of them
			t.Run(fmt.Sprintf("CPU %d of %v", cpu, cpus), func(t *testing.T) {
				pin(t, cpu)
				inject(t, k.objects.IngressL2, udpFrame(1, 2, 3, 4, 60), nil)
				for number, of := range cpus {
					seen := map[bool]uint64{true: 1}[of == cpu]
					require.Equal(t, seen, k.regions.at(number, k.drain.active).header.BuffersSeen, "region %d", number)
				}
				late := map[bool]uint64{false: 1}[slices.Contains(cpus, cpu)]
				got := drain(t, k)
				require.Equal(t, late, got.LateCPU)
				require.Equal(t, uint64(1), got.Ledger.Seen.Packets)
			})
		}
	}
}

// CPUs from 0 on whose regions have their numbers need no look at region_of_cpu.
func TestFirstCPUsHaveRegionsOfTheirNumbers(t *testing.T) {
	for _, tt := range []struct {
		cpus    []int
		first   uint32
		regions []uint16 // of CPU 0 and so on: + 1
	}{
		{[]int{0}, 1, []uint16{1}},
		{[]int{0, 1, 2, 3}, 4, []uint16{1, 2, 3, 4}},
		{[]int{0, 1, 3}, 2, []uint16{1, 2, 0, 3}},
		{[]int{1, 2}, 0, []uint16{0, 1, 2}},
		{[]int{0, 2}, 1, []uint16{1, 0, 2}},
		{[]int{1, 0}, 0, []uint16{2, 1}},
		{[]int{1, 0, 2}, 0, []uint16{2, 1, 3}}, // the last one has its number, and is not among the first
		{[]int{0, maxCPUs}, 1, []uint16{1, 0}},
	} {
		cfg, err := fit(Config{cpus: tt.cpus})
		require.NoError(t, err)
		values, err := knobs(cfg)
		require.NoError(t, err)
		require.Equal(t, tt.first, values[bpfVarFirstCpus], "%v", tt.cpus)
		want := [maxCPUs]uint16{}
		copy(want[:], tt.regions)
		require.Equal(t, want, values[bpfVarRegionOfCpu], "%v", tt.cpus)
	}
}

func TestBadConfigIsRefused(t *testing.T) {
	for message, cfg := range map[string]Config{
		"1 in N samples must be 0 (none) or more, got -1":                       {Samples: true, RandomOneIn: -1},
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

// Regions, samplers and rings are mapped whole, whatever the number of CPUs makes of their sizes.
func TestAnyNumberOfCPUsLoads(t *testing.T) {
	for _, n := range []int{1, 3, 8, 24, 32, 39, 128} { // some of these sizes end close to a page
		cpus := make([]int, n)
		for i := range cpus {
			cpus[i] = i
		}
		testenv.Privileged(t)
		k, err := Load(Config{cpus: cpus, Samples: true, RandomOneIn: 10, SnapLength: 64, MaxPerSecond: 1})
		require.NoError(t, err, "%d CPUs", n)
		require.NoError(t, k.Close())
	}
}

// A load and a close leave the process as it was.
func TestCloseLeavesNothing(t *testing.T) {
	load(t, Config{}) // what the library keeps open for good is open now
	before := whatIsOpen(t)
	for range 10 {
		k, err := Load(Config{Samples: true, RandomOneIn: 10, SnapLength: 64, MaxPerSecond: 1})
		require.NoError(t, err)
		require.NoError(t, k.Close())
		require.NoError(t, k.Close(), "closing twice is harmless")
		require.ErrorIs(t, k.Attach(iface.Interface{Index: 1, Name: "lo", HWType: 772}, flow.DirectionIngress), os.ErrClosed)
	}
	require.Equal(t, before, whatIsOpen(t))
}

// A load that fails half way does so too, whichever step fails.
func TestFailedLoadLeavesNothing(t *testing.T) {
	load(t, Config{})
	before := whatIsOpen(t)
	for step, spoiled := range map[string]func(*objects) io.Closer{
		"control":  func(o *objects) io.Closer { return o.BSS },
		"regions":  func(o *objects) io.Closer { return o.Regions },
		"pressure": func(o *objects) io.Closer { return o.Pressure },
		"samplers": func(o *objects) io.Closer { return o.Samplers },
		"samples":  func(o *objects) io.Closer { return o.Samples },
		"memory":   func(o *objects) io.Closer { return o.Scratch },
	} {
		spoil := func(o *objects) { require.NoError(t, spoiled(o).Close()) }
		_, err := Load(Config{Samples: true, RandomOneIn: 10, SnapLength: 64, MaxPerSecond: 1, loaded: spoil})
		require.ErrorContains(t, err, "load programs: ", step)
		require.Equal(t, before, whatIsOpen(t), step)
	}
}

type open struct {
	files    int
	mappings int // of BPF maps
}

func whatIsOpen(t *testing.T) open {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	mappings, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	return open{len(entries), strings.Count(string(mappings), "bpf")}
}
