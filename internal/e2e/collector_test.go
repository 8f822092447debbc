// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

const (
	ready    = "Everything is ready"
	patience = 60 * time.Second // for a collector on a busy machine
)

// binary returns the path of the collector under test.
func binary(t *testing.T) string {
	t.Helper()
	return built(t, "EBPFPACKETS_COLLECTOR", "otelcol-ebpfpackets", "collector")
}

// fullBinary returns the path of the collector for fleets, of examples/distribution.
func fullBinary(t *testing.T) string {
	t.Helper()
	return built(t, "EBPFPACKETS_COLLECTOR_FULL", "full/otelcol-ebpfpackets-full", "collector-full")
}

// built returns the path that is in the environment, or else of what a target of make builds.
func built(t *testing.T, variable, name, target string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		path = "../../_build/" + name
	}
	path, err := filepath.Abs(path)
	require.NoError(t, err)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("needs the collector (make %s): %v", target, err)
	}
	return path
}

// validate has the collector for fleets check a configuration that is shown to users. It needs no privilege.
func validate(t *testing.T, config string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), fullBinary(t), "validate", "--config", config).CombinedOutput()
	require.NoError(t, err, "%s: %s", config, out)
}

// collector is a running collector.
type collector struct {
	t       *testing.T
	cmd     *exec.Cmd
	log     safeBuffer
	program string   // the collector of `make collector` if empty
	args    []string // beside its configuration
	env     []string // beside that of the test, NAME=value
	inner   bool     // what started is the parent of the collector, in whose PID namespace that is the first process
	output  string   // of the file exporter
	out     otlpcheck.Output
	have    int64 // bytes of output that are in out
	ended   <-chan error
}

// launch starts a collector with the given settings of the receiver, lines of YAML. Wrap, if any, is a command that starts
// it.
func launch(t *testing.T, ns *testenv.NetNS, settings string, wrap ...string) *collector {
	t.Helper()
	return launchAs(t, ns, func(c *collector) string { return c.config(settings) }, wrap...)
}

// launchAs is launch with a configuration of one's own; configure may also set program, args and env.
func launchAs(t *testing.T, ns *testenv.NetNS, configure func(*collector) string, wrap ...string) *collector {
	t.Helper()
	dir := t.TempDir()
	c := &collector{t: t, output: filepath.Join(dir, "otlp.jsonl")}
	config := filepath.Join(dir, "config.yaml")
	require.NoError(t, os.WriteFile(config, []byte(configure(c)), 0o644))
	c.run(ns, []string{config}, wrap)
	return c
}

// run starts the collector with configuration files, of which a later one changes those before it.
func (c *collector) run(ns *testenv.NetNS, configs, wrap []string) {
	c.t.Helper()
	if c.program == "" {
		c.program = binary(c.t)
	}
	args := append(slices.Clone(wrap), c.program)
	for _, config := range configs {
		args = append(args, "--config", config)
	}
	args = append(args, c.args...)
	c.cmd = exec.Command(args[0], args[1:]...)
	c.cmd.Env = append(os.Environ(), c.env...)
	c.cmd.Stdout, c.cmd.Stderr = &c.log, &c.log
	c.ended = ns.Start(c.cmd)
	c.t.Cleanup(func() {
		if c.t.Failed() {
			c.t.Logf("the collector said:\n%s", c.log.String())
		}
	})
}

func (c *collector) config(settings string) string {
	var indented strings.Builder
	for line := range strings.Lines(settings) {
		indented.WriteString("    " + line)
	}
	return fmt.Sprintf(`
receivers:
  ebpfpackets:
%s
exporters:
  file:
    path: %s
    flush_interval: 100ms
service:
  telemetry:
    logs: {encoding: json}
    metrics: {level: normal} # at localhost:8888 of the namespace
  pipelines:
    metrics: {receivers: [ebpfpackets], exporters: [file]}
    logs: {receivers: [ebpfpackets], exporters: [file]}
`, indented.String(), c.output)
}

// start is launch, until the collector runs.
func start(t *testing.T, ns *testenv.NetNS, settings string) *collector {
	t.Helper()
	testenv.Privileged(t)
	c := launch(t, ns, settings)
	c.awaitReady()
	return c
}

// awaitReady waits until the collector runs. It takes over SIGTERM only after it said so.
func (c *collector) awaitReady() {
	c.t.Helper()
	c.awaitLog(ready)
	time.Sleep(100 * time.Millisecond)
}

