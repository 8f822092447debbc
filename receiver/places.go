// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// missingTimeout is after how long without an attached interface the status says so.
const missingTimeout = 10 * time.Second

// place is where packets were counted, in words. Empty words are left out of what is told.
type place struct {
	iface     string
	namespace string // empty also where only the own namespace is to be observed
}

// view is what is known of all observed places. Its maps are never written.
type view struct {
	names      map[flow.Place]place // of all interfaces that may have counted
	attached   map[flow.Place]bool
	attachings map[flow.Place]uint64 // which attaching of ours it was, of what is attached: attached again, it was another one
	spaces     map[uint32]string     // names of namespaces, by number
	low        map[uint16]uint16     // first port that clients are given, by number of the namespace
}

// of returns the words of a place. Of an interface that is not known, the namespace is; where the kernel program ran out of room to keep
// the one, it did not keep the other. Nil knows nothing.
func (v *view) of(p flow.Place) place {
	if v == nil {
		return place{}
	}
	if words, ok := v.names[p]; ok || p.IfIndex == 0 {
		return words
	}
	return place{namespace: v.spaces[p.NetNS]}
}

// spaceView is what one namespace says of its interfaces. It is never written.
type spaceView struct {
	name       string
	low        uint16
	names      map[uint32]string // by index
	attached   map[uint32]bool
	attachings map[uint32]uint64 // as in view
	counts     [stateCount]int64
}

// places holds what all namespaces say. Its methods may be called from anywhere.
type places struct {
	mu      sync.Mutex
	said    map[uint16]*spaceView // by number
	current atomic.Pointer[view]
	counts  [stateCount]atomic.Int64
	since   time.Time // when nothing has been attached, as far as anybody asked; zero: something was

	attachings atomic.Uint64 // so far
}

func (p *places) now() *view {
	if v := p.current.Load(); v != nil {
		return v
	}
	return &view{}
}

// attached returns at how many interfaces packets are counted.
func (p *places) attached() int64 { return p.counts[stateAttached].Load() }

// missing reports whether nothing has been attached for so long, with nothing waiting for it, that the status is to say so.
func (p *places) missing(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.attached() > 0:
		p.since = time.Time{}
	case p.since.IsZero():
		p.since = now
	}
	return p.attached() == 0 && p.counts[statePending].Load() == 0 && now.Sub(p.since) >= missingTimeout
}

// say replaces what namespace number said before; nil: it is forgotten.
func (p *places) say(number uint16, s *spaceView) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.said == nil {
		p.said = map[uint16]*spaceView{}
	}
	if s == nil {
		delete(p.said, number)
	} else {
		p.said[number] = s
	}
	p.current.Store(p.merged())
	for state := range stateCount {
		var sum int64
		for _, s := range p.said {
			sum += s.counts[state]
		}
		p.counts[state].Store(sum)
	}
}

func (p *places) merged() *view {
	v := &view{map[flow.Place]place{}, map[flow.Place]bool{}, map[flow.Place]uint64{}, map[uint32]string{}, map[uint16]uint16{}}
	for number, s := range p.said {
		space := uint32(number)
		v.spaces[space], v.low[number] = s.name, s.low
		for index, name := range s.names {
			v.names[flow.Place{NetNS: space, IfIndex: index}] = place{name, s.name}
		}
		for index := range s.attached {
			v.attached[flow.Place{NetNS: space, IfIndex: index}] = true
		}
		for index, n := range s.attachings {
			v.attachings[flow.Place{NetNS: space, IfIndex: index}] = n
		}
	}
	return v
}
