// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/frames"
)

const hwEthernet, hwNone = 1, 0xfffe // ARPHRD_ETHER, ARPHRD_NONE

func (k *Kernel) attachEnd(t *testing.T, e *testenv.End, directions ...flow.Direction) {
	t.Helper()
	k.attachIn(t, e.NetNS, iface.Interface{Index: uint32(e.Index), Name: e.Name, HWType: hwEthernet}, directions...)
}

func (k *Kernel) attachIn(t *testing.T, ns *testenv.NetNS, i iface.Interface, directions ...flow.Direction) {
	t.Helper()
	ns.Do(func() {
		for _, d := range directions {
			require.NoError(t, k.Attach(i, d))
		}
	})
}

// direction picks what one hook saw.
func (got *taken) direction(d flow.Direction) (slots []flow.Slot, classes []Class, sum flow.Volume) {
	for _, s := range got.slots {
		if s.Direction == d {
			slots = append(slots, s)
			sum.Add(s.Volume)
		}
	}
	for _, c := range got.Classes {
		if c.Direction == d {
			classes = append(classes, c)
			sum.Add(c.Volume)
		}
	}
	return slots, classes, sum
}

// Every frame of the corpus crosses a veth: sent as it is, received with its outermost tag taken out by the kernel. Both
// hooks must agree with packet.Decode, on the frames too that BPF_PROG_TEST_RUN refuses.
func TestParsersAgreeOnAWire(t *testing.T) {
	k := load(t, Config{fragments: -1})
	left, right := testenv.Pair(t, testenv.PairConfig{})
	k.attachEnd(t, left, flow.DirectionEgress)
	k.attachEnd(t, right, flow.DirectionIngress)
	sender := left.NewSender()
	for _, f := range frames.All {
		if f.L3 || len(f.Data) < 14 { // a packet socket takes nothing shorter than a link header
			continue
		}
		t.Run(f.Name, func(t *testing.T) {
			sender.Raw(f.Data)
			sent := f.Sample()
			received, ok := untag(sent)
			got := await(t, k, map[bool]int{true: 2, false: 1}[ok])
			requireAsDecoded(t, &got, flow.DirectionEgress, &sent, left.Index)
			if ok {
				requireAsDecoded(t, &got, flow.DirectionIngress, &received, right.Index)
			}
		})
	}
}

// await drains until so many slots and classes were taken: the receiving side of a wire is another softirq.
func await(t *testing.T, k *Kernel, n int) taken {
	t.Helper()
	got := drain(t, k)
	for began := time.Now(); len(got.slots)+len(got.Classes) < n && time.Since(began) < 5*time.Second; {
		more := drain(t, k)
		got.slots, got.Classes = append(got.slots, more.slots...), append(got.Classes, more.Classes...)
	}
	return got
}

// untag does what the kernel does before the ingress hook; frames too short for it are dropped there, seen by nobody.
func untag(s packet.Sample) (packet.Sample, bool) {
	if tpid := binary.BigEndian.Uint16(s.Data[12:]); tpid != 0x8100 && tpid != 0x88a8 {
		return s, true
	}
	if len(s.Data) < 14+4+2 {
		return s, false
	}
	s.Tagged, s.VLANTCI = true, binary.BigEndian.Uint16(s.Data[14:])
	s.Data = slices.Concat(s.Data[:12], s.Data[16:])
	return s, true
}

func requireAsDecoded(t *testing.T, got *taken, d flow.Direction, s *packet.Sample, ifindex int) {
	t.Helper()
	s.IfIndex = uint32(ifindex)
	var want packet.Packet
	packet.Decode(s, &want)
	volume := flow.Volume{Packets: 1, Bytes: uint64(s.WireLen)}
	slots, classes, _ := got.direction(d)
	if want.Reason == flow.ReasonAccounted {
		require.Empty(t, classes)
		require.Len(t, slots, 1)
		require.Equal(t, want.Key, slots[0].Key)
		require.Equal(t, volume, slots[0].Volume)
		return
	}
	require.Empty(t, slots)
	require.Len(t, classes, 1)
	require.Equal(t, want.Reason, classes[0].Reason)
	require.Equal(t, volume, classes[0].Volume)
}

