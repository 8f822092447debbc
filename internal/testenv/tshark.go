// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Tshark returns what tshark says of each frame of a capture file: all values of each field that has any, in the order of the
// frame. A preference is "name:value".
func Tshark(tb testing.TB, path string, fields []string, preferences ...string) []map[string][]string {
	tb.Helper()
	args := []string{"-n", "-r", path, "-T", "fields", "-E", "separator=|", "-E", "occurrence=a", "-E", "aggregator=;",
		"-d", "udp.port==8472,vxlan"}
	for _, preference := range preferences {
		args = append(args, "-o", preference)
	}
	for _, field := range fields {
		args = append(args, "-e", field)
	}
	var complaint strings.Builder
	cmd := exec.CommandContext(tb.Context(), Tool(tb, "tshark"), args...)
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	require.NoError(tb, err, complaint.String())
	var rows []map[string][]string
	for line := range strings.Lines(string(out)) {
		row := map[string][]string{}
		for i, list := range strings.Split(strings.TrimSuffix(line, "\n"), "|") {
			if list != "" {
				row[fields[i]] = strings.Split(list, ";")
			}
		}
		rows = append(rows, row)
	}
	return rows
}
