// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package kernel

import (
	crand "crypto/rand"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
)

// sampling is user space's half of the samplers: it draws the gaps, grants the credit and reads the ring.
type sampling struct {
	ring     *ringbuf.Reader
	samplers []bpfSampler
	drawn    []uint32 // by sampler: entries of skips replaced so far, modulo 2^32
	demands  []demand // by sampler
	random   *rand.Rand
	oneIn    float64                   // 0: none at random
	inside   bool                      // of tunnels is where flows are
	snap     int                       // bytes of a sample, whatever was copied
	credit   [packet.KindCount]*credit // of each kind, which are off too: nobody asks for that
	record   ringbuf.Record
	out      packet.Sample
}

func newSampling(cfg Config, ring *ebpf.Map, memory []byte, r *regions) (*sampling, error) {
	regions := len(cfg.cpus)
	reader, err := ringbuf.NewReader(ring)
	if err != nil {
		return nil, fmt.Errorf("open the sample ring: %w", err)
	}
	if cfg.Seed == ([32]byte{}) {
		_, _ = crand.Read(cfg.Seed[:]) // never fails
	}
	random := rand.New(rand.NewChaCha8(cfg.Seed))
	s := &sampling{
		ring:     reader,
		samplers: unsafe.Slice((*bpfSampler)(unsafe.Pointer(&memory[0])), regions),
		drawn:    make([]uint32, regions),
		demands:  make([]demand, regions),
		random:   random,
		oneIn:    float64(cfg.RandomOneIn),
		inside:   cfg.Tunnels,
		snap:     cfg.SnapLength,
	}
	now := time.Now()
	for kind := range s.credit {
		s.credit[kind] = newCredit(float64(cfg.MaxPerSecond), regions, now, random)
	}
	for i := range s.samplers {
		s.begin(i, r)
	}
	s.grant(s.credit[packet.KindRandom].last)
	return s, nil
}

// begin fills all skips and draws the gaps before the first samples too: no CPU samples its first buffer for certain.
func (s *sampling) begin(number int, r *regions) {
	one := &s.samplers[number]
	for i := range one.Skips {
		one.Skips[i] = s.skip()
	}
	for buffer := range uint32(2) {
		h := r.at(number, buffer).header
		h.Gap = s.skip()
		h.Countdown = h.Gap
	}
	one.Key = s.random.Uint64()
}

// skip draws the number of buffers before the next sample: geometric, so that every buffer is chosen with probability 1/N
// independently of all others.
func (s *sampling) skip() uint32 {
	if s.oneIn <= 1 {
		return 0
	}
	gap := math.Log(1-s.random.Float64()) / math.Log1p(-1/s.oneIn)
	return uint32(min(gap, math.MaxUint32))
}

// refresh replaces the skips that were used since the last time.
func (s *sampling) refresh(now time.Time) {
	for i := range s.samplers {
		one := &s.samplers[i]
		cursor := atomic.LoadUint32(&one.Cursor)
		selected := cursor - s.drawn[i]
		s.demands[i].note(selected, now.Sub(s.credit[packet.KindRandom].last))
		used := min(selected, uint32(len(one.Skips)))
		for n := range used {
			one.Skips[(cursor-1-n)%uint32(len(one.Skips))] = s.skip()
		}
		s.drawn[i] = cursor
	}
}

func (s *sampling) grant(now time.Time) {
	outstanding := make([]int32, len(s.samplers))
	for kind, c := range s.credit {
		for i := range s.samplers {
			outstanding[i] = int32(s.samplers[i].Allowed[kind] - atomic.LoadUint32(&s.samplers[i].Used[kind]))
		}
		for i, n := range c.grants(now, outstanding) {
			one := &s.samplers[i]
			if packet.Kind(kind) == packet.KindRandom {
				chance, plenty := s.demands[i].spread(uint32(outstanding[i]) + n) // nothing is sampled at random in advance
				atomic.StoreUint32(&one.Chance, uint32(chance*(1<<31)))
				atomic.StoreUint32(&one.Plenty, plenty)
			}
			atomic.StoreUint32(&one.Allowed[kind], one.Allowed[kind]+n)
		}
	}
}

// ReadSamples passes on every sample in the ring, without waiting for more, and grants credit for the next ones. Call it
// every 100 ms or less: MaxPerSecond of a kind is reached only if it is. It returns the number of samples read.
func (k *Kernel) ReadSamples(visit func(*packet.Sample)) (int, error) {
	if k.sampling == nil {
		return 0, nil
	}
	return k.sampling.poll(time.Now(), visit)
}

func (s *sampling) poll(at time.Time, visit func(*packet.Sample)) (int, error) {
	s.refresh(at)
	defer s.grant(at)
	now, err := wallClock()
	if err != nil {
		return 0, err
	}
	s.ring.SetDeadline(time.Unix(1, 0)) // past: take what is there
	for n := 0; ; n++ {
		if err := s.ring.ReadInto(&s.record); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				err = nil
			}
			return n, err
		}
		if err := s.decode(now); err != nil {
			return n, err
		}
		visit(&s.out)
	}
}

// MissedMessages grows whenever a packet that is part of a message was not copied: it had no credit, the ring had no room, or it had
// no slot, so that nobody knows whether it is part of one. It wraps. What was missed before the call is in it.
func (k *Kernel) MissedMessages() (n uint32) {
	if k.sampling == nil {
		return 0
	}
	for i := range k.sampling.samplers {
		n += atomic.LoadUint32(&k.sampling.samplers[i].Missed)
	}
	return n
}

const sampleHead = int(unsafe.Sizeof(bpfSample{}))

// enum sample_bits of bpf/contract.h
const (
	sampleEgress = 1 << iota
	sampleL3
	sampleTagged
	sampleNotIP
)

func (s *sampling) decode(now instant) error {
	raw := s.record.RawSample
	if len(raw) < sampleHead {
		return fmt.Errorf("read a sample: %d bytes, its head has %d", len(raw), sampleHead)
	}
	h := (*bpfSample)(unsafe.Pointer(&raw[0]))
	data := raw[sampleHead:]
	if int(h.Captured) > len(data) {
		return fmt.Errorf("read a sample: %d bytes captured, %d present", h.Captured, len(data))
	}
	s.out = packet.Sample{
		Time:      now.boot(h.BootNs),
		IfIndex:   h.Ifindex,
		NetNS:     h.Netns,
		Direction: flow.Direction(h.Bits & sampleEgress),
		Reasons:   packet.Reasons(h.Reasons),
		Pool:      h.Pool,
		FlowPool:  h.FlowPool,
		Number:    h.Number,
		Segments:  h.Segments,
		WireLen:   h.WireBytes,
		Inside:    s.inside,
		L3:        h.Bits&sampleL3 != 0,
		NotIP:     h.Bits&sampleNotIP != 0,
		Tagged:    h.Bits&sampleTagged != 0,
		VLANTCI:   h.VlanTci,
		VLANProto: h.VlanProto,
		Data:      data[:min(int(h.Captured), s.snap)], // the ring pads records to 8 bytes
	}
	if s.out.Reasons.Has(packet.KindProtocol) {
		s.out.Message = data[:h.Captured]
	}
	return nil
}

func (s *sampling) close() error { return s.ring.Close() }
