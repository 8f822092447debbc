// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package ebpfpackets

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/ebpfpackets/ebpfpackets"

// forbidden are the arrows that must not be: bpf sees packets, internal turns them into plain Go values, receiver says
// them in OpenTelemetry.
var forbidden = []struct {
	from, to string // prefixes of import paths
	except   []string
	why      string
}{
	{module + "/internal", "go.opentelemetry.io", []string{module + "/internal/testenv"}, "only receiver speaks OpenTelemetry"},
	{module, "github.com/cilium/ebpf", []string{module + "/internal/kernel"}, "only internal/kernel loads programs"},
	{module + "/internal", module + "/receiver", nil, "internal knows nothing of what is made of its values"},
	{module + "/internal/flow", module, nil, "flow is at the end of every arrow: plain values"},
	{module + "/internal/iface", module, nil, "iface attaches nothing"},
	{module + "/internal/packet", module + "/internal/kernel", nil, "frames are decoded on every system, wherever they come from"},
	{module + "/internal/app", module + "/internal/kernel", nil, "app reads bytes, wherever they come from"},
	{module + "/internal/app", module + "/internal/packet", nil, "app begins behind the headers"},
	{module + "/internal/app", module + "/internal/iface", nil, "app knows no interfaces"},
	{module, module + "/internal/testenv", []string{module + "/internal/testenv"}, "what tests need does not ship"},
	{module, "testing", []string{module + "/internal/testenv", module + "/receiver/internal/metadatatest"}, "what tests need does not ship"},
}

func TestImportsPointOneWay(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "./...").Output()
	require.NoError(t, err)
	packages := 0
	for decoder := json.NewDecoder(strings.NewReader(string(out))); decoder.More(); packages++ {
		var p struct {
			ImportPath string
			Imports    []string // of files that are not tests
		}
		require.NoError(t, decoder.Decode(&p))
		for _, rule := range forbidden {
			under := func(prefix string) bool { return within(p.ImportPath, prefix) }
			if !under(rule.from) || slices.ContainsFunc(rule.except, under) {
				continue
			}
			for _, imported := range p.Imports {
				if within(imported, rule.to) {
					t.Errorf("%s imports %s: %s", p.ImportPath, imported, rule.why)
				}
			}
		}
	}
	require.Greater(t, packages, 5)
}

func within(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}
