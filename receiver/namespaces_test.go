// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
)

func spacesConfig(namespaces ...string) *Config {
	c := testConfig()
	c.Namespaces = namespaces
	return c
}

// look does what the loops do when it is time to: namespaces, then the interfaces of those that are new.
func (b *bench) look() {
	for _, s := range b.namespaces.look() {
		require.NoError(b.t, s.interfaces.sync())
		s.interfaces.attach(b.t.Context(), time.Time{})
	}
	b.status.set("namespaces", b.namespaces.problem())
}

// named returns the numbers of the observed namespaces by name.
func (b *bench) named() map[string]uint16 {
	all := map[string]uint16{}
	for _, s := range b.namespaces.all {
		all[s.name] = s.number
	}
	return all
}

func TestNamespacesComeAndGo(t *testing.T) {
	h := newFakeHost("eth0")
	red := h.newSpace(10, "/run/netns/red")
	b := newBench(t, spacesConfig("host", "/run/netns/*"), h, consumertest.NewNop(), nil)
	assert.Equal(t, map[string]uint16{"host": 0, "red": 1}, b.named())
	assert.Equal(t, map[uint32]int{1: 2}, h.attached)
	assert.Equal(t, map[uint32]int{1: 2}, red.attached, "an equal index of its own")
	assert.Equal(t, map[flow.Place]place{{IfIndex: 1}: {"eth0", "host"}, {NetNS: 1, IfIndex: 1}: {"eth0", "red"}}, b.places.now().names)

	blue := h.newSpace(11, "/run/netns/blue")
	b.look()
	assert.Equal(t, map[string]uint16{"host": 0, "red": 1, "blue": 2}, b.named())
	assert.Equal(t, map[uint32]int{1: 2}, blue.attached)

	h.do(func() { delete(h.spaces, "/run/netns/red") })
	again := h.newSpace(12, "/run/netns/blue") // another one at the same path
	b.look()
	assert.Equal(t, map[string]uint16{"host": 0, "blue": 3}, b.named())
	red.free(t)
	blue.free(t)
	assert.Equal(t, map[uint32]int{1: 2}, again.attached)
	assert.Equal(t, map[flow.Place]bool{{IfIndex: 1}: true, {NetNS: 3, IfIndex: 1}: true}, b.places.now().attached)
	assert.EqualValues(t, 2, b.places.attached())
	assert.Equal(t, place{"eth0", "red"}, b.places.now().of(flow.Place{NetNS: 1, IfIndex: 1}), "its flows are still to be told")

	b.now = b.now.Add(b.namespaces.keep + time.Second)
	b.look()
	assert.Equal(t, place{}, b.places.now().of(flow.Place{NetNS: 1, IfIndex: 1}))
	require.NoError(t, b.release())
	again.free(t)
}

func TestANamespaceWithSeveralPathsIsObservedOnce(t *testing.T) {
	h := newFakeHost("eth0")
	red := h.newSpace(10, "/proc/70/ns/net", "/proc/71/ns/net", "/run/netns/red")
	h.newSpace(fakeOwn.Inode, "/proc/1/ns/net")
	b := newBench(t, spacesConfig("/run/netns/*", "/proc/*/ns/net"), h, consumertest.NewNop(), nil)
	assert.Equal(t, map[string]uint16{"host": 0, "red": 1}, b.named(), "that of the receiver is known by its name")
	assert.Equal(t, 1, red.held)
	assert.Equal(t, map[uint32]int{1: 2}, h.attached)

	h.do(func() { delete(h.spaces, "/run/netns/red"); delete(h.spaces, "/proc/70/ns/net") })
	b.look()
	assert.Equal(t, map[string]uint16{"host": 0, "red": 1}, b.named(), "a process is left in it")
	h.do(func() { delete(h.spaces, "/proc/71/ns/net"); delete(h.spaces, "/proc/1/ns/net") })
	b.look()
	assert.Empty(t, b.named(), "that of the receiver is not chosen but by the glob")
	assert.Empty(t, h.attached)
	h.newSpace(fakeOwn.Inode, "/proc/1/ns/net")
	b.look()
	assert.Equal(t, map[uint32]int{1: 2}, h.attached, "it is back")
	b.now = b.now.Add(b.namespaces.keep + time.Second)
	b.look()
	assert.Equal(t, place{"eth0", "host"}, b.places.now().of(flow.Place{IfIndex: 1}))
}

