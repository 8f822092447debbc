// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// stopwatch adds up how long each top-level test ran. Elapsed would not do: it ends where parallel subtests begin. A parallel test
// that waits for its turn does not run, and one whose result was cached ran in no time.
type stopwatch struct {
	since map[string]time.Time
	ran   map[string]time.Duration
}

func (s *stopwatch) see(e event) {
	if e.Test == "" || strings.Contains(e.Test, "/") {
		return
	}
	name := shortName(e.Package) + "." + e.Test
	switch e.Action {
	case "run", "cont":
		s.since[name] = e.Time
	case "pause", "pass", "fail", "skip":
		s.ran[name] += e.Time.Sub(s.since[name])
	}
}

// report names the slowest, of those that took a second or more.
func (s *stopwatch) report(w io.Writer) {
	const most = 10
	slowest := slices.SortedFunc(maps.Keys(s.ran), func(a, b string) int {
		return cmp.Or(cmp.Compare(s.ran[b], s.ran[a]), cmp.Compare(a, b))
	})
	for _, name := range slowest[:min(most, len(slowest))] {
		if took := s.ran[name]; took >= time.Second {
			fmt.Fprintf(w, "  slow: %.0f s in %s\n", took.Seconds(), name)
		}
	}
}
