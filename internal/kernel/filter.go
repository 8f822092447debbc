// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

import "net/netip"

// MaxFilters is how many filters the programs hold.
const MaxFilters = 16 // FILTERS_MAX of bpf/config.h

// Filter says what becomes of the packets that it matches; the first of a list that matches decides. It matches if one
// endpoint of the packet, source or destination, has both the address and the port.
type Filter struct {
	Skip     bool         // count the packet as flow.ReasonFiltered, and never sample it; else: as if there were no filter
	Prefix   netip.Prefix // invalid: every address of both versions; an IPv4 prefix never matches IPv6, nor the reverse
	Port     *uint16      // TCP, UDP, SCTP; nil: every port, and packets that have none
	Protocol *uint8       // IANA number, after IPv6 extension headers; nil: every protocol
}
