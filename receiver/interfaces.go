// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.uber.org/zap"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/netns"
)

const (
	attachTimeout = 2 * time.Second  // of Start: attaching takes about 8 ms for each hook, one after the other
	attachPause   = time.Millisecond // after each hook: whoever waits for RTNL meanwhile gets it (BenchmarkBurst: p99 of adding a link 24 ms, without 57)
	attachSlice   = time.Second      // of attaching, after which interfaces are looked at again: some may be gone
	tickInterval  = time.Second      // at which it is known whether something is due
	lookInterval  = 30 * time.Second // at most between two looks at the interfaces, whether or not the host tells changes
	retryFirst    = time.Second      // after a first failure; it doubles with each
	retryLongest  = time.Minute
)

// retryDelay returns after how long something that failed so many times in a row is tried again.
func retryDelay(failures int) time.Duration {
	return min(retryFirst<<min(failures-1, 10), retryLongest)
}

type attachState uint8

const (
	statePending attachState = iota
	stateAttached
	stateFailed
	stateGone // no longer there or selected; its name is kept for the flows that it left behind
	stateCount
)

// attachment is one selected interface.
type attachment struct {
	iface.Interface
	state     attachState
	attaching uint64 // number of the last
	err       error
	tries     int       // since it was found
	retry     time.Time // stateFailed: of the next attempt to attach
	gone      time.Time // stateGone: since when
}

// interfaces keeps the selected interfaces of one network namespace attached. One goroutine calls its methods, except names and count.
type interfaces struct {
	host       space
	source     attacher
	number     uint16   // of the namespace
	space      string   // its name, as it is told
	id         netns.ID // zero: the receiver's own
	low        uint16   // first port that clients are given
	alone      bool     // no other namespace is to be observed
	places     *places
	turn       chan struct{} // of all namespaces: who fills it attaches
	selector   iface.Selector
	include    []string
	directions []flow.Direction
	keepNames  time.Duration
	tel        *telemetry
	receiver   component.ID
	observers  *observers
	log        *zap.Logger
	status     *status
	once       bool // a packet counts at one interface
	clock      func() time.Time

	all     []iface.Interface // of the host, as they were last listed
	byIndex map[uint32]*attachment
	warned  map[component.ID]bool // receivers that count at one of our interfaces
	unstack string                // why the programs do not know how interfaces are joined; empty: they do
	looked  time.Time
	unknown bool // listing failed, or was not complete: the host may be another one
	swept   bool // nothing of killed predecessors is left
	current atomic.Pointer[spaceView]
	counts  [stateCount]atomic.Int64
}

// clone returns interfaces with the same settings, none of which is known yet.
func (s *interfaces) clone() *interfaces {
	return &interfaces{
		selector: s.selector, include: s.include, directions: s.directions, keepNames: s.keepNames, once: s.once,
		alone: s.alone, places: s.places, turn: s.turn,
		tel: s.tel, receiver: s.receiver, observers: s.observers, log: s.log, status: s.status, clock: s.clock,
	}
}

// names returns the names of all interfaces that may have counted. The map is never written.
func (s *interfaces) names() map[uint32]string { return s.now().names }

func (s *interfaces) now() *spaceView {
	if n := s.current.Load(); n != nil {
		return n
	}
	return &spaceView{}
}

// report says in the status what is wrong in this namespace, or that nothing is.
func (s *interfaces) report(part string, err error) {
	if !s.alone {
		part += " of " + s.space
	}
	s.status.set(part, s.within(err))
}

// within adds to an error in which namespace it was.
func (s *interfaces) within(err error) error {
	if err == nil || s.alone {
		return err
	}
	return fmt.Errorf("network namespace %q: %w", s.space, err)
}

func (s *interfaces) observed(index uint32) observed { return observed{s.id, index} }

