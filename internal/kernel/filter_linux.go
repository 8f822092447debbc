// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package kernel

import (
	"encoding/binary"
	"net/netip"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// Bits of struct filter in bpf/contract.h.
const (
	filterSkip = 1 << iota
	filterPort
	filterProtocol
	filterIPv4
	filterIPv6
)

// compile returns f as the programs read it.
func (f *Filter) compile() (c bpfFilter) {
	if f.Skip {
		c.Bits |= filterSkip
	}
	if f.Port != nil {
		c.Bits |= filterPort
		c.Port = *f.Port
	}
	if f.Protocol != nil {
		c.Bits |= filterProtocol
		c.IpProto = *f.Protocol
	}
	if f.Prefix.IsValid() {
		p := f.Prefix.Masked()
		c.Bits |= filterIPv6
		if p.Addr().Is4() {
			c.Bits ^= filterIPv6 | filterIPv4
		}
		addr, mask := filterAddr(p.Addr().AsSlice()), filterAddr(mask(p))
		for i := range c.Addr {
			c.Addr[i] = binary.NativeEndian.Uint64(addr[8*i:])
			c.Mask[i] = binary.NativeEndian.Uint64(mask[8*i:])
		}
	}
	return c
}

// compileFilters returns the table of all filters.
func compileFilters(filters []Filter) (table [MaxFilters]bpfFilter) {
	for i := range filters {
		table[i] = filters[i].compile()
	}
	return table
}

// filterAddr is an address or a mask in the words of struct filter: network byte order, IPv4 in the last four bytes.
func filterAddr(b []byte) flow.Addr {
	var a flow.Addr
	copy(a[len(a)-len(b):], b)
	return a
}

// mask returns the address mask of p.
func mask(p netip.Prefix) []byte {
	m := make([]byte, p.Addr().BitLen()/8)
	for bit := range p.Bits() {
		m[bit/8] |= 0x80 >> (bit % 8)
	}
	return m
}
