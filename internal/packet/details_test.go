// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/frames"
)

// everyFrame is the corpus, the carriers and the captures.
func everyFrame(tb testing.TB) []frames.Frame {
	tb.Helper()
	all := slices.Concat(frames.All, frames.Offloaded, frames.ICMP, frames.Inside)
	for _, c := range frames.Carriers {
		all = append(all, c.Frame)
	}
	files, err := filepath.Glob("../../testdata/pcap/*.pcap")
	require.NoError(tb, err)
	for _, path := range files {
		captured, err := frames.ReadPcap(path)
		require.NoError(tb, err)
		all = append(all, captured...)
	}
	return all
}

// lineOf decodes s with values that were used before.
func lineOf(d *packet.Decoder, h *packet.Details, s *packet.Sample) string {
	d.Decode(s, h)
	return string(packet.AppendLine(nil, s, h))
}

func TestDetailsBeginWithThePacket(t *testing.T) {
	var d packet.Decoder
	var h packet.Details
	for _, f := range everyFrame(t) {
		s := f.Sample()
		var p packet.Packet
		packet.Decode(&s, &p)
		d.Decode(&s, &h)
		require.Equal(t, p, h.Packet, f.Name)
	}
}

// Whatever was decoded before leaves no trace.
func TestDetailsAreOverwritten(t *testing.T) {
	var used packet.Decoder
	var h packet.Details
	for _, f := range everyFrame(t) {
		s := f.Sample()
		var fresh packet.Decoder
		var want packet.Details
		require.Equal(t, lineOf(&fresh, &want, &s), lineOf(&used, &h, &s), f.Name)
		require.Equal(t, emptied(want), emptied(h), f.Name)
	}
}

// emptied makes lists without elements equal to those that are not there.
func emptied(h packet.Details) packet.Details {
	v := reflect.ValueOf(&h).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Slice && f.Len() == 0 {
			f.SetZero()
		}
	}
	return h
}

// TestDetailsDoNotDependOnTraffic changes every byte that is no header: what is said stays the same.
func TestDetailsDoNotDependOnTraffic(t *testing.T) {
	var d packet.Decoder
	for _, c := range frames.Carriers {
		t.Run(c.Name, func(t *testing.T) {
			s := c.Sample()
			var want packet.Details
			line := lineOf(&d, &want, &s)
			for _, mask := range []byte{0xff, 0x0f, 0xa5} {
				s.Data = slices.Clone(c.Data)
				for i := c.Payload; i < len(s.Data); i++ {
					s.Data[i] ^= mask
				}
				var got packet.Details
				assert.Equal(t, line, lineOf(&d, &got, &s))
				assert.Equal(t, want, got)
			}
		})
	}
}

// TestLines says what people read.
func TestLines(t *testing.T) {
	var d packet.Decoder
	var h packet.Details
	said := map[string]bool{}
	for _, c := range frames.Carriers {
		want, ok := lines[c.Name]
		said[c.Name] = true
		s := c.Sample()
		got := lineOf(&d, &h, &s)
		if !ok {
			t.Errorf("no line for\n\t%q: %q,", c.Name, got)
			continue
		}
		assert.Equal(t, want, got, c.Name)
	}
	for name := range lines {
		assert.True(t, said[name], name)
	}
}

func TestLineOfWhatIsNoWholePacket(t *testing.T) {
	var d packet.Decoder
	var h packet.Details
	f := find(t, "TCP over IPv6")
	for name, tt := range map[string]struct {
		change func(*packet.Sample)
		want   string
	}{
		"cut by the snap length": {func(s *packet.Sample) { s.Data = s.Data[:60] }, "cut inside a header, length 81"},
		"sent too short":         {func(s *packet.Sample) { s.Data, s.WireLen = s.Data[:60], 60 }, "unparsed_short_transport, ethertype 0x86dd, length 60"},
		"runt":                   {func(s *packet.Sample) { s.Data, s.WireLen = s.Data[:9], 9 }, "unparsed_short_ethernet, length 9"},
		"segments": {
			func(s *packet.Sample) { s.Segments, s.WireLen = 3, 3*74+4000 },
			"IP6 2001:db8::1.49152 > 2001:db8::1002.443: Flags [P.], seq 16909060:16913060, ack 168496141, win 64240, length 4000 in 3 packets",
		},
		"segments behind an offloaded tag": {
			func(s *packet.Sample) { s.Segments, s.WireLen, s.Tagged, s.VLANTCI = 3, 3*78+4000, true, 7 },
			"vlan 7, p 0, IP6 2001:db8::1.49152 > 2001:db8::1002.443: Flags [P.], seq 16909060:16913060, ack 168496141, win 64240, length 4000 in 3 packets",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := f.Sample()
			tt.change(&s)
			assert.Equal(t, tt.want, lineOf(&d, &h, &s))
		})
	}
}

