// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ebpfpackets/ebpfpackets/internal/netns"
)

func TestTooManyNamespacesAreSaid(t *testing.T) {
	h := newFakeHost("eth0")
	for n := range maxNamespaces + 3 {
		h.newSpace(uint64(10+n), fmt.Sprintf("/run/netns/n%03d", n))
	}
	core, logged := observer.New(zap.WarnLevel)
	b, tel := measuredOn(t, h, spacesConfig("host", "/run/netns/*"), consumertest.NewNop(), nil)
	b.namespaces.base.log, b.namespaces.warned = zap.New(core), false
	host := newRecordingHost()
	b.status.add(host)
	b.look()
	b.look()
	states := valuesOf(t, tel, "otelcol_ebpfpackets_receiver_namespaces", "state")
	assert.Equal(t, map[string]int64{"observed": maxNamespaces + 1, "failed": 0, "excess": 3, "refused": 0}, states)
	require.Equal(t, 1, logged.Len(), "once")
	assert.Equal(t, "More network namespaces match than can be observed; packets in the rest are not counted", logged.All()[0].Message)
	require.Len(t, host.events, 1)
	assert.EqualError(t, host.events[0].Err(), "namespaces matches more than 256 network namespaces; the rest is not observed")

	h.do(func() {
		for n := range 3 {
			delete(h.spaces, fmt.Sprintf("/run/netns/n%03d", n))
		}
	})
	b.look()
	assert.Equal(t, componentstatus.StatusOK, host.events[1].Status())
	assert.Contains(t, b.named(), fmt.Sprintf("n%03d", maxNamespaces+2), "there is room now")
}

func TestAFailingNamespaceIsTriedAgain(t *testing.T) {
	h := newFakeHost("eth0")
	red := h.newSpace(10, "/run/netns/red")
	red.holdErr = errors.New("open network namespace: not permitted")
	b, tel := measuredOn(t, h, spacesConfig("host", "/run/netns/*"), consumertest.NewNop(), nil)
	host := newRecordingHost()
	b.status.add(host)
	b.look()
	require.Len(t, host.events, 1)
	assert.EqualError(t, host.events[0].Err(), "open network namespace: not permitted")
	assert.Equal(t, map[string]int64{"observed": 1, "failed": 1, "excess": 0, "refused": 0}, valuesOf(t, tel, "otelcol_ebpfpackets_receiver_namespaces", "state"))
	h.do(func() { red.holdErr = nil })
	b.look()
	assert.NotContains(t, b.named(), "red", "not yet")
	b.now = b.now.Add(retryFirst)
	b.look()
	assert.Contains(t, b.named(), "red")
	assert.Equal(t, componentstatus.StatusOK, host.events[1].Status())
}

// Start fails if nothing can be observed, and says why.
func TestStartFailsIfEveryNamespaceDoes(t *testing.T) {
	h := newFakeHost("eth0")
	h.newSpace(10, "/run/netns/red").holdErr = errors.New("enter: not permitted")
	p := create(t, h, spacesConfig("/run/netns/*"), nopSettings(), consumertest.NewNop(), consumertest.NewNop())
	require.EqualError(t, p.metrics.Start(t.Context(), componenttest.NewNopHost()), "enter: not permitted")
	require.NoError(t, p.metrics.Shutdown(t.Context()))
	assert.True(t, h.loaded[0].enter)
}

// One namespace that cannot be listed is no reason not to start, all of them are.
func TestStartGoesOnWithoutOneNamespace(t *testing.T) {
	h := newFakeHost("eth0")
	red := h.newSpace(10, "/run/netns/red")
	red.listErr = errTest
	b := newBench(t, spacesConfig("host", "/run/netns/*"), h, consumertest.NewNop(), nil)
	host := newRecordingHost()
	b.status.add(host)
	assert.Equal(t, map[uint32]int{1: 2}, h.attached)
	require.Len(t, host.events, 1)
	assert.EqualError(t, host.events[0].Err(), `network namespace "red": list interfaces: `+errTest.Error())

	red.number = 0 // fakes know one observer
	p := create(t, h, spacesConfig("/run/netns/*"), nopSettings(), consumertest.NewNop(), consumertest.NewNop())
	require.EqualError(t, p.metrics.Start(t.Context(), componenttest.NewNopHost()), host.events[0].Err().Error())
	require.NoError(t, p.metrics.Shutdown(t.Context()))
}

func TestNothingToObserveIsAProblem(t *testing.T) {
	h := newFakeHost("eth0")
	c := spacesConfig("/run/netns/*")
	c.Interfaces.Include = []string{"wlan*"}
	b := newBench(t, c, h, consumertest.NewNop(), nil)
	require.NoError(t, b.namespaces.problem())
	b.now = b.now.Add(missingTimeout)
	require.EqualError(t, b.namespaces.problem(), "no network namespace matches namespaces [/run/netns/*]")
	h.newSpace(10, "/run/netns/red")
	b.look()
	require.EqualError(t, b.namespaces.problem(), "no interface matches interfaces.include [wlan*] in any observed network namespace")
}

func TestFindingPartlyIsAProblemAndNoEnd(t *testing.T) {
	h := newFakeHost("eth0")
	h.newSpace(10, "/run/netns/red")
	h.findErr = errTest
	b := newBench(t, spacesConfig("/run/netns/*"), h, consumertest.NewNop(), nil)
	assert.Contains(t, b.named(), "red")
	require.ErrorIs(t, b.namespaces.problem(), errTest)
}

// What cannot be looked at is said once for each cause, however many paths there are and whichever is the first.
func TestRefusedPathsAreSaid(t *testing.T) {
	h := newFakeHost("eth0")
	b, tel := measuredOn(t, h, spacesConfig("host", "/proc/*/ns/net"), consumertest.NewNop(), nil)
	core, logged := observer.New(zap.WarnLevel)
	b.namespaces.base.log = zap.New(core)
	host := newRecordingHost()
	b.status.add(host)
	for _, s := range []struct {
		paths  int
		first  string
		errno  syscall.Errno
		events int
	}{{2, "/proc/70/ns/net", syscall.EACCES, 1}, {3, "/proc/69/ns/net", syscall.EACCES, 1}, {1, "/proc", syscall.EMFILE, 2}, {0, "", 0, 3}} {
		h.do(func() {
			h.findErr = nil
			if s.paths > 0 {
				h.findErr = &netns.RefusedError{Paths: s.paths, First: &fs.PathError{Op: "stat", Path: s.first, Err: s.errno}}
			}
		})
		b.look()
		assert.Len(t, host.events, s.events)
		assert.EqualValues(t, s.paths, valuesOf(t, tel, "otelcol_ebpfpackets_receiver_namespaces", "state")["refused"])
	}
	assert.EqualError(t, host.events[0].Err(), "look for network namespaces: stat /proc/70/ns/net: permission denied (of other users' processes this takes CAP_SYS_PTRACE)")
	assert.Equal(t, componentstatus.StatusOK, host.events[2].Status())
	assert.Equal(t, 2, logged.Len())
}
