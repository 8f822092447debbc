// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/frames"
)

// FuzzParsersAgree sends frames that nobody thought of through the kernel program and through packet.Decode. A drain waits
// for a grace period, so each input becomes a batch: itself, and what chance makes of it, of known frames and of headers.
func FuzzParsersAgree(f *testing.F) {
	outer, inner := loadEvery(f, Config{fragments: -1, injected: true}), loadEvery(f, Config{fragments: -1, injected: true, Tunnels: true})
	known := slices.Concat(frames.All, captures(f))
	for i, frame := range slices.Concat(frames.All, frames.Inside) {
		f.Add(frame.L3, uint64(i), frame.Data)
	}
	f.Fuzz(func(t *testing.T, l3 bool, seed uint64, data []byte) {
		pin(t, 0)
		base := frames.Frame{L3: l3, Data: data[:min(len(data), frames.MaxRandom)]}
		r := rand.New(rand.NewPCG(seed, 0))
		outer.requireAgreement(t, batchOf(r, &base, known))
		inner.requireAgreement(t, tunnelsOf(r, &base, known))
	})
}

// What FuzzParsersAgree draws reaches every outcome of the parsers, each often enough for chance to vary it.
func TestRandomFramesReachEveryOutcome(t *testing.T) {
	objects, known := loadEvery(t, Config{fragments: -1, injected: true}), slices.Concat(frames.All, captures(t))
	pin(t, 0)
	r := rand.New(rand.NewPCG(1, 2))
	reasons, flows, links, total := map[flow.Reason]int{}, map[string]int{}, map[uint16]int{}, 0
	for range 60 {
		batch := batchOf(r, &known[r.IntN(len(known))], known)
		objects.requireAgreement(t, batch)
		for i := range batch {
			if s := &batch[i]; !s.refused {
				total++
				reasons[s.want.Reason]++
				if s.want.Reason == flow.ReasonAccounted {
					flows[kindOf(&s.want.Key)]++
					link, _ := ipIn(&s.Frame)
					links[link]++
				}
			}
		}
	}
	t.Logf("%d frames compared, %d refused by BPF_PROG_TEST_RUN", total, objects[0].refused)
	unreachable := []flow.Reason{flow.ReasonOverflow, flow.ReasonFiltered, flow.ReasonDuplicate, flow.ReasonShortEthernet}
	for r := range flow.ReasonCount {
		t.Logf("%6.2f %% reason %d, %s", share(reasons[r], total), r, r.Entry())
		if !slices.Contains(unreachable, r) {
			assert.Greater(t, share(reasons[r], total), 0.1, "reason %d, %s", r, r.Entry())
		}
	}
	for _, link := range []uint16{noLink, 0x0800, 0x86dd, 0x8847, 0x8848, 0x8864} {
		t.Logf("%6.2f %% of ethertype %#04x accounted", share(links[link], total), link)
		assert.Greater(t, share(links[link], total), 0.5, "ethertype %#04x", link)
	}
	for _, kind := range slices.Sorted(maps.Keys(flows)) {
		t.Logf("%6.2f %% %s", share(flows[kind], total), kind)
	}
	assert.Len(t, flows, 6*2*2*2, "kinds of flows: transport, IPv6 or not, tagged or not, later fragment or not")
}

// What real tools sent counts the same in both directions, also as segmented buffers: TestParsersAgreeOnCaptures looks at
// one frame at a time, and not at TCP flags and the length of headers.
func TestCapturesCountAsSegmentedBuffers(t *testing.T) {
	objects := loadEvery(t, Config{fragments: -1, injected: true})
	pin(t, 0)
	r := rand.New(rand.NewPCG(3, 4))
	segmented := 0
	for range 4 {
		var batch []shot
		for _, f := range captures(t) {
			s := newShot(r, f.L3, f.Data)
			segmented += int(min(s.gso.GSOSize, 1))
			batch = append(batch, s)
		}
		objects.requireAgreement(t, batch)
	}
	require.Greater(t, segmented, 500)
}

