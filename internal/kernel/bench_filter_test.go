// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// BenchmarkFilters measures what filters cost a packet, beside the same program without any, in one run. None of the rules
// matches but where the name says so: a packet then pays for all of them. An object named in EBPFPACKETS_BENCH_OBJECTS is
// measured in the same rounds: made from sources without filter.h, it shows what an empty list costs.
func BenchmarkFilters(b *testing.B) {
	testenv.Privileged(b)
	w := &workload{flows: 10_000}
	address := skip("203.0.113.7/32", nil, nil)
	endpoint := skip("203.0.113.7/32", new(uint16(4317)), new(uint8(6)))
	lists := []struct {
		name    string
		filters []Filter
	}{
		{"1 endpoint", slicesOf(1, endpoint)},
		{"16 endpoints", slicesOf(16, endpoint)},
		{"1 address", slicesOf(1, address)},
		{"16 addresses", slicesOf(16, address)},
		{"all skipped", slicesOf(1, skip("", nil, nil))},
	}
	c := &comparison{raw: map[string][]float64{}}
	var measured []string
	for range loads {
		r := newRig(b, w)
		plain := Config{Slots: w.slots(), cpus: []int{0}}
		subjects := []*subject{{name: "noop", program: r.objects.Noop}, r.ours(load(b, plain), "none"), {name: "noop again", program: r.objects.Noop}}
		for _, l := range lists {
			cfg := plain
			cfg.Filters = l.filters
			subjects = append(subjects, r.ours(load(b, cfg), l.name))
		}
		committed := _PlainBytes
		for _, path := range candidates() {
			var err error
			_PlainBytes, err = os.ReadFile(path)
			require.NoError(b, err)
			subjects = append(subjects, r.ours(load(b, plain), path))
		}
		_PlainBytes = committed
		measured = nil
		for _, s := range subjects {
			measured = append(measured, s.name)
		}
		for round := range rounds / loads {
			for i := range subjects {
				c.measure(b, r, w, subjects[(i+round)%len(subjects)])
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	fmt.Printf("\nfilters: ns/packet net of noop, medians of %d rounds, and ratio to none; noop/noop %.2f; load average %s\n", rounds, c.selfCheck(), loadAverage(b))
	for _, name := range measured {
		if name != "noop" && name != "noop again" {
			ratio := c.ratios(name, "none")
			fmt.Printf("%-60s %6.1f  %.2f (%.2f-%.2f)\n", name, c.net(name), median(ratio), quantile(ratio, 0.25), quantile(ratio, 0.75))
		}
	}
}
