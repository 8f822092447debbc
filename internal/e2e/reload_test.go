// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

const attachedInterfaces = `otelcol_ebpfpackets_receiver_interfaces\{[^}]*state="attached"[^}]*\}`

// reload gives a running collector another configuration, and SIGHUP.
func (c *collector) reload(config string) {
	c.t.Helper()
	require.NoError(c.t, os.WriteFile(filepath.Join(filepath.Dir(c.output), "config.yaml"), []byte(config), 0o644))
	require.NoError(c.t, c.cmd.Process.Signal(syscall.SIGHUP))
}

// awaitTimes waits until the collector has said something so many times.
func (c *collector) awaitTimes(text string, n int) {
	c.t.Helper()
	require.Eventually(c.t, func() bool { return strings.Count(c.log.String(), text) >= n }, patience, 10*time.Millisecond,
		"the collector did not say %q %d times", text, n)
}

// bpfFiles returns how many programs, maps and links the collector has open, of each.
func (c *collector) bpfFiles() map[string]int {
	c.t.Helper()
	all, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", c.cmd.Process.Pid))
	require.NoError(c.t, err)
	open := map[string]int{}
	for _, path := range all {
		if target, _ := os.Readlink(path); strings.HasPrefix(target, "anon_inode:bpf") { // or it was closed meanwhile
			open[target]++
		}
	}
	return open
}

// stranger is a program of somebody else at both hooks of an interface, behind those that are there. It counts what passes it.
type stranger struct {
	t      *testing.T
	id     ebpf.ProgramID
	counts *ebpf.Map
}

func newStranger(t *testing.T, at *testenv.End) *stranger {
	t.Helper()
	counts, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	require.NoError(t, err)
	t.Cleanup(func() { counts.Close() })
	const next = -1 // TCX_NEXT
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "stranger", Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMapValue(asm.R1, counts.FD(), 0),
		asm.Mov.Imm(asm.R2, 1),
		asm.StoreXAdd(asm.R1, asm.R2, asm.DWord),
		asm.Mov.Imm(asm.R0, next),
		asm.Return(),
	}})
	require.NoError(t, err)
	t.Cleanup(func() { program.Close() })
	for _, hook := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		at.Do(func() {
			l, err := link.AttachTCX(link.TCXOptions{Interface: at.Index, Program: program, Attach: hook, Anchor: link.Tail()})
			require.NoError(t, err)
			t.Cleanup(func() { l.Close() })
		})
	}
	info, err := program.Info()
	require.NoError(t, err)
	id, ok := info.ID()
	require.True(t, ok)
	return &stranger{t, id, counts}
}

func (s *stranger) seen() (n uint64) {
	s.t.Helper()
	require.NoError(s.t, s.counts.Lookup(uint32(0), &n))
	return n
}

// life is one between two readings of the configuration.
type life struct {
	settings string
	behind   bool // programs of others
	both     bool // interfaces, not only left0
}

