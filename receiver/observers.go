// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"slices"
	"sync"

	"go.opentelemetry.io/collector/component"
)

// observers knows which receivers of this process count at which interface. Two at one are allowed: only their user can
// tell whether every packet is meant to be told twice.
type observers struct {
	mu      sync.Mutex
	byIndex map[uint32][]component.ID
}

// add says that id counts at the interface with this index. It returns who else does.
func (o *observers) add(index uint32, id component.ID) (others []component.ID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byIndex == nil {
		o.byIndex = map[uint32][]component.ID{}
	}
	others = slices.Clone(o.byIndex[index])
	o.byIndex[index] = append(o.byIndex[index], id)
	return others
}

// remove says that id no longer counts there, if it did.
func (o *observers) remove(index uint32, id component.ID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := slices.Index(o.byIndex[index], id); n >= 0 {
		o.byIndex[index] = slices.Delete(o.byIndex[index], n, n+1)
	}
	if len(o.byIndex[index]) == 0 {
		delete(o.byIndex, index)
	}
}
