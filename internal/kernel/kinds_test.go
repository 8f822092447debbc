// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"encoding/binary"
	"math"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// flowSeed is flow_seed of bpf/config.h. It must never change: hosts of two releases choose the same flows.
const flowSeed = 0x6562706670616b74

// flowHash is the hash of bpf/sample.h, written again.
func flowHash(seed uint64, k *flow.Key) uint64 {
	mix := func(sum, value uint64) uint64 {
		sum = (sum ^ value) * 0x9e3779b97f4a7c15
		return sum ^ sum>>32
	}
	endpoint := func(a flow.Addr, port uint16) uint64 {
		return mix(mix(mix(seed, binary.NativeEndian.Uint64(a[:8])), binary.NativeEndian.Uint64(a[8:])), uint64(port))
	}
	return mix(mix(endpoint(k.SrcAddr, k.SrcPort)+endpoint(k.DstAddr, k.DstPort), uint64(k.Proto)), 0)
}

func isChosen(seed uint64, k *flow.Key, oneIn int) bool { return flowHash(seed, k) <= flowLimit(oneIn) }

func flows(cfg Config) Config {
	cfg.Samples, cfg.SnapLength, cfg.MaxPerSecond = true, 64, unlimited
	return cfg
}

// conversation is one of many, in two frames: there and back. They are of four kinds.
func conversation(n int) (there, back []byte) {
	a, b, p, q := uint32(0x0a000000+n), uint32(0xc0000200+n%3), uint16(1024+n), uint16(443)
	if n%4 == 1 {
		return udp6Frame(uint64(n), 1, p, q), udp6Frame(1, uint64(n), q, p)
	}
	there, back = udpFrame(a, b, p, q, 60), udpFrame(b, a, q, p, 60)
	switch n % 4 {
	case 2: // TCP
		for _, f := range [][]byte{there, back} {
			f[23], f[46], f[47] = unix.IPPROTO_TCP, 5<<4, 0x10
		}
	case 3: // an echo and its reply
		for _, f := range [][]byte{there, back} {
			f[23] = unix.IPPROTO_ICMP
			clear(f[34:])
			binary.BigEndian.PutUint16(f[38:], uint16(n))
		}
		there[34] = 8
	}
	return there, back
}

// chosen sends frames and says of which there were samples of flows.
func chosen(t *testing.T, k *Kernel, program *ebpf.Program, frames [][]byte) []bool {
	t.Helper()
	all := make([]bool, len(frames))
	for i, f := range frames {
		inject(t, program, f, nil)
		got := read(t, k)
		require.LessOrEqual(t, len(got), 1)
		if all[i] = len(got) == 1; all[i] {
			require.Equal(t, packet.ReasonFlow, got[0].Reasons)
			require.Equal(t, uint32(1), got[0].FlowPool, "nothing was held back")
		}
	}
	return all
}