// TestReloads has a collector read its configuration again, twice: each life counts every packet where it is told to, nothing of a life
// outlives it, and programs of others stay as they are and see every packet.
func TestReloads(t *testing.T) {
	testenv.Privileged(t)
	left, _ := testenv.Pair(t, testenv.PairConfig{})
	other := left.NetNS.AddVeth("left1", "right1")[0]
	strangers := []*stranger{newStranger(t, left), newStranger(t, left)}
	first := life{settings: "interfaces: {include: [left0]}\n"}
	lives := []life{first, {"interfaces: {include: [left0, left1]}\nattach_order: last\n", true, true}, first}

	var c *collector
	var path string // of the first output; the others have their number
	var open map[string]int
	var programs []ebpf.ProgramID
	var maps []ebpf.MapID
	var sent [][2]flow.Volume // in each life, by interface
	for n, l := range lives {
		if n == 0 {
			c = start(t, left.NetNS, l.settings)
			path, open = c.output, c.bpfFiles()
		} else {
			c.output = fmt.Sprint(path, n) // the exporter would write over it
			c.reload(c.config(l.settings))
			c.awaitTimes(ready, n+1)
		}
		requireGone(t, programs, maps)
		if l == first {
			assert.Equal(t, open, c.bpfFiles())
		}
		programs = oursAmong(t, left, strangers, l.behind)
		maps = mapsOf(t, programs)

		var senders [2]*testenv.Sender
		for i, e := range []*testenv.End{left, other} {
			senders[i] = e.NewSender()
			senders[i].Datagrams(&testenv.Datagrams{Flows: 10, Payloads: []int{0, 1000}, Src: e.MAC, Dst: testenv.Nobody}, 0, 1000+100*i+n)
		}
		sent = append(sent, [2]flow.Volume{senders[0].Sent, senders[1].Sent})
		assert.EqualValues(t, map[bool]int{false: 1, true: 2}[l.both], sample(t, scrape(t, left.NetNS), attachedInterfaces))
	}
	c.stop()
	requireGone(t, programs, maps)

	var passed uint64
	for n, l := range lives {
		file := path
		if n > 0 {
			file = fmt.Sprint(path, n)
		}
		out := result{Output: (&collector{t: t, output: file}).read()}
		names, err := otlpcheck.OpenNames("../../metadata.yaml")
		require.NoError(t, err)
		require.NoError(t, out.Check(names))
		want, flows := sent[n][0], 10
		if l.both {
			want.Add(sent[n][1])
			flows = 20
		}
		assert.Equal(t, sent[n][0], out.counted("left0", "transmit"), "life %d", n)
		assert.Equal(t, want, sum(out), "life %d counts nothing else", n)
		assert.Len(t, out.Flows(), flows, "life %d", n)
		passed += sent[n][0].Packets
	}
	for _, s := range strangers {
		assert.Equal(t, passed, s.seen())
	}
}

// requireGone waits until nobody holds what a life had.
func requireGone(t *testing.T, programs []ebpf.ProgramID, maps []ebpf.MapID) {
	t.Helper()
	for _, id := range programs {
		require.Eventually(t, func() bool { return programGone(id) }, patience, 10*time.Millisecond, "program %d", id)
	}
	for _, id := range maps {
		require.Eventually(t, func() bool { return mapGone(id) }, patience, 10*time.Millisecond, "map %d", id)
	}
}

// oursAmong returns the collector's program at each hook, where those of others are as they were, before or behind it.
func oursAmong(t *testing.T, e *testenv.End, others []*stranger, behind bool) (ours []ebpf.ProgramID) {
	t.Helper()
	all := attached(t, e)
	require.Len(t, all, 2*(1+len(others)))
	for hook := range slices.Chunk(all, 1+len(others)) { // ingress, egress
		at := 0
		if behind {
			at = len(others)
		}
		ours = append(ours, hook[at])
		for i, id := range slices.Delete(slices.Clone(hook), at, at+1) {
			require.Equal(t, others[i].id, id)
		}
	}
	return ours
}

// TestAReloadThatFailsLosesNothing gives a collector a configuration that is none: it ends, and has told what it counted.
func TestAReloadThatFailsLosesNothing(t *testing.T) {
	left, _ := testenv.Pair(t, testenv.PairConfig{})
	c := start(t, left.NetNS, "interfaces: {include: [left0]}\n")
	s := left.NewSender()
	s.Datagrams(&testenv.Datagrams{Flows: 10, Payloads: []int{0, 1000}, Src: left.MAC, Dst: testenv.Nobody}, 0, 1000)
	c.reload(c.config("interfaces: {include: []}\n"))
	var exit *exec.ExitError
	require.ErrorAs(t, c.awaitExit(), &exit)
	assert.Contains(t, c.log.String(), "interfaces.include must name at least one interface")
	out := result{Output: c.read()}
	assert.Equal(t, s.Sent, sum(out))
	assert.Len(t, out.Flows(), 10)
	assert.Empty(t, attached(t, left))
}

