// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"

	"github.com/ebpfpackets/ebpfpackets/internal/iface"
)

func TestInterfacesComeAndGo(t *testing.T) {
	h := newFakeHost("eth0")
	p := create(t, h, testConfig(), nopSettings(), consumertest.NewNop(), consumertest.NewNop())
	require.NoError(t, p.metrics.Start(t.Context(), componenttest.NewNopHost()))
	defer func() { require.NoError(t, p.metrics.Shutdown(t.Context())) }()
	assert.Equal(t, map[uint32]int{1: 2}, h.attached, "both directions")

	var changed func()
	soon(t, func() bool { h.mu.Lock(); defer h.mu.Unlock(); changed = h.changed; return changed != nil })
	h.do(func() { h.ifaces = []iface.Interface{ethernet(5, "veth5")} })
	changed()
	soon(t, func() bool { h.mu.Lock(); defer h.mu.Unlock(); return h.attached[5] == 2 && h.attached[1] == 0 })
}

func TestNamesOutliveTheirInterface(t *testing.T) {
	b := newBench(t, testConfig(), newFakeHost("eth0"), consumertest.NewNop(), nil)
	b.host.do(func() { b.host.ifaces = nil })
	require.NoError(t, b.interfaces.sync())
	b.now = b.now.Add(b.cfg.Flows.IdleTimeout + maxDrainInterval)
	require.NoError(t, b.interfaces.sync())
	assert.Equal(t, "eth0", b.interfaces.names()[1], "its flows are still to be told")
	b.now = b.now.Add(time.Minute)
	require.NoError(t, b.interfaces.sync())
	assert.Empty(t, b.interfaces.names())
}

func TestARenamedInterfaceGetsItsNewName(t *testing.T) {
	b := newBench(t, testConfig(), newFakeHost("eth0"), consumertest.NewNop(), nil)
	b.host.do(func() { b.host.ifaces = []iface.Interface{ethernet(1, "lan0")} })
	require.NoError(t, b.interfaces.sync())
	assert.Equal(t, map[uint32]string{1: "lan0"}, b.interfaces.names())
	assert.Equal(t, map[uint32]int{1: 2}, b.host.attached, "it stays attached")
}

// step lets d pass and does what the interface loop does then.
func (b *bench) step(d time.Duration) {
	b.now = b.now.Add(d)
	require.NoError(b.t, b.interfaces.sync())
	b.interfaces.attach(b.t.Context(), time.Time{})
	b.status.set("interfaces", b.interfaces.problem())
}

func TestOneFailingInterfaceIsRetriedAndReportedOnce(t *testing.T) {
	h := newFakeHost("eth0", "eth1")
	h.attachErr["eth1"] = errors.New(`attach tcx egress to "eth1": busy`)
	b := newBench(t, testConfig(), h, consumertest.NewNop(), nil)
	host := newRecordingHost()
	b.status.add(host)
	b.step(retryFirst / 2)
	b.step(retryFirst / 2)
	require.Len(t, host.events, 1)
	assert.Equal(t, componentstatus.StatusRecoverableError, host.events[0].Status())
	assert.EqualError(t, host.events[0].Err(), `attach tcx egress to "eth1": busy`)
	assert.Equal(t, map[uint32]int{1: 2}, h.attached, "never half")

	h.do(func() { delete(h.attachErr, "eth1") })
	b.step(retryFirst)
	assert.Len(t, h.attached, 1, "not yet time to try again")
	b.step(retryFirst)
	assert.Len(t, h.attached, 2)
	assert.Equal(t, []componentstatus.Status{componentstatus.StatusRecoverableError, componentstatus.StatusOK}, host.statuses())
}

func TestNoMatchingInterfaceIsAStatusAfterAWhile(t *testing.T) {
	h := newFakeHost()
	b := newBench(t, testConfig(), h, consumertest.NewNop(), nil)
	host := newRecordingHost()
	b.status.add(host)
	b.step(missingTimeout - time.Second)
	assert.Empty(t, host.events)
	b.step(time.Second)
	require.Len(t, host.events, 1)
	assert.EqualError(t, host.events[0].Err(), "no interface matches interfaces.include [*]")
	h.do(func() { h.ifaces = []iface.Interface{ethernet(1, "eth0")} })
	b.step(time.Second)
	assert.Equal(t, []componentstatus.Status{componentstatus.StatusRecoverableError, componentstatus.StatusOK}, host.statuses())
}

