// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// Classic pcap, little endian, microseconds: draft-ietf-opsawg-pcap 4 and 5.
const (
	pcapMagic      = 0xa1b2c3d4
	pcapHeaderLen  = 24
	pcapRecordLen  = 16
	pcapSnapLength = 262144
	pcapEthernet   = 1   // LINKTYPE_ETHERNET
	pcapRaw        = 101 // LINKTYPE_RAW: begins with the IP header
)

// ReadPcap returns the frames of a capture file, without expectations, named by their number as Wireshark counts.
func ReadPcap(path string) ([]Frame, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(b) < pcapHeaderLen || binary.LittleEndian.Uint32(b) != pcapMagic {
		return nil, fmt.Errorf("read %q: not a little-endian pcap file with microseconds", path)
	}
	linkType := binary.LittleEndian.Uint32(b[20:])
	if linkType != pcapEthernet && linkType != pcapRaw {
		return nil, fmt.Errorf("read %q: link type %d, want %d (Ethernet) or %d (raw IP)", path, linkType, pcapEthernet, pcapRaw)
	}
	all, err := pcapRecords(b[pcapHeaderLen:], linkType == pcapRaw)
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", path, err)
	}
	return all, nil
}

func pcapRecords(b []byte, l3 bool) ([]Frame, error) {
	var all []Frame
	for len(b) > 0 {
		if len(b) < pcapRecordLen {
			return nil, io.ErrUnexpectedEOF
		}
		seconds, micros := int64(binary.LittleEndian.Uint32(b)), int64(binary.LittleEndian.Uint32(b[4:]))
		captured := int(binary.LittleEndian.Uint32(b[8:]))
		b = b[pcapRecordLen:]
		if captured > len(b) {
			return nil, io.ErrUnexpectedEOF
		}
		all = append(all, Frame{Name: fmt.Sprintf("frame %d", len(all)+1), L3: l3, Time: seconds*1e9 + micros*1e3, Data: b[:captured:captured]})
		b = b[captured:]
	}
	return all, nil
}

// WritePcap writes frames to a capture file, those with an offloaded tag as they were on the wire. They must all have a link
// header or all have none.
func WritePcap(path string, all []Frame) error {
	linkType := uint32(pcapEthernet)
	if len(all) > 0 && all[0].L3 {
		linkType = pcapRaw
	}
	b := binary.LittleEndian.AppendUint32(nil, pcapMagic)
	b = append(b, 2, 0, 4, 0)                               // version 2.4
	b = append(b, make([]byte, 8)...)                       // time zone and accuracy: unused
	b = binary.LittleEndian.AppendUint32(b, pcapSnapLength) // larger than any frame
	b = binary.LittleEndian.AppendUint32(b, linkType)
	for i, f := range all {
		if f.L3 != all[0].L3 {
			return errors.New("write pcap: frames with and without link header in one file")
		}
		data := f.onWire()
		b = binary.LittleEndian.AppendUint32(b, uint32(i))         // seconds
		b = binary.LittleEndian.AppendUint32(b, 0)                 // microseconds
		b = binary.LittleEndian.AppendUint32(b, uint32(len(data))) // captured
		b = binary.LittleEndian.AppendUint32(b, uint32(len(data))) // on the wire
		b = append(b, data...)
	}
	return os.WriteFile(path, b, 0o600)
}

// onWire is f with its offloaded tag, of 802.1Q, in the bytes.
func (f *Frame) onWire() []byte {
	if !f.Tagged {
		return f.Data
	}
	const addresses = 12
	return slices.Concat(f.Data[:addresses], u16(typeVLAN), u16(f.VLANTCI), f.Data[addresses:])
}
