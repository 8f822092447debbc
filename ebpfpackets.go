// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

// Package ebpfpackets is what a collector is built with: one gomod line of a builder configuration names this module.
package ebpfpackets

import (
	otelreceiver "go.opentelemetry.io/collector/receiver"

	"github.com/ebpfpackets/ebpfpackets/receiver"
)

// NewFactory returns the factory of the receiver of type ebpfpackets.
func NewFactory() otelreceiver.Factory { return receiver.NewFactory() }
