// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/frames"
)

// TestTsharkAgreesOnDetails asks about every detail of every frame: what tshark tells must be told, and nothing else.
func TestTsharkAgreesOnDetails(t *testing.T) {
	asked := map[string]int{} // frames by field that had something to say
	withTshark(t, func(t *testing.T, path string, all []frames.Frame) {
		tsharkAgreesOnDetails(t, path, all, asked)
	})
	for _, field := range slices.Sorted(maps.Keys(detailFields)) {
		assert.NotZero(t, asked[field], "no frame has %s: it was not compared", field)
	}
}

func tsharkAgreesOnDetails(t *testing.T, path string, all []frames.Frame, asked map[string]int) {
	rows := tshark(t, path, tsharkAsked())
	require.Len(t, rows, len(all))
	var d packet.Decoder
	var h packet.Details
	for i, f := range all {
		s := f.Sample()
		d.Decode(&s, &h)
		outer, row := rows[i].derived(), rows[i].inside(&h.Key.Tunnel).derived()
		read := h.Reason == flow.ReasonAccounted || h.Reason == flow.ReasonARP
		for field, words := range detailFields {
			ours, theirs := words(&h), row[field]
			if slices.Contains(linkFields, field) {
				theirs = outer[field]
			} else if !read {
				continue
			}
			if len(ours) > 0 {
				asked[field]++
			}
			same(t, nameOf(&f, &h.Key), field, theirs, ours)
		}
	}
}

// words makes a list of what is valid.
func words[T any](valid bool, values ...T) (list []string) {
	if !valid {
		return nil
	}
	for _, v := range values {
		list = append(list, fmt.Sprint(v))
	}
	return list
}

// family returns those of the addresses that are IPv6, or are not.
func family(ipv6 bool, addrs ...netip.Addr) (list []string) {
	for _, a := range addrs {
		if a.IsValid() && a.Is6() == ipv6 {
			list = append(list, a.String())
		}
	}
	return list
}

// keys are the tuples of a packet from the outermost to what it carries or quotes.
func keys(h *packet.Details) (list []*flow.Key) {
	if h.Reason != flow.ReasonAccounted {
		return nil
	}
	list = append(list, &h.Key)
	if h.HasInner {
		list = append(list, &h.Inner)
	}
	if h.HasQuoted {
		list = append(list, &h.Quoted)
	}
	return list
}

func sources(ipv6 bool) func(*packet.Details) []string {
	return func(h *packet.Details) (list []string) {
		for _, k := range keys(h) {
			list = append(list, family(ipv6, k.Src())...)
		}
		return list
	}
}

func destinations(ipv6 bool) func(*packet.Details) []string {
	return func(h *packet.Details) (list []string) {
		for _, k := range keys(h) {
			list = append(list, family(ipv6, k.Dst())...)
		}
		return list
	}
}

func portsOf(proto uint8, destination bool) func(*packet.Details) []string {
	return func(h *packet.Details) (list []string) {
		for _, k := range keys(h) {
			if k.Proto == proto && k.HasPorts() {
				list = append(list, fmt.Sprint(map[bool]uint16{false: k.SrcPort, true: k.DstPort}[destination]))
			}
		}
		return list
	}
}

func v4(h *packet.Details) bool { return h.Reason == flow.ReasonAccounted && !h.Key.IPv6 }
func v6(h *packet.Details) bool { return h.Reason == flow.ReasonAccounted && h.Key.IPv6 }

func flag(set bool) int { return map[bool]int{true: 1}[set] }

