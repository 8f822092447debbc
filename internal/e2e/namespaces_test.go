// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

// town is network namespaces that a collector observes, each with an interface left0 of the same index.
type town struct {
	t      *testing.T
	prefix string                 // of their paths
	sent   map[string]flow.Volume // by namespace
}

func (w *town) path(name string) string { return w.prefix + name }

// send sends n packets of the same flows in each namespace, and notes them.
func (w *town) send(name string, e *testenv.End, n int) {
	w.t.Helper()
	s := e.NewSender()
	defer s.Close()
	s.Datagrams(&testenv.Datagrams{Flows: 10, Payloads: []int{0, 1000}, Src: e.MAC, Dst: testenv.Nobody}, 0, n)
	sum := w.sent[name]
	sum.Add(s.Sent)
	w.sent[name] = sum
}

func (w *town) pair() *testenv.End {
	w.t.Helper()
	left, _ := testenv.Pair(w.t, testenv.PairConfig{})
	return left
}

// said waits until the collector has said a message so often of a namespace.
func (c *collector) said(message, namespace string, times int) {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		n := 0
		for line := range strings.Lines(c.log.String()) {
			if strings.Contains(line, `"`+message+`"`) && strings.Contains(line, fmt.Sprintf(`"namespace":%q`, namespace)) {
				n++
			}
		}
		return n == times
	}, patience, 5*time.Millisecond, "%s: %q, %d times", message, namespace, times)
}

const (
	counting = "Counting at interface"
	leaving  = "No longer observing network namespace"
)

// TestNamespaces has a collector in a namespace of its own, beside two with names, one of a process, and such that come, go and are
// replaced. All have an equal interface and equal flows; the totals of each are exact.
func TestNamespaces(t *testing.T) {
	testenv.Privileged(t)
	w := &town{t: t, prefix: fmt.Sprintf("/run/netns/ebpfpackets-%d-", os.Getpid()), sent: map[string]flow.Volume{}}
	own, red, blue, process := w.pair(), w.pair(), w.pair(), w.pair()
	unmountRed, unmountRouge := red.Mount(w.path("red")), red.Mount(w.path("rouge")) // one namespace, observed once
	unmountBlue := blue.Mount(w.path("blue"))
	own.Mount(w.path("self")) // the collector's own
	inside := exec.Command("sleep", "1000")
	ended := process.Start(inside)
	pid := fmt.Sprint("pid:", inside.Process.Pid)
	name := func(short string) string { return strings.TrimPrefix(w.path(short), "/run/netns/") }

	c := start(t, own.NetNS, fmt.Sprintf(`
interfaces: {include: [left0]}
namespaces: [host, "%s*", /proc/%d/ns/net]
collection_interval: 100ms
packets: {random_one_in: 0, first_per_flow: 1, max_per_second: 1000000}
`, w.prefix, inside.Process.Pid))
	for _, n := range []string{"host", name("red"), name("blue"), pid} {
		c.said(counting, n, 1)
	}
	w.send("host", own, 1000)
	w.send(name("red"), red, 2000)
	w.send(name("blue"), blue, 3000)
	w.send(pid, process, 4000)

	later := w.pair()
	began := time.Now()
	later.Mount(w.path("later"))
	c.said(counting, name("later"), 1)
	t.Logf("a new namespace was counted after %v", time.Since(began).Round(time.Millisecond))
	w.send(name("later"), later, 500)

	unmountBlue()
	c.said(leaving, name("blue"), 1)
	assert.Empty(t, attached(t, blue))
	unmountRouge()
	unmountRed()
	again := w.pair()
	again.Mount(w.path("red"))
	c.said(leaving, name("red"), 1)
	c.said(counting, name("red"), 2)
	w.send(name("red"), again, 700)
	require.NoError(t, inside.Process.Kill())
	<-ended
	c.said(leaving, pid, 1)
	assert.Empty(t, attached(t, process))
	text := scrape(t, own.NetNS)
	assert.EqualValues(t, 3, sample(t, text, `otelcol_ebpfpackets_receiver_namespaces\{[^}]*state="observed"[^}]*\}`))

	out := c.stop()
	w.check(out)
}

func (w *town) check(out result) {
	var all flow.Volume
	for name, want := range w.sent {
		at := otlpcheck.Has(map[string]any{"network.namespace.name": name, "network.interface.name": "left0", "network.io.direction": "transmit"})
		assert.Equal(w.t, want, flow.Volume{
			Packets: uint64(out.Total("network.flow.packets", at)), Bytes: uint64(out.Total("network.flow.io", at)),
		}, name)
		all.Add(want)
	}
	assert.Equal(w.t, all, sum(out), "and nothing else")
	assert.Equal(w.t, all, out.ledger.seen)
	records := map[string]flow.Volume{}
	for _, f := range out.Flows() {
		name := fmt.Sprint(f.Attributes["network.namespace.name"])
		v := records[name]
		v.Add(flow.Volume{Packets: uint64(f.Packets + f.ReversePackets), Bytes: uint64(f.Bytes + f.ReverseBytes)})
		records[name] = v
	}
	assert.Equal(w.t, w.sent, records)
	samples := map[string]int{}
	for _, p := range out.Packets() {
		samples[fmt.Sprint(p.Attributes["network.namespace.name"])]++
	}
	for name := range w.sent {
		assert.Positive(w.t, samples[name], "first packets of flows in %s", name)
	}
	assert.Len(w.t, samples, len(w.sent), "%v", samples)
}

// TestNamespacesTakeACapability has a collector that may do everything but enter namespaces.
func TestNamespacesTakeACapability(t *testing.T) {
	testenv.Privileged(t)
	c := launch(t, testenv.NewNetNS(t), "interfaces: {include: [lo]}\nnamespaces: [host, /run/netns/*]\n",
		testenv.Tool(t, "setpriv"), "--inh-caps=-sys_admin", "--bounding-set=-sys_admin")
	require.Error(t, c.awaitExit())
	assert.Contains(t, c.log.String(), "missing CAP_SYS_ADMIN (to enter other network namespaces, with setns); run as root, or grant it")
}
