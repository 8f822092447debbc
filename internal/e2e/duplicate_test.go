// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

const once = `
interfaces: {include: ["*", "kind:loopback"], exclude: ["x*"], deduplicate: true}
collection_interval: 100ms
flows: {max_records_per_second: 1000000}
packets: {random_one_in: 0}
`

// TestABridgeAndItsPortsCountOnce sends datagrams both ways over a bridge of which all interfaces are observed. When one port is not
// observed any more, the other counts what came in there. The sum is what was sent, and the ledger says what was seen besides.
func TestABridgeAndItsPortsCountOnce(t *testing.T) {
	const packets = 20_000
	pod, podEnd := testenv.Pair(t, testenv.PairConfig{})
	uplink, uplinkEnd := testenv.Pair(t, testenv.PairConfig{})
	host := testenv.NewNetNS(t)
	pod.MoveTo(host, "pod0")
	uplink.MoveTo(host, "up0")
	host.AddBridge(pod, uplink)
	c := start(t, host, once)
	fromPod, fromUplink := podEnd.NewSender(), uplinkEnd.NewSender()
	d := &testenv.Datagrams{Flows: 100, Payloads: []int{0, 1000}, Src: podEnd.MAC, Dst: testenv.Nobody}
	send := func() {
		fromPod.Datagrams(d, 0, packets)
		fromUplink.Datagrams(d, 0, packets)
	}
	send()
	link, err := host.Link().LinkByName("pod0")
	require.NoError(t, err)
	require.NoError(t, host.Link().LinkSetName(link, "x0")) // which is excluded
	c.awaitLog("No longer counting at interface")
	send()
	out := c.stop()
	testenv.RequireDelivered(t, podEnd.Counters(), uplinkEnd.Counters())

	var half flow.Volume // of what a sender sent
	for _, v := range d.Volumes(packets) {
		half.Add(v)
	}
	assert.Equal(t, half, out.counted("pod0", "receive"))
	assert.Zero(t, out.counted("pod0", "transmit"))
	assert.Equal(t, half, out.counted("up0", "transmit"), "of these nobody else knows any more")
	assert.Equal(t, fromUplink.Sent, out.counted("up0", "receive"))
	told := out.counted("pod0", "")
	told.Add(out.counted("up0", ""))
	sent := fromPod.Sent
	sent.Add(fromUplink.Sent)
	assert.Equal(t, sent, told)
	assert.Equal(t, sent, out.ledger.accounted)
	assert.Equal(t, flow.Volume{Packets: 2 * half.Packets, Bytes: 2 * half.Bytes}, out.ledger.duplicate)
	assert.Len(t, out.Flows(), d.Flows, "wherever their packets counted from when on")
	requireEachFlow(t, d, 4*packets, out.Flows())
}

// hook is an interface and a direction, as records and points say it.
type hook struct{ iface, direction string }

// passage is a way between two places of a town, and where its packets count.
type passage struct {
	name        string
	from, to    [2]string // home, "" is the host, and address
	there, back hook
}

var passages = []passage{
	{"pod to uplink over a bridge", [2]string{"poda", "10.1.0.2"}, [2]string{"up0", "10.1.0.9"}, hook{"poda", "receive"}, hook{"up0", "receive"}},
	{"pod to pod over a bridge", [2]string{"poda", "10.1.0.2"}, [2]string{"podb", "10.1.0.3"}, hook{"poda", "receive"}, hook{"podb", "receive"}},
	{"pod to pod over two bridges", [2]string{"podc", "10.1.0.4"}, [2]string{"poda", "10.1.0.2"}, hook{"podc", "receive"}, hook{"poda", "receive"}},
	{"pod to host", [2]string{"poda", "10.1.0.2"}, [2]string{"", "10.1.0.1"}, hook{"poda", "receive"}, hook{"br0", "transmit"}},
	{"host to uplink through a bridge", [2]string{"", "10.1.0.1"}, [2]string{"up0", "10.1.0.9"}, hook{"br0", "transmit"}, hook{"up0", "receive"}},
	{"host to neighbour", [2]string{"", "10.2.0.1"}, [2]string{"far0", "10.2.0.2"}, hook{"far0", "transmit"}, hook{"far0", "receive"}},
	{"pod to routed neighbour", [2]string{"poda", "10.1.0.2"}, [2]string{"far0", "10.2.0.2"}, hook{"poda", "receive"}, hook{"far0", "receive"}},
	{"routed back by the bridge", [2]string{"poda", "10.1.0.2"}, [2]string{"podd", "10.4.0.2"}, hook{"poda", "receive"}, hook{"podd", "receive"}},
	{"macvlan", [2]string{"", "10.3.0.1"}, [2]string{"far0", "10.3.0.2"}, hook{"far0", "transmit"}, hook{"far0", "receive"}},
	{"pod routed through a macvlan", [2]string{"podb", "10.1.0.3"}, [2]string{"far0", "10.3.0.2"}, hook{"podb", "receive"}, hook{"far0", "receive"}},
	{"pod routed into a tunnel", [2]string{"podd", "10.4.0.2"}, [2]string{"far0", "10.5.0.2"}, hook{"podd", "receive"}, hook{"vx0", "receive"}},
	{"loopback", [2]string{"", "127.0.0.1"}, [2]string{"", "127.0.0.1"}, hook{"lo", "transmit"}, hook{"lo", "transmit"}},
}

