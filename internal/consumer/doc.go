// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

// Package consumer proves that others can build this module into their Collector: outside of this tree, with one gomod
// line of ocb, without clang and cgo. It has a go.mod of its own so that its needs are no needs of the module's.
package consumer
