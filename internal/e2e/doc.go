// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

// Package e2e runs the collector that `make collector` built, with a configuration file, in a network namespace with real
// traffic, and reads back what it wrote. It is a module of its own, so that what it needs is nobody else's requirement.
package e2e
