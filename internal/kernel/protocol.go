// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

// Protocols are application protocols, one bit for each.
type Protocols uint8

// enum protocol_bits of bpf/contract.h
const (
	ProtocolDNS Protocols = 1 << iota
	ProtocolTLS
	ProtocolHTTP

	allProtocols = ProtocolDNS | ProtocolTLS | ProtocolHTTP
)
