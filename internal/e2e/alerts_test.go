// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

const alertRules = "../../examples/alerts/ebpfpackets.rules.yaml"

// TestTheAlertRulesPassTheirUnitTests runs those that are shipped beside them, at the durations that are shipped.
func TestTheAlertRulesPassTheirUnitTests(t *testing.T) {
	promtool := testenv.Tool(t, "promtool")
	for _, args := range [][]string{
		{"check", "rules", alertRules},
		{"test", "rules", "../../examples/alerts/ebpfpackets.test.yaml"},
	} {
		out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput()
		require.NoError(t, err, "%v: %s", args, out)
	}
}

// TestEachAlertFiresForItsCause gives one collector nine troubles, one after the other. Prometheus evaluates the expressions
// that are shipped. Each cause must make its alert fire, which had not fired before, and no other.
func TestEachAlertFiresForItsCause(t *testing.T) {
	t.Parallel() // it mostly waits
	left, right := testenv.Pair(t, testenv.PairConfig{})
	prefix := fmt.Sprintf("/run/netns/ebpfpackets-alerts-%d-", os.Getpid())
	c := start(t, left.NetNS, fmt.Sprintf(`
interfaces: {include: [left0, "crowded*"]}
namespaces: [host, "%s*"]
collection_interval: 1s
cardinality_limit: 6
packets: {random_one_in: 1, max_per_second: 1000000, snap_length: 1500}
`, prefix))
	p := startPrometheus(t, left.NetNS, hurriedRules(t))
	s := left.NewSender()
	crowd := newCrowd(t, left.NetNS)
	fired := []string{}
	for _, trouble := range []struct {
		alert  string
		cause  func()
		repeat bool // until the alert fires
	}{
		{"EbpfpacketsLedgerMismatch", func() { c.miscount() }, false},
		{"EbpfpacketsDataLost", func() { c.fileIsFull(); s.Datagrams(manySamples(left), 0, 100) }, true},
		// From here on a busy machine may lose records, too: there are more than it writes in time.
		{"EbpfpacketsRingFull", func() { c.overrun(s, manySamples(left)) }, true},
		{"EbpfpacketsOverflow", func() { c.overrun(s, manyFlows(left)) }, true},
		{"EbpfpacketsSeriesLimit", func() { sendManySeries(s, left, right) }, true},
		{"EbpfpacketsInterfaceFailed", crowd.add, true},
		{"EbpfpacketsNamespacesNotObserved", func() { mountTooMany(t, prefix) }, false},
		{"EbpfpacketsNoInterface", func() { left.Run(testenv.Tool(t, "ip"), "link", "delete", left.Name) }, false},
		{"EbpfpacketsDrainsFail", func() { require.NoError(t, c.bpfMap("barrier").Freeze()) }, false},
	} {
		require.Equal(t, fired, p.fired(), "before the cause of %s", trouble.alert)
		began := time.Now()
		trouble.cause()
		labels := p.firing(trouble.alert)
		for ; labels == nil; labels = p.firing(trouble.alert) {
			require.Less(t, time.Since(began), patience, "%s never fired", trouble.alert)
			time.Sleep(300 * time.Millisecond)
			if trouble.repeat {
				trouble.cause()
			}
		}
		t.Logf("%s fired after %v: %v", trouble.alert, time.Since(began), labels)
		assert.Equal(t, "localhost:8888", labels["instance"], trouble.alert)
		fired = append(fired, trouble.alert)
		slices.Sort(fired)
	}
	require.Equal(t, fired, p.fired())
	assert.Contains(t, c.log.String(), "The ledger does not add up")
	assert.Contains(t, c.log.String(), "Taking the kernel's counters failed")
	require.NoError(t, c.cmd.Process.Kill()) // its last drain would fail too
}

// hurriedRules returns the shipped rules with every minute made a second: windows, offsets and how long a condition must
// hold. Nothing else changes.
func hurriedRules(t *testing.T) []byte {
	t.Helper()
	rules, err := os.ReadFile(alertRules)
	require.NoError(t, err)
	minutes := regexp.MustCompile(`\b(\d+)m\b`)
	require.NotEmpty(t, minutes.FindAll(rules, -1))
	return minutes.ReplaceAll(rules, []byte("${1}s"))
}

// mountTooMany makes one namespace more than can be observed. None has an interface that is chosen.
func mountTooMany(t *testing.T, prefix string) {
	t.Helper()
	for n := range 257 {
		testenv.NewNetNS(t).Mount(prefix + strconv.Itoa(n))
	}
}

