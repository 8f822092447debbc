// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package packet

import "github.com/ebpfpackets/ebpfpackets/internal/flow"

// Packet is what the headers of one frame say. Undecodable is a value, not an error: Reason tells how far decoding came,
// with the same words, limits and order of checks as the kernel program, so that the two can be compared.
type Packet struct {
	Reason    flow.Reason // ReasonAccounted: Key is whole; otherwise all but IfIndex, NetNS and EtherType is zero
	Key       flow.Key    // as the kernel would count it; IfIndex and NetNS are the sample's
	EtherType uint16      // of the payload after all tags, host byte order; 0 if there is none or it was not reached
	HeaderLen uint32      // bytes up to and including the transport header: what segmentation repeats; may exceed the captured bytes

	TTL  uint8 // IPv4 time to live or IPv6 hop limit; like all below valid iff Reason is ReasonAccounted
	DSCP uint8 // 6 bits; RFC 2474
	ECN  uint8 // 2 bits; RFC 3168

	HasTCP    bool  // never set for a later fragment
	TCPFlags  uint8 // CWR ECE URG ACK PSH RST SYN FIN; RFC 9293 3.1
	TCPSeq    uint32
	TCPAck    uint32 // valid iff the ACK flag is set
	TCPWindow uint16 // as sent, unscaled

	HasICMP  bool // ICMP over IPv4 or ICMPv6 over IPv6; never set for a later fragment
	ICMPType uint8
	ICMPCode uint8
}
