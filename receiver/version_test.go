// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestVersionIsTheModulesInTheBinary(t *testing.T) {
	for _, c := range []struct {
		name string
		info *debug.BuildInfo
		want string
	}{
		{"a tag", linked(debug.Module{Path: modulePath, Version: "v0.3.1"}), "0.3.1"},
		{"a commit", linked(debug.Module{Path: modulePath, Version: "v0.3.2-0.20261121223708-35fc331abcde"}), "0.3.2-0.20261121223708-35fc331abcde"},
		{"a fork", linked(debug.Module{Path: modulePath, Version: "v0.3.1", Replace: &debug.Module{Path: "example.com/fork", Version: "v0.3.2"}}), "0.3.2"},
		{"a folder", linked(debug.Module{Path: modulePath, Version: "v0.0.0", Replace: &debug.Module{Path: "../ebpfpackets"}}), "devel"},
		{"the main module", &debug.BuildInfo{Main: debug.Module{Path: modulePath, Version: "v0.3.1+dirty"}}, "0.3.1+dirty"},
		{"the main module without a version", &debug.BuildInfo{Main: debug.Module{Path: modulePath, Version: "(devel)"}}, "devel"},
		{"another module", linked(debug.Module{Path: modulePath + "/internal/e2e", Version: "v1.0.0"}), "devel"},
		{"no build information", nil, "devel"},
	} {
		assert.Equal(t, c.want, versionOf(c.info), c.name)
	}
	assert.Equal(t, develVersion, moduleVersion(), "of a test")
}

// linked is what a collector knows of a module that it was built with.
func linked(m debug.Module) *debug.BuildInfo {
	return &debug.BuildInfo{
		Main: debug.Module{Path: "example.com/otelcol", Version: "v9.9.9"},
		Deps: []*debug.Module{{Path: "example.com/another", Version: "v8.8.8"}, &m},
	}
}