// detailFields are tshark's fields, and what they should say.
var detailFields = map[string]func(*packet.Details) []string{
	"(eth.src)": func(h *packet.Details) []string { return words(h.HasEthernet, h.SrcMAC) },
	"(eth.dst)": func(h *packet.Details) []string { return words(h.HasEthernet, h.DstMAC) },
	"(vlan ids)": func(h *packet.Details) (list []string) {
		for _, tag := range h.Tags {
			list = append(list, fmt.Sprint(tag.ID()))
		}
		return list
	},
	"(vlan priorities)": func(h *packet.Details) (list []string) {
		for _, tag := range h.Tags {
			list = append(list, fmt.Sprint(tag.Priority()))
		}
		return list
	},

	"mpls.label": func(h *packet.Details) (list []string) {
		for _, l := range h.Labels {
			list = append(list, fmt.Sprint(l.Label()))
		}
		return list
	},

	"(arp.opcode)":         func(h *packet.Details) []string { return words(h.HasARP, h.ARPOperation) },
	"(arp.src.hw_mac)":     func(h *packet.Details) []string { return words(h.HasARPEndpoint, h.ARPSender.MAC) },
	"(arp.dst.hw_mac)":     func(h *packet.Details) []string { return words(h.HasARPEndpoint, h.ARPTarget.MAC) },
	"(arp.src.proto_ipv4)": func(h *packet.Details) []string { return words(h.HasARPEndpoint, h.ARPSender.Addr) },
	"(arp.dst.proto_ipv4)": func(h *packet.Details) []string { return words(h.HasARPEndpoint, h.ARPTarget.Addr) },

	"ip.src":   sources(false),
	"ip.dst":   destinations(false),
	"ipv6.src": sources(true),
	"ipv6.dst": destinations(true),

	"tcp.srcport":  portsOf(6, false),
	"tcp.dstport":  portsOf(6, true),
	"udp.srcport":  portsOf(17, false),
	"udp.dstport":  portsOf(17, true),
	"sctp.srcport": portsOf(132, false),
	"sctp.dstport": portsOf(132, true),

	"(ip.id)":               func(h *packet.Details) []string { return words(v4(h), h.IPID) },
	"(ip.flags.df)":         func(h *packet.Details) []string { return words(v4(h), flag(h.DontFragment)) },
	"(ip.flags.mf)":         func(h *packet.Details) []string { return words(v4(h), flag(h.MoreFragments)) },
	"(ip.frag_offset)":      func(h *packet.Details) []string { return words(v4(h), h.FragmentOffset/8) },
	"(ipv6.flow)":           func(h *packet.Details) []string { return words(v6(h), h.FlowLabel) },
	"(ipv6.fraghdr.ident)":  func(h *packet.Details) []string { return words(v6(h) && h.HasIPID, h.IPID) },
	"(ipv6.fraghdr.more)":   func(h *packet.Details) []string { return words(v6(h) && h.HasIPID, flag(h.MoreFragments)) },
	"(ipv6.fraghdr.offset)": func(h *packet.Details) []string { return words(v6(h) && h.HasIPID, h.FragmentOffset/8) },
	"(ip.opt.type)":         func(h *packet.Details) []string { return words(true, h.IPOptions...) },
	"(ipv6 extensions)":     func(h *packet.Details) []string { return words(true, h.Extensions...) },
	"(tcp.len)":             func(h *packet.Details) []string { return words(h.HasTCP && h.HasPayloadLen, h.PayloadLen) },
	"(udp.length, less 8)":  func(h *packet.Details) []string { return words(isWholeUDP(h), h.PayloadLen) },
	"(tcp.urgent_pointer)":  func(h *packet.Details) []string { return words(h.HasTCP && h.TCPFlags&packet.TCPURG != 0, h.TCPUrgent) },
	"tcp.options.mss_val":   func(h *packet.Details) []string { return words(h.HasMSS, h.MSS) },
	"tcp.options.sack_le":   func(h *packet.Details) []string { return edges(h, 0) },
	"tcp.options.sack_re":   func(h *packet.Details) []string { return edges(h, 1) },
	"(tcp.option_kind)":     func(h *packet.Details) []string { return words(true, h.TCPOptions...) },
	"tcp.options.wscale.shift": func(h *packet.Details) []string {
		return words(h.HasWindowScale, h.WindowScale)
	},
	"(tcp.options.timestamp.tsval)": func(h *packet.Details) []string { return words(h.HasTimestamps, h.Timestamp) },
	"(tcp.options.timestamp.tsecr)": func(h *packet.Details) []string { return words(h.HasTimestamps, h.TimestampEcho) },

	"(icmp.ident)":                  func(h *packet.Details) []string { return words(v4(h) && h.HasEcho, h.EchoID) },
	"(icmp.seq)":                    func(h *packet.Details) []string { return words(v4(h) && h.HasEcho, h.EchoSeq) },
	"(icmp.mtu)":                    func(h *packet.Details) []string { return words(v4(h) && h.HasMTU, h.MTU) },
	"icmp.redir_gw":                 func(h *packet.Details) []string { return words(v4(h) && h.ICMPTarget.IsValid(), h.ICMPTarget) },
	"(icmpv6.echo.identifier)":      func(h *packet.Details) []string { return words(v6(h) && h.HasEcho, h.EchoID) },
	"(icmpv6.echo.sequence_number)": func(h *packet.Details) []string { return words(v6(h) && h.HasEcho, h.EchoSeq) },
	"icmpv6.mtu":                    func(h *packet.Details) []string { return words(v6(h) && h.HasMTU, h.MTU) },
	"(icmpv6.nd.ns.target_address)": func(h *packet.Details) []string {
		return words(isType6(h, 135) && h.ICMPTarget.IsValid(), h.ICMPTarget)
	},
	"(icmpv6.nd.na.target_address)": func(h *packet.Details) []string {
		return words(isType6(h, 136) && h.ICMPTarget.IsValid(), h.ICMPTarget)
	},
	"(icmpv6.nd.rd.target_address)": func(h *packet.Details) []string {
		return words(isType6(h, 137) && h.ICMPTarget.IsValid(), h.ICMPTarget)
	},
	"(icmpv6.rd.na.destination_address)": func(h *packet.Details) []string {
		return words(isType6(h, 137) && h.ICMPDestination.IsValid(), h.ICMPDestination)
	},
	"(icmpv6.opt.linkaddr)": func(h *packet.Details) []string { return words(h.HasICMPLinkLayer, h.ICMPLinkLayer) },

	"igmp.type": func(h *packet.Details) []string { return words(h.HasIGMP, h.IGMPType) },
	"(groups)":  func(h *packet.Details) []string { return words(true, h.Groups...) },

	"(sctp.verification_tag)": func(h *packet.Details) []string { return words(h.HasSCTP, h.SCTPTag) },
	"(sctp.chunk_type)":       func(h *packet.Details) []string { return words(true, h.SCTPChunks...) },

	"gre.key": func(h *packet.Details) []string {
		return words(h.Tunnel == flow.TunnelGRE && h.HasTunnelID, h.TunnelID)
	},
	"vxlan.vni":  func(h *packet.Details) []string { return words(h.Tunnel == flow.TunnelVXLAN, h.TunnelID) },
	"geneve.vni": func(h *packet.Details) []string { return words(h.Tunnel == flow.TunnelGeneve, h.TunnelID) },
}

