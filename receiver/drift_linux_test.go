// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package receiver

import (
	"context"
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// drifting is a receiver that counts at one end of a pair, and is asked for the drift.
type drifting struct {
	*engine
	t   *testing.T
	tel *componenttest.Telemetry
	now time.Time
}

func newDrifting(t *testing.T, at *testenv.End) *drifting {
	t.Helper()
	d := &drifting{t: t, tel: componenttest.NewTelemetry(), now: time.Now()}
	t.Cleanup(func() { require.NoError(t, d.tel.Shutdown(context.Background())) })
	set, cfg := nopSettings(), testConfig()
	set.TelemetrySettings = d.tel.NewTelemetrySettings()
	cfg.Interfaces.Include = []string{at.Name}
	d.engine = newEngine(cfg, set, elsewhere{ns: at.NetNS})
	d.clock = func() time.Time { return d.now }
	d.nextMetrics = consumertest.NewNop()
	require.NoError(t, d.load())
	require.NoError(t, d.attach())
	t.Cleanup(func() { require.NoError(t, d.release()) })
	require.Equal(t, map[string]int64{"receive": 0, "transmit": 0}, d.drifts(), "it begins at 0")
	return d
}

// drifts returns the exported gauge after a comparison.
func (d *drifting) drifts() map[string]int64 {
	d.t.Helper()
	d.now = d.now.Add(driftInterval)
	require.True(d.t, d.drainAndCompare())
	return valuesOf(d.t, d.tel, "otelcol_ebpfpackets_receiver_interface_drift", attrIODirection)
}

// settled is the drift once it stays: packets that the interface has counted may still be on the way to the hook.
func (d *drifting) settled() map[string]int64 {
	d.t.Helper()
	last := d.drifts()
	for same := 0; same < 5; {
		time.Sleep(10 * time.Millisecond)
		now := d.drifts()
		if same++; !maps.Equal(now, last) {
			last, same = now, 0
		}
	}
	return last
}

// Where an interface counts what crosses the wire, it and the receiver agree to the packet, each way.
func TestNoDriftWithoutOffloads(t *testing.T) {
	testenv.Privileged(t)
	left, right := testenv.Pair(t, testenv.PairConfig{})
	d := newDrifting(t, left)
	before := left.Counters()
	testenv.Transfer(left, right, false, 1<<20)
	testenv.Transfer(right, left, true, 1<<20)
	testenv.Talk(left, right)
	require.Equal(t, map[string]int64{"receive": 0, "transmit": 0}, d.settled())
	passed := left.Counters().Since(before)
	require.Greater(t, passed.Received.Packets, uint64(700), "a megabyte is 725 segments")
	require.Greater(t, passed.Transmitted.Packets, uint64(700))
}

// A veth counts buffers of many segments as one packet: ours are more, by as many as there were segments beyond the buffers.
func TestSegmentsDriftUp(t *testing.T) {
	testenv.Privileged(t)
	left, right := testenv.Pair(t, testenv.PairConfig{Offloads: true})
	d := newDrifting(t, left)
	before := left.Counters()
	sent := testenv.Transfer(left, right, false, 4<<20)
	got := d.settled()
	buffers := left.Counters().Since(before).Transmitted.Packets
	require.Greater(t, sent.Sent, 10*buffers, "segmentation offload is on")
	require.InDelta(t, sent.Sent-buffers, got["transmit"], 1, "the last acknowledgement may not be in tcp_info")
	require.Zero(t, got["receive"], "acknowledgements are not put together")
}

// What a program before ours drops was received by the interface, and not seen by us.
func TestAProgramBeforeOursDriftsDown(t *testing.T) {
	testenv.Privileged(t)
	left, right := testenv.Pair(t, testenv.PairConfig{})
	d := newDrifting(t, right)
	const passed, dropped = 30, 70
	datagrams := &testenv.Datagrams{Flows: 10, Payloads: []int{100}, Src: left.MAC, Dst: right.MAC}
	sender := left.NewSender()
	sender.Datagrams(datagrams, 0, passed)
	require.Equal(t, map[string]int64{"receive": 0, "transmit": 0}, d.settled())
	if !dropAll(t, right) {
		return
	}
	sender.Datagrams(datagrams, 0, dropped)
	require.Equal(t, map[string]int64{"receive": -dropped, "transmit": 0}, d.settled())
}

// dropAll drops what comes in at e, before programs that are there see it. It reports whether this kernel has tcx, without which ours and
// this one are filters, whose order is another matter.
func dropAll(t *testing.T, e *testenv.End) bool {
	t.Helper()
	const tcxDrop = 2 // TCX_DROP; linux/bpf.h
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R0, tcxDrop),
		asm.Return(),
	}})
	require.NoError(t, err)
	t.Cleanup(func() { program.Close() })
	var l link.Link
	e.Do(func() {
		l, err = link.AttachTCX(link.TCXOptions{Interface: e.Index, Program: program, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
	})
	if errors.Is(err, ebpf.ErrNotSupported) {
		t.Log("not tested here: this kernel has no tcx")
		return false
	}
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return true
}
