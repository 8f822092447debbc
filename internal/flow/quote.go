// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package flow

// ICMPError is a kind of ICMP error that says what became of another packet; the numbers are those of enum quoted in
// bpf/contract.h.
type ICMPError uint8

const (
	ICMPUnreachable  ICMPError = 1 + iota // RFC 792 type 3 but for code 4; RFC 4443 type 1
	ICMPTooBig                            // RFC 1191: type 3, code 4; RFC 4443 type 2
	ICMPTimeExceeded                      // RFC 792 type 11; RFC 4443 type 3
)

// ICMPErrors is how many of each kind came back.
type ICMPErrors struct {
	Unreachable, TooBig, TimeExceeded uint32
}

// Sum returns how many there were.
func (e *ICMPErrors) Sum() uint64 {
	return uint64(e.Unreachable) + uint64(e.TooBig) + uint64(e.TimeExceeded)
}

func (e *ICMPErrors) add(kind ICMPError, n uint64) {
	switch kind {
	case ICMPUnreachable:
		e.Unreachable += uint32(n)
	case ICMPTooBig:
		e.TooBig += uint32(n)
	case ICMPTimeExceeded:
		e.TimeExceeded += uint32(n)
	}
}

// Quote is how many ICMP errors of one kind quoted one key. Key and Direction are those of the quoted packets.
type Quote struct {
	Key
	Direction Direction
	Error     ICMPError
	Count     uint64
}

// Quote adds ICMP errors to the flow whose packets they quote, and reports whether it is there. The errors of a drain are
// added after its slots.
func (t *Table) Quote(q *Quote) bool {
	scope := t.config.Scope
	i, h := scope.identify(&q.Key, q.Direction)
	n, ok := t.find(&i)
	if !ok && scope.apart(&i) { // tunnel and VLAN are those of the error, which came the other way
		i = scope.common(&i)
		n, ok = t.find(&i)
	}
	if ok {
		t.at(n).halves[h].Errors.add(q.Error, q.Count)
	}
	return ok
}
