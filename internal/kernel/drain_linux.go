// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package kernel

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
)

// of bpf/contract.h
const (
	stopped      = 2 // STOPPED
	indexPerSlot = 2 // INDEX_PER_SLOT
)

// drainState says which buffer the programs write.
type drainState struct {
	active  uint32
	flipped bool    // the other buffer has been written and is not read yet: an earlier barrier failed
	at      instant // of the flip, or of Stop: nothing in the quiet buffer is later
	stopped bool
}

// Drain makes the programs count into the other buffer, waits until none writes the old one, and takes everything from it:
// slots through visit, the rest as a result. No packet is lost or counted twice, at any rate. Slot is valid during visit
// only. If the barrier fails, nothing is taken and nothing is lost: the next Drain goes on where this one stopped.
func (k *Kernel) Drain(visit func(*flow.Slot)) (*Drained, error) {
	if failed := k.failed.Swap(nil); failed != nil {
		return nil, *failed
	}
	if err := k.flip(); err != nil {
		return nil, err
	}
	d := &Drained{Time: k.drain.at.unix, Booted: k.drain.at.booted}
	k.take(1-k.drain.active, visit, d)
	k.drain.flipped = false
	if k.drain.stopped {
		k.take(k.drain.active, visit, d)
	}
	return d, nil
}

func (k *Kernel) flip() error {
	if !k.drain.stopped && !k.drain.flipped {
		next := 1 - k.drain.active
		k.regions.redraw(next)
		if err := k.readClock(); err != nil {
			return err
		}
		atomic.StoreUint32(&k.control.Active, next)
		k.drain.active, k.drain.flipped = next, true
	}
	if err := k.barrier.wait(); err != nil {
		return fmt.Errorf("wait for running programs: %w", err)
	}
	return nil
}

// readClock keeps the last reading if it fails.
func (k *Kernel) readClock() error {
	at, err := k.clock.now()
	if err == nil {
		k.drain.at = at
	}
	return err
}

// stopCounting must not run beside Drain. Afterwards both buffers may hold counts.
func (k *Kernel) stopCounting() error {
	atomic.StoreUint32(&k.control.Active, stopped)
	k.drain.stopped = true
	clockErr := k.readClock()
	if clockErr != nil { // nobody reads it again: what is left must not bear the time of the last drain
		k.drain.at = k.drain.at.later()
	}
	if err := errors.Join(clockErr, k.barrier.wait()); err != nil {
		return fmt.Errorf("stop counting: %w", err)
	}
	return nil
}

// redraw gives a buffer new hash keys: an attacker cannot learn them, an unlucky draw does not last.
func (r *regions) redraw(buffer uint32) {
	var random [64]byte
	_, _ = rand.Read(random[:]) // never fails
	for number := range r.count {
		h := r.at(number, buffer).header
		for i := range h.HashKeys {
			h.HashKeys[i] = binary.NativeEndian.Uint32(random[4*i:])
		}
		h.HashOdd = binary.NativeEndian.Uint64(random[48:]) | 1
		h.HashOuter = binary.NativeEndian.Uint64(random[56:]) | 1
	}
}

// take reads and clears one quiet buffer of every region.
func (k *Kernel) take(buffer uint32, visit func(*flow.Slot), d *Drained) {
	for number := range k.regions.count {
		r := k.regions.at(number, buffer)
		if r.header.BuffersSeen == 0 {
			continue
		}
		sum := r.takeSlots(&k.drain.at, visit, d)
		d.Ledger.Entries[flow.ReasonAccounted].Add(sum)
		d.Slots = max(d.Slots, int(r.header.Used))
		sum.Add(r.takeClasses(d))
		sum.Add(d.takeWrapped(r.header.Packets - sum.Packets))
		d.check(number, r.header, sum)
		d.takeHeader(r.header)
	}
	k.takeLate(buffer, d)
}

// takeSlots reads the slots in the order of their first packets, which is that of memory. They need no clearing: a program that
// claims one sets all of it.
func (r *region) takeSlots(at *instant, visit func(*flow.Slot), d *Drained) (sum flow.Volume) {
	var out flow.Slot
	used := min(int(r.header.Used), len(r.slots))
	for i := range used {
		s := &r.slots[i]
		convert(s, &r.colds[i], at, &out)
		if s.Netns&keyTunnelled != 0 {
			out.Tunnel = tunnel(&r.outers[i])
		}
		if kind := s.Netns & keyQuoted >> keyQuotedShift; kind != 0 {
			d.takeQuote(flow.ICMPError(kind), &out) // it has no packets of its own
		} else {
			sum.Add(out.Volume)
			visit(&out)
		}
	}
	r.clearIndex(used)
	return sum
}

