// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package flow

// Record is what a flow did since its last record. The volumes of all records of all flows add up to the volumes of all
// slots; nothing is told twice.
//
// Every flow ends with exactly one record whose EndReason is not EndReasonActiveTimeout. That last record is told even
// if no packet came since the record before it (it then has no volume, and Start and End are the time of the flow's last
// packet): whoever keeps state about a flow learns that it ended and why, and flows begun = flows ended stays checkable.
// An active timeout without packets is not told.
type Record struct {
	Key              Key       // of the forward direction: the initiator's if known, else the first packet's; see Flow.Key
	Direction        Direction // the hook's, for the forward half
	Forward, Reverse Half
	ReverseHook      Hook     // where the first packet of Reverse was counted, or so far; valid iff Elsewhere
	Elsewhere        bool     // not at the interface and in the VLAN of Forward, in the other direction; ScopeNamespace
	ReverseTunnelID  TunnelID // as seen so far; that of the forward direction is in Key

	Start, End      int64 // ns since 1970; bound the packets counted in this record; IPFIX 156, 157
	ConnectionStart int64 // ns since 1970 of the first packet of the whole flow; equal in all records of a flow
	EndReason       EndReason
	Initiator       Initiator // how the forward direction was decided; equal in all records of a flow
	Answered        bool      // so far, in this record or before, as Flow.Answered says
}

// Volume returns the traffic of both directions.
func (r *Record) Volume() Volume {
	v := r.Forward.Volume
	v.Add(r.Reverse.Volume)
	return v
}

// EndReason says why a record was written. The numbers are IPFIX 136, flowEndReason.
type EndReason uint8

const (
	EndReasonIdleTimeout     EndReason = 1 // no packet for Config.IdleTimeout
	EndReasonActiveTimeout   EndReason = 2 // lasts for Config.ActiveTimeout or longer; the flow continues
	EndReasonEndOfFlow       EndReason = 3 // TCP: RST seen, or FIN from both sides
	EndReasonForcedEnd       EndReason = 4 // shutdown
	EndReasonLackOfResources EndReason = 5 // pushed out by Config.MaxFlows
)

var endReasons = [...]string{
	EndReasonIdleTimeout:     "idle_timeout",
	EndReasonActiveTimeout:   "active_timeout",
	EndReasonEndOfFlow:       "end_of_flow",
	EndReasonForcedEnd:       "forced_end",
	EndReasonLackOfResources: "lack_of_resources",
}

// String returns the value of the attribute "flow.end_reason".
func (r EndReason) String() string {
	if int(r) >= len(endReasons) {
		return ""
	}
	return endReasons[r]
}