func isType6(h *packet.Details, typ uint8) bool { return h.HasICMP && h.Key.IPv6 && h.ICMPType == typ }

// isWholeUDP: the header of a first fragment tells of all fragments together.
func isWholeUDP(h *packet.Details) bool {
	return h.Reason == flow.ReasonAccounted && h.Key.Proto == 17 && !h.HasFragment && !h.Key.LaterFragment && h.HasPayloadLen
}

func edges(h *packet.Details, side int) (list []string) {
	for _, b := range h.SACK {
		list = append(list, fmt.Sprint(b[side]))
	}
	return list
}

// linkFields are compared of every frame, those that are not IP and those that are broken included. In tunnels they are those of
// the frame.
var linkFields = []string{"(eth.src)", "(eth.dst)", "(vlan ids)", "(vlan priorities)", "mpls.label"}

// tsharkAsked are the fields to ask for; those in brackets of detailFields are made of them.
func tsharkAsked() []string {
	asked := []string{
		"frame.protocols", "ieee8021ad.id", "ieee8021ad.svid", "ieee8021ad.cvid", "vlan.id", "ieee8021ad.priority", "vlan.priority", "ip.id", "ip.flags.df", "ip.flags.mf", "ip.frag_offset",
		"ipv6.flow", "ipv6.fraghdr.ident", "ipv6.fraghdr.more", "ipv6.fraghdr.offset", "ip.opt.type", "tcp.len", "udp.length", "tcp.flags.urg", "tcp.urgent_pointer",
		"tcp.option_kind", "tcp.options.timestamp.tsval", "tcp.options.timestamp.tsecr", "icmp.type", "icmp.code", "icmpv6.type", "icmp.ident", "icmp.seq",
		"icmpv6.echo.identifier", "icmpv6.echo.sequence_number", "eth.src", "eth.dst",
		"arp.opcode", "arp.src.hw_mac", "arp.dst.hw_mac", "arp.src.proto_ipv4", "arp.dst.proto_ipv4", "icmp.mtu", "icmpv6.opt.linkaddr", "igmp.maddr", "icmpv6.mld.multicast_address", "icmpv6.mldr.mar.multicast_address",
		"sctp.verification_tag", "sctp.chunk_type", "icmpv6.nd.ns.target_address", "icmpv6.nd.na.target_address",
		"icmpv6.nd.rd.target_address", "icmpv6.rd.na.destination_address",
	}
	for field := range detailFields {
		if field[0] != '(' {
			asked = append(asked, field)
		}
	}
	return asked
}