// clearIndex frees the entries of so many slots: one by one, unless that touches as many cache lines as all. If the program interrupted
// itself, which is told as a mismatch, there may be entries that no slot knows of.
func (r *region) clearIndex(used int) {
	const perLine = 64 / unsafe.Sizeof(r.index[0])
	if used >= len(r.index)/int(perLine) || r.header.Reentered > 0 {
		clear(r.index)
		return
	}
	for i := range used {
		r.index[int(r.colds[i].Position)&(len(r.index)-1)] = 0
	}
}

func (d *Drained) takeQuote(kind flow.ICMPError, s *flow.Slot) {
	d.Quotes = append(d.Quotes, flow.Quote{Key: s.Key, Direction: s.Direction, Error: kind, Count: s.Packets})
}

func (r *region) takeClasses(d *Drained) (sum flow.Volume) {
	for i := range r.classes {
		s := &r.classes[i]
		if s.Packets == 0 {
			continue
		}
		c := Class{
			Reason:    flow.Reason(s.SrcPort),
			EtherType: s.DstPort,
			IfIndex:   s.Ifindex,
			NetNS:     s.Netns & keyNetNS,
			Direction: direction(s.Bits),
			Volume:    flow.Volume{Packets: uint64(s.Packets), Bytes: s.Bytes},
		}
		d.Classes = append(d.Classes, c)
		d.Ledger.Entries[c.Reason].Add(c.Volume)
		sum.Add(c.Volume)
		*s = bpfSlot{}
	}
	return sum
}

// takeWrapped takes the packets that the header has and the slots have not, if it is their 32-bit counters that went round. It takes minutes
// without a drain. Whose they were nobody knows any more; their bytes are where they belong.
func (d *Drained) takeWrapped(missing uint64) flow.Volume {
	if missing == 0 || missing%(1<<32) != 0 {
		return flow.Volume{}
	}
	v := flow.Volume{Packets: missing}
	d.Classes = append(d.Classes, Class{Reason: flow.ReasonOverflow, Volume: v})
	d.Ledger.Entries[flow.ReasonOverflow].Add(v)
	return v
}

// check compares what the region says of itself; every difference is a defect of this project.
func (d *Drained) check(number int, h *bpfRegionHeader, sum flow.Volume) {
	equal := func(identity string, want, got uint64) {
		if want != got {
			d.Mismatches = append(d.Mismatches, Mismatch{identity, number, want, got})
		}
	}
	equal("buffers", h.BuffersSeen, h.BuffersCounted)
	equal("packets", h.Packets, sum.Packets)
	equal("bytes", h.Bytes, sum.Bytes)
	equal("reentered", 0, h.Reentered)
	for kind := range packet.KindCount {
		n := h.Samples[kind]
		equal("samples_"+kind.String(), n.Selected, n.Emitted+n.RateLimited+n.RingFull)
	}
}

func (d *Drained) takeHeader(h *bpfRegionHeader) {
	d.Ledger.Seen.Add(flow.Volume{Packets: h.Packets, Bytes: h.Bytes})
	d.Samples.Add(samples(h))
	d.QuotesLost += h.QuotesLost
	*h = bpfRegionHeader{Countdown: h.Countdown, Gap: h.Gap}
}

func samples(h *bpfRegionHeader) *Samples {
	var all Samples
	for kind, n := range h.Samples {
		all[kind] = SampleCounts{Selected: n.Selected, Emitted: n.Emitted, RateLimited: n.RateLimited, RingFull: n.RingFull}
	}
	return &all
}

