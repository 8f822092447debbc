// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

// tick is the grain of flow.end, and more than the error of the clocks against each other.
const tick = 20 * time.Millisecond

// conversation is what a flow record must say.
type conversation struct {
	name      string
	transport string
	v6        bool
	client    netip.Addr // the side that sends first
	port      uint16     // of the server; 0: none
	direction string     // of the client's packets
	method    string
	reason    string
	packets   int64 // each way; 0: not known
}

// TestEveryConversationIsOneRecord has programs talk in both directions, over both versions of IP.
func TestEveryConversationIsOneRecord(t *testing.T) {
	left, right := testenv.Pair(t, testenv.PairConfig{})
	curl, dig, ping := testenv.Tool(t, "curl"), testenv.Tool(t, "dig"), testenv.Tool(t, "ping")
	serveHTTP(t, right, 80)
	serveHTTP(t, left, 8080)
	serveDNS(t, right)
	c := start(t, left.NetNS, `
interfaces: {include: [left0]}
collection_interval: 1s
flows: {idle_timeout: 2s}
packets: {random_one_in: 1}
`)
	l, r := left.Counters(), right.Counters()
	began := time.Now()
	left.Run(curl, "-sSf", "http://"+right.V4.String()+"/")
	left.Run(curl, "-sSf", "http://["+right.V6.String()+"]/")
	right.Run(curl, "-sSf", "http://"+left.V4.String()+":8080/")
	left.Run(dig, "@"+right.V4.String(), "+tries=1", "+time=5", "host.example.")
	left.Run(dig, "@"+right.V6.String(), "+tries=1", "+time=5", "host.example.")
	left.Run(ping, "-n", "-q", "-c3", "-i0.2", right.V4.String())
	right.Run(ping, "-n", "-q", "-c3", "-i0.2", left.V6.String())
	transferred := testenv.Transfer(left, right, false, 5<<20)
	ended := time.Now()
	want := []conversation{
		{"curl", "tcp", false, left.V4, 80, "transmit", "syn", "end_of_flow", 0},
		{"curl over IPv6", "tcp", true, left.V6, 80, "transmit", "syn", "end_of_flow", 0},
		{"curl from the other side", "tcp", false, right.V4, 8080, "receive", "syn", "end_of_flow", 0},
		{"bulk transfer", "tcp", false, left.V4, transferred.Server.Port(), "transmit", "syn", "end_of_flow", 0},
		{"dig", "udp", false, left.V4, 53, "transmit", "port", "idle_timeout", 1},
		{"dig over IPv6", "udp", true, left.V6, 53, "transmit", "port", "idle_timeout", 1},
		{"ping", "icmp", false, left.V4, 0, "transmit", "question", "idle_timeout", 3},
		{"ping over IPv6 from the other side", "ipv6-icmp", true, right.V6, 0, "receive", "question", "idle_timeout", 3},
	}
	c.awaitOutput(func(o *otlpcheck.Output) bool { return len(o.Flows()) >= len(want) })
	settle(left)
	out := c.stop()

	for _, w := range want {
		w.requireOne(t, out.Flows(), left, right, began, ended)
	}
	assert.Len(t, out.Flows(), len(want), "nothing else was said")

	lc, rc := left.Counters().Since(l), right.Counters().Since(r)
	testenv.RequireDelivered(t, lc, rc)
	assert.Equal(t, lc.Transmitted, out.counted("left0", "transmit"))
	assert.Equal(t, lc.Received, out.counted("left0", "receive"))
	transmitted, received := flowVolumes(out.Flows())
	assert.Equal(t, lc.Transmitted, transmitted)
	assert.Equal(t, lc.Received, received)
	assert.Equal(t, rc.Received, transmitted)

	early := 0
	for _, p := range out.Packets() {
		assert.Equal(t, "left0", p.Interface)
		assert.WithinRange(t, p.Time, began.Add(-tick), ended.Add(tick))
		if p.Observed.Before(p.Time.Add(-tick)) {
			early++
		}
		assert.Equal(t, []any{"random"}, p.Reasons)
		assert.EqualValues(t, 1, p.OneIn)
	}
	assert.NotEmpty(t, out.Packets())
	assert.Zero(t, early, "of %d packets were observed before they were sent", len(out.Packets()))
}

func (w conversation) requireOne(t *testing.T, flows []otlpcheck.Flow, left, right *testenv.End, began, ended time.Time) {
	t.Helper()
	server, version := right.Addr(w.v6), "ipv4"
	if w.client == right.Addr(w.v6) {
		server = left.Addr(w.v6)
	}
	if w.v6 {
		version = "ipv6"
	}
	var found []otlpcheck.Flow
	for _, f := range flows {
		if f.Transport == w.transport && f.Type == version && f.Source.Addr() == w.client && f.Destination.Addr() == server && f.Destination.Port() == w.port {
			found = append(found, f)
		}
	}
	if !assert.Len(t, found, 1, w.name) {
		return
	}
	f := found[0]
	assert.Equal(t, "left0", f.Interface, w.name)
	assert.Equal(t, w.direction, f.Direction, w.name)
	assert.Equal(t, w.method, f.Method, w.name)
	assert.Equal(t, w.reason, f.EndReason, w.name)
	if w.method == "unknown" {
		assert.False(t, f.Client.IsValid() || f.Server.IsValid(), "%s: roles are left out while they are unknown", w.name)
	} else {
		assert.Equal(t, f.Source, f.Client, w.name)
		assert.Equal(t, f.Destination, f.Server, w.name)
	}
	if w.packets > 0 {
		assert.Equal(t, w.packets, f.Packets, w.name)
		assert.Equal(t, w.packets, f.ReversePackets, w.name)
	}
	assert.Positive(t, f.Packets, w.name)
	assert.Positive(t, f.ReversePackets, "%s: both directions are joined", w.name)
	assert.WithinRange(t, f.Start, began.Add(-tick), ended.Add(tick), w.name)
	assert.WithinRange(t, f.End, began.Add(-tick), ended.Add(tick), w.name)
	assert.Equal(t, f.Start, f.Connection, w.name)
}