// A million datagrams of known sizes, IPv4 and IPv6, with a drain every 100 ms and whenever a region is half full: each
// flow's packets and bytes are exactly what was sent, at both hooks, and so are the interfaces' own counters.
func TestAMillionDatagramsAreCountedExactly(t *testing.T) {
	n := 1_000_000
	if testing.Short() {
		n = 50_000
	}
	k := load(t, Config{Slots: MaxSlots}) // so few flows find room within 16 entries of the index; of a full table 0.03 % do not
	left, right := testenv.Pair(t, testenv.PairConfig{})
	k.attachEnd(t, left, flow.DirectionEgress)
	k.attachEnd(t, right, flow.DirectionIngress)
	d := &testenv.Datagrams{Flows: 2000, Payloads: []int{0, 18, 100, 700, 1452}, Src: left.MAC, Dst: testenv.Nobody}
	before := left.Counters()

	c := collect(t, k)
	sender := left.NewSender()
	sender.Datagrams(d, 0, n)
	c.stop()

	require.Equal(t, sender.Sent, c.bySide[flow.DirectionEgress])
	require.Equal(t, sender.Sent.Packets-sender.Dropped.Packets, c.bySide[flow.DirectionIngress].Packets)
	l := left.Counters().Since(before)
	require.Equal(t, l.Transmitted, c.bySide[flow.DirectionIngress], "what a veth transmitted its peer received")
	require.Zero(t, c.ledger.Entries[flow.ReasonOverflow])
	for number, want := range d.Volumes(n) {
		key := d.Key(number)
		key.IfIndex = uint32(left.Index)
		require.Equal(t, want, c.flows[sideKey{key, flow.DirectionEgress}], "flow %d", number)
	}
	require.Len(t, c.flows, 2*d.Flows)
	t.Logf("%d datagrams, %d drains, %d wake-ups by pressure", n, c.drains, c.wakeups)
}

type sideKey struct {
	flow.Key
	flow.Direction
}

// collector drains until it is stopped and adds up.
type collector struct {
	t               *testing.T
	k               *Kernel
	flows           map[sideKey]flow.Volume
	bySide          map[flow.Direction]flow.Volume
	ledger          Ledger
	drains, wakeups int
	quit            chan struct{}
	running         sync.WaitGroup
}

func collect(t *testing.T, k *Kernel) *collector {
	c := &collector{
		t: t, k: k, flows: map[sideKey]flow.Volume{}, bySide: map[flow.Direction]flow.Volume{}, quit: make(chan struct{}),
	}
	c.running.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-k.Pressure():
				c.wakeups++
			case <-c.quit:
				return
			}
			c.drain()
		}
	})
	return c
}

// stop waits for packets on their way and takes the rest.
func (c *collector) stop() {
	time.Sleep(50 * time.Millisecond)
	close(c.quit)
	c.running.Wait()
	c.drain()
}

func (c *collector) drain() {
	c.drains++
	d, err := c.k.Drain(func(s *flow.Slot) {
		key := sideKey{s.Key, s.Direction}
		v := c.flows[key]
		v.Add(s.Volume)
		c.flows[key] = v
		c.addSide(s.Direction, s.Volume)
	})
	if err != nil {
		c.t.Errorf("drain: %v", err)
		return
	}
	if len(d.Mismatches) > 0 {
		c.t.Errorf("identities do not hold: %+v", d.Mismatches)
	}
	for _, class := range d.Classes {
		c.addSide(class.Direction, class.Volume)
	}
	c.ledger.Add(&d.Ledger)
}

func (c *collector) addSide(d flow.Direction, v flow.Volume) {
	sum := c.bySide[d]
	sum.Add(v)
	c.bySide[d] = sum
}

