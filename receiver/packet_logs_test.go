// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/frames"
)

func carrier(tb testing.TB, name string) packet.Sample {
	tb.Helper()
	i := slices.IndexFunc(frames.Carriers, func(c frames.Carrier) bool { return c.Name == name })
	require.NotEqual(tb, -1, i, name)
	return chosen(frames.Carriers[i].Sample())
}

// chosen is s as it comes out of the kernel.
func chosen(s packet.Sample) packet.Sample {
	s.Time, s.IfIndex, s.Direction, s.Reasons, s.Pool = epoch.UnixNano()+5e8, 1, flow.DirectionEgress, packet.ReasonRandom, 1234
	return s
}

// writePackets writes records of samples as the receiver does.
func writePackets(payload bool, samples ...packet.Sample) plog.Logs {
	b := &batch{observed: 1, view: eth0}
	for i := range samples {
		b.addSample(&samples[i], epoch.UnixNano()+6e8)
	}
	w := logsWriter{resource: pcommon.NewResource(), version: "1.2.3", packets: packetWriter{oneIn: 1000, flowOneIn: 50, payload: payload}}
	return w.write(b)
}

// Together these have every attribute.
var goldenPackets = []string{
	"a SYN with every usual option, and data", "selective acknowledgements", "urgent data and unusual options", "ARP who-has, with padding",
	"ARP is-at, with padding", "ARP probe of another operation", "ARP behind a tag", "ARP behind an offloaded tag", "LLDP", "LLC", "two MPLS labels", "QinQ with priorities", "UDP without link header",
	"IPv4 with record route", "a first IPv4 fragment with traffic", "a later IPv6 fragment with traffic", "three IPv6 extensions",
	"an echo with data", "fragmentation needed, quoting TCP with data", "ICMPv6 redirect", "neighbour solicitation", "IGMP 3 report",
	"MLD 1 report", "SCTP SACK and DATA", "VXLAN", "GRE with key and sequence number",
}

func TestPacketRecordsGolden(t *testing.T) {
	var samples []packet.Sample
	for _, name := range goldenPackets {
		samples = append(samples, carrier(t, name))
	}
	segments := carrier(t, "TCP without options")
	segments.Segments, segments.WireLen, segments.Direction, segments.IfIndex = 2, 3000, flow.DirectionIngress, 99 // an interface without a name
	cut := carrier(t, "three IPv6 extensions")                                                                     // the kernel saw all of its headers
	cut.Data = cut.Data[:60]
	short := carrier(t, "UDP without link header")
	short.L3, short.Data, short.WireLen = false, short.Data[:9], 9
	inside := carrier(t, "VXLAN")
	inside.Inside = true
	tags := slices.IndexFunc(frames.Inside, func(f frames.Frame) bool {
		return f.Name == "the tag of a frame in VXLAN names the VLAN, the one outside does not"
	})
	ofFlow, thrice := carrier(t, "TCP without options"), carrier(t, "TCP without options")
	ofFlow.Reasons, ofFlow.FlowPool = packet.ReasonFlow, 5 // its other numbers mean nothing
	thrice.Reasons, thrice.FlowPool, thrice.Number = packet.ReasonRandom|packet.ReasonFlow|packet.ReasonFirst, 1, 3
	compareLogs(t, "packets", writePackets(false, append(samples, segments, cut, short, inside, chosen(frames.Inside[tags].Sample()), ofFlow, thrice)...))
}

func TestPacketRecordsWithPayloadGolden(t *testing.T) {
	compareLogs(t, "packets_payload", writePackets(true, carrier(t, "an echo with data"), carrier(t, "LLC")))
}

// exported is every byte of a message that an exporter may send.
func exported(tb testing.TB, ld plog.Logs) (protobuf, json []byte) {
	tb.Helper()
	protobuf, err := (&plog.ProtoMarshaler{}).MarshalLogs(ld)
	require.NoError(tb, err)
	json, err = (&plog.JSONMarshaler{}).MarshalLogs(ld)
	require.NoError(tb, err)
	return protobuf, json
}