// flowVolumes adds up what flow records say was counted by each hook.
func flowVolumes(flows []otlpcheck.Flow) (transmitted, received flow.Volume) {
	for _, f := range flows {
		forward := flow.Volume{Packets: uint64(f.Packets), Bytes: uint64(f.Bytes)}
		reverse := flow.Volume{Packets: uint64(f.ReversePackets), Bytes: uint64(f.ReverseBytes)}
		if f.Direction == "receive" {
			forward, reverse = reverse, forward
		}
		transmitted.Add(forward)
		received.Add(reverse)
	}
	return transmitted, received
}

func serveHTTP(t *testing.T, e *testenv.End, port uint16) {
	t.Helper()
	server := &http.Server{
		ReadHeaderTimeout: patience,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(make([]byte, 10_000))
		}),
	}
	t.Cleanup(func() { server.Close() })
	for _, v6 := range []bool{false, true} {
		l := e.ListenTCP(v6, port)
		go func() { _ = server.Serve(l) }()
	}
}

// serveDNS answers every query with success and no answer.
func serveDNS(t *testing.T, e *testenv.End) {
	t.Helper()
	for _, v6 := range []bool{false, true} {
		c := e.ListenUDP(v6, 53)
		go func() {
			b := make([]byte, 1500)
			for {
				n, from, err := c.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				b[2], b[3] = 0x81, 0x80 // a response, recursion desired and available, no error; RFC 1035 4.1.1
				_, _ = c.WriteToUDPAddrPort(b[:n], from)
			}
		}()
	}
}

// TestALongConnectionIsToldWhileItLasts sees a connection through three records, the last at SIGTERM.
func TestALongConnectionIsToldWhileItLasts(t *testing.T) {
	left, right := testenv.Pair(t, testenv.PairConfig{})
	c := start(t, left.NetNS, `
interfaces: {include: ["left*"]}
collection_interval: 500ms
flows: {idle_timeout: 10s, active_timeout: 1s}
packets: {random_one_in: 0}
`)
	before := left.Counters()
	l := right.ListenTCP(true, 443)
	accepted := make(chan net.Conn, 1)
	go func() {
		if conn, err := l.Accept(); err == nil {
			accepted <- conn
		}
	}()
	var client *net.TCPConn
	var err error
	left.Do(func() { client, err = net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr)) })
	require.NoError(t, err)
	defer client.Close()
	server := <-accepted
	defer server.Close()
	deadline := time.Now().Add(patience)
	for len(c.read().Flows()) < 2 && time.Now().Before(deadline) {
		_, err := client.Write([]byte("still here"))
		require.NoError(t, err)
		time.Sleep(50 * time.Millisecond)
	}
	settle(left)
	out := c.stop()

	flows := out.Flows()
	require.GreaterOrEqual(t, len(flows), 3)
	for i, f := range flows {
		reason := "active_timeout"
		if i == len(flows)-1 {
			reason = "forced_end"
		}
		assert.Equal(t, reason, f.EndReason)
		assert.Equal(t, flows[0].Start, f.Connection)
		assert.Equal(t, uint16(443), f.Server.Port())
		if i > 0 {
			assert.False(t, f.Start.Before(flows[i-1].Start))
		}
	}
	transmitted, received := flowVolumes(flows)
	counted := left.Counters().Since(before)
	assert.Equal(t, counted.Transmitted, transmitted)
	assert.Equal(t, counted.Received, received)
	assert.Empty(t, out.Packets(), "no samples were asked for")
}

// settle waits until nothing moves any more: a delayed acknowledgement comes up to 200 ms after what it acknowledges.
func settle(e *testenv.End) {
	for last := e.Counters(); ; {
		time.Sleep(300 * time.Millisecond)
		now := e.Counters()
		if now == last {
			return
		}
		last = now
	}
}

// TestAnInterfaceThatComesLater is counted from the moment that it is up.
func TestAnInterfaceThatComesLater(t *testing.T) {
	left, right := testenv.Pair(t, testenv.PairConfig{})
	other := testenv.NewNetNS(t)
	c := start(t, other, `
interfaces: {include: ["late*"]}
collection_interval: 1s
`)
	left.MoveTo(other, "late0")
	c.awaitLog(`"interface":"late0"`)
	before := left.Counters()
	s := left.NewSender()
	s.Frame(testenv.Frame{
		Src: left.MAC, Dst: testenv.Nobody, Proto: 17, Payload: 100,
		From: netip.AddrPortFrom(left.V4, 1), To: netip.AddrPortFrom(right.V4, 2),
	})
	out := c.stop()
	assert.Equal(t, left.Counters().Since(before).Transmitted, out.counted("late0", "transmit"))
	assert.EqualValues(t, 1, s.Sent.Packets)
}
