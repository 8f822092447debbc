// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package iface

import (
	"context"
	"errors"
	"runtime"
)

var errNotLinux = errors.New("listing interfaces needs Linux, this is " + runtime.GOOS)

// List needs Linux.
func List() ([]Interface, error) { return nil, errNotLinux }

// Count needs Linux.
func Count() (map[uint32]Counters, error) { return nil, errNotLinux }

// Watch needs Linux.
func Watch(context.Context, func()) error { return errNotLinux }