// sync compares what is attached with what the host has: new interfaces become pending, missing ones are detached, and those
// that lost their programs become pending again.
func (s *interfaces) sync() error {
	all, err := s.host.interfaces()
	now := s.clock()
	s.unknown, s.looked = err != nil, now
	if errors.Is(err, iface.ErrIncomplete) {
		all, err = s.completed(all), nil
	}
	if err != nil {
		s.tel.EbpfpacketsReceiverWatchErrors.Add(context.Background(), 1, s.tel.with())
		return fmt.Errorf("list interfaces: %w", err)
	}
	s.all, s.low = all, s.host.ephemeralLow()
	if s.byIndex == nil {
		s.byIndex = map[uint32]*attachment{}
	}
	selected := map[uint32]bool{}
	for _, i := range s.selector.Select(all) {
		selected[i.Index] = true
		a, ok := s.byIndex[i.Index]
		if !ok || a.state == stateGone {
			a = &attachment{}
			s.byIndex[i.Index] = a
		}
		s.check(a, i)
	}
	for index, a := range s.byIndex {
		switch {
		case selected[index]:
		case a.state != stateGone:
			a.state, a.gone = stateGone, now
			s.observers.remove(s.observed(index), s.receiver)
			s.detach(a)
			s.log.Info("No longer counting at interface", zap.String("interface", a.Name))
		case now.Sub(a.gone) > s.keepNames:
			delete(s.byIndex, index)
		}
	}
	s.publish()
	return nil
}

// completed returns all, and what may be missing there as it was the last time: nothing goes that is not known to have gone.
func (s *interfaces) completed(all []iface.Interface) []iface.Interface {
	listed := make(map[uint32]int, len(all))
	for n := range all {
		listed[all[n].Index] = n
	}
	for _, was := range s.all {
		if n, ok := listed[was.Index]; ok {
			all[n].DefaultRoute = all[n].DefaultRoute || was.DefaultRoute
		} else {
			all = append(all, was)
		}
	}
	return all
}

// check makes a what the host says that it is now, which may have another name, and finds out whether the programs there are still the
// right ones.
func (s *interfaces) check(a *attachment, now iface.Interface) {
	was := a.LinkHeader()
	a.Interface = now
	if a.state != stateAttached {
		return
	}
	lost := 0
	if !s.unknown { // else it may have gone, and its programs with it, which is no loss
		var err error
		if lost, err = s.source.DropLost(a.Index); err != nil {
			s.log.Debug("Looking for the programs at an interface failed", zap.String("interface", a.Name), zap.Error(err))
		}
	}
	switch {
	case lost > 0:
		s.tel.EbpfpacketsReceiverAttachmentsLost.Add(context.Background(), int64(lost), s.tel.with())
		s.log.Warn("Programs at an interface were gone and are attached again: the interface was made anew, or somebody else detached them, and then packets are missing",
			zap.String("interface", a.Name), zap.Int("programs", lost))
	case a.LinkHeader() != was: // a modem that is set to raw IP, for one
		s.detach(a)
		s.log.Warn("Packets at an interface begin with something else now and get the programs for that; those that passed meanwhile were misread",
			zap.String("interface", a.Name), zap.Uint16("hardware type", a.HWType))
	default:
		return
	}
	a.state, a.tries = statePending, 0
	s.observers.remove(s.observed(a.Index), s.receiver)
}

func (s *interfaces) detach(a *attachment) {
	if err := s.source.Detach(a.Index); err != nil {
		s.log.Debug("Detaching from an interface failed; it may be gone", zap.String("interface", a.Name), zap.Error(err))
	}
}

// attach attaches what is not, until the deadline; it reports whether something is still pending.
func (s *interfaces) attach(ctx context.Context, deadline time.Time) (pending bool) {
	for _, index := range slices.Sorted(maps.Keys(s.byIndex)) {
		a := s.byIndex[index]
		if !s.due(a) {
			continue
		}
		if ctx.Err() != nil || !deadline.IsZero() && !s.clock().Before(deadline) {
			pending = true
			break
		}
		s.attachOne(ctx, a)
	}
	s.publish()
	return pending
}

