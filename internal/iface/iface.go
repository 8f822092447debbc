// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

// Package iface says which network interfaces exist, which of them the user chose, and when that may have changed. It
// attaches nothing.
package iface

import "errors"

// Interface is what the kernel says about one network interface.
type Interface struct {
	Index        uint32
	Name         string
	Kind         string // IFLA_INFO_KIND, as ip -d link shows it: veth, bridge, tun, vxlan ...; "device" if there is none
	HWType       uint16 // ARPHRD_*, linux/if_arp.h
	Master       uint32 // index of the bridge, bond or failover interface this one is a port of; 0: none
	Lower        uint32 // index of the interface that this one is a part of, a VLAN or macvlan of it, in the same namespace; 0: none
	Peer         uint32 // index of the interface that sends what comes in here: the other end of a veth, in the same namespace, or loopback itself; 0: none
	Up           bool   // IFF_UP: administratively
	Loopback     bool   // IFF_LOOPBACK
	PointToPoint bool   // IFF_POINTOPOINT without IFF_BROADCAST: of a tunnel, it has one remote address, and that is no group
	OuterFirst   bool   // a tunnel, and what comes in begins with headers of the outer packet: below Linux 5.14
	Device       bool   // backed by a device: NIC, virtio, VF, wifi
	DefaultRoute bool   // holds a default route of the main table; looked up only where no interface is backed by a device
}

// ErrIncomplete comes with a list that may lack something which is there: it changed while it was read.
var ErrIncomplete = errors.New("incomplete")

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

// linkHeaders are the hardware types, ARPHRD_* of linux/if_arp.h, whose layout is the same on both directions, but for OuterFirst. Left
// out on purpose: what carries no IP or another link header (InfiniBand, CAN, 802.11 monitor, netlink).
var linkHeaders = map[uint16]LinkHeader{
	1:      LinkHeaderEthernet, // ETHER
	772:    LinkHeaderEthernet, // LOOPBACK
	512:    LinkHeaderNone,     // PPP: the two bytes of protocol are pulled before ingress, pushed after egress
	519:    LinkHeaderNone,     // RAWIP: rmnet, mobile broadband
	768:    LinkHeaderNone,     // TUNNEL: ipip
	769:    LinkHeaderNone,     // TUNNEL6: ip6tnl
	776:    LinkHeaderNone,     // SIT
	778:    LinkHeaderNone,     // IPGRE, see LinkHeader
	823:    LinkHeaderNone,     // IP6GRE, see LinkHeader
	0xFFFE: LinkHeaderNone,     // NONE: tun, wireguard, gtp, bareudp, vxlan gpe
}

// LinkHeader returns what packets at i begin with. TestDevices of internal/kernelmatrix sends packets through these devices.
func (i *Interface) LinkHeader() LinkHeader {
	if i.OuterFirst {
		return LinkHeaderUnknown
	}
	switch i.Kind {
	case "vti", "vti6", "xfrm":
		// xfrm_input moves the outer link header, of whatever length, in front of the inner IP header; egress has none.
		return LinkHeaderUnknown
	case "gre", "ip6gre":
		// Without a remote address of its own the device takes it from an outer header in front of each packet
		// (ipgre_header_ops).
		if !i.PointToPoint {
			return LinkHeaderUnknown
		}
	}
	return linkHeaders[i.HWType]
}
