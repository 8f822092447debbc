// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	otelreceiver "go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/ebpfpackets/ebpfpackets/internal/app"
	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

// telemetry is the receiver's own: totals since Start, and what the last drain saw.
type telemetry struct {
	*metadata.TelemetryBuilder
	receiver attribute.KeyValue // on everything: two receivers of one Collector would write to the same series
	clock    func() time.Time

	mu         sync.Mutex
	ledger     kernel.Ledger
	samples    kernel.Samples
	kinds      []packet.Kind // of samples that are on
	messages   app.Counts
	unlabelled uint64
	drained    time.Time
	slots      int
	flows      int
	series     map[string]int // by metric
	drift      map[driftKey]int64
}

// driftKey is one direction of an interface.
type driftKey struct {
	place
	direction flow.Direction
}

func newTelemetry(set otelreceiver.Settings, clock func() time.Time) (*telemetry, error) {
	b, err := metadata.NewTelemetryBuilder(set.TelemetrySettings)
	if err != nil {
		return nil, fmt.Errorf("create own telemetry: %w", err)
	}
	return &telemetry{
		TelemetryBuilder: b, receiver: attribute.String("receiver", set.ID.String()), // as the Collector's own counters have it
		clock: clock, drained: clock(), series: map[string]int{},
	}, nil
}

// with returns the attributes of one measurement.
func (t *telemetry) with(attrs ...attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributes(append(attrs, t.receiver)...)
}

// add adds what one drain took.
func (t *telemetry) add(d *kernel.Drained, flows int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ledger.Add(&d.Ledger)
	t.samples.Add(&d.Samples)
	t.drained, t.slots, t.flows = t.clock(), d.Slots, flows
}

func (t *telemetry) setSeries(name string, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.series[name] = n
}

