// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// Counters is what an interface counted itself: a second opinion about every packet. A veth counts what its peer has taken,
// one for each socket buffer. So Received is what came to the ingress hook; the egress hook saw TransmitDrops besides.
type Counters struct {
	Received, Transmitted         flow.Volume
	ReceiveDrops                  uint64 // of Received: passed the hook, then no protocol wanted it; and refused by the backlog
	TransmitDrops                 uint64 // not in Transmitted: refused by the peer, whose backlog was full
	ReceiveErrors, TransmitErrors uint64
}

// Counters reads the counters of the interface of e.
func (e *End) Counters() Counters {
	e.tb.Helper()
	return e.NetNS.Counters(e.Name)
}

// Counters reads the counters of any interface of the namespace.
func (n *NetNS) Counters(name string) Counters {
	n.tb.Helper()
	l, err := n.link.LinkByName(name)
	require.NoError(n.tb, err)
	s := l.Attrs().Statistics
	require.NotNil(n.tb, s)
	return Counters{
		Received:       flow.Volume{Packets: s.RxPackets, Bytes: s.RxBytes},
		Transmitted:    flow.Volume{Packets: s.TxPackets, Bytes: s.TxBytes},
		ReceiveDrops:   s.RxDropped,
		TransmitDrops:  s.TxDropped,
		ReceiveErrors:  s.RxErrors,
		TransmitErrors: s.TxErrors,
	}
}

// Since returns what was counted after before was.
func (c Counters) Since(before Counters) Counters {
	return Counters{
		Received:       since(c.Received, before.Received),
		Transmitted:    since(c.Transmitted, before.Transmitted),
		ReceiveDrops:   c.ReceiveDrops - before.ReceiveDrops,
		TransmitDrops:  c.TransmitDrops - before.TransmitDrops,
		ReceiveErrors:  c.ReceiveErrors - before.ReceiveErrors,
		TransmitErrors: c.TransmitErrors - before.TransmitErrors,
	}
}

func since(now, before flow.Volume) flow.Volume {
	return flow.Volume{Packets: now.Packets - before.Packets, Bytes: now.Bytes - before.Bytes}
}

// RequireDelivered fails the test if a packet was lost between two ends: then neither is the truth about the other.
func RequireDelivered(tb testing.TB, ends ...Counters) {
	tb.Helper()
	for _, c := range ends {
		require.Zero(tb, c.TransmitDrops+c.ReceiveErrors+c.TransmitErrors, "packets lost: %+v", c)
	}
}

// SoftnetDrops is how many packets the backlogs of all CPUs have refused, of all namespaces together.
func SoftnetDrops(tb testing.TB) (drops uint64) {
	tb.Helper()
	f, err := os.Open("/proc/net/softnet_stat")
	require.NoError(tb, err)
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var processed, dropped uint64
		_, err := fmt.Sscanf(lines.Text(), "%x %x", &processed, &dropped)
		require.NoError(tb, err)
		drops += dropped
	}
	return drops
}

// IPReceived is how many packets IPv4 and IPv6 were given in the namespace: they have passed the ingress hook, where those of a
// veth that it counts may still wait for a CPU.
func (n *NetNS) IPReceived() (sum uint64) {
	n.tb.Helper()
	var v4, v6 []byte
	var err4, err6 error
	n.Do(func() {
		v4, err4 = os.ReadFile("/proc/thread-self/net/snmp")
		v6, err6 = os.ReadFile("/proc/thread-self/net/snmp6")
	})
	require.NoError(n.tb, errors.Join(err4, err6))
	for _, m := range [][][]byte{ipInReceives.FindSubmatch(v4), ip6InReceives.FindSubmatch(v6)} {
		require.NotNil(n.tb, m)
		packets, err := strconv.ParseUint(string(m[1]), 10, 64)
		require.NoError(n.tb, err)
		sum += packets
	}
	return sum
}

var (
	ipInReceives  = regexp.MustCompile(`(?m)^Ip: \d+ \d+ (\d+) `) // Forwarding, DefaultTTL, InReceives; RFC 1213
	ip6InReceives = regexp.MustCompile(`(?m)^Ip6InReceives\s+(\d+)$`)
)