// Whoever sees a conversation, from whichever side, in whatever VLAN: the choice is the same, and the one that is documented.
func TestFlowIsChosenAlikeEverywhere(t *testing.T) {
	const conversations, oneIn = 1000, 4
	var there, back, tagged, bare [][]byte
	for n := range conversations {
		a, b := conversation(n)
		there, back = append(there, a), append(back, b)
		tagged = append(tagged, slices.Concat(b[:12], []byte{0x81, 0, 0, 7}, b[12:]))
		bare = append(bare, b[14:])
	}
	one, other := load(t, flows(Config{FlowOneIn: oneIn})), load(t, flows(Config{FlowOneIn: oneIn, injected: true, object: objectOld}))
	pin(t, 0)
	want := chosen(t, one, one.objects.EgressL2, there)
	for view, got := range map[string][]bool{
		"the other side":        chosen(t, one, one.objects.IngressL2, back),
		"another host":          chosen(t, other, other.objects.EgressL2, back),
		"another VLAN":          chosen(t, other, other.objects.IngressL2, tagged),
		"without a link header": chosen(t, other, other.objects.EgressL3, bare),
	} {
		require.Equal(t, want, got, view)
	}
	for _, slot := range drain(t, one).slots {
		require.Equal(t, flowHash(flowSeed, &slot.Key), flowHash(flowSeed, reversed(&slot.Key)))
	}
	keys := map[int]*flow.Key{}
	other = load(t, flows(Config{FlowOneIn: oneIn, flowSeed: 12345}))
	differently := chosen(t, other, other.objects.EgressL2, there)
	for _, slot := range drain(t, other).slots {
		keys[len(keys)] = &slot.Key // drained in the order of claims
	}
	require.Len(t, keys, conversations)
	both := 0
	for n := range conversations {
		require.Equal(t, isChosen(flowSeed, keys[n], oneIn), want[n], "conversation %d", n)
		require.Equal(t, isChosen(12345, keys[n], oneIn), differently[n], "conversation %d", n)
		if want[n] && differently[n] {
			both++
		}
	}
	require.InDelta(t, conversations/oneIn/oneIn, both, 3.29*math.Sqrt(conversations/oneIn/oneIn), "another seed is another choice")
}

func reversed(k *flow.Key) *flow.Key {
	r := *k
	r.SrcAddr, r.DstAddr, r.SrcPort, r.DstPort = k.DstAddr, k.SrcAddr, k.DstPort, k.SrcPort
	return &r
}

// Of every set of flows one in N is chosen, however regular its addresses and ports are; who chooses fewer chooses among those.
func TestShareOfChosenFlows(t *testing.T) {
	const count = 1 << 16
	for name, set := range map[string]func(n uint32, k *flow.Key){
		"ports in a row":      func(n uint32, k *flow.Key) { k.SrcPort = uint16(n) },
		"ports at both ends":  func(n uint32, k *flow.Key) { k.SrcPort, k.DstPort = uint16(n>>8), uint16(n&0xff) },
		"hosts in a row":      func(n uint32, k *flow.Key) { binary.BigEndian.PutUint32(k.SrcAddr[12:], 0x0a000000+n) },
		"every 256th address": func(n uint32, k *flow.Key) { binary.BigEndian.PutUint32(k.SrcAddr[12:], 0x0a000000+n<<8) },
		"a matrix of hosts": func(n uint32, k *flow.Key) {
			k.SrcAddr[14], k.SrcAddr[15], k.DstAddr[14], k.DstAddr[15] = byte(n>>12), byte(n>>8), 1, byte(n)
		},
		"a matrix of two networks": func(n uint32, k *flow.Key) { k.SrcAddr[13], k.DstAddr[13] = byte(n>>8), byte(n) },
		"IPv6 hosts in a row": func(n uint32, k *flow.Key) {
			k.IPv6, k.SrcAddr[0], k.DstAddr[0] = true, 0x20, 0x20
			binary.BigEndian.PutUint32(k.SrcAddr[12:], n)
		},
		"IPv6 networks in a row": func(n uint32, k *flow.Key) {
			k.IPv6, k.SrcAddr[0], k.DstAddr[0] = true, 0x20, 0x20
			binary.BigEndian.PutUint32(k.SrcAddr[4:], n)
		},
	} {
		for _, oneIn := range []int{1, 2, 10, 100, 1000} {
			share := 0
			for n := range uint32(count) {
				k := flow.Key{SrcPort: 40000, DstPort: 443, Proto: unix.IPPROTO_TCP}
				copy(k.SrcAddr[12:], []byte{10, 0, 0, 1})
				copy(k.DstAddr[12:], []byte{192, 168, 0, 1})
				set(n, &k)
				if isChosen(flowSeed, &k, oneIn) {
					share++
					require.True(t, isChosen(flowSeed, &k, max(oneIn/10, 1)))
				}
			}
			p := 1 / float64(oneIn)
			// z = 3.89: two-sided alpha = 0.0001, for 40 comparisons
			require.InDelta(t, count*p, share, 3.89*math.Sqrt(count*p*(1-p))+1e-9, "%s, 1 in %d", name, oneIn)
		}
	}
}

