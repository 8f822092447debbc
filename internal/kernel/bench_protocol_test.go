// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// protocolLoad is a mix of packets: those that begin no message, then those that do, again and again.
type protocolLoad struct {
	name           string
	frame, match   []byte
	packets, begin int // of each in one burst
}

// getBurst is fewer than half of the samples of a request that the ring has room for: a signal may make a burst start again.
const getBurst = 1024

func protocolLoads() []protocolLoad {
	data, ack := segment(1, bytes.Repeat([]byte("x"), 1400)), tcpFrame(0x10, 54)
	get := segment(1, []byte("GET /index.html HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: "+strings.Repeat("a", 235)+"\r\n\r\n"))
	datagram := udpFrame(0x0a000001, 0x0a000002, 1, 2, frameLength)
	return []protocolLoad{
		{"TCP data, 1,400 bytes", data, nil, sampleBurst, 0},
		{"TCP without payload", ack, nil, sampleBurst, 0},
		{"UDP, not DNS", datagram, nil, sampleBurst, 0},
		{"TCP data, 1 % requests", data, get, 99 * 512, 512},
		{"requests of 300 bytes", nil, get, 0, getBurst},
	}
}

// BenchmarkProtocols measures what looking for messages costs a packet: of three protocols, beside the same programs without, and
// beside those that are loaded where nobody asks for protocols. In all of them random sampling is on and chooses none. All programs
// take turns; 1,000 flows.
func BenchmarkProtocols(b *testing.B) {
	testenv.Privileged(b)
	all := protocolLoads()
	results := make([]comparison, len(all))
	for range loads {
		r := newRig(b, &workload{flows: 1000})
		subjects := r.protocolSubjects(b)
		for i := range all {
			if results[i].raw == nil {
				results[i].raw = map[string][]float64{}
			}
			for round := range rounds / loads {
				for j := range subjects {
					results[i].measureProtocol(b, r, &subjects[(j+round)%len(subjects)], &all[i])
				}
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	var table strings.Builder
	t := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tplain\toff\ton, no credit\ton, read\toff/plain\tno credit/off\tno credit/plain\tread/off\tread adds to off\tnoop/noop\t")
	for i := range all {
		c := &results[i]
		added := differences(c.nets("on, read"), c.nets("off"))
		fmt.Fprintf(t, "%s\t%.1f\t%.1f\t%.1f\t%.1f\t%s\t%s\t%s\t%s\t%.1f\t%.2f\t\n", all[i].name, c.net("plain"), c.net("off"),
			c.net("on, no credit"), c.net("on, read"), c.spread("off", "plain"), c.spread("on, no credit", "off"),
			c.spread("on, no credit", "plain"), c.spread("on, read", "off"), median(added), c.selfCheck())
	}
	require.NoError(b, t.Flush())
	fmt.Printf("\nprotocols: ns/packet net of noop, medians of %d rounds; load average %s\n%s\n", rounds, loadAverage(b), table.String())
}

// spread is the median of ratios and their middle half.
func (c *comparison) spread(name, to string) string {
	v := c.ratios(name, to)
	return fmt.Sprintf("%.2f (%.2f-%.2f)", median(v), quantile(v, 0.25), quantile(v, 0.75))
}

// protocolSubject is a program under test, what is done off the clock after each burst, and what must come of the messages.
type protocolSubject struct {
	*subject
	relieve func(b *testing.B)
	check   func(b *testing.B, begun uint64, counts SampleCounts)
}

func (r *rig) protocolSubjects(b *testing.B) []protocolSubject {
	b.Helper()
	cfg := func(form object, of Protocols, perSecond int) Config {
		return Config{
			Samples: true, RandomOneIn: 1 << 30, Protocols: of, SnapLength: sampleSnap, MaxPerSecond: perSecond,
			Seed: [32]byte{1}, object: form, ring: minRing, cpus: []int{0},
		}
	}
	nothing := func(*testing.B) {}
	none := func(b *testing.B, _ uint64, n SampleCounts) {
		b.Helper()
		require.Zero(b, n)
	}
	read := load(b, cfg(objectFull, allProtocols, 100*unlimited))
	return []protocolSubject{
		{&subject{name: "noop", program: r.objects.Noop}, nothing, nil},
		{r.ours(load(b, cfg(objectPlain, 0, 100)), "plain"), nothing, none},
		{r.ours(load(b, cfg(objectFull, 0, 100)), "off"), nothing, none},
		{&subject{name: "noop again", program: r.objects.Noop}, nothing, nil},
		{r.ours(load(b, cfg(objectFull, allProtocols, 1)), "on, no credit"), nothing, func(b *testing.B, begun uint64, n SampleCounts) {
			b.Helper()
			require.Equal(b, begun, n.Selected)
			require.LessOrEqual(b, begun-n.RateLimited, uint64(1))
		}},
		{r.ours(read, "on, read"), func(b *testing.B) {
			b.Helper()
			_, err := read.ReadSamples(func(*packet.Sample) {})
			require.NoError(b, err)
		}, func(b *testing.B, begun uint64, n SampleCounts) {
			b.Helper()
			require.Equal(b, SampleCounts{Selected: begun, Emitted: begun}, n)
		}},
	}
}

// measureProtocol is the slice of one program in one round.
func (c *comparison) measureProtocol(b *testing.B, r *rig, s *protocolSubject, l *protocolLoad) {
	b.Helper()
	r.use(b, s.subject)
	var spent time.Duration
	var driven, begun uint64
	send := func(frame []byte, packets int) (n uint64) {
		if packets == 0 {
			return 0
		}
		r.frame = frame
		ns, n := r.drive(b, packets)
		spent += ns
		driven += n
		return n
	}
	burst := func() {
		send(l.frame, l.packets)
		begun += send(l.match, l.begin)
		s.relieve(b)
	}
	burst()
	spent, driven = 0, 0 // that was to warm up
	for spent < sliceTime {
		burst()
	}
	c.raw[s.name] = append(c.raw[s.name], float64(spent)/float64(driven))
	sent := r.take()
	if s.take == nil {
		return
	}
	s.take(b)
	require.Equal(b, sent.packets, s.packets)
	s.packets, s.bytes = 0, 0
	s.check(b, begun, s.messages)
}
