// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

const examples = "../../examples"

// TestEveryExampleIsValid has the collector for fleets check each configuration in examples/, as it is.
func TestEveryExampleIsValid(t *testing.T) {
	isCollector := regexp.MustCompile(`(?m)^service:$`) // not a manifest of ocb, not rules of Prometheus
	checked := 0
	require.NoError(t, filepath.WalkDir(examples, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".yaml" {
			return err
		}
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		if isCollector.Match(text) {
			validate(t, path)
			checked++
		}
		return nil
	}))
	require.GreaterOrEqual(t, checked, 2)
}
