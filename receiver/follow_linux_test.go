// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package receiver

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// follower is a receiver in a namespace in which interfaces come and go.
type follower struct {
	*engine
	t    *testing.T
	ns   *testenv.NetNS
	sink *consumertest.MetricsSink
}

func follow(t *testing.T, ns *testenv.NetNS, include ...string) *follower {
	t.Helper()
	return followBy(t, linux{}, ns, include...)
}

// followBy follows in one of the ways of attaching.
func followBy(t *testing.T, host linux, ns *testenv.NetNS, include ...string) *follower {
	t.Helper()
	cfg := testConfig()
	cfg.Interfaces.Include = include
	cfg.AggregationTemporality = temporalityDelta
	f := &follower{newEngine(cfg, nopSettings(), elsewhere{host, ns}), t, ns, new(consumertest.MetricsSink)}
	f.nextMetrics = f.sink
	require.NoError(t, f.start(t.Context()))
	return f
}

// attachedAs is the name under which the interface with this index is counted, "" if it is not.
func (f *follower) attachedAs(index int) string {
	now, at := f.places.now(), flow.Place{IfIndex: uint32(index)}
	if !now.attached[at] {
		return ""
	}
	return now.names[at].iface
}

func (f *follower) await(index int, name string) {
	f.t.Helper()
	require.Eventually(f.t, func() bool { return f.attachedAs(index) == name }, 10*time.Second, 5*time.Millisecond, "%d is not %q", index, name)
}

// send sends n packets that nobody answers.
func (f *follower) send(e *testenv.End, n int) {
	f.t.Helper()
	s := e.NewSender()
	defer s.Close()
	s.Datagrams(&testenv.Datagrams{Flows: 1, Payloads: []int{100}, Src: e.MAC, Dst: testenv.Nobody}, 0, n)
}

// totals returns the sums of a metric by "interface direction".
func (f *follower) totals(metric string) map[string]int64 {
	sums := map[string]int64{}
	for _, m := range f.sink.AllMetrics() {
		points := m.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics()
		for i := range points.Len() {
			if points.At(i).Name() != metric {
				continue
			}
			for _, p := range points.At(i).Sum().DataPoints().All() {
				name, _ := p.Attributes().Get(attrInterfaceName)
				direction, _ := p.Attributes().Get(attrIODirection)
				sums[name.AsString()+" "+direction.AsString()] += p.IntValue()
			}
		}
	}
	return sums
}

// attachedNames returns the names of the interfaces that are counted at.
func (f *follower) attachedNames() []string {
	now := f.places.now()
	var names []string
	for at, yes := range now.attached {
		if yes {
			names = append(names, now.names[at].iface)
		}
	}
	return names
}

// firstSeen returns when each of so many interfaces was first seen to be counted at, and gives up after patience without a new one.
func (f *follower) firstSeen(count int, patience time.Duration) map[string]time.Time {
	seen := map[string]time.Time{}
	for last := time.Now(); len(seen) < count && time.Since(last) < patience; time.Sleep(time.Millisecond) {
		for _, name := range f.attachedNames() {
			if _, ok := seen[name]; !ok {
				last = time.Now()
				seen[name] = last
			}
		}
	}
	return seen
}

const (
	steady = 60               // interfaces, added one after the other
	pace   = time.Second / 20 // of adding
)

// followsSteadily adds veths a0 b0, a1 b1 and so on, twenty in a second, and waits for none of them. Each a must be attached within one
// second of when its turn was, beside so many interfaces that are attached already. It returns how many were added.
//
// Everybody on this machine who attaches holds the same lock. So it may last as long as plain attaching to as many takes at that time, if
// that is more; and three attempts are made.
func (f *follower) followsSteadily(beside int) (count int) {
	f.t.Helper()
	for count < 3*steady {
		longest := f.addSteadily(count, beside+count)
		count += steady
		if longest < time.Second {
			return count
		}
		plain := f.attachPlainly(count-steady, count)
		f.t.Logf("that is more than a second; plain attaching to the %d other ends takes %v", steady, plain)
		if longest < plain {
			return count
		}
	}
	require.Fail(f.t, "new interfaces are not attached as fast as they come")
	return count
}

