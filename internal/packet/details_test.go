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

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/frames"
)

func carrier(tb testing.TB, name string) packet.Sample {
	tb.Helper()
	i := slices.IndexFunc(frames.Carriers, func(c frames.Carrier) bool { return c.Name == name })
	require.NotEqual(tb, -1, i, name)
	return frames.Carriers[i].Sample()
}

// corpus is every frame that is not from a capture.
func corpus() []frames.Frame {
	all := slices.Concat(frames.All, frames.Offloaded, frames.ICMP, frames.Inside)
	for _, c := range frames.Carriers {
		all = append(all, c.Frame)
	}
	return all
}

// everyFrame is the corpus and the captures.
func everyFrame(tb testing.TB) []frames.Frame {
	tb.Helper()
	all := corpus()
	files, err := filepath.Glob("../../testdata/pcap/*.pcap")
	require.NoError(tb, err)
	for _, path := range files {
		all = append(all, capture(tb, path)...)
	}
	return all
}

// capture is the frames of a file, each with the file's name in its own.
func capture(tb testing.TB, path string) []frames.Frame {
	tb.Helper()
	all, err := frames.ReadPcap(path)
	require.NoError(tb, err)
	for i := range all {
		all[i].Name = filepath.Base(path) + ", " + all[i].Name
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
		"sent too short behind an offloaded tag": {
			func(s *packet.Sample) { s.Data, s.WireLen, s.Tagged, s.VLANTCI = s.Data[:60], 64, true, 7 },
			"vlan 7, p 0, unparsed_short_transport, ethertype 0x86dd, length 64",
		},
		"cut by one byte behind an offloaded tag": {
			func(s *packet.Sample) { s.Data, s.WireLen, s.Tagged, s.VLANTCI = s.Data[:60], 65, true, 7 },
			"vlan 7, p 0, cut inside a header, length 65",
		},
		"runt": {func(s *packet.Sample) { s.Data, s.WireLen = s.Data[:9], 9 }, "unparsed_short_ethernet, length 9"},
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
		s := carrier(t, name)
		s.Inside = true
		assert.Equal(t, want, lineOf(&d, &h, &s), name)
		assert.Zero(t, h.Tunnel, name)
		assert.False(t, h.HasInner, name)
	}
}

// toldToEndWithIP makes the IP header behind Ethernet say that nothing follows it.
func toldToEndWithIP(s *packet.Sample) {
	s.Data = slices.Clone(s.Data)
	if s.Data[14]>>4 == 4 {
		s.Data[16], s.Data[17] = 0, 20
	} else {
		s.Data[18], s.Data[19] = 0, 0
	}
}

// A transport header behind the end of the packet is padding. The kernel takes its ports for the packet's, and nothing else is told.
func TestTransportHeaderBehindTheEndOfThePacket(t *testing.T) {
	var d packet.Decoder
	for name, want := range map[string]string{
		"TCP without options":        "IP 192.0.2.1.49152 > 198.51.100.2.443: tcp",
		"selective acknowledgements": "IP6 2001:db8::1.49152 > 2001:db8::1002.443: tcp",
		"SCTP INIT":                  "IP 192.0.2.1.49152 > 198.51.100.2.443: sctp",
		"UDP over IPv6 with traffic": "IP6 2001:db8::1.49152 > 2001:db8::1002.443: udp",
		"VXLAN":                      "IP 192.0.2.1.49152 > 198.51.100.2.4789: udp",
		"an echo with data":          "IP 192.0.2.1 > 198.51.100.2: icmp",
		"neighbour solicitation":     "IP6 2001:db8::1 > 2001:db8::1002: icmp6",
		"IGMP 2 report":              "IP 192.0.2.1 > 198.51.100.2: ip-proto-2, length 0",
		"three IPv6 extensions":      "IP6 2001:db8::1.49152 > 2001:db8::1002.443: udp",
	} {
		s := carrier(t, name)
		toldToEndWithIP(&s)
		var h packet.Details
		assert.Equal(t, want, lineOf(&d, &h, &s), name)
		h.Packet, h.HasEthernet, h.SrcMAC, h.DstMAC, h.HasIPID, h.IPID, h.DontFragment, h.FlowLabel = packet.Packet{}, false, packet.MAC{}, packet.MAC{}, false, 0, false, 0
		h.HasPayloadLen = false
		assert.Equal(t, packet.Details{Beyond: name != "IGMP 2 report"}, emptied(h), name)
	}
}

// Of options, those are told that come before the end.
func TestTCPOptionsBehindTheEndOfThePacket(t *testing.T) {
	var d packet.Decoder
	var h packet.Details
	s := carrier(t, "a SYN with every usual option, and data")
	s.Data = slices.Clone(s.Data)
	s.Data[17] = 20 + 20 + 4
	assert.Equal(t, "IP 192.0.2.1.49152 > 198.51.100.2.443: Flags [S], seq 16909060, win 64240", lineOf(&d, &h, &s))
}

// The packet inside ends where the one that carries it does.
func TestDetailsInsideOfATunnelThatEndsEarlier(t *testing.T) {
	var d packet.Decoder
	var h packet.Details
	s := carrier(t, "IP in IPv4")
	toldToEndWithIP(&s)
	assert.Equal(t, "IP 192.0.2.1 > 198.51.100.2: ipip, length 0", lineOf(&d, &h, &s))
	s.Inside = true
	assert.Equal(t, "IP 192.0.2.1 > 198.51.100.2: ip: IP 192.0.2.1.49152 > 198.51.100.2.443: udp, length 32", lineOf(&d, &h, &s))
	assert.True(t, h.Beyond)
	s = carrier(t, "IP in IPv4")
	s.Data = slices.Clone(s.Data)
	s.Data[14+20+3] = 20 // of the packet inside
	assert.Equal(t, "IP 192.0.2.1 > 198.51.100.2: ipip, length 60", lineOf(&d, &h, &s), "its ports are not its own")
}

