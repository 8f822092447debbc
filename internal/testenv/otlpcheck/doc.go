// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

// Package otlpcheck judges OTLP as the next consumer would have to: it rejects what a backend cannot store or add up, and
// what the receiver's metadata.yaml does not announce. It also reads the file exporter's lines, adds up and lists.
package otlpcheck
