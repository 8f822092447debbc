// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// setting is one value of a knob of bpf/config.h; nil: as it is by default.
type setting struct {
	name string
	set  func(*Config)
}

// turn is a knob that is off by default, and its other settings.
func turn(settings ...setting) []setting {
	return append([]setting{{"", func(*Config) {}}}, settings...)
}

var (
	random = setting{"random", func(c *Config) { c.RandomOneIn = 10 }}

	// switches are the knobs that decide which parts of a form the verifier sees.
	plainSwitches = [][]setting{
		turn(setting{"quotes", func(c *Config) { c.Quotes = true }}),
		turn(setting{"no fragments", func(c *Config) { c.fragments = -1 }}),
		turn(setting{"one filter", func(c *Config) { c.Filters = mostFilters()[:1] }}, setting{"most filters", func(c *Config) { c.Filters = mostFilters() }}),
		turn(random),
	}
	switches = append(plainSwitches[:3:3],
		turn(random,
			setting{"flow", func(c *Config) { c.FlowOneIn = 10 }},
			setting{"first", func(c *Config) { c.FirstPerFlow = 3 }},
			setting{"random, flow, first", func(c *Config) { c.RandomOneIn, c.FlowOneIn, c.FirstPerFlow = 10, 10, 3 }}),
		turn(setting{"protocols", func(c *Config) { c.Protocols = allProtocols }}),
		turn(setting{"tunnels", func(c *Config) { c.Tunnels = true }}),
		turn(setting{"deduplicate", func(c *Config) { c.Deduplicate = true }}),
		turn(setting{"clsact", func(c *Config) { c.Clsact = true }}),
	)

	// details are bounds and parts of what the switches have switched on.
	details = [][]setting{
		turn(setting{"fewest slots", func(c *Config) { c.Slots = MinSlots }},
			setting{"most slots", func(c *Config) { c.Slots, c.MemoryCeiling = MaxSlots, 1<<30 }}),
		turn(setting{"snap 1", func(c *Config) { c.SnapLength = 1 }},
			setting{"longest snap", func(c *Config) { c.SnapLength = MaxSnapLength }}),
		turn(setting{"no DNS", func(c *Config) { c.Protocols &^= ProtocolDNS }},
			setting{"no TLS", func(c *Config) { c.Protocols &^= ProtocolTLS }},
			setting{"no HTTP", func(c *Config) { c.Protocols &^= ProtocolHTTP }},
			setting{"DNS only", func(c *Config) { c.Protocols &= ProtocolDNS }}),
	}
)

// mostFilters are as many as there may be, of every form.
func mostFilters() []Filter {
	port, tcp := uint16(4317), uint8(unix.IPPROTO_TCP)
	prefixes := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32"), {}}
	all := make([]Filter, MaxFilters)
	for i := range all {
		all[i] = Filter{Skip: i%5 != 0, Prefix: prefixes[i%len(prefixes)], Port: &port}
		if i%2 == 0 {
			all[i].Protocol = &tcp
		}
	}
	return all
}

// The verifier accepts whatever is switched on together, and is far from where it gives up. Any two settings of two knobs meet in a
// configuration; with EBPFPACKETS_COMBINATIONS=all every combination of the switches is one (docs/performance.md).
func TestEveryCombinationOfKnobsLoads(t *testing.T) {
	testenv.Privileged(t)
	for _, form := range []struct {
		name  string
		which object
		knobs [][]setting
	}{{"plain", objectPlain, plainSwitches}, {"full", objectFull, switches}, {"old", objectOld, switches}} {
		t.Run(form.name, func(t *testing.T) {
			t.Parallel() // the verifier keeps one CPU busy
			if form.which == objectFull && (&Config{Tunnels: true}).choose(versionHere(t)) == objectOld {
				t.Log("not for this kernel")
				return
			}
			rows := pairs(slices.Concat(form.knobs, details))
			if os.Getenv("EBPFPACKETS_COMBINATIONS") == "all" {
				rows = product(form.knobs)
			}
			walked := uint32(0)
			for _, row := range rows {
				walked = max(walked, walkedOf(t, form.which, row))
			}
			t.Logf("%d configurations, at most %d instructions of a program walked", len(rows), walked)
		})
	}
}

