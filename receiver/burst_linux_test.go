// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package receiver

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"go.opentelemetry.io/collector/consumer/consumertest"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// delays is how long it took to add links.
type delays []time.Duration

func (d delays) percentile(p int) time.Duration {
	slices.Sort(d)
	return d[(len(d)-1)*p/100].Round(100 * time.Microsecond)
}

func (d delays) String() string {
	return fmt.Sprintf("%d links added, p50 %v, p99 %v, max %v", len(d), d.percentile(50), d.percentile(99), d.percentile(100))
}

// addLinks adds and deletes links, as "ip link add" does, until stop is closed. It says how long each one took to be added.
func addLinks(tb testing.TB, ns *testenv.NetNS, stop <-chan struct{}) (result <-chan delays) {
	all := make(chan delays, 1)
	go func() {
		var d delays
		defer func() { all <- d }()
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			l := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "mine0"}, PeerName: "mine1"}
			began := time.Now()
			err := ns.Link().LinkAdd(l)
			d = append(d, time.Since(began))
			if err == nil {
				err = ns.Link().LinkDel(l)
			}
			if err != nil {
				tb.Errorf("add or delete a link: %v", err)
				return
			}
		}
	}()
	return all
}

// BenchmarkBurst attaches to 500 new interfaces, both directions, plainly one after the other and by the receiver, and says how long others
// wait who add links meanwhile: attaching holds the kernel's one lock for all of them, RTNL, during a grace period.
func BenchmarkBurst(b *testing.B) {
	testenv.Privileged(b)
	const count = 500
	r := &burst{b: b, ns: testenv.NewNetNS(b), other: testenv.NewNetNS(b), count: count}
	for n := 0; n < count; n += 2 {
		l := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprint("v", n)}, PeerName: fmt.Sprint("v", n+1)}
		require.NoError(b, r.ns.Link().LinkAdd(l))
	}
	var alone, besidePlain, besideReceiver delays
	r.timed(&alone, func() { time.Sleep(5 * time.Second) })
	for b.Loop() {
		plain, receiver := r.plain(nil), r.receiver(nil)
		plainBeside, receiverBeside := r.plain(&besidePlain), r.receiver(&besideReceiver)
		b.Logf("%d interfaces: plain %v, receiver %v: %.2f of the rate", count, plain, receiver, plain.Seconds()/receiver.Seconds())
		b.Logf("while links are added: plain %v, receiver %v: %.2f of the rate", plainBeside, receiverBeside, plainBeside.Seconds()/receiverBeside.Seconds())
		b.Logf("beside nothing: %v", alone)
		b.Logf("beside plain attaching: %v", besidePlain)
		b.Logf("beside the receiver: %v", besideReceiver)
	}
}

// burst attaches to all interfaces of ns, and adds links in other meanwhile.
type burst struct {
	b         *testing.B
	ns, other *testenv.NetNS
	count     int
}

func (r *burst) timed(beside *delays, f func()) time.Duration {
	stop := make(chan struct{})
	var added <-chan delays
	if beside != nil {
		added = addLinks(r.b, r.other, stop)
	}
	began := time.Now()
	f()
	d := time.Since(began)
	close(stop)
	if beside != nil {
		*beside = append(*beside, <-added...)
	}
	return d.Round(time.Millisecond)
}

// plain attaches one after the other.
func (r *burst) plain(beside *delays) time.Duration {
	host := elsewhere{ns: r.ns}
	all, err := host.interfaces()
	require.NoError(r.b, err)
	s, err := host.linux.load(sourceConfig{packets: PacketsConfig{SnapLength: 64}}, nil)
	require.NoError(r.b, err)
	defer func() { require.NoError(r.b, s.Close()) }()
	return r.timed(beside, func() {
		r.ns.Do(func() {
			for _, i := range all {
				if i.Name == "lo" {
					continue
				}
				require.NoError(r.b, s.Attach(i, flow.DirectionIngress))
				require.NoError(r.b, s.Attach(i, flow.DirectionEgress))
			}
		})
	})
}

// receiver leaves it to a receiver.
func (r *burst) receiver(beside *delays) time.Duration {
	cfg := testConfig()
	cfg.Interfaces.Include = []string{"v*"}
	e := newEngine(cfg, nopSettings(), elsewhere{ns: r.ns})
	e.nextMetrics = consumertest.NewNop()
	require.NoError(r.b, e.load())
	defer func() { require.NoError(r.b, e.shutdown(r.b.Context())) }()
	return r.timed(beside, func() {
		began := time.Now()
		require.NoError(r.b, e.attach())
		assert.Less(r.b, time.Since(began), attachTimeout+500*time.Millisecond)
		e.run()
		for e.places.counts[stateAttached].Load() != int64(r.count) {
			require.Less(r.b, time.Since(began), 5*time.Minute)
			time.Sleep(5 * time.Millisecond)
		}
	})
}
