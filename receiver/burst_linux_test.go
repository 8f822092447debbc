// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package receiver

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

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

const burstEnv = "EBPFPACKETS_BURST"

// BenchmarkBurst attaches to 500 new interfaces, both directions, plainly one after the other and by the receiver, detaches from them again,
// and says how long others wait meanwhile who add links: both hold the kernel's one lock for all of them, RTNL, during a grace period. It
// runs in a process of its own whose namespace has those interfaces, so that neither subject has to enter one.
func BenchmarkBurst(b *testing.B) {
	testenv.Privileged(b)
	if os.Getenv(burstEnv) == "" {
		self, err := os.Executable()
		require.NoError(b, err)
		cmd := exec.CommandContext(b.Context(), self, "-test.run", "^$", "-test.bench", "^BenchmarkBurst$", "-test.benchtime", "1x", "-test.v")
		cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), burstEnv+"=1"), os.Stdout, os.Stderr
		require.NoError(b, <-testenv.NewNetNS(b).Start(cmd))
		return
	}
	const count = 500
	r := &burst{b: b, other: testenv.NewNetNS(b), count: count}
	for n := 0; n < count; n += 2 {
		l := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprint("v", n)}, PeerName: fmt.Sprint("v", n+1)}
		require.NoError(b, netlink.LinkAdd(l))
	}
	var alone delays
	r.timed(&alone, func() { time.Sleep(5 * time.Second) })
	for b.Loop() {
		plain, receiver := r.subject(r.plain), r.subject(r.receiver)
		b.Logf("%d interfaces", count)
		b.Logf("attached: plain %v, receiver %v: %.2f of the rate", plain.attached, receiver.attached, plain.attached.Seconds()/receiver.attached.Seconds())
		b.Logf("while links are added: plain %v, receiver %v: %.2f of the rate", plain.attachedBeside, receiver.attachedBeside,
			plain.attachedBeside.Seconds()/receiver.attachedBeside.Seconds())
		b.Logf("detached by the receiver: %v, while links are added %v", receiver.detached, receiver.detachedBeside)
		b.Logf("beside nothing: %v", alone)
		b.Logf("beside plain attaching: %v", plain.attaching)
		b.Logf("beside the receiver: %v", receiver.attaching)
		b.Logf("beside the receiver's end: %v", receiver.detaching)
	}
}

// burst attaches to all interfaces of the process's namespace, and adds links in other meanwhile.
type burst struct {
	b     *testing.B
	other *testenv.NetNS
	count int
}

// took is how long a subject took alone and beside somebody who adds links, and how long that one waited.
type took struct {
	attached, attachedBeside, detached, detachedBeside time.Duration
	attaching, detaching                               delays
}

// subject attaches, and returns what detaches.
func (r *burst) subject(attach func() (detach func())) (t took) {
	var detach func()
	t.attached = r.timed(nil, func() { detach = attach() })
	t.detached = r.timed(nil, detach)
	t.attachedBeside = r.timed(&t.attaching, func() { detach = attach() })
	t.detachedBeside = r.timed(&t.detaching, detach)
	return t
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
func (r *burst) plain() (detach func()) {
	all, err := linux{}.interfaces()
	require.NoError(r.b, err)
	s, err := linux{}.load(sourceConfig{packets: PacketsConfig{SnapLength: 64}}, nil)
	require.NoError(r.b, err)
	for _, i := range all {
		if i.Name != "lo" {
			require.NoError(r.b, s.Attach(i, flow.DirectionIngress))
			require.NoError(r.b, s.Attach(i, flow.DirectionEgress))
		}
	}
	return func() { require.NoError(r.b, s.Close()) }
}

// receiver leaves it to a receiver.
func (r *burst) receiver() (detach func()) {
	cfg := testConfig()
	cfg.Interfaces.Include = []string{"v*"}
	e := newEngine(cfg, nopSettings(), linux{})
	e.nextMetrics = consumertest.NewNop()
	began := time.Now()
	require.NoError(r.b, e.start(r.b.Context()))
	for e.places.counts[stateAttached].Load() != int64(r.count) {
		require.Less(r.b, time.Since(began), 5*time.Minute)
		time.Sleep(5 * time.Millisecond)
	}
	return func() { require.NoError(r.b, e.shutdown(r.b.Context())) }
}