// attachPlainly returns how long attaching takes, one after the other, to the other ends of those with these numbers.
func (f *follower) attachPlainly(from, to int) (took time.Duration) {
	f.t.Helper()
	s, err := linux{}.load(sourceConfig{packets: PacketsConfig{SnapLength: 64}}, nil)
	require.NoError(f.t, err)
	defer func() { require.NoError(f.t, s.Close()) }()
	all, err := elsewhere{ns: f.ns}.interfaces()
	require.NoError(f.t, err)
	byName := map[string]iface.Interface{}
	for _, i := range all {
		byName[i.Name] = i
	}
	f.ns.Do(func() {
		began := time.Now()
		for n := from; n < to; n++ {
			i := byName[fmt.Sprint("b", n)]
			require.NoError(f.t, s.Attach(i, flow.DirectionIngress))
			require.NoError(f.t, s.Attach(i, flow.DirectionEgress))
		}
		took = time.Since(began)
	})
	return took
}

// addSteadily adds veths from a number on, and returns how long after its turn one of them was attached at most.
func (f *follower) addSteadily(first, beside int) (longest time.Duration) {
	f.t.Helper()
	seen := make(chan map[string]time.Time)
	go func() { seen <- f.firstSeen(beside+steady, 10*time.Second) }()
	began := time.Now().Add(pace)
	var late time.Duration
	turn := func(n int) time.Time { return began.Add(time.Duration(n) * pace) }
	for n := range steady {
		time.Sleep(time.Until(turn(n)))
		late = max(late, time.Since(turn(n)))
		f.ns.LinkAddVeth(fmt.Sprint("a", first+n), fmt.Sprint("b", first+n))
	}
	at := <-seen
	for n := range steady {
		name := fmt.Sprint("a", first+n)
		require.Contains(f.t, at, name)
		longest = max(longest, at[name].Sub(turn(n)))
	}
	f.t.Logf("of %d interfaces, 20 a second, each was attached at most %v after its turn; adding one began at most %v after it", steady, longest, late)
	return longest
}

// Twenty new interfaces a second are attached within one, and their first packet is counted. Then some are renamed, made anew under
// the same name, moved away and back, set down and up; what passes them is counted while they are ours and under the name that they have.
func TestInterfacesAreFollowed(t *testing.T) {
	testenv.Privileged(t)
	ns, other := testenv.NewNetNS(t), testenv.NewNetNS(t)
	f := follow(t, ns, "a*")
	count := f.followsSteadily(0)
	var ends []*testenv.End
	for n := range count {
		e := ns.SetUp(fmt.Sprint("a", n), fmt.Sprint("b", n))[0]
		ends = append(ends, e)
		f.send(e, 1)
	}

	rename := func(e *testenv.End, name string) {
		l := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: e.Index}}
		require.NoError(t, ns.Link().LinkSetDown(l))
		require.NoError(t, ns.Link().LinkSetName(l, name))
		require.NoError(t, ns.Link().LinkSetUp(l))
		e.Name = name
	}
	rename(ends[0], "c0")
	f.await(ends[0].Index, "")
	f.send(ends[0], 100)
	rename(ends[0], "again")
	f.await(ends[0].Index, "again")
	f.send(ends[0], 10)

	ends[1].Delete()
	again := ns.AddVeth("a1", "b1")[0]
	require.NotEqual(t, ends[1].Index, again.Index)
	f.await(again.Index, "a1")
	f.await(ends[1].Index, "")
	f.send(again, 10)

	ends[2].MoveTo(other, "a2")
	f.await(ends[2].Index, "")
	f.send(ends[2], 100)
	ends[2].MoveTo(ns, "a2")
	f.await(ends[2].Index, "a2")
	f.send(ends[2], 10)

	l := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ends[3].Index}}
	require.NoError(t, ns.Link().LinkSetDown(l))
	require.NoError(t, ns.Link().LinkSetUp(l))
	f.send(ends[3], 10)

	require.NoError(t, f.shutdown(t.Context()))
	want := map[string]int64{"again transmit": 10}
	for n := range count {
		want[fmt.Sprintf("a%d transmit", n)] = 1
	}
	for _, n := range []int{1, 2, 3} {
		want[fmt.Sprintf("a%d transmit", n)] += 10
	}
	assert.Equal(t, want, f.totals("network.flow.packets"))
}

// Where two hundred are attached, each look at the interfaces is longer, and new ones are attached as soon.
func TestInterfacesAreFollowedBesideMany(t *testing.T) {
	testenv.Privileged(t)
	const beside = 200
	ns := testenv.NewNetNS(t)
	for n := range beside / 2 {
		ns.LinkAddVeth(fmt.Sprint("many", n), fmt.Sprint("many", n+beside/2))
	}
	f := follow(t, ns, "a*", "many*")
	require.Eventually(t, func() bool { return len(f.attachedNames()) == beside }, time.Minute, 10*time.Millisecond)
	f.followsSteadily(beside)
	require.NoError(t, f.shutdown(t.Context()))
}

