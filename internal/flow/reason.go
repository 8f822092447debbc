// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package flow

// Reason says where a packet was counted. The order is enum reason in bpf/contract.h; a test keeps the two in step.
type Reason uint8

const (
	ReasonAccounted          Reason = iota // in the slot of its flow
	ReasonOverflow                         // no slot was free, or the CPU came online after loading and has no region
	ReasonFiltered                         // a filter of the configuration says so
	ReasonARP                              // not IP: ARP and RARP
	ReasonLLC                              // not IP: 802.3 frame, its type field is a length (< 1536)
	ReasonEtherType                        // not IP: any other ethertype, kept beside the reason; MPLS and PPPoE sessions that carry no IP
	ReasonShortEthernet                    // unparsed: ends inside the link header
	ReasonShortVLAN                        // unparsed: ends inside a tag
	ReasonVLANDepth                        // unparsed: more than two inline tags
	ReasonShortMPLS                        // unparsed: ends inside a stack of labels or right behind it
	ReasonMPLSDepth                        // unparsed: more than eight labels
	ReasonShortPPPoE                       // unparsed: ends inside the PPPoE session header or the PPP protocol
	ReasonShortIPv4                        // unparsed: ends inside the IPv4 header
	ReasonBadIPv4                          // unparsed: version is not 4 or header length below 20
	ReasonShortIPv6                        // unparsed: ends inside the IPv6 header
	ReasonBadIPv6                          // unparsed: version is not 6
	ReasonShortIPv6Extension               // unparsed: ends inside an extension header
	ReasonIPv6ExtensionDepth               // unparsed: more extension headers than are walked
	ReasonShortTransport                   // unparsed: ends inside the TCP, UDP, SCTP or ICMP header
	ReasonNotIP                            // unparsed: not IP of version 4 or 6 on a device without link header
	ReasonDuplicate                        // another hook counts it
	ReasonCount                            // how many there are
)

// entries are the values of the ledger's attribute "entry": the three kinds of non-IP traffic share one.
var entries = [ReasonCount]string{
	ReasonAccounted:          "accounted",
	ReasonOverflow:           "overflow",
	ReasonFiltered:           "filtered",
	ReasonARP:                "not_ip",
	ReasonLLC:                "not_ip",
	ReasonEtherType:          "not_ip",
	ReasonShortEthernet:      "unparsed_short_ethernet",
	ReasonShortVLAN:          "unparsed_short_vlan",
	ReasonVLANDepth:          "unparsed_vlan_depth",
	ReasonShortMPLS:          "unparsed_short_mpls",
	ReasonMPLSDepth:          "unparsed_mpls_depth",
	ReasonShortPPPoE:         "unparsed_short_pppoe",
	ReasonShortIPv4:          "unparsed_short_ipv4",
	ReasonBadIPv4:            "unparsed_bad_ipv4",
	ReasonShortIPv6:          "unparsed_short_ipv6",
	ReasonBadIPv6:            "unparsed_bad_ipv6",
	ReasonShortIPv6Extension: "unparsed_short_ipv6_extension",
	ReasonIPv6ExtensionDepth: "unparsed_ipv6_extension_depth",
	ReasonShortTransport:     "unparsed_short_transport",
	ReasonNotIP:              "unparsed_not_ip",
	ReasonDuplicate:          "duplicate",
}

// Entry returns the ledger entry that r is counted under.
func (r Reason) Entry() string { return entries[r] }

// Short reports whether r says that the bytes ended too early. Of a captured part of a packet, that says nothing about the
// packet.
func (r Reason) Short() bool {
	switch r {
	case ReasonShortEthernet, ReasonShortVLAN, ReasonShortMPLS, ReasonShortPPPoE, ReasonShortIPv4, ReasonShortIPv6, ReasonShortIPv6Extension, ReasonShortTransport:
		return true
	}
	return false
}
