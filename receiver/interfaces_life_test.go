// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"

	"github.com/ebpfpackets/ebpfpackets/internal/iface"
)

// countedBy returns a monotonic sum of own telemetry that has one point, 0 if there is none.
func countedBy(t *testing.T, tel *componenttest.Telemetry, name string) (n int64) {
	t.Helper()
	if _, err := tel.GetMetric("otelcol_ebpfpackets_receiver_" + name); err != nil {
		return 0
	}
	for _, v := range valuesOf(t, tel, "otelcol_ebpfpackets_receiver_"+name) {
		n += v
	}
	return n
}

func TestRenamesAreChosenAnew(t *testing.T) {
	c := testConfig()
	c.Interfaces.Include, c.Interfaces.Exclude = []string{"eth*"}, []string{"eth9"}
	b := newBench(t, c, newFakeHost("eth0"), consumertest.NewNop(), nil)
	for _, s := range []struct {
		name     string
		attached bool
	}{{"eth1", true}, {"lan0", false}, {"lan1", false}, {"eth2", true}, {"eth9", false}, {"eth0", true}} {
		b.host.do(func() { b.host.ifaces = []iface.Interface{ethernet(1, s.name)} })
		b.step(time.Second)
		want := map[uint32]int{}
		if s.attached {
			want[1] = 2
			assert.Equal(t, s.name, b.interfaces.names()[1])
		}
		assert.Equal(t, want, b.host.attached, s.name)
	}
}

// Who waits for its turn to attach gives up at once when it is to end, which is no failure; half of an interface is not kept.
func TestWaitingToAttachEnds(t *testing.T) {
	b, tel := measured(t, testConfig(), consumertest.NewNop(), nil)
	b.host.do(func() { b.host.ifaces = []iface.Interface{ethernet(2, "eth0")} })
	require.NoError(t, b.interfaces.sync())
	ctx, cancel := context.WithCancel(t.Context())
	b.host.onAttach = cancel // one direction is attached by then
	b.interfaces.attach(ctx, time.Time{})
	assert.Empty(t, b.host.attached)
	assert.EqualValues(t, 1, b.interfaces.counts[statePending].Load())
	assert.Zero(t, countedBy(t, tel, "attach_errors"))

	b.interfaces.turn <- struct{}{} // another namespace's
	b.interfaces.attachOne(ctx, b.interfaces.byIndex[2])
	assert.Equal(t, statePending, b.interfaces.byIndex[2].state)
	<-b.interfaces.turn
	b.interfaces.attach(t.Context(), time.Time{})
	assert.Equal(t, map[uint32]int{2: 2}, b.host.attached)
}

func TestTheSameNameAgainIsANewInterface(t *testing.T) {
	b := newBench(t, testConfig(), newFakeHost("eth0"), consumertest.NewNop(), nil)
	b.host.do(func() { b.host.ifaces = []iface.Interface{ethernet(2, "eth0")} })
	b.step(time.Second)
	assert.Equal(t, map[uint32]int{2: 2}, b.host.attached)
	assert.Equal(t, map[uint32]string{1: "eth0", 2: "eth0"}, b.interfaces.names(), "the flows of both are to be told")
	assert.EqualValues(t, 1, b.interfaces.counts[stateAttached].Load())
}

// An interface that goes down and comes up stays attached: the programs do.
func TestDownIsNotGone(t *testing.T) {
	b := newBench(t, testConfig(), newFakeHost("eth0"), consumertest.NewNop(), nil)
	b.host.do(func() { b.host.ifaces[0].Up = false })
	b.step(time.Second)
	assert.Equal(t, map[uint32]int{1: 2}, b.host.attached)
}

func TestFailuresAreRetriedLessAndLessOften(t *testing.T) {
	b, tel := measured(t, testConfig(), consumertest.NewNop(), nil)
	h := b.host
	h.do(func() {
		h.ifaces = append(h.ifaces, ethernet(2, "eth1"))
		h.attachErr["eth1"] = errTest
	})
	began := b.now
	for range 200 {
		b.step(time.Second)
	}
	var seconds []int
	for _, at := range h.refused {
		seconds = append(seconds, int(at.Sub(began)/time.Second)-1)
	}
	assert.Equal(t, []int{0, 1, 3, 7, 15, 31, 63, 123, 183}, seconds)
	assert.EqualValues(t, len(seconds), countedBy(t, tel, "attach_errors"))
	assert.Equal(t, retryLongest, retryDelay(1000))
}

func TestAnInterfaceThatWentMeanwhileIsNoFailure(t *testing.T) {
	b, tel := measured(t, testConfig(), consumertest.NewNop(), nil)
	h := b.host
	host := newRecordingHost()
	b.status.add(host)
	h.do(func() {
		h.ifaces = append(h.ifaces, ethernet(2, "veth1"))
		h.attachErr["veth1"] = fmt.Errorf("attach: %w", syscall.ENODEV)
	})
	b.step(time.Second)
	h.do(func() { h.ifaces = h.ifaces[:1] })
	b.step(time.Second)
	assert.Empty(t, host.events)
	assert.Zero(t, countedBy(t, tel, "attach_errors"))

	h.do(func() { h.ifaces = append(h.ifaces, ethernet(3, "veth1")) })
	b.step(time.Second)
	assert.True(t, b.interfaces.lookDue(), "it is tried again at once")
	b.step(time.Second)
	assert.Equal(t, []componentstatus.Status{componentstatus.StatusRecoverableError}, host.statuses(), "it is still there")
	assert.EqualValues(t, 1, countedBy(t, tel, "attach_errors"))
}