// Without a device kind:uplink goes where the default route goes, and counts there and nowhere else.
func TestUplinkFollowsTheDefaultRoute(t *testing.T) {
	testenv.Privileged(t)
	ns := testenv.NewNetNS(t)
	ends := []*testenv.End{ns.AddVeth("left0", "right0")[0], ns.AddVeth("left1", "right1")[0]}
	f := follow(t, ns, "kind:uplink")
	followTheDefaultRoute(t, ns, ends, func(index int) bool { return f.attachedAs(index) != "" })
	require.NoError(t, f.shutdown(t.Context()))
	assert.Equal(t, map[string]int64{"left0 transmit": 20, "left1 transmit": 10}, f.totals("network.flow.packets"))
}

// followTheDefaultRoute adds a default route long after the last change of a link, moves it to the second interface, withdraws it, and
// adds it again. Each time all interfaces send ten packets. Nothing but a route changes, and the next look is lookInterval away.
func followTheDefaultRoute(t *testing.T, ns *testenv.NetNS, ends []*testenv.End, attached func(index int) bool) {
	t.Helper()
	_, everywhere, err := net.ParseCIDR("0.0.0.0/0")
	require.NoError(t, err)
	via := func(n int) *netlink.Route {
		return &netlink.Route{LinkIndex: ends[n].Index, Dst: everywhere, Scope: netlink.SCOPE_LINK}
	}
	at := func(want ...bool) {
		t.Helper()
		began := time.Now()
		require.Eventually(t, func() bool { return attached(ends[0].Index) == want[0] && attached(ends[1].Index) == want[1] },
			lookInterval/6, time.Millisecond, "attached at the two interfaces: %v", want)
		t.Logf("followed after %v", time.Since(began))
		for _, e := range ends {
			s := e.NewSender()
			s.Datagrams(&testenv.Datagrams{Flows: 1, Payloads: []int{100}, Src: e.MAC, Dst: testenv.Nobody}, 0, 10)
			s.Close()
		}
	}
	time.Sleep(time.Second)
	at(false, false)
	require.NoError(t, ns.Link().RouteAdd(via(0)))
	at(true, false)
	require.NoError(t, ns.Link().RouteReplace(via(1)))
	at(false, true)
	require.NoError(t, ns.Link().RouteDel(via(1)))
	at(false, false)
	require.NoError(t, ns.Link().RouteAdd(via(0)))
	at(true, false)
}

// A tun that says for a while that it is Ethernet is read as such for as long, and no longer. Nobody else is told that its type changed.
func TestATunThatChangesItsTypeIsReadRight(t *testing.T) {
	testenv.Privileged(t)
	ns := testenv.NewNetNS(t)
	tun := ns.NewTap("tun0", testenv.TapConfig{L3: true})
	f := follow(t, ns, "tun0")
	f.await(tun.Index, "tun0")
	frame := testenv.Frame{
		L3: true, Proto: unix.IPPROTO_UDP, Payload: 100,
		From: netip.MustParseAddrPort("10.0.0.1:1"), To: netip.MustParseAddrPort("10.0.0.2:2"),
	}
	write := func(n int) {
		for range n {
			tun.Write(frame.AppendTo(nil))
		}
	}
	change := func(hwType int) {
		attaching := func() uint64 { return f.places.now().attachings[flow.Place{IfIndex: uint32(tun.Index)}] }
		before := attaching()
		tun.SetType(hwType)
		soon(t, func() bool { return attaching() > before })
	}
	write(10)
	change(unix.ARPHRD_ETHER)
	write(100)
	change(unix.ARPHRD_NONE)
	write(10)
	require.NoError(t, f.shutdown(t.Context()))
	assert.Equal(t, map[string]int64{"tun0 receive": 20}, f.totals("network.flow.packets"))
}

// used is what a process takes of the kernel.
type used struct {
	held
	goroutines, threads int
}

var threadsLine = regexp.MustCompile(`(?m)^Threads:\s+(\d+)$`)

func whatIsUsed(t *testing.T) used {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	threads, err := strconv.Atoi(string(threadsLine.FindSubmatch(status)[1]))
	require.NoError(t, err)
	return used{whatIsHeld(t), runtime.NumGoroutine(), threads}
}

