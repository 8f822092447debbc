// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// memoryFormula is the one of docs/performance.md: bytes of all maps with the sampling of the default settings, for so many
// CPUs online and possible.
func memoryFormula(online, possible, slots int) (regions, all int) {
	regions = 2 * online * (20_800 + 104*slots)
	samplers := 4224 * online
	fragments := 128 * max(1024, 256*online)
	scratch := 16_616 * possible
	const rings = 1_100_000 // samples, pressure and what is smaller
	return regions, regions + samplers + fragments + scratch + rings
}

// withoutSampling is the same without a ring for samples, and without what they are made in.
func withoutSampling(all, possible int) int {
	return all - 1<<20 + os.Getpagesize() - 16_616*possible
}

func firstCPUs(n int) []int {
	cpus := make([]int, n)
	for i := range cpus {
		cpus[i] = i
	}
	return cpus
}

// sampled is the configuration of the default settings, on so many CPUs.
func sampled(cpus int) Config {
	return Config{cpus: firstCPUs(cpus), Samples: true, RandomOneIn: 1000, SnapLength: 256, MaxPerSecond: 100}
}

// The documented table says what the formula says, and the formula what is asked of the kernel.
func TestMemoryByNumberOfCPUs(t *testing.T) {
	docs, err := os.ReadFile("../../docs/performance.md")
	require.NoError(t, err)
	for _, n := range []int{2, 8, 64, 240, 1024, 4096} {
		cfg, err := fit(sampled(n))
		require.NoError(t, err)
		regions, all := memoryFormula(n, n, cfg.Slots)
		row := fmt.Sprintf("| %d | %d | %.1f MB | %.1f MB |\n", n, cfg.Slots, float64(regions)/1e6, float64(all)/1e6)
		if !strings.Contains(string(docs), row) { // Contains of testify would print the whole file
			t.Errorf("docs/performance.md lacks the row\n%s", row)
		}
		if cfg.Slots > MinSlots {
			require.LessOrEqual(t, regions, DefaultMemoryCeiling)
		}

		spec, err := loadBpf()
		require.NoError(t, err)
		sizeMaps(spec, cfg)
		asked := func(name string) int { return int(spec.Maps[name].MaxEntries) * int(spec.Maps[name].ValueSize) }
		require.Equal(t, regions, asked(bpfMapRegions), "%d CPUs", n)
		require.Equal(t, 4224*n, asked(bpfMapSamplers), "%d CPUs", n)
		require.Equal(t, max(1024, 256*n), int(spec.Maps[bpfMapFragments].MaxEntries), "%d CPUs", n)
	}
}

// The receiver's table of pipelines says the same of two CPUs.
func TestMemoryByPipelines(t *testing.T) {
	cfg, err := fit(sampled(2))
	require.NoError(t, err)
	_, all := memoryFormula(2, 2, cfg.Slots)
	readme, err := os.ReadFile("../../receiver/README.md")
	require.NoError(t, err)
	for pipelines, bytes := range map[string]int{
		"metrics": withoutSampling(all, 2), "both, no samples": withoutSampling(all, 2), "logs": all, "both": all,
	} {
		if row := fmt.Sprintf("\n| %s | %.1f MB |", pipelines, float64(bytes)/1e6); !strings.Contains(string(readme), row) {
			t.Errorf("receiver/README.md lacks the row%s", row)
		}
	}
}

// The kernel charges what the formula says.
func TestMemoryIsWhatTheFormulaSays(t *testing.T) {
	possible := ebpf.MustPossibleCPU()
	for _, n := range []int{2, 8, 64, 240, 1024} {
		testenv.Privileged(t)
		k := load(t, sampled(n))
		_, want := memoryFormula(n, possible, k.SlotLimit())
		require.InEpsilon(t, want, k.MemoryBytes(), 0.02, "%d CPUs", n)
		require.NoError(t, k.Close())

		k = load(t, Config{cpus: firstCPUs(n)})
		require.InEpsilon(t, withoutSampling(want, possible), k.MemoryBytes(), 0.02, "%d CPUs, no samples", n)
		require.NoError(t, k.Close())
	}
}
