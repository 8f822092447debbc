// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import "math"

// Initiator says by which evidence the initiator of a flow, its client, is known.
type Initiator uint8

const (
	InitiatorUnknown     Initiator = iota // forward is the first packet's direction: no claim about roles
	InitiatorSYN                          // TCP handshake seen
	InitiatorFirstPacket                  // watched long enough to take the first packet seen for the first sent
	InitiatorPort                         // exactly one port is below the ephemeral range: the other side is the client
	InitiatorQuestion                     // ICMP: the message says that it asks, or answers
)

var initiators = [...]string{
	InitiatorUnknown:     "unknown",
	InitiatorSYN:         "syn",
	InitiatorFirstPacket: "first_packet",
	InitiatorPort:        "port",
	InitiatorQuestion:    "question",
}

// String returns the value of the attribute "flow.initiator.method".
func (i Initiator) String() string {
	if int(i) >= len(initiators) {
		return ""
	}
	return initiators[i]
}

// roles says which half is forward, and by which evidence that is the client's.
type roles struct {
	forward   uint8 // the half that is
	initiator Initiator
}

// clues is what a new flow knows beside its packets about who began it.
type clues struct {
	witness int64 // ns since 1970; the first packet seen is the first sent if it is not older. math.MaxInt64: never
	before  roles // of the flow that this one continues, valid iff continues

	continues      bool
	portClient     uint8 // half that the ports say is the client's, else noHalf
	questionClient uint8 // half whose ICMP messages ask, else noHalf
}

// noHalf is neither half.
const noHalf = 2

// clues returns those of a flow that begins with s.
func (t *Table) clues(i *id, s *Slot) clues {
	c := clues{witness: math.MaxInt64, portClient: noHalf, questionClient: i.clientByQuestion()}
	if !i.HasPorts() {
		return c
	}
	low, ok := t.ports[i.NetNS]
	if !ok {
		low = t.config.EphemeralLow
	}
	c.portClient = i.clientByPort(low)
	if s.handshake() == 0 { // else it needs no memory
		c.before, c.continues = t.memory.recall(i, t.now)
	}
	c.witness = max(t.witness(s), t.memory.complete+watchTime)
	return c
}

// witness returns since when a first packet is one where s was counted: math.MaxInt64 if never.
func (t *Table) witness(s *Slot) int64 {
	if s.Proto != protoTCP {
		if since, ok := t.since[s.Place()]; ok {
			return since + watchTime
		}
	}
	return math.MaxInt64
}

// clientByPort returns the half of the only port that is given to clients, from low on; noHalf if both are, or neither.
// Port 0 is no port: RFC 768 lets a sender that wants no answer leave its own out.
func (k *Key) clientByPort(low uint16) uint8 {
	src, dst := k.SrcPort < low, k.DstPort < low
	switch {
	case k.SrcPort == 0 || k.DstPort == 0 || src == dst:
		return noHalf
	case src:
		return 1
	}
	return 0
}

// decideRoles is asked after every slot until the first record: a handshake may come after a packet that it preceded.
//
// A handshake decides, a claim or none. A SYN names its source as the initiator, and the earliest one counts: in a
// simultaneous open (RFC 9293 3.5) both sides send SYN and SYN-ACK, and neither is a server. Without SYN, a SYN-ACK names
// its destination. SYN-ACK from both, or two SYNs at the same time, name nobody.
//
// An ICMP question, or an answer to one, says which it is.
//
// Else a flow that continues another has the roles of that one, known or not. Else see guessRoles.
//
// While nobody is known to be the client, forward is the direction of the earliest packet.
func (f *Flow) decideRoles() {
	f.roles = roles{f.firstHalf, InitiatorUnknown}
	switch {
	case f.questionClient != noHalf:
		f.roles = roles{f.questionClient, InitiatorQuestion}
	case f.synSeen && f.synHalf == noHalf, !f.synSeen && f.synack[0] && f.synack[1]:
	case f.synSeen:
		f.roles = roles{f.synHalf, InitiatorSYN}
	case f.synack[0]:
		f.roles = roles{1, InitiatorSYN}
	case f.synack[1]:
		f.roles = roles{0, InitiatorSYN}
	case !f.continues:
		f.guessRoles()
	case f.before.initiator != InitiatorUnknown:
		f.roles = f.before
	}
}

// guessRoles follows the first packet if it must be the first of the conversation: any packet of TCP may be the middle of
// a connection, and so may any packet of a tuple that we did not watch before. Else the ports. If the two name different
// sides nobody is the client: of DNS whose queries take another way, the first packet seen is an answer.
func (f *Flow) guessRoles() {
	byFirst := f.first >= f.witness && !f.firstTie
	switch {
	case byFirst && (f.portClient == f.firstHalf || f.portClient == noHalf):
		f.roles = roles{f.firstHalf, InitiatorFirstPacket}
	case !byFirst && f.portClient != noHalf:
		f.roles = roles{f.portClient, InitiatorPort}
	}
}

// distrustFirst decides without the first packet.
func (f *Flow) distrustFirst() {
	if !f.exported {
		f.witness = math.MaxInt64
		f.decideRoles()
	}
}

// teaches reports whether the roles of f must be remembered when it ends although it did not close.
//
// Of TCP, a connection past its handshake. A handshake without answer, or answered and given up, begins again with one: no
// scan or flood of SYNs fills the memory. What the ports said they say again.
//
// Without handshake every conversation counts, that of unknown roles too: its next packet is not its first.
func (f *Flow) teaches() bool {
	if f.Proto == protoTCP {
		return f.initiator == InitiatorSYN && f.established
	}
	return f.HasPorts()
}
