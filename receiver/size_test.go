// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
)

// sizeOf is what one record takes in a message of maxRecords, in bytes.
type sizeOf struct{ protobuf, json, gzip float64 }

func measureSize(tb testing.TB, q *batch) (s sizeOf) {
	tb.Helper()
	resource := pcommon.NewResource()
	resource.Attributes().PutStr("host.name", "node-17.example.com")
	q.view = eth0
	w := logsWriter{resource: resource, version: "1.2.3", packets: packetWriter{oneIn: 1000}}
	ld := w.write(q)
	per := func(n int) float64 { return float64(n) / float64(ld.LogRecordCount()) }
	protobuf, err := (&plog.ProtoMarshaler{}).MarshalLogs(ld)
	require.NoError(tb, err)
	json, err := (&plog.JSONMarshaler{}).MarshalLogs(ld)
	require.NoError(tb, err)
	return sizeOf{per(len(protobuf)), per(len(json)), per(gzipped(tb, protobuf))}
}

// gzipped returns the length of b, compressed.
func gzipped(tb testing.TB, b []byte) int {
	tb.Helper()
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, err := z.Write(b)
	require.NoError(tb, err)
	require.NoError(tb, z.Close())
	return zipped.Len()
}

// talks returns the keys of conversations of this host: each with another port, many with another peer.
func talks(r *rand.Rand, ipv6 bool) []flow.Key {
	keys := make([]flow.Key, maxRecords)
	peer := func() (a flow.Addr) {
		if ipv6 {
			b := netip.MustParseAddr("2001:db8:1234:5678::").As16()
			for i := 8; i < 16; i++ {
				b[i] = byte(1 + r.IntN(255))
			}
			return b
		}
		return flow.Addr{12: 10, 13: byte(r.IntN(256)), 14: byte(r.IntN(256)), 15: byte(r.IntN(256))}
	}
	host := peer()
	for i := range keys {
		keys[i] = flow.Key{
			SrcAddr: host, DstAddr: peer(), SrcPort: uint16(32768 + r.IntN(28232)), DstPort: 443, IfIndex: 1, Proto: protoTCP, IPv6: ipv6,
			Tagged: ipv6, VLAN: 100,
		}
	}
	return keys
}

func flowsOfADay(ipv6 bool) *batch {
	r := rand.New(rand.NewPCG(13, 14))
	q := &batch{observed: epoch.UnixNano()}
	for _, k := range talks(r, ipv6) {
		f := flowRecord("10.0.0.1:1", "10.0.0.2:2", protoTCP, flow.InitiatorSYN,
			half(1+r.Uint64N(100), 60+r.Uint64N(100_000), syn|ack|psh|fin), half(1+r.Uint64N(100), 60+r.Uint64N(1_000_000), syn|ack|psh|fin))
		f.Key, f.EndReason = k, flow.EndReasonEndOfFlow
		f.Forward.Facts = flow.Facts{TTLMin: 64, TTLMax: 64, SrcMAC: flow.MAC{2, 1}, DstMAC: flow.MAC{2, 2}, HasMACs: true}
		f.Reverse.Facts = flow.Facts{TTLMin: uint8(40 + r.IntN(20)), TTLMax: 60}
		if ipv6 {
			f.Forward.FlowLabel, f.Reverse.FlowLabel = r.Uint32N(1<<20), r.Uint32N(1<<20)
		}
		f.Start -= r.Int64N(6e10)
		f.ConnectionStart = f.Start
		q.flows = append(q.flows, f)
	}
	return q
}

func packetsOfADay(ipv6 bool) *batch {
	r := rand.New(rand.NewPCG(15, 16))
	q := &batch{}
	for _, k := range talks(r, ipv6) {
		at := epoch.UnixNano() + r.Int64N(1e9)
		frame := tcpFrame(r, &k)
		q.addSample(&packet.Sample{
			Time: at, IfIndex: k.IfIndex, Direction: flow.DirectionIngress, Reasons: packet.ReasonRandom, Pool: 1 + r.Uint64N(4000), Segments: 1,
			Tagged: k.Tagged, VLANTCI: k.VLAN, WireLen: uint32(len(frame)) + r.Uint32N(1400), Data: frame,
		}, at+r.Int64N(1e8))
	}
	return q
}

