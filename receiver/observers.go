// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"slices"
	"sync"

	"go.opentelemetry.io/collector/component"

	"github.com/ebpfpackets/ebpfpackets/internal/netns"
)

// observers knows which receivers of this process count at which interface. Two at one are allowed: only their user can
// tell whether every packet is meant to be told twice.
type observers struct {
	mu sync.Mutex
	at map[observed][]component.ID
}

// observed is an interface of any namespace.
type observed struct {
	space netns.ID // zero: the receiver's own
	index uint32
}

// add says that id counts at an interface. It returns who else does.
func (o *observers) add(at observed, id component.ID) (others []component.ID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.at == nil {
		o.at = map[observed][]component.ID{}
	}
	others = slices.Clone(o.at[at])
	o.at[at] = append(o.at[at], id)
	return others
}

// remove says that id no longer counts there, if it did.
func (o *observers) remove(at observed, id component.ID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := slices.Index(o.at[at], id); n >= 0 {
		o.at[at] = slices.Delete(o.at[at], n, n+1)
	}
	if len(o.at[at]) == 0 {
		delete(o.at, at)
	}
}