// everySample is every frame there is, and where its payload begins, told by the corpus and not by what is tested.
func everySample(t *testing.T) (samples []packet.Sample, payloads []int, names []string) {
	t.Helper()
	add := func(name string, s packet.Sample, payload int) {
		samples, payloads, names = append(samples, chosen(s)), append(payloads, payload), append(names, name)
	}
	for _, c := range frames.Carriers {
		add(c.Name, c.Sample(), c.Payload)
		inside := c.Sample()
		inside.Inside = true
		add(c.Name+", counted inside", inside, c.Payload)
		if c.Payload < len(c.Data) {
			f := c.Sample()
			f.Segments, f.WireLen = 40, 40*f.WireLen
			add(c.Name+", segmented", f, c.Payload)
		}
	}
	// A header behind the end of the packet is none, but for the ports by which the kernel counts.
	for _, name := range []string{"TCP without options", "selective acknowledgements", "SCTP INIT", "an echo with data", "UDP over IPv6 with traffic"} {
		s := carrier(t, name)
		s.Data = slices.Clone(s.Data)
		behind := 14 + 20
		if s.Data[14]>>4 == 6 {
			behind = 14 + 40
			s.Data[18], s.Data[19] = 0, 0 // payload length
		} else {
			s.Data[16], s.Data[17] = 0, 20 // total length
		}
		if name != "an echo with data" {
			behind += 4
		}
		add(name+", told to end with IP", s, behind)
	}
	// Frames of the corpus end where their headers do: what is put behind them is payload. Not behind one that is cut short,
	// or that has a header of its own behind the one that counts.
	for _, f := range slices.Concat(frames.All, frames.Offloaded) {
		if f.Want.Reason != flow.ReasonAccounted || int(f.Want.HeaderLen) > len(f.Data) || !plain(&f.Want) {
			continue
		}
		s := f.Sample()
		s.Data = slices.Concat(f.Data, frames.Traffic)
		s.WireLen += uint32(len(frames.Traffic))
		add(f.Name, s, int(f.Want.HeaderLen))
	}
	files, err := filepath.Glob("../testdata/pcap/*.pcap")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, path := range files {
		captured, err := frames.ReadPcap(path)
		require.NoError(t, err)
		for _, f := range captured {
			s := f.Sample()
			var p packet.Packet
			packet.Decode(&s, &p)
			if p.Reason == flow.ReasonAccounted && plain(&p) && p.Key.DstPort != 4789 {
				add(filepath.Base(path)+", "+f.Name, s, int(p.HeaderLen))
			}
		}
	}
	return samples, payloads, names
}

// plain reports whether nothing behind the transport header of p is a header: TCP, UDP, echoes, later fragments.
func plain(p *packet.Packet) bool {
	echo := p.HasICMP && (p.Key.IPv6 && (p.ICMPType == 128 || p.ICMPType == 129) || !p.Key.IPv6 && (p.ICMPType == 8 || p.ICMPType == 0))
	return p.Key.LaterFragment || p.HasTCP || p.Key.Proto == protoUDP || echo
}

// fill returns s with its payload replaced by a pattern.
func fill(s packet.Sample, payload int, pattern []byte) packet.Sample {
	s.Data = slices.Clone(s.Data)
	for i := payload; i < len(s.Data); i++ {
		s.Data[i] = pattern[(i-payload)%len(pattern)]
	}
	return s
}

// Patterns that no header has. Between them every bit of the payload differs.
var (
	canary      = []byte("Canary-7fe3b1x!")
	otherCanary = func() (b []byte) {
		for _, c := range canary {
			b = append(b, ^c)
		}
		return b
	}()
)

// TestPayloadStaysOnTheHost exports every frame twice, with payloads that have not one bit in common: what leaves is the same
// to the last byte. So nothing of a payload leaves, in no form.
func TestPayloadStaysOnTheHost(t *testing.T) {
	samples, payloads, names := everySample(t)
	require.Greater(t, len(samples), 300)
	changed := 0
	for i, s := range samples {
		one, other := fill(s, payloads[i], canary), fill(s, payloads[i], otherCanary)
		if payloads[i] < len(s.Data) {
			require.NotEqual(t, one.Data, other.Data)
			changed++
		}
		protobuf, json := exported(t, writePackets(false, one))
		otherProtobuf, otherJSON := exported(t, writePackets(false, other))
		assert.True(t, bytes.Equal(json, otherJSON), "%s:\n%s\n%s", names[i], json, otherJSON)
		assert.True(t, bytes.Equal(protobuf, otherProtobuf), names[i])
		assert.NotContains(t, string(protobuf), attrPacketData, names[i])
	}
	assert.Greater(t, changed, 200)
}

// TestPayloadLeavesInOneAttribute: with payload true the captured bytes leave as packet.data, and in no other place.
func TestPayloadLeavesInOneAttribute(t *testing.T) {
	samples, payloads, names := everySample(t)
	for i, s := range samples {
		s = fill(s, payloads[i], canary)
		with, without := writePackets(true, s), writePackets(false, s)
		attributes := with.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Attributes()
		data, ok := attributes.Get(attrPacketData)
		require.True(t, ok, names[i])
		require.Equal(t, s.Data, data.Bytes().AsRaw(), names[i])
		attributes.Remove(attrPacketData)
		_, got := exported(t, with)
		_, want := exported(t, without)
		require.Equal(t, string(want), string(got), names[i])
	}
}

