// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package testenv

import "runtime"

func missingCapabilities() []string { return []string{"Linux (this is " + runtime.GOOS + ")"} }
