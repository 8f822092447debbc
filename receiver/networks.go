// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// maxNetworks bounds the values of source.cidr and destination.cidr.
const maxNetworks = 1000

// NetworkConfig names the addresses of one network.
type NetworkConfig struct {
	Name string `mapstructure:"name"` // of source.cidr and destination.cidr; empty: CIDR
	CIDR string `mapstructure:"cidr"`

	_ struct{}
}

func (c *Config) validateNetworks() error {
	if len(c.Networks) > maxNetworks {
		return fmt.Errorf("networks must be at most %d, got %d", maxNetworks, len(c.Networks))
	}
	var errs error
	seen := map[netip.Prefix]bool{}
	for i, n := range c.Networks {
		p, err := parsePrefix(n.CIDR)
		if err == nil && seen[p] {
			err = fmt.Errorf("cidr must be given once, got %q again", n.CIDR)
		}
		seen[p] = true
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("networks[%d].%w", i, err)) // it begins with the key
		}
	}
	return errors.Join(errs, c.validateCIDRAttributes())
}

// validateCIDRAttributes refuses attributes that no point could have.
func (c *Config) validateCIDRAttributes() error {
	if len(c.Networks) > 0 {
		return nil
	}
	m := &c.MetricsBuilder.Metrics
	var errs error
	for _, w := range []struct {
		metric string
		wants  attrSet
	}{
		{instrumentIO.name, attrSetOf(m.NetworkFlowIo.EnabledAttributes)},
		{instrumentPackets.name, attrSetOf(m.NetworkFlowPackets.EnabledAttributes)},
	} {
		for _, name := range []string{attrSourceCIDR, attrDestinationCIDR} {
			if w.wants&attrBits[name] != 0 {
				errs = errors.Join(errs, fmt.Errorf(`metrics: %s: attribute %s needs networks, for example [{name: office, cidr: "10.0.0.0/8"}], got none`, w.metric, name))
			}
		}
	}
	return errs
}

// networks tells the network of an address. The longest prefix wins. IPv4 networks hold no IPv6 address, not even the
// IPv4-mapped ones (RFC 4291 2.5.5.2) that somebody may put on the wire, and the other way round. A nil *networks has none.
type networks struct {
	v4, v6 []border // ascending
	labels []string // by number; 0 is not used
}

// border is where the addresses of another network begin: networks lie one in the other or apart, so the borders of all
// divide the addresses into ranges, each with one longest prefix.
type border struct {
	from   netip.Addr // several borders at one address: the last of them counts
	number uint16     // of the label; 0: no network
}

// newNetworks returns nil if there are none. The configuration has been validated.
func newNetworks(configs []NetworkConfig) *networks {
	if len(configs) == 0 {
		return nil
	}
	n := &networks{labels: []string{""}}
	var v4, v6 []labelled
	for _, c := range configs {
		p, err := parsePrefix(c.CIDR)
		if err != nil {
			continue
		}
		if p.Addr().Is4() {
			v4 = append(v4, labelled{p, n.label(cmp.Or(c.Name, p.String()))})
		} else {
			v6 = append(v6, labelled{p, n.label(cmp.Or(c.Name, p.String()))})
		}
	}
	n.v4, n.v6 = borders(v4), borders(v6)
	return n
}

// label returns the number of a label: networks with one name are one value of the attribute.
func (n *networks) label(name string) uint16 {
	if i := slices.Index(n.labels, name); i > 0 {
		return uint16(i)
	}
	n.labels = append(n.labels, name)
	return uint16(len(n.labels) - 1)
}

// name returns the name of the network that holds a.
func (n *networks) name(a netip.Addr) (string, bool) {
	i := n.number(a)
	if i == 0 {
		return "", false
	}
	return n.labels[i], true
}

// number returns the number of the label of the network that holds a, 0 if none does.
func (n *networks) number(a netip.Addr) uint16 {
	if n == nil {
		return 0
	}
	all := n.v6
	if a.Is4() {
		all = n.v4
	}
	low, high := 0, len(all) // borders before low are at or before a, those from high on after it
	for low < high {
		if middle := (low + high) / 2; all[middle].from.Compare(a) <= 0 {
			low = middle + 1
		} else {
			high = middle
		}
	}
	if low == 0 {
		return 0
	}
	return all[low-1].number
}

// labelled is a network and the number of its label.
type labelled struct {
	netip.Prefix
	number uint16
}

// borders returns the borders of networks of one family.
func borders(all []labelled) (bs []border) {
	slices.SortFunc(all, func(x, y labelled) int { return x.Compare(y.Prefix) }) // those around before those within
	var around []labelled
	leave := func() {
		ended := around[len(around)-1]
		around = around[:len(around)-1]
		next := last(ended.Prefix).Next()
		if !next.IsValid() {
			return // it reached the last address there is
		}
		var outer uint16
		if len(around) > 0 {
			outer = around[len(around)-1].number
		}
		bs = append(bs, border{next, outer})
	}
	for _, p := range all {
		for len(around) > 0 && !around[len(around)-1].Contains(p.Addr()) {
			leave()
		}
		bs = append(bs, border{p.Addr(), p.number})
		around = append(around, p)
	}
	for len(around) > 0 {
		leave()
	}
	return bs
}

// last returns the last address of p.
func last(p netip.Prefix) netip.Addr {
	a := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(a); i++ {
		a[i/8] |= 0x80 >> (i % 8)
	}
	addr, _ := netip.AddrFromSlice(a)
	return addr
}
