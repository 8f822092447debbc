// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
)

// gapsOf runs buffers through the program and returns how many were passed over before each sample. prepare comes before every
// burst; each is short enough for the ring, and for the skips at hand.
func gapsOf(t *testing.T, k *Kernel, samples, burst int, prepare func()) (gaps []int) {
	t.Helper()
	d := newDriver(t, k, func(uint64) benchStep { return benchStep{} })
	pin(t, 0)
	undisturbed(t)
	for len(gaps) < samples {
		prepare()
		_, err := d.run(flow.DirectionEgress, &ebpf.RunOptions{Data: udpFrame(1, 2, 3, 4, 60), Repeat: uint32(burst)})
		require.NoError(t, err)
		_, err = k.sampling.poll(time.Now(), func(s *packet.Sample) { gaps = append(gaps, int(s.Pool)-1) })
		require.NoError(t, err)
	}
	return gaps
}

// requireGeometric is a chi-square test, at 0.001, against the law of the gaps between buffers that are chosen with probability
// p each. The cells are as equally likely as whole numbers allow; pairs of gaps that follow each other are tested, too, by
// quarters: gaps must not know of each other.
func requireGeometric(t *testing.T, p float64, gaps []int) {
	t.Helper()
	edges := quantiles(p, 20)
	counts := make([]float64, len(edges)+1)
	for _, gap := range gaps {
		counts[cell(edges, gap)]++
	}
	expected := make([]float64, len(counts))
	for i, share := range shares(p, edges) {
		expected[i] = share * float64(len(gaps))
	}
	requireFit(t, "gaps", expected, counts)

	edges = quantiles(p, 4)
	n := len(edges) + 1
	pairs, both := make([]float64, n*n), make([]float64, n*n)
	for i := 0; i+1 < len(gaps); i += 2 {
		pairs[cell(edges, gaps[i])*n+cell(edges, gaps[i+1])]++
	}
	for i, one := range shares(p, edges) {
		for j, other := range shares(p, edges) {
			both[i*n+j] = one * other * float64(len(gaps)/2)
		}
	}
	requireFit(t, "pairs of gaps", both, pairs)
}

// quantiles are the first gaps of all cells but the first.
func quantiles(p float64, cells int) (edges []int) {
	for i := 1; i < cells; i++ {
		edge := int(math.Ceil(math.Log(1-float64(i)/float64(cells)) / math.Log1p(-p)))
		if edge > 0 && (len(edges) == 0 || edge > edges[len(edges)-1]) {
			edges = append(edges, edge)
		}
	}
	return edges
}

func cell(edges []int, gap int) (i int) {
	for i < len(edges) && gap >= edges[i] {
		i++
	}
	return i
}

// shares are the probabilities of the cells: P(gap >= n) = (1-p)^n.
func shares(p float64, edges []int) (all []float64) {
	above := 1.0
	for _, edge := range edges {
		next := math.Pow(1-p, float64(edge))
		all = append(all, above-next)
		above = next
	}
	return append(all, above)
}

func requireFit(t *testing.T, what string, expected, counts []float64) {
	t.Helper()
	chi := 0.0
	for i := range counts {
		require.Greater(t, expected[i], 5.0, "cells are large enough for the test")
		chi += (counts[i] - expected[i]) * (counts[i] - expected[i]) / expected[i]
	}
	freedom := float64(len(counts) - 1)
	z := (math.Cbrt(chi/freedom) - (1 - 2/(9*freedom))) / math.Sqrt(2/(9*freedom)) // Wilson-Hilferty: standard normal
	p := math.Erfc(z/math.Sqrt2) / 2
	t.Logf("%s: chi-square %.1f with %.0f degrees of freedom, p = %.3f", what, chi, freedom, p)
	require.Greater(t, p, 0.001, "%s: %v, expected %.0f", what, counts, expected)
}

// The real program chooses buffers independently of each other, each with probability 1/N.
func TestGapsAreGeometric(t *testing.T) {
	for _, n := range []int{1, 10, 1000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			k := load(t, Config{Samples: true, RandomOneIn: n, SnapLength: 64, MaxPerSecond: unlimited, Seed: [32]byte{3}, cpus: []int{0}})
			gaps := gapsOf(t, k, 5000, 500*n, func() {})
			if n > 1 {
				requireGeometric(t, 1/float64(n), gaps)
				return
			}
			for _, gap := range gaps {
				require.Zero(t, gap, "every buffer is a sample")
			}
		})
	}
}

// Where credit is spread, buffers that are left out for it are, too: gaps are those of a larger N.
func TestGapsAreGeometricWhereCreditIsSpread(t *testing.T) {
	for _, n := range []int{1, 10} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			const one, admitted, plenty = 1 << 31, 50, 100 // one in so many
			k := load(t, Config{Samples: true, RandomOneIn: n, SnapLength: 64, MaxPerSecond: unlimited, Seed: [32]byte{3}, cpus: []int{0}})
			s := &k.sampling.samplers[0]
			gaps := gapsOf(t, k, 3000, 1000*n, func() { s.Chance, s.Plenty = one/admitted/plenty, plenty })
			requireGeometric(t, 1/float64(admitted*n), gaps)
		})
	}
}