// miscount makes the program contradict itself: a buffer that it has seen and not counted. One of the two that are written
// is being counted into and taken by the next drain.
func (c *collector) miscount() {
	c.t.Helper()
	regions := c.bpfMap("regions")
	memory, err := regions.Memory()
	require.NoError(c.t, err)
	one := make([]byte, 8)
	one[0] = 1 // buffers_seen comes first in a region; nothing else counts now
	for buffer := range int64(2) {
		stride := (int64(regions.ValueSize()) + 7) &^ 7
		_, err := memory.WriteAt(one, buffer*stride)
		require.NoError(c.t, err)
	}
}

// fileIsFull makes every write to a file fail from now on.
func (c *collector) fileIsFull() {
	c.t.Helper()
	require.NoError(c.t, unix.Prlimit(c.cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{}, nil))
}

// crowd are as many programs as the kernel lets be at one hook: BPF_MPROG_MAX, less one for the end of the list.
type crowd struct {
	*testenv.NetNS
	t        *testing.T
	programs [63]*ebpf.Program
	made     int
}

func newCrowd(t *testing.T, ns *testenv.NetNS) *crowd {
	t.Helper()
	c := &crowd{NetNS: ns, t: t}
	for i := range c.programs {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}, // TCX_NEXT
		})
		require.NoError(t, err)
		t.Cleanup(func() { p.Close() })
		c.programs[i] = p
	}
	return c
}

// add makes an interface with a hook that has no room: its programs are there before it has a name that is chosen.
func (c *crowd) add() {
	c.t.Helper()
	ip, name := testenv.Tool(c.t, "ip"), fmt.Sprintf("crowded%d", c.made)
	c.made++
	c.Run(ip, "link", "add", "crowd", "type", "bridge")
	c.Do(func() {
		device, err := net.InterfaceByName("crowd")
		require.NoError(c.t, err)
		for _, p := range c.programs {
			require.NoError(c.t, link.RawAttachProgram(link.RawAttachProgramOptions{Target: device.Index, Program: p, Attach: ebpf.AttachTCXEgress}))
		}
	})
	c.Run(ip, "link", "set", "crowd", "name", name)
}

// bpfMap returns a map that the collector holds.
func (c *collector) bpfMap(name string) *ebpf.Map {
	c.t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", c.cmd.Process.Pid))
	require.NoError(c.t, err)
	mapID := regexp.MustCompile(`(?m)^map_id:\s+(\d+)$`)
	for _, file := range files {
		text, _ := os.ReadFile(file) // it may be closed by now
		found := mapID.FindSubmatch(text)
		if found == nil {
			continue
		}
		id, err := strconv.ParseUint(string(found[1]), 10, 32)
		require.NoError(c.t, err)
		m, err := ebpf.NewMapFromID(ebpf.MapID(id))
		require.NoError(c.t, err)
		c.t.Cleanup(func() { m.Close() })
		info, err := m.Info()
		require.NoError(c.t, err)
		if info.Name == name {
			return m
		}
	}
	c.t.Fatalf("the collector has no map %q", name)
	return nil
}

// overrun sends datagrams while the collector gets no CPU, all from one CPU: they meet in one region.
func (c *collector) overrun(s *testenv.Sender, d *testenv.Datagrams) {
	c.t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, one unix.CPUSet
	require.NoError(c.t, unix.SchedGetaffinity(0, &before))
	for cpu := 0; one.Count() == 0; cpu++ {
		if before.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	require.NoError(c.t, unix.SchedSetaffinity(0, &one))
	defer func() { require.NoError(c.t, unix.SchedSetaffinity(0, &before)) }()
	require.NoError(c.t, c.cmd.Process.Signal(syscall.SIGSTOP))
	defer func() { require.NoError(c.t, c.cmd.Process.Signal(syscall.SIGCONT)) }()
	s.Datagrams(d, 0, 25_000)
}

// manySamples are large datagrams of few flows: each is a sample, and the ring of 16 MiB has room for 10,800.
func manySamples(e *testenv.End) *testenv.Datagrams {
	return &testenv.Datagrams{Flows: 10, Payloads: []int{1452}, Src: e.MAC, Dst: testenv.Nobody}
}

// manyFlows are small datagrams, each of a flow of its own: the ring has room for all, a region for 16,384.
func manyFlows(e *testenv.End) *testenv.Datagrams {
	return &testenv.Datagrams{Flows: 25_000, Payloads: []int{0}, Src: e.MAC, Dst: testenv.Nobody}
}

// sendManySeries sends a packet of each transport and type.
func sendManySeries(s *testenv.Sender, left, right *testenv.End) {
	for _, proto := range []uint8{6, 17, 132, 1, 58} {
		for _, from := range []netip.Addr{left.V4, left.V6} {
			to := right.V4
			if from.Is6() {
				to = right.V6
			}
			s.Frame(testenv.Frame{
				Src: left.MAC, Dst: testenv.Nobody, Proto: proto, Payload: 100,
				From: netip.AddrPortFrom(from, 1000), To: netip.AddrPortFrom(to, 2000),
			})
		}
	}
}
