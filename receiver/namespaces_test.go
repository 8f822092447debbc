// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
	"github.com/ebpfpackets/ebpfpackets/internal/netns"
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

// What is emitted bears the name; where only the own namespace is to be observed, nothing does.
func TestEverythingSaysItsNamespace(t *testing.T) {
	for _, c := range []struct {
		namespaces []string
		want       map[string]int64 // packets by namespace
	}{
		{[]string{"host", "/run/netns/*"}, map[string]int64{"host": 3, "red": 40}},
		{[]string{"host"}, map[string]int64{"": 43}},
	} {
		h := newFakeHost("eth0")
		h.newSpace(10, "/run/netns/red")
		b := newBench(t, spacesConfig(c.namespaces...), h, consumertest.NewNop(), consumertest.NewNop())
		own := udp("10.0.0.1:40000", "10.0.0.2:53", flow.DirectionEgress, 3, 300, 0, 0)
		red := udp("10.0.0.1:40000", "10.0.0.2:53", flow.DirectionEgress, 30, 3000, 0, 0)
		if len(c.want) > 1 {
			red.NetNS = 1
		}
		h.count(own, red)
		h.do(func() {
			h.classes = []kernel.Class{{Reason: flow.ReasonOverflow, IfIndex: 1, NetNS: red.NetNS, Direction: flow.DirectionEgress, Volume: flow.Volume{Packets: 10, Bytes: 1000}}}
		})
		b.after(time.Second)
		packets, active := map[string]int64{}, map[string]int64{}
		for _, md := range b.points() {
			eachPoint(md, func(metric string, p pmetric.NumberDataPoint) {
				switch space := stringOf(p.Attributes(), attrNamespaceName); metric {
				case instrumentPackets.name:
					packets[space] += p.IntValue()
				case instrumentActive.name:
					active[space] += p.IntValue()
				}
			})
		}
		assert.Equal(t, c.want, packets)
		for space := range c.want {
			assert.EqualValues(t, 1, active[space], space)
		}
		b.after(time.Minute)
		told := map[string]int64{}
		records := b.logs.writer.write(b.batch()).ResourceLogs().At(0).ScopeLogs().At(0).LogRecords()
		for i := range records.Len() {
			m := records.At(i).Attributes()
			n, _ := m.Get(attrFlowIOPackets)
			told[stringOf(m, attrNamespaceName)] += n.Int()
			if space := stringOf(m, attrNamespaceName); space != "" {
				assert.Contains(t, records.At(i).Body().Str(), " "+space+" eth0: ")
			}
		}
		want := maps.Clone(c.want)
		for space := range want {
			if len(want) == 1 || space == "red" {
				want[space] -= 10 // not attributed to a flow
			}
		}
		assert.Equal(t, want, told)
	}
}

func stringOf(m pcommon.Map, name string) string {
	if v, ok := m.Get(name); ok {
		return v.Str()
	}
	return ""
}

func eachPoint(md pmetric.Metrics, f func(metric string, p pmetric.NumberDataPoint)) {
	all := md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics()
	for i := range all.Len() {
		points := all.At(i).Sum().DataPoints()
		for j := range points.Len() {
			f(all.At(i).Name(), points.At(j))
		}
	}
}

// Samples have a namespace, too, and the first words of their line say it.
func TestSamplesSayTheirNamespace(t *testing.T) {
	at := place{iface: "eth0", namespace: "red"}
	assert.Equal(t, "red eth0 Out ", string(appendHook(nil, at, flow.DirectionEgress)))
	m := pcommon.NewMap()
	putPlace(m, at, flow.DirectionEgress)
	assert.Equal(t, "red", stringOf(m, attrNamespaceName))
}

