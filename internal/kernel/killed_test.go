// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

const childEnv = "EBPFPACKETS_TEST_CHILD"

// TestMain lets the test be a process that can be killed, or may do less.
func TestMain(m *testing.M) {
	testenv.BeConfined()
	if text := os.Getenv(childEnv); text != "" {
		if err := beChild(text); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// child is what a process of its own is to attach, until it is killed.
type child struct {
	Clsact  bool
	Lease   time.Duration
	IfIndex uint32
	Name    string
	Both    []uint32 // indexes of more interfaces, of which it takes both directions
}

func beChild(text string) error {
	var c child
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	k, err := Load(Config{Clsact: c.Clsact, lease: c.Lease, Notice: func(n string) { fmt.Println(n) }})
	if err != nil {
		return err
	}
	if err := k.Attach(iface.Interface{Index: c.IfIndex, Name: c.Name, HWType: hwEthernet}, flow.DirectionEgress); err != nil {
		return err
	}
	for _, index := range c.Both {
		for _, d := range bothDirections {
			if err := k.Attach(iface.Interface{Index: index, HWType: hwEthernet}, d); err != nil {
				return err
			}
		}
	}
	fmt.Println("attached")
	select {}
}

// startChild returns when the process has attached itself.
func startChild(t *testing.T, at site, c child) (p *os.Process, lines <-chan string) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	p, lines = beginChild(t, at, c, exec.CommandContext(t.Context(), self))
	require.Equal(t, "attached", <-lines)
	return p, lines
}

// beginChild starts a command that becomes the process, and returns what that says.
func beginChild(t *testing.T, at site, c child, cmd *exec.Cmd) (p *os.Process, lines <-chan string) {
	t.Helper()
	testenv.Privileged(t)
	c.IfIndex, c.Name = uint32(at.Index), at.Name
	text, err := json.Marshal(c)
	require.NoError(t, err)
	out, in := io.Pipe() // not of the command, which would close it when the process ends
	cmd.Stdout, cmd.Stderr = in, os.Stderr
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	ended := at.Start(cmd)
	go func() {
		<-ended
		in.Close()
	}()
	said := make(chan string, 100)
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			said <- s.Text()
		}
		close(said)
	}()
	return cmd.Process, said
}

// countedBy asks the maps of a program of another process how many packets it has counted.
func countedBy(t *testing.T, id ebpf.ProgramID) (sum uint64) {
	t.Helper()
	program, err := ebpf.NewProgramFromID(id)
	require.NoError(t, err)
	defer program.Close()
	info, err := program.Info()
	require.NoError(t, err)
	maps, ok := info.MapIDs()
	require.True(t, ok)
	found := false
	for _, id := range maps {
		m, err := ebpf.NewMapFromID(id)
		require.NoError(t, err)
		defer m.Close()
		info, err := m.Info()
		require.NoError(t, err)
		if info.Name != bpfMapRegions {
			continue
		}
		found = true
		for key := range m.MaxEntries() {
			value, err := m.LookupBytes(key)
			require.NoError(t, err)
			sum += binary.NativeEndian.Uint64(value) // buffers_seen
		}
	}
	require.True(t, found)
	return sum
}

// A tcx program goes with its process, within a second, and those of others stay.
func TestAKilledProcessLeavesNoTCXProgram(t *testing.T) {
	r := newCrossing(t)
	at := r.sites()[0]
	other := newStranger(t, tcxNext32)
	other.attachTCX(at)
	p, _ := startChild(t, at, child{})
	require.Len(t, programsAt(t, at), 2)
	require.NoError(t, p.Kill())
	want := []ebpf.ProgramID{idOf(t, other.program)}
	require.Eventually(t, func() bool { return len(programsAt(t, at)) == 1 }, time.Second, time.Millisecond)
	require.Equal(t, want, programsAt(t, at))
	r.send()
	require.Equal(t, uint64(packetsSent), other.seen())
}

