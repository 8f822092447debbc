// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

// fast makes the collector drain as often as it can.
const fast = `
interfaces: {include: [left0, right0]}
collection_interval: 100ms
flows: {max_flows: 500000, max_records_per_second: 1000000}
packets: {random_one_in: 0}
`

// TestEveryPacketIsTold sends a million datagrams while the counters are taken ten times a second, and SIGTERM right after
// the last one. What the collector wrote must be what the sender sent, at either hook.
func TestEveryPacketIsTold(t *testing.T) {
	for _, c := range []struct {
		name      string
		flows     int
		datagrams int
		egress    bool
		whole     bool // every flow has a slot
		settings  string
	}{
		{"egress", 3000, 1_000_000, true, true, fast},
		{"ingress", 3000, 1_000_000, false, true, fast},
		{"egress, as deltas", 3000, 1_000_000, true, true, fast + "aggregation_temporality: delta\n"},
		{"ten times more flows than slots", 160_000, 480_000, true, false, fast},
	} {
		t.Run(c.name, func(t *testing.T) {
			left, right := testenv.Pair(t, testenv.PairConfig{})
			watched, direction := left, "transmit"
			if !c.egress {
				watched, direction = right, "receive"
			}
			s := left.NewSender()
			d := &testenv.Datagrams{Flows: c.flows, Payloads: []int{0, 18, 100, 700, 1452}, Src: left.MAC, Dst: testenv.Nobody}
			collector := start(t, watched.NetNS, c.settings)
			before := watched.Counters()
			began := time.Now()
			others := sendOthers(s, left, right)
			s.Datagrams(d, 0, c.datagrams)
			t.Logf("%d datagrams in %v", c.datagrams, time.Since(began))
			out := collector.stop() // what is still on its way into the counters is not lost
			counted := watched.Counters().Since(before)

			// The interface and the sender agree; the metrics and the ledger account for every one of the packets.
			testenv.RequireDelivered(t, counted, left.Counters())
			require.Zero(t, s.Dropped)
			truth := counted.Transmitted
			if !c.egress {
				truth = counted.Received
			}
			require.Equal(t, s.Sent, truth)
			assert.Equal(t, truth, out.ledger.seen)
			assert.Equal(t, others.notIP, out.ledger.notIP)
			assert.Equal(t, others.unparsed, out.ledger.unparsed)
			told := out.counted(watched.Name, direction)
			assert.Equal(t, told, out.counted(watched.Name, ""), "the other direction is silent")
			told.Add(out.ledger.notIP)
			told.Add(out.ledger.unparsed)
			assert.Equal(t, truth, told, "metrics + ledger = interface")

			transmitted, received := flowVolumes(out.Flows())
			transmitted.Add(received)
			assert.Equal(t, out.ledger.accounted, transmitted, "flow records = accounted")
			if c.whole {
				assert.Zero(t, out.ledger.overflow)
				requireEachFlow(t, d, c.datagrams, out.Flows())
			} else {
				t.Logf("overflow: %+v of %+v", out.ledger.overflow, out.ledger.seen)
			}
		})
	}
}

// TestTheEndUnderTraffic sends SIGTERM while packets come. Where counting ends is the collector's choice; that everything
// until then is told is not.
func TestTheEndUnderTraffic(t *testing.T) {
	left, _ := testenv.Pair(t, testenv.PairConfig{})
	s := left.NewSender()
	d := &testenv.Datagrams{Flows: 1000, Payloads: []int{0, 1452}, Src: left.MAC, Dst: testenv.Nobody}
	c := start(t, left.NetNS, fast)
	before := left.Counters()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for first := 0; ; first += 1000 {
			select {
			case <-stop:
				return
			default:
				s.Datagrams(d, first, 1000)
			}
		}
	}()
	time.Sleep(500 * time.Millisecond)
	atLeast := left.Counters().Since(before).Transmitted
	out := c.stop()
	atMost := left.Counters().Since(before).Transmitted
	close(stop)
	<-stopped
	told := out.counted("left0", "transmit")
	assert.Equal(t, out.ledger.seen, told)
	assert.GreaterOrEqual(t, told.Packets, atLeast.Packets)
	assert.LessOrEqual(t, told.Packets, atMost.Packets)
	assert.GreaterOrEqual(t, told.Bytes, atLeast.Bytes)
	assert.LessOrEqual(t, told.Bytes, atMost.Bytes)
	transmitted, _ := flowVolumes(out.Flows())
	assert.Equal(t, out.ledger.accounted, transmitted)
}

// others is what sendOthers sent besides flows.
type others struct{ notIP, unparsed flow.Volume }

