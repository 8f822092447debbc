// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	otelreceiver "go.opentelemetry.io/collector/receiver"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/ebpfpackets/ebpfpackets/internal/netns"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

// startNamed starts a receiver of f for one pipeline.
func startNamed(t *testing.T, f otelreceiver.Factory, name string, cfg *Config) (component.Component, *observer.ObservedLogs) {
	t.Helper()
	core, logged := observer.New(zap.WarnLevel)
	set := nopSettings()
	set.ID = component.NewIDWithName(metadata.Type, name)
	set.Logger = zap.New(core)
	r, err := f.CreateMetrics(t.Context(), set, cfg, consumertest.NewNop())
	require.NoError(t, err)
	require.NoError(t, r.Start(t.Context(), componenttest.NewNopHost()))
	return r, logged
}

func includeConfig(include string) *Config {
	c := testConfig()
	c.Interfaces.Include = []string{include}
	return c
}

func TestTwoReceiversAtOneInterfaceAreToldOnce(t *testing.T) {
	f := newFactory(newFakeHost("eth0", "eth1"))
	one, quiet := startNamed(t, f, "one", includeConfig("eth*"))
	two, logged := startNamed(t, f, "two", includeConfig("eth*"))
	assert.Zero(t, quiet.Len(), "the first could not know")
	require.Equal(t, 1, logged.Len(), "once, not for each interface")
	entry := logged.All()[0]
	assert.Contains(t, entry.Message, "give them different interfaces, or use one of them in all pipelines")
	assert.Equal(t, map[string]any{"interface": "eth0", "receiver": "ebpfpackets/two", "other": "ebpfpackets/one"}, entry.ContextMap())

	require.NoError(t, one.Shutdown(t.Context()))
	require.NoError(t, two.Shutdown(t.Context()))
	three, logged := startNamed(t, f, "three", includeConfig("eth*"))
	assert.Zero(t, logged.Len(), "the others have ended")
	require.NoError(t, three.Shutdown(t.Context()))
}

// Of a receiver that the Collector rebuilt for one signal only there are two, one for each.
func TestTwoSignalsOfOneReceiverAreQuiet(t *testing.T) {
	f := newFactory(newFakeHost("eth0"))
	metrics, _ := startNamed(t, f, "one", includeConfig("eth0"))
	rebuilt, logged := startNamed(t, f, "one", includeConfig("eth0"))
	assert.Zero(t, logged.Len())
	require.NoError(t, metrics.Shutdown(t.Context()))
	other, logged := startNamed(t, f, "other", includeConfig("eth0"))
	assert.Equal(t, 1, logged.Len(), "the second still counts there")
	require.NoError(t, other.Shutdown(t.Context()))
	require.NoError(t, rebuilt.Shutdown(t.Context()))
}

func TestTwoReceiversAtDifferentInterfacesAreQuiet(t *testing.T) {
	f := newFactory(newFakeHost("eth0", "eth1"))
	one, _ := startNamed(t, f, "one", includeConfig("eth0"))
	two, logged := startNamed(t, f, "two", includeConfig("eth1"))
	assert.Zero(t, logged.Len())
	require.NoError(t, one.Shutdown(t.Context()))
	require.NoError(t, two.Shutdown(t.Context()))
}

func TestTwoReceiversInTwoNamespacesAreQuiet(t *testing.T) {
	o := &observers{}
	red, id := netns.ID{Device: 4, Inode: 10}, component.MustNewID("ebpfpackets")
	assert.Empty(t, o.add(observed{index: 2}, id))
	assert.Empty(t, o.add(observed{red, 2}, id), "another namespace's")
	assert.NotEmpty(t, o.add(observed{red, 2}, id))
	o.remove(observed{red, 2}, id)
	o.remove(observed{red, 2}, id)
	assert.Len(t, o.at, 1)
}

// Two receivers of one process that observe one namespace tell its packets twice, and say so; of two namespaces they do not.
func TestReceiversWarnOfEachOtherInOneNamespace(t *testing.T) {
	h := newFakeHost()
	h.newSpace(10, "/run/netns/red")
	h.newSpace(11, "/run/netns/blue")
	f := newFactory(h)
	for _, c := range []struct {
		name, namespaces string
		warnings         int
	}{{"one", "/run/netns/red", 0}, {"two", "/run/netns/blue", 0}, {"three", "/run/netns/r*", 1}} {
		h.do(func() { // fakes know one observer
			for _, s := range h.spaces {
				s.number = 0
			}
		})
		r, logged := startNamed(t, f, c.name, spacesConfig(c.namespaces))
		defer func() { require.NoError(t, r.Shutdown(t.Context())) }()
		assert.Equal(t, c.warnings, logged.Len(), c.name)
	}
}