// derived adds the fields in brackets: those of headers that may occur again, in a tunnel or a quote, of the outermost.
func (r tsharkSays) derived() tsharkSays {
	r = maps.Clone(r)
	network, transport := r.outermost()
	take := func(n int, is bool, fields ...string) {
		for _, field := range fields {
			if is && len(r[field]) > 0 {
				r["("+field+")"] = r[field][:min(n, len(r[field]))]
			}
		}
	}
	r["(vlan ids)"], r["(vlan priorities)"] = r.tags("id"), r.tags("priority")
	take(1, true, "eth.src", "eth.dst")
	take(1, network == "arp", "arp.opcode", "arp.src.hw_mac", "arp.dst.hw_mac", "arp.src.proto_ipv4", "arp.dst.proto_ipv4")
	take(1, network == "ip", "ip.id", "ip.flags.df", "ip.flags.mf", "ip.frag_offset")
	take(99, network == "ip", "ip.opt.type")
	take(1, network == "ipv6", "ipv6.flow")
	r["(ipv6 extensions)"] = r.extensions()
	take(1, slices.Contains(r["(ipv6 extensions)"], "44"), "ipv6.fraghdr.ident", "ipv6.fraghdr.more", "ipv6.fraghdr.offset")
	take(1, transport == "tcp", "tcp.len", "tcp.options.timestamp.tsval", "tcp.options.timestamp.tsecr")
	take(99, transport == "tcp", "tcp.option_kind")
	take(1, transport == "tcp" && r.first("tcp.flags.urg", "1"), "tcp.urgent_pointer")
	if transport == "udp" && !r.fragmented() && len(r["udp.length"]) > 0 {
		n, _ := strconv.Atoi(r["udp.length"][0])
		r["(udp.length, less 8)"] = []string{fmt.Sprint(n - 8)}
	}
	if transport == "icmp" && network == "ip" {
		take(1, r.first("icmp.type", "0", "8", "13", "14"), "icmp.ident", "icmp.seq")
		take(1, r.first("icmp.type", "3") && r.first("icmp.code", "4"), "icmp.mtu")
	}
	take(1, transport == "icmpv6" && network == "ipv6" && r.first("icmpv6.type", "128", "129"),
		"icmpv6.echo.identifier", "icmpv6.echo.sequence_number")
	take(1, transport == "icmpv6" && network == "ipv6", "icmpv6.opt.linkaddr", "icmpv6.nd.ns.target_address",
		"icmpv6.nd.na.target_address", "icmpv6.nd.rd.target_address", "icmpv6.rd.na.destination_address")
	if transport == "icmpv6" || transport == "igmp" {
		groups := slices.Concat(r["igmp.maddr"], r["icmpv6.mld.multicast_address"], r["icmpv6.mldr.mar.multicast_address"])
		r["(groups)"] = slices.DeleteFunc(groups, func(g string) bool { return g == "0.0.0.0" || g == "::" }) // a general query has none
	}
	take(1, transport == "sctp", "sctp.verification_tag")
	take(99, transport == "sctp", "sctp.chunk_type")
	for field, list := range r {
		if len(list) == 0 {
			delete(r, field)
		}
	}
	return r
}

// first reports whether the first value of a field is one of these.
func (r tsharkSays) first(field string, values ...string) bool {
	return len(r[field]) > 0 && slices.Contains(values, r[field][0])
}

// tsharkExtensions are its names of extension headers.
var tsharkExtensions = map[string]string{
	"ipv6.hopopts": "0", "ipv6.routing": "43", "ipv6.fraghdr": "44", "ah": "51", "ipv6.dstopts": "60", "shim6": "140",
}

// outermost returns the first layer that is IP or ARP, and the one behind it and its extensions.
func (r tsharkSays) outermost() (network, transport string) {
	for l := range strings.SplitSeq(r.protocols(), ":") {
		switch _, extension := tsharkExtensions[l]; {
		case network == "" && (l == "ip" || l == "ipv6" || l == "arp"):
			network = l
		case network != "" && !(extension && network == "ipv6"):
			return network, l
		}
	}
	return network, ""
}

func (r tsharkSays) extensions() (list []string) {
	network := ""
	for l := range strings.SplitSeq(r.protocols(), ":") {
		switch n, extension := tsharkExtensions[l]; {
		case network == "" && (l == "ip" || l == "ipv6"):
			network = l
		case network == "ipv6" && extension:
			list = append(list, n)
		case network != "":
			return list
		}
	}
	return list
}

// fragmented: the length that UDP tells is then that of all fragments.
func (r tsharkSays) fragmented() bool {
	return r.first("(ip.flags.mf)", "1") || r.first("(ipv6.fraghdr.more)", "1") // a last fragment has no header of UDP
}
