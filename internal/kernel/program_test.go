// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/frames"
)

// refused tells the frames that BPF_PROG_TEST_RUN does not take: shorter than a link header, or cut inside the IP header
// that the ethertype promises. The latter go over a wire: TestParsersAgreeOnAWire.
func refused(f *frames.Frame) bool {
	if len(f.Data) < 14 {
		return true
	}
	headers := map[uint16]int{0x0800: 14 + 20, 0x86dd: 14 + 40}
	return len(f.Data) < headers[binary.BigEndian.Uint16(f.Data[12:])]
}

// The two parsers agree, with each other and with what was written down by hand: the kernel program and packet.Decode
// see every frame of the corpus, on both directions, and the whole table and ledger are compared.
func TestParsersAgreeOnEveryFrame(t *testing.T) {
	testParsersAgree(t, Config{}, frames.All)
}

// The same, where the flow of a tunnelled packet is that of the packet inside.
func TestParsersAgreeInsideTunnels(t *testing.T) {
	testParsersAgree(t, Config{Tunnels: true}, frames.Inside)
}

func testParsersAgree(t *testing.T, cfg Config, all []frames.Frame) {
	t.Helper()
	cfg.fragments, cfg.injected = -1, true // each frame on its own
	k := load(t, cfg)
	pin(t, 0)
	for _, f := range all {
		if refused(&f) {
			continue
		}
		for _, d := range []flow.Direction{flow.DirectionIngress, flow.DirectionEgress} {
			t.Run(d.String()+" "+f.Name, func(t *testing.T) {
				inject(t, k.programFor(t, f.L3, d), f.Data, nil)
				got := drain(t, k)
				require.Equal(t, volumeOf(f.Data), got.Ledger.Seen)
				requireCounted(t, &f, d, &got)
				requireDecoded(t, &f, &got)
			})
		}
	}
}

// Programs without link header go by the protocol that the kernel says. BPF_PROG_TEST_RUN takes it from where an ethertype would
// be, which is in the source address of IP: so there are addresses that make it the right one.
func TestParsersAgreeWithoutLinkHeader(t *testing.T) {
	k := load(t, Config{fragments: -1})
	pin(t, 0)
	accounted := map[uint16]int{}
	for _, f := range frames.All {
		etherType, ok := withoutLink(&f)
		if !ok || refused(&f) {
			continue
		}
		for _, d := range []flow.Direction{flow.DirectionIngress, flow.DirectionEgress} {
			t.Run(d.String()+" "+f.Name, func(t *testing.T) {
				inject(t, k.programFor(t, true, d), f.Data, nil)
				got, sample := drain(t, k), f.Sample()
				sample.NotIP = f.Data[0]>>4 != map[uint16]byte{0x0800: 4, 0x86dd: 6}[etherType]
				requireAsDecoded(t, &got, d, &sample, loopback)
				requireFacts(t, &sample, &got)
				accounted[etherType] += len(got.slots)
			})
		}
	}
	require.Greater(t, accounted[0x0800], 40)
	require.Greater(t, accounted[0x86dd], 40)
}

// withoutLink makes f, if it is an untagged IP frame, a packet whose source address has its ethertype where a link header would.
func withoutLink(f *frames.Frame) (etherType uint16, ok bool) {
	const link, at = 14, 12
	if len(f.Data) < link+at+2 {
		return 0, false
	}
	if f.L3 {
		etherType, f.Data = map[byte]uint16{4: 0x0800, 6: 0x86dd}[f.Data[0]>>4], bytes.Clone(f.Data)
	} else {
		etherType, f.Data = binary.BigEndian.Uint16(f.Data[at:]), bytes.Clone(f.Data[link:])
	}
	f.L3 = true
	binary.BigEndian.PutUint16(f.Data[at:], etherType)
	return etherType, etherType == 0x0800 || etherType == 0x86dd
}

