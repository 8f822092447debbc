// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/hex"
	"net/netip"
	"strconv"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// line is text that grows; the words are tcpdump's where it has some.
type line []byte

// AppendLine appends s, decoded as h, in one line, close to what tcpdump -n prints.
func AppendLine(b []byte, s *Sample, h *Details) []byte {
	l := line(b)
	for _, t := range h.Tags {
		l.str("vlan ").num(uint64(t.ID())).str(", p ").num(uint64(t.Priority())).str(", ")
	}
	for _, m := range h.Labels {
		l.str("MPLS (label ").num(uint64(m.Label())).str(", tc ").num(uint64(m.TrafficClass()))
		if m.Bottom() {
			l.str(", [S]")
		}
		l.str(", ttl ").num(uint64(m.TTL())).str(") ")
	}
	switch h.Reason {
	case flow.ReasonAccounted:
		l.ip(h)
	case flow.ReasonARP:
		l.arp(h)
	default:
		l.unread(s, h)
	}
	if s.Segments > 1 {
		l.str(" in ").num(uint64(s.Segments)).str(" packets")
	}
	if h.InsideCut {
		l.str(" (inside cut)")
	}
	return l
}

// Cut reports whether the headers go on behind the captured bytes. The kernel saw all of them: how it counted the packet
// cannot be told from the part.
func Cut(s *Sample, reason flow.Reason) bool { return reason.Short() && s.cut() }

func (l *line) unread(s *Sample, h *Details) {
	switch {
	case Cut(s, h.Reason):
		l.str("cut inside a header")
	case h.EtherType != 0:
		l.str(h.Reason.Entry()).str(", ethertype 0x").hex16(h.EtherType)
	default:
		l.str(h.Reason.Entry())
	}
	l.str(", length ").num(uint64(s.WireLen)) // of all there is
}

func (l *line) arp(h *Details) {
	if h.EtherType == etherTypeRARP {
		l.str("Reverse ")
	}
	l.str("ARP")
	switch {
	case !h.HasARPEndpoint:
		if h.HasARP {
			l.str(", operation ").num(uint64(h.ARPOperation))
		}
	case h.ARPOperation == 1:
		l.str(", Request who-has ").addr(h.ARPTarget.Addr).str(" tell ").addr(h.ARPSender.Addr)
	case h.ARPOperation == 2:
		l.str(", Reply ").addr(h.ARPSender.Addr).str(" is-at ").mac(h.ARPSender.MAC)
	case h.ARPOperation == 3:
		l.str(", Request who-is ").mac(h.ARPTarget.MAC).str(" tell ").mac(h.ARPSender.MAC)
	case h.ARPOperation == 4:
		l.str(", Reply ").mac(h.ARPTarget.MAC).str(" at ").addr(h.ARPTarget.Addr)
	default:
		l.str(", operation ").num(uint64(h.ARPOperation)).str(" from ").addr(h.ARPSender.Addr)
	}
}

func (l *line) ip(h *Details) {
	if t := &h.Key.Tunnel; t.Kind != 0 {
		l.version(t.IPv6).addr(t.From()).str(" > ").addr(t.To()).str(": ").str(t.Kind.String())
		if t.HasID {
			l.str(" ").num(uint64(t.ID))
		}
		l.str(": ")
	}
	l.tuple(&h.Key).str(": ")
	if h.HasFragment {
		l.str("frag (id ").num(uint64(h.IPID)).str(", offset ").num(uint64(h.FragmentOffset))
		if h.MoreFragments {
			l.str(", more")
		}
		l.str(") ")
	}
	length := uint64(h.PayloadLen)
	switch {
	case h.Key.LaterFragment || h.Beyond:
		l.protocol(h.Key.Proto)
	case h.HasTCP:
		l.tcp(h)
	case h.HasICMP:
		l.icmp(h)
		length += icmpLen // tcpdump counts its header
	case h.HasIGMP:
		l.igmp(h)
	case h.HasSCTP:
		l.sctp(h)
	case h.Tunnel != 0:
		l.tunnel(h)
	case h.Key.Proto == protoUDP:
		l.str("UDP")
	default:
		l.protocol(h.Key.Proto)
	}
	if h.HasPayloadLen {
		l.str(", length ").num(length)
	}
	if h.HasInner {
		l.str(": ").tuple(&h.Inner).str(": ").protocol(h.Inner.Proto)
	}
}

// tuple writes "IP a.port > b.port".
func (l *line) tuple(k *flow.Key) *line {
	l.version(k.IPv6).addr(k.Src())
	if k.HasPorts() {
		l.str(".").num(uint64(k.SrcPort))
	}
	l.str(" > ").addr(k.Dst())
	if k.HasPorts() {
		l.str(".").num(uint64(k.DstPort))
	}
	return l
}

func (l *line) version(ipv6 bool) *line {
	if ipv6 {
		return l.str("IP6 ")
	}
	return l.str("IP ")
}