// Where the flow is that inside of a tunnel, the details are those of the inner packet.
func TestDetailsInsideOfATunnel(t *testing.T) {
	var d packet.Decoder
	var h packet.Details
	for name, want := range map[string]string{
		"VXLAN": "IP 192.0.2.1 > 198.51.100.2: vxlan 42: IP 192.0.2.1.49152 > 198.51.100.2.443: " +
			"Flags [P.], seq 16909060:16909092, ack 168496141, win 64240, length 32",
		"GRE":          "IP 192.0.2.1 > 198.51.100.2: gre: IP 192.0.2.1 > 198.51.100.2: ICMP echo request, id 1, seq 2, length 40",
		"IPv6 in IPv4": "IP 192.0.2.1 > 198.51.100.2: ip: IP6 2001:db8::1.49152 > 2001:db8::1002.443: Flags [P.], seq 16909060:16909092, ack 168496141, win 64240, length 32",
	} {
		i := slices.IndexFunc(frames.Carriers, func(c frames.Carrier) bool { return c.Name == name })
		s := frames.Carriers[i].Sample()
		s.Inside = true
		assert.Equal(t, want, lineOf(&d, &h, &s), name)
		assert.Zero(t, h.Tunnel, name)
		assert.False(t, h.HasInner, name)
	}
}

// BIG TCP over IPv6 writes 0 as its length, and adds a header that no wire sees; RFC 2675.
func TestPayloadOfBigTCP(t *testing.T) {
	f := find(t, "TCP over IPv6")
	jumbo := []byte{6, 0, 0xc2, 4, 0, 1, 0x86, 0xa0} // next header, length, option with 100,000
	s := f.Sample()
	s.Data = slices.Insert(slices.Clone(f.Data), 14+40, jumbo...)
	s.Data[14+4], s.Data[14+5], s.Data[14+6] = 0, 0, 0
	s.Segments, s.WireLen = 70, 70*(14+40+20)+100_000-20-8
	var d packet.Decoder
	var h packet.Details
	d.Decode(&s, &h)
	assert.True(t, h.HasPayloadLen)
	assert.Equal(t, uint32(100_000-20-8), h.PayloadLen)
}

// mayAllocate are the frames of which gopacket makes an error, and those with a multipath TCP option.
var mayAllocate = []string{
	"ARP that is cut", "TCP options that are missing are not missed", "urgent data and unusual options",
	"an ARP type with nothing behind it", "an offloaded tag is not kept when the frame is not accounted",
	"the header of VXLAN is cut", "the key of GRE is cut", "a TCP data offset below 5 is taken for 5", "neighbour solicitation with an unassigned option",
}

func TestDetailsDoNotAllocate(t *testing.T) {
	var d packet.Decoder
	var h packet.Details
	line := make([]byte, 0, 1024)
	for _, f := range everyFrame(t) {
		s := f.Sample()
		allocations := testing.AllocsPerRun(20, func() {
			d.Decode(&s, &h)
			line = packet.AppendLine(line[:0], &s, &h)
		})
		if slices.Contains(mayAllocate, f.Name) || strings.HasPrefix(f.Name, "frame ") {
			assert.LessOrEqual(t, allocations, 4.0, f.Name) // 2, and what the race detector has sync.Pool forget
		} else {
			assert.Zero(t, allocations, f.Name)
		}
	}
}

// Frames cut at every length, as the snap length does: nothing is told but what is there.
func TestDetailsOfCutFrames(t *testing.T) {
	var d packet.Decoder
	var h, padded packet.Details
	for _, c := range frames.Carriers {
		for n := range c.Data {
			s := c.Sample()
			s.Data = slices.Clip(c.Data[:n])
			line := lineOf(&d, &h, &s)
			s.Data = append(slices.Clone(s.Data), 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee)[:n]
			require.Equal(t, line, lineOf(&d, &padded, &s), "%s: bytes behind the frame were read", c.Name)
			requireBounded(t, &h, line)
		}
	}
}

// requireBounded holds the limits of a record, whatever the frame.
func requireBounded(tb testing.TB, h *packet.Details, line string) {
	tb.Helper()
	for _, list := range []struct{ length, limit int }{
		{len(h.Tags), 3}, {len(h.Labels), 8}, {len(h.Extensions), 8}, {len(h.SACK), 4}, {len(h.Groups), 16}, {len(h.SCTPChunks), 16},
		{len(h.IPOptions), 40}, {len(h.TCPOptions), 40},
	} {
		require.LessOrEqual(tb, list.length, list.limit)
	}
	require.LessOrEqual(tb, len(line), 1200, line)
	for _, r := range line {
		require.True(tb, r >= ' ' && r <= '~', "%q", line)
	}
}

func BenchmarkDetails(b *testing.B) {
	for _, name := range []string{"a SYN with every usual option, and data", "selective acknowledgements", "UDP over IPv4 with traffic",
		"ARP who-has, with padding", "neighbour solicitation", "VXLAN"} {
		b.Run(strings.NewReplacer(" ", "-", ",", "").Replace(name), func(b *testing.B) {
			i := slices.IndexFunc(frames.Carriers, func(c frames.Carrier) bool { return c.Name == name })
			s := frames.Carriers[i].Sample()
			var d packet.Decoder
			var h packet.Details
			b.ReportAllocs()
			for b.Loop() {
				d.Decode(&s, &h)
			}
		})
	}
}
