// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"math/bits"
	"net/netip"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
)

// attrBits gives the bit of every attribute a metric may have.
var attrBits = map[string]attrSet{
	attrNamespaceName:      hasNamespace,
	attrInterfaceName:      hasInterface,
	attrIODirection:        hasDirection,
	attrTransport:          hasTransport,
	attrType:               hasType,
	attrServerPort:         hasServerPort,
	attrSourceAddress:      hasSourceAddress,
	attrSourcePort:         hasSourcePort,
	attrDestinationAddress: hasDestinationAddress,
	attrDestinationPort:    hasDestinationPort,
	attrClientAddress:      hasClientAddress,
	attrServerAddress:      hasServerAddress,
	attrVLANID:             hasVLAN,
	attrSourceCIDR:         hasSourceCIDR,
	attrDestinationCIDR:    hasDestinationCIDR,
}

// attrSetOf returns the set of the attributes that the user enabled.
func attrSetOf[K ~string](enabled []K) attrSet {
	var set attrSet
	for _, name := range enabled {
		set |= attrBits[string(name)]
	}
	return set
}

// needsRoles are the attributes that only the table of flows can tell.
const needsRoles = hasServerPort | hasClientAddress | hasServerAddress

// needsNetworks are the attributes that only the configured networks can tell.
const needsNetworks = hasSourceCIDR | hasDestinationCIDR

// roles is what the flow of a slot tells about it.
type roles struct {
	known          bool // client and server are valid
	client, server netip.Addr
	serverPort     uint16 // 0: not earned
}

// sites are the networks of a slot's addresses, by number; 0: none.
type sites struct{ source, destination uint16 }

func protocolHasPorts(proto uint8) bool {
	return proto == protoTCP || proto == protoUDP || proto == protoSCTP
}

// slotKey returns the identity of the point that counts s.
func slotKey(wants attrSet, s *flow.Slot, at place, r *roles, n sites) seriesKey {
	k := placeKey(wants, at, s.Direction)
	k.attrs |= wants & (hasTransport | hasType)
	if wants&hasTransport != 0 {
		k.proto = s.Proto
	}
	if wants&hasType != 0 {
		k.ipv6 = s.IPv6
	}
	k.setRoles(wants, r)
	if wants&hasSourceAddress != 0 {
		k.attrs |= hasSourceAddress
		k.src = s.Src()
	}
	if wants&hasDestinationAddress != 0 {
		k.attrs |= hasDestinationAddress
		k.dst = s.Dst()
	}
	if wants&(hasSourcePort|hasDestinationPort) != 0 && s.HasPorts() {
		k.attrs |= wants & (hasSourcePort | hasDestinationPort)
		if wants&hasSourcePort != 0 {
			k.srcPort = s.SrcPort
		}
		if wants&hasDestinationPort != 0 {
			k.dstPort = s.DstPort
		}
	}
	if wants&hasVLAN != 0 && s.Tagged {
		k.attrs |= hasVLAN
		k.vlan = s.VLAN
	}
	if wants&hasSourceCIDR != 0 && n.source != 0 {
		k.attrs |= hasSourceCIDR
		k.srcNet = n.source
	}
	if wants&hasDestinationCIDR != 0 && n.destination != 0 {
		k.attrs |= hasDestinationCIDR
		k.dstNet = n.destination
	}
	return k
}

func (k *seriesKey) setRoles(wants attrSet, r *roles) {
	if wants&hasServerPort != 0 && r.serverPort != 0 {
		k.attrs |= hasServerPort
		k.serverPort = r.serverPort
	}
	if !r.known {
		return
	}
	k.attrs |= wants & (hasClientAddress | hasServerAddress)
	if wants&hasClientAddress != 0 {
		k.client = r.client
	}
	if wants&hasServerAddress != 0 {
		k.server = r.server
	}
}

// classKey returns the identity of the point of packets that were counted but not attributed to a flow.
func classKey(wants attrSet, c *kernel.Class, at place) seriesKey {
	return placeKey(wants, at, c.Direction)
}

// activeKey returns the identity of the point that counts f as active.
func activeKey(wants attrSet, f *flow.Flow, at place, r *roles) seriesKey {
	k := placeKey(wants, at, 0)
	k.attrs |= wants & (hasTransport | hasType)
	key := f.Key()
	if wants&hasTransport != 0 {
		k.proto = key.Proto
	}
	if wants&hasType != 0 {
		k.ipv6 = key.IPv6
	}
	k.setRoles(wants, r)
	return k
}

// placeKey returns the part of an identity that every packet has.
func placeKey(wants attrSet, at place, d flow.Direction) seriesKey {
	k := seriesKey{attrs: wants & hasDirection}
	if wants&hasDirection != 0 {
		k.direction = d
	}
	if wants&hasInterface != 0 && at.iface != "" {
		k.attrs |= hasInterface
		k.iface = at.iface
	}
	if wants&hasNamespace != 0 && at.namespace != "" {
		k.attrs |= hasNamespace
		k.namespace = at.namespace
	}
	return k
}

// put writes the attributes of k. Its networks are those of n.
func (k *seriesKey) put(m pcommon.Map, n *networks) {
	if k.attrs&isOverflow != 0 {
		m.PutBool(attrMetricOverflow, true)
		return
	}
	m.EnsureCapacity(bits.OnesCount16(uint16(k.attrs)))
	if k.attrs&hasNamespace != 0 {
		m.PutStr(attrNamespaceName, k.namespace)
	}
	if k.attrs&hasInterface != 0 {
		m.PutStr(attrInterfaceName, k.iface)
	}
	if k.attrs&hasDirection != 0 {
		m.PutStr(attrIODirection, directionName(k.direction))
	}
	if k.attrs&hasTransport != 0 {
		m.PutStr(attrTransport, transportNames[k.proto])
	}
	if k.attrs&hasType != 0 {
		m.PutStr(attrType, typeName(k.ipv6))
	}
	k.putEndpoints(m)
	if k.attrs&hasSourceCIDR != 0 {
		m.PutStr(attrSourceCIDR, n.labels[k.srcNet])
	}
	if k.attrs&hasDestinationCIDR != 0 {
		m.PutStr(attrDestinationCIDR, n.labels[k.dstNet])
	}
	if k.attrs&hasVLAN != 0 {
		m.PutInt(attrVLANID, int64(k.vlan))
	}
}

func (k *seriesKey) putEndpoints(m pcommon.Map) {
	for _, a := range []struct {
		bit  attrSet
		name string
		addr netip.Addr
	}{
		{hasSourceAddress, attrSourceAddress, k.src},
		{hasDestinationAddress, attrDestinationAddress, k.dst},
		{hasClientAddress, attrClientAddress, k.client},
		{hasServerAddress, attrServerAddress, k.server},
	} {
		if k.attrs&a.bit != 0 {
			m.PutStr(a.name, a.addr.String())
		}
	}
	for _, p := range []struct {
		bit  attrSet
		name string
		port uint16
	}{
		{hasSourcePort, attrSourcePort, k.srcPort},
		{hasDestinationPort, attrDestinationPort, k.dstPort},
		{hasServerPort, attrServerPort, k.serverPort},
	} {
		if k.attrs&p.bit != 0 {
			m.PutInt(p.name, int64(p.port))
		}
	}
}
