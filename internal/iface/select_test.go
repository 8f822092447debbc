// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package iface

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A host with two ports of a bond, containers, a tunnel and a virtual function under its Hyper-V interface.
var (
	lo      = Interface{Index: 1, Name: "lo", Kind: "device", HWType: 772, Up: true, Loopback: true}
	eth0    = Interface{Index: 2, Name: "eth0", Kind: "device", HWType: 1, Master: 4, Device: true}
	eth1    = Interface{Index: 3, Name: "eth1", Kind: "device", HWType: 1, Master: 4, Device: true}
	bond0   = Interface{Index: 4, Name: "bond0", Kind: "bond", HWType: 1, DefaultRoute: true}
	docker0 = Interface{Index: 5, Name: "docker0", Kind: "bridge", HWType: 1}
	veth1   = Interface{Index: 6, Name: "veth1", Kind: "veth", HWType: 1, Master: 5}
	tun0    = Interface{Index: 7, Name: "tun0", Kind: "tun", HWType: 0xFFFE, DefaultRoute: true}
	hv0     = Interface{Index: 8, Name: "hv0", Kind: "device", HWType: 1, Device: true}
	vf0     = Interface{Index: 9, Name: "vf0", Kind: "device", HWType: 1, Master: 8, Device: true}
)

func TestSelect(t *testing.T) {
	host := []Interface{lo, eth0, eth1, bond0, docker0, veth1, tun0}
	guest := []Interface{lo, hv0, vf0}
	container := []Interface{lo, veth1, tun0}

	for _, tt := range []struct {
		name             string
		include, exclude []string
		all, want        []Interface
	}{
		{"a name selects one interface", []string{"eth1"}, nil, host, []Interface{eth1}},
		{"a name that nothing has selects nothing", []string{"eth7"}, nil, host, nil},
		{"a name is not a prefix", []string{"eth"}, nil, host, nil},
		{"a glob selects what it matches, in the host's order", []string{"tun?", "eth*"}, nil, host, []Interface{eth0, eth1, tun0}},
		{"an interface that two patterns match is selected once", []string{"eth0", "eth*"}, nil, host, []Interface{eth0, eth1}},
		{"a star is every interface but loopback", []string{"*"}, nil, host, []Interface{eth0, eth1, bond0, docker0, veth1, tun0}},
		{"a glob never reaches loopback", []string{"l*"}, nil, host, nil},
		{"a kind selects by kind", []string{"kind:veth", "kind:tun"}, nil, host, []Interface{veth1, tun0}},
		{"kind:device does not reach loopback", []string{"kind:device"}, nil, host, []Interface{eth0, eth1}},
		{"a kind that nothing has selects nothing", []string{"kind:wireguard"}, nil, host, nil},
		{"loopback is selected by its name", []string{"lo"}, nil, host, []Interface{lo}},
		{"loopback is selected by its kind", []string{"kind:loopback"}, nil, host, []Interface{lo}},
		{"uplinks are backed by a device, whatever holds the default route", []string{"kind:uplink"}, nil, host, []Interface{eth0, eth1}},
		{"a device under a device is no uplink: its packets pass twice", []string{"kind:uplink"}, nil, guest, []Interface{hv0}},
		{"without devices the default route makes an uplink", []string{"kind:uplink"}, nil, container, []Interface{tun0}},
		{"without either there is no uplink", []string{"kind:uplink"}, nil, []Interface{lo, veth1}, nil},
		{"exclude wins over include", []string{"*", "eth0"}, []string{"eth0", "kind:bridge"}, host, []Interface{eth1, bond0, veth1, tun0}},
		{"exclude takes uplinks away", []string{"*"}, []string{"kind:uplink"}, host, []Interface{bond0, docker0, veth1, tun0}},
		{"an excluding glob reaches loopback", []string{"lo", "eth0"}, []string{"l*"}, host, []Interface{eth0}},
		{"nothing included selects nothing", nil, nil, host, nil},
		{"a class and an escape are globs", []string{`eth[1-9]`, `tun\0`}, nil, host, []Interface{eth1, tun0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := ParseSelector(tt.include, tt.exclude)
			require.NoError(t, err)
			assert.Equal(t, tt.want, s.Select(tt.all))
		})
	}
}

