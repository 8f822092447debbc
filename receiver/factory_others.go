// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux || !(amd64 || arm64)

package receiver

import (
	"context"
	"errors"
	"runtime"

	otelreceiver "go.opentelemetry.io/collector/receiver"

	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/netns"
)

// NewFactory returns the factory of the receiver. Here it can be configured but not started.
func NewFactory() otelreceiver.Factory { return newFactory(elsewhere{}) }

var errNeedsLinux = errors.New("ebpfpackets needs Linux on amd64 or arm64, this is " + runtime.GOOS + " on " + runtime.GOARCH)

// elsewhere is a host without eBPF.
type elsewhere struct{}

func (elsewhere) load(sourceConfig, func(string)) (source, error) { return nil, errNeedsLinux }
func (elsewhere) interfaces() ([]iface.Interface, error)          { return nil, errNeedsLinux }
func (elsewhere) counters() (map[uint32]iface.Counters, error)    { return nil, errNeedsLinux }
func (elsewhere) watch(context.Context, func()) error             { return errNeedsLinux }
func (elsewhere) ephemeralLow() uint16                            { return defaultEphemeralLow }
func (elsewhere) ownSpace() (netns.ID, error)                     { return netns.ID{}, errNeedsLinux }
func (elsewhere) findSpaces([]string) ([]netns.Found, error)      { return nil, errNeedsLinux }
func (elsewhere) spaceGone(netns.Found) bool                      { return false }
func (elsewhere) holdSpace(netns.Found) (heldSpace, error)        { return nil, errNeedsLinux }
