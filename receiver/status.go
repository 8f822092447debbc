// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"errors"
	"maps"
	"slices"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/pdata/pcommon"
)

// status tells the hosts of all pipelines what is wrong, and only when that changes: the service keeps every event.
type status struct {
	mu       sync.Mutex
	hosts    []component.Host
	problems map[string]error  // by part of the receiver
	details  map[string]string // what is no problem, in every event
	last     *componentstatus.Event
	ended    bool // a permanent error was reported: nothing may follow it
}

// add lets host know the status from now on. A host that comes later gets the last event.
func (s *status) add(host component.Host) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hosts = append(s.hosts, host)
	if s.last != nil {
		componentstatus.ReportStatus(host, s.last)
	}
}

// remove tells host nothing more.
func (s *status) remove(host component.Host) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hosts = slices.DeleteFunc(s.hosts, func(h component.Host) bool { return h == host })
}

// clear says that nothing is wrong any more.
func (s *status) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || len(s.problems) == 0 {
		return
	}
	s.problems = nil
	s.report(componentstatus.StatusOK, nil)
}

// detail adds to every event from now on, beginning with one at once.
func (s *status) detail(key, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.details == nil {
		s.details = map[string]string{}
	}
	s.details[key] = value
	if err := s.problem(); err != nil {
		s.report(componentstatus.StatusRecoverableError, err)
	} else {
		s.report(componentstatus.StatusOK, nil)
	}
}

// set says that part has a problem, or none if err is nil.
func (s *status) set(part string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && s.problems[part] == nil {
		return // as nearly always
	}
	before := s.problem()
	if err != nil {
		if s.problems == nil {
			s.problems = map[string]error{}
		}
		s.problems[part] = err
	} else {
		delete(s.problems, part)
	}
	after := s.problem()
	switch {
	case s.ended || text(before) == text(after):
	case after != nil:
		s.report(componentstatus.StatusRecoverableError, after)
	default:
		s.report(componentstatus.StatusOK, nil)
	}
}

// end says that the receiver will do nothing more.
func (s *status) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.report(componentstatus.StatusPermanentError, err)
}

// problem joins the problems of all parts in a fixed order.
func (s *status) problem() error {
	var errs error
	for _, part := range slices.Sorted(maps.Keys(s.problems)) {
		errs = errors.Join(errs, s.problems[part])
	}
	return errs
}

func (s *status) report(is componentstatus.Status, err error) {
	details := pcommon.NewMap()
	for key, value := range s.details {
		details.PutStr(key, value)
	}
	s.last = componentstatus.NewEvent(is, componentstatus.WithError(err), componentstatus.WithAttributes(details))
	for _, h := range s.hosts {
		componentstatus.ReportStatus(h, s.last)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