// What somebody else detached is found without being told of, counted, and attached again, without a warning about two receivers.
func TestLostProgramsAreAttachedAgain(t *testing.T) {
	b, tel := measured(t, testConfig(), consumertest.NewNop(), nil)
	logged := b.observe()
	b.interfaces.log = b.engine.log
	var now atomic.Int64
	b.interfaces.clock = func() time.Time { return epoch.Add(time.Duration(now.Load())) }
	_, tick := b.loop()
	b.host.do(func() { b.host.lost = map[uint32]int{1: 2} })
	now.Store(int64(lookInterval - time.Second))
	tick()
	b.host.do(func() { assert.NotEmpty(t, b.host.lost, "it is not looked so often") })
	now.Store(int64(lookInterval))
	tick()
	b.host.do(func() {
		assert.Empty(t, b.host.lost)
		assert.Equal(t, map[uint32]int{1: 2}, b.host.attached)
	})
	assert.EqualValues(t, 2, countedBy(t, tel, "attachments_lost"))
	assert.Equal(t, []string{
		"warn: Programs at an interface were gone and are attached again: the interface was made anew, or somebody else detached them, and then packets are missing",
		"info: Counting at interface",
	}, logged())
}

// Programs that read another link header than the one that packets have now are replaced. Those of one that is not known go.
func TestAnotherLinkHeaderGetsOtherPrograms(t *testing.T) {
	const ethernet, can, rawIP, none = 1, 280, 519, 0xFFFE // ARPHRD_* of linux/if_arp.h
	h := newFakeHost("wwan0")
	b := newBench(t, testConfig(), h, consumertest.NewNop(), nil)
	first := b.interfaces.now().attachings[1]
	for _, hwType := range []uint16{ethernet, none, rawIP, can, ethernet} {
		h.do(func() {
			h.ifaces[0].HWType = hwType
			h.attachErr["wwan0"] = map[uint16]error{can: errTest}[hwType]
		})
		b.step(time.Second)
		want := map[uint32]int{1: 2}
		if hwType == can {
			want = map[uint32]int{}
		}
		assert.Equal(t, want, h.attached, "hardware type %d", hwType)
	}
	assert.Equal(t, []uint16{ethernet, ethernet, none, none, ethernet, ethernet}, h.hwTypes, "raw IP has no link header, as before")
	assert.Equal(t, first+3, b.interfaces.now().attachings[1], "what is known of who spoke first begins anew")
}

func TestTheStatusSaysThatNothingIsAttachedThoughNothingChanges(t *testing.T) {
	b := newBench(t, testConfig(), newFakeHost(), consumertest.NewNop(), nil)
	host := newRecordingHost()
	b.status.add(host)
	var now atomic.Int64
	b.interfaces.clock = func() time.Time { return epoch.Add(time.Duration(now.Load())) }
	_, tick := b.loop()
	tick()
	assert.Empty(t, host.statuses())
	now.Store(int64(missingTimeout))
	tick()
	assert.Equal(t, []componentstatus.Status{componentstatus.StatusRecoverableError}, host.statuses())
}

// A burst takes longer than interfaces live: while it is attached the host is asked again and again.
func TestALongBurstIsAttachedInSlices(t *testing.T) {
	h := newFakeHost()
	b := newBench(t, testConfig(), h, consumertest.NewNop(), nil)
	for n := range 30 {
		h.ifaces = append(h.ifaces, ethernet(uint32(n+1), fmt.Sprint("veth", n)))
	}
	var now atomic.Int64
	b.interfaces.clock = func() time.Time { return epoch.Add(time.Duration(now.Add(int64(attachSlice / 10)))) }
	require.NoError(t, b.interfaces.sync())
	h.do(func() {
		for _, i := range h.ifaces[25:] { // they go before their turn
			h.attachErr[i.Name] = errTest
		}
		h.ifaces = h.ifaces[:25]
	})
	before := h.lists
	b.loop()
	soon(t, func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.attached) == 25 })
	soon(t, func() bool { return b.interfaces.counts[statePending].Load() == 0 })
	h.do(func() {
		assert.GreaterOrEqual(t, h.lists, before+2)
		assert.Empty(t, h.refused, "nobody tries what has gone")
	})
}

// A watch that ends is begun again, later each time it fails at once, and says that something may have changed.
func TestALostWatchIsBegunAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, tel := measured(t, testConfig(), consumertest.NewNop(), nil)
		h := b.host
		logged := b.observe()
		b.interfaces.log = b.engine.log
		host := newRecordingHost()
		b.status.add(host)
		h.watchErr, h.deaf = errTest, make(chan error)
		ctx, cancel := context.WithCancel(t.Context())
		changes := 0
		go b.interfaces.watch(ctx, func() { changes++ })
		time.Sleep(retryFirst*(1+2+4+8) + retryFirst/2)
		synctest.Wait()
		assert.Equal(t, 5, h.watches)
		assert.Zero(t, changes)
		require.Len(t, host.events, 1)
		assert.EqualError(t, host.events[0].Err(), "watch interfaces, new ones are found only every 30s: "+errTest.Error())

		h.do(func() { h.watchErr = nil })
		time.Sleep(retryLongest)
		synctest.Wait()
		assert.Equal(t, 1, changes)
		assert.Equal(t, []componentstatus.Status{componentstatus.StatusRecoverableError, componentstatus.StatusOK}, host.statuses())

		h.deaf <- errTest
		time.Sleep(retryFirst)
		synctest.Wait()
		assert.Equal(t, 2, changes, "what happened meanwhile is looked for")
		assert.EqualValues(t, 6, countedBy(t, tel, "watch_errors"))
		const warning = "warn: Watching interfaces failed; it is tried again, and they are looked at every 30s"
		assert.Equal(t, []string{warning, warning}, logged(), "once for each time")
		cancel()
		synctest.Wait()
	})
}