func TestAnUnknownLinkHeaderIsNotTriedAgain(t *testing.T) {
	h := newFakeHost("eth0", "can0")
	h.ifaces[1].HWType = 280 // ARPHRD_CAN: no IP follows
	h.attachErr["can0"] = errors.New("link header not supported")
	b := newBench(t, testConfig(), h, consumertest.NewNop(), nil)
	assert.Equal(t, int64(1), b.interfaces.counts[stateFailed].Load())
	assert.NoError(t, b.interfaces.problem(), "it is no problem beside an attached interface")
	assert.False(t, b.interfaces.due(b.interfaces.byIndex[2]))
}

// loop runs the interface loop until the test ends. A tick is answered when the loop has done what one before it asked.
func (b *bench) loop() (changed chan<- struct{}, tick func()) {
	changes, ticks, done := make(chan struct{}), make(chan time.Time), make(chan struct{})
	ctx, cancel := context.WithCancel(b.t.Context())
	go func() {
		b.interfaces.run(ctx, changes, ticks)
		close(done)
	}()
	b.t.Cleanup(func() { cancel(); <-done })
	return changes, func() { ticks <- b.now; ticks <- b.now }
}

func TestAFailedListIsTriedAgain(t *testing.T) {
	h := newFakeHost("eth0")
	b := newBench(t, testConfig(), h, consumertest.NewNop(), nil)
	host := newRecordingHost()
	b.status.add(host)
	changed, tick := b.loop()
	h.do(func() { h.listErr, h.ifaces = errTest, append(h.ifaces, ethernet(2, "eth1")) })
	changed <- struct{}{}
	tick()
	h.do(func() { h.listErr = nil })
	tick()
	h.do(func() { assert.Equal(t, map[uint32]int{1: 2, 2: 2}, h.attached) })
	assert.Equal(t, []componentstatus.Status{componentstatus.StatusRecoverableError, componentstatus.StatusOK}, host.statuses())

	var lists int
	h.do(func() { lists = h.lists })
	tick()
	h.do(func() { assert.Equal(t, lists, h.lists, "nothing to do") })
}

// What is missing in a list that is not complete may be there: it stays, with its default route, until a list is complete, which is asked
// for at the next tick.
func TestAnIncompleteListLetsNothingGo(t *testing.T) {
	c := testConfig()
	c.Interfaces.Include = []string{"kind:uplink", "veth*"}
	h := newFakeHost("ppp0", "veth0")
	h.ifaces[0].DefaultRoute = true
	b := newBench(t, c, h, consumertest.NewNop(), nil)
	ppp0 := h.ifaces[0]
	ppp0.DefaultRoute = false
	h.do(func() {
		h.ifaces = []iface.Interface{ppp0, ethernet(3, "veth1")}
		h.listErr = fmt.Errorf("list: %w", iface.ErrIncomplete)
		h.lost = map[uint32]int{2: 2} // veth0 has gone, and its programs with it
	})
	b.step(time.Second)
	assert.Equal(t, map[uint32]int{1: 2, 2: 2, 3: 2}, h.attached)
	assert.NotEmpty(t, h.lost, "nobody takes that for a loss")
	assert.Len(t, b.interfaces.all, 3)
	assert.True(t, b.interfaces.lookDue())

	h.do(func() { h.listErr = nil })
	b.step(time.Second)
	assert.Equal(t, map[uint32]int{3: 2}, h.attached)
	assert.False(t, b.interfaces.lookDue())
}

// What Start had no time for is not left until something changes.
func TestPendingInterfacesAreAttachedAtOnce(t *testing.T) {
	h := newFakeHost("eth0")
	b := newBench(t, testConfig(), h, consumertest.NewNop(), nil)
	h.do(func() { h.ifaces = append(h.ifaces, ethernet(2, "eth1")) })
	require.NoError(t, b.interfaces.sync())
	b.loop()
	soon(t, func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.attached) == 2 })
}

func TestAttachStopsAtTheDeadline(t *testing.T) {
	h := newFakeHost("eth0", "eth1", "eth2")
	b := newBench(t, testConfig(), newFakeHost(), consumertest.NewNop(), nil)
	b.interfaces.host, b.interfaces.source = h, fakeSource{h}
	b.interfaces.clock = func() time.Time { b.now = b.now.Add(time.Second); return b.now }
	require.NoError(t, b.interfaces.sync())
	assert.True(t, b.interfaces.attach(t.Context(), b.now.Add(2500*time.Millisecond)))
	assert.Less(t, len(h.attached), 3)
	assert.NoError(t, b.interfaces.startErr(), "the rest attaches in the background")
}
