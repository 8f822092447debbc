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
	observers := &observers{}
	engines := &engines{create: func(c *Config, set otelreceiver.Settings) *engine {
		e := newEngine(c, set, p)
		e.observers = observers
		return e
	}}
	return otelreceiver.NewFactory(metadata.Type, createDefaultConfig,
		otelreceiver.WithMetrics(func(_ context.Context, set otelreceiver.Settings, cfg component.Config, next consumer.Metrics) (otelreceiver.Metrics, error) {
			return engines.sharer(cfg.(*Config), "metrics", set, func(e *engine) { e.nextMetrics = next }), nil
		}, metadata.MetricsStability),
		otelreceiver.WithLogs(func(_ context.Context, set otelreceiver.Settings, cfg component.Config, next consumer.Logs) (otelreceiver.Logs, error) {
			return engines.sharer(cfg.(*Config), "logs", set, func(e *engine) { e.nextLogs = next }), nil
		}, metadata.LogsStability))
}