// tcpFrame is a frame of k with the options that most segments have, up to where its data begins.
func tcpFrame(r *rand.Rand, k *flow.Key) []byte {
	b := slices.Concat([]byte{0x52, 0x54, 0, 0x12, 0x34, 0x56}, []byte{0x52, 0x54, 0, 0xab, 0xcd, 0xef})
	length := uint16(32 + r.IntN(1400)) // TCP
	if k.IPv6 {
		b = append(b, 0x86, 0xdd, 0x60)
		b = append(b, byte(r.IntN(16)), byte(r.IntN(256)), byte(r.IntN(256))) // flow label
		b = append(binary.BigEndian.AppendUint16(b, length), protoTCP, 64)
		b = append(append(b, k.SrcAddr[:]...), k.DstAddr[:]...)
	} else {
		b = append(b, 0x08, 0x00, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, 20+length)
		b = binary.BigEndian.AppendUint16(b, uint16(r.Uint32())) // identification
		b = append(b, 0x40, 0, 64, protoTCP, 0, 0)
		b = append(append(b, k.SrcAddr[12:]...), k.DstAddr[12:]...)
	}
	b = binary.BigEndian.AppendUint16(b, k.SrcPort)
	b = binary.BigEndian.AppendUint16(b, k.DstPort)
	b = binary.BigEndian.AppendUint32(b, r.Uint32())
	b = binary.BigEndian.AppendUint32(b, r.Uint32())
	b = append(b, 0x80, psh|ack)
	b = binary.BigEndian.AppendUint16(b, uint16(r.Uint32()))
	b = append(b, 0, 0, 0, 0, 1, 1, 8, 10)
	b = binary.BigEndian.AppendUint32(b, r.Uint32())
	return binary.BigEndian.AppendUint32(b, r.Uint32())
}

var recordsOfADay = []struct {
	event  string
	family string
	batch  *batch
	perDay float64 // at the default limit
}{
	{eventFlow, "IPv4", flowsOfADay(false), 86400 * 500},
	{eventFlow, "IPv6, VLAN", flowsOfADay(true), 86400 * 500},
	{eventPacket, "IPv4", packetsOfADay(false), 86400 * 100},
	{eventPacket, "IPv6, VLAN", packetsOfADay(true), 86400 * 100},
}

// The README quotes what BenchmarkRecordSize prints, and what follows from it. A change of a few percent is none that its
// readers care about; compressed sizes also depend on the version of Go.
func TestTheReadmeSaysWhatADayOfRecordsWeighs(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	c := createDefaultConfig().(*Config)
	assert.Equal(t, 500, c.Flows.MaxRecordsPerSecond)
	assert.Equal(t, 100, c.Packets.MaxPerSecond)
	var protobuf, zipped float64 // GB a day of both events, IPv4
	for _, r := range recordsOfADay {
		row := regexp.MustCompile("\\| `" + r.event + "`, " + r.family + ` \| (\d+) B \| (\d+) B \| (\d+) B \| ([\d.]+) million \| ([\d.]+) GB \| ([\d.]+) GB \|`)
		quoted := row.FindSubmatch(readme)
		require.NotNil(t, quoted, "%s, %s", r.event, r.family)
		var numbers [6]float64
		s := measureSize(t, r.batch)
		for i, c := range []struct{ measured, tolerance float64 }{
			{s.protobuf, 0.03}, {s.json, 0.03}, {s.gzip, 0.2}, {r.perDay / 1e6, 0.01}, {s.protobuf * r.perDay / 1e9, 0.03}, {s.gzip * r.perDay / 1e9, 0.2},
		} {
			numbers[i], err = strconv.ParseFloat(string(quoted[1+i]), 64)
			require.NoError(t, err)
			assert.InEpsilon(t, c.measured, numbers[i], c.tolerance, "%s, %s: number %d of the row", r.event, r.family, i+1)
		}
		if r.family == "IPv4" {
			protobuf, zipped = protobuf+numbers[4], zipped+numbers[5]
		}
	}
	for page, sum := range map[string]string{
		"../README.md":     fmt.Sprintf("%.1f GB of OTLP, %.1f GB compressed, a day", protobuf, zipped),
		"../docs/fleet.md": fmt.Sprintf("| %.1f GB | %.1f GB |", zipped, protobuf),
	} {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		assert.Contains(t, string(text), sum, page)
	}
}

