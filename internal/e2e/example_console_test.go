// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// TestExampleConsole looks for a line of each kind.
func TestExampleConsole(t *testing.T) {
	testenv.Privileged(t)
	left, right := testenv.Pair(t, testenv.PairConfig{})
	c := example{
		files: []string{"console/config.yaml"},
		settings: `
receivers:
  ebpfpackets: {interfaces: {include: [left0]}, collection_interval: 500ms, flows: {idle_timeout: 1s}, packets: {random_one_in: 1}}
`,
	}.start(t, left.NetNS)
	testenv.Echo(left, right, false, 3, 100)
	c.awaitLog("network.flow.packets{")
	c.awaitLog("icmp client 10.77.0.1 > server 10.77.0.2 type 8 code 0 left0: 3 packets 426 bytes, back 3 packets 426 bytes")
	sampled := func() bool {
		return strings.Contains(c.log.String(), "left0 Out IP 10.77.0.1 > 10.77.0.2: ICMP echo request")
	}
	for began := time.Now(); !sampled(); time.Sleep(200 * time.Millisecond) { // of the first packets a budget of 10 a second may take none
		require.Less(t, time.Since(began), patience, "the collector never said a sampled packet")
		testenv.Echo(left, right, false, 1, 100)
	}
	c.terminate()
}