// TestCanaryIsInEveryForm looks for the canary itself, as a reader of the output would: raw, in hexadecimal digits, in base64.
func TestCanaryIsInEveryForm(t *testing.T) {
	samples, payloads, _ := everySample(t)
	for i := range samples {
		samples[i] = fill(samples[i], payloads[i], canary)
	}
	found := func(payload bool) (forms []string) {
		protobuf, json := exported(t, writePackets(payload, samples...))
		text := strings.ToLower(string(protobuf) + string(json))
		shifted := append([]byte("x"), canary...) // base64 has three alignments
		for form, word := range map[string]string{
			"raw":    string(canary),
			"hex":    hex.EncodeToString(canary),
			"base64": base64.StdEncoding.EncodeToString(canary),
			"later":  base64.StdEncoding.EncodeToString(shifted)[4:16],
			"part":   string(canary[7:12]),
		} {
			if strings.Contains(text, strings.ToLower(word)) {
				forms = append(forms, form)
			}
		}
		slices.Sort(forms)
		return forms
	}
	assert.Empty(t, found(false))
	assert.Equal(t, []string{"base64", "later", "part", "raw"}, found(true), "what is looked for cannot be found")
}

// Whatever a frame is, its record has few attributes and short values.
func TestRecordsOfPacketsAreBounded(t *testing.T) {
	samples, _, names := everySample(t)
	random := rand.New(rand.NewPCG(7, 8))
	for range 20_000 {
		f := frames.Random(random)
		samples, names = append(samples, chosen(f.Sample())), append(names, "random")
	}
	for i := 0; i < len(samples); i += maxRecords {
		ld := writePackets(false, samples[i:min(i+maxRecords, len(samples))]...)
		for n, r := range ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
			assert.LessOrEqual(t, r.Attributes().Len(), 48, names[i+n])
			assert.LessOrEqual(t, len(r.Body().Str()), 1200, names[i+n])
			for name, v := range r.Attributes().All() {
				assert.LessOrEqual(t, len(v.AsString()), 1000, "%s: %s", names[i+n], name)
			}
		}
	}
}

func TestSamplesAreSentTogether(t *testing.T) {
	b := newBench(t, testConfig(), newFakeHost("eth0"), nil, consumertest.NewNop())
	sample := carrier(t, "ARP who-has, with padding")
	sample.Time = epoch.UnixNano()
	sample.Pool = 7
	later := carrier(t, "an echo with data")
	later.Time = epoch.UnixNano()
	b.host.do(func() { b.host.samples = []packet.Sample{sample, sample} })
	b.readSamples()
	assert.Empty(t, b.logs.queue, "samples wait for others")
	b.host.do(func() { b.host.samples = []packet.Sample{later} })
	b.now = b.now.Add(sampleDelay)
	b.readSamples()
	q := b.batch()
	require.Len(t, q.packets, 3)
	assert.Equal(t, uint64(7), q.packets[0].Pool)
	assert.Less(t, q.packets[0].observed, q.packets[2].observed, "each was observed when it was read, not when the message was begun")
	records := b.logs.writer.write(q).ResourceLogs().At(0).ScopeLogs().At(0).LogRecords()
	assert.Equal(t, "eth0 Out ARP, Request who-has 192.0.2.2 tell 192.0.2.1", records.At(1).Body().Str())
	assert.Equal(t, "eth0 Out IP 192.0.2.1 > 198.51.100.2: ICMP echo request, id 1, seq 2, length 40", records.At(2).Body().Str())
}

// Long samples end a message early: its size does not depend on the snap length.
func TestAMessageOfLongSamplesIsBounded(t *testing.T) {
	b := newBench(t, testConfig(), newFakeHost("eth0"), nil, consumertest.NewNop())
	long := carrier(t, "UDP over IPv4 with traffic")
	long.Data = append(slices.Clone(long.Data), make([]byte, maxSnapLength-len(long.Data))...)
	b.host.do(func() { b.host.samples = slices.Repeat([]packet.Sample{long}, 100) })
	b.readSamples()
	b.now = b.now.Add(sampleDelay)
	b.readSamples()
	total := 0
	for range 4 {
		q := b.batch()
		assert.LessOrEqual(t, len(q.frames), maxFrameBytes+maxSnapLength)
		total += len(q.packets)
	}
	assert.Equal(t, 100, total)
}

// The data of a sample is not its own: it must be copied.
func TestSamplesAreCopied(t *testing.T) {
	s := carrier(t, "an echo with data")
	s.Data = slices.Clone(s.Data)
	b := &batch{}
	b.addSample(&s, 1)
	clear(s.Data)
	w := packetWriter{payload: true}
	r := plog.NewLogRecordSlice()
	w.writeAll(r, b)
	assert.Contains(t, r.At(0).Body().Str(), "echo request")
}
