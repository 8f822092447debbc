// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package packet

import "strconv"

// numbered holds a word for each value of a byte: its name, or its number where it has none.
type numbered [256]string

func named(names map[uint8]string) *numbered {
	var words numbered
	for n := range words {
		words[n] = strconv.Itoa(n)
	}
	for n, name := range names {
		words[n] = name
	}
	return &words
}

// ChunkName is the name of a type of SCTP chunk; RFC 9260 3.2 and the registry of IANA.
func ChunkName(typ uint8) string { return chunkNames[typ] }

// ExtensionName is the name of an IPv6 extension header, by protocol number.
func ExtensionName(proto uint8) string { return extensionNames[proto] }

// IPOptionName is the name of an IPv4 option, by its first byte; IANA, IP Option Numbers.
func IPOptionName(kind uint8) string { return ipOptionNames[kind] }

var chunkNames = named(map[uint8]string{
	0: "DATA", 1: "INIT", 2: "INIT ACK", 3: "SACK", 4: "HEARTBEAT", 5: "HEARTBEAT ACK", 6: "ABORT", 7: "SHUTDOWN",
	8: "SHUTDOWN ACK", 9: "ERROR", 10: "COOKIE ECHO", 11: "COOKIE ACK", 12: "ECNE", 13: "CWR", 14: "SHUTDOWN COMPLETE",
	15: "AUTH", 64: "I-DATA", 128: "ASCONF-ACK", 130: "RE-CONFIG", 132: "PAD", 192: "FORWARD TSN", 193: "ASCONF", 194: "I-FORWARD-TSN",
})

var extensionNames = named(map[uint8]string{
	extensionHopByHop: "hop-by-hop", extensionRouting: "routing", extensionFragment: "fragment", extensionAH: "ah",
	extensionDestination: "destination", extensionMobility: "mobility", extensionHIP: "hip", extensionShim6: "shim6",
})

var ipOptionNames = named(map[uint8]string{
	0: "eol", 1: "nop", 7: "rr", 68: "ts", 130: "sec", 131: "lsrr", 134: "cipso", 136: "sid", 137: "ssrr", 148: "ra",
})
