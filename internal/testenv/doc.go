// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

// Package testenv makes the world that tests measure against: network namespaces in which nothing moves but the test's own
// packets, senders that count exactly what they send, and the counters of the interfaces. It knows nothing of BPF.
package testenv
