// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/ebpfpackets/ebpfpackets/internal/netns"
)

const (
	// maxNamespaces is how many are observed beside the receiver's own: each takes two or four programs, 0.4 MB of kernel memory or 0.8.
	maxNamespaces = 256
	// spaceInterval is how often paths are looked at. Nothing tells of a namespace that comes or goes: there are no events in /proc, and
	// those of a directory come before the namespace is mounted there. It is also how long one may live on for us alone.
	spaceInterval = 500 * time.Millisecond
	// spaceShare bounds the time that looking takes to one part of so many: of thousands of processes, a look takes milliseconds.
	spaceShare = 50
)

type spaceState uint8

const (
	spaceObserved spaceState = iota
	spaceFailed              // it cannot be held or entered; tried again
	spaceExcess              // beyond maxNamespaces
	spaceRefused             // paths that could not be looked at
	spaceStateCount
)

// namespaces keeps the interfaces of all chosen network namespaces attached. One goroutine calls its methods, except sorted.
type namespaces struct {
	host     platform
	source   source
	patterns []string // of others; empty: the receiver's own namespace is the only one
	own      bool     // that one is chosen, whatever the patterns match
	ownID    netns.ID // iff there are patterns
	limit    int
	places   *places
	base     *interfaces // what all have in common, and nothing else
	keep     time.Duration

	looking  sync.WaitGroup
	mu       sync.Mutex              // of all, for sorted
	all      map[netns.ID]*namespace // zero: the receiver's own
	failures map[netns.ID]*spaceFailure
	former   map[uint16]time.Time // numbers whose flows may still be told, and since when their namespace is gone
	last     uint16               // number given last
	excess   int
	findErr  error
	refused  int // paths that could not be looked at
	took     time.Duration
	warned   bool // of the excess
	counts   [spaceStateCount]atomic.Int64
}

// spaceFailure is a namespace that could not be observed.
type spaceFailure struct {
	path  string
	err   error
	tries int
	retry time.Time
}