// requireFacts compares what one packet without link header tells beside its key.
func requireFacts(t *testing.T, s *packet.Sample, got *taken) {
	t.Helper()
	var p packet.Packet
	packet.Decode(s, &p)
	if p.Reason != flow.ReasonAccounted {
		return
	}
	want := flow.Facts{TTLMin: p.TTL, TTLMax: p.TTL, DSCP: p.DSCP}
	if p.ECN == 3 {
		want.CEPackets = 1
	}
	if p.Key.IPv6 {
		want.FlowLabel = binary.BigEndian.Uint32(s.Data) & factLabel
	}
	require.Equal(t, want, got.slots[0].Facts)
	require.Equal(t, p.TCPFlags, got.slots[0].TCPFlags)
}

// What stands for the ports of ICMP depends on the type: all of them, in one drain.
func TestParsersAgreeOnEveryTypeOfICMP(t *testing.T) {
	k := load(t, Config{})
	pin(t, 0)
	want := map[flow.Key]flow.Volume{}
	for _, f := range frames.ICMP {
		inject(t, k.objects.IngressL2, f.Data, nil)
		v := want[wantKey(&f)]
		v.Add(volumeOf(f.Data))
		want[wantKey(&f)] = v
	}
	got := map[flow.Key]flow.Volume{}
	for _, s := range drain(t, k).slots {
		got[s.Key] = s.Volume
	}
	require.Equal(t, want, got)
}

// The same, on captures that real tools made of real stacks, in both directions, and with the packets inside of their tunnels.
func TestParsersAgreeOnCaptures(t *testing.T) {
	paths, err := filepath.Glob("../../testdata/pcap/*.pcap")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, tunnels := range []bool{false, true} {
		k := load(t, Config{fragments: -1, injected: true, Tunnels: tunnels})
		pin(t, 0)
		inside := 0
		for _, path := range paths {
			all, err := frames.ReadPcap(path)
			require.NoError(t, err)
			compared := 0
			for _, f := range all {
				if refused(&f) {
					continue
				}
				f.Inside = tunnels
				t.Run(fmt.Sprintf("tunnels %t, %s, %s", tunnels, filepath.Base(path), f.Name), func(t *testing.T) {
					inside += agreeBothWays(t, k, &f)
				})
				compared++
			}
			require.Greater(t, compared, len(all)*9/10, path)
		}
		require.Equal(t, tunnels, inside > 0, "packets in tunnels")
	}
}

// agreeBothWays returns how many flows it found to be inside of a tunnel.
func agreeBothWays(t *testing.T, k *Kernel, f *frames.Frame) (inside int) {
	t.Helper()
	directions := []flow.Direction{flow.DirectionIngress, flow.DirectionEgress}
	for _, d := range directions {
		inject(t, k.programFor(t, f.L3, d), f.Data, nil)
	}
	got, sample := drain(t, k), f.Sample()
	for _, d := range directions {
		requireAsDecoded(t, &got, d, &sample, loopback)
	}
	for _, s := range got.slots {
		if s.Tunnel.Kind != 0 {
			inside++
		}
	}
	return inside
}

func (k *Kernel) programFor(t *testing.T, l3 bool, d flow.Direction) *ebpf.Program {
	header := map[bool]int{false: 1, true: 0}[l3]
	return [2][2]*ebpf.Program{
		{k.objects.IngressL3, k.objects.EgressL3},
		{k.objects.IngressL2, k.objects.EgressL2},
	}[header][d]
}

func volumeOf(frame []byte) flow.Volume {
	return flow.Volume{Packets: 1, Bytes: uint64(len(frame))}
}

const loopback = 1 // ifindex that BPF_PROG_TEST_RUN gives to frames

// requireCounted wants exactly one slot or exactly one class slot, with nothing beside it.
func requireCounted(t *testing.T, f *frames.Frame, d flow.Direction, got *taken) {
	t.Helper()
	require.Equal(t, volumeOf(f.Data), got.Ledger.Entries[f.Want.Reason])
	if f.Want.Reason != flow.ReasonAccounted {
		class := Class{Reason: f.Want.Reason, IfIndex: loopback, Direction: d, Volume: volumeOf(f.Data)}
		if class.Reason == flow.ReasonEtherType {
			class.EtherType = f.Want.EtherType
		}
		require.Empty(t, got.slots)
		require.Equal(t, []Class{class}, got.Classes)
		return
	}
	require.Empty(t, got.Classes)
	require.Len(t, got.slots, 1)
	s := got.slots[0]
	require.Equal(t, wantKey(f), s.Key)
	require.Equal(t, d, s.Direction)
	require.Equal(t, f.Want.TCPFlags, s.TCPFlags)
	require.Equal(t, volumeOf(f.Data), s.Volume)
	require.LessOrEqual(t, s.First, s.Last)
	require.LessOrEqual(t, s.Last, got.Time)
	require.InDelta(t, got.Time, s.First, 5e9, "times are ns since 1970")
}

