// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"runtime/debug"
	"strings"
)

// modulePath is that of the module that a collector is built with.
const modulePath = "github.com/ebpfpackets/ebpfpackets"

// develVersion is the version of a build that no tag or commit names: from a folder, as builder-config.yaml does, or of a test.
const develVersion = "devel"

// moduleVersion is the version of this module in the running binary, without its "v": the scope version of what is emitted.
// The collector's own version, which its distribution chooses, says nothing about it.
func moduleVersion() string {
	info, _ := debug.ReadBuildInfo()
	return versionOf(info)
}

// versionOf reads what the go command wrote into the binary; nil: it wrote nothing.
func versionOf(info *debug.BuildInfo) string {
	if info == nil {
		return develVersion
	}
	for _, m := range append([]*debug.Module{&info.Main}, info.Deps...) {
		if m.Path != modulePath {
			continue
		}
		if m.Replace != nil {
			m = m.Replace // a fork has versions, too; a folder has none
		}
		if version, ok := strings.CutPrefix(m.Version, "v"); ok {
			return version
		}
	}
	return develVersion
}
