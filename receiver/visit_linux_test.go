// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package receiver

import (
	"fmt"
	"maps"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// visits is a receiver that observes the namespaces in a directory.
type visits struct {
	*engine
	t    *testing.T
	dir  string
	sink *consumertest.MetricsSink
}

func newVisits(t *testing.T, include ...string) *visits {
	t.Helper()
	testenv.Privileged(t)
	dir := t.TempDir()
	cfg := spacesConfig(filepath.Join(dir, "*"))
	cfg.Interfaces.Include = include
	cfg.AggregationTemporality = temporalityDelta
	v := &visits{newEngine(cfg, nopSettings(), linux{}), t, dir, new(consumertest.MetricsSink)}
	v.nextMetrics = v.sink
	require.NoError(t, v.start(t.Context()))
	return v
}

// awaitAttached waits until packets are counted at so many interfaces.
func (v *visits) awaitAttached(n int) {
	v.t.Helper()
	require.Eventually(v.t, func() bool { return len(v.places.now().attached) == n }, 10*time.Second, 5*time.Millisecond, "at %d interfaces", n)
}

// come makes namespaces, sends in each, and lets them go again. It returns what was held meanwhile.
func (v *visits) come(first, count, packets int) (ids map[string]bool) {
	v.t.Helper()
	v.t.Run(fmt.Sprint("from ", first), func(t *testing.T) { ids = v.visit(t, first, count, packets) }) // what it opens is closed after it
	return ids
}

func (v *visits) visit(t *testing.T, first, count, packets int) (ids map[string]bool) {
	var unmounts []func()
	var ends []*testenv.End
	for n := first; n < first+count; n++ {
		ns := testenv.NewNetNS(t)
		ends = append(ends, ns.AddVeth("left0", "right0")[0])
		unmounts = append(unmounts, ns.Mount(filepath.Join(v.dir, fmt.Sprint("guest", n))))
	}
	v.awaitAttached(1 + count)
	for _, e := range ends {
		s := e.NewSender()
		s.Datagrams(&testenv.Datagrams{Flows: 10, Payloads: []int{100}, Src: e.MAC, Dst: testenv.Nobody}, 0, packets)
		s.Close()
	}
	ids = whatIsHeld(v.t).ids
	for _, unmount := range unmounts {
		unmount()
	}
	v.awaitAttached(1)
	return ids
}

// Of namespaces that came and went nothing stays: no file, thread, goroutine, program, map or link. What was counted there is told, and
// so is all that one saw that stays.
func TestNamespaceChurnLeavesNothing(t *testing.T) {
	const rounds, guests, packets = 4, 4, 70
	v := newVisits(t, "left0")
	ns := testenv.NewNetNS(t)
	left := ns.AddVeth("left0", "right0")[0]
	ns.Mount(filepath.Join(v.dir, "stays"))
	v.awaitAttached(1)
	s := left.NewSender()
	d := &testenv.Datagrams{Flows: 100, Payloads: []int{0, 1000}, Src: left.MAC, Dst: testenv.Nobody}
	v.come(0, guests, 0) // what the libraries keep for good is open now
	before := v.used()
	ids := map[string]bool{}
	for round := range rounds {
		s.Datagrams(d, 0, 500)
		maps.Copy(ids, v.come(round*guests, guests, packets))
	}
	after := v.used()
	assert.Equal(t, before.files, after.files)
	assert.Equal(t, before.ids, after.ids)
	assert.LessOrEqual(t, after.goroutines, before.goroutines)
	assert.LessOrEqual(t, after.threads, before.threads+4, "the runtime keeps those that it once needed")
	maps.DeleteFunc(ids, func(id string, _ bool) bool { return before.ids[id] })
	assert.GreaterOrEqual(t, len(ids), rounds*guests*4, "two programs and two links of each")
	requireGone(t, ids)

	require.NoError(t, v.shutdown(t.Context()))
	got := v.totals()
	assert.EqualValues(t, s.Sent.Packets, got["stays left0 transmit"])
	delete(got, "stays left0 transmit")
	want := map[string]int64{}
	for n := range rounds * guests {
		want[fmt.Sprintf("guest%d left0 transmit", n)] = packets
	}
	assert.Equal(t, want, got)
}

// In a container, whose interfaces have no device, kind:uplink goes where the default route goes.
func TestUplinkFollowsTheDefaultRouteInAnObservedNamespace(t *testing.T) {
	v := newVisits(t, "kind:uplink")
	ns := testenv.NewNetNS(t)
	ends := []*testenv.End{ns.AddVeth("left0", "right0")[0], ns.AddVeth("left1", "right1")[0]}
	ns.Mount(filepath.Join(v.dir, "guest"))
	followTheDefaultRoute(t, ns, ends, func(index int) bool { return v.places.now().attached[flow.Place{NetNS: 1, IfIndex: uint32(index)}] })
	require.NoError(t, v.shutdown(t.Context()))
	assert.Equal(t, map[string]int64{"guest left0 transmit": 20, "guest left1 transmit": 10}, v.totals())
}

// used waits until the test's own files and goroutines have gone.
func (v *visits) used() used {
	least := whatIsUsed(v.t)
	for began := time.Now(); time.Since(began) < time.Second; time.Sleep(10 * time.Millisecond) {
		if now := whatIsUsed(v.t); now.files+now.goroutines < least.files+least.goroutines {
			least = now
		}
	}
	return least
}

// totals returns the packets by "namespace interface direction".
func (v *visits) totals() map[string]int64 {
	sums := map[string]int64{}
	for _, md := range v.sink.AllMetrics() {
		eachPoint(md, func(metric string, p pmetric.NumberDataPoint) {
			if metric == instrumentPackets.name {
				m := p.Attributes()
				sums[stringOf(m, attrNamespaceName)+" "+stringOf(m, attrInterfaceName)+" "+stringOf(m, attrIODirection)] += p.IntValue()
			}
		})
	}
	return sums
}