// sendOthers sends one of each kind of packet that is no UDP datagram, first and later fragments, and tags.
func sendOthers(s *testenv.Sender, left, right *testenv.End) (o others) {
	v4, v6 := netip.AddrPortFrom(left.V4, 1000), netip.AddrPortFrom(left.V6, 1000)
	to4, to6 := netip.AddrPortFrom(right.V4, 2000), netip.AddrPortFrom(right.V6, 2000)
	frame := testenv.Frame{Src: left.MAC, Dst: testenv.Nobody, From: v4, To: to4, Proto: 132, Payload: 64}
	s.Frame(frame) // SCTP
	frame.Proto, frame.Tags = 6, []uint16{100}
	s.Frame(frame) // TCP in a VLAN
	frame.Tags = []uint16{100, 200}
	s.Frame(frame) // in two
	frame.Proto, frame.Tags = 1, nil
	s.Frame(frame) // ICMP
	frame.Proto = 17
	for _, f := range []testenv.Fragment{{ID: 7, More: true}, {ID: 7, Offset: 72}} {
		frame.Fragment = &f
		frame.From, frame.To = v4, to4
		s.Frame(frame)
		frame.From, frame.To = v6, to6
		s.Frame(frame)
	}
	raw := func(entry *flow.Volume, etherType uint16, length int) {
		b := make([]byte, length)
		copy(b, append(append([]byte{}, testenv.Nobody[:]...), left.MAC[:]...))
		b[12], b[13] = byte(etherType>>8), byte(etherType)
		s.Raw(b)
		entry.Add(flow.Volume{Packets: 1, Bytes: uint64(length)})
	}
	raw(&o.notIP, 0x0806, 42)    // ARP
	raw(&o.notIP, 0x88cc, 60)    // LLDP
	raw(&o.unparsed, 0x0800, 60) // IPv4 whose version is 0
	raw(&o.unparsed, 0x86dd, 60) // IPv6 whose version is 0
	return o
}

// requireEachFlow compares the flow records with what was sent, flow by flow.
func requireEachFlow(t *testing.T, d *testenv.Datagrams, n int, records []otlpcheck.Flow) {
	t.Helper()
	type tuple struct{ from, to netip.AddrPort }
	told := map[tuple]flow.Volume{}
	for _, r := range records {
		v := told[tuple{r.Source, r.Destination}]
		v.Add(flow.Volume{Packets: uint64(r.Packets), Bytes: uint64(r.Bytes)})
		told[tuple{r.Source, r.Destination}] = v
	}
	wrong := 0
	for number, want := range d.Volumes(n) {
		k := d.Key(number)
		got := told[tuple{netip.AddrPortFrom(k.Src(), k.SrcPort), netip.AddrPortFrom(k.Dst(), k.DstPort)}]
		if got != want {
			wrong++
			if wrong < 5 {
				t.Errorf("flow %d: sent %+v, told %+v", number, want, got)
			}
		}
	}
	assert.Zero(t, wrong, "flows that were told otherwise than sent")
}

// TestSegmentationOffload counts what crosses the wire where the interface counts buffers of many segments.
func TestSegmentationOffload(t *testing.T) {
	const (
		payload = 64 << 20
		mss     = 1500 - 20 - 32 // IPv4 header; TCP header with timestamps
		headers = 14 + 20 + 32
	)
	for _, client := range []bool{true, false} {
		t.Run(fmt.Sprintf("at the client %v", client), func(t *testing.T) {
			left, right := testenv.Pair(t, testenv.PairConfig{Offloads: true})
			watched := left
			if !client {
				watched = right
			}
			collector := start(t, watched.NetNS, fast)
			before := watched.Counters()
			tr := testenv.Transfer(left, right, false, payload)
			settle(watched)
			out := collector.stop()
			counted := watched.Counters().Since(before)
			buffers := counted.Transmitted.Packets + counted.Received.Packets
			require.Less(t, buffers, uint64(payload/mss/2), "offloading is at work")

			flows := out.Flows()
			require.Len(t, flows, 1)
			f := flows[0]
			t.Logf("%d and %d packets, %d bytes; TCP sent %d segments, received %d; the interface counted %d buffers",
				f.Packets, f.ReversePackets, f.Bytes, tr.Sent, tr.Received, buffers)
			assert.InDelta(t, tr.Sent, f.Packets, 1, "TCP's own count, but for the last acknowledgement")
			assert.InDelta(t, tr.Received, f.ReversePackets, 1)
			assert.InEpsilon(t, float64(tr.SentPayload)+float64(tr.Sent)*headers, float64(f.Bytes), 0.001)
			assert.InEpsilon(t, float64(tr.SentPayload)/mss, float64(f.Packets), 0.02, "nearly all segments are full")
		})
	}
}

