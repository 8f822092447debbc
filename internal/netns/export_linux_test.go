// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package netns

// BlockWayHome lets threads fail to leave a namespace until restore is called.
func BlockWayHome(err error) (restore func()) {
	was := setns
	setns = func(int, int) error { return err }
	return func() { setns = was }
}
