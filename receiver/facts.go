// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"net"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// factNames are the attributes that say what the packets of one half of a flow said of themselves.
type factNames struct {
	ttlMin, ttlMax, dscp, dscpVaries, cePackets, label string
	unreachable, tooBig, timeExceeded                  string
}

var forwardFacts = factNames{
	ttlMin: attrFlowIPTTLMin, ttlMax: attrFlowIPTTLMax,
	dscp: attrFlowIPDSCP, dscpVaries: attrFlowIPDSCPVaries, cePackets: attrFlowIPCEPackets, label: attrFlowIPLabel,
	unreachable: attrFlowICMPErrorUnreachable, tooBig: attrFlowICMPErrorTooBig, timeExceeded: attrFlowICMPErrorTimeExceeded,
}

var reverseFacts = factNames{
	ttlMin: attrFlowReverseIPTTLMin, ttlMax: attrFlowReverseIPTTLMax,
	dscp: attrFlowReverseIPDSCP, dscpVaries: attrFlowReverseIPDSCPVaries, cePackets: attrFlowReverseIPCEPackets, label: attrFlowReverseIPLabel,
	unreachable: attrFlowReverseICMPErrorUnreachable, tooBig: attrFlowReverseICMPErrorTooBig, timeExceeded: attrFlowReverseICMPErrorTimeExceeded,
}

func (n *factNames) put(m pcommon.Map, h *flow.Half) {
	if h.Packets > 0 {
		m.PutInt(n.ttlMin, int64(h.TTLMin))
		m.PutInt(n.ttlMax, int64(h.TTLMax))
		putPositive(m, n.dscp, int64(h.DSCP))
		if h.DSCPVaries {
			m.PutBool(n.dscpVaries, true)
		}
		putPositive(m, n.cePackets, int64(h.CEPackets))
		putPositive(m, n.label, int64(h.FlowLabel))
	}
	putPositive(m, n.unreachable, int64(h.Errors.Unreachable))
	putPositive(m, n.tooBig, int64(h.Errors.TooBig))
	putPositive(m, n.timeExceeded, int64(h.Errors.TimeExceeded))
}

func putPositive(m pcommon.Map, name string, v int64) {
	if v > 0 {
		m.PutInt(name, v)
	}
}

// putEthernet writes the hardware addresses of the forward half.
func putEthernet(m pcommon.Map, h *flow.Half) {
	if h.Packets > 0 && h.HasMACs {
		m.PutStr(attrFlowEthernetSource, net.HardwareAddr(h.SrcMAC[:]).String())
		m.PutStr(attrFlowEthernetDestination, net.HardwareAddr(h.DstMAC[:]).String())
	}
}

// putTunnel writes what carries the packets of a flow or carried a sampled one.
func putTunnel(m pcommon.Map, t *flow.Tunnel) {
	if t.Kind == 0 {
		return
	}
	m.PutStr(attrTunnelType, t.Kind.String())
	m.PutStr(attrTunnelSourceAddress, t.From().String())
	m.PutStr(attrTunnelDestinationAddress, t.To().String())
	if t.HasID {
		m.PutInt(attrTunnelID, int64(t.ID))
	}
}

// putReverseHook writes where the way back was counted, where that is not the other direction of the interface.
func putReverseHook(m pcommon.Map, r *flow.Record, iface string) {
	if !r.Elsewhere {
		return
	}
	putStr(m, attrFlowReverseInterface, iface)
	m.PutStr(attrFlowReverseDirection, directionName(r.ReverseHook.Direction))
	if r.ReverseHook.Tagged {
		m.PutInt(attrFlowReverseVLANID, int64(r.ReverseHook.VLAN))
	}
}

// putReverseTunnel writes the id of the tunnel back, where it is another one.
func putReverseTunnel(m pcommon.Map, r *flow.Record) {
	if back := r.ReverseTunnelID; back.HasID && back != (flow.TunnelID{ID: r.Key.Tunnel.ID, HasID: r.Key.Tunnel.HasID}) {
		m.PutInt(attrFlowReverseTunnelID, int64(back.ID))
	}
}
