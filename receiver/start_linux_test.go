// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package receiver

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// slowHost is a host on which attaching takes long, whatever its kernel's grace periods take.
type slowHost struct{ elsewhere }

func (h slowHost) load(c sourceConfig, notice func(string)) (source, error) {
	s, err := h.elsewhere.load(c, notice)
	return slowSource{s}, err
}

const slowAttach = 50 * time.Millisecond

type slowSource struct{ source }

func (s slowSource) Attach(i iface.Interface, d flow.Direction) error {
	time.Sleep(slowAttach)
	return s.source.Attach(i, d)
}

// Start attaches for two seconds, and what is not done by then comes behind.
func TestStartReturnsWithInterfacesPending(t *testing.T) {
	testenv.Privileged(t)
	const count = 26 // take longer than Start waits
	require.Greater(t, 2*count*slowAttach, attachTimeout+500*time.Millisecond)
	ns := testenv.NewNetNS(t)
	for n := 0; n < count; n += 2 {
		ns.AddVeth(fmt.Sprint("v", n), fmt.Sprint("v", n+1))
	}
	cfg := testConfig()
	cfg.Interfaces.Include = []string{"v*"}
	e := newEngine(cfg, nopSettings(), slowHost{elsewhere{ns: ns}})
	e.nextMetrics = consumertest.NewNop()
	require.NoError(t, e.load())
	began := time.Now()
	require.NoError(t, e.attach())
	e.run()
	took, attached, pending := time.Since(began), e.places.counts[stateAttached].Load(), e.places.counts[statePending].Load()
	t.Logf("attaching took %v: %d attached, %d pending", took.Round(time.Millisecond), attached, pending)
	require.GreaterOrEqual(t, took, attachTimeout)
	require.Less(t, took, attachTimeout+1500*time.Millisecond, "the last interface comes whole")
	require.NotZero(t, attached)
	require.NotZero(t, pending)
	soon(t, func() bool { return len(e.places.now().attached) == count })
	require.NoError(t, e.shutdown(t.Context()))
}
