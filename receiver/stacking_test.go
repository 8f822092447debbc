// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ebpfpackets/ebpfpackets/internal/iface"
)

// The programs hear of interfaces that come, go, and join others; of one that is not attached nothing is known.
func TestTheProgramsKnowHowInterfacesAreJoined(t *testing.T) {
	c := testConfig()
	c.Interfaces.Deduplicate = true
	h := newFakeHost("eth0", "eth1")
	b := newBench(t, c, h, consumertest.NewNop(), nil)
	assert.True(t, h.loaded[0].once)
	known := iface.Stacking{Known: true}
	assert.Equal(t, map[uint32]iface.Stacking{1: known, 2: known}, h.stacks)

	port := ethernet(2, "eth1")
	port.Master = 3
	h.do(func() {
		h.ifaces = []iface.Interface{ethernet(1, "eth0"), port, {Index: 3, Name: "eth3", Kind: "bridge", HWType: 1}}
	})
	b.step(time.Second)
	assert.Equal(t, map[uint32]iface.Stacking{1: known, 2: {Known: true, Through: 3}, 3: {Known: true, Ingress: true}}, h.stacks)

	h.do(func() { h.ifaces = h.ifaces[1:2] })
	b.step(time.Second)
	assert.Equal(t, map[uint32]iface.Stacking{2: known}, h.stacks)

	h.do(func() {
		h.attachErr["eth0"], h.ifaces = errTest, []iface.Interface{ethernet(1, "eth0"), port}
	})
	b.step(time.Second)
	assert.Equal(t, map[uint32]iface.Stacking{2: known}, h.stacks)
}

// What the programs could not be told is a warning, once for each cause.
func TestAMapThatIsFullIsAWarning(t *testing.T) {
	c := testConfig()
	c.Interfaces.Deduplicate = true
	h := newFakeHost("eth0")
	b := newBench(t, c, h, consumertest.NewNop(), nil)
	core, logs := observer.New(zap.WarnLevel)
	b.interfaces.log = zap.New(core)
	for _, err := range []error{errTest, errTest, nil, errTest} {
		h.do(func() { h.stackErr = err })
		b.step(time.Second)
	}
	assert.Equal(t, 2, logs.FilterMessage("Some packets may count more than once, or not at all").Len())
}

func TestWhoCountsEverywhereTellsTheProgramsNothing(t *testing.T) {
	h := newFakeHost("eth0")
	newBench(t, testConfig(), h, consumertest.NewNop(), nil)
	assert.Nil(t, h.stacks)
}
