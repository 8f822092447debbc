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

	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

// startNamed starts a receiver of f for one pipeline.
func startNamed(t *testing.T, f otelreceiver.Factory, name, include string) (component.Component, *observer.ObservedLogs) {
	t.Helper()
	core, logged := observer.New(zap.WarnLevel)
	set := nopSettings()
	set.ID = component.NewIDWithName(metadata.Type, name)
	set.Logger = zap.New(core)
	cfg := testConfig()
	cfg.Interfaces.Include = []string{include}
	r, err := f.CreateMetrics(t.Context(), set, cfg, consumertest.NewNop())
	require.NoError(t, err)
	require.NoError(t, r.Start(t.Context(), componenttest.NewNopHost()))
	return r, logged
}

func TestTwoReceiversAtOneInterfaceAreToldOnce(t *testing.T) {
	f := newFactory(newFakeHost("eth0", "eth1"))
	one, quiet := startNamed(t, f, "one", "eth*")
	two, logged := startNamed(t, f, "two", "eth*")
	assert.Zero(t, quiet.Len(), "the first could not know")
	require.Equal(t, 1, logged.Len(), "once, not for each interface")
	entry := logged.All()[0]
	assert.Contains(t, entry.Message, "give them different interfaces, or use one of them in all pipelines")
	assert.Equal(t, map[string]any{"interface": "eth0", "receiver": "ebpfpackets/two", "other": "ebpfpackets/one"}, entry.ContextMap())

	require.NoError(t, one.Shutdown(t.Context()))
	require.NoError(t, two.Shutdown(t.Context()))
	three, logged := startNamed(t, f, "three", "eth*")
	assert.Zero(t, logged.Len(), "the others have ended")
	require.NoError(t, three.Shutdown(t.Context()))
}

func TestTwoReceiversAtDifferentInterfacesAreQuiet(t *testing.T) {
	f := newFactory(newFakeHost("eth0", "eth1"))
	one, _ := startNamed(t, f, "one", "eth0")
	two, logged := startNamed(t, f, "two", "eth1")
	assert.Zero(t, logged.Len())
	require.NoError(t, one.Shutdown(t.Context()))
	require.NoError(t, two.Shutdown(t.Context()))
}
