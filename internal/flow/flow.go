// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"bytes"
	"math"
)

// Protocols with ports; IANA protocol numbers. TCP is the only one whose packets tell where a conversation begins and ends.
const (
	protoTCP  = 6
	protoUDP  = 17
	protoSCTP = 132
)

// id is the identity of a flow: a Key turned so that the lower endpoint is the source, and side.
//
// Loopback shows every packet twice, on egress and on ingress, with one tuple. Side keeps the two apart: it is equal for
// a packet and for its answer seen by the other hook. So one flow is forward-egress + reverse-ingress, the other forward-
// ingress + reverse-egress, and neither counts a packet twice. The same holds for a router that sends back out of the
// interface it received from. On any other interface, side only says which endpoint is the near one.
//
// With ScopeNamespace every packet counts once, so there are no two to keep apart: IfIndex is 0 and side false.
type id struct {
	Key
	side bool
}

func turned(k *Key, d Direction) (id, uint8) {
	egress := d == DirectionEgress
	c := bytes.Compare(k.SrcAddr[:], k.DstAddr[:])
	if c > 0 || c == 0 && k.SrcPort > k.DstPort {
		return id{k.Reversed(), !egress}, 1
	}
	return id{*k, egress}, 0
}

// Flow is both directions of a conversation, as far apart as Config.Scope says. It holds no pointers: the garbage collector skips tables
// of them. A *Flow is valid until the next Add, Expire or Flush of its Table: its storage is used again.
//
// A half is 0 for the lower endpoint's packets, 1 for the higher one's: what forward means may still change.
type Flow struct {
	// The first 64 bytes, a cache line, are what Expire looks at as a rule.

	start, end   int64  // of the packets in halves, valid iff there are any
	first, last  int64  // of the whole flow; first is fixed with the first record
	synFirst     int64  // First of the earliest slot with a SYN, valid iff synSeen
	closeLast    int64  // Last of the latest slot with FIN or RST, valid iff there was one
	older, newer uint32 // neighbours in order of use; newer also links the free list

	live        bool
	exported    bool // a record was written: roles and first stay
	fin         [2]bool
	rst         bool
	established bool // TCP: a packet that is none of the handshake was seen; not every one is recognised
	synSeen     bool
	firstTie    bool // both halves have a packet at first

	id
	roles           // fixed with the first record
	firstHalf uint8 // of the packet at first
	synHalf   uint8 // of the SYN at synFirst; noHalf if both have one
	synack    [2]bool
	answered  [2]bool
	seen      [2]bool     // there were packets, of this record or before
	tunnelIDs [2]TunnelID // of the last packets, valid iff in a tunnel
	halves    [2]tally    // since the last record
	clues
	_ [8]byte // to whole cache lines
}

// Key returns the key of the forward direction as far as known. With ScopeNamespace, interface and VLAN are those of the first
// packet of its half since the last record.
func (f *Flow) Key() Key {
	k := f.id.Key
	if f.forward != 0 {
		k = f.Reversed()
	}
	if k.IfIndex == 0 { // ScopeNamespace: those of the half
		p := f.hook(f.forward)
		k.IfIndex, k.VLAN, k.Tagged = p.IfIndex, p.VLAN, p.Tagged
	}
	return k
}

// hook returns where half h counts, or would if it came the way of the other one.
func (f *Flow) hook(h uint8) Hook {
	if f.seen[h] {
		return f.halves[h].hook
	}
	return f.halves[1-h].hook.Opposite()
}

// contradicts reports whether packets in a tunnel with this id, or there, are not those of half h, but of another conversation.
func (f *Flow) contradicts(h uint8, tunnel TunnelID, at Hook) bool {
	id, hook := f.tunnelIDs[h], f.halves[h].hook
	return id.HasID && tunnel.HasID && id != tunnel || hook.Tagged && at.Tagged && hook.VLAN != at.VLAN
}

// Initiator returns how the roles are known. Unless it is InitiatorUnknown, the source of Key is the client.
func (f *Flow) Initiator() Initiator { return f.initiator }

// Client returns the endpoint that opened the conversation; ok is false while the roles are unknown.
func (f *Flow) Client() (addr Addr, port uint16, ok bool) {
	k := f.Key()
	return k.SrcAddr, k.SrcPort, f.initiator != InitiatorUnknown
}

// Server returns the endpoint that was asked; ok is false while the roles are unknown.
func (f *Flow) Server() (addr Addr, port uint16, ok bool) {
	k := f.Key()
	return k.DstAddr, k.DstPort, f.initiator != InitiatorUnknown
}

// Answered reports whether the server sent anything but RST: whether somebody listens there. While the roles are unknown,
// whether both sides did. A slot that holds a RST counts only if its flags cannot all come from RST packets. SCTP's ABORT is not
// told from its other packets: slots have flags of TCP only.
func (f *Flow) Answered() bool {
	if f.initiator == InitiatorUnknown {
		return f.answered[0] && f.answered[1]
	}
	return f.answered[1-f.forward]
}

