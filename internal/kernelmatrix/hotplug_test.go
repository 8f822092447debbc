// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernelmatrix

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// TestACPUThatComesLaterIsCounted takes a CPU offline, loads, and brings it back: it has no region, and what it sends and receives is
// counted all the same, without an interface. Who loads after that has a region for it. Only a guest can spare a CPU.
func TestACPUThatComesLaterIsCounted(t *testing.T) {
	testenv.Privileged(t)
	if !testenv.InGuest() {
		t.Log("not tested here: others need this machine's CPUs; TestKernels runs it in guests")
		return
	}
	left, right := testenv.Pair(t, testenv.PairConfig{})
	t.Cleanup(func() { setOnline(t, 1, true) }) // for the tests after it
	setOnline(t, 1, false)
	k := loadAt(t, left, right)
	sent := sendFrom(t, 0, left, right)
	d, flows := drainClosed(t, k)
	require.Zero(t, d.LateCPU, "CPU 0")
	require.Empty(t, d.Classes)
	require.Equal(t, twice(sent), flows)

	setOnline(t, 1, true)
	sent = sendFrom(t, 1, left, right)
	d, flows = drainClosed(t, k)
	require.Equal(t, []kernel.Class{
		{Reason: flow.ReasonOverflow, Direction: flow.DirectionIngress, Volume: sent},
		{Reason: flow.ReasonOverflow, Direction: flow.DirectionEgress, Volume: sent},
	}, d.Classes)
	require.Equal(t, 2*sent.Packets, d.LateCPU)
	require.Equal(t, twice(sent), d.Ledger.Entries[flow.ReasonOverflow])
	require.Zero(t, flows)
	require.NoError(t, k.Close())

	k = loadAt(t, left, right)
	sent = sendFrom(t, 1, left, right)
	d, flows = drainClosed(t, k)
	require.Zero(t, d.LateCPU, "CPU 1 was online at load")
	require.Equal(t, twice(sent), flows)
	require.NoError(t, k.Close())
}

func setOnline(t *testing.T, cpu int, online bool) {
	t.Helper()
	path := fmt.Sprintf("/sys/devices/system/cpu/cpu%d/online", cpu)
	require.NoError(t, os.WriteFile(path, map[bool][]byte{false: {'0'}, true: {'1'}}[online], 0o644))
}

// loadAt counts what left sends, and once more where it comes in.
func loadAt(t *testing.T, left, right *testenv.End) *kernel.Kernel {
	t.Helper()
	k, err := kernel.Load(kernel.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, k.Close()) })
	for e, d := range map[*testenv.End]flow.Direction{left: flow.DirectionEgress, right: flow.DirectionIngress} {
		i := find(t, e.NetNS, e.Name)
		e.Do(func() { err = k.Attach(i, d) })
		require.NoError(t, err)
	}
	return k
}

// sendFrom sends from one CPU, on which a veth is received, too, and returns when all has been.
func sendFrom(t *testing.T, cpu int, left, right *testenv.End) flow.Volume {
	t.Helper()
	var before, one unix.CPUSet
	one.Set(cpu)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	require.NoError(t, unix.SchedGetaffinity(0, &before))
	require.NoError(t, unix.SchedSetaffinity(0, &one))
	defer func() { require.NoError(t, unix.SchedSetaffinity(0, &before)) }()
	const packets = 500 // a backlog takes 1,000
	want := right.IPReceived() + packets
	s := left.NewSender()
	s.Datagrams(&testenv.Datagrams{Flows: 50, Payloads: []int{0, 100, 1452}, Src: left.MAC, Dst: right.MAC}, 0, packets)
	for began := time.Now(); right.IPReceived() != want; time.Sleep(time.Millisecond) {
		require.Less(t, time.Since(began), 10*time.Second, "packets are missing")
	}
	require.Zero(t, s.Dropped)
	return s.Sent
}

// drainClosed drains, checks that the ledger closes, and returns what flows have.
func drainClosed(t *testing.T, k *kernel.Kernel) (d *kernel.Drained, flows flow.Volume) {
	t.Helper()
	d, err := k.Drain(func(s *flow.Slot) { flows.Add(s.Volume) })
	require.NoError(t, err)
	require.Empty(t, d.Mismatches)
	var sum flow.Volume
	for _, entry := range d.Ledger.Entries {
		sum.Add(entry)
	}
	require.Equal(t, d.Ledger.Seen, sum)
	return d, flows
}

func twice(v flow.Volume) flow.Volume { return flow.Volume{Packets: 2 * v.Packets, Bytes: 2 * v.Bytes} }