// setDrift takes the drift of each attached interface.
func (t *telemetry) setDrift(byPlace map[flow.Place][2]int64, v *view, observed []flow.Direction) {
	drift := make(map[driftKey]int64, 2*len(byPlace))
	for p, d := range byPlace {
		for _, direction := range observed {
			drift[driftKey{v.of(p), direction}] = d[direction]
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drift = drift
}

func (t *telemetry) observeDrift(_ context.Context, o metric.Int64Observer) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, packets := range t.drift {
		attrs := []attribute.KeyValue{attribute.String(attrInterfaceName, k.iface), attribute.String(attrIODirection, directionName(k.direction))}
		if k.namespace != "" {
			attrs = append(attrs, attribute.String(attrNamespaceName, k.namespace))
		}
		o.Observe(packets, t.with(attrs...))
	}
	return nil
}

// countQuotes counts ICMP errors that say what became of another packet: those whose flow was found, those of a flow that is
// not known, and those whose quote was not kept.
func (t *telemetry) countQuotes(linked, unknown, lost int64) {
	for outcome, n := range map[string]int64{"linked": linked, "unknown_flow": unknown, "unread": lost} {
		if n > 0 {
			t.EbpfpacketsReceiverIcmpErrors.Add(context.Background(), n, t.with(attribute.String("link", outcome)))
		}
	}
}

func (t *telemetry) countShed(ctx context.Context, cause metadata.AttributeCause, n tally) {
	for event, count := range n.byEvent() {
		if count > 0 {
			t.EbpfpacketsReceiverRecordSheds.Add(ctx, count, t.with(
				attribute.String("event", event), attribute.String("cause", cause.String())))
		}
	}
	if n.flows > 0 { // also of flows without packets since their record before: who looks finds the cause
		attrs := t.with(attribute.String("cause", cause.String()))
		t.EbpfpacketsReceiverRecordShedPackets.Add(ctx, int64(n.volume.Packets), attrs)
		t.EbpfpacketsReceiverRecordShedIo.Add(ctx, int64(n.volume.Bytes), attrs)
	}
}

func (t *telemetry) countDelivered(ctx context.Context, n tally) {
	for event, count := range n.byEvent() {
		if count > 0 {
			t.EbpfpacketsReceiverRecords.Add(ctx, count, t.with(attribute.String("event", event)))
		}
	}
}

// countPointShed counts what no point will ever say.
func (t *telemetry) countPointShed(cause metadata.AttributeCause, v flow.Volume) {
	with := t.with(attribute.String("cause", cause.String()))
	if v.Packets > 0 {
		t.EbpfpacketsReceiverPointShedPackets.Add(context.Background(), int64(v.Packets), with)
	}
	if v.Bytes > 0 {
		t.EbpfpacketsReceiverPointShedIo.Add(context.Background(), int64(v.Bytes), with)
	}
}

// seen is the entry that is the sum of all others.
const seen = "seen"

// entries returns a ledger by the values of the attribute entry.
func entries(l *kernel.Ledger) map[string]flow.Volume {
	m := map[string]flow.Volume{seen: l.Seen}
	for r := range flow.ReasonCount {
		v := m[r.Entry()]
		v.Add(l.Entries[r])
		m[r.Entry()] = v
	}
	return m
}

// asked is what the asynchronous instruments ask beside the totals.
type asked struct {
	memory     int // bytes
	slots      int // of a region
	namespaces *namespaces
	maxFlows   int      // 0: no table of flows
	metrics    []string // enabled
	maxSeries  int
	kinds      []packet.Kind // of samples that are on
	protocols  []string      // whose messages are read
}

// register lets the collector ask. Only what exists is registered: a zero would say that it was looked at.
func (t *telemetry) register(o asked) error {
	errs := []error{
		t.RegisterEbpfpacketsReceiverLedgerPacketsCallback(t.observeLedger(func(v flow.Volume) uint64 { return v.Packets })),
		t.RegisterEbpfpacketsReceiverLedgerIoCallback(t.observeLedger(func(v flow.Volume) uint64 { return v.Bytes })),
		t.registerInterfaces(func(s attachState) int64 { return o.namespaces.places.counts[s].Load() }),
		t.RegisterEbpfpacketsReceiverDrainAgeCallback(func(_ context.Context, ob metric.Float64Observer) error {
			t.mu.Lock()
			defer t.mu.Unlock()
			ob.Observe(t.clock().Sub(t.drained).Seconds(), t.with())
			return nil
		}),
		t.RegisterEbpfpacketsReceiverTableSlotsCallback(t.observe(func() int { return t.slots })),
		t.RegisterEbpfpacketsReceiverTableSlotsLimitCallback(t.observe(func() int { return o.slots })),
		t.RegisterEbpfpacketsReceiverInterfaceDriftCallback(t.observeDrift),
		t.RegisterEbpfpacketsReceiverKernelMemoryCallback(t.observe(func() int { return o.memory })),
	}
	if o.maxFlows > 0 {
		errs = append(errs,
			t.RegisterEbpfpacketsReceiverFlowsCallback(t.observe(func() int { return t.flows })),
			t.RegisterEbpfpacketsReceiverFlowsLimitCallback(t.observe(func() int { return o.maxFlows })))
	}
	if len(o.metrics) > 0 {
		errs = append(errs,
			t.RegisterEbpfpacketsReceiverSeriesCallback(t.observeMetrics(o.metrics, func(name string) int { return t.series[name] })),
			t.RegisterEbpfpacketsReceiverSeriesLimitCallback(t.observeMetrics(o.metrics, func(string) int { return o.maxSeries })))
	}
	if t.kinds = o.kinds; len(o.kinds) > 0 {
		errs = append(errs, t.RegisterEbpfpacketsReceiverSamplesCallback(t.observeSamples))
	}
	if o.namespaces.others() {
		errs = append(errs, t.RegisterEbpfpacketsReceiverNamespacesCallback(t.observeNamespaces(o.namespaces)))
	}
	if len(o.protocols) > 0 {
		errs = append(errs, t.registerMessages(o.protocols))
	}
	return errors.Join(errs...)
}

// registerInterfaces lets the collector ask how many interfaces are in each state.
func (t *telemetry) registerInterfaces(count func(attachState) int64) error {
	return t.RegisterEbpfpacketsReceiverInterfacesCallback(func(_ context.Context, o metric.Int64Observer) error {
		for state, name := range map[attachState]metadata.AttributeState{
			stateAttached: metadata.AttributeStateAttached,
			statePending:  metadata.AttributeStatePending,
			stateFailed:   metadata.AttributeStateFailed,
		} {
			o.Observe(count(state), t.with(attribute.String("state", name.String())))
		}
		return nil
	})
}

// observeNamespaces lets the collector ask how many network namespaces are in each state.
func (t *telemetry) observeNamespaces(n *namespaces) metric.Int64Callback {
	return func(_ context.Context, o metric.Int64Observer) error {
		for state, name := range map[spaceState]metadata.AttributeNamespaceState{
			spaceObserved: metadata.AttributeNamespaceStateObserved,
			spaceFailed:   metadata.AttributeNamespaceStateFailed,
			spaceExcess:   metadata.AttributeNamespaceStateExcess,
			spaceRefused:  metadata.AttributeNamespaceStateRefused,
		} {
			o.Observe(n.counts[state].Load(), t.with(attribute.String("state", name.String())))
		}
		return nil
	}
}

func (t *telemetry) observe(value func() int) metric.Int64Callback {
	return func(_ context.Context, o metric.Int64Observer) error {
		t.mu.Lock()
		defer t.mu.Unlock()
		o.Observe(int64(value()), t.with())
		return nil
	}
}

func (t *telemetry) observeMetrics(names []string, value func(name string) int) metric.Int64Callback {
	return func(_ context.Context, o metric.Int64Observer) error {
		t.mu.Lock()
		defer t.mu.Unlock()
		for _, name := range names {
			o.Observe(int64(value(name)), t.with(attribute.String("metric", name)))
		}
		return nil
	}
}

func (t *telemetry) observeLedger(value func(flow.Volume) uint64) metric.Int64Callback {
	return func(_ context.Context, o metric.Int64Observer) error {
		t.mu.Lock()
		defer t.mu.Unlock()
		for entry, v := range entries(&t.ledger) {
			o.Observe(int64(value(v)), t.with(attribute.String("entry", entry)))
		}
		return nil
	}
}

func (t *telemetry) observeSamples(_ context.Context, o metric.Int64Observer) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, kind := range t.kinds {
		counts := &t.samples[kind]
		for outcome, n := range map[metadata.AttributeOutcome]uint64{
			metadata.AttributeOutcomeSelected:    counts.Selected,
			metadata.AttributeOutcomeEmitted:     counts.Emitted,
			metadata.AttributeOutcomeRateLimited: counts.RateLimited,
			metadata.AttributeOutcomeRingFull:    counts.RingFull,
		} {
			o.Observe(int64(n), t.with(attribute.String("outcome", outcome.String()), attribute.String("reason", kind.String())))
		}
	}
	return nil
}