// The same inside of tunnels: what is read of most, and what is not.
func TestRandomTunnelsReachEveryOutcome(t *testing.T) {
	objects, known := loadEvery(t, Config{fragments: -1, injected: true, Tunnels: true}), slices.Concat(frames.All, captures(t))
	pin(t, 0)
	r := rand.New(rand.NewPCG(5, 6))
	kinds, segmented, total := map[string]int{}, 0, 0
	for range 60 {
		batch := tunnelsOf(r, &known[r.IntN(len(known))], known)
		objects.requireAgreement(t, batch)
		for i := range batch {
			if s := &batch[i]; !s.refused {
				total++
				tunnel := &s.want.Key.Tunnel
				kinds[fmt.Sprintf("%q, over IPv6 %t, id %t", tunnel.Kind, tunnel.IPv6, tunnel.HasID)]++
				if tunnel.Kind != 0 && s.gso.GSOSize != 0 {
					segmented++
				}
			}
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		t.Logf("%6.2f %% %s", share(kinds[kind], total), kind)
		assert.Greater(t, share(kinds[kind], total), 0.1, kind)
	}
	assert.Len(t, kinds, 1+5*2, "none; VXLAN, Geneve, GRE with and without key, IP in IP, each over both versions")
	assert.Greater(t, share(segmented, total), 1.0)
}

func captures(tb testing.TB) (all []frames.Frame) {
	tb.Helper()
	paths, err := filepath.Glob("../../testdata/pcap/*.pcap")
	require.NoError(tb, err)
	require.NotEmpty(tb, paths)
	for _, path := range paths {
		captured, err := frames.ReadPcap(path)
		require.NoError(tb, err)
		all = append(all, captured...)
	}
	return all
}

func share(n, of int) float64 { return 100 * float64(n) / float64(of) }

// kindOf tells apart the keys that parsers come to on different ways.
func kindOf(k *flow.Key) string {
	transport := map[uint8]string{1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}[k.Proto]
	if transport == "" {
		transport = "by number"
	}
	return fmt.Sprintf("%s, IPv6 %t, tagged %t, later fragment %t", transport, k.IPv6, k.Tagged, k.LaterFragment)
}

const batchSize = 512

// batchOf is base, frames made of base, frames made of known ones, and frames that were never one.
func batchOf(r *rand.Rand, base *frames.Frame, known []frames.Frame) []shot {
	batch := []shot{newShot(r, base.L3, base.Data)}
	for len(batch) < batchSize/4 {
		batch = append(batch, newShot(r, base.L3, frames.Mutate(r, base.Data)))
	}
	for len(batch) < batchSize/2 {
		f := &known[r.IntN(len(known))]
		batch = append(batch, newShot(r, f.L3, frames.Mutate(r, f.Data)))
	}
	for len(batch) < batchSize {
		f := frames.Random(r)
		batch = append(batch, newShot(r, f.L3, f.Data))
	}
	return batch
}

// tunnelsOf is batchOf with all but a few in tunnels.
func tunnelsOf(r *rand.Rand, base *frames.Frame, known []frames.Frame) []shot {
	var batch []shot
	for _, s := range batchOf(r, base, known) {
		f := s.Frame
		if r.IntN(16) != 0 {
			f = frames.Encapsulate(r, &f)
		}
		f.Inside = true
		batch = append(batch, shotOf(r, f))
	}
	return batch
}

// shot is one run of a program, and what packet.Decode says of its frame.
type shot struct {
	frames.Frame
	direction flow.Direction
	gso       skbContext // zero: a plain buffer
	want      packet.Packet
	refused   bool // by BPF_PROG_TEST_RUN: not seen by the program
}

// newShot makes some accounted frames segmented buffers: what they count for tells where the program sees the headers end.
func newShot(r *rand.Rand, l3 bool, data []byte) shot {
	return shotOf(r, frames.Frame{L3: l3, Data: data})
}

func shotOf(r *rand.Rand, f frames.Frame) shot {
	s := shot{Frame: f, direction: flow.Direction(r.IntN(2))}
	sample := s.Sample()
	sample.IfIndex = loopback
	packet.Decode(&sample, &s.want)
	if s.want.Reason == flow.ReasonAccounted && !walkedFurther(&s) && r.IntN(2) == 0 {
		s.gso.GSOSize = 1 + r.Uint32N(1500)
		s.gso.GSOSegs = r.Uint32N(4) // 0: as virtio leaves it
	}
	return s
}

// walkedFurther reports whether the program looks at more of a segmented buffer than packet.Decode does of a packet: headers
// inside of tunnels, and the jumbo option of IPv6.
func walkedFurther(s *shot) bool {
	key := &s.want.Key
	if key.Tunnel.IPv6 {
		return true // the option may be outside
	}
	switch key.Proto {
	case unix.IPPROTO_UDP:
		if slices.Contains([]uint16{4789, 6081, 8472}, key.DstPort) {
			return true
		}
	case unix.IPPROTO_GRE, unix.IPPROTO_IPIP, unix.IPPROTO_IPV6:
		return true
	}
	if key.Tunnel.Kind != 0 {
		return false
	}
	_, at := ipIn(&s.Frame)
	ip := s.Data[at:]
	const hopByHop = 0
	return key.IPv6 && ip[4] == 0 && ip[5] == 0 && ip[6] == hopByHop
}

const noLink = 0 // in place of an ethertype, without link header

// ipIn says where the IP header of an accounted frame begins, and the first ethertype that is no tag's.
func ipIn(f *frames.Frame) (etherType uint16, at int) {
	if f.L3 {
		return noLink, 0
	}
	const firstEtherType = 12
	at = firstEtherType
	for etherType = 0x8100; etherType == 0x8100 || etherType == 0x88a8; at += 4 {
		etherType = binary.BigEndian.Uint16(f.Data[at:])
	}
	at -= 2 // from behind where another ethertype would end
	switch etherType {
	case 0x8847, 0x8848:
		for f.Data[at+2]&1 == 0 { // not the bottom of the stack
			at += 4
		}
		at += 4
	case 0x8864:
		at += 6 + 2 - int(f.Data[at+6]&1) // an odd first byte is all there is of the protocol
	}
	return etherType, at
}

// volume is what the buffer is on the wire: its headers come once more with each further segment.
func (s *shot) volume() flow.Volume {
	length, headers, size := uint64(len(s.Data)), uint64(s.want.HeaderLen), uint64(s.gso.GSOSize)
	segments := uint64(s.gso.GSOSegs)
	switch {
	case size == 0 || segments == 0 && length <= headers:
		segments = 1
	case segments == 0:
		segments = (length - headers + size - 1) / size
	}
	return flow.Volume{Packets: segments, Bytes: length + (segments-1)*headers}
}

func (s *shot) String() string {
	return fmt.Sprintf("%s, without link header %t, GSO size %d, segments %d, frame %x",
		s.direction, s.L3, s.gso.GSOSize, s.gso.GSOSegs, s.Data)
}

// differential runs batches through the programs of one Kernel.
type differential struct {
	k       *Kernel
	out     [frames.MaxRandom + 64]byte
	refused int // frames of all batches
}

// every is each object that the programs are compiled to, as far as it does what is asked for.
type every []differential

func loadEvery(tb testing.TB, cfg Config) every {
	tb.Helper()
	var e every
	for _, cfg.object = range []object{objectPlain, objectFull, objectOld} {
		if cfg.object != objectPlain || !cfg.Tunnels {
			e = append(e, differential{k: load(tb, cfg)})
		}
	}
	return e
}

func (e every) requireAgreement(t *testing.T, batch []shot) {
	t.Helper()
	for i := range e {
		e[i].requireAgreement(t, batch)
	}
}

// requireAgreement fails with the one frame that is counted otherwise than packet.Decode says, if one alone is.
func (d *differential) requireAgreement(t *testing.T, batch []shot) {
	t.Helper()
	difference := d.compare(t, batch)
	if difference == "" {
		refused := 0
		for i := range batch {
			if batch[i].refused {
				refused++
			}
		}
		d.refused += refused
		require.Less(t, refused, len(batch)/2, "BPF_PROG_TEST_RUN refuses most frames: too little is compared")
		return
	}
	culprit := d.bisect(t, batch)
	if len(culprit) == 1 {
		difference = d.compare(t, culprit) + culprit[0].String()
	}
	require.Fail(t, "the kernel program and packet.Decode differ", "in %d frames\n%s", len(culprit), difference)
}

// bisect returns the smallest part of a batch that it comes to in which there still is a difference.
func (d *differential) bisect(t *testing.T, batch []shot) []shot {
	for len(batch) > 1 {
		half := len(batch) / 2
		switch {
		case d.compare(t, batch[:half]) != "":
			batch = batch[:half]
		case d.compare(t, batch[half:]) != "":
			batch = batch[half:]
		default:
			return batch
		}
	}
	return batch
}

// compare returns what the programs count otherwise than packet.Decode says, "" if nothing.
func (d *differential) compare(t *testing.T, batch []shot) string {
	t.Helper()
	want, got := newTally(), newTally()
	for i := range batch {
		if d.run(t, &batch[i]); !batch[i].refused {
			want.add(&batch[i])
		}
	}
	drained, err := d.k.Drain(got.addSlot)
	require.NoError(t, err)
	got.seen, got.entries = drained.Ledger.Seen, drained.Ledger.Entries
	for _, c := range drained.Classes {
		got.addClass(c)
	}
	var lines []string
	for _, m := range drained.Mismatches {
		lines = append(lines, fmt.Sprintf("identity that does not hold: %+v\n", m))
	}
	return strings.Join(append(lines, want.differences(got)...), "")
}

// run is inject for frames that BPF_PROG_TEST_RUN may refuse.
func (d *differential) run(t *testing.T, s *shot) {
	t.Helper()
	opts := ebpf.RunOptions{Data: s.Data, DataOut: d.out[:]}
	if s.gso.GSOSize != 0 {
		opts.Context = &s.gso
	}
	verdict, err := d.k.programFor(t, s.L3, s.direction).Run(&opts)
	s.refused = errors.Is(err, unix.EINVAL) && refused(&s.Frame)
	if s.refused {
		return
	}
	if err != nil || verdict != tcxNext || !bytes.Equal(s.Data, opts.DataOut) {
		require.Fail(t, "not an observer", "verdict %d, error %v, after it frame %x\n%s", verdict, err, opts.DataOut, s)
	}
}

// tally is what a batch counts as, in maps so that order does not matter.
type tally struct {
	seen    flow.Volume
	entries [flow.ReasonCount]flow.Volume
	flows   map[flowID]flowTotal
	classes map[Class]flow.Volume // by a class without its volume
}

type flowID struct {
	flow.Key
	direction flow.Direction
}

// flowTotal is what a slot says of its packets.
type flowTotal struct {
	flow.Volume
	tcpFlags  uint8
	handshake flow.Handshake
}

func newTally() *tally {
	return &tally{flows: map[flowID]flowTotal{}, classes: map[Class]flow.Volume{}}
}

// add counts as the kernel should.
func (y *tally) add(s *shot) {
	volume, p := s.volume(), &s.want
	y.seen.Add(volume)
	y.entries[p.Reason].Add(volume)
	if p.Reason != flow.ReasonAccounted {
		c := Class{Reason: p.Reason, IfIndex: loopback, Direction: s.direction, Volume: volume}
		if p.Reason == flow.ReasonEtherType {
			c.EtherType = p.EtherType
		}
		y.addClass(c)
		return
	}
	slot := flow.Slot{Key: p.Key, Direction: s.direction, TCPFlags: p.TCPFlags, Volume: volume}
	const syn, ack = 0x02, 0x10
	switch p.TCPFlags & (syn | ack) {
	case syn:
		slot.Handshake = flow.HandshakeSYN
	case syn | ack:
		slot.Handshake = flow.HandshakeSYNACK
	}
	y.addSlot(&slot)
}

func (y *tally) addSlot(s *flow.Slot) {
	id := flowID{s.Key, s.Direction}
	f := y.flows[id]
	f.Add(s.Volume)
	f.tcpFlags |= s.TCPFlags
	f.handshake |= s.Handshake
	y.flows[id] = f
}

func (y *tally) addClass(c Class) {
	volume := c.Volume
	c.Volume = flow.Volume{}
	volume.Add(y.classes[c])
	y.classes[c] = volume
}

// differences has a line for everything that y, what should be, and got do not share.
func (y *tally) differences(got *tally) (lines []string) {
	y.spare(got)
	lines = append(lines, unequal("flow", y.flows, got.flows)...)
	lines = append(lines, unequal("class", y.classes, got.classes)...)
	if y.seen != got.seen || y.entries != got.entries {
		lines = append(lines, fmt.Sprintf("ledger: Decode %+v %+v, kernel %+v %+v\n", y.seen, y.entries, got.seen, got.entries))
	}
	return lines
}

// spare moves what found no class slot in the kernel to where the kernel puts it: a class without interface and ethertype.
// There are 256 slots and 65,536 ethertypes.
func (y *tally) spare(got *tally) {
	for c, volume := range maps.Clone(y.classes) {
		spare := Class{Reason: c.Reason, Direction: c.Direction}
		_, counted := got.classes[c]
		if _, spared := got.classes[spare]; spared && !counted {
			delete(y.classes, c)
			spare.Volume = volume
			y.addClass(spare)
		}
	}
}

func unequal[K comparable, V comparable](what string, want, got map[K]V) (lines []string) {
	for key, volume := range want {
		if found, ok := got[key]; !ok {
			lines = append(lines, fmt.Sprintf("%s only of Decode: %+v %+v\n", what, key, volume))
		} else if found != volume {
			lines = append(lines, fmt.Sprintf("%s %+v: Decode %+v, kernel %+v\n", what, key, volume, found))
		}
	}
	for key, volume := range got {
		if _, ok := want[key]; !ok {
			lines = append(lines, fmt.Sprintf("%s only of the kernel: %+v %+v\n", what, key, volume))
		}
	}
	return lines
}
