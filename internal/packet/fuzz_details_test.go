// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"bytes"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/packet"
)

// FuzzDetails sends whatever may be captured: nothing panics, nothing behind the frame is read, what is told is bounded, and
// so is the memory that telling it takes.
func FuzzDetails(f *testing.F) {
	for _, frame := range everyFrame(f) {
		f.Add(frame.Inside, frame.L3, frame.Tagged, frame.VLANTCI, uint32(len(frame.Data)), uint32(1), frame.Data)
	}
	f.Fuzz(func(t *testing.T, inside, l3, tagged bool, tci uint16, wireLen, segments uint32, data []byte) {
		data = data[:min(len(data), 9216)] // the longest snap length
		s := packet.Sample{Segments: max(segments, 1), WireLen: wireLen, Inside: inside, L3: l3, Tagged: tagged, VLANTCI: tci, Data: slices.Clip(data)}
		var d packet.Decoder
		var h packet.Details
		before := allocated()
		line := lineOf(&d, &h, &s)
		require.Less(t, allocated()-before, uint64(64<<10), "bytes")
		requireBounded(t, &h, line)

		var p packet.Packet
		packet.Decode(&s, &p)
		require.Equal(t, p, h.Packet)
		for _, behind := range []byte{0x00, 0xff} {
			other := s
			other.Data = append(slices.Clone(s.Data), bytes.Repeat([]byte{behind}, 128)...)[:len(s.Data)]
			var again packet.Details
			require.Equal(t, line, lineOf(&d, &again, &other), "bytes behind the frame were read")
			require.Equal(t, emptied(h), emptied(again))
		}
	})
}

// allocated is the number of bytes that this process has allocated so far.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}