// A bulk transfer with segmentation offload: one buffer is up to 45 packets and more, and counts as that. The truth is the
// sending TCP's own count of segments; acknowledgements are the other way.
func TestTransferIsCountedAsOnTheWire(t *testing.T) {
	const headers = 14 + 20 + 32 // Ethernet, IPv4, TCP with timestamps
	k := load(t, Config{})
	left, right := testenv.Pair(t, testenv.PairConfig{Offloads: true})
	k.attachEnd(t, left, flow.DirectionEgress, flow.DirectionIngress)
	before := left.Counters()
	c := collect(t, k)
	sent := testenv.Transfer(left, right, false, 64<<20)
	c.stop()
	buffers := left.Counters().Since(before).Transmitted.Packets
	there, back := c.bySide[flow.DirectionEgress], c.bySide[flow.DirectionIngress]
	require.InDelta(t, sent.Sent, there.Packets, 1, "the last acknowledgement may be after the count was read")
	require.InEpsilon(t, sent.SentPayload+sent.Sent*headers, there.Bytes, 0.001)
	require.InDelta(t, sent.Received, back.Packets, 1)
	require.Greater(t, there.Packets, 4*buffers, "counting socket buffers is far off")
}

// BIG TCP: buffers above 64 KiB, of which the IP header cannot tell the length. IPv6 has it in a jumbo option, which is in the
// buffer and not on the wire.
func TestBuffersBeyondALengthFieldAreCounted(t *testing.T) {
	const size = 180_000
	for _, v6 := range []bool{false, true} {
		t.Run(map[bool]string{false: "IPv4", true: "IPv6"}[v6], func(t *testing.T) {
			headers := map[bool]uint64{false: 14 + 20 + 32, true: 14 + 40 + 32}[v6]
			k := load(t, Config{})
			left, right := testenv.Pair(t, testenv.PairConfig{Offloads: true})
			left.AllowBuffers(size)
			right.AllowBuffers(size)
			k.attachEnd(t, left, flow.DirectionEgress)
			before := left.Counters()
			all := collect(t, k)
			sent := testenv.Transfer(left, right, v6, 64<<20)
			all.stop()
			buffers := left.Counters().Since(before).Transmitted
			require.Greater(t, buffers.Bytes/buffers.Packets, uint64(65_536), "buffers of the size in question")
			there := all.bySide[flow.DirectionEgress]
			require.InDelta(t, sent.Sent, there.Packets, 1)
			require.InEpsilon(t, sent.SentPayload+sent.Sent*headers, there.Bytes, 0.001)
		})
	}
}

// The same inside of a tunnel, whose headers every segment repeats, seen from the outside.
func TestTransferInATunnelIsCountedAsOnTheWire(t *testing.T) {
	for _, c := range []struct {
		name    string
		outerV6 bool
		innerV6 bool
		port    int
		headers uint64 // of a segment
	}{
		{"VXLAN over IPv4", false, false, 4789, 14 + 20 + 8 + 8 + 14 + 20 + 32},
		{"IPv6 in VXLAN over IPv4, at the driver's port", false, true, 8472, 14 + 20 + 8 + 8 + 14 + 40 + 32},
		{"VXLAN over IPv6", true, false, 4789, 14 + 40 + 8 + 8 + 14 + 20 + 32},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := load(t, Config{})
			left, right := testenv.Pair(t, testenv.PairConfig{Offloads: true})
			innerLeft, innerRight := testenv.VXLAN(left, right, c.outerV6, c.port)
			k.attachEnd(t, left, flow.DirectionEgress, flow.DirectionIngress)
			before := left.Counters()
			all := collect(t, k)
			sent := testenv.Transfer(innerLeft, innerRight, c.innerV6, 32<<20)
			all.stop()
			buffers := left.Counters().Since(before).Transmitted.Packets
			there, back := all.bySide[flow.DirectionEgress], all.bySide[flow.DirectionIngress]
			require.InDelta(t, sent.Sent, there.Packets, 1)
			require.InEpsilon(t, sent.SentPayload+sent.Sent*c.headers, there.Bytes, 0.001)
			require.InDelta(t, sent.Received, back.Packets, 1)
			require.Greater(t, there.Packets, 4*buffers, "buffers are segmented behind the hook")
		})
	}
}

