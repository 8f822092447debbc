// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

func TestTheLongestPrefixNamesAnAddress(t *testing.T) {
	n := newNetworks([]NetworkConfig{
		{Name: "office", CIDR: "10.0.0.0/8"},
		{CIDR: "10.1.0.0/16"},
		{Name: "printer", CIDR: "10.1.2.3/32"},
		{Name: "office", CIDR: "10.1.255.0/24"},
		{Name: "top", CIDR: "255.255.255.0/24"},
		{CIDR: "2001:0db8::/32"},
		{Name: "lab", CIDR: "2001:db8:1::/48"},
		{Name: "mapped", CIDR: "::ffff:192.0.2.0/120"},
	})
	for address, want := range map[string]string{
		"10.0.0.0":           "office",
		"10.255.255.255":     "office",
		"9.255.255.255":      "",
		"11.0.0.0":           "",
		"10.1.0.0":           "10.1.0.0/16",
		"10.1.2.2":           "10.1.0.0/16",
		"10.1.2.3":           "printer",
		"10.1.2.4":           "10.1.0.0/16",
		"10.1.255.255":       "office",
		"10.2.0.0":           "office",
		"255.255.255.255":    "top",
		"0.0.0.0":            "",
		"2001:db8::1":        "2001:db8::/32",
		"2001:db8:1::1":      "lab",
		"2001:db8:2::":       "2001:db8::/32",
		"2001:db9::":         "",
		"::ffff:10.0.0.1":    "",
		"::ffff:192.0.2.1":   "mapped",
		"192.0.2.1":          "",
		"::10.0.0.1":         "",
		"::ffff:255.255.0.0": "",
	} {
		name, ok := n.name(netip.MustParseAddr(address))
		assert.Equal(t, want, name, address)
		assert.Equal(t, want != "", ok, address)
	}
	_, ok := newNetworks(nil).name(netip.MustParseAddr("10.0.0.1"))
	assert.False(t, ok)
}

func TestAllAddressesMayBeOneNetwork(t *testing.T) {
	n := newNetworks([]NetworkConfig{{Name: "four", CIDR: "0.0.0.0/0"}, {Name: "six", CIDR: "::/0"}})
	for address, want := range map[string]string{
		"0.0.0.0": "four", "255.255.255.255": "four", "::": "six", "::ffff:10.0.0.1": "six",
		"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff": "six",
	} {
		name, _ := n.name(netip.MustParseAddr(address))
		assert.Equal(t, want, name, address)
	}
}

// The borders say what a look at every prefix says.
func TestNetworksAgreeWithALookAtEachOfThem(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 11))
	address := func() netip.Addr { // few, so that networks nest
		b := [4]byte{byte(10 * r.IntN(2)), byte(r.IntN(3)), byte(r.IntN(256)), byte(r.IntN(4) * 85)}
		if r.IntN(2) == 0 {
			return netip.AddrFrom4(b)
		}
		return netip.AddrFrom16([16]byte{0x20, 1, 12: b[0], b[1], b[2], b[3]})
	}
	for range 50 {
		var configs []NetworkConfig
		all := map[netip.Prefix]bool{}
		for range r.IntN(60) {
			a := address()
			p := netip.PrefixFrom(a, r.IntN(a.BitLen()+1)).Masked()
			if !all[p] {
				all[p] = true
				configs = append(configs, NetworkConfig{CIDR: p.String()})
			}
		}
		n := newNetworks(configs)
		for range 500 {
			a, want, bits := address(), "", -1
			for p := range all {
				if p.Contains(a) && p.Bits() > bits {
					want, bits = p.String(), p.Bits()
				}
			}
			got, ok := n.name(a)
			require.Equal(t, want, got, "%s in %v", a, configs)
			require.Equal(t, bits >= 0, ok)
		}
	}
}

func TestTooManyNetworksAreRefused(t *testing.T) {
	c := testConfig()
	for i := range maxNetworks {
		c.Networks = append(c.Networks, NetworkConfig{CIDR: fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)})
	}
	require.NoError(t, c.Validate())
	c.Networks = append(c.Networks, NetworkConfig{CIDR: "192.0.2.0/24"})
	require.EqualError(t, c.Validate(), "networks must be at most 1000, got 1001")
}

func TestNetworksOfPoints(t *testing.T) {
	c := testConfig()
	c.Networks = []NetworkConfig{{Name: "a", CIDR: "10.0.0.0/24"}, {Name: "a", CIDR: "10.0.1.0/24"}, {CIDR: "2001:db8::/32"}}
	m := &c.MetricsBuilder.Metrics
	m.NetworkFlowIo.EnabledAttributes = []metadata.NetworkFlowIoMetricAttributeKey{attrSourceCIDR, attrDestinationCIDR}
	m.NetworkFlowPackets.EnabledAttributes = []metadata.NetworkFlowPacketsMetricAttributeKey{attrDestinationCIDR}
	require.NoError(t, c.Validate())
	b := newBench(t, c, newFakeHost("eth0"), consumertest.NewNop(), nil)
	for _, ends := range [][2]string{
		{"10.0.0.1:1", "10.0.1.1:1"}, {"10.0.1.1:1", "10.0.0.2:1"}, // one name, one series
		{"10.0.0.1:1", "192.0.2.1:1"}, {"192.0.2.1:1", "192.0.2.2:1"},
		{"[2001:db8::1]:1", "[2001:db9::1]:1"}, {"[2001:db9::1]:1", "[2001:db8::1]:1"},
	} {
		b.host.count(udp(ends[0], ends[1], flow.DirectionEgress, 1, 100, 0, 0))
	}
	messages := b.pointsAfter(time.Second)
	assert.Equal(t, map[string]int64{
		"map[destination.cidr:a source.cidr:a]": 200, "map[source.cidr:a]": 100, "map[]": 100,
		"map[source.cidr:2001:db8::/32]": 100, "map[destination.cidr:2001:db8::/32]": 100,
	}, valuesByAttributes(messages, instrumentIO.name))
	assert.Equal(t, map[string]int64{"map[destination.cidr:a]": 2, "map[]": 3, "map[destination.cidr:2001:db8::/32]": 1},
		valuesByAttributes(messages, instrumentPackets.name))
}

// BenchmarkNetworks is the cost of adding one slot to the metrics.
func BenchmarkNetworks(b *testing.B) {
	for _, n := range []int{0, 1, 100, 1000} {
		b.Run(fmt.Sprintf("networks=%d", n), func(b *testing.B) {
			c := testConfig()
			c.MetricsBuilder.Metrics.NetworkFlowActive.Enabled = false
			for i := range n {
				c.Networks = append(c.Networks, NetworkConfig{CIDR: fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)})
			}
			if n > 0 {
				m := &c.MetricsBuilder.Metrics
				m.NetworkFlowIo.EnabledAttributes = append(m.NetworkFlowIo.EnabledAttributes, attrSourceCIDR, attrDestinationCIDR)
				m.NetworkFlowPackets.EnabledAttributes = append(m.NetworkFlowPackets.EnabledAttributes, attrSourceCIDR, attrDestinationCIDR)
			}
			m := newMetrics(c, 1, defaultEphemeralLow)
			s := udp("10.0.50.1:1000", "10.0.70.1:53", flow.DirectionEgress, 3, 300, 1, 1)
			b.ReportAllocs()
			for b.Loop() {
				m.addSlot(&s, nil, place{iface: "eth0"}, 2)
			}
		})
	}
}