// TestWhatOnlyDevicesDo sends what no BPF_PROG_TEST_RUN can make: buffers to be segmented, as a virtual machine hands them
// over, devices without link header, headers outside the linear area, and tags that the kernel took out of the packet.
func TestWhatOnlyDevicesDo(t *testing.T) {
	ns := testenv.NewNetNS(t)
	vm := ns.NewTap("vm0", testenv.TapConfig{Vnet: true})
	tun := ns.NewTap("tun0", testenv.TapConfig{L3: true, Vnet: true})
	parts := ns.NewTap("parts0", testenv.TapConfig{Scatter: true})
	left, near := testenv.Pair(t, testenv.PairConfig{})
	far, _ := testenv.Pair(t, testenv.PairConfig{})
	near.MoveTo(ns, "near0")
	far.MoveTo(ns, "far0")
	ns.AddBridge(near, far)
	collector := start(t, ns, `
interfaces: {include: [vm0, tun0, parts0, near0, far0]}
collection_interval: 1s
`)
	want := map[string]flow.Volume{}
	add := func(name string, v flow.Volume) {
		sum := want[name]
		sum.Add(v)
		want[name] = sum
	}
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, from := range []netip.Addr{v4, v6} {
		for _, proto := range []uint8{6, 17} {
			f := testenv.Frame{
				Src: left.MAC, Dst: testenv.Nobody, Proto: proto, TCPFlags: 0x10, Payload: 14_001,
				From: netip.AddrPortFrom(from, 1), To: netip.AddrPortFrom(from.Next(), 2),
			}
			add("receive vm0", vm.WriteSegmented(f, 1400))
			f.Tags = []uint16{5}
			add("receive vm0", vm.WriteSegmented(f, 1400))
			f.Tags, f.L3 = nil, true
			add("receive tun0", tun.WriteSegmented(f, 1400))

			f.L3, f.Payload = false, 1000
			whole := f.AppendTo(nil)
			parts.Write(whole[:16], whole[16:50], whole[50:])
			add("receive parts0", flow.Volume{Packets: 1, Bytes: uint64(len(whole))})
		}
	}
	s := left.NewSender()
	for _, tags := range [][]uint16{nil, {100}, {100, 200}} {
		s.Frame(testenv.Frame{
			Src: left.MAC, Dst: testenv.Nobody, Tags: tags, Proto: 17, Payload: 50,
			From: netip.AddrPortFrom(v4, 1), To: netip.AddrPortFrom(v4.Next(), 2),
		})
	}
	want["receive near0"], want["transmit far0"] = s.Sent, s.Sent // the bridge passes the tag on as the kernel holds it
	require.Eventually(t, func() bool { return parts.Counters().Received.Packets == 4 }, patience, 10*time.Millisecond)
	out := collector.stop()
	for _, name := range []string{"vm0", "tun0", "parts0", "near0", "far0"} {
		for _, direction := range []string{"receive", "transmit"} {
			assert.Equal(t, want[direction+" "+name], out.counted(name, direction), "%s %s", direction, name)
		}
	}
	assert.Equal(t, out.ledger.seen, out.ledger.accounted)
}

// TestSamplesAreOneInN holds the number of samples against the binomial distribution. The seed cannot be configured, so one
// run in a thousand is unlucky; both of two, one in a million.
func TestSamplesAreOneInN(t *testing.T) {
	const (
		n     = 100
		sent  = 300_000
		alpha = 3.2905 // two-sided 0.001 of the normal distribution, which the binomial is near enough
	)
	deviation := func() float64 {
		left, _ := testenv.Pair(t, testenv.PairConfig{})
		collector := start(t, left.NetNS, `
interfaces: {include: [left0]}
collection_interval: 1s
packets: {random_one_in: 100, max_per_second: 1000000}
`)
		d := &testenv.Datagrams{Flows: 50, Payloads: []int{100}, Src: left.MAC, Dst: testenv.Nobody}
		left.NewSender().Datagrams(d, 0, sent)
		out := collector.stop()
		samples := out.Packets()
		var pool, segments int64
		for _, s := range samples {
			require.EqualValues(t, n, s.OneIn)
			require.Positive(t, s.Pool)
			pool += s.Pool
			segments += s.Segments
		}
		assert.EqualValues(t, len(samples), segments)
		assert.LessOrEqual(t, pool, int64(sent), "no buffer is in two pools")
		assert.InDelta(t, sent, pool, 2*14*n, "on each CPU, at most the buffers after the last sample are in none") // e^-14 is one in a million
		t.Logf("%d samples of %d, pools of %d", len(samples), sent, pool)
		return (float64(len(samples)) - sent/n) / math.Sqrt(sent*(1.0/n)*(1-1.0/n))
	}
	first := deviation()
	if math.Abs(first) > alpha {
		second := deviation()
		assert.LessOrEqual(t, math.Abs(second), alpha, "standard deviations from 1 in %d, after %v", n, first)
	}
}