func (l *line) protocol(proto uint8) *line {
	switch proto {
	case protoTCP:
		return l.str("tcp")
	case protoUDP:
		return l.str("udp")
	case protoSCTP:
		return l.str("sctp")
	case protoICMP:
		return l.str("icmp")
	case protoICMPv6:
		return l.str("icmp6")
	case protoGRE:
		return l.str("gre")
	case protoESP:
		return l.str("esp")
	}
	return l.str("ip-proto-").num(uint64(proto))
}

func (l *line) tcp(h *Details) {
	l.str("Flags [")
	if h.TCPFlags == 0 {
		l.str("none")
	}
	for bit, letter := range []byte("FSRP.UEW") {
		if h.TCPFlags&(1<<bit) != 0 {
			*l = append(*l, letter)
		}
	}
	l.str("], seq ").num(uint64(h.TCPSeq))
	if h.PayloadLen > 0 {
		l.str(":").num(uint64(h.TCPSeq + h.PayloadLen)) // wraps as sequence numbers do
	}
	if h.TCPFlags&TCPACK != 0 {
		l.str(", ack ").num(uint64(h.TCPAck))
	}
	l.str(", win ").num(uint64(h.TCPWindow))
	if h.TCPFlags&TCPURG != 0 {
		l.str(", urg ").num(uint64(h.TCPUrgent))
	}
	if len(h.TCPOptions) == 0 {
		return
	}
	l.str(", options [")
	for i, kind := range h.TCPOptions {
		if i > 0 {
			l.str(",")
		}
		l.tcpOption(h, kind)
	}
	l.str("]")
}

func (l *line) tcpOption(h *Details, kind uint8) {
	if int(kind) < len(tcpOptionNames) && tcpOptionNames[kind] != "" {
		l.str(tcpOptionNames[kind])
	} else {
		l.str("unknown-").num(uint64(kind))
	}
	switch {
	case kind == 2 && h.HasMSS:
		l.str(" ").num(uint64(h.MSS))
	case kind == 3 && h.HasWindowScale:
		l.str(" ").num(uint64(h.WindowScale))
	case kind == 5:
		l.str(" ").num(uint64(len(h.SACK))).str(" ")
		for _, b := range h.SACK {
			l.str("{").num(uint64(b[0])).str(":").num(uint64(b[1])).str("}")
		}
	case kind == 8 && h.HasTimestamps:
		l.str(" val ").num(uint64(h.Timestamp)).str(" ecr ").num(uint64(h.TimestampEcho))
	}
}

// tcpOptionNames are tcpdump's, by kind.
var tcpOptionNames = [35]string{
	0: "eol", 1: "nop", 2: "mss", 3: "wscale", 4: "sackOK", 5: "sack", 6: "echo", 7: "echoreply", 8: "TS", 11: "cc", 12: "ccnew", 13: "ccecho",
	19: "md5", 28: "uto", 29: "tcp-ao", 30: "mptcp", 34: "tfo",
}

// icmp writes what a message says, and of what packet if it quotes one.
func (l *line) icmp(h *Details) {
	name, names := "ICMP ", &icmpNames
	if h.Key.IPv6 {
		name, names = "ICMP6, ", &icmp6Names
	}
	l.str(name)
	if names[h.ICMPType] != "" {
		l.str(names[h.ICMPType])
	} else {
		l.str("type-").num(uint64(h.ICMPType))
	}
	if code, ok := icmpCodes[icmpCode{h.Key.IPv6, h.ICMPType, h.ICMPCode}]; ok {
		l.str(" ").str(code)
	} else if h.ICMPCode != 0 {
		l.str(" code-").num(uint64(h.ICMPCode))
	}
	switch {
	case h.HasEcho:
		l.str(", id ").num(uint64(h.EchoID)).str(", seq ").num(uint64(h.EchoSeq))
	case h.HasMTU:
		l.str(", mtu ").num(uint64(h.MTU))
	case h.ICMPType == icmp6NeighborSol && h.ICMPTarget.IsValid():
		l.str(", who has ").addr(h.ICMPTarget)
	case h.ICMPType == icmp6NeighborAdvert && h.ICMPTarget.IsValid():
		l.str(", tgt is ").addr(h.ICMPTarget)
	case h.ICMPDestination.IsValid():
		l.str(", ").addr(h.ICMPDestination).str(" to ").addr(h.ICMPTarget)
	case h.ICMPTarget.IsValid():
		l.str(" to ").addr(h.ICMPTarget)
	}
	if h.HasICMPLinkLayer {
		l.str(", lladdr ").mac(h.ICMPLinkLayer)
	}
	l.groups(h)
	if h.HasQuoted {
		l.str(" (").tuple(&h.Quoted).str(": ").protocol(h.Quoted.Proto).str(")")
	}
}