// setMessages takes what became of messages, and of what they said of flows, since Start.
func (t *telemetry) setMessages(c app.Counts, labelsPushedOut uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.messages, t.unlabelled = c, labelsPushedOut
}

// registerMessages lets the collector ask what became of messages, and of requests that wait for a response.
func (t *telemetry) registerMessages(protocols []string) error {
	each := func(observe func(p app.Protocol, o func(n uint64, outcome string))) metric.Int64Callback {
		return func(_ context.Context, o metric.Int64Observer) error {
			t.mu.Lock()
			defer t.mu.Unlock()
			for p := range app.ProtocolCount {
				if !slices.Contains(protocols, p.String()) {
					continue
				}
				observe(p, func(n uint64, outcome string) {
					o.Observe(int64(n), t.with(attribute.String("protocol", p.String()), attribute.String("outcome", outcome)))
				})
			}
			return nil
		}
	}
	return errors.Join(
		t.RegisterEbpfpacketsReceiverMessagesCallback(each(func(p app.Protocol, o func(uint64, string)) {
			o(t.messages.Told[p], "told")
			for cause := range app.CauseCount {
				o(t.messages.GivenUp[p][cause], cause.String())
			}
		})),
		t.RegisterEbpfpacketsReceiverRequestsCallback(each(func(p app.Protocol, o func(uint64, string)) {
			o(t.messages.Answered[p], "answered")
			o(t.messages.Unanswered[p], "unanswered")
			o(t.messages.Unknown[p], "unknown")
			o(t.messages.Forgotten[p], "forgotten")
		})),
		t.RegisterEbpfpacketsReceiverMessageConflictsCallback(t.observe(func() int { return int(t.messages.Conflicts) })),
		t.RegisterEbpfpacketsReceiverFlowLabelEvictionsCallback(t.observe(func() int { return int(t.unlabelled) })),
	)
}

// summary says the ledger in words, for the log line at the end.
func (t *telemetry) summary() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var unparsed, notIP flow.Volume
	for r := range flow.ReasonCount {
		switch r.Entry() {
		case "accounted", "filtered", "duplicate", "overflow":
		case "not_ip":
			notIP.Add(t.ledger.Entries[r])
		default:
			unparsed.Add(t.ledger.Entries[r])
		}
	}
	words := func(v flow.Volume) string { return fmt.Sprintf("%d packets (%d bytes)", v.Packets, v.Bytes) }
	return fmt.Sprintf("Final ledger: seen %s = accounted %s + filtered %s + duplicate %s + overflow %s + not IP %s + unparsed %s", words(t.ledger.Seen),
		words(t.ledger.Entries[flow.ReasonAccounted]), words(t.ledger.Entries[flow.ReasonFiltered]),
		words(t.ledger.Entries[flow.ReasonDuplicate]), words(t.ledger.Entries[flow.ReasonOverflow]), words(notIP), words(unparsed))
}
