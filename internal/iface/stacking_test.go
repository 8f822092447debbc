// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package iface

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestStack(t *testing.T) {
	bridge := Interface{Index: 1, Kind: "bridge"}
	port := func(index, master uint32) Interface { return Interface{Index: index, Kind: "veth", Master: master} }
	vlan := func(index, lower uint32) Interface { return Interface{Index: index, Kind: "vlan", Lower: lower} }
	in, out, both := Hooks{Ingress: true}, Hooks{Egress: true}, Hooks{true, true}
	known := Stacking{Known: true}
	for name, c := range map[string]struct {
		all   []Interface
		hooks map[uint32]Hooks
		want  map[uint32]Stacking
	}{
		"nothing attached": {[]Interface{bridge, port(2, 1), vlan(3, 2)}, nil, map[uint32]Stacking{}},
		"bridge and its ports": {
			[]Interface{bridge, port(2, 1), port(3, 1)}, map[uint32]Hooks{1: both, 2: both, 3: both},
			map[uint32]Stacking{1: {Known: true, Ingress: true}, 2: {Known: true, Through: 1}, 3: {Known: true, Through: 1}},
		},
		"a bridge of which one port is not attached": {
			[]Interface{bridge, port(2, 1), port(3, 1)}, map[uint32]Hooks{1: both, 2: both},
			map[uint32]Stacking{1: known, 2: {Known: true, Through: 1}, 3: {Through: 1}},
		},
		"ports without their bridge": {
			[]Interface{bridge, port(2, 1)}, map[uint32]Hooks{2: both},
			map[uint32]Stacking{1: {Known: true, Ingress: true}, 2: known},
		},
		"bridge without its ports": {
			[]Interface{bridge, port(2, 1)}, map[uint32]Hooks{1: both}, map[uint32]Stacking{1: known, 2: {Through: 1}},
		},
		"a bridge without ports": {[]Interface{bridge}, map[uint32]Hooks{1: both}, map[uint32]Stacking{1: known}},
		"a port of a bond that is a port": {
			[]Interface{bridge, {Index: 2, Kind: "bond", Master: 1}, port(3, 2)}, map[uint32]Hooks{1: both, 3: both},
			map[uint32]Stacking{1: {Known: true, Ingress: true}, 2: {Known: true, Ingress: true, Through: 1}, 3: {Known: true, Through: 1}},
		},
		"the nearest of two counts": {
			[]Interface{bridge, {Index: 2, Kind: "bond", Master: 1}, port(3, 2)}, map[uint32]Hooks{1: out, 2: out, 3: out},
			map[uint32]Stacking{2: {Through: 1}, 3: {Through: 2}},
		},
		"another master": {
			[]Interface{{Index: 1, Kind: "vrf"}, port(2, 1)}, map[uint32]Hooks{1: both, 2: both}, map[uint32]Stacking{1: known, 2: known},
		},
		"VLAN upon VLAN": {
			[]Interface{port(1, 0), vlan(2, 1), vlan(3, 2)}, map[uint32]Hooks{1: both, 3: both},
			map[uint32]Stacking{1: known, 2: {true, true, true, 0}, 3: {true, true, true, 0}},
		},
		"VLAN without what is below": {
			[]Interface{port(1, 0), vlan(2, 1)}, map[uint32]Hooks{2: both}, map[uint32]Stacking{2: known},
		},
		"VLAN of a bond whose ports count": {
			[]Interface{{Index: 1, Kind: "bond"}, port(2, 1), port(3, 1), vlan(4, 1)}, map[uint32]Hooks{2: both, 3: both, 4: both},
			map[uint32]Stacking{1: {Known: true, Ingress: true}, 2: known, 3: known, 4: {true, true, true, 0}},
		},
		"what is below is not there": {[]Interface{vlan(2, 1)}, map[uint32]Hooks{2: both}, map[uint32]Stacking{2: known}},
		"ingress alone": {
			[]Interface{bridge, port(2, 1), vlan(3, 2)}, map[uint32]Hooks{1: in, 2: in, 3: in},
			map[uint32]Stacking{1: {Known: true, Ingress: true}, 2: known, 3: {Known: true, Ingress: true}},
		},
		"VLAN of a port": {
			[]Interface{bridge, port(2, 1), vlan(3, 2)}, map[uint32]Hooks{1: both, 2: both, 3: both},
			map[uint32]Stacking{1: {Known: true, Ingress: true}, 2: {Known: true, Through: 1}, 3: {Known: true, Ingress: true}},
		},
		"egress alone": {
			[]Interface{bridge, port(2, 1), vlan(3, 2)}, map[uint32]Hooks{1: out, 2: out, 3: out},
			map[uint32]Stacking{2: {Through: 1}},
		},
		"both ends of a veth": {
			[]Interface{{Index: 1, Peer: 2}, {Index: 2, Peer: 1}}, map[uint32]Hooks{1: both, 2: in},
			map[uint32]Stacking{1: known, 2: {Known: true, Ingress: true}},
		},
		"loopback":                  {[]Interface{{Index: 1, Peer: 1}}, map[uint32]Hooks{1: both}, map[uint32]Stacking{1: {Known: true, Ingress: true}}},
		"loopback, one direction":   {[]Interface{{Index: 1, Peer: 1}}, map[uint32]Hooks{1: in}, map[uint32]Stacking{1: known}},
		"a ring, which cannot be":   {[]Interface{vlan(1, 2), vlan(2, 1)}, nil, map[uint32]Stacking{}},
		"a ring of ports, likewise": {[]Interface{{Index: 1, Kind: "bond", Master: 2}, {Index: 2, Kind: "bond", Master: 1}}, nil, map[uint32]Stacking{}},
	} {
		t.Run(name, func(t *testing.T) { assert.Equal(t, c.want, Stack(c.all, c.hooks)) })
	}
}