func (l *line) groups(h *Details) {
	for i, g := range h.Groups {
		if i == 0 {
			l.str(" ")
		} else {
			l.str(",")
		}
		l.addr(g)
	}
}

var icmpNames = [256]string{
	icmpEchoReply: "echo reply", icmpUnreachable: "unreachable", icmpSourceQuench: "source quench", icmpRedirect: "redirect",
	icmpEcho: "echo request", 9: "router advertisement", 10: "router solicitation", icmpTimeExceeded: "time exceeded",
	icmpParameter: "parameter problem", icmpTimestamp: "time stamp query", icmpTimestampReply: "time stamp reply",
}

var icmp6Names = [256]string{
	icmp6Unreachable: "destination unreachable", icmp6TooBig: "packet too big", icmp6TimeExceeded: "time exceeded",
	icmp6Parameter: "parameter problem", icmp6Echo: "echo request", icmp6EchoReply: "echo reply",
	icmp6Query: "multicast listener query", icmp6Report: "multicast listener report", icmp6Done: "multicast listener done",
	icmp6RouterSolicit: "router solicitation", icmp6RouterAdvert: "router advertisement",
	icmp6NeighborSol: "neighbor solicitation", icmp6NeighborAdvert: "neighbor advertisement", icmp6Redirect: "redirect",
	icmp6ReportV2: "multicast listener report v2",
}

type icmpCode struct {
	ipv6      bool
	typ, code uint8
}

var icmpCodes = map[icmpCode]string{
	{false, icmpUnreachable, 0}: "net", {false, icmpUnreachable, 1}: "host", {false, icmpUnreachable, 2}: "protocol",
	{false, icmpUnreachable, 3}: "port", {false, icmpUnreachable, 4}: "need to frag", {false, icmpUnreachable, 5}: "source route failed",
	{false, icmpUnreachable, 9}: "net prohibited", {false, icmpUnreachable, 10}: "host prohibited", {false, icmpUnreachable, 13}: "admin prohibited",
	{false, icmpRedirect, 0}: "net", {false, icmpRedirect, 1}: "host",
	{false, icmpTimeExceeded, 0}: "in-transit", {false, icmpTimeExceeded, 1}: "reassembly",
	{true, icmp6Unreachable, 0}: "route", {true, icmp6Unreachable, 1}: "prohibited", {true, icmp6Unreachable, 2}: "beyond scope",
	{true, icmp6Unreachable, 3}: "address", {true, icmp6Unreachable, 4}: "port",
	{true, icmp6TimeExceeded, 0}: "in-transit", {true, icmp6TimeExceeded, 1}: "reassembly",
	{true, icmp6Parameter, 0}: "header", {true, icmp6Parameter, 1}: "next header", {true, icmp6Parameter, 2}: "option",
}

func (l *line) igmp(h *Details) {
	l.str("igmp ")
	switch h.IGMPType {
	case igmpQuery:
		l.str("query")
	case igmpReportV1:
		l.str("v1 report")
	case igmpReportV2:
		l.str("v2 report")
	case igmpReportV3:
		l.str("v3 report")
	case igmpLeave:
		l.str("leave")
	default:
		l.str("type-").num(uint64(h.IGMPType))
	}
	l.groups(h)
}

func (l *line) sctp(h *Details) {
	l.str("sctp")
	for _, c := range h.SCTPChunks {
		l.str(" [").str(ChunkName(c)).str("]")
	}
}

func (l *line) tunnel(h *Details) {
	switch h.Tunnel {
	case flow.TunnelVXLAN:
		l.str("VXLAN, vni ").num(uint64(h.TunnelID))
	case flow.TunnelGeneve:
		l.str("Geneve, vni ").num(uint64(h.TunnelID))
	case flow.TunnelGRE:
		l.str("GREv0")
		if h.HasTunnelID {
			l.str(", key ").num(uint64(h.TunnelID))
		}
	case flow.TunnelIP:
		l.str("ipip")
	}
}

func (l *line) str(s string) *line {
	*l = append(*l, s...)
	return l
}

func (l *line) num(n uint64) *line {
	*l = strconv.AppendUint(*l, n, 10)
	return l
}

func (l *line) hex16(n uint16) *line {
	*l = hex.AppendEncode(*l, []byte{byte(n >> 8), byte(n)})
	return l
}

func (l *line) addr(a netip.Addr) *line {
	*l = a.AppendTo(*l)
	return l
}

func (l *line) mac(m MAC) *line {
	*l = m.AppendTo(*l)
	return l
}

// AppendTo appends m as tcpdump and ip write it.
func (m MAC) AppendTo(b []byte) []byte {
	const digits = "0123456789abcdef"
	for i, v := range m {
		if i > 0 {
			b = append(b, ':')
		}
		b = append(b, digits[v>>4], digits[v&0xf])
	}
	return b
}

func (m MAC) String() string { return string(m.AppendTo(make([]byte, 0, 17))) }