// Every packet of a chosen flow is a sample, and none of another: both directions, on two CPUs, across drains.
func TestEveryPacketOfAChosenFlow(t *testing.T) {
	const conversations, rounds, oneIn = 200, 5, 4
	k := load(t, flows(Config{FlowOneIn: oneIn}))
	sampled, seen := map[flow.Key]int{}, map[flow.Key]uint64{}
	for round := range rounds {
		pin(t, round%2*(runtime.NumCPU()-1))
		for n := range conversations {
			there, back := conversation(4 * n) // UDP
			for range round + 1 {
				inject(t, k.objects.EgressL2, there, nil)
			}
			inject(t, k.objects.IngressL2, back, nil)
		}
		for _, s := range read(t, k) {
			require.Equal(t, packet.ReasonFlow, s.Reasons)
			require.Equal(t, uint32(1), s.FlowPool)
			var p packet.Packet
			packet.Decode(&s, &p)
			sampled[p.Key]++
		}
		got := drain(t, k)
		require.Equal(t, got.Samples[packet.KindFlow].Selected, got.Samples[packet.KindFlow].Emitted)
		for _, s := range got.slots {
			seen[s.Key] += s.Packets
		}
	}
	require.Len(t, seen, 2*conversations)
	chosen := 0
	for key, packets := range seen {
		want := 0
		if isChosen(flowSeed, &key, oneIn) {
			want = int(packets)
			chosen++
		}
		require.Equal(t, want, sampled[key])
	}
	require.InDelta(t, 2*conversations/oneIn, chosen, 2*3.29*math.Sqrt(conversations/oneIn))
}

// numbers are those that the samples there are carry, by source port of their IPv4 frames.
func numbers(t *testing.T, k *Kernel) map[uint16][]uint32 {
	t.Helper()
	all := map[uint16][]uint32{}
	for _, s := range read(t, k) {
		require.Equal(t, packet.ReasonFirst, s.Reasons)
		port := binary.BigEndian.Uint16(s.Data[34:])
		all[port] = append(all[port], s.Number)
	}
	return all
}

// The first packets of a flow are samples, both directions together: no more of them, and not again in the next interval.
func TestFirstPacketsOfAFlow(t *testing.T) {
	const first = 5
	k := load(t, flows(Config{FirstPerFlow: first}))
	pin(t, 0)
	there, back := conversation(0)
	send := func() {
		for range first {
			inject(t, k.objects.EgressL2, there, nil)
			inject(t, k.objects.IngressL2, back, nil)
		}
	}
	send()
	require.Equal(t, map[uint16][]uint32{1024: {1, 3, 5}, 443: {2, 4}}, numbers(t, k))
	require.Equal(t, Samples{packet.KindFirst: {Selected: first, Emitted: first}}, drain(t, k).Samples)
	send()
	require.Empty(t, read(t, k), "its slot is new, it is not")
	require.Empty(t, drain(t, k).Samples)

	inject(t, k.objects.EgressL2, there, nil)
	drain(t, k)
	pin(t, runtime.NumCPU()-1)
	send()
	require.Empty(t, read(t, k), "nor on another CPU")
}

// Numbers go on where an interval ends before the first packets do.
func TestFirstPacketsAcrossDrains(t *testing.T) {
	k := load(t, flows(Config{FirstPerFlow: 3}))
	there, _ := conversation(0)
	for round, want := range []map[uint16][]uint32{{1024: {1}}, {1024: {2}}, {1024: {3}}, {}} {
		pin(t, round%2*(runtime.NumCPU()-1))
		inject(t, k.objects.EgressL2, there, nil)
		require.Equal(t, want, numbers(t, k))
		drain(t, k)
	}
}

