// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import "net/netip"

// TunnelKind is a way to carry packets inside of packets; the numbers are those of enum tunnel_kind in bpf/contract.h.
type TunnelKind uint8

const (
	TunnelVXLAN  TunnelKind = 1 + iota // RFC 7348
	TunnelGeneve                       // RFC 8926
	TunnelGRE                          // RFC 2784, RFC 2890
	TunnelIP                           // IP in IP of any two versions; RFC 2003, RFC 4213, RFC 2473
)

var tunnelKinds = [...]string{TunnelVXLAN: "vxlan", TunnelGeneve: "geneve", TunnelGRE: "gre", TunnelIP: "ip"}

// String returns the value of the attribute "network.tunnel.type".
func (k TunnelKind) String() string {
	if int(k) >= len(tunnelKinds) {
		return ""
	}
	return tunnelKinds[k]
}

// Tunnel names what carries the packets of a flow. The UDP source port of VXLAN and Geneve is none of its name: it spreads
// the flows of one tunnel over paths.
type Tunnel struct {
	Src, Dst Addr   // of the outer packets
	ID       uint32 // VNI of VXLAN and Geneve, key of GRE; valid iff HasID. Each direction may have its own
	Kind     TunnelKind
	IPv6     bool // of Src and Dst
	HasID    bool
}

// From returns the address that the outer packets come from.
func (t *Tunnel) From() netip.Addr { return t.Src.IP(t.IPv6) }

// To returns the address that the outer packets go to.
func (t *Tunnel) To() netip.Addr { return t.Dst.IP(t.IPv6) }

// TunnelID is the id of a tunnel in one direction.
type TunnelID struct {
	ID    uint32
	HasID bool
}

// tunnelID returns the id that the packets of i carry.
func (i *id) tunnelID() TunnelID { return TunnelID{i.Tunnel.ID, i.Tunnel.HasID} }