// churn makes and deletes count interfaces, ten at a time. Those of every other ten go before anybody could attach to all of them. It
// returns what was held meanwhile.
func (f *follower) churn(count int) (ids map[string]bool) {
	f.t.Helper()
	ids = map[string]bool{}
	for made := 0; made < count; made += 10 {
		links := make([]netlink.Link, 5) // of two ends each
		for n := range links {
			links[n] = &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprint("v", made+n)}, PeerName: fmt.Sprint("v", made+n+5)}
			require.NoError(f.t, f.ns.Link().LinkAdd(links[n]))
		}
		if made%20 == 0 {
			l, err := f.ns.Link().LinkByName(fmt.Sprint("v", made+9))
			require.NoError(f.t, err)
			f.await(l.Attrs().Index, l.Attrs().Name)
			maps.Copy(ids, whatIsHeld(f.t).ids)
		}
		for _, l := range links {
			require.NoError(f.t, f.ns.Link().LinkDel(l))
		}
	}
	return ids
}

// Of interfaces that came and went nothing stays, and those that stay are counted exactly meanwhile. EBPFPACKETS_CHURN is how many.
func TestChurnLeavesNothing(t *testing.T) {
	testenv.Privileged(t)
	for way, host := range map[string]linux{"tcx": {}, "clsact": {clsact: true}} {
		t.Run(way, func(t *testing.T) { churnLeavesNothing(t, host) })
	}
}

func churnLeavesNothing(t *testing.T, host linux) {
	t.Helper()
	count := 200
	if text := os.Getenv("EBPFPACKETS_CHURN"); text != "" {
		var err error
		count, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	ns := testenv.NewNetNS(t)
	ends := ns.AddVeth("left0", "right0")
	f := followBy(t, host, ns, "left0", "right0", "v*")
	s := ends[0].NewSender()
	stop, sender := make(chan struct{}), sync.WaitGroup{}
	sender.Go(func() {
		d := &testenv.Datagrams{Flows: 50, Payloads: []int{0, 100, 1452}, Src: ends[0].MAC, Dst: testenv.Nobody}
		for n := 0; ; n += 100 {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
				s.Datagrams(d, n, 100)
			}
		}
	})
	end := sync.OnceFunc(func() { close(stop); sender.Wait() })
	defer end()
	f.churn(20) // what the libraries keep for good is open now
	quiet := func() bool {
		return len(f.places.now().attached) == 2 && f.places.counts[statePending].Load() == 0
	}
	soon(t, quiet)
	before, began := whatIsUsed(t), time.Now()
	ids := f.churn(count)
	soon(t, quiet)
	took := time.Since(began).Round(time.Millisecond)
	after := whatIsUsed(t)
	more := func() bool { return after.goroutines > before.goroutines || after.files > before.files } // as while interfaces are listed
	for began := time.Now(); more() && time.Since(began) < 10*time.Second; after = whatIsUsed(t) {
		time.Sleep(10 * time.Millisecond)
	}
	assert.Equal(t, before.held, after.held)
	assert.LessOrEqual(t, after.goroutines, before.goroutines)
	assert.LessOrEqual(t, after.threads, before.threads+4, "the runtime keeps those that it once needed")
	t.Logf("threads %d, then %d; files %d, then %d", before.threads, after.threads, before.files, after.files)
	maps.DeleteFunc(ids, func(id string, _ bool) bool { return before.ids[id] })
	if host.clsact {
		assert.Empty(t, ids, "filters have no files")
	} else {
		assert.GreaterOrEqual(t, len(ids), count/2, "links of interfaces that came and went")
		requireGone(t, ids)
	}

	end()
	t.Logf("%d interfaces came and went in %v, while %d packets were sent", count, took, s.Sent.Packets)
	soon(t, func() bool { return ends[1].Counters().Received.Packets == s.Sent.Packets-s.Dropped.Packets })
	require.Equal(t, host.clsact, hasClsact(t, ends[0]))
	require.NoError(t, f.shutdown(t.Context()))
	require.False(t, hasClsact(t, ends[0]) || hasClsact(t, ends[1]))
	for metric, want := range map[string][2]uint64{
		"network.flow.packets": {s.Sent.Packets, ends[1].Counters().Received.Packets},
		"network.flow.io":      {s.Sent.Bytes, ends[1].Counters().Received.Bytes},
	} {
		got := f.totals(metric)
		assert.EqualValues(t, want[0], got["left0 transmit"], metric)
		assert.EqualValues(t, want[1], got["right0 receive"], metric)
	}
}