func TestParseSelectorRefuses(t *testing.T) {
	for _, tt := range []struct{ name, pattern, want string }{
		{"an empty pattern", "", `must be a name, a glob or a kind`},
		{"an empty kind", "kind:", `a kind is a lower-case word`},
		{"an upper-case kind", "kind:Veth", `a kind is a lower-case word`},
		{"a glob of kinds", "kind:v*", `a kind is a lower-case word`},
		{"another prefix", "type:veth", `kinds are written "kind:veth"`},
		{"an address label", "eth0:1", `no interface name contains a colon`},
		{"a path", "/sys/class/net/eth0", `no interface name contains "/"`},
		{"a list in one string", "eth0 eth1", `one pattern per list entry`},
		{"an open class", "eth[0-3", `not a glob`},
		{"an empty class", "eth[]", `not a glob`},
		{"an escape of nothing", `eth*\`, `not a glob`},
		{"a name of 16 bytes", "abcdefghijklmnop", `at most 15 bytes`},
		{"the directory itself", "..", `no interface can have this name`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseSelector([]string{"eth0", tt.pattern}, nil)
			require.ErrorContains(t, err, "include: ")
			require.ErrorContains(t, err, tt.want)
			_, err = ParseSelector(nil, []string{tt.pattern})
			require.ErrorContains(t, err, "exclude: ")
		})
	}
	_, err := ParseSelector([]string{"kind:ip6gretap", "abcdefghijklmno", "kind:batadv_x-1", "br-0a1b", "eth0.100", "ens*"}, nil)
	require.NoError(t, err)
}

func TestLinkHeader(t *testing.T) {
	for _, tt := range []struct {
		name string
		i    Interface
		want LinkHeader
	}{
		{"a NIC has an Ethernet header", eth0, LinkHeaderEthernet},
		{"loopback has an Ethernet header", lo, LinkHeaderEthernet},
		{"a tun has none", tun0, LinkHeaderNone},
		{"ppp has none", Interface{Kind: "ppp", HWType: 512}, LinkHeaderNone},
		{"raw IP has none", Interface{Kind: "rmnet", HWType: 519}, LinkHeaderNone},
		{"an xfrm interface keeps the outer one on ingress", Interface{Kind: "xfrm", HWType: 0xFFFE}, LinkHeaderUnknown},
		{"a vti keeps the outer one on ingress", Interface{Kind: "vti", HWType: 768, PointToPoint: true}, LinkHeaderUnknown},
		{"so does a vti6", Interface{Kind: "vti6", HWType: 769, PointToPoint: true}, LinkHeaderUnknown},
		{"an IPIP tunnel has none", Interface{Kind: "ipip", HWType: 768}, LinkHeaderNone},
		{"a tunnel in IPv6 has none", Interface{Kind: "ip6tnl", HWType: 769}, LinkHeaderNone},
		{"an IPv6 in IPv4 tunnel has none", Interface{Kind: "sit", HWType: 776}, LinkHeaderNone},
		{"a GRE tunnel to one address has none", Interface{Kind: "gre", HWType: 778, PointToPoint: true}, LinkHeaderNone},
		{"a GRE tunnel to many has the outer header", Interface{Kind: "gre", HWType: 778}, LinkHeaderUnknown},
		{"a GRE tunnel in IPv6 to one address has none", Interface{Kind: "ip6gre", HWType: 823, PointToPoint: true}, LinkHeaderNone},
		{"a GRE tunnel in IPv6 to many has the outer header", Interface{Kind: "ip6gre", HWType: 823}, LinkHeaderUnknown},
		{"InfiniBand has its own", Interface{Kind: "device", HWType: 32}, LinkHeaderUnknown},
		{"CAN carries no IP", Interface{Kind: "vcan", HWType: 280}, LinkHeaderUnknown},
		{"the zero hardware type says nothing", Interface{}, LinkHeaderUnknown},
	} {
		t.Run(tt.name, func(t *testing.T) { assert.Equal(t, tt.want, tt.i.LinkHeader()) })
	}
}