// What a virtual machine sends arrives with the size of its segments and without their number.
func TestSegmentsOfTapsAreCounted(t *testing.T) {
	k := load(t, Config{})
	ns := testenv.NewNetNS(t)
	v4 := testenv.Frame{
		Dst: testenv.Nobody, Proto: 6, TCPFlags: 0x10, Payload: 14480,
		From: netip.MustParseAddrPort("192.0.2.1:1000"), To: netip.MustParseAddrPort("192.0.2.2:2000"),
	}
	v6, udp, tagged, one, noTunnel := v4, v4, v4, v4, v4
	v6.From, v6.To = netip.MustParseAddrPort("[2001:db8::1]:1000"), netip.MustParseAddrPort("[2001:db8::2]:2000")
	udp.Proto, tagged.Tags, one.Payload = 17, []uint16{77}, 100
	udp6, taggedUDP6 := v6, v6
	udp6.Proto, taggedUDP6.Proto, taggedUDP6.Tags = 17, 17, []uint16{77}
	noTunnel.Proto, noTunnel.To = 17, netip.MustParseAddrPort("192.0.2.2:4789") // zeros: no header that a tunnel would have
	tap := ns.NewTap("tap0", testenv.TapConfig{Vnet: true})
	k.attachIn(t, ns, iface.Interface{Index: uint32(tap.Index), Name: tap.Name, HWType: hwEthernet}, flow.DirectionIngress)
	tun := ns.NewTap("tun0", testenv.TapConfig{L3: true, Vnet: true})
	k.attachIn(t, ns, iface.Interface{Index: uint32(tun.Index), Name: tun.Name, HWType: hwNone}, flow.DirectionIngress)
	for name, c := range map[string]struct {
		tap   *testenv.Tap
		frame testenv.Frame
	}{
		"TCP over IPv4": {tap, v4}, "TCP over IPv6": {tap, v6}, "UDP": {tap, udp}, "UDP to the port of VXLAN": {tap, noTunnel}, "one segment": {tap, one},
		"UDP over IPv6": {tap, udp6}, "UDP over IPv6 without link header": {tun, udp6},
		"TCP behind a tag": {tap, tagged}, "UDP over IPv6 behind a tag": {tap, taggedUDP6},
		"TCP over IPv4 without link header": {tun, v4}, "TCP over IPv6 without link header": {tun, v6},
	} {
		t.Run(name, func(t *testing.T) {
			c.frame.L3 = c.tap == tun
			want := c.tap.WriteSegmented(c.frame, 1448)
			got := await(t, k, 1)
			require.Len(t, got.slots, 1)
			require.Equal(t, want, got.slots[0].Volume)
			require.Equal(t, c.frame.To.Port(), got.slots[0].DstPort)
			require.Equal(t, len(c.frame.Tags) > 0, got.slots[0].Tagged)
		})
	}
}

// A large frame from a packet socket has nothing but its link header in the linear area; one written in parts to a tap has
// its headers cut anywhere.
func TestHeadersOutsideTheLinearArea(t *testing.T) {
	k := load(t, Config{})
	left, _ := testenv.Pair(t, testenv.PairConfig{MTU: 9000})
	k.attachEnd(t, left, flow.DirectionEgress)
	f := testenv.Frame{
		Dst: testenv.Nobody, Proto: 6, TCPFlags: 0x10, Payload: 8000,
		From: netip.MustParseAddrPort("192.0.2.1:1000"), To: netip.MustParseAddrPort("192.0.2.2:2000"),
	}
	v6 := f
	v6.From, v6.To = netip.MustParseAddrPort("[2001:db8::1]:1000"), netip.MustParseAddrPort("[2001:db8::2]:2000")
	requireSeen := func(t *testing.T, f testenv.Frame) {
		t.Helper()
		got := await(t, k, 1)
		require.Len(t, got.slots, 1)
		require.Equal(t, f.From, netip.AddrPortFrom(got.slots[0].Src(), got.slots[0].SrcPort))
		require.Equal(t, f.To, netip.AddrPortFrom(got.slots[0].Dst(), got.slots[0].DstPort))
		require.Equal(t, uint8(0x10), got.slots[0].TCPFlags)
		require.Equal(t, volumeOf(f.AppendTo(nil)), got.slots[0].Volume)
	}
	sender := left.NewSender()
	for _, f := range []testenv.Frame{f, v6} {
		sender.Frame(f)
		requireSeen(t, f)
	}
	ns := testenv.NewNetNS(t)
	tap := ns.NewTap("tap0", testenv.TapConfig{Scatter: true})
	k.attachIn(t, ns, iface.Interface{Index: uint32(tap.Index), Name: tap.Name, HWType: hwEthernet}, flow.DirectionIngress)
	f.Payload = 100
	whole := f.AppendTo(nil)
	for cut := 14; cut < 60; cut++ {
		tap.Write(whole[:cut], whole[cut:])
		requireSeen(t, f)
	}
}