func versionHere(t *testing.T) uint32 {
	t.Helper()
	version, err := features.LinuxVersionCode()
	require.NoError(t, err)
	return version
}

// walkedOf loads one configuration, and returns how many instructions the verifier walked at most, 0 if the kernel does not say.
func walkedOf(t *testing.T, form object, row []setting) (most uint32) {
	t.Helper()
	cfg, names := Config{object: form, Samples: true, SnapLength: 256, MaxPerSecond: 100}, []string{}
	for _, s := range row {
		s.set(&cfg)
		names = append(names, s.name)
	}
	k, err := Load(cfg)
	if verifier := (*ebpf.VerifierError)(nil); errors.As(err, &verifier) {
		t.Logf("%+v", verifier)
	}
	require.NoError(t, err, "%q", names)
	for _, p := range []*ebpf.Program{k.objects.IngressL2, k.objects.IngressL3, k.objects.EgressL2, k.objects.EgressL3} {
		info, err := p.Info()
		require.NoError(t, err)
		walked, _ := info.VerifiedInstructions() // from 5.16 on
		require.LessOrEqual(t, walked, uint32(testenv.MostVerified), "%s of %q", info.Name, names)
		most = max(most, walked)
	}
	require.NoError(t, k.Close())
	return most
}

// product returns every row that has one setting of each knob.
func product(knobs [][]setting) (rows [][]setting) {
	rows = [][]setting{nil}
	for _, settings := range knobs {
		var longer [][]setting
		for _, row := range rows {
			for _, s := range settings {
				longer = append(longer, append(slices.Clone(row), s))
			}
		}
		rows = longer
	}
	return rows
}

// two are settings of two knobs, by number, the knob with the smaller number first.
type two struct{ knob, setting, otherKnob, otherSetting int }

// pairs returns few rows in which any two settings of two knobs meet: for each two that have not met a row, whose other settings
// are those that meet the most others for the first time.
func pairs(knobs [][]setting) (rows [][]setting) {
	met := map[two]bool{}
	for _, p := range twos(knobs) {
		if met[p] {
			continue
		}
		row := slices.Repeat([]int{-1}, len(knobs))
		row[p.knob], row[p.otherKnob] = p.setting, p.otherSetting
		for knob := range row {
			if row[knob] < 0 {
				row[knob] = newest(met, row, knob, len(knobs[knob]))
			}
		}
		for _, p := range meetings(row) {
			met[p] = true
		}
		settings := make([]setting, len(row))
		for knob, s := range row {
			settings[knob] = knobs[knob][s]
		}
		rows = append(rows, settings)
	}
	return rows
}

// newest returns the setting of a knob that meets the most of row's for the first time.
func newest(met map[two]bool, row []int, knob, settings int) (best int) {
	most, row := -1, slices.Clone(row)
	for row[knob] = range settings {
		fresh := 0
		for _, p := range meetings(row) {
			if !met[p] {
				fresh++
			}
		}
		if fresh > most {
			most, best = fresh, row[knob]
		}
	}
	return best
}

// meetings are the settings that meet in a row; -1 is none yet.
func meetings(row []int) (all []two) {
	for knob, s := range row {
		for i, other := range row[knob+1:] {
			if s >= 0 && other >= 0 {
				all = append(all, two{knob, s, knob + 1 + i, other})
			}
		}
	}
	return all
}

// twos are all that have to meet.
func twos(knobs [][]setting) (all []two) {
	for knob, settings := range knobs {
		for i, others := range knobs[knob+1:] {
			for s := range settings {
				for other := range others {
					all = append(all, two{knob, s, knob + 1 + i, other})
				}
			}
		}
	}
	return all
}

// Any two settings meet, in few rows; the product has all.
func TestPairsMeet(t *testing.T) {
	knobs := slices.Concat(switches, details)
	rows := pairs(knobs)
	for _, p := range twos(knobs) {
		one, other := knobs[p.knob][p.setting].name, knobs[p.otherKnob][p.otherSetting].name
		require.True(t, slices.ContainsFunc(rows, func(row []setting) bool {
			return row[p.knob].name == one && row[p.otherKnob].name == other
		}), "%q with %q", one, other)
	}
	require.Less(t, len(rows), 40)
	require.Len(t, product(switches), 2*2*3*5*2*2*2*2)
}