func (c *collector) awaitLog(text string) {
	c.t.Helper()
	require.Eventually(c.t, func() bool { return strings.Contains(c.log.String(), text) }, patience, 10*time.Millisecond,
		"the collector never said %q", text)
}

// awaitExit returns how the collector ended.
func (c *collector) awaitExit() error {
	c.t.Helper()
	select {
	case err := <-c.ended:
		return err
	case <-time.After(patience):
		c.t.Fatalf("the collector did not end within %v", patience)
		return nil
	}
}

// terminate ends the collector with SIGTERM.
func (c *collector) terminate() {
	c.t.Helper()
	pid := c.cmd.Process.Pid
	if c.inner {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		require.NoError(c.t, err)
		pid, err = strconv.Atoi(strings.TrimSpace(string(children)))
		require.NoError(c.t, err)
	}
	require.NoError(c.t, syscall.Kill(pid, syscall.SIGTERM))
	require.NoError(c.t, c.awaitExit())
}

// result is what a collector has said in its life.
type result struct {
	*otlpcheck.Output
	ledger ledger
}

// stop ends the collector with SIGTERM and checks everything that it said.
func (c *collector) stop() result {
	c.t.Helper()
	c.terminate()
	out := c.read()
	names, err := otlpcheck.OpenNames("../../metadata.yaml")
	require.NoError(c.t, err)
	require.NoError(c.t, out.Check(names))
	require.NotContains(c.t, c.log.String(), `"level":"error"`)
	return result{out, c.ledger()}
}

// read returns what the file exporter has written so far. What was read before is not read again: it can be a lot.
func (c *collector) read() *otlpcheck.Output {
	c.t.Helper()
	f, err := os.Open(c.output)
	require.NoError(c.t, err)
	defer f.Close()
	_, err = f.Seek(c.have, io.SeekStart)
	require.NoError(c.t, err)
	size, err := c.out.Read(f)
	require.NoError(c.t, err)
	c.have += size
	return &c.out
}

// awaitOutput waits until what was written so far is as wanted.
func (c *collector) awaitOutput(wanted func(*otlpcheck.Output) bool) {
	c.t.Helper()
	require.Eventually(c.t, func() bool { return wanted(c.read()) }, patience, 100*time.Millisecond)
}

// ledger is the receiver's last account.
type ledger struct{ seen, accounted, filtered, duplicate, overflow, notIP, unparsed flow.Volume }

var ledgerLine = regexp.MustCompile(`Final ledger: seen (\d+) packets \((\d+) bytes\) = accounted (\d+) packets \((\d+) bytes\) \+ ` +
	`filtered (\d+) packets \((\d+) bytes\) \+ duplicate (\d+) packets \((\d+) bytes\) \+ overflow (\d+) packets \((\d+) bytes\) \+ not IP (\d+) packets \((\d+) bytes\) \+ unparsed (\d+) packets \((\d+) bytes\)`)

func (c *collector) ledger() (l ledger) {
	c.t.Helper()
	m := ledgerLine.FindStringSubmatch(c.log.String())
	require.NotNil(c.t, m, "no final ledger")
	for i, v := range []*flow.Volume{&l.seen, &l.accounted, &l.filtered, &l.duplicate, &l.overflow, &l.notIP, &l.unparsed} {
		var err error
		v.Packets, err = strconv.ParseUint(m[1+2*i], 10, 64)
		require.NoError(c.t, err)
		v.Bytes, err = strconv.ParseUint(m[2+2*i], 10, 64)
		require.NoError(c.t, err)
	}
	sum := l.accounted
	for _, v := range []flow.Volume{l.filtered, l.duplicate, l.overflow, l.notIP, l.unparsed} {
		sum.Add(v)
	}
	require.Equal(c.t, l.seen, sum)
	return l
}

// counted returns what the metrics say was counted at an interface in one direction; both if it is "".
func (r result) counted(iface, direction string) flow.Volume {
	want := map[string]any{"network.interface.name": iface}
	if direction != "" {
		want["network.io.direction"] = direction
	}
	return flow.Volume{
		Packets: uint64(r.Total("network.flow.packets", otlpcheck.Has(want))),
		Bytes:   uint64(r.Total("network.flow.io", otlpcheck.Has(want))),
	}
}

// safeBuffer is a bytes.Buffer that one goroutine reads while another writes.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