// due reports whether a is to be attached now. Waiting does not teach us a link header that we do not know.
func (s *interfaces) due(a *attachment) bool {
	switch a.state {
	case statePending:
		return true
	case stateFailed:
		return a.supported() && !s.clock().Before(a.retry)
	}
	return false
}

// supported reports whether packets at a begin with something that the kernel program knows.
func (a *attachment) supported() bool { return a.LinkHeader() != iface.LinkHeaderUnknown }

func (s *interfaces) attachOne(ctx context.Context, a *attachment) {
	was := text(a.err)
	a.state, a.err = stateAttached, nil
	a.attaching = s.places.attachings.Add(1)
	a.tries++
	for _, d := range s.directions {
		err := s.attachHook(ctx, a, d)
		if err != nil {
			a.state, a.err = stateFailed, errors.Join(err, s.source.Detach(a.Index)) // half of the traffic would mislead
			break
		}
	}
	if a.err == nil {
		s.log.Info("Counting at interface", zap.String("interface", a.Name), zap.String("kind", a.Kind))
		s.warn(a)
		return
	}
	wentAway := errors.Is(a.err, syscall.ENODEV) && a.tries == 1 // since it was listed; if it did not, the next attempt fails
	if wentAway || errors.Is(a.err, context.Canceled) {
		a.state, a.err = statePending, nil
		return
	}
	a.retry = s.clock().Add(retryDelay(a.tries))
	s.tel.EbpfpacketsReceiverAttachErrors.Add(context.Background(), 1, s.tel.with())
	if text(a.err) != was {
		s.log.Warn("Attaching to an interface failed", zap.String("interface", a.Name), zap.Bool("retry", a.supported()), zap.Error(a.err))
	}
}

// attachHook attaches one direction when it is the turn of this namespace, and leaves RTNL alone for a moment after that.
func (s *interfaces) attachHook(ctx context.Context, a *attachment, d flow.Direction) error {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
	}
	if ctx.Err() != nil { // all that wait give up at once
		return ctx.Err()
	}
	defer time.Sleep(attachPause)
	return s.source.Attach(a.Interface, d)
}

// sweep removes, once, what killed predecessors left at interfaces that are not attached to; where they are, attaching has.
func (s *interfaces) sweep(ctx context.Context) {
	if s.swept || s.unknown {
		return
	}
	for _, i := range s.all {
		if a := s.byIndex[i.Index]; a != nil && a.state == stateAttached {
			continue
		}
		if ctx.Err() != nil {
			return
		}
		programs, err := s.source.Sweep(i)
		if programs > 0 {
			s.log.Info("Removed what a killed predecessor left at an interface", zap.String("interface", i.Name), zap.Int("programs", programs))
			time.Sleep(attachPause)
		}
		if err != nil {
			s.log.Warn("Removing what a killed predecessor left at an interface failed", zap.String("interface", i.Name), zap.Error(err))
		}
	}
	s.swept = true
}

// warn says which other receivers count at a, once for each of them.
func (s *interfaces) warn(a *attachment) {
	for _, other := range s.observers.add(s.observed(a.Index), s.receiver) {
		if s.warned[other] || other == s.receiver { // one of its name has the other signal: the Collector rebuilt one of the two
			continue
		}
		if s.warned == nil {
			s.warned = map[component.ID]bool{}
		}
		s.warned[other] = true
		s.log.Warn("Two receivers count at the same interface, so its packets are told twice; give them different interfaces, or use one of them in all pipelines",
			zap.String("interface", a.Name), zap.Stringer("receiver", s.receiver), zap.Stringer("other", other))
	}
}

// close forgets what this receiver observes.
func (s *interfaces) close() {
	for index := range s.byIndex {
		s.observers.remove(s.observed(index), s.receiver)
	}
}

// leave is the end of a namespace. Its names are kept for the flows that it left behind.
func (s *interfaces) leave() {
	s.close()
	for _, part := range []string{"list", "watch", "interfaces"} {
		s.report(part, nil)
	}
	was := s.now()
	s.say(&spaceView{name: s.space, low: s.low, names: was.names})
}

