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

// ours is a function of this module in a stack.
var ours = regexp.MustCompile(`(?m)^(?:created by )?github\.com/ebpfpackets/ebpfpackets/(.+?)(?:\([^()]*\)| in goroutine \d+)$`)

// running returns the goroutines of this module but for those of tests, each by the function that it began with or that began it.
func running() (all []string) {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		if functions := ours.FindAllStringSubmatch(stack, -1); functions != nil && !strings.Contains(stack, "_test.go:") {
			all = append(all, functions[len(functions)-1][1])
		}
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

var pipelinesRow = regexp.MustCompile(`(?m)^\| ([a-z, ]+) \| [\d.]+ MB \| (\d+) \|$`)

// What each pipeline costs in the kernel and in goroutines. The README has these figures; internal/kernel looks at the bytes.
func TestOnlyWhatAPipelineNeedsRuns(t *testing.T) {
	testenv.Privileged(t)
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	said := map[string]int{}
	for _, row := range pipelinesRow.FindAllStringSubmatch(string(readme), -1) {
		said[row[1]], err = strconv.Atoi(row[2])
		require.NoError(t, err)
	}
	require.Len(t, said, 4)
	const ring = 1 << 20
	page := os.Getpagesize()
	memory := map[string]int{}
	for _, c := range []struct {
		name          string
		metrics, logs bool
		samples       int // 1 in so many
		ring          int // bytes
	}{
		{"metrics", true, false, 1000, page},
		{"logs", false, true, 1000, ring},
		{"both", true, true, 1000, ring},
		{"both, no samples", true, true, 0, page},
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
			want := said[c.name] + len(e.source.Missing()) // clsact
			soon(t, func() bool { return len(running()) == want })
			assert.Equal(t, c.ring, mapSizes(t)["samples"])
			memory[c.name] = e.source.MemoryBytes()
			t.Logf("%d bytes of maps, goroutines:\n%s", e.source.MemoryBytes(), strings.Join(running(), "\n"))
			require.NoError(t, e.shutdown(t.Context()))
			soon(t, func() bool { return len(running()) == 0 })
		})
	}
	assert.Equal(t, memory["both, no samples"], memory["metrics"])
	assert.Equal(t, memory["both"], memory["logs"])
	assert.Greater(t, memory["both"], memory["metrics"]+ring)
}