func wantKey(f *frames.Frame) flow.Key {
	key := f.Want.Key
	key.IfIndex = loopback
	return key
}

func requireDecoded(t *testing.T, f *frames.Frame, got *taken) {
	t.Helper()
	sample := f.Sample()
	sample.IfIndex = loopback
	var p packet.Packet
	packet.Decode(&sample, &p)
	require.Equal(t, got.Ledger.Seen, got.Ledger.Entries[p.Reason], "packet.Decode gives another reason")
	if len(got.slots) == 1 {
		require.Equal(t, got.slots[0].Key, p.Key, "packet.Decode gives another key")
	}
}

// One slot of a flow sums up its packets; what told the opening side apart survives the OR of the flags.
func TestSlotSumsUpItsPackets(t *testing.T) {
	k := load(t, Config{})
	pin(t, 0)
	const fin, syn, psh, ack = 1, 2, 8, 16
	for _, flags := range []byte{syn, ack, ack | psh, ack | fin} {
		inject(t, k.objects.EgressL2, tcpFrame(flags, 100), nil)
	}
	got := drain(t, k)
	require.Len(t, got.slots, 1)
	require.Equal(t, flow.Volume{Packets: 4, Bytes: 400}, got.slots[0].Volume)
	require.Equal(t, uint8(fin|syn|psh|ack), got.slots[0].TCPFlags)
	require.Equal(t, flow.HandshakeSYN, got.slots[0].Handshake)

	inject(t, k.objects.EgressL2, tcpFrame(syn|ack, 100), nil)
	got = drain(t, k)
	require.Equal(t, flow.HandshakeSYNACK, got.slots[0].Handshake, "nothing of the last drain is left")
	require.Equal(t, uint8(syn|ack), got.slots[0].TCPFlags)
	require.Equal(t, flow.Volume{Packets: 1, Bytes: 100}, got.slots[0].Volume)

	require.Empty(t, drain(t, k).slots)
}

// A buffer that segmentation offload will cut, or did put together, counts as what crosses the wire.
func TestSegmentsAreCountedAsOnTheWire(t *testing.T) {
	const headers = 14 + 20 + 20
	k := load(t, Config{})
	pin(t, 0)
	for _, c := range []struct {
		name       string
		ctx        skbContext
		frame      []byte
		wantPacket uint64
		wantBytes  uint64
	}{
		{"the stack says how many segments", skbContext{GSOSize: 300, GSOSegs: 10}, tcpFrame(16, headers+3000), 10, 3000 + 10*headers},
		{"virtio leaves the number of segments out", skbContext{GSOSize: 300}, tcpFrame(16, headers+3000), 10, 3000 + 10*headers},
		{"the last segment is short", skbContext{GSOSize: 300}, tcpFrame(16, headers+301), 2, 301 + 2*headers},
		{"one segment exactly", skbContext{GSOSize: 300}, tcpFrame(16, headers+300), 1, 300 + headers},
		{"SCTP segments differ in size", skbContext{GSOSize: 0xffff, GSOSegs: 3}, tcpFrame(16, headers+900), 3, 900 + 3*headers},
		{"SCTP without a number counts as one", skbContext{GSOSize: 0xffff}, tcpFrame(16, headers+900), 1, 900 + headers},
		{"nothing but headers", skbContext{GSOSize: 300}, tcpFrame(16, headers), 1, headers},
		{"UDP segmentation", skbContext{GSOSize: 1000, GSOSegs: 3}, udpFrame(1, 2, 3, 4, 42+3000), 3, 3000 + 3*42},
	} {
		t.Run(c.name, func(t *testing.T) {
			inject(t, k.objects.EgressL2, c.frame, c.ctx)
			require.Equal(t, flow.Volume{Packets: c.wantPacket, Bytes: c.wantBytes}, drain(t, k).Ledger.Seen)
		})
	}
}
