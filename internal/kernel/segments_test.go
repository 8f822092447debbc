// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// headers are those of a packet down to one of them, all that the program reads of it: lengths and checksums are not set.
type headers struct {
	name string
	kind uint16 // of the first: an ethertype, or bridging
	data []byte
}

const (
	typeIPv4, typeIPv6 = 0x0800, 0x86dd
	bridging           = 0x6558
	protoIPIP          = 4
	protoTCP           = 6
	protoUDP           = 17
	protoIPv6          = 41
	protoGRE           = 47
	protoAH            = 51
	protoOptions       = 60
)

func linkHeader(etherType uint16) []byte {
	return append([]byte{2, 0, 0, 0, 0, 0xff, 2, 0, 0, 0, 0, 0xa}, byte(etherType>>8), byte(etherType))
}

// tag stands behind an ethertype of 0x8100 or 0x88a8.
func tag(etherType uint16) []byte { return []byte{0, 7, byte(etherType >> 8), byte(etherType)} }

// ip4 has a header of so many 4-byte words, the options being "no operation".
func ip4(words int, proto byte) []byte {
	h := slices.Repeat([]byte{1}, 4*words)
	copy(h, []byte{0x40 | byte(words), 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0})
	return h
}

// ip6 says some length: 0 and hop-by-hop options would be a jumbogram.
func ip6(next byte) []byte {
	return append([]byte{0x60, 0, 0, 0, 1, 1, next, 64}, make([]byte, 32)...)
}

// extension is an extension header of 8 bytes and so many times 8 more; RFC 8200 4.
func extension(next byte, more int) []byte {
	return append([]byte{next, byte(more)}, make([]byte, 6+8*more)...)
}

func udpHeader(port uint16) []byte { return []byte{0x10, 0, byte(port >> 8), byte(port), 0, 0, 0, 0} }

// tcpHeader has so many 4-byte words.
func tcpHeader(words int) []byte {
	h := make([]byte, 4*words)
	h[12] = byte(words << 4)
	return h
}

// insideIP are packets that a tunnel carries.
func insideIP() []headers {
	authentication := append([]byte{protoTCP, 4}, make([]byte, 22)...) // 24 bytes; RFC 4302 2.2
	return []headers{
		{"TCP over IPv4", typeIPv4, slices.Concat(ip4(5, protoTCP), tcpHeader(8))},
		{"UDP over IPv4 with options", typeIPv4, slices.Concat(ip4(7, protoUDP), udpHeader(53))},
		{"TCP over IPv6", typeIPv6, slices.Concat(ip6(protoTCP), tcpHeader(5))},
		{"UDP behind three extension headers", typeIPv6, slices.Concat(ip6(0), extension(43, 0), extension(protoOptions, 2), extension(protoUDP, 1), udpHeader(53))},
		{"TCP behind an authentication header", typeIPv6, slices.Concat(ip6(protoAH), authentication, tcpHeader(15))},
	}
}

// inEthernet puts packets into frames: plain, tagged, and behind what else lies between Ethernet and IP.
func inEthernet(packets []headers) (frames []headers) {
	for _, p := range packets {
		session := []byte{0x11, 0, 0, 1, 0, 0, 0, map[uint16]byte{typeIPv4: 0x21, typeIPv6: 0x57}[p.kind]} // RFC 2516 4, RFC 1661 2
		for _, link := range []headers{
			{"", 0, linkHeader(p.kind)},
			{" with a tag of 802.1Q", 0, slices.Concat(linkHeader(0x8100), tag(p.kind))},
			{" with a tag of 802.1ad", 0, slices.Concat(linkHeader(0x88a8), tag(p.kind))},
			{" with two tags", 0, slices.Concat(linkHeader(0x88a8), tag(0x8100), tag(p.kind))},
			{" with two MPLS labels", 0, append(linkHeader(0x8847), 0, 0x01, 0x00, 64, 0, 0x01, 0x01, 64)},
			{" in a PPPoE session", 0, append(linkHeader(0x8864), session...)},
		} {
			frames = append(frames, headers{p.name + " in Ethernet" + link.name, bridging, slices.Concat(link.data, p.data)})
		}
	}
	return frames
}

