// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

const once = `
interfaces: {include: ["*", "kind:loopback"], exclude: ["x*"], deduplicate: true}
collection_interval: 100ms
flows: {max_records_per_second: 1000000}
packets: {random_one_in: 0}
`

// TestABridgeAndItsPortsCountOnce sends datagrams both ways over a bridge of which all interfaces are observed. When one port is not
// observed any more, the other counts what came in there. The sum is what was sent, and the ledger says what was seen besides.
func TestABridgeAndItsPortsCountOnce(t *testing.T) {
	const packets = 20_000
	pod, podEnd := testenv.Pair(t, testenv.PairConfig{})
	uplink, uplinkEnd := testenv.Pair(t, testenv.PairConfig{})
	host := testenv.NewNetNS(t)
	pod.MoveTo(host, "pod0")
	uplink.MoveTo(host, "up0")
	host.AddBridge(pod, uplink)
	c := start(t, host, once)
	fromPod, fromUplink := podEnd.NewSender(), uplinkEnd.NewSender()
	d := &testenv.Datagrams{Flows: 100, Payloads: []int{0, 1000}, Src: podEnd.MAC, Dst: testenv.Nobody}
	send := func() {
		fromPod.Datagrams(d, 0, packets)
		fromUplink.Datagrams(d, 0, packets)
	}
	send()
	link, err := host.Link().LinkByName("pod0")
	require.NoError(t, err)
	require.NoError(t, host.Link().LinkSetName(link, "x0")) // which is excluded
	c.awaitLog("No longer counting at interface")
	send()
	out := c.stop()
	testenv.RequireDelivered(t, podEnd.Counters(), uplinkEnd.Counters())

	var half flow.Volume // of what a sender sent
	for _, v := range d.Volumes(packets) {
		half.Add(v)
	}
	assert.Equal(t, half, out.counted("pod0", "receive"))
	assert.Zero(t, out.counted("pod0", "transmit"))
	assert.Equal(t, half, out.counted("up0", "transmit"), "of these nobody else knows any more")
	assert.Equal(t, fromUplink.Sent, out.counted("up0", "receive"))
	told := out.counted("pod0", "")
	told.Add(out.counted("up0", ""))
	sent := fromPod.Sent
	sent.Add(fromUplink.Sent)
	assert.Equal(t, sent, told)
	assert.Equal(t, sent, out.ledger.accounted)
	assert.Equal(t, flow.Volume{Packets: 2 * half.Packets, Bytes: 2 * half.Bytes}, out.ledger.duplicate)
}
