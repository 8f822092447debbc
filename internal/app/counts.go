// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

// Cause is why a message that began was not told.
type Cause uint8

const (
	CauseMalformed Cause = iota // it only looked like one: the body of another message, or the middle of one
	CauseGap                    // a packet of it was not seen, later ones were
	CauseCut                    // a packet of it was captured in part
	CauseTimeout                // nothing more of it was seen
	CauseClosed                 // the connection ended first
	CauseTooLong                // more bytes or packets than are kept of a message
	CauseNoRoom                 // pushed out by later ones
	CauseRepeated               // a DNS question that was told already and has no answer yet
	CauseCount
)

// String returns the word of own telemetry.
func (c Cause) String() string {
	return [...]string{"malformed", "gap", "cut", "timeout", "closed", "too_long", "no_room", "repeated"}[c]
}

// Counts is what became of messages and questions, since the Tracker was made but for Open and Waiting, which are those of now.
// For each protocol
//
//	Begun = Told + GivenUp + Open
//	Asked = Answered + Unanswered + Unknown + Forgotten + Waiting
//
// A stream that looks like a message is one begun, and so is a datagram. An HTTP head whose first line was read is told even if
// its end is missing, as Message.Cut.
type Counts struct {
	Begun   [ProtocolCount]uint64
	Told    [ProtocolCount]uint64 // without those told again as TimedOut
	GivenUp [ProtocolCount][CauseCount]uint64
	Open    [ProtocolCount]uint64

	Asked      [ProtocolCount]uint64 // questions told that wait for an answer
	Answered   [ProtocolCount]uint64
	Unanswered [ProtocolCount]uint64 // until their time was over, or the connection's end; of DNS told as TimedOut
	Unknown    [ProtocolCount]uint64 // until their time was over, of DNS: nobody knows whether there was an answer
	Forgotten  [ProtocolCount]uint64 // pushed out by later ones
	Waiting    [ProtocolCount]uint64

	Conflicts uint64 // segments that said other bytes than earlier ones at the same place; the earlier ones hold
}
