// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	otelreceiver "go.opentelemetry.io/collector/receiver"
	"go.uber.org/zap"
)

// patience is how long after the end of an engine another one goes on for the signal that was not shut down. A collector that
// stops ends the exporters of one signal before the receivers of the next, and some of those take seconds; and an exporter that
// both share (file) must hear nothing more then.
const patience = 10 * time.Second

// engines holds the engine of every configuration in use. The service makes one receiver for each signal from the same
// *Config; counting the same packets for each would cost twice.
type engines struct {
	create func(*Config, otelreceiver.Settings) *engine

	mu       sync.Mutex
	byConfig map[*Config]*shared
}

// sharer returns the component of one signal; give tells an engine its next consumer.
func (e *engines) sharer(cfg *Config, signal string, set otelreceiver.Settings, give func(*engine)) *sharer {
	e.mu.Lock()
	defer e.mu.Unlock()
	s, ok := e.byConfig[cfg]
	if !ok {
		s = &shared{
			create: func(set otelreceiver.Settings) *engine { return e.create(cfg, set) },
			remove: func() { e.remove(cfg) },
		}
		if e.byConfig == nil {
			e.byConfig = map[*Config]*shared{}
		}
		e.byConfig[cfg] = s
	}
	return s.sharer(signal, set, give)
}

func (e *engines) remove(cfg *Config) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.byConfig, cfg)
}

// shared is what the components of one configuration have in common: an engine, which the first Start starts for all of them.
//
// The first Shutdown ends it for all of them, at one moment and within one time: nearly always the others follow. One that does not
// stays in a collector that reloads receivers (a feature gate of the service). Then another engine goes on for it.
type shared struct {
	create func(otelreceiver.Settings) *engine
	remove func()

	mu       sync.Mutex
	sharers  []*sharer
	engine   *engine // nil: there was no Start
	startErr error   // of engine
	stopped  bool    // engine
	next     *time.Timer
}

// sharer is the component of one signal.
type sharer struct {
	*shared
	signal string
	set    otelreceiver.Settings
	give   func(*engine)
	host   component.Host // nil: not started
	ended  bool
}

// sharer returns the component of a signal, which is made once.
func (s *shared) sharer(signal string, set otelreceiver.Settings, give func(*engine)) *sharer {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.sharers {
		if c.signal == signal && !c.ended {
			c.give = give
			return c
		}
	}
	c := &sharer{shared: s, signal: signal, set: set, give: give}
	s.sharers = append(s.sharers, c)
	return c
}

// Start starts the engine at the first call. Later calls return what the first did, and let their host know the status.
func (c *sharer) Start(ctx context.Context, host component.Host) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended: // it comes too late
	case c.engine == nil || c.stopped:
		c.host = host
		c.begin(ctx)
	default:
		c.host = host
		c.engine.status.add(host)
	}
	return c.startErr
}

// begin starts an engine for the components that were not shut down.
func (s *shared) begin(ctx context.Context) {
	left := s.left()
	s.engine, s.stopped = s.create(left[0].set), false
	for _, c := range left {
		c.give(s.engine)
		if c.host != nil {
			s.engine.status.add(c.host)
		}
	}
	s.startErr = s.engine.start(ctx)
}

// left returns the components that were not shut down.
func (s *shared) left() []*sharer {
	return slices.DeleteFunc(slices.Clone(s.sharers), func(c *sharer) bool { return c.ended })
}

// Shutdown stops the engine at the first call; it may never have started.
func (c *sharer) Shutdown(ctx context.Context) (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil
	}
	c.ended = true
	ran := false
	if c.engine != nil && !c.stopped {
		c.engine.status.remove(c.host)
		ran, c.stopped = c.engine.running(), true
		err = c.engine.shutdown(ctx)
	}
	left := c.left()
	switch {
	case len(left) == 0:
		c.remove()
		if c.next != nil {
			c.next.Stop()
		}
	case ran && slices.ContainsFunc(left, func(c *sharer) bool { return c.host != nil }):
		c.next = time.AfterFunc(patience, c.goOn)
	}
	return err
}

// goOn starts another engine for those that were not shut down when the first one was.
func (s *shared) goOn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := s.left()
	if len(left) == 0 || !s.stopped { // it was shut down meanwhile
		return
	}
	log := left[0].set.Logger
	log.Info("A signal of this receiver was shut down and this one was not: counting begins anew for it", zap.String("signal", left[0].signal))
	s.engine.status.clear()
	s.begin(context.Background())
	if s.startErr != nil {
		log.Error("Start failed; this receiver emits nothing", zap.Error(s.startErr))
		s.engine.status.end(s.startErr)
	}
}