// alone is a configuration whose signals have the receiver or not, and of which nothing but receivers changes: a collector with the
// feature gate for it reloads them alone.
func (c *collector) alone(interval, metrics, logs string) string {
	return fmt.Sprintf(`
receivers:
  ebpfpackets: {interfaces: {include: [left0]}, collection_interval: %[4]s}
  otlp: {protocols: {grpc: {endpoint: "localhost:4317"}}}
exporters:
  file: {path: %[1]s, flush_interval: 100ms}
  file/logs: {path: %[1]s.logs, flush_interval: 100ms} # one for both would end with the first signal
service:
  telemetry: {logs: {encoding: json}}
  pipelines:
    metrics: {receivers: [%[2]s], exporters: [file]}
    logs: {receivers: [%[3]s], exporters: [file/logs]}
`, c.output, metrics, logs, interval)
}

// TestASignalIsTakenAwayAndGivenBack has a collector reload receivers alone, where one signal no longer has ours: what was counted until
// then is told by both, the other goes on with all that comes later, and says so in its telemetry. Given back, it counts for itself, until the
// settings of the receiver change.
func TestASignalIsTakenAwayAndGivenBack(t *testing.T) {
	testenv.Privileged(t)
	for _, gone := range []string{"metrics", "logs"} {
		t.Run(gone, func(t *testing.T) {
			t.Parallel() // much of it is waiting
			left, _ := testenv.Pair(t, testenv.PairConfig{})
			c := launchAs(t, left.NetNS, func(c *collector) string {
				c.args = []string{"--feature-gates=service.partialReload"}
				return c.alone("100ms", "ebpfpackets, otlp", "ebpfpackets, otlp")
			})
			c.awaitReady()
			s := left.NewSender()
			d := &testenv.Datagrams{Flows: 10, Payloads: []int{0, 1000}, Src: left.MAC, Dst: testenv.Nobody}
			s.Datagrams(d, 0, 1000)
			before := s.Sent

			if gone == "metrics" {
				c.reload(c.alone("100ms", "otlp", "ebpfpackets, otlp"))
			} else {
				c.reload(c.alone("100ms", "ebpfpackets, otlp", "otlp"))
			}
			c.awaitLog("Partial receiver reload completed successfully")
			c.awaitTimes("Counting at interface", 2)
			require.Len(t, attached(t, left), 2)
			s.Datagrams(d, 0, 500)
			assert.EqualValues(t, 1, sample(t, scrape(t, left.NetNS), attachedInterfaces))
			between := s.Sent

			c.reload(c.alone("100ms", "ebpfpackets, otlp", "ebpfpackets, otlp"))
			c.awaitTimes("Partial receiver reload completed successfully", 2)
			c.awaitTimes("Counting at interface", 3)
			require.Len(t, attached(t, left), 4, "each signal has its own")
			s.Datagrams(d, 0, 700)

			c.reload(c.alone("200ms", "ebpfpackets, otlp", "ebpfpackets, otlp"))
			c.awaitTimes("Partial receiver reload completed successfully", 3)
			require.Len(t, attached(t, left), 2, "new settings are both signals'")
			s.Datagrams(d, 0, 300)
			out := c.stop()
			require.NotContains(t, c.log.String(), "Two receivers count at the same interface")

			want := map[string]flow.Volume{"metrics": s.Sent, "logs": s.Sent}
			want[gone] = flow.Volume{Packets: s.Sent.Packets - between.Packets + before.Packets, Bytes: s.Sent.Bytes - between.Bytes + before.Bytes}
			var records flow.Volume
			for _, f := range (&collector{t: t, output: c.output + ".logs"}).read().Flows() {
				records.Add(flow.Volume{Packets: uint64(f.Packets), Bytes: uint64(f.Bytes)})
			}
			assert.Equal(t, want, map[string]flow.Volume{"metrics": sum(out), "logs": records})
		})
	}
}