// Links go one after the other, each with a grace period. EBPFPACKETS_KILLED is at how many interfaces.
func TestAKilledProcessLeavesManyInterfaces(t *testing.T) {
	r := newCrossing(t)
	count := 50
	if text := os.Getenv("EBPFPACKETS_KILLED"); text != "" {
		var err error
		count, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	at := r.sites()[0]
	c := child{}
	for n := 0; n < count-1; n += 2 {
		name, peer := fmt.Sprint("v", n), fmt.Sprint("v", n+1)
		require.NoError(t, at.Link().LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer}))
		for _, name := range []string{name, peer} {
			l, err := at.Link().LinkByName(name)
			require.NoError(t, err)
			c.Both = append(c.Both, uint32(l.Attrs().Index))
		}
	}
	p, _ := startChild(t, at, c)
	links := 1 + 2*len(c.Both)
	left := func() (n int) {
		at.Do(func() {
			for _, index := range append(c.Both, uint32(at.Index)) {
				for _, hook := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
					result, err := link.QueryPrograms(link.QueryOptions{Target: int(index), Attach: hook})
					require.NoError(t, err)
					n += len(result.Programs)
				}
			}
		})
		return n
	}
	require.Equal(t, links, left())
	graces := countGraces(t)
	require.NoError(t, p.Kill())
	killed := time.Now()
	for left() > 0 {
		require.Less(t, time.Since(killed), time.Minute)
		time.Sleep(time.Millisecond)
	}
	took, control := time.Since(killed), graces()
	t.Logf("%d links of %d interfaces went within %v, %v each, while %d grace periods were waited for", links, len(c.Both)+1, took.Round(time.Millisecond), took/time.Duration(links), control)
	if took > time.Second { // where grace periods are short, other things take longer
		require.LessOrEqual(t, control, 2*links, "a link takes as long as a grace period")
	}
}

// countGraces waits for grace periods, one after the other, and returns what says how many it were.
func countGraces(t *testing.T) (end func() int) {
	t.Helper()
	b, err := newBarrier()
	require.NoError(t, err)
	stop, count := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				count <- n
				return
			default:
			}
			if err := b.wait(); err != nil {
				t.Error(err)
			}
			n++
		}
	}()
	return func() int {
		close(stop)
		defer func() { require.NoError(t, b.close()) }()
		return <-count
	}
}

// A clsact filter stays when its process is killed. It counts no longer than its lease, and the next of us puts its own in its
// place; when that goes, the qdisc goes that the killed one added. A filter of somebody else sees every packet all the while.
func TestAKilledProcessLeavesAFilterThatStopsAndIsReplaced(t *testing.T) {
	r := newCrossing(t)
	at := r.sites()[0]
	const lease = 2 * time.Second
	p, _ := startChild(t, at, child{Clsact: true, Lease: lease})
	left, _, _ := split(t, filtersAt(t, at))
	other := newStranger(t, tcxNext32)
	other.addFilter(at, 7, 1)
	counted := countedBy(t, ebpf.ProgramID(left.program))
	r.send()
	require.Equal(t, counted+packetsSent, countedBy(t, ebpf.ProgramID(left.program)))
	counted += packetsSent
	require.NoError(t, p.Kill())
	killed := time.Now()

	for before := uint64(0); before != counted; {
		require.Less(t, time.Since(killed), 2*lease, "it counts on")
		before = counted
		r.send()
		counted = countedBy(t, ebpf.ProgramID(left.program))
	}
	other.seen()

	k := load(t, Config{Clsact: true})
	k.attachEnd(t, at.End, at.direction)
	ours, _, others := split(t, filtersAt(t, at)) // one only
	require.NotEqual(t, left, ours)
	require.Len(t, others, 1)
	require.Equal(t, filterAndQdisc, ours.name, "the qdisc is that of the killed one")
	r.send()
	require.Equal(t, uint64(packetsSent), drain(t, k).Ledger.Seen.Packets)
	require.Equal(t, uint64(packetsSent), other.seen())
	require.NoError(t, at.Link().FilterDel(&netlink.BpfFilter{FilterAttrs: filterAttrs(at, 7, 1), Fd: -1}))
	require.NoError(t, k.Close())
	requireQdisc(t, at.End, "")
}

// A process that was stopped for longer than the lease is not taken for a killed one, says for how long it did not count, and
// counts again.
func TestAStoppedProcessCountsAgain(t *testing.T) {
	r := newCrossing(t)
	at := r.sites()[0]
	const lease = time.Second
	p, said := startChild(t, at, child{Clsact: true, Lease: lease})
	theirs, _, _ := split(t, filtersAt(t, at))
	require.NoError(t, p.Signal(syscall.SIGSTOP))
	time.Sleep(3 * lease)
	r.send()
	require.Zero(t, countedBy(t, ebpf.ProgramID(theirs.program)))

	k := load(t, Config{Clsact: true})
	k.attachEnd(t, at.End, at.direction)
	require.Contains(t, filtersAt(t, at), theirs, "it lives")
	require.NoError(t, k.Close())

	require.NoError(t, p.Signal(syscall.SIGCONT))
	require.Regexp(t, `^for [1-9]\S*s packets passed the clsact filters uncounted: this process stood still for longer than their lease of 1s$`, <-said)
	r.send()
	require.Equal(t, uint64(packetsSent), countedBy(t, ebpf.ProgramID(theirs.program)))
}
