// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

// obsFormat is what came in, in the Collector's words: nothing of it has a format of its own.
var obsFormat = metadata.Type.String()

// logTransition says once that the consumer refuses, and once that it takes again.
func logTransition(log *zap.Logger, failing bool, err error, what string) bool {
	switch {
	case err != nil && !failing:
		log.Warn("The next consumer refuses "+what, zap.Error(err))
	case err == nil && failing:
		log.Info("The next consumer takes " + what + " again")
	}
	return err != nil
}

// deliver says what finish left, both signals at the same time: one that hangs takes nothing from the other. It returns when
// everything was pushed, or a second after ctx is done.
func (e *engine) deliver(ctx context.Context) {
	var queued sync.WaitGroup
	if e.logs != nil {
		queued.Go(func() { e.logs.finish(ctx, e.drain.last) })
	}
	if e.metricsPusher != nil {
		queued.Go(func() { e.finishPoints(ctx) })
	}
	queued.Wait()
	done := make(chan struct{})
	go func() {
		e.push.done.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		select { // consumers that honour their context return now
		case <-done:
		case <-time.After(time.Second):
			if e.logs != nil {
				e.logs.abandon()
			}
		}
	}
	e.push.cancel()
}

// lost counts what was not said at the end, and says how much of each signal that is if there was no more time for it.
func (e *engine) lost(ctx context.Context) error {
	points := e.shedPoints()
	if ctx.Err() == nil {
		return nil
	}
	var errs error
	if points != (flow.Volume{}) {
		errs = fmt.Errorf("flush metrics: %d packets, %d bytes lost: %w", points.Packets, points.Bytes, ctx.Err())
	}
	if e.logs != nil && e.logs.lost.Load() > 0 {
		errs = errors.Join(errs, fmt.Errorf("flush log records: %d lost: %w", e.logs.lost.Load(), ctx.Err()))
	}
	return errs
}
