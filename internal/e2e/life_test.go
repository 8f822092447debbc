// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// attached returns the programs at both hooks of an interface.
func attached(t *testing.T, e *testenv.End) (programs []ebpf.ProgramID) {
	t.Helper()
	for _, hook := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		var result *link.QueryResult
		var err error
		e.Do(func() { result, err = link.QueryPrograms(link.QueryOptions{Target: e.Index, Attach: hook}) })
		require.NoError(t, err)
		for _, p := range result.Programs {
			programs = append(programs, p.ID)
		}
	}
	return programs
}

// mapsOf returns the maps that programs use.
func mapsOf(t *testing.T, programs []ebpf.ProgramID) (maps []ebpf.MapID) {
	t.Helper()
	for _, id := range programs {
		p, err := ebpf.NewProgramFromID(id)
		require.NoError(t, err)
		info, err := p.Info()
		require.NoError(t, err)
		require.NoError(t, p.Close())
		ids, _ := info.MapIDs()
		maps = append(maps, ids...)
	}
	return maps
}

func programGone(id ebpf.ProgramID) bool {
	p, err := ebpf.NewProgramFromID(id)
	if err == nil {
		p.Close()
	}
	return errors.Is(err, os.ErrNotExist)
}

func mapGone(id ebpf.MapID) bool {
	m, err := ebpf.NewMapFromID(id)
	if err == nil {
		m.Close()
	}
	return errors.Is(err, os.ErrNotExist)
}

// TestNothingIsLeftBehind ends the collector in both ways and looks for its programs and maps.
func TestNothingIsLeftBehind(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			left, right := testenv.Pair(t, testenv.PairConfig{})
			c := start(t, left.NetNS, "interfaces: {include: [left0]}\n")
			programs := attached(t, left)
			require.Len(t, programs, 2, "one program at each hook")
			maps := mapsOf(t, programs)
			require.NotEmpty(t, maps)
			testenv.Echo(left, right, false, 1, 0)

			require.NoError(t, c.cmd.Process.Signal(signal))
			err := c.awaitExit()
			if signal == syscall.SIGTERM {
				require.NoError(t, err)
			}
			assert.Empty(t, attached(t, left))
			for _, id := range programs {
				assert.Eventually(t, func() bool { return programGone(id) }, patience, 10*time.Millisecond, "program %d", id)
			}
			for _, id := range maps {
				assert.Eventually(t, func() bool { return mapGone(id) }, patience, 10*time.Millisecond, "map %d", id)
			}
			testenv.Echo(left, right, false, 1, 0)
		})
	}
}

// TestRestarts counts every packet in one of the collector's lives, or between them: a restart neither loses what was
// counted nor counts it again.
func TestRestarts(t *testing.T) {
	left, _ := testenv.Pair(t, testenv.PairConfig{})
	s := left.NewSender()
	d := &testenv.Datagrams{Flows: 10, Payloads: []int{100}, Src: left.MAC, Dst: testenv.Nobody}
	for life := range 3 {
		c := start(t, left.NetNS, fast)
		before := s.Sent
		s.Datagrams(d, 0, 1000+life)
		out := c.stop()
		assert.Equal(t, s.Sent.Packets-before.Packets, out.counted("left0", "transmit").Packets)
		assert.Len(t, out.Flows(), 10)
		for _, f := range out.Flows() {
			assert.Equal(t, "forced_end", f.EndReason)
			assert.NotContains(t, f.Attributes, "network.namespace.name", "where only the collector's own is observed")
		}
		s.Datagrams(d, 0, 10) // nobody counts these
	}
}

