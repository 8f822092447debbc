// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"hash/maphash"
	"math"
	"time"
)

// watchTime is how long a tuple without handshake must have been silent before its next packet may be the first of a new
// conversation. It bounds both what we must have seen (Table.Watch) and what must be remembered: a UDP conversation that
// was silent for longer cannot be told from a new one. Two minutes are what conntrack, and so every NAT that Linux does,
// gives a UDP conversation that was answered: nf_conntrack_udp_timeout_stream.
const watchTime = int64(2 * time.Minute)

// memory holds the roles of flows that ended here and may go on outside: who speaks first after an idle timeout says
// nothing about who is the client. As many tuples as the table holds flows; the one remembered first is forgotten first.
//
// It takes 64 bytes per tuple (4.2 MB for 65,536, measured), allocated when needed and kept, and holds no pointers. A hash
// stands for the tuple: nobody can aim at a collision of seeded 64 bits, and among 65,536 tuples chance finds one in 2^48
// look-ups.
type memory struct {
	seed   maphash.Seed
	size   int // of ring when full; at least 1
	index  map[uint64]uint32
	ring   []memento // in order of remembering, beginning at oldest
	oldest int       // 0 until ring is full

	complete int64 // of the tuples without handshake, all that were alive later than this are remembered
}

// memento is what is left of a flow.
type memento struct {
	hash uint64
	last int64 // of its packets
	roles
}

func newMemory(size int) memory {
	return memory{seed: maphash.MakeSeed(), size: size, index: map[uint64]uint32{}, complete: math.MinInt64}
}

func (m *memory) hash(i *id) uint64 { return maphash.Comparable(m.seed, *i) }

// remember keeps what is known of a flow that ended.
func (m *memory) remember(f *Flow) {
	e := memento{m.hash(&f.id), f.last, f.roles}
	at := m.oldest
	if len(m.ring) < m.size {
		at = len(m.ring)
		m.ring = append(m.ring, e)
	} else {
		m.forget(at)
		m.ring[at] = e
		m.oldest = (at + 1) % m.size
	}
	m.index[e.hash] = uint32(at)
}

// forget drops entry at, unless its tuple was remembered again since. Flows with a handshake never rest on the first
// packet seen, so that those alone do not make the memory incomplete.
func (m *memory) forget(at int) {
	e := &m.ring[at]
	if m.index[e.hash] != uint32(at) {
		return
	}
	delete(m.index, e.hash)
	if e.initiator != InitiatorSYN {
		m.complete = max(m.complete, e.last)
	}
}

// recall returns the roles of the flow that i continues. Now is the end of the drain before: all slots of one drain get
// the same answer. A TCP connection may be silent for hours and goes on with the same roles: only a handshake begins
// another, and that decides by itself.
func (m *memory) recall(i *id, now int64) (roles, bool) {
	if len(m.ring) == 0 {
		return roles{}, false
	}
	at, ok := m.index[m.hash(i)]
	if !ok || i.Proto != protoTCP && m.ring[at].last+watchTime <= now {
		return roles{}, false
	}
	return m.ring[at].roles, true
}

// clear forgets everything.
func (m *memory) clear() {
	clear(m.index)
	m.ring, m.oldest, m.complete = m.ring[:0], 0, math.MinInt64
}
