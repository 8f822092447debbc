// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
)

func TestPacketRecordsGolden(t *testing.T) {
	b := newBench(t, testConfig(), newFakeHost("eth0"), nil, consumertest.NewNop())
	at := epoch.UnixNano() + 5e8
	tcp := sampled{
		Packet: packet.Packet{
			Key: conversation("10.0.0.1:40000", "10.0.0.2:443")[0].Key, TTL: 64, DSCP: 46, ECN: 1,
			HasTCP: true, TCPFlags: psh | ack, TCPSeq: 1000, TCPAck: 2000, TCPWindow: 512,
		},
		time: at, direction: flow.DirectionEgress, reasons: packet.ReasonRandom, length: 3000, captured: 256, pool: 1234, segments: 2,
	}
	opening := tcp
	opening.TCPFlags, opening.segments, opening.length = syn, 1, 74
	icmp := sampled{
		Packet: packet.Packet{Key: flow.Key{IfIndex: 1, Proto: 58, IPv6: true, Tagged: true, VLAN: 3}, TTL: 255, HasICMP: true, ICMPType: 135},
		time:   at, reasons: packet.ReasonRandom, length: 90, captured: 90, pool: 1, segments: 1,
	}
	arp := sampled{
		Packet: packet.Packet{Reason: flow.ReasonARP, EtherType: 0x0806, Key: flow.Key{IfIndex: 1}},
		time:   at, reasons: packet.ReasonRandom, length: 60, captured: 60, pool: 9, segments: 1,
	}
	short := arp
	short.Reason, short.EtherType = flow.ReasonShortEthernet, 0
	short.length, short.captured = 12, 12
	cut := short // the kernel saw all of its headers
	cut.Reason, cut.length, cut.captured = flow.ReasonShortIPv6Extension, 1514, 128
	packets := []sampled{tcp, opening, icmp, arp, short, cut}
	for i := range packets {
		packets[i].observed = epoch.UnixNano() + 6e8
	}
	compareLogs(t, "packets", b.logs.writer.write(&batch{names: b.interfaces.names(), packets: packets}))
}

func TestSamplesAreDecodedAndSentTogether(t *testing.T) {
	b := newBench(t, testConfig(), newFakeHost("eth0"), nil, consumertest.NewNop())
	arp := make([]byte, 42)
	arp[12], arp[13] = 0x08, 0x06
	sample := packet.Sample{Time: epoch.UnixNano(), IfIndex: 1, Reasons: packet.ReasonRandom, Pool: 7, Segments: 1, WireLen: 42, Data: arp}
	b.host.do(func() { b.host.samples = []packet.Sample{sample, sample} })
	b.readSamples()
	assert.Empty(t, b.logs.queue, "samples wait for others")
	b.host.do(func() { b.host.samples = []packet.Sample{sample} })
	b.now = b.now.Add(sampleDelay)
	b.readSamples()
	q := b.batch()
	require.Len(t, q.packets, 3)
	assert.Equal(t, flow.ReasonARP, q.packets[0].Reason)
	assert.Equal(t, uint64(7), q.packets[0].pool)
	assert.Less(t, q.packets[0].observed, q.packets[2].observed, "each was observed when it was read, not when the message was begun")
	assert.Equal(t, uint32(42), q.packets[0].captured)
}
