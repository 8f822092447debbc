// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import "net/netip"

// Direction is the hook's, as the interface sees it; never a guess about the conversation. IPFIX 61.
type Direction uint8

const (
	DirectionIngress Direction = iota // received by the interface
	DirectionEgress                   // transmitted by the interface
)

// String returns the hook's name.
func (d Direction) String() string {
	return [...]string{"ingress", "egress"}[d]
}

// Addr is an address in network byte order. IPv4 lies in the last four bytes, the rest zero; Key.IPv6 tells the two
// apart, so a forged ::a.b.c.d never joins the flow of a.b.c.d.
type Addr [16]byte

// Key names one direction of a conversation at one interface. It is comparable and free of pointers: tables of 10^5
// of them cost the garbage collector nothing.
type Key struct {
	SrcAddr, DstAddr Addr
	SrcPort, DstPort uint16 // valid iff HasPorts; of ICMP see ICMPPorts, else 0
	IfIndex          uint32
	NetNS            uint16 // 0: the receiver's own network namespace
	VLAN             uint16 // 12-bit id of the outermost tag, valid iff Tagged
	Proto            uint8  // IANA protocol number, after IPv6 extension headers; IPFIX 4
	IPv6             bool
	Tagged           bool   // an 802.1Q or 802.1ad tag was present, even if its id is 0 (priority tag)
	LaterFragment    bool   // a fragment other than the first: it carries no ports
	Tunnel           Tunnel // that the packets are in; zero: none, or it is not looked into
}

// Place names an interface among those of all observed namespaces. Both numbers are wide, so that maps of places are fast.
type Place struct {
	NetNS   uint32 // number of its network namespace; 0: the receiver's own
	IfIndex uint32
}

// Place returns where the packets were counted.
func (k *Key) Place() Place { return Place{uint32(k.NetNS), k.IfIndex} }

// Src returns the source address.
func (k *Key) Src() netip.Addr { return k.SrcAddr.IP(k.IPv6) }

// Dst returns the destination address.
func (k *Key) Dst() netip.Addr { return k.DstAddr.IP(k.IPv6) }

// HasPorts reports whether SrcPort and DstPort were in the packets: of TCP, UDP and SCTP, in all but later fragments.
func (k *Key) HasPorts() bool { return hasPorts(k.Proto) && !k.LaterFragment }

func hasPorts(proto uint8) bool {
	return proto == protoTCP || proto == protoUDP || proto == protoSCTP
}

// Reversed returns the key of the opposite direction at the same interface.
func (k Key) Reversed() Key {
	k.SrcAddr, k.DstAddr = k.DstAddr, k.SrcAddr
	k.SrcPort, k.DstPort = k.DstPort, k.SrcPort
	k.Tunnel.Src, k.Tunnel.Dst = k.Tunnel.Dst, k.Tunnel.Src
	return k
}

// IP returns a as an address of version 6, else 4; v6 is the IPv6 of the Key it belongs to.
func (a Addr) IP(v6 bool) netip.Addr {
	if v6 {
		return netip.AddrFrom16(a)
	}
	return netip.AddrFrom4([4]byte(a[12:]))
}

// Volume is an amount of traffic as it crosses the wire: packets after segmentation, bytes with link header and tags,
// without FCS and padding.
type Volume struct {
	Packets, Bytes uint64
}

// Add adds o to v.
func (v *Volume) Add(o Volume) {
	v.Packets += o.Packets
	v.Bytes += o.Bytes
}

// Minus returns v without o.
func (v Volume) Minus(o Volume) Volume {
	return Volume{Packets: v.Packets - o.Packets, Bytes: v.Bytes - o.Bytes}
}

// Bits of TCPFlags; RFC 9293 3.1.
const (
	tcpFIN = 1 << 0
	tcpSYN = 1 << 1
	tcpRST = 1 << 2
	tcpPSH = 1 << 3
	tcpACK = 1 << 4
)

// Handshake says which opening packets a slot holds. TCPFlags cannot: it is OR-ed over the packets of the slot, so SYN
// with ACK is what a server's SYN-ACK leaves there, and what a client's SYN followed by its first ACK leaves there too.
type Handshake uint8

const (
	HandshakeSYN    Handshake = 1 << 0 // a packet with SYN and without ACK: its source opens; RFC 9293 3.5
	HandshakeSYNACK Handshake = 1 << 1 // a packet with SYN and ACK: its source answers; beside HandshakeSYN: simultaneous open
)

// Slot is what the kernel counted for one Key and Direction on one CPU between two drains.
type Slot struct {
	Key
	Direction Direction
	TCPFlags  uint8     // OR of the flags of every packet; 0 unless TCP; RFC 9293 3.1, IPFIX 6
	Handshake Handshake // 0 unless TCP
	Facts
	Volume
	First, Last int64 // ns since 1970 of the first and last packet; Last has the grain of a jiffy and is >= First
}

// handshake returns Handshake, with what follows from flags alone: SYN among packets none of which had ACK.
func (s *Slot) handshake() Handshake {
	if s.TCPFlags&(tcpSYN|tcpACK) == tcpSYN {
		return s.Handshake | HandshakeSYN
	}
	return s.Handshake
}