// tunnelled puts packets and frames into each kind of tunnel that can carry them. Their kind is the number of the protocol of IP.
func tunnelled() (all []headers) {
	packets := insideIP()
	frames := inEthernet(packets)
	for _, f := range frames {
		for _, port := range []uint16{4789, 8472} {
			vxlan := []byte{8, 0, 0, 0, 0, 0, 42, 0}
			all = append(all, headers{fmt.Sprintf("%s in VXLAN at port %d", f.name, port), protoUDP, slices.Concat(udpHeader(port), vxlan, f.data)})
		}
	}
	for _, p := range slices.Concat(packets, frames) {
		geneve := append([]byte{3, 0, byte(p.kind >> 8), byte(p.kind), 0, 0, 42, 0}, make([]byte, 12)...) // three words of options
		all = append(all, headers{p.name + " in Geneve", protoUDP, slices.Concat(udpHeader(6081), geneve, p.data)})
		for _, flags := range []uint16{0, 0x8000, 0x2000, 0x1000, 0xb000} { // checksum, key, sequence number; RFC 2784, RFC 2890
			all = append(all, headers{fmt.Sprintf("%s in GRE with flags %#04x", p.name, flags), protoGRE, slices.Concat(gre(flags, p.kind), p.data)})
		}
	}
	for _, p := range packets {
		all = append(all, headers{p.name + " in IP", map[uint16]uint16{typeIPv4: protoIPIP, typeIPv6: protoIPv6}[p.kind], p.data})
	}
	return all
}

// gre has 4 bytes more for each of checksum, key and sequence number.
func gre(flags, etherType uint16) []byte {
	h := []byte{byte(flags >> 8), byte(flags), byte(etherType >> 8), byte(etherType)}
	for bit := range 16 {
		if flags>>bit&1 != 0 {
			h = append(h, 0, 0, 0, 9)
		}
	}
	return h
}

// tunnelFrames are Ethernet frames with all of it over IPv4 and IPv6. Frame n comes from an address that ends in n.
func tunnelFrames() (all []headers) {
	for _, t := range tunnelled() {
		proto := byte(t.kind)
		for _, outer := range []headers{
			{"IPv4", 0, slices.Concat(linkHeader(typeIPv4), ip4(5, proto))},
			{"IPv4 with options behind a tag", 0, slices.Concat(linkHeader(0x8100), tag(typeIPv4), ip4(6, proto))},
			{"IPv6", 0, slices.Concat(linkHeader(typeIPv6), ip6(proto))},
			{"IPv6 with options", 0, slices.Concat(linkHeader(typeIPv6), ip6(protoOptions), extension(proto, 0))}, // RFC 2473 4.1.1
		} {
			setSource(outer.data, uint16(len(all)))
			all = append(all, headers{t.name + " over " + outer.name, 0, slices.Concat(outer.data, t.data)})
		}
	}
	return all
}

// setSource writes n to the end of the source address.
func setSource(frame []byte, n uint16) {
	at := 14
	if binary.BigEndian.Uint16(frame[12:]) == 0x8100 {
		at += 4
	}
	if frame[at]>>4 == 4 {
		at += 16 - 2
	} else {
		at += 24 - 2
	}
	binary.BigEndian.PutUint16(frame[at:], n)
}

