// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package flow

// Hook is where packets of one direction were counted: a hook of an interface, and the VLAN in which they passed it.
type Hook struct {
	IfIndex   uint32
	VLAN      uint16 // as in Key, valid iff Tagged
	Tagged    bool
	Direction Direction
}

func (s *Slot) hook() Hook { return Hook{s.IfIndex, s.VLAN, s.Tagged, s.Direction} }

// Opposite returns where the answers pass if they come the same way.
func (h Hook) Opposite() Hook {
	h.Direction = 1 - h.Direction
	return h
}

// Scope says how far apart the hooks may be that count the two directions of one flow.
type Scope uint8

const (
	// ScopeInterface joins what passes one interface, in one VLAN. Every interface that a conversation crosses has a flow of it.
	ScopeInterface Scope = iota

	// ScopeNamespace is for packets that count at one interface each, wherever the conversation crosses several: a direction
	// counts where it begins, so the two may have an interface each, a hook of the same name, and a VLAN or none. What names
	// a flow is then its addresses, ports and protocol; a direction that begins to count elsewhere stays what it was.
	ScopeNamespace
)

// identify returns the flow that packets with key k at the hook d belong to, and which half of it: 0 is the lower
// endpoint's. What each half may have of its own is still in it, see common.
func (s Scope) identify(k *Key, d Direction) (i id, half uint8) {
	i, half = turned(k, d)
	if s == ScopeNamespace {
		i.IfIndex, i.side = 0, false
	}
	return i, half
}

// common is the identity that both directions share: without the id of the tunnel, since each may have its own, as in GRE
// between peers that chose their keys, in Geneve of OVN, and in VXLAN of Cilium, where it is the identity of the sender; nor
// the VLAN, if one may be counted where there is a tag, and the other where there is none or another.
func (s Scope) common(i *id) id {
	c := *i
	c.Tunnel.ID, c.Tunnel.HasID = 0, false
	if s == ScopeNamespace {
		c.VLAN, c.Tagged = 0, false
	}
	return c
}

// apart reports whether i is more than what both directions share.
func (s Scope) apart(i *id) bool { return i.Tunnel.HasID || s == ScopeNamespace && i.Tagged }

// Conversation names both directions of a flow; it is comparable. Where the same addresses and ports talk in two tunnels
// between the same ends, those are one; with ScopeNamespace in two VLANs, too.
type Conversation struct{ id }

// Converse returns the conversation that packets with key k at the hook d belong to, and which half of it they are: 0 is the
// lower endpoint's, as in Flow.
func (s Scope) Converse(k *Key, d Direction) (Conversation, uint8) {
	i, half := s.identify(k, d)
	return Conversation{s.common(&i)}, half
}
