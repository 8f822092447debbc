// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/frames"
)

// difference is where tshark has another idea of a frame, and why. Of all other fields it says the same.
type difference struct {
	why    string
	fields []string
}

// bracketed is how fields are written of which only the value of the outermost header is compared.
func bracketed(fields ...string) (list []string) {
	for _, field := range fields {
		list = append(list, "("+field+")")
	}
	return list
}

func both(fields ...string) []string { return slices.Concat(fields, bracketed(fields...)) }

// Fields that differ together.
var (
	tcpPorts    = []string{"tcp.srcport", "tcp.dstport"}
	udpPorts    = []string{"udp.srcport", "udp.dstport"}
	ipAddresses = []string{"ip.src", "ip.dst"}
	tcpInIP     = slices.Concat(ipAddresses, tcpPorts)
	tcpHeader   = slices.Concat(both(tcpPorts...), bracketed("tcp.flags", "tcp.seq_raw", "tcp.ack_raw", "tcp.window_size_value"))
	ipHeader    = slices.Concat(both(ipAddresses...), bracketed("ip.ttl", "ip.proto", "ip.id", "ip.flags.df", "ip.flags.mf", "ip.frag_offset"))
	inTrailer   = slices.Concat(ipHeader, both(udpPorts...), bracketed("ip.dsfield", lengthOfUDP, headerLength))
	tagList     = bracketed("vlan ids", "vlan priorities")
)

const lengthOfUDP = "udp.length, less 8"

