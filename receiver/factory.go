// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	otelreceiver "go.opentelemetry.io/collector/receiver"

	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

// newFactory returns a factory whose receivers count on p. The pipelines of one configuration share one engine.
func newFactory(p platform) otelreceiver.Factory {
	engines, observers := &engines{}, &observers{}
	get := func(set otelreceiver.Settings, cfg component.Config) *shared {
		c := cfg.(*Config)
		return engines.get(c, func() *engine {
			e := newEngine(c, set, p)
			e.observers = observers
			return e
		})
	}
	return otelreceiver.NewFactory(metadata.Type, createDefaultConfig,
		otelreceiver.WithMetrics(func(_ context.Context, set otelreceiver.Settings, cfg component.Config, next consumer.Metrics) (otelreceiver.Metrics, error) {
			s := get(set, cfg)
			s.engine.nextMetrics = next
			return s, nil
		}, metadata.MetricsStability),
		otelreceiver.WithLogs(func(_ context.Context, set otelreceiver.Settings, cfg component.Config, next consumer.Logs) (otelreceiver.Logs, error) {
			s := get(set, cfg)
			s.engine.nextLogs = next
			return s, nil
		}, metadata.LogsStability))
}
