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

// Listener needs Linux.
type Listener struct{}

// Listen needs Linux.
func Listen() (*Listener, error) { return nil, errNotLinux }

// Watch needs Linux.
func (l *Listener) Watch(context.Context, func()) error { return errNotLinux }