// tsharkDisagrees names what is inside of a tunnel apart, see nameOf.
var tsharkDisagrees = map[string]difference{
	// It reads on where both our parsers end.
	"hop-by-hop by number behind IPv4 is no extension header":             {"reads extension headers behind IPv4", tcpPorts},
	"AH behind IPv4 is accounted by its number":                           {"reads on behind AH", tcpPorts},
	"GRE with a strict source route":                                      {"reads on behind it", slices.Concat(ipAddresses, udpPorts, bracketed(carriesPacket))},
	"GRE with a strict source route of RFC 1701":                          {"reads on behind it", slices.Concat(tcpInIP, bracketed(carriesPacket))},
	"GRE with the last of the bits that receivers may not ignore":         {"ignores the bit", slices.Concat(tcpInIP, bracketed(carriesPacket))},
	"GRE of version 1 is PPTP's":                                          {"reads on whatever the version", slices.Concat(tcpInIP, bracketed(carriesPacket))},
	"VXLAN in VXLAN is looked into once":                                  {"looks into each", slices.Concat(tcpInIP, []string{"vxlan.vni"})},
	"VXLAN without a valid VNI":                                           {"goes by the port", slices.Concat(tcpInIP, []string{"vxlan.vni"}, bracketed(carriesPacket))},
	"the transport header in VXLAN is cut":                                {"tells the half", slices.Concat(tcpInIP, bracketed(carriesPacket))},
	"the header of VXLAN is cut":                                          {"tells the half", []string{"vxlan.vni"}},
	"Geneve of another version":                                           {"goes by the port", slices.Concat([]string{"geneve.vni"}, bracketed(carriesPacket))},
	"no IP in IP":                                                         {"goes by the protocol", bracketed(carriesPacket)},
	"what IPv4 in IPv4 says is none":                                      {"goes by the protocol", bracketed(carriesPacket)},
	"scans.pcap, frame 151":                                               {"goes by the protocol, whatever follows", bracketed(carriesPacket)},
	"scans.pcap, frame 155":                                               {"goes by the protocol, whatever follows", bracketed(carriesPacket)},
	"traffic to the port of VXLAN with bits that are reserved":            {"goes by the port", []string{"vxlan.vni"}},
	"traffic to the port of VXLAN that is none":                           {"goes by the port", []string{"vxlan.vni"}},
	"traffic to the port of Geneve that is none":                          {"goes by the port", []string{"geneve.vni"}},
	"three inline tags":                                                   {"reads any number", slices.Concat(bracketed(notRead), tagList)},
	"three inline tags and traffic":                                       {"reads any number", tagList},
	"an offloaded tag and three inline tags":                              {"reads any number", slices.Concat(bracketed(notRead), tagList)},
	"0x9100 is no tag":                                                    {"takes it for one", slices.Concat(bracketed(notRead), tagList)},
	"nine labels":                                                         {"reads any number", slices.Concat(bracketed(notRead), []string{"mpls.label"})},
	"nine extension headers":                                              {"reads any number", bracketed(notRead)},
	"a ninth extension header is too deep before it is too short":         {"reads any number", bracketed(notRead)},
	"a ninth extension header is too deep even if it is a later fragment": {"reads any number", bracketed(notRead)},
	"PPPoE of another type":                                               {"reads on whatever the type", bracketed(notRead)},
	"PPPoE with a code that is not session data":                          {"reads on whatever the code", bracketed(notRead)},
	"version 6 behind the type of IPv4":                                   {"goes by the first digit", bracketed(notRead)},
	"IPv6 where PPP says IPv4":                                            {"goes by the first digit", bracketed(notRead)},
	"time exceeded, quoting IPv6":                                         {"goes by the first digit", slices.Concat([]string{"ipv6.src", "ipv6.dst"}, udpPorts)},
	"a first tag one byte short":                                          {"tells the half", tagList},
	"a second tag one byte short":                                         {"tells the half", tagList},
	"ARP for another kind of hardware":                                    {"tells addresses of any hardware", bracketed("arp.src.proto_ipv4", "arp.dst.proto_ipv4")},
	"ARP that is cut":                                                     {"tells the half", bracketed("arp.opcode")},
	"IGMP 2 report without a group, with a trailer":                       {"tells the half", []string{"igmp.type"}},
	"linux.pcap, frame 52":                                                {"tells half of a quote that is cut", []string{"ipv6.src"}},
	"linux.pcap, frame 54":                                                {"tells half of a quote that is cut", []string{"ipv6.src"}},
	"urgent data and unusual options":                                     {"reads on behind the end of the list", bracketed("tcp.option_kind")},
	"a link-layer address of 14 bytes":                                    {"tells what is no MAC address", bracketed("icmpv6.opt.linkaddr")},
	"an SCTP DATA chunk of no length":                                     {"takes data for a chunk", bracketed("sctp.chunk_type")},

	// It ends where both our parsers read on.
	"a HIP header":                             {"reads it as the last header", slices.Concat(both(udpPorts...), bracketed("ipv6 extensions", lengthOfUDP, headerLength))},
	"a mobility header":                        {"reads it as the last header", slices.Concat(both(udpPorts...), bracketed("ipv6 extensions", lengthOfUDP, headerLength))},
	"eight extension headers, the most":        {"reads the HIP header as the last", slices.Concat(tcpHeader, bracketed("ipv6 extensions", "tcp.len", headerLength))},
	"a TCP data offset below 5 is taken for 5": {"reads no further than the bad offset", bracketed("tcp.flags", "tcp.ack_raw", "tcp.window_size_value", "tcp.len", headerLength)},
	"a first IPv6 fragment":                    {"tells no length of a fragment", bracketed("tcp.len")},

	// It believes a length, which the kernel program does not read.
	"padding past the total length is read as a header":                {"believes the total length", bracketed("icmp.type", "icmp.code", headerLength)},
	"an IPv4 header that goes on behind the end of the packet":         {"tells nothing of such a header", ipHeader},
	"nothing in IP in IP, with a trailer, inside":                      {"believes the total length outside", slices.Concat(both(udpPorts...), bracketed("ip.proto", lengthOfUDP, headerLength), bracketed(carriesPacket))},
	"nothing in GRE, with a trailer, inside":                           {"believes the total length outside", slices.Concat(inTrailer, bracketed(carriesPacket))},
	"no VXLAN, with a trailer, inside":                                 {"believes the total length outside", slices.Concat(ipHeader, both("udp.dstport"), bracketed("ip.dsfield", lengthOfUDP, headerLength), bracketed(carriesPacket))},
	"nothing in VXLAN, with a trailer, inside":                         {"believes the total length outside", slices.Concat(inTrailer, bracketed(carriesPacket))},
	"a payload length of 0 and no option that says another":            {"believes the payload length", slices.Concat(tcpHeader, bracketed(headerLength))},
	"a payload length of 0 and a hop-by-hop header without the option": {"believes the payload length", slices.Concat(both(udpPorts...), bracketed("ipv6 extensions", headerLength))},

	// It tells the length of UDP, and a record what IP says.
	"a UDP length of 0": {"tells 0", bracketed(lengthOfUDP)},
	"a jumbogram of UDP has no length at all, but in its option": {"tells 0", bracketed(lengthOfUDP)},
}

// same wants tshark to say ours, or something else if that is explained.
func same(t *testing.T, name, field string, theirs, ours any) {
	t.Helper()
	known := tsharkDisagrees[name]
	if !slices.Contains(known.fields, field) {
		assert.Equal(t, theirs, ours, "%s: %s", name, field)
		return
	}
	assert.NotEqual(t, theirs, ours, "%s: %s: tshark agrees, although it %s", name, field, known.why)
}

// nameOf tells the packet inside of a tunnel from that outside.
func nameOf(f *frames.Frame, k *flow.Key) string {
	if k.Tunnel.Kind != 0 {
		return f.Name + inside
	}
	return f.Name
}

const inside = ", inside"

// A name that no frame has explains nothing, and one that two have too much.
func TestEachDifferenceIsOfOneFrame(t *testing.T) {
	named := map[string]int{}
	for _, f := range everyFrame(t) {
		named[f.Name]++
	}
	for name := range tsharkDisagrees {
		assert.Equal(t, 1, named[strings.TrimSuffix(name, inside)], name)
	}
}
