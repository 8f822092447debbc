// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"crypto/tls"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// steadySettings switches on all that keeps something of what it saw. The series are soon as many as may be.
const steadySettings = `
interfaces: {include: ["*"], exclude: [lo], deduplicate: true}
namespaces: [host, %q]
tunnels: inner
filters: [{action: count, cidr: 0.0.0.0/0}, {action: count, cidr: "::/0"}]
collection_interval: 1s
cardinality_limit: 2000
series_timeout: 10s
flows: {max_flows: 2000, idle_timeout: 3s, active_timeout: 5s}
packets: {random_one_in: 10, flow_one_in: 10, first_per_flow: 1, protocols: [dns, tls, http]}
networks: [{name: test, cidr: 10.0.0.0/8}]
metrics:
  network.flow.packets: {attributes: [network.interface.name, source.address, source.port]}
`

// How long TestNothingGrows goes on, in rounds of a second or two; EBPFPACKETS_SOAK (30m, 2h) says otherwise.
const (
	steadyRounds  = 10
	flowsARound   = 1000
	roundsToJudge = 200 // from so many on the heap's median says whether more lives
)

// TestNothingGrows has conversations of all kinds, messages of all protocols, interfaces and network namespaces come and go, in rounds.
// After many the collector holds as many files, programs and maps as after the first, and, where there were enough rounds to tell, its heap
// stays as large.
func TestNothingGrows(t *testing.T) {
	testenv.Privileged(t)
	t.Parallel() // it mostly waits
	soak, err := time.ParseDuration("0" + os.Getenv("EBPFPACKETS_SOAK"))
	require.NoError(t, err, "EBPFPACKETS_SOAK says how long, such as 30m")
	w := newChange(t)
	before := w.left.Counters()
	c := launchAs(t, w.left.NetNS, func(c *collector) string {
		c.output = os.DevNull
		c.env = []string{"GOGC=10"} // so that the heap is little more than what lives
		return c.config(fmt.Sprintf(steadySettings, w.namespace))
	})
	c.awaitReady()
	w.awaitPrograms(w.left, 2)
	w.round(0)
	first := c.settled()
	began := time.Now()
	var heaps []int64
	for n := 1; n < steadyRounds || time.Since(began) < soak; n++ {
		w.round(n)
		heaps = append(heaps, sample(t, scrape(t, w.left.NetNS), `otelcol_process_runtime_heap_alloc\S*`))
		if len(heaps)%100 == 0 {
			t.Logf("%v, %d rounds: %v, resident %d kB, median heap %d kB", time.Since(began).Round(time.Second), n, c.holds(), c.resident(), median(heaps[n-100:])/1000)
		}
	}
	assert.EventuallyWithT(t, func(r *assert.CollectT) { assert.Equal(r, first, c.holds()) }, patience, time.Second, "after %d rounds", len(heaps)+1)
	if third := len(heaps) / 3; third >= roundsToJudge/3 {
		assert.Less(t, float64(median(heaps[2*third:])), 1.1*float64(median(heaps[third:2*third])), "the heap in the last third, and in the second")
	}
	c.terminate()
	require.NotContains(t, c.log.String(), `"level":"error"`)
	since := w.left.Counters().Since(before)
	testenv.RequireDelivered(t, since)
	assert.Equal(t, since.Received.Packets+since.Transmitted.Packets, c.ledger().seen.Packets)
}

// change is what comes and goes.
type change struct {
	t           *testing.T
	left, right *testenv.End
	others      *testenv.End // in a network namespace that is observed while it has a name
	namespace   string       // that name
	sender      *testenv.Sender
	datagrams   testenv.Datagrams
}

func newChange(t *testing.T) *change {
	t.Helper()
	w := &change{t: t, namespace: filepath.Join(t.TempDir(), "comes")}
	w.left, w.right = testenv.Pair(t, testenv.PairConfig{})
	w.others, _ = testenv.Pair(t, testenv.PairConfig{})
	w.sender = w.left.NewSender()
	w.datagrams = testenv.Datagrams{Flows: 1 << 24, Payloads: []int{0, 100, 1000}, Src: w.left.MAC, Dst: testenv.Nobody}
	serveNames(t, w.right)
	serveWords(t, w.right, 80, nil)
	serveTLS(t, w.right, 443)
	return w
}

func (w *change) round(n int) {
	w.t.Helper()
	w.sender.Datagrams(&w.datagrams, n*flowsARound, flowsARound)
	w.left.Run(testenv.Tool(w.t, "curl"), "-sS", fmt.Sprintf("http://%v/%d", w.right.V4, n))
	w.left.Run(testenv.Tool(w.t, "dig"), "@"+w.right.V6.String(), "+tries=1", fmt.Sprintf("name%d.example", n))
	client := tlsClient{name: fmt.Sprintf("name%d.example", n)}
	client.dial(w.t, w.left, netip.AddrPortFrom(w.right.V4, 443), tls.NewLRUClientSessionCache(1))

	unmount := w.others.Mount(w.namespace)
	ends := w.left.AddVeth("comes0", "comes1")
	w.awaitPrograms(ends[0], 2)
	w.awaitPrograms(w.others, 2)
	ends[0].Delete()
	unmount()
	w.awaitPrograms(w.others, 0)
}

func (w *change) awaitPrograms(at *testenv.End, n int) {
	w.t.Helper()
	require.Eventually(w.t, func() bool { return len(attached(w.t, at)) == n }, patience, 5*time.Millisecond, "%d programs at %s", n, at.Name)
}

// holds counts the files that a collector has open, by what they are: programs, maps and links of BPF, sockets, and others.
func (c *collector) holds() map[string]int {
	c.t.Helper()
	all, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", c.cmd.Process.Pid))
	require.NoError(c.t, err)
	open := map[string]int{}
	for _, path := range all {
		target, err := os.Readlink(path)
		if err != nil {
			continue // it was closed meanwhile
		}
		kind, _, _ := strings.Cut(target, ":[")
		open[kind]++
	}
	return open
}

// settled is what a collector holds when nothing comes and goes any more.
func (c *collector) settled() (open map[string]int) {
	c.t.Helper()
	same := 0
	require.Eventually(c.t, func() bool {
		now := c.holds()
		if !maps.Equal(open, now) {
			open, same = now, 0
		}
		same++
		return same > 10
	}, patience, 100*time.Millisecond)
	return open
}

func median(values []int64) int64 { return slices.Sorted(slices.Values(values))[len(values)/2] }

// resident is how much memory a collector has, in kB.
func (c *collector) resident() (kB int) {
	c.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	require.NoError(c.t, err)
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	_, err = fmt.Sscan(rest, &kB)
	require.NoError(c.t, err)
	return kB
}