// The first packets are those on the wire: a buffer that holds one of them is a sample.
func TestFirstPacketsOfSegmentedBuffers(t *testing.T) {
	k := load(t, flows(Config{FirstPerFlow: 8}))
	pin(t, 0)
	frame := tcpFrame(0x10, 54+900)
	for range 5 {
		inject(t, k.objects.EgressL2, frame, skbContext{GSOSize: 300, GSOSegs: 3})
	}
	require.Equal(t, map[uint16][]uint32{40000: {1, 4, 7}}, numbers(t, k))
}

// Flows at two interfaces, or in two VLANs, are two.
func TestFirstPacketsAtEachInterface(t *testing.T) {
	testenv.Privileged(t)
	ns := testenv.NewNetNS(t)
	left := ns.AddVeth("left", "right")[0]
	k := load(t, flows(Config{FirstPerFlow: 2}))
	there, _ := conversation(0)
	tagged := slices.Concat(there[:12], []byte{0x81, 0, 0, 7}, there[12:])
	pin(t, 0)
	ns.Do(func() {
		for range 3 {
			inject(t, k.objects.EgressL2, there, placeContext{IfIndex: loopback})
			inject(t, k.objects.EgressL2, there, placeContext{IfIndex: uint32(left.Index)})
			inject(t, k.objects.EgressL2, tagged, placeContext{IfIndex: loopback})
		}
	})
	require.Equal(t, Samples{packet.KindFirst: {Selected: 6, Emitted: 6}}, drain(t, k).Samples)
}

// A flow that was silent for long begins anew, as it does in the table of flows; so does one that others pushed out.
func TestFirstPacketsAreForgotten(t *testing.T) {
	const idle = time.Second
	there, _ := conversation(0)
	once := func(k *Kernel) int {
		inject(t, k.objects.EgressL2, there, nil)
		drain(t, k)
		return len(read(t, k))
	}
	k := load(t, flows(Config{FirstPerFlow: 1, FirstIdle: idle}))
	pin(t, 0)
	require.Equal(t, 1, once(k))
	for range 6 {
		require.Equal(t, 0, once(k))
		time.Sleep(idle / 4)
	}
	time.Sleep(idle)
	require.Equal(t, 1, once(k))

	k = load(t, flows(Config{FirstPerFlow: 2, cpus: []int{0}, firsts: 256}))
	require.Equal(t, []int{1, 1, 0}, []int{once(k), once(k), once(k)})
	for n := range 2000 {
		other, _ := conversation(4 * (n + 1))
		inject(t, k.objects.EgressL2, other, nil)
	}
	require.Len(t, read(t, k), 2000)
	require.Equal(t, 0, once(k), "flows of one packet push out each other first")
	for n := range 2000 {
		other, _ := conversation(4 * (n + 5000))
		inject(t, k.objects.EgressL2, other, nil)
		inject(t, k.objects.EgressL2, other, nil)
	}
	require.Len(t, read(t, k), 4000)
	require.Equal(t, 1, once(k))
}

// Two CPUs that count both directions of a flow at the same time number its packets together.
func TestFirstPacketsOnTwoCPUs(t *testing.T) {
	if runtime.NumCPU() < 2 {
		testenv.LeaveOut(t, "needs two CPUs")
	}
	const first, conversations = 500, 20
	k := load(t, flows(Config{FirstPerFlow: first}))
	for n := range conversations {
		there, back := conversation(4 * n)
		var senders sync.WaitGroup
		for cpu, send := range []struct {
			program *ebpf.Program
			frame   []byte
		}{{k.objects.EgressL2, there}, {k.objects.IngressL2, back}} {
			senders.Go(func() {
				runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
				var one unix.CPUSet
				one.Set(cpu * (runtime.NumCPU() - 1))
				if err := unix.SchedSetaffinity(0, &one); err != nil {
					t.Error(err)
				}
				if _, err := send.program.Run(&ebpf.RunOptions{Data: send.frame, Repeat: 2 * first}); err != nil {
					t.Error(err)
				}
			})
		}
		senders.Wait()
		got := make([]bool, first)
		for _, s := range read(t, k) {
			require.False(t, got[s.Number-1], "packet %d of conversation %d twice", s.Number, n)
			got[s.Number-1] = true
		}
		require.NotContains(t, got, false)
	}
	require.Equal(t, uint64(first*conversations), drain(t, k).Samples[packet.KindFirst].Emitted)
}