// BenchmarkRecordSize prints what one record takes in a full message.
func BenchmarkRecordSize(b *testing.B) {
	for _, r := range recordsOfADay {
		b.Run(r.event+"/"+r.family, func(b *testing.B) {
			var s sizeOf
			for b.Loop() {
				s = measureSize(b, r.batch)
			}
			b.ReportMetric(s.protobuf, "protobuf-B/record")
			b.ReportMetric(s.json, "JSON-B/record")
			b.ReportMetric(s.gzip, "gzip-B/record")
		})
	}
}

// BenchmarkPointSize prints what one metric point takes in the messages of a collection, and what a host with so many series sends in a day.
func BenchmarkPointSize(b *testing.B) {
	for _, series := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("series=%d", series), func(b *testing.B) {
			var protobuf, zipped, points float64
			for b.Loop() {
				protobuf, zipped, points = 0, 0, 0
				for _, md := range collectOnce(busyMetrics(series), 3) {
					text, err := (&pmetric.ProtoMarshaler{}).MarshalMetrics(md)
					require.NoError(b, err)
					protobuf += float64(len(text))
					zipped += float64(gzipped(b, text))
					points += float64(md.DataPointCount())
				}
			}
			collections := float64(24 * time.Hour / createDefaultConfig().(*Config).CollectionInterval)
			b.ReportMetric(0, "ns/op") // says nothing
			b.ReportMetric(protobuf/points, "protobuf-B/point")
			b.ReportMetric(zipped/points, "gzip-B/point")
			b.ReportMetric(protobuf*collections/1e6, "protobuf-MB/day")
			b.ReportMetric(zipped*collections/1e6, "gzip-MB/day")
		})
	}
}

// BenchmarkQueueMemory prints what a queue in memory takes for each byte of protobuf, by which `sizer: bytes` counts. It holds pdata: as this
// receiver makes it, and as a gateway has it that received it.
func BenchmarkQueueMemory(b *testing.B) {
	for _, r := range recordsOfADay {
		b.Run(r.event+"/"+r.family, func(b *testing.B) {
			r.batch.view = eth0
			w := logsWriter{resource: pcommon.NewResource(), version: "1.2.3", packets: packetWriter{oneIn: 1000}}
			queueMemory(b, func() plog.Logs { return w.write(r.batch) }, (&plog.ProtoMarshaler{}).MarshalLogs, (&plog.ProtoUnmarshaler{}).UnmarshalLogs)
		})
	}
	b.Run("points", func(b *testing.B) {
		m := busyMetrics(1000)
		collect := func() pmetric.Metrics {
			messages := collectOnce(m, 3)
			require.Len(b, messages, 1)
			return messages[0]
		}
		queueMemory(b, collect, (&pmetric.ProtoMarshaler{}).MarshalMetrics, (&pmetric.ProtoUnmarshaler{}).UnmarshalMetrics)
	})
}

func queueMemory[T any](b *testing.B, message func() T, marshal func(T) ([]byte, error), unmarshal func([]byte) (T, error)) {
	b.Helper()
	protobuf, err := marshal(message())
	require.NoError(b, err)
	receive := func() T {
		m, err := unmarshal(protobuf)
		require.NoError(b, err)
		return m
	}
	const messages = 25 // 50,000 records
	var made, received uint64
	for b.Loop() {
		made, received = heap(messages, message), heap(messages, receive)
	}
	b.ReportMetric(0, "ns/op") // says nothing
	all := float64(messages * len(protobuf))
	b.ReportMetric(all/1e6, "protobuf-MB")
	b.ReportMetric(float64(made)/all, "made-B/B")
	b.ReportMetric(float64(received)/all, "received-B/B")
}

// heap returns how much memory so many messages keep, in bytes.
func heap[T any](n int, message func() T) uint64 {
	var before, after runtime.MemStats
	kept := make([]T, n)
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range kept {
		kept[i] = message()
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(kept)
	return after.HeapAlloc - before.HeapAlloc
}

// busyMetrics returns metrics with n series, whose volumes are random.
func busyMetrics(n int) *metrics {
	m := fullMetrics(n)
	r := rand.New(rand.NewPCG(17, 18))
	for port := range n {
		packets := r.Uint64N(1e9)
		k := fullKey(uint16(port))
		m.volumes[0].add(&k, flow.Volume{Packets: packets, Bytes: packets * (60 + r.Uint64N(1400))}, 2)
	}
	return m
}