// TestBadConfigurations ends with one message that names the key, the value, and what would be right.
func TestBadConfigurations(t *testing.T) {
	for _, c := range []struct{ name, settings, want string }{
		{"no interface", `interfaces: {include: []}`,
			`interfaces.include must name at least one interface, glob or kind, for example "eth0", "eth*" or "kind:uplink", got none`},
		{"a broken glob", `interfaces: {include: ["eth[0"]}`,
			`interfaces.include: "eth[0": not a glob: every "[" needs its "]"`},
		{"a direction", `directions: [up]`,
			`directions must be ingress, egress or both, got "up"`},
		{"an interval", `collection_interval: 1ms`,
			`collection_interval must be at least 100ms, got 1ms`},
		{"a negative rate", `packets: {random_one_in: -1}`,
			`packets.random_one_in must be between 0 (none at random) and 1073741824, got -1`},
		{"an error mode", `error_mode: maybe`,
			`error_mode must be propagate or ignore, got "maybe"`},
		{"no flows", `flows: {max_flows: 0}`,
			`flows.max_flows must be between 1 and 4194304, got 0`},
		{"a key of a later version", `payload: true`,
			`has invalid keys: payload`},
		{"a value that is no number", `cardinality_limit: many`,
			`'cardinality_limit' expected type 'int', got unconvertible type 'string'`},
		{"an aggregation", `metrics: {network.flow.io: {aggregation_strategy: avg}}`,
			`metrics: network.flow.io: aggregation_strategy must be sum, got "avg"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "config.yaml")
			text := (&collector{output: filepath.Join(dir, "otlp.jsonl")}).config(c.settings + "\n")
			require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
			out, err := exec.CommandContext(t.Context(), binary(t), "--config", path).CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit)
			assert.Contains(t, string(out), c.want)
		})
	}
}

// TestAMissingCapabilityIsNamed starts the collector as root with all capabilities but one; CAP_SYS_ADMIN, which stands for
// the newer ones, is always taken.
func TestAMissingCapabilityIsNamed(t *testing.T) {
	testenv.Privileged(t)
	setpriv := testenv.Tool(t, "setpriv")
	const grant = `run as root, or grant it: \"setcap cap_bpf,cap_net_admin,cap_perfmon+ep <collector>\"`
	without := func(capability string) []string {
		drop := "-sys_admin,-" + capability
		return []string{setpriv, "--inh-caps=" + drop, "--bounding-set=" + drop}
	}
	all := []struct{ capability, want string }{
		{"bpf", "missing CAP_BPF (to load programs and maps); "},
		{"net_admin", "missing CAP_NET_ADMIN (to attach them to interfaces); "},
		{"perfmon", "missing CAP_PERFMON (without it the verifier refuses the programs); "},
	}
	for _, c := range all {
		t.Run(c.capability, func(t *testing.T) {
			left, _ := testenv.Pair(t, testenv.PairConfig{})
			settings := "interfaces: {include: [left0]}\n"
			end := launch(t, left.NetNS, settings, without(c.capability)...)
			var exit *exec.ExitError
			require.ErrorAs(t, end.awaitExit(), &exit)
			assert.Contains(t, end.log.String(), c.want+grant)
			for _, other := range all {
				assert.Equal(t, other == c, strings.Contains(end.log.String(), other.want), "only what is missing is named")
			}
			assert.Empty(t, attached(t, left))

			stay := launch(t, left.NetNS, settings+"error_mode: ignore\n", without(c.capability)...)
			stay.awaitReady()
			assert.Contains(t, stay.log.String(), "Start failed; this receiver emits nothing (error_mode: ignore)")
			assert.Contains(t, stay.log.String(), c.want+grant)
			stay.terminate()
			out := stay.read()
			assert.Empty(t, out.Metrics)
			assert.Empty(t, out.Logs)
		})
	}
}

// openWay lets everyone pass through the directories above a temporary one.
func openWay(dir string) error {
	for ; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// TestTheCapabilitiesAreEnough starts the collector with those three alone.
func TestTheCapabilitiesAreEnough(t *testing.T) {
	testenv.Privileged(t)
	only := "-all,+bpf,+net_admin,+perfmon"
	left, right := testenv.Pair(t, testenv.PairConfig{})
	c := launch(t, left.NetNS, "interfaces: {include: [left0]}\n",
		testenv.Tool(t, "setpriv"), "--inh-caps="+only, "--bounding-set="+only)
	c.awaitReady()
	testenv.Echo(left, right, true, 2, 100)
	out := c.stop()
	assert.EqualValues(t, 2, out.counted("left0", "transmit").Packets)
	assert.EqualValues(t, 2, out.counted("left0", "receive").Packets)
}