// TestEachConversationIsOneRecordWhereverItCounts has every interface of a host observed, on each way through it. A conversation is one
// record, with what either side sent, and where that counted; metrics say the same of each interface.
func TestEachConversationIsOneRecordWhereverItCounts(t *testing.T) {
	town := testenv.NewTown(t)
	l := town.End("up0", "10.1.0.9").ListenTCP(false, 80)
	server := &http.Server{ReadHeaderTimeout: patience, Handler: http.NotFoundHandler()}
	t.Cleanup(func() { server.Close() })
	go func() { _ = server.Serve(l) }()
	c := start(t, town.Host, strings.Replace(once, "random_one_in: 0", "random_one_in: 0, protocols: [http]", 1))
	type talk struct {
		passage
		testenv.Transferred
		asking, answering netip.AddrPort
	}
	var talks []talk
	for _, p := range passages {
		from, to := town.End(p.from[0], p.from[1]), town.End(p.to[0], p.to[1])
		asking, answering := testenv.Talk(from, to)
		talks = append(talks, talk{p, testenv.Transfer(from, to, false, 1<<20), asking, answering})
	}
	town.Homes["poda"].Run(testenv.Tool(t, "curl"), "-s", "http://10.1.0.9/")
	time.Sleep(100 * time.Millisecond) // last acknowledgements, and messages are read
	out := c.stop()

	for _, k := range talks {
		f := requireOneFlow(t, out.Flows(), k.Client, k.Server, k.passage)
		assert.Equal(t, []string{"syn", "end_of_flow"}, []string{f.Method, f.EndReason}, k.name)
		assert.InDelta(t, k.Sent, f.Packets, 1, "%s: TCP's own count, but for the last acknowledgement", k.name)
		assert.InDelta(t, k.Received, f.ReversePackets, 1, k.name)
		f = requireOneFlow(t, out.Flows(), k.asking, k.answering, k.passage)
		assert.Equal(t, []int64{100, 100 * 1042, 50, 50 * 1042}, []int64{f.Packets, f.Bytes, f.ReversePackets, f.ReverseBytes}, k.name)
	}
	told, sum := map[hook]flow.Volume{}, flow.Volume{}
	for _, f := range out.Flows() {
		there, back := hooksOf(f)
		told[there] = add(told[there], flow.Volume{Packets: uint64(f.Packets), Bytes: uint64(f.Bytes)})
		told[back] = add(told[back], flow.Volume{Packets: uint64(f.ReversePackets), Bytes: uint64(f.ReverseBytes)})
	}
	for at, v := range told {
		assert.Equal(t, out.counted(at.iface, at.direction), v, "records and metrics of %v", at)
		sum.Add(v)
	}
	assert.Equal(t, out.ledger.accounted, sum)
	assert.Equal(t, sum.Packets, uint64(out.Total("network.flow.packets", otlpcheck.Has(nil))), "metrics say nothing else")
	requireAnswered(t, out)
}

// requireAnswered wants that question and answer of the web found each other, though they counted at two interfaces.
func requireAnswered(t *testing.T, out result) {
	t.Helper()
	messages := out.Packets()
	require.Len(t, messages, 2)
	assert.Equal(t, []string{"poda", "up0"}, []string{messages[0].Interface, messages[1].Interface})
	assert.Contains(t, messages[1].Attributes, "packet.message.response_time")
	for _, f := range out.Flows() {
		if f.Destination.Port() == 80 {
			assert.Equal(t, "10.1.0.9", f.Attributes["flow.server.name"])
			return
		}
	}
	assert.Fail(t, "no record of the web")
}

// hooksOf returns where the halves of f were counted.
func hooksOf(f otlpcheck.Flow) (there, back hook) {
	there = hook{f.Interface, f.Direction}
	if f.ReverseDirection != "" {
		return there, hook{f.ReverseInterface, f.ReverseDirection}
	}
	return there, hook{f.Interface, map[string]string{"receive": "transmit", "transmit": "receive"}[f.Direction]}
}

func add(v, w flow.Volume) flow.Volume {
	v.Add(w)
	return v
}

// requireOneFlow wants that what was said between two endpoints is one record, counted where p says.
func requireOneFlow(t *testing.T, flows []otlpcheck.Flow, client, server netip.AddrPort, p passage) otlpcheck.Flow {
	t.Helper()
	var found []otlpcheck.Flow
	for _, f := range flows {
		if f.Source == client && f.Destination == server || f.Source == server && f.Destination == client {
			found = append(found, f)
		}
	}
	require.Len(t, found, 1, p.name)
	require.Equal(t, client, found[0].Source, p.name)
	there, back := hooksOf(found[0])
	require.Equal(t, []hook{p.there, p.back}, []hook{there, back}, p.name)
	return found[0]
}
