// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"path"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/netns"
)

// fakeSpace is another network namespace of a fakeHost, whose lock it shares.
type fakeSpace struct {
	host     *fakeHost
	id       netns.ID
	ifaces   []iface.Interface
	low      uint16
	own      map[uint32]iface.Counters
	ownErr   error
	slow     time.Duration // that telling own takes
	holdErr  error
	listErr  error
	held     int            // how often it is open
	number   uint16         // while it is observed
	attached map[uint32]int // hooks by ifindex
	watching int
}

var fakeOwn = netns.ID{Device: 4, Inode: 1}

// newSpace makes a namespace that can be found at paths.
func (h *fakeHost) newSpace(inode uint64, paths ...string) *fakeSpace {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &fakeSpace{host: h, id: netns.ID{Device: 4, Inode: inode}, attached: map[uint32]int{}, low: defaultEphemeralLow, ifaces: []iface.Interface{ethernet(1, "eth0")}}
	for _, p := range paths {
		h.spaces[p] = s
	}
	return s
}

func (h *fakeHost) ownSpace() (netns.ID, error) { return fakeOwn, nil }

func (h *fakeHost) findSpaces(patterns []string) (found []netns.Found, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.blind {
		return nil, h.findErr
	}
	for _, pattern := range patterns {
		for _, p := range slices.Sorted(maps.Keys(h.spaces)) {
			if ok, _ := path.Match(pattern, p); ok {
				found = append(found, netns.Found{Path: p, ID: h.spaces[p].id})
			}
		}
	}
	return found, h.findErr
}

func (h *fakeHost) spaceGone(f netns.Found) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.spaces[f.Path]
	return s == nil || s.id != f.ID
}

func (h *fakeHost) holdSpace(f netns.Found) (heldSpace, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.spaces[f.Path]
	if s == nil || s.id != f.ID {
		return nil, fs.ErrNotExist
	}
	if s.holdErr != nil {
		return nil, s.holdErr
	}
	s.held++
	h.opening = s
	return s, nil
}

func (s *fakeSpace) handle() *netns.Namespace { return nil }

func (s *fakeSpace) close() error {
	s.host.do(func() { s.held-- })
	return nil
}

func (s *fakeSpace) interfaces() ([]iface.Interface, error) {
	s.host.mu.Lock()
	defer s.host.mu.Unlock()
	return slices.Clone(s.ifaces), s.listErr
}

func (s *fakeSpace) counters() (map[uint32]iface.Counters, error) {
	s.host.mu.Lock()
	defer s.host.mu.Unlock()
	time.Sleep(s.slow)
	return s.own, s.ownErr
}

func (s *fakeSpace) watch(ctx context.Context, changed func()) error {
	s.host.do(func() { s.watching++ })
	changed()
	<-ctx.Done()
	s.host.do(func() { s.watching-- })
	return nil
}

func (s *fakeSpace) ephemeralLow() uint16 { return s.low }

// Observe follows the hold of the same namespace.
func (s fakeSource) Observe(number uint16, _ *netns.Namespace) (observation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opening.number != 0 {
		return nil, errors.New("it is observed already")
	}
	s.opening.number = number
	return fakeObservation{s.opening}, nil
}

type fakeObservation struct{ *fakeSpace }

func (o fakeObservation) Attach(i iface.Interface, _ flow.Direction) error {
	o.host.mu.Lock()
	defer o.host.mu.Unlock()
	if err := o.host.attachErr[i.Name]; err != nil {
		return err
	}
	o.attached[i.Index]++
	return nil
}

func (o fakeObservation) DropLost(uint32) (int, error)          { return 0, nil }
func (o fakeObservation) Sweep(iface.Interface) (int, error)    { return 0, nil }
func (o fakeObservation) Stack(map[uint32]iface.Stacking) error { return nil }
func (o fakeObservation) Detach(index uint32) error {
	o.host.do(func() { delete(o.attached, index) })
	return nil
}

func (o fakeObservation) Close() error {
	o.host.do(func() { o.fakeSpace.number, o.fakeSpace.attached = 0, map[uint32]int{} })
	return nil
}

// free checks that nobody holds or observes s any more.
func (s *fakeSpace) free(t *testing.T) {
	t.Helper()
	s.host.do(func() {
		assert.Zero(t, s.held, "held")
		assert.Zero(t, s.number, "observed")
		assert.Zero(t, s.watching, "watched")
		assert.Empty(t, s.attached)
	})
}