func TestNamesOfNamespacesAreToldApart(t *testing.T) {
	h := newFakeHost()
	h.newSpace(10, "/run/netns/red")
	h.newSpace(11, "/run/docker/netns/red")
	h.newSpace(12, "/proc/70/ns/net")
	h.newSpace(13, "/run/netns/host")
	b := newBench(t, spacesConfig("/run/netns/*", "/run/docker/netns/*", "/proc/*/ns/net"), h, consumertest.NewNop(), nil)
	assert.Equal(t, map[string]uint16{"/run/netns/host": 1, "red": 2, "/run/docker/netns/red": 3, "pid:70": 4}, b.named())
}

// What is observed at another path by now keeps its names, also that which was the path of several.
func TestNamesOfOnePathAreToldApart(t *testing.T) {
	h := newFakeHost()
	b := newBench(t, spacesConfig("/run/netns/*", "/proc/*/ns/net"), h, consumertest.NewNop(), nil)
	for n := range 3 { // a process goes on to another namespace, and leaves a mount of the one before
		h.newSpace(uint64(10+n), "/proc/70/ns/net")
		b.look()
		h.newSpace(uint64(10+n), fmt.Sprintf("/run/netns/n%d", n))
	}
	assert.Equal(t, map[string]uint16{"pid:70": 1, "/proc/70/ns/net": 2, "/proc/70/ns/net#12": 3}, b.named())
}

// What cannot be looked at does not end what is observed: that is only what is positively gone.
func TestFindingPartlyKeepsWhatIsThere(t *testing.T) {
	h := newFakeHost("eth0")
	h.newSpace(fakeOwn.Inode, "/proc/1/ns/net")
	for n, name := range []string{"red", "green", "blue"} {
		h.newSpace(uint64(10+n), "/run/netns/"+name)
	}
	b := newBench(t, spacesConfig("/run/netns/*", "/proc/*/ns/net"), h, consumertest.NewNop(), nil)
	require.Len(t, b.named(), 4)
	h.do(func() {
		h.blind, h.findErr = true, errTest
		delete(h.spaces, "/run/netns/red")
	})
	h.newSpace(13, "/run/netns/green") // another one at the same path
	b.look()
	assert.Equal(t, map[string]uint16{"host": 0, "blue": 1}, b.named())
	assert.Equal(t, map[uint32]int{1: 2}, h.attached)
	h.do(func() { h.findErr = nil })
	b.look()
	assert.Empty(t, b.named(), "all could be looked at")
}

// Numbers go round before one is given again, and none is while flows may be told of it.
func TestNumbersGoRound(t *testing.T) {
	h := newFakeHost("eth0")
	b := newBench(t, spacesConfig("host", "/run/netns/*"), h, consumertest.NewNop(), nil)
	replace := func(n int) uint16 {
		h.newSpace(uint64(10+n), "/run/netns/red")
		b.namespaces.look()
		return b.named()["red"]
	}
	assert.EqualValues(t, 1, replace(0))
	assert.EqualValues(t, 2, replace(1))
	b.namespaces.last = kernel.MaxNamespace - 1
	assert.EqualValues(t, kernel.MaxNamespace, replace(2))
	assert.EqualValues(t, 3, replace(3), "1 and 2 are not forgotten yet, and 0 is the receiver's own")
	b.now = b.now.Add(b.namespaces.keep + time.Second)
	b.look()
	b.namespaces.last = kernel.MaxNamespace
	assert.EqualValues(t, 1, replace(4))

	for number := uint16(1); number <= kernel.MaxNamespace; number++ { // all were in use a moment ago
		b.namespaces.former[number] = b.now.Add(time.Duration(number) * -time.Millisecond)
	}
	delete(b.namespaces.former, 1)
	assert.EqualValues(t, kernel.MaxNamespace, replace(5), "the one that is gone for longest")
}

// The loops of a namespace end with it, and all of them at Shutdown.
func TestLoopsOfNamespaces(t *testing.T) {
	h := newFakeHost("eth0")
	red := h.newSpace(10, "/run/netns/red")
	p := create(t, h, spacesConfig("host", "/run/netns/*"), nopSettings(), consumertest.NewNop(), consumertest.NewNop())
	require.NoError(t, p.metrics.Start(t.Context(), componenttest.NewNopHost()))
	soon(t, func() bool { h.mu.Lock(); defer h.mu.Unlock(); return red.watching == 1 })
	blue := h.newSpace(11, "/run/netns/blue")
	began := time.Now()
	soon(t, func() bool { h.mu.Lock(); defer h.mu.Unlock(); return blue.attached[1] == 2 && blue.watching == 1 })
	assert.Less(t, time.Since(began), time.Second)
	h.do(func() { delete(h.spaces, "/run/netns/red") })
	soon(t, func() bool { h.mu.Lock(); defer h.mu.Unlock(); return red.held == 0 })
	red.free(t)
	require.NoError(t, p.metrics.Shutdown(t.Context()))
	blue.free(t)
}
