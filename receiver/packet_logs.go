// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"fmt"
	"strconv"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
)

// sampled is a decoded sample without its bytes.
type sampled struct {
	packet.Packet
	time      int64 // ns since 1970
	observed  int64 // ns since 1970 when it was read, never before time
	direction flow.Direction
	reasons   packet.Reasons
	length    uint32 // on the wire
	captured  uint32
	segments  uint32
	pool      uint64
}

// truncated reports whether the headers go on behind the captured bytes. The kernel saw all of them: how it counted the
// packet cannot be told from the part.
func (p *sampled) truncated() bool { return p.captured < p.length && p.Reason.Short() }

func (w *logsWriter) writePacket(r plog.LogRecord, p *sampled, iface string) {
	r.SetEventName(eventPacket)
	r.SetSeverityNumber(plog.SeverityNumberInfo)
	r.SetTimestamp(pcommon.Timestamp(p.time))
	r.Body().SetStr(packetLine(p, iface))
	m := r.Attributes()
	m.EnsureCapacity(24)
	putPlace(m, iface, p.direction)
	m.PutInt(attrPacketLength, int64(p.length))
	m.PutInt(attrPacketCaptured, int64(p.captured))
	m.PutInt(attrPacketSegments, int64(p.segments))
	putReasons(m.PutEmptySlice(attrPacketReasons), p.reasons)
	m.PutInt(attrPacketOneIn, int64(w.oneIn))
	m.PutInt(attrPacketPool, int64(p.pool))
	if p.Reason != flow.ReasonAccounted {
		if !p.truncated() {
			m.PutStr(attrPacketLedgerEntry, p.Reason.Entry())
		}
		if p.EtherType != 0 {
			m.PutInt(attrPacketEtherType, int64(p.EtherType))
		}
		return
	}
	putTuple(m, &p.Key)
	putHeaders(m, p)
}

func putHeaders(m pcommon.Map, p *sampled) {
	m.PutInt(attrPacketTTL, int64(p.TTL))
	m.PutInt(attrPacketDSCP, int64(p.DSCP))
	m.PutInt(attrPacketECN, int64(p.ECN))
	if p.HasTCP {
		m.PutInt(attrPacketTCPFlags, int64(p.TCPFlags))
		m.PutInt(attrPacketTCPSequence, int64(p.TCPSeq))
		if p.TCPFlags&tcpACK != 0 {
			m.PutInt(attrPacketTCPAcknowledge, int64(p.TCPAck))
		}
		m.PutInt(attrPacketTCPWindow, int64(p.TCPWindow))
	}
	if p.HasICMP {
		m.PutInt(attrPacketICMPType, int64(p.ICMPType))
		m.PutInt(attrPacketICMPCode, int64(p.ICMPCode))
	}
}

func putReasons(s pcommon.Slice, r packet.Reasons) {
	if r&packet.ReasonRandom != 0 {
		s.AppendEmpty().SetStr("random")
	}
}

// packetLine says a sample in one line, for people.
func packetLine(p *sampled, iface string) string {
	b := make([]byte, 0, 160)
	switch {
	case p.Reason == flow.ReasonAccounted:
		b = appendTuple(b, &p.Key, "", "")
	case p.truncated():
		b = append(b, "truncated"...)
	default:
		b = append(b, p.Reason.Entry()...)
		if p.EtherType != 0 {
			b = fmt.Appendf(b, " 0x%04x", p.EtherType)
		}
	}
	b = appendPlace(b, iface, directionName(p.direction))
	b = append(b, ": "...)
	b = strconv.AppendUint(b, uint64(p.length), 10)
	b = append(b, " bytes"...)
	if p.segments > 1 {
		b = fmt.Appendf(b, " in %d packets", p.segments)
	}
	if p.HasTCP {
		b = appendTCPFlags(b, p.TCPFlags)
	}
	if p.HasICMP {
		b = appendICMP(b, p.ICMPType, p.ICMPCode)
	}
	return string(b)
}

// tcpACK is the bit of TCPFlags that makes the acknowledgement number valid; RFC 9293 3.1.
const tcpACK = 1 << 4

var tcpFlagNames = [8]string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"}

func appendTCPFlags(b []byte, flags uint8) []byte {
	for i, name := range tcpFlagNames {
		if flags&(1<<i) != 0 {
			b = append(append(b, ' '), name...)
		}
	}
	return b
}