// takeLate takes what CPUs counted that have no region.
func (k *Kernel) takeLate(buffer uint32, d *Drained) {
	for _, direction := range []flow.Direction{flow.DirectionIngress, flow.DirectionEgress} {
		late := &k.control.Late[2*buffer+uint32(direction)]
		if late.Buffers == 0 {
			continue
		}
		v := flow.Volume{Packets: late.Packets, Bytes: late.Bytes}
		d.Ledger.Seen.Add(v)
		d.Ledger.Entries[flow.ReasonOverflow].Add(v)
		d.Classes = append(d.Classes, Class{Reason: flow.ReasonOverflow, Direction: direction, Volume: v})
		d.LateCPU += v.Packets
		late.Buffers, late.Packets, late.Bytes = 0, 0, 0
	}
}

// enum key_bits of bpf/contract.h
const (
	keyVLANID        = 0x0fff
	keyTagged        = 0x1000
	keyLaterFragment = 0x2000
	keyIPv6          = 0x4000
	keyEgress        = 0x8000
)

// enum netns_bits
const (
	keyNetNS       = MaxNamespace
	keyQuoted      = 0x3000
	keyQuotedShift = 12
	keyTunnelled   = 0x8000
)

// enum outer_bits
const (
	outerIPv6 = 1
	outerID   = 2
)

func tunnel(o *bpfOuter) flow.Tunnel {
	return flow.Tunnel{
		Src:   *(*flow.Addr)(unsafe.Pointer(&o.SrcAddr)), // network byte order on both sides
		Dst:   *(*flow.Addr)(unsafe.Pointer(&o.DstAddr)),
		ID:    o.Id,
		Kind:  flow.TunnelKind(o.Kind),
		IPv6:  o.Bits&outerIPv6 != 0,
		HasID: o.Bits&outerID != 0,
	}
}

func direction(bits uint16) flow.Direction {
	if bits&keyEgress != 0 {
		return flow.DirectionEgress
	}
	return flow.DirectionIngress
}

// what bpf/contract.h says of struct slot .bytes, enum marks and enum fact_bits
const (
	bytesBits = 48
	bytesMask = 1<<bytesBits - 1

	factLabel          = 0x000fffff
	factHandshakeShift = 20 // of flow.Handshake
	factDSCPVaries     = 0x00400000
	factMACs           = 0x00800000
	factDSCPShift      = 26
)

// setFacts sets every field of f, one by one as convert does.
func setFacts(c *bpfCold, f *flow.Facts) {
	macs := (*[2]flow.MAC)(unsafe.Pointer(&c.Macs)) // as in the header: destination first
	f.CEPackets = uint64(c.CePackets)
	f.FlowLabel = c.Facts & factLabel
	f.SrcMAC = macs[1]
	f.DstMAC = macs[0]
	if f.HasMACs = c.Facts&factMACs != 0; !f.HasMACs { // they are those of a slot before
		f.SrcMAC, f.DstMAC = flow.MAC{}, flow.MAC{}
	}
	f.TTLMin = c.TtlMin
	f.TTLMax = c.TtlMax
	f.DSCP = uint8(c.Facts >> factDSCPShift)
	f.DSCPVaries = c.Facts&factDSCPVaries != 0
}

// convert sets every field of out. One by one: a literal is built elsewhere and copied.
func convert(s *bpfSlot, c *bpfCold, at *instant, out *flow.Slot) {
	out.SrcAddr = *(*flow.Addr)(unsafe.Pointer(&s.SrcAddr)) // network byte order on both sides
	out.DstAddr = *(*flow.Addr)(unsafe.Pointer(&s.DstAddr))
	out.SrcPort = s.SrcPort
	out.DstPort = s.DstPort
	out.IfIndex = s.Ifindex
	out.NetNS = s.Netns & keyNetNS
	out.VLAN = s.Bits & keyVLANID
	out.Proto = s.IpProto
	out.IPv6 = s.Bits&keyIPv6 != 0
	out.Tagged = s.Bits&keyTagged != 0
	out.LaterFragment = s.Bits&keyLaterFragment != 0
	out.Tunnel = flow.Tunnel{}
	out.Direction = direction(s.Bits)
	out.TCPFlags = s.TcpFlags
	out.Handshake = flow.Handshake(c.Facts >> factHandshakeShift & 3)
	out.Packets = uint64(s.Packets)
	out.Bytes = s.Bytes & bytesMask
	setFacts(c, &out.Facts)
	out.First = min(at.boot(c.FirstNs), at.unix) // a program that ran at the flip may have read the clock after it
	out.Last = max(min(at.jiffy(s.Last), at.unix), out.First)
}