// Records of two namespaces with equal interfaces: of flows and of samples, also where the interface is not known.
func TestRecordsOfNamespacesGolden(t *testing.T) {
	v := &view{
		names:  map[flow.Place]place{{IfIndex: 1}: {"eth0", "host"}, {NetNS: 1, IfIndex: 1}: {"eth0", "red"}},
		spaces: map[uint32]string{0: "host", 1: "red"},
	}
	own := flowRecord("10.0.0.1:40000", "10.0.0.2:53", protoUDP, flow.InitiatorFirstPacket, half(1, 60, 0), half(1, 90, 0))
	red, gone := own, own
	red.Key.NetNS = 1
	gone.Key.NetNS, gone.Key.IfIndex = 1, 9
	b := &batch{observed: epoch.UnixNano() + 5e9, view: v, flows: []flow.Record{own, red, gone}}
	s := carrier(t, "a SYN with every usual option, and data")
	s.NetNS = 1
	b.addSample(&s, epoch.UnixNano()+6e8)
	w := logsWriter{resource: pcommon.NewResource(), version: "1.2.3", packets: packetWriter{oneIn: 1000}}
	compareLogs(t, "namespaces", w.write(b))
}

// A port that is given to clients in one namespace may be a server's in another.
func TestServerPortsAreThoseOfANamespace(t *testing.T) {
	h := newFakeHost("eth0")
	red := h.newSpace(10, "/run/netns/red")
	red.low = 1024
	b := newBench(t, spacesConfig("host", "/run/netns/*"), h, consumertest.NewNop(), nil)
	for _, ns := range []uint16{0, 1} {
		there := opening(tcp("10.0.0.1:40000", "10.0.0.2:8080", flow.DirectionEgress, syn|ack, 2, 200, 0, 0.1), flow.HandshakeSYN)
		back := opening(tcp("10.0.0.2:8080", "10.0.0.1:40000", flow.DirectionIngress, syn|ack|psh, 2, 200, 0.05, 0.1), flow.HandshakeSYNACK)
		there.NetNS, back.NetNS = ns, ns
		h.count(there, back)
	}
	b.after(time.Second)
	ports := map[string]bool{}
	for _, md := range b.points() {
		eachPoint(md, func(_ string, p pmetric.NumberDataPoint) {
			if _, ok := p.Attributes().Get(attrServerPort); ok {
				ports[stringOf(p.Attributes(), attrNamespaceName)] = true
			}
		})
	}
	assert.Equal(t, map[string]bool{"host": true}, ports)

	h.do(func() { red.low = 2048 })
	for _, s := range b.namespaces.sorted() {
		require.NoError(t, s.interfaces.sync())
	}
	assert.EqualValues(t, 2048, b.places.now().low[1], "it was changed since")
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

func TestDriftIsOfEachNamespace(t *testing.T) {
	h := newFakeHost("eth0")
	red := h.newSpace(10, "/run/netns/red")
	b, tel := measuredOn(t, h, spacesConfig("host", "/run/netns/*"), consumertest.NewNop(), nil)
	h.do(func() {
		h.own = map[uint32]iface.Counters{1: {Transmitted: 1}}
		red.own = map[uint32]iface.Counters{1: {Transmitted: 1}}
	})
	b.after(time.Second)
	s := udp("10.0.0.1:40000", "10.0.0.2:53", flow.DirectionEgress, 7, 700, 0, 0)
	s.NetNS = 1
	h.count(s)
	b.after(driftInterval)
	b.after(driftInterval)
	drifts := valuesOf(t, tel, "otelcol_ebpfpackets_receiver_interface_drift", attrNamespaceName, attrInterfaceName, attrIODirection)
	assert.Equal(t, map[string]int64{"host eth0 receive": 0, "host eth0 transmit": 0, "red eth0 receive": 0, "red eth0 transmit": 7}, drifts)
}

// A namespace that does not answer has no drift until it does, and then what it had, and what is gone has none.
func TestDriftOutlastsSilence(t *testing.T) {
	h := newFakeHost("eth0")
	red := h.newSpace(10, "/run/netns/red")
	b, tel := measuredOn(t, h, spacesConfig("/run/netns/*"), consumertest.NewNop(), nil)
	sent := func(packets uint64) {
		s := udp("10.0.0.1:40000", "10.0.0.2:53", flow.DirectionEgress, packets, 700, 0, 0)
		s.NetNS = 1
		h.count(s)
	}
	drift := func() map[string]int64 {
		if _, err := tel.GetMetric("otelcol_ebpfpackets_receiver_interface_drift"); err != nil {
			return map[string]int64{}
		}
		return valuesOf(t, tel, "otelcol_ebpfpackets_receiver_interface_drift", attrIODirection)
	}
	red.own = map[uint32]iface.Counters{1: {}}
	b.after(driftInterval)
	sent(7)
	b.after(driftInterval)
	assert.Equal(t, map[string]int64{"receive": 0, "transmit": 7}, drift())
	sent(2)
	h.do(func() { red.own, red.ownErr = nil, errTest })
	b.after(driftInterval)
	assert.Empty(t, drift())
	h.do(func() { red.own, red.ownErr = map[uint32]iface.Counters{1: {}}, nil })
	b.after(driftInterval)
	assert.Equal(t, map[string]int64{"receive": 0, "transmit": 9}, drift())
	h.do(func() { delete(h.spaces, "/run/netns/red") })
	b.look()
	b.after(driftInterval)
	assert.Empty(t, drift())
}

// Namespaces that take long to answer are asked one before each drain, and none before a drain that is pressing.
func TestAskingForDriftIsBounded(t *testing.T) {
	h := newFakeHost("eth0")
	b, tel := measuredOn(t, h, spacesConfig("/run/netns/*"), consumertest.NewNop(), nil)
	for n, name := range []string{"red", "blue"} {
		s := h.newSpace(uint64(10+n), "/run/netns/"+name)
		s.own, s.slow = map[uint32]iface.Counters{1: {}}, askTime
	}
	b.look()
	told := func() (names []string) {
		for name := range valuesOf(t, tel, "otelcol_ebpfpackets_receiver_interface_drift", attrNamespaceName) {
			names = append(names, name)
		}
		return names
	}
	b.now = b.now.Add(driftInterval)
	require.True(t, b.drainOnce())
	_, err := tel.GetMetric("otelcol_ebpfpackets_receiver_interface_drift")
	require.Error(t, err, "nobody was asked")
	b.after(0)
	assert.Len(t, told(), 1)
	b.after(0)
	assert.Len(t, told(), 2, "the first is told still")
}

func TestTwoReceiversInTwoNamespacesAreQuiet(t *testing.T) {
	o := &observers{}
	red, id := netns.ID{Device: 4, Inode: 10}, component.MustNewID("ebpfpackets")
	assert.Empty(t, o.add(observed{index: 2}, id))
	assert.Empty(t, o.add(observed{red, 2}, id), "another namespace's")
	assert.NotEmpty(t, o.add(observed{red, 2}, id))
	o.remove(observed{red, 2}, id)
	o.remove(observed{red, 2}, id)
	assert.Len(t, o.at, 1)
}

// Two receivers of one process that observe one namespace tell its packets twice, and say so; of two namespaces they do not.
func TestReceiversWarnOfEachOtherInOneNamespace(t *testing.T) {
	h := newFakeHost()
	h.newSpace(10, "/run/netns/red")
	h.newSpace(11, "/run/netns/blue")
	f := newFactory(h)
	for _, c := range []struct {
		name, namespaces string
		warnings         int
	}{{"one", "/run/netns/red", 0}, {"two", "/run/netns/blue", 0}, {"three", "/run/netns/r*", 1}} {
		h.do(func() { // fakes know one observer
			for _, s := range h.spaces {
				s.number = 0
			}
		})
		core, logged := observer.New(zap.WarnLevel)
		set := nopSettings()
		set.ID = component.NewIDWithName(component.MustNewType("ebpfpackets"), c.name)
		set.Logger = zap.New(core)
		r, err := f.CreateMetrics(t.Context(), set, spacesConfig(c.namespaces), consumertest.NewNop())
		require.NoError(t, err)
		require.NoError(t, r.Start(t.Context(), componenttest.NewNopHost()))
		defer func() { require.NoError(t, r.Shutdown(t.Context())) }()
		assert.Equal(t, c.warnings, logged.Len(), c.name)
	}
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
