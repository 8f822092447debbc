// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package receiver

import (
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

var loop = regexp.MustCompile(`receiver\.\(\*(\w+)\)\.(drainLoop|sampleLoop|watch|run)\(`)

// running returns the functions that goroutines of an engine run, in order; of those called run, their type.
func running() []string {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	var all []string
	for _, m := range loop.FindAllStringSubmatch(string(stacks), -1) {
		name := m[2]
		if name == "run" {
			name = m[1]
		}
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// mapSizes returns the entries of the maps that this process holds, by name.
func mapSizes(t *testing.T) map[string]int {
	t.Helper()
	sizes := map[string]int{}
	for id := range whatIsHeld(t).ids {
		text, isMap := strings.CutPrefix(id, "map_id ")
		if !isMap {
			continue
		}
		number, err := strconv.ParseUint(text, 10, 32)
		require.NoError(t, err)
		m, err := ebpf.NewMapFromID(ebpf.MapID(number))
		require.NoError(t, err)
		info, err := m.Info()
		require.NoError(t, err)
		sizes[info.Name] = int(info.MaxEntries)
		require.NoError(t, m.Close())
	}
	return sizes
}

// What each pipeline costs in the kernel and in goroutines. The README quotes the figures that this prints.
func TestOnlyWhatAPipelineNeedsRuns(t *testing.T) {
	testenv.Privileged(t)
	const ring = 1 << 20
	page := os.Getpagesize()
	memory := map[string]int{}
	for _, c := range []struct {
		name          string
		metrics, logs bool
		samples       int // 1 in so many
		ring          int // bytes
		loops         []string
	}{
		{"metrics", true, false, 1000, page, []string{"drainLoop", "interfaces", "metricsPusher", "watch"}},
		{"logs", false, true, 1000, ring, []string{"drainLoop", "interfaces", "logsPusher", "sampleLoop", "watch"}},
		{"both", true, true, 1000, ring, []string{"drainLoop", "interfaces", "logsPusher", "metricsPusher", "sampleLoop", "watch"}},
		{"both without samples", true, true, 0, page, []string{"drainLoop", "interfaces", "logsPusher", "metricsPusher", "watch"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := testConfig()
			cfg.Interfaces.Include = []string{"none-such0"}
			cfg.Packets.RandomOneIn = c.samples
			e := newEngine(cfg, nopSettings(), linux{})
			if c.metrics {
				e.nextMetrics = consumertest.NewNop()
			}
			if c.logs {
				e.nextLogs = consumertest.NewNop()
			}
			require.NoError(t, e.start(t.Context()))
			soon(t, func() bool { return slices.Equal(c.loops, running()) })
			assert.Equal(t, c.ring, mapSizes(t)["samples"])
			memory[c.name] = e.source.MemoryBytes()
			t.Logf("%d bytes of maps, %d goroutines", e.source.MemoryBytes(), len(c.loops))
			require.NoError(t, e.shutdown(t.Context()))
			assert.Empty(t, running())
		})
	}
	assert.Equal(t, memory["both without samples"], memory["metrics"])
	assert.Equal(t, memory["both"], memory["logs"])
	assert.Greater(t, memory["both"], memory["metrics"]+ring)
}
