// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import "errors"

// What a reader of a message says instead of a message; either may be wrapped with its cause.
var (
	errMore      = errors.New("the message goes on behind what is there")
	errMalformed = errors.New("not a message of this protocol")
)