// What has no ports is counted by protocol; a later fragment whose first was not seen never yields ports.
func TestProtocolsWithoutPortsAndFragments(t *testing.T) {
	k := load(t, Config{})
	left, right := testenv.Pair(t, testenv.PairConfig{})
	k.attachEnd(t, left, flow.DirectionEgress, flow.DirectionIngress)
	testenv.Echo(left, right, false, 5, 100)
	testenv.Echo(left, right, true, 5, 100)
	got := drain(t, k)
	for _, d := range []flow.Direction{flow.DirectionEgress, flow.DirectionIngress} {
		slots, classes, _ := got.direction(d)
		require.Empty(t, classes)
		require.ElementsMatch(t, []uint8{1, 58}, protocols(slots))
		for _, s := range slots {
			headers := map[uint8]uint64{1: 14 + 20 + 8, 58: 14 + 40 + 8}[s.Proto]
			require.Equal(t, flow.Volume{Packets: 5, Bytes: 5 * (headers + 100)}, s.Volume)
		}
	}
	sender := left.NewSender()
	udp := testenv.Frame{
		Dst: testenv.Nobody, Proto: 17, Payload: 80,
		From: netip.MustParseAddrPort("192.0.2.1:1000"), To: netip.MustParseAddrPort("192.0.2.2:2000"),
	}
	first, later, sctp := udp, udp, udp
	first.Fragment, later.Fragment = &testenv.Fragment{ID: 1, More: true}, &testenv.Fragment{ID: 2, Offset: 88}
	sctp.Proto = 132
	for _, f := range []testenv.Frame{first, later, sctp} {
		sender.Frame(f)
	}
	slots, _, sum := new(drain(t, k)).direction(flow.DirectionEgress)
	require.Equal(t, sender.Sent, sum)
	require.ElementsMatch(t, []uint8{17, 17, 132}, protocols(slots))
	for _, s := range slots {
		require.Equal(t, s.LaterFragment, s.DstPort == 0)
	}
}

func protocols(slots []flow.Slot) (all []uint8) {
	for _, s := range slots {
		all = append(all, s.Proto)
	}
	return all
}

// Ours is first at a hook, so that no program before it can hide packets, and leaves when it is told to.
func TestAttachIsFirstAndDetachEnds(t *testing.T) {
	left, right := testenv.Pair(t, testenv.PairConfig{})
	earlier, k := load(t, Config{}), load(t, Config{})
	earlier.attachEnd(t, left, flow.DirectionEgress)
	k.attachEnd(t, left, flow.DirectionEgress)
	k.attachEnd(t, left, flow.DirectionEgress) // twice is once
	var order *link.QueryResult
	left.Do(func() {
		var err error
		order, err = link.QueryPrograms(link.QueryOptions{Target: left.Index, Attach: ebpf.AttachTCXEgress})
		require.NoError(t, err)
	})
	info, err := k.objects.EgressL2.Info()
	require.NoError(t, err)
	id, _ := info.ID()
	require.Len(t, order.Programs, 2)
	require.Equal(t, id, order.Programs[0].ID)

	testenv.Echo(left, right, false, 1, 10)
	require.Equal(t, uint64(1), drain(t, k).Ledger.Seen.Packets)
	require.NoError(t, k.Detach(uint32(left.Index)))
	testenv.Echo(left, right, false, 1, 10)
	require.Zero(t, drain(t, k).Ledger.Seen)
	require.Equal(t, uint64(2), drain(t, earlier).Ledger.Seen.Packets)
}
