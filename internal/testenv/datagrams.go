// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"encoding/binary"
	"net/netip"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// Datagrams is a stream of UDP frames known in advance: frame i belongs to flow i mod Flows and has the size
// Payloads[i mod len(Payloads)]. Even flows are IPv4, odd ones IPv6.
type Datagrams struct {
	Flows    int   // at most 1 << 24
	Payloads []int // bytes of UDP payload
	Src, Dst MAC
}

// AppendFrame appends frame i to b.
func (d *Datagrams) AppendFrame(b []byte, i int) []byte {
	from, to := d.endpoints(i % d.Flows)
	f := Frame{Src: d.Src, Dst: d.Dst, From: from, To: to, Proto: protoUDP, Payload: d.Payloads[i%len(d.Payloads)]}
	return f.AppendTo(b)
}

func (d *Datagrams) endpoints(number int) (from, to netip.AddrPort) {
	n := uint32(number)
	ports := [2]uint16{uint16(1024 + n%40000), uint16(5000 + n%7)}
	if n%2 == 1 {
		var src, dst [16]byte
		copy(src[:], []byte{0x20, 0x01, 0x0d, 0xb8, 0, 1})
		copy(dst[:], []byte{0x20, 0x01, 0x0d, 0xb8, 0, 2})
		binary.BigEndian.PutUint32(src[12:], n)
		dst[15] = byte(n % 251)
		return netip.AddrPortFrom(netip.AddrFrom16(src), ports[0]), netip.AddrPortFrom(netip.AddrFrom16(dst), ports[1])
	}
	src := netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
	dst := netip.AddrFrom4([4]byte{198, 18, 0, byte(n % 251)})
	return netip.AddrPortFrom(src, ports[0]), netip.AddrPortFrom(dst, ports[1])
}

// Key is what a flow of the stream must be counted under; IfIndex is left to the caller.
func (d *Datagrams) Key(number int) flow.Key {
	from, to := d.endpoints(number)
	return flow.Key{
		SrcAddr: address(from.Addr()), DstAddr: address(to.Addr()),
		SrcPort: from.Port(), DstPort: to.Port(),
		Proto: protoUDP, IPv6: from.Addr().Is6(),
	}
}

func address(a netip.Addr) (out flow.Addr) {
	if a.Is4() {
		v4 := a.As4()
		copy(out[12:], v4[:])
		return out
	}
	return a.As16()
}

// Volumes returns what the first n frames add up to, by flow.
func (d *Datagrams) Volumes(n int) []flow.Volume {
	volumes := make([]flow.Volume, d.Flows)
	for i := range n {
		number := i % d.Flows
		headers := 14 + 20 + 8
		if number%2 == 1 {
			headers = 14 + 40 + 8
		}
		volumes[number].Add(flow.Volume{Packets: 1, Bytes: uint64(headers + d.Payloads[i%len(d.Payloads)])})
	}
	return volumes
}