func newNamespaces(c *Config, host platform, source source, base *interfaces, p *places) (*namespaces, error) {
	patterns, own, err := netns.ParsePatterns(c.Namespaces)
	if err != nil {
		return nil, fmt.Errorf("namespaces: %w", err)
	}
	n := &namespaces{
		host: host, source: source, patterns: patterns, own: own, limit: maxNamespaces, places: p, base: base, keep: base.keepNames,
		all: map[netns.ID]*namespace{}, failures: map[netns.ID]*spaceFailure{}, former: map[uint16]time.Time{},
	}
	n.base.places, n.base.turn, n.base.alone = p, make(chan struct{}, 1), !n.others()
	if n.others() {
		if n.ownID, err = host.ownSpace(); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// others reports whether other namespaces than the receiver's are to be observed.
func (n *namespaces) others() bool { return len(n.patterns) > 0 }

// start attaches what it can until the deadline.
func (n *namespaces) start(ctx context.Context, deadline time.Time) error {
	n.places.since = n.base.clock()
	n.look()
	var unlisted []error
	for _, s := range n.sorted() {
		if !n.base.clock().Before(deadline) {
			return nil
		}
		s.synced = true
		if err := s.interfaces.sync(); err != nil {
			s.interfaces.report("list", err)
			unlisted = append(unlisted, s.interfaces.within(err))
			continue
		}
		s.interfaces.attach(ctx, deadline)
	}
	return n.startErr(unlisted)
}

// startErr is what Start fails with: every attempt failed. It begins with why namespaces could not be listed.
func (n *namespaces) startErr(errs []error) error {
	if n.places.attached() > 0 {
		return nil
	}
	for _, s := range n.sorted() {
		err := s.interfaces.startErr()
		if err == nil && s.interfaces.counts[statePending].Load() > 0 {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(append(errs, n.failed())...)
}

// sorted returns the observed namespaces in the order of their numbers.
func (n *namespaces) sorted() []*namespace {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.SortedFunc(maps.Values(n.all), func(a, b *namespace) int { return cmp.Compare(a.number, b.number) })
}

// look compares what is observed with what the patterns lead to: new namespaces are opened, those that are gone are closed. Those
// that were opened are returned. What could not be looked at may still lead to a namespace that was not found.
func (n *namespaces) look() (opened []*namespace) {
	chosen := n.chosen()
	for id, s := range n.copied() {
		if c, ok := chosen[id]; ok {
			s.path = c.path
		} else if n.gone(id, s.path) {
			n.close(id, s)
		}
	}
	maps.DeleteFunc(n.failures, func(id netns.ID, f *spaceFailure) bool { _, ok := chosen[id]; return !ok && n.gone(id, f.path) })
	n.excess = 0
	for _, id := range slices.SortedFunc(maps.Keys(chosen), func(a, b netns.ID) int { return cmp.Compare(chosen[a].order, chosen[b].order) }) {
		if s := n.open(id, chosen[id].path); s != nil {
			opened = append(opened, s)
		}
	}
	n.forget()
	n.count()
	return opened
}

// gone reports whether a namespace that was not found is gone: if all could be looked at, it is.
func (n *namespaces) gone(id netns.ID, path string) bool {
	if id == (netns.ID{}) {
		id = n.ownID
	}
	return n.findErr == nil || n.host.spaceGone(netns.Found{Path: path, ID: id})
}

// choice of a namespace: the first path to it, and where that stands among all paths.
type spaceChoice struct {
	path  string
	order int
}

// chosen returns the namespaces that are to be observed, each once. That of the receiver is known by another name: the zero ID.
func (n *namespaces) chosen() map[netns.ID]spaceChoice {
	chosen := map[netns.ID]spaceChoice{}
	if n.own {
		chosen[netns.ID{}] = spaceChoice{}
	}
	if !n.others() {
		return chosen
	}
	began := time.Now()
	found, err := n.host.findSpaces(n.patterns)
	n.took = time.Since(began)
	n.refuse(err)
	for i, f := range found {
		id := f.ID
		if id == n.ownID {
			id = netns.ID{}
		}
		if _, ok := chosen[id]; !ok {
			chosen[id] = spaceChoice{f.Path, i + 1}
		}
	}
	return chosen
}

// refuse takes what could not be looked at. While the cause is the same, the path that is told is, too: the first one may be that of
// another process at each look.
func (n *namespaces) refuse(err error) {
	n.refused = 0
	var paths *netns.RefusedError
	if errors.As(err, &paths) {
		n.refused = paths.Paths
	}
	if err != nil && n.findErr != nil && cause(err) == cause(n.findErr) {
		return
	}
	n.findErr = err
	if err != nil {
		n.base.log.Warn("Some paths could not be looked at; network namespaces there are not observed", zap.Int("paths", n.refused), zap.Error(err))
	}
}

// cause is what err comes from, without where.
func cause(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}

func (n *namespaces) copied() map[netns.ID]*namespace {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.all)
}

// open begins to observe a namespace, unless it is observed already, is one too many, or failed a moment ago. It returns what is new.
func (n *namespaces) open(id netns.ID, path string) *namespace {
	if n.all[id] != nil {
		return nil
	}
	own := id == netns.ID{}
	failure := n.failures[id]
	switch {
	case failure != nil && n.base.clock().Before(failure.retry):
		return nil
	case !own && n.opened() >= n.limit:
		n.excess++
		return nil
	}
	s, err := n.make(id, path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, netns.ErrReplaced): // it went since it was found
		return nil
	case err != nil:
		n.fail(id, path, err)
		return nil
	}
	delete(n.failures, id)
	n.mu.Lock()
	n.all[id] = s
	n.mu.Unlock()
	if n.others() {
		n.base.log.Info("Observing network namespace", zap.String("namespace", s.name), zap.String("path", path))
	}
	return s
}

// opened returns how many namespaces beside the receiver's are observed.
func (n *namespaces) opened() int {
	if n.all[netns.ID{}] != nil {
		return len(n.all) - 1
	}
	return len(n.all)
}

func (n *namespaces) fail(id netns.ID, path string, err error) {
	f := n.failures[id]
	if f == nil {
		f = &spaceFailure{}
		n.failures[id] = f
	}
	if text(err) != text(f.err) {
		n.base.log.Warn("Observing a network namespace failed; it is tried again", zap.String("path", path), zap.Error(err))
	}
	f.path, f.err = path, err
	f.tries++
	f.retry = n.base.clock().Add(retryDelay(f.tries))
	n.base.tel.EbpfpacketsReceiverAttachErrors.Add(context.Background(), 1, n.base.tel.with())
}

// close ends the observation of a namespace. Its names are kept for the flows that it left behind.
func (n *namespaces) close(id netns.ID, s *namespace) {
	s.end()
	s.interfaces.leave()
	if err := s.release(); err != nil {
		n.base.log.Debug("Letting go of a network namespace failed", zap.String("namespace", s.name), zap.Error(err))
	}
	n.mu.Lock()
	delete(n.all, id)
	n.mu.Unlock()
	n.former[s.number] = n.base.clock()
	n.base.log.Info("No longer observing network namespace", zap.String("namespace", s.name), zap.String("path", s.path))
}

// forget drops the names of namespaces that went long ago.
func (n *namespaces) forget() {
	for number, since := range n.former {
		if n.base.clock().Sub(since) > n.keep {
			n.dropFormer(number)
		}
	}
}

func (n *namespaces) dropFormer(number uint16) {
	delete(n.former, number)
	if number != 0 || n.all[netns.ID{}] == nil { // the receiver's own may have come back
		n.places.say(number, nil)
	}
}

func (n *namespaces) count() {
	n.counts[spaceObserved].Store(int64(len(n.all)))
	n.counts[spaceFailed].Store(int64(len(n.failures)))
	n.counts[spaceExcess].Store(int64(n.excess))
	n.counts[spaceRefused].Store(int64(n.refused))
	if n.excess > 0 && !n.warned {
		n.base.log.Warn("More network namespaces match than can be observed; packets in the rest are not counted",
			zap.Int("limit", n.limit), zap.Int("excess", n.excess), zap.Strings("namespaces", n.patterns))
	}
	n.warned = n.excess > 0
}

// problem says what is wrong with the namespaces, if anything, and not how many: that changes more often than anybody wants to hear.
func (n *namespaces) problem() error {
	errs := []error{n.findErr, n.failed()}
	if n.excess > 0 {
		errs = append(errs, fmt.Errorf("namespaces matches more than %d network namespaces; the rest is not observed", n.limit))
	}
	if n.places.missing(n.base.clock()) {
		errs = append(errs, n.missing())
	}
	return errors.Join(errs...)
}

func (n *namespaces) missing() error {
	if len(n.all) == 0 {
		return fmt.Errorf("no network namespace matches namespaces [%s]", strings.Join(n.patterns, " "))
	}
	return fmt.Errorf("no interface matches interfaces.include [%s] in any observed network namespace", strings.Join(n.base.include, " "))
}

// failed returns one failure, of several always the same.
func (n *namespaces) failed() error {
	var first error
	for _, f := range n.failures {
		if first == nil || text(f.err) < text(first) {
			first = f.err
		}
	}
	return first
}

// run keeps everything attached until ctx is done. It returns at once; end waits.
func (n *namespaces) run(ctx context.Context) {
	for _, s := range n.sorted() {
		s.run(ctx)
	}
	if n.others() {
		n.looking.Go(func() { n.follow(ctx) })
	}
}

// end waits until all loops have ended.
func (n *namespaces) end() {
	n.looking.Wait()
	for _, s := range n.sorted() {
		s.end()
	}
}

// follow looks for namespaces that come and go.
func (n *namespaces) follow(ctx context.Context) {
	for {
		n.base.status.set("namespaces", n.problem())
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(spaceInterval, spaceShare*n.took)):
		}
		for _, s := range n.look() {
			s.run(ctx)
		}
	}
}

// letGo releases what is held, at the end.
func (n *namespaces) letGo() error {
	var errs []error
	for _, s := range n.sorted() {
		s.interfaces.close()
		if s.held != nil {
			errs = append(errs, s.release())
		}
	}
	return errors.Join(errs...)
}
