// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"

	"github.com/gopacket/gopacket/layers"
)

// Bits of TCPFlags that make other fields valid; RFC 9293 3.1.
const (
	TCPSYN = 1 << 1 // TCPSeq is that of the SYN itself
	TCPACK = 1 << 4 // TCPAck
	TCPURG = 1 << 5 // TCPUrgent
)

const (
	maxSACK = 4 // blocks that fit into 40 bytes; RFC 2018 3

	sctpChunkLen = 4 // type, flags, length; RFC 9260 3.2
	sctpData     = 0
	sctpDataLen  = 17 // the least: a chunk of data has some; RFC 9260 3.3.1
)

// readTCP reads a TCP header, which ends where b does. Options of one that is cut are not told: where it ends is not known.
func (d *Decoder) readTCP(h *Details, b []byte) {
	if h.TCPFlags&TCPURG != 0 {
		h.TCPUrgent = binary.BigEndian.Uint16(b[18:])
	}
	if d.tcp.DecodeFromBytes(b, feedback{}) != nil {
		return
	}
	for i := range d.tcp.Options {
		h.tcpOption(&d.tcp.Options[i])
	}
}

func (h *Details) tcpOption(o *layers.TCPOption) {
	h.TCPOptions = append(h.TCPOptions, uint8(o.OptionType))
	data := o.OptionData
	switch {
	case o.OptionType == layers.TCPOptionKindMSS && len(data) == 2: // RFC 9293 3.2
		h.HasMSS, h.MSS = true, binary.BigEndian.Uint16(data)
	case o.OptionType == layers.TCPOptionKindWindowScale && len(data) == 1: // RFC 7323 2.2
		h.HasWindowScale, h.WindowScale = true, data[0]
	case o.OptionType == layers.TCPOptionKindSACKPermitted && len(data) == 0: // RFC 2018 2
		h.SACKPermitted = true
	case o.OptionType == layers.TCPOptionKindSACK && len(data)%8 == 0: // RFC 2018 3
		for ; len(data) > 0 && len(h.SACK) < maxSACK; data = data[8:] {
			h.SACK = append(h.SACK, [2]uint32{binary.BigEndian.Uint32(data), binary.BigEndian.Uint32(data[4:])})
		}
	case o.OptionType == layers.TCPOptionKindTimestamps && len(data) == 8: // RFC 7323 3.2
		h.HasTimestamps = true
		h.Timestamp, h.TimestampEcho = binary.BigEndian.Uint32(data), binary.BigEndian.Uint32(data[4:])
	}
}

// sctp reads the types of the chunks; gopacket has no decoder of chunks that works in place.
func (h *Details) sctp(b []byte) {
	h.HasSCTP, h.SCTPTag = true, binary.BigEndian.Uint32(b[4:])
	for b = b[sctpLen:]; len(b) >= sctpChunkLen && len(h.SCTPChunks) < maxTold; {
		length := int(binary.BigEndian.Uint16(b[2:]))
		if length < sctpChunkLen || b[0] == sctpData && length < sctpDataLen {
			return // what follows is no chunk
		}
		h.SCTPChunks = append(h.SCTPChunks, b[0])
		b = b[min((length+3)&^3, len(b)):] // chunks are padded to 4 bytes
	}
}
