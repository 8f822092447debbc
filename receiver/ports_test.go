// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

// scan is a scan of every port, and what the scanned host answers; nil: nothing.
type scan struct {
	outbound bool // by this host, else of it
	answer   func(s flow.Slot) flow.Slot
}

func closedPort(s flow.Slot) flow.Slot { s.TCPFlags = rst | ack; return s }

func openPort(s flow.Slot) flow.Slot {
	s.TCPFlags, s.Handshake = syn|ack, flow.HandshakeSYNACK
	return s
}

// probe returns the slots of one port's scan at t seconds after epoch.
func (c *scan) probe(port int, t float64) []flow.Slot {
	const scanner = "192.0.2.66:40000"
	there, back := flow.DirectionIngress, flow.DirectionEgress
	if c.outbound {
		there, back = back, there
	}
	target := fmt.Sprintf("10.0.0.1:%d", port)
	slots := []flow.Slot{opening(tcp(scanner, target, there, syn, 1, 54, t, t), flow.HandshakeSYN)}
	if c.answer != nil {
		slots = append(slots, c.answer(tcp(target, scanner, back, 0, 1, 60, t, t)))
	}
	return slots
}

// scanned runs a scan of 65,535 ports from the 4th to the 8th of 12 collections, beside services on these ports, each from
// the start of a collection on, and checks what has to hold whatever comes.
type scanned struct {
	*bench
	tel   *componenttest.Telemetry
	sink  *judge
	sent  flow.Volume
	fixed map[int]uint64 // packets of each service
}

const scanCollections = 12

func runScan(t *testing.T, c scan, services map[int]int) *scanned {
	cfg := createDefaultConfig().(*Config)
	cfg.Interfaces.Include = []string{"*"}
	r := &scanned{sink: taking(), fixed: map[int]uint64{}}
	r.bench, r.tel = measured(t, cfg, r.sink.consumer(t), nil)
	drains := int(cfg.CollectionInterval / cfg.drainInterval())
	next, perDrain := 1, 65535/(5*drains)+1
	for i := range scanCollections {
		for range drains {
			at := r.now.Sub(epoch).Seconds() + 1
			if i >= 3 && i < 8 {
				for range perDrain {
					if _, service := services[next]; !service && next <= 65535 {
						r.send(c.probe(next, at)...)
					}
					next++
				}
			}
			for port, from := range services {
				if i >= from {
					r.send(conversation(fmt.Sprintf("10.0.0.7:%d", 40000+int(at)), fmt.Sprintf("10.0.0.8:%d", port))...)
					r.fixed[port] += 9
				}
			}
			r.after(cfg.drainInterval())
		}
		r.pushed(t.Context())
		r.requireBounds()
	}
	r.end(t.Context())
	r.sink.requireChains(t, 0)
	require.Equal(t, r.sent, volumeOf(&r.sink.taken))
	return r
}

func (r *scanned) send(slots ...flow.Slot) {
	for _, s := range slots {
		r.sent.Add(s.Volume)
	}
	r.host.count(slots...)
}

func (r *scanned) requireBounds() {
	r.t.Helper()
	for name, n := range r.metrics.series() {
		require.LessOrEqual(r.t, n, r.cfg.CardinalityLimit, name)
	}
	ports := map[int64]bool{}
	last := r.sink.taken.Metrics[len(r.sink.taken.Metrics)-1:]
	for _, dp := range pointsOf(last, instrumentPackets.name).All() {
		if p, ok := dp.Attributes().Get(attrServerPort); ok {
			ports[p.Int()] = true
		}
	}
	require.LessOrEqual(r.t, len(ports), maxServerPorts)
}

func withPort(m pcommon.Map) bool { _, ok := m.Get(attrServerPort); return ok }

func (r *scanned) named(port int) uint64 {
	return uint64(r.sink.taken.Total(instrumentPackets.name, otlpcheck.Has(map[string]any{attrServerPort: port})))
}

func TestAScanThatNobodyAnswersNamesNoPort(t *testing.T) {
	for name, c := range map[string]scan{"closed": {answer: closedPort}, "filtered": {}, "closed, from here": {true, closedPort}} {
		t.Run(name, func(t *testing.T) {
			r := runScan(t, c, map[int]int{443: 0, 8080: 5, 22: 9})
			for port, packets := range r.fixed {
				assert.Equal(t, packets, r.named(port), "all packets of port %d", port)
			}
			assert.Equal(t, r.fixed[443]+r.fixed[8080]+r.fixed[22], uint64(r.sink.taken.Total(instrumentPackets.name, withPort)))
			assert.Zero(t, total(t, r.tel, "otelcol_ebpfpackets_receiver_server_port_omissions"))
		})
	}
}

// A host that answers on every port earns all names that there are. They go to whoever comes again.
func TestAScanThatIsAnsweredEverywhereLeavesServicesTheirPorts(t *testing.T) {
	services := map[int]int{443: 0, 8080: 3, 8443: 5, 22: 9}
	r := runScan(t, scan{true, openPort}, services)
	const collection = 6 * 9 // packets of one service
	earned := uint64(2 * (defaultEphemeralLow - 1 - len(services)))
	for port, packets := range r.fixed {
		assert.GreaterOrEqual(t, r.named(port)+2*collection, packets, "port %d", port)
		assert.Contains(t, r.metrics.ports.named, uint16(port))
		earned += packets
	}
	assert.Equal(t, r.fixed[443], r.named(443), "it was there before")
	omitted := total(t, r.tel, "otelcol_ebpfpackets_receiver_server_port_omissions")
	assert.Equal(t, earned, uint64(r.sink.taken.Total(instrumentPackets.name, withPort)+omitted))
}