// closed reports whether the packets said that the conversation is over. FIN from one side leaves the other half open
// for as long as it likes.
func (f *Flow) closed() bool { return f.rst || f.fin[0] && f.fin[1] }

// reopenedBy reports whether s belongs to a new connection with the tuple of a closed one. Only a handshake later than
// everything that closed the old one says so: the last acknowledgements and retransmissions belong to the old one.
func (f *Flow) reopenedBy(s *Slot) bool {
	return s.handshake() != 0 && f.closed() && s.First > f.closeLast
}

// add merges s, half h of this flow. Apart from reopenedBy, the result does not depend on the order of slots: within one
// drain they come CPU by CPU.
func (f *Flow) add(s *Slot, h uint8) {
	if !f.untold() {
		f.start, f.end = s.First, s.Last
	}
	f.start, f.end = min(f.start, s.First), max(f.end, s.Last)
	f.last = max(f.last, s.Last)
	f.halves[h].add(s)
	f.seen[h] = true
	f.tunnelIDs[h] = TunnelID{s.Tunnel.ID, s.Tunnel.HasID}

	if !f.exported {
		f.addFirst(s.First, h)
	}
	if s.Proto == protoTCP {
		f.addTCP(s, h)
	} else {
		f.answered[h] = true
	}
	if !f.exported {
		f.decideRoles()
	}
}

// addFirst merges the time of the first packet of half h. At a tie, the lower endpoint's counts as the first.
func (f *Flow) addFirst(first int64, h uint8) {
	switch {
	case first < f.first:
		f.first, f.firstHalf, f.firstTie = first, h, false
	case first == f.first && h != f.firstHalf:
		f.firstHalf, f.firstTie = 0, true
	}
}

func (f *Flow) addTCP(s *Slot, h uint8) {
	flags := s.TCPFlags
	if flags&(tcpFIN|tcpRST) != 0 {
		f.closeLast = max(f.closeLast, s.Last)
	}
	f.fin[h] = f.fin[h] || flags&tcpFIN != 0
	f.rst = f.rst || flags&tcpRST != 0
	f.answered[h] = f.answered[h] || flags&tcpRST == 0 || flags&(tcpSYN|tcpFIN|tcpPSH) != 0
	f.synack[h] = f.synack[h] || s.handshake()&HandshakeSYNACK != 0
	f.established = f.established || flags&tcpPSH != 0 || flags&tcpACK != 0 && s.handshake()&HandshakeSYNACK == 0

	if s.handshake()&HandshakeSYN == 0 {
		return
	}
	switch {
	case !f.synSeen || s.First < f.synFirst:
		f.synSeen, f.synFirst, f.synHalf = true, s.First, h
	case s.First == f.synFirst && h != f.synHalf:
		f.synHalf = noHalf
	}
}

// untold reports whether there were packets since the last record.
func (f *Flow) untold() bool { return f.halves[0].Packets+f.halves[1].Packets > 0 }

// due says which record f owes at now, 0 for none.
func (f *Flow) due(now int64, c *Config) EndReason {
	switch {
	case f.closed() && now-f.closeLast >= int64(closeGrace):
		return EndReasonEndOfFlow
	case now-f.last >= int64(c.IdleTimeout):
		return EndReasonIdleTimeout
	case now-f.start >= int64(c.ActiveTimeout) && f.untold():
		return EndReasonActiveTimeout
	}
	return 0
}

// export fills r with what f did since its last record, and starts the next one.
func (f *Flow) export(r *Record, reason EndReason) {
	if !f.untold() {
		f.start, f.end = f.last, f.last
	}
	there, back := f.hook(f.forward), f.hook(1-f.forward)
	*r = Record{
		Key:             f.Key(),
		Direction:       there.Direction,
		Forward:         f.halves[f.forward].Half,
		Reverse:         f.halves[1-f.forward].Half,
		ReverseTunnelID: f.tunnelIDs[1-f.forward],
		Start:           f.start,
		End:             f.end,
		ConnectionStart: f.first,
		EndReason:       reason,
		Initiator:       f.initiator,
		Answered:        f.Answered(),
	}
	if back != there.Opposite() {
		r.ReverseHook, r.Elsewhere = back, true
	}
	r.Key.Tunnel.ID, r.Key.Tunnel.HasID = f.tunnelIDs[f.forward].ID, f.tunnelIDs[f.forward].HasID
	for h := range f.halves {
		f.halves[h] = tally{hook: f.halves[h].hook}
	}
	f.exported = true
}

// begin makes f a new flow without packets.
func (f *Flow) begin(i id, c clues) {
	*f = Flow{id: i, clues: c, first: math.MaxInt64, last: math.MinInt64, closeLast: math.MinInt64, live: true}
}
