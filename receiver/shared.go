// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"sync"

	"go.opentelemetry.io/collector/component"
)

// engines holds the engine of every configuration in use. The service makes one receiver for each signal from the same
// *Config; counting the same packets for each would cost twice.
type engines struct {
	mu       sync.Mutex
	byConfig map[*Config]*shared
}

// get returns the shared engine of c, made by create at the first call.
func (e *engines) get(c *Config, create func() *engine) *shared {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s, ok := e.byConfig[c]; ok {
		return s
	}
	s := &shared{engine: create(), remove: func() { e.remove(c) }}
	if e.byConfig == nil {
		e.byConfig = map[*Config]*shared{}
	}
	e.byConfig[c] = s
	return s
}

func (e *engines) remove(c *Config) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.byConfig, c)
}

// shared is the component that every pipeline of one configuration gets: it starts and stops their engine once.
type shared struct {
	engine *engine
	remove func()

	start, stop       sync.Once
	startErr, stopErr error
}

// Start starts the engine at the first call. Later calls return what the first did, and let their host know the status.
func (s *shared) Start(ctx context.Context, host component.Host) error {
	s.engine.status.add(host)
	s.start.Do(func() { s.startErr = s.engine.start(ctx) })
	return s.startErr
}

// Shutdown stops the engine at the first call; it may never have started.
func (s *shared) Shutdown(ctx context.Context) error {
	s.stop.Do(func() {
		s.remove()
		s.start.Do(func() {}) // a Start that comes too late does nothing
		s.stopErr = s.engine.shutdown(ctx)
	})
	return s.stopErr
}