// A buffer in a tunnel weighs the same whichever flow it counts in, the outer or the inner: each of its segments has all headers
// down to the innermost, and a part of the payload.
func TestSegmentsInTunnelsWeighTheSameInEitherFlow(t *testing.T) {
	const payload, segment, segments = 2001, 500, 5
	frames := tunnelFrames()
	for _, c := range []struct {
		name string
		cfg  Config
	}{
		{"outer", Config{object: objectPlain}},
		{"outer, with everything", Config{object: objectFull}},
		{"outer, on old kernels", Config{object: objectOld}},
		{"inner", Config{object: objectFull, Tunnels: true}},
		{"inner, on old kernels", Config{object: objectOld, Tunnels: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := load(t, c.cfg)
			pin(t, 0)
			for n, f := range frames {
				ctx := skbContext{GSOSize: segment, GSOSegs: uint32(n % 2 * segments)} // 0: as virtio leaves it
				inject(t, k.objects.EgressL2, append(f.data, make([]byte, payload)...), ctx)
			}
			got := drain(t, k)
			require.Empty(t, got.Classes)
			require.Len(t, got.slots, len(frames))
			wrong := 0
			for _, s := range got.slots {
				from := s.SrcAddr
				if c.cfg.Tunnels {
					from = s.Tunnel.Src
				}
				f := frames[binary.BigEndian.Uint16(from[14:])]
				want := flow.Volume{Packets: segments, Bytes: uint64(payload + segments*len(f.data))}
				if s.Volume != want {
					if wrong++; wrong <= 5 {
						t.Errorf("%s: %+v, not %+v", f.name, s.Volume, want)
					}
				}
			}
			require.Zero(t, wrong, "of %d", len(frames))
		})
	}
}

// It weighs the same, too, if it counts in no flow.
func TestSegmentsInTunnelsWeighTheSameWithoutAFlow(t *testing.T) {
	const payload, segment, segments = 2001, 500, 5
	f := slices.Concat(linkHeader(typeIPv4), ip4(5, protoUDP), udpHeader(4789), []byte{8, 0, 0, 0, 0, 0, 42, 0}, linkHeader(typeIPv4), ip4(5, protoTCP), tcpHeader(8))
	want := flow.Volume{Packets: segments, Bytes: uint64(payload + segments*len(f))}
	f = append(f, make([]byte, payload)...)
	for _, tunnels := range []bool{false, true} {
		for reason, cfg := range map[flow.Reason]Config{
			flow.ReasonFiltered: {Filters: []Filter{skip("", nil, nil)}},
			flow.ReasonOverflow: {Slots: MinSlots},
		} {
			t.Run(fmt.Sprintf("%s, inner %t", reason.Entry(), tunnels), func(t *testing.T) {
				cfg.Tunnels = tunnels
				k := load(t, cfg)
				pin(t, 0)
				left := want // in that entry
				if reason == flow.ReasonOverflow {
					const others = 4 * MinSlots // some find no room while there is any
					for port := range uint16(others) {
						inject(t, k.objects.EgressL2, udpFrame(hostA, hostB, port, 9, 60), nil)
					}
					left.Add(flow.Volume{Packets: others - MinSlots, Bytes: (others - MinSlots) * 60})
				}
				inject(t, k.objects.EgressL2, f, skbContext{GSOSize: segment, GSOSegs: segments})
				require.Equal(t, left, drain(t, k).Ledger.Entries[reason])
			})
		}
	}
}

// A tunnel inside of a tunnel is payload, in either flow.
func TestSegmentsInNestedTunnelsWeighTheSameInEitherFlow(t *testing.T) {
	const payload, segment, segments = 2001, 500, 5
	level := slices.Concat(linkHeader(typeIPv4), ip4(5, protoUDP), udpHeader(4789))
	vxlan := []byte{8, 0, 0, 0, 0, 0, 42, 0}
	repeated := slices.Concat(level, vxlan, level)
	f := slices.Concat(repeated, vxlan, linkHeader(typeIPv4), ip4(5, protoTCP), tcpHeader(8), make([]byte, payload))
	for _, tunnels := range []bool{false, true} {
		t.Run(fmt.Sprintf("inner %t", tunnels), func(t *testing.T) {
			k := load(t, Config{Tunnels: tunnels})
			pin(t, 0)
			inject(t, k.objects.EgressL2, f, skbContext{GSOSize: segment, GSOSegs: segments})
			require.Equal(t, flow.Volume{Packets: segments, Bytes: uint64(len(f) + (segments-1)*len(repeated))}, drain(t, k).Ledger.Seen)
		})
	}
}
