// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"slices"

	"go.uber.org/zap"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
)

// stack tells the programs which interfaces share packets, as things are now.
func (s *interfaces) stack() {
	if !s.once {
		return
	}
	err := s.source.Stack(iface.Stack(s.all, s.hooks()))
	if why := text(err); why != s.unstack {
		s.unstack = why
		if err != nil {
			s.log.Warn("Some packets may count more than once, or not at all", zap.Error(err))
		}
	}
}

// hooks returns where packets are counted.
func (s *interfaces) hooks() map[uint32]iface.Hooks {
	counts := iface.Hooks{
		Ingress: slices.Contains(s.directions, flow.DirectionIngress),
		Egress:  slices.Contains(s.directions, flow.DirectionEgress),
	}
	hooks := map[uint32]iface.Hooks{}
	for index, a := range s.byIndex {
		if a.state == stateAttached {
			hooks[index] = counts
		}
	}
	return hooks
}