// A packet that several kinds choose is copied once.
func TestPacketChosenByAllKindsIsCopiedOnce(t *testing.T) {
	k := load(t, flows(Config{RandomOneIn: 1, FlowOneIn: 1, FirstPerFlow: 1, cpus: []int{0}}))
	pin(t, 0)
	there, _ := conversation(0)
	inject(t, k.objects.EgressL2, there, nil)
	inject(t, k.objects.EgressL2, there, nil)
	got := read(t, k)
	require.Len(t, got, 2)
	require.Equal(t, packet.ReasonRandom|packet.ReasonFlow|packet.ReasonFirst, got[0].Reasons)
	require.Equal(t, []uint64{1, 1, 1}, []uint64{got[0].Pool, uint64(got[0].FlowPool), uint64(got[0].Number)})
	require.Equal(t, packet.ReasonRandom|packet.ReasonFlow, got[1].Reasons)
	require.Equal(t, Samples{{Selected: 2, Emitted: 2}, {Selected: 2, Emitted: 2}, {Selected: 1, Emitted: 1}}, drain(t, k).Samples)
}

// Each kind has a budget: one that has none left takes nothing from the others, and says what it left out with its next sample.
func TestEachKindHasItsBudget(t *testing.T) {
	cfg := flows(Config{RandomOneIn: 1, FlowOneIn: 1, FirstPerFlow: 2, cpus: []int{0}})
	cfg.MaxPerSecond = 10 // one at once
	k := load(t, cfg)
	pin(t, 0)
	arp := make([]byte, 60)
	binary.BigEndian.PutUint16(arp[12:], 0x0806)
	for range 5 {
		inject(t, k.objects.EgressL2, arp, nil)
	}
	there, _ := conversation(0)
	for range 4 {
		inject(t, k.objects.EgressL2, there, nil)
	}
	got := read(t, k)
	require.Len(t, got, 2)
	require.Equal(t, packet.ReasonRandom, got[0].Reasons)
	require.Equal(t, packet.ReasonFlow|packet.ReasonFirst, got[1].Reasons)
	require.Equal(t, Samples{
		{Selected: 9, Emitted: 1, RateLimited: 8}, {Selected: 4, Emitted: 1, RateLimited: 3}, {Selected: 2, Emitted: 1, RateLimited: 1},
	}, drain(t, k).Samples)
	time.Sleep(150 * time.Millisecond)
	read(t, k)                              // grants
	k.sampling.samplers[0].Chance = 1 << 31 // or random credit would wait for one of as many as before
	inject(t, k.objects.EgressL2, there, nil)
	got = read(t, k)
	require.Len(t, got, 1)
	require.Equal(t, packet.ReasonRandom|packet.ReasonFlow, got[0].Reasons)
	require.Equal(t, []uint64{9, 4}, []uint64{got[0].Pool, uint64(got[0].FlowPool)}, "itself and those that were left out")
}