// say tells other goroutines.
func (s *interfaces) say(v *spaceView) {
	s.current.Store(v)
	s.places.say(s.number, v)
}

// publish makes names and counts known to other goroutines, and to the programs how interfaces are joined.
func (s *interfaces) publish() {
	s.stack()
	n := &spaceView{
		name: s.space, low: s.low, names: make(map[uint32]string, len(s.byIndex)), attached: make(map[uint32]bool, len(s.byIndex)),
		attachings: make(map[uint32]uint64, len(s.byIndex)),
	}
	counts := &n.counts
	for index, a := range s.byIndex {
		n.names[index] = a.Name
		counts[a.state]++
		if a.state == stateAttached {
			n.attached[index] = true
			n.attachings[index] = a.attaching
		}
	}
	s.say(n)
	for state, n := range counts {
		s.counts[state].Store(n)
	}
}

// problem says what is wrong with the interfaces, if anything. Beside an attached interface, one that can never be
// attached is a warning in the log and a count, not a problem: a glob may match a tunnel that nobody cares for.
func (s *interfaces) problem() error {
	var first error
	failed := 0
	attached := s.places.attached() > 0
	for _, a := range s.byIndex {
		if a.state == stateFailed && (a.supported() || !attached) {
			failed++
			if first == nil || text(a.err) < text(first) {
				first = a.err
			}
		}
	}
	switch {
	case failed > 1:
		return fmt.Errorf("%d interfaces failed, the first: %w", failed, first)
	case failed == 1:
		return first
	case s.alone && s.places.missing(s.clock()):
		return fmt.Errorf("no interface matches interfaces.include [%s]", strings.Join(s.include, " "))
	}
	return nil
}

// startErr is what Start fails with: every attempt failed.
func (s *interfaces) startErr() error {
	if s.counts[stateAttached].Load() > 0 || s.counts[statePending].Load() > 0 || s.counts[stateFailed].Load() == 0 {
		return nil
	}
	return s.problem()
}

// run keeps the interfaces attached until ctx is done; changed says that they may have changed.
func (s *interfaces) run(ctx context.Context, changed <-chan struct{}, ticks <-chan time.Time) {
	for {
		pending := s.attach(ctx, s.clock().Add(attachSlice))
		if !pending {
			s.sweep(ctx)
			s.wait(ctx, changed, ticks)
		}
		if ctx.Err() != nil {
			return
		}
		s.report("list", s.sync())
	}
}

// wait returns when there is a reason to look at the interfaces, or ctx is done.
func (s *interfaces) wait(ctx context.Context, changed <-chan struct{}, ticks <-chan time.Time) {
	for {
		s.report("interfaces", s.problem())
		select {
		case <-ctx.Done():
			return
		case <-changed:
			return
		case <-ticks:
			if s.lookDue() {
				return
			}
		}
	}
}

// lookDue reports whether it is time to look at the interfaces though nobody told of a change.
func (s *interfaces) lookDue() bool {
	if s.unknown || s.clock().Sub(s.looked) >= lookInterval {
		return true
	}
	for _, a := range s.byIndex {
		if s.due(a) {
			return true
		}
	}
	return false
}

// watch calls changed when the interfaces may have changed, until ctx is done. While it cannot, changes are found by and by.
func (s *interfaces) watch(ctx context.Context, changed func()) {
	for failures := 0; ; {
		err := s.host.watch(ctx, func() { // for the first time as soon as it listens
			failures = 0
			s.report("watch", nil)
			changed()
		})
		if ctx.Err() != nil {
			return
		}
		failures++
		s.report("watch", fmt.Errorf("watch interfaces, new ones are found only every %v: %w", lookInterval, err))
		s.tel.EbpfpacketsReceiverWatchErrors.Add(context.Background(), 1, s.tel.with())
		if failures == 1 {
			s.log.Warn("Watching interfaces failed; it is tried again, and they are looked at every "+lookInterval.String(), zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryDelay(failures)):
		}
	}
}