// A sample that ends before the headers inside of a tunnel do is told as the outer packet, and says so.
func TestDetailsOfATunnelThatIsCut(t *testing.T) {
	var d packet.Decoder
	var h packet.Details
	i := slices.IndexFunc(frames.Inside, func(f frames.Frame) bool { return f.Name == "IPv6 in VXLAN over IPv6" })
	s := frames.Inside[i].Sample()
	s.Data, s.WireLen = s.Data[:128], 1400
	assert.Equal(t, "IP6 2001:db8::1.49152 > 2001:db8::1002.4789: VXLAN, vni 11259375, length 70 (inside cut)", lineOf(&d, &h, &s))
	s.Inside = false
	assert.Equal(t, "IP6 2001:db8::1.49152 > 2001:db8::1002.4789: VXLAN, vni 11259375, length 70", lineOf(&d, &h, &s))

	tunnels := 0
	for _, f := range frames.Inside {
		if f.Want.Key.Tunnel.Kind == 0 {
			continue
		}
		tunnels++
		s := f.Sample()
		for n := range f.Data {
			s.Data = f.Data[:n]
			d.Decode(&s, &h)
			if h.Reason == flow.ReasonAccounted {
				require.Equal(t, h.Key.Tunnel.Kind == 0, h.InsideCut, "%s, %d bytes", f.Name, n)
			} else {
				require.False(t, h.InsideCut, "%s, %d bytes", f.Name, n)
			}
			s.WireLen = uint32(n)
			d.Decode(&s, &h)
			require.False(t, h.InsideCut, "%s, sent with %d bytes", f.Name, n)
			s.WireLen = uint32(len(f.Data))
		}
	}
	assert.Greater(t, tunnels, 15)
}

// IPv4 options are told up to the first that has no such length, or the end of the list.
func TestIPv4Options(t *testing.T) {
	var d packet.Decoder
	var h packet.Details
	for _, tt := range []struct {
		options string
		want    []uint8
	}{
		{"\x94\x04\x00\x00", []uint8{148}},
		{"\x94\x04\x00\x00\x07\x28\x00\x00", []uint8{148}}, // longer than what is left
		{"\x94\x04\x00\x00\x07\x01\x00\x00", []uint8{148}}, // shorter than itself
		{"\x01\x01\x01\x07", []uint8{1, 1, 1}},             // no room for a length
		{"\x01\x00\x94\x04", []uint8{1, 0}},                // nothing is behind the end
		{"\x07\x04\x04\x00", []uint8{7}},                   // to the last byte
	} {
		f := find(t, "UDP over IPv4")
		s := f.Sample()
		s.Data = slices.Insert(slices.Clone(f.Data), 14+20, []byte(tt.options)...)
		s.Data[14] += byte(len(tt.options) / 4)
		s.Data[17] += byte(len(tt.options))
		s.WireLen = uint32(len(s.Data))
		d.Decode(&s, &h)
		assert.Equal(t, tt.want, h.IPOptions, "%x", tt.options)
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

// A packet that is not segmented has the length that its header tells, also if that is 0, and all of the headers that it shows.
func TestPayloadOfOnePacketThatTellsZero(t *testing.T) {
	f := find(t, "TCP over IPv6")
	jumbo := []byte{6, 0, 0xc2, 4, 0, 1, 0, 0} // next header, length, option with 65,536
	var d packet.Decoder
	var h packet.Details

	s := f.Sample()
	s.Data = slices.Insert(slices.Clone(f.Data), 14+40, jumbo...)
	s.Data[14+4], s.Data[14+5], s.Data[14+6] = 0, 0, 0
	s.WireLen = 14 + 40 + 1<<16
	d.Decode(&s, &h)
	assert.True(t, h.HasPayloadLen)
	assert.Equal(t, uint32(1<<16-8-20), h.PayloadLen, "a jumbogram")

	s = f.Sample()
	s.Data = append(slices.Clone(f.Data[:14+40]), "padded"...)
	s.Data[14+4], s.Data[14+5], s.Data[14+6] = 0, 0, 59
	s.WireLen = 60
	d.Decode(&s, &h)
	assert.True(t, h.HasPayloadLen)
	assert.Zero(t, h.PayloadLen, "nothing behind IPv6 but padding; RFC 8200 4.7")
}

// mayAllocate are the frames of which gopacket makes an error, and those with a multipath TCP option.
var mayAllocate = []string{
	"ARP that is cut", "TCP options that are missing are not missed", "urgent data and unusual options",
	"an ARP type with nothing behind it", "an offloaded tag is not kept when the frame is not accounted",
	"the header of VXLAN is cut", "the key of GRE is cut", "a TCP data offset below 5 is taken for 5", "neighbour solicitation with an unassigned option",
	"no VXLAN, with a trailer",
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
			s := carrier(b, name)
			var d packet.Decoder
			var h packet.Details
			b.ReportAllocs()
			for b.Loop() {
				d.Decode(&s, &h)
			}
		})
	}
}