// What finds the ring full is counted for each kind that had chosen it.
func TestFullRingIsCountedForEachKind(t *testing.T) {
	const buffers = 2000
	cfg := flows(Config{RandomOneIn: 1, FlowOneIn: 1, FirstPerFlow: 1000, cpus: []int{0}})
	cfg.SnapLength, cfg.ring = 1500, minRing
	k := load(t, cfg)
	pin(t, 0)
	frame := udpFrame(1, 2, 3, 4, 1500)
	for range buffers {
		inject(t, k.objects.EgressL2, frame, nil)
	}
	got := drain(t, k).Samples
	emitted := uint64(len(read(t, k)))
	require.Positive(t, emitted)
	all := SampleCounts{Selected: buffers, Emitted: emitted, RingFull: buffers - emitted}
	require.Equal(t, Samples{all, all, {Selected: 1000, Emitted: emitted, RingFull: 1000 - emitted}}, got)
}

// Without a slot there is no flow to choose: only random samples tell of such packets.
func TestPacketsWithoutASlotAreNoSamplesOfFlows(t *testing.T) {
	k := load(t, flows(Config{FlowOneIn: 1, FirstPerFlow: 3, Slots: MinSlots, cpus: []int{0}}))
	pin(t, 0)
	arp := make([]byte, 60)
	binary.BigEndian.PutUint16(arp[12:], 0x0806)
	inject(t, k.objects.EgressL2, arp, nil)
	require.Empty(t, read(t, k))
	for n := range 2 * MinSlots {
		there, _ := conversation(4 * n)
		inject(t, k.objects.EgressL2, there, nil)
	}
	got := drain(t, k)
	overflow := got.Ledger.Entries[flow.ReasonOverflow].Packets
	require.Positive(t, overflow)
	require.Len(t, read(t, k), 2*MinSlots-int(overflow))
}

// Inside of tunnels it is the inner tuple that is chosen. The ends of the tunnel tell beginnings apart, its ids do not.
func TestFlowsInsideOfTunnelsAreChosen(t *testing.T) {
	cfg := flows(Config{FlowOneIn: 4, FirstPerFlow: 1, Tunnels: true})
	k, plain := load(t, cfg), load(t, flows(Config{FlowOneIn: 4}))
	pin(t, 0)
	for n := range 200 {
		there, back := conversation(4 * n)
		want := chosen(t, plain, plain.objects.EgressL2, [][]byte{there})[0]
		for i, f := range [][]byte{there, back, there, back} {
			near, far, vni := uint32(0xac100001), uint32(0xac100002+i/2), uint32(1+i%2)
			if i%2 == 1 {
				near, far = far, near
			}
			inject(t, k.objects.EgressL2, vxlanFrame(near, far, vni, f), nil)
			got := read(t, k)
			var reasons packet.Reasons
			if len(got) > 0 {
				reasons = got[0].Reasons
			}
			require.Equal(t, want, reasons.Has(packet.KindFlow))
			require.Equal(t, i%2 == 0, reasons.Has(packet.KindFirst), "conversation %d, frame %d", n, i)
		}
	}
	for _, s := range drain(t, k).slots {
		require.Equal(t, flow.TunnelVXLAN, s.Tunnel.Kind)
	}
}

// vxlanFrame carries a frame over IPv4.
func vxlanFrame(src, dst, vni uint32, inner []byte) []byte {
	f := udpFrame(src, dst, 50000, 4789, 50)
	f[42] = 8 // the VNI is valid
	binary.BigEndian.PutUint32(f[46:], vni<<8)
	return append(f, inner...)
}

func TestFlowKindsTakeMemoryOnlyWhenOn(t *testing.T) {
	off := load(t, flows(Config{RandomOneIn: 10}))
	byFlow := load(t, flows(Config{FlowOneIn: 10}))
	first := load(t, flows(Config{FirstPerFlow: 10}))
	require.Equal(t, off.MemoryBytes(), byFlow.MemoryBytes())
	require.InDelta(t, off.MemoryBytes()+88*firstFlows, first.MemoryBytes(), 1<<20, "docs/performance.md")
	t.Logf("%d bytes more", first.MemoryBytes()-off.MemoryBytes())
}
