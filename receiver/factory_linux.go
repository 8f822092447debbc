// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package receiver

import otelreceiver "go.opentelemetry.io/collector/receiver"

// NewFactory returns the factory of the receiver.
func NewFactory() otelreceiver.Factory { return newFactory(linux{}) }
