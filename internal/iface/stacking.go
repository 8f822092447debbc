// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package iface

// Hooks are the directions in which packets are counted at an interface.
type Hooks struct{ Ingress, Egress bool }

// Stacking says which packets at an interface are counted at another one, so that each counts once. docs/design.md, "Counted
// once", has the rule; the programs in the kernel apply it.
type Stacking struct {
	Known   bool   // what comes in here has passed a hook that counts
	Ingress bool   // what comes in here is counted at another hook
	Egress  bool   // what leaves here is
	Through uint32 // index of the bridge or bond that it is a port of, directly or not, and whose egress hook counts; 0: none
}

// stackDepth is how many interfaces may lie upon each other; MAX_NEST_DEV of linux/netdevice.h.
const stackDepth = 8

// stack is how the interfaces of a namespace are joined, and where packets are counted.
type stack struct {
	byIndex map[uint32]*Interface
	ports   map[uint32][]uint32 // of bridges and bonds
	hooks   map[uint32]Hooks
}

// Stack returns what is to be said of each interface, counted at or not; those of which nothing is are left out.
func Stack(all []Interface, hooks map[uint32]Hooks) map[uint32]Stacking {
	s := stack{map[uint32]*Interface{}, map[uint32][]uint32{}, hooks}
	for n := range all {
		s.byIndex[all[n].Index] = &all[n]
	}
	for n := range all {
		if m := s.byIndex[all[n].Master]; m != nil && m.joinsPorts() {
			s.ports[m.Index] = append(s.ports[m.Index], all[n].Index)
		}
	}
	said := map[uint32]Stacking{}
	for n := range all {
		i := &all[n]
		before := s.knownBefore(i.Index, stackDepth)
		x := Stacking{
			Known:   before || hooks[i.Index].Ingress,
			Ingress: before,
			Egress:  i.Lower != 0 && s.leavesCounted(i.Lower, stackDepth),
			Through: s.through(i),
		}
		if x != (Stacking{}) {
			said[i.Index] = x
		}
	}
	return said
}

// joinsPorts reports whether what i sends leaves through its ports, past their egress hooks, and what it receives came in there.
func (i *Interface) joinsPorts() bool {
	switch i.Kind {
	case "bridge", "bond", "team":
		return true
	}
	return false
}

// known reports whether all packets that come in at an interface have passed a hook that counts.
func (s *stack) known(index uint32, depth int) bool {
	return s.hooks[index].Ingress || s.knownBefore(index, depth)
}

// knownBefore is known without the interface's own hook.
func (s *stack) knownBefore(index uint32, depth int) bool {
	i := s.byIndex[index]
	switch {
	case i == nil || depth == 0:
		return false
	case i.Peer != 0:
		return s.hooks[i.Peer].Egress
	case i.Lower != 0:
		return s.known(i.Lower, depth-1)
	}
	return s.allPorts(index, func(port uint32) bool { return s.known(port, depth-1) })
}

// leavesCounted reports whether all packets that leave at an interface pass a hook that counts, there or below.
func (s *stack) leavesCounted(index uint32, depth int) bool {
	i := s.byIndex[index]
	switch {
	case i == nil || depth == 0:
		return false
	case s.hooks[index].Egress:
		return s.through(i) == 0 // there, what does not come in elsewhere seems to come from the bridge
	case i.Lower != 0:
		return s.leavesCounted(i.Lower, depth-1)
	}
	return s.allPorts(index, func(port uint32) bool { return s.leavesCounted(port, depth-1) })
}

// allPorts reports whether an interface has ports, and f is true of each.
func (s *stack) allPorts(index uint32, f func(port uint32) bool) bool {
	for _, port := range s.ports[index] {
		if !f(port) {
			return false
		}
	}
	return len(s.ports[index]) > 0
}

// through returns the nearest bridge or bond above i whose egress hook counts.
func (s *stack) through(i *Interface) uint32 {
	for range stackDepth {
		i = s.byIndex[i.Master]
		switch {
		case i == nil || !i.joinsPorts():
			return 0
		case s.hooks[i.Index].Egress:
			return i.Index
		}
	}
	return 0
}
