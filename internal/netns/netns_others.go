// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package netns

import (
	"errors"
	"runtime"
)

var errNotLinux = errors.New("network namespaces need Linux, this is " + runtime.GOOS)

// Namespace needs Linux.
type Namespace struct{}

// Open needs Linux.
func Open(Found) (*Namespace, error) { return nil, errNotLinux }

// Close needs Linux.
func (n *Namespace) Close() error { return errNotLinux }

// Do needs Linux.
func (n *Namespace) Do(func() error) error { return errNotLinux }

// Own needs Linux.
func Own() (ID, error) { return ID{}, errNotLinux }

// Gone needs Linux.
func Gone(Found) bool { return false }

// Find needs Linux.
func Find([]string) ([]Found, error) { return nil, errNotLinux }
