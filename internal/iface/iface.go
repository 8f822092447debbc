// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

// Package iface says which network interfaces exist, which of them the user chose, and when that may have changed. It
// attaches nothing.
package iface

// Interface is what the kernel says about one network interface.
type Interface struct {
	Index        uint32
	Name         string
	Kind         string // IFLA_INFO_KIND, as ip -d link shows it: veth, bridge, tun, vxlan ...; "device" if there is none
	HWType       uint16 // ARPHRD_*, linux/if_arp.h
	Master       uint32 // index of the bridge, bond or failover interface this one is a port of; 0: none
	Up           bool   // IFF_UP: administratively
	Loopback     bool   // IFF_LOOPBACK
	Device       bool   // backed by a device: NIC, virtio, VF, wifi
	DefaultRoute bool   // holds a default route of the main table; looked up only where no interface is backed by a device
}

// Counters is what an interface has counted itself, in packets, as far as its hooks should have seen them. What segmentation
// makes of a buffer is one packet to some drivers (veth, bridge), to others what crosses the wire.
type Counters struct {
	Received    uint64
	Transmitted uint64 // those included that its driver dropped, behind the hook
}

// kindDevice is the Kind of interfaces without one: drivers that are not made through netlink, and loopback.
const kindDevice = "device"

// LinkHeader says what the packets at an interface's tc hook begin with.
type LinkHeader uint8

const (
	LinkHeaderUnknown  LinkHeader = iota // neither of the others for certain: not attached, reported
	LinkHeaderEthernet                   // Ethernet header
	LinkHeaderNone                       // IP header
)

// linkHeaders are the hardware types, ARPHRD_* of linux/if_arp.h, whose layout is the same on both directions and on
// every kernel we support. Left out on purpose, beside what carries no IP or another link header (InfiniBand, CAN,
// 802.11 monitor, netlink):
//
//   - TUNNEL (768), TUNNEL6 (769), SIT (776): before 5.14 a packet begins with the outer link header on ingress, from
//     then on with the inner IP header (kernel commit 7ad136fd288c), and distributions have backported that; vti is also
//     of these types and keeps a link header, see kindXFRM.
//   - IPGRE (778), IP6GRE (823): on egress a packet may begin with the outer header.
var linkHeaders = map[uint16]LinkHeader{
	1:      LinkHeaderEthernet, // ETHER
	772:    LinkHeaderEthernet, // LOOPBACK
	512:    LinkHeaderNone,     // PPP: the two bytes of protocol are pulled before ingress, pushed after egress
	519:    LinkHeaderNone,     // RAWIP: rmnet, mobile broadband
	0xFFFE: LinkHeaderNone,     // NONE: tun, wireguard, gtp, bareudp, vxlan gpe
}

// kindXFRM is a hardware type NONE that is not: xfrm_input moves the outer link header in front of the inner IP header,
// so ingress may begin with Ethernet and egress does not.
const kindXFRM = "xfrm"

// LinkHeader returns what packets at i begin with.
func (i *Interface) LinkHeader() LinkHeader {
	if i.Kind == kindXFRM {
		return LinkHeaderUnknown
	}
	return linkHeaders[i.HWType]
}
