// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package receiver

import (
	"fmt"
	"maps"
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

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
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

// Twenty new interfaces a second are attached within one, and their first packet is counted. Then some are renamed, made anew under
// the same name, moved away and back, set down and up; what passes them is counted while they are ours and under the name that they have.
func TestInterfacesAreFollowed(t *testing.T) {
	testenv.Privileged(t)
	ns, other := testenv.NewNetNS(t), testenv.NewNetNS(t)
	f := follow(t, ns, "a*")
	var ends []*testenv.End
	var longest time.Duration
	for began, n := time.Now(), 0; n < 20; n++ {
		time.Sleep(time.Until(began.Add(time.Duration(n) * 50 * time.Millisecond)))
		created := time.Now()
		e := ns.AddVeth(fmt.Sprint("a", n), fmt.Sprint("b", n))[0]
		ends = append(ends, e)
		f.await(e.Index, e.Name)
		longest = max(longest, time.Since(created))
		f.send(e, 1)
	}
	t.Logf("attached at most %v after it was created", longest)
	assert.Less(t, longest, time.Second)

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
	rename(ends[0], "a100")
	f.await(ends[0].Index, "a100")
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
	want := map[string]int64{"a100 transmit": 10}
	for n := range 20 {
		want[fmt.Sprintf("a%d transmit", n)] = 1
	}
	for _, n := range []int{1, 2, 3} {
		want[fmt.Sprintf("a%d transmit", n)] += 10
	}
	assert.Equal(t, want, f.totals("network.flow.packets"))
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