// come has one conversation with each port, drained together.
func (b *bench) come(ports ...int) {
	for _, port := range ports {
		b.host.count(conversation("10.0.0.1:40000", fmt.Sprintf("10.0.0.2:%d", port))...)
	}
	b.after(time.Second)
}

// portsNamed collects and returns the ports with packets since the last call.
func (b *bench) portsNamed() (named []int) {
	for _, dp := range pointsOf(b.points(), instrumentPackets.name).All() {
		if p, ok := dp.Attributes().Get(attrServerPort); ok && dp.IntValue() > 0 {
			named = append(named, int(p.Int()))
		}
	}
	slices.Sort(named)
	return slices.Compact(named)
}

// full returns a bench in whose first collection all values of server.port were given away, to 1, 2, ...
func full(t *testing.T) (*bench, []int) {
	c := deltaConfig()
	c.MetricsBuilder.Metrics.NetworkFlowPackets.EnabledAttributes = []metadata.NetworkFlowPacketsMetricAttributeKey{attrServerPort}
	b, _ := measured(t, c, taking().consumer(t), nil)
	var ports []int
	for port := 1; port <= maxServerPorts; port++ {
		ports = append(ports, port)
	}
	b.come(ports...)
	require.Equal(t, ports, b.portsNamed())
	return b, ports
}

func TestAPortMakesRoomOnceItsSilenceWasTold(t *testing.T) {
	b, ports := full(t)
	busy := ports[1:]
	b.come(append(busy, 1000)...)
	require.Equal(t, busy, b.portsNamed(), "nobody was quiet for a whole collection")
	b.come(append(busy, 1000, 1001)...)
	require.Equal(t, append(slices.Clone(busy), 1000), b.portsNamed(), "port 1 was, and 1000 asked before")
	require.Len(t, b.metrics.volumes[1].byKey, maxServerPorts+1, "the series of port 1 has gone; one is without port")
	b.come(append(busy, 1000, 1001)...)
	require.NotContains(t, b.portsNamed(), 1001, "nobody is quiet")
}

func TestAPortWhoseSilenceWasNotToldStays(t *testing.T) {
	b, ports := full(t)
	for range 4 {
		b.come(append(ports[1:], 1000)...)
		b.collect()
		b.metricsPusher.outcomes <- make([]outcome, len(<-b.metricsPusher.queue)) // refused
	}
	b.come(append(ports[1:], 1000)...)
	require.NotContains(t, b.portsNamed(), 1000)
}

func TestAPortThatComesOnceTakesNoOthersPlace(t *testing.T) {
	b, ports := full(t)
	for _, asks := range []bool{true, false, false, true, false, true, false, false, false, true} {
		if asks {
			b.come(append(ports[1:], 1000)...)
		} else {
			b.come(ports[1:]...)
		}
		require.Equal(t, ports[1:], b.portsNamed(), "not in two collections that follow each other")
	}
}

func TestAPortThatComesBackInTimeStays(t *testing.T) {
	b, ports := full(t)
	busy := ports[2:]
	b.come(append(busy, 1000, 1001)...)
	b.portsNamed()
	b.come(append(busy, 1000)...) // takes the place of 1 or 2
	for _, port := range []int{1, 2} {
		if _, stays := b.metrics.ports.named[uint16(port)]; stays {
			b.come(port)
			b.come(1001)
			require.Contains(t, b.metrics.ports.named, uint16(port))
			require.NotContains(t, b.metrics.ports.named, uint16(1001))
			return
		}
	}
	require.Fail(t, "1000 took two places")
}

// Names of interfaces come and go for ever.
func TestTenThousandInterfaceNames(t *testing.T) {
	for _, temporality := range []string{temporalityCumulative, temporalityDelta} {
		t.Run(temporality, func(t *testing.T) {
			c := testConfig()
			c.AggregationTemporality = temporality
			c.MetricsBuilder.Metrics.NetworkFlowActive.Enabled = false
			m := newMetrics(c, epoch.UnixNano(), defaultEphemeralLow)
			var out otlpcheck.Output
			var sent flow.Volume
			now := epoch
			for n := range 10000 {
				s := udp("10.0.0.1:1000", "10.0.0.2:53", flow.Direction(n%2), 1+uint64(n%5), 100+uint64(n%7), 0, 0)
				sent.Add(s.Volume)
				m.addSlot(&s, nil, place{iface: fmt.Sprint("veth", n)}, now.UnixNano())
				if n%500 != 499 {
					continue
				}
				now = now.Add(c.CollectionInterval)
				var w metricsWriter
				w.resource = pcommon.NewResource()
				m.collect(&w, now.UnixNano(), nil, &view{})
				out.Metrics = append(out.Metrics, w.finished()...)
				m.settle(slices.Repeat([]outcome{outcomeTaken}, len(w.messages)))
				require.LessOrEqual(t, m.volumes[0].len(), c.CardinalityLimit)
			}
			assert.Equal(t, sent, volumeOf(&out))
			assert.Zero(t, out.Total(instrumentIO.name, otlpcheck.Has(map[string]any{attrMetricOverflow: true})), "idle ones go first")
		})
	}
}
