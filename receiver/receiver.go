// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	otelreceiver "go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receiverhelper"
	"go.uber.org/zap"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

// flushTimeout is how long Shutdown says what was counted. The Collector's own context has no deadline.
const flushTimeout = 10 * time.Second

// engine counts for all pipelines of one configuration. Its parts:
//
//	drain loop       source ─▶ table, metrics, ended flows      every drainInterval, or when a table is half full
//	sample loop      source ─▶ decoded samples                  every sampleInterval
//	interface loops  host ─▶ attach, detach                     one for each network namespace, and one that looks for these
//	pushers          queues ─▶ next consumers                   one for each signal; the loops never wait for them
//
// Everything that the table and the metrics hold belongs to the drain loop, and to shutdown once the loops have ended.
type engine struct {
	cfg   *Config
	set   otelreceiver.Settings
	log   *zap.Logger
	host  platform
	clock func() time.Time
	name  func() (string, error) // of the host
	flush time.Duration          // of shutdown

	version string // of everything that is emitted

	observers *observers // of all receivers of the process

	nextMetrics consumer.Metrics // nil: no metrics pipeline
	nextLogs    consumer.Logs    // nil: no logs pipeline

	status     status
	tel        *telemetry
	source     source
	namespaces *namespaces
	places     places
	resource   pcommon.Resource

	metrics       *metrics    // nil: nothing to collect
	table         *flow.Table // nil: nothing needs conversations
	logs          *logsPusher // nil: no records
	metricsPusher *metricsPusher
	flowRecords   bool
	packetRecords bool
	packets       PacketsConfig  // with the kinds of samples that a record says something of; none without logs pipeline
	messages      *messageReader // nil: none are read

	drain  drainState
	cancel context.CancelFunc // ends the loops; nil: not running
	loops  sync.WaitGroup
	push   pushState
}

// pushState belongs to the goroutines that call consumers.
type pushState struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
}

func newEngine(cfg *Config, set otelreceiver.Settings, host platform) *engine {
	return &engine{
		cfg: cfg, set: set, log: set.Logger, host: host, observers: &observers{},
		clock: time.Now, name: os.Hostname, flush: flushTimeout, version: moduleVersion(),
	}
}

// start loads, attaches for a bounded time, and leaves the rest to the loops.
func (e *engine) start(context.Context) error {
	e.log.Info("Starting ebpfpackets", zap.String("version", e.version))
	err := e.load()
	if err == nil {
		err = e.attach()
	}
	if err == nil {
		e.run()
		return nil
	}
	err = errors.Join(err, e.release())
	if e.cfg.ErrorMode == errorModeIgnore {
		e.log.Error("Start failed; this receiver emits nothing (error_mode: ignore)", zap.Error(err))
		e.status.end(err)
		return e.observeNothing()
	}
	return err
}

// observeNothing lets own telemetry say that a receiver that failed to start counts at no interface.
func (e *engine) observeNothing() (err error) {
	if e.tel, err = newTelemetry(e.set, e.clock); err != nil {
		return err
	}
	return e.tel.registerInterfaces(func(attachState) int64 { return 0 })
}

// load builds what the pipelines need, and no more.
func (e *engine) load() error {
	var err error
	if e.tel, err = newTelemetry(e.set, e.clock); err != nil {
		return err
	}
	obs, err := receiverhelper.NewObsReport(receiverhelper.ObsReportSettings{
		ReceiverID: e.set.ID, Transport: "ebpf", ReceiverCreateSettings: e.set,
	})
	if err != nil {
		return fmt.Errorf("create obsreport: %w", err)
	}
	if err := e.nameHost(); err != nil {
		return err
	}
	low := e.host.ephemeralLow()
	e.drain.time = e.clock().UnixNano()
	e.drain.collected = e.drain.time
	e.planLogs(obs)
	e.planMetrics(obs, low)
	if e.flowRecords || e.metrics != nil && e.metrics.needsTable() {
		e.table = flow.NewTable(flow.Config{
			MaxFlows:      e.cfg.Flows.MaxFlows,
			IdleTimeout:   e.cfg.Flows.IdleTimeout,
			ActiveTimeout: e.cfg.Flows.ActiveTimeout,
			Scope:         e.cfg.scope(),
			EphemeralLow:  low,
		})
	}
	filters, err := e.cfg.kernelFilters()
	if err != nil {
		return err
	}
	e.source, err = e.host.load(sourceConfig{
		filters: filters, tunnels: e.cfg.Tunnels == tunnelsInner, quotes: e.flowRecords,
		samples: e.samples(), packets: e.packets, idle: e.cfg.Flows.IdleTimeout,
		last: e.cfg.AttachOrder == attachLast, once: e.cfg.Interfaces.Deduplicate, enter: e.cfg.observesOthers(),
	}, func(what string) { e.log.Warn("Kernel: " + what) })
	if err == nil {
		e.tellMissing(e.source.Missing())
	}
	return err
}

// tellMissing says what the kernel lacks and the receiver does without: once in the log, and in the status.
func (e *engine) tellMissing(features []string) {
	for _, f := range features {
		e.log.Warn("Kernel: " + f)
	}
	if len(features) > 0 {
		e.status.detail("kernel", strings.Join(features, "; "))
	}
}

// nameHost builds the resource of everything that is emitted.
func (e *engine) nameHost() error {
	b := metadata.NewResourceBuilder(e.cfg.MetricsBuilder.ResourceAttributes)
	if e.cfg.MetricsBuilder.ResourceAttributes.HostName.Enabled {
		name, err := e.name()
		if err != nil {
			return fmt.Errorf("get host.name (resource_attributes can turn it off): %w", err)
		}
		b.SetHostName(name)
	}
	e.resource = b.Emit()
	return nil
}

func (e *engine) planLogs(obs *receiverhelper.ObsReport) {
	if e.nextLogs == nil {
		e.log.Info("No logs pipeline: no flow records, no samples")
		return
	}
	events := &e.cfg.LogsBuilder.Events
	e.flowRecords = events.NetworkFlow.Enabled
	if !e.flowRecords {
		e.log.Info("Event network.flow is off: no flow records")
	}
	e.planSamples(events.NetworkPacket.Enabled)
	if !e.flowRecords && !e.packetRecords {
		return
	}
	if len(e.packets.Protocols) > 0 {
		e.messages = newMessageReader(e.cfg, e.flowRecords)
		if c := e.cfg.messages(); c.DNS && c.OneWay {
			e.log.Info("directions names one direction alone: answers of DNS pass in the other one, so no question is told as timed out")
		}
	}
	e.drain.limit = newRecordLimit(e.cfg.Flows.MaxRecordsPerSecond, e.drain.time)
	e.logs = &logsPusher{
		next: e.nextLogs,
		writer: logsWriter{
			resource: e.resource, version: e.version, networks: newNetworks(e.cfg.Networks),
			packets: packetWriter{oneIn: e.cfg.Packets.RandomOneIn, flowOneIn: e.cfg.Packets.FlowOneIn, payload: e.cfg.Packets.Payload},
		},
		obs: obs, tel: e.tel, log: e.log, delays: retryDelays,
		queue: make(chan *batch, queueLength(e.cfg.Flows.MaxFlows)), room: queueBytes(e.cfg.Flows.MaxFlows), ending: make(chan struct{}),
	}
}

// queueLength is in messages. Few of them are full: those of samples come each second.
func queueLength(maxFlows int) int { return 16 + 2*maxFlows/maxRecords }

// queueBytes is room for every flow of a full table to end, and for samples.
func queueBytes(maxFlows int) int64 { return 5e6 + int64(maxFlows)*recordBytes }

func (e *engine) planMetrics(obs *receiverhelper.ObsReport, ephemeralLow uint16) {
	if e.nextMetrics == nil {
		e.log.Info("No metrics pipeline: no series")
		return
	}
	e.metrics = newMetrics(e.cfg, e.drain.time, ephemeralLow)
	if e.metrics == nil {
		e.log.Info("All metrics are off: no series")
		return
	}
	e.metricsPusher = newMetricsPusher(e.nextMetrics, obs, e.log)
}

// planSamples leaves out the samples of which no record would say anything. Of messages those of flows do.
func (e *engine) planSamples(packetRecords bool) {
	e.packets = e.cfg.Packets
	if !packetRecords {
		e.packets.RandomOneIn, e.packets.FlowOneIn, e.packets.FirstPerFlow = 0, 0, 0
		if !e.flowRecords {
			e.packets.Protocols = nil
		}
	}
	e.packetRecords = packetRecords && e.samples()
	switch {
	case e.packetRecords:
	case packetRecords:
		e.log.Info("packets.random_one_in, flow_one_in and first_per_flow are 0, and protocols is empty: no samples")
	case e.samples():
		e.log.Info("Event network.packet is off: no samples but of messages, which flow records name the protocol and the server of")
	default:
		e.log.Info("Event network.packet is off: no samples")
	}
}

// samples reports whether packets are sampled, for whatever records.
func (e *engine) samples() bool { return len(e.packets.kinds()) > 0 }

// attach attaches what it can in the time that Start has.
func (e *engine) attach() error {
	selector, err := iface.ParseSelector(e.cfg.Interfaces.Include, e.cfg.Interfaces.Exclude)
	if err != nil {
		return fmt.Errorf("interfaces.%w", err) // it begins with the key
	}
	e.namespaces, err = newNamespaces(e.cfg, e.host, e.source, &interfaces{
		selector: selector, include: e.cfg.Interfaces.Include,
		directions: e.cfg.flowDirections(), once: e.cfg.Interfaces.Deduplicate,
		keepNames: e.cfg.keepNames(),
		tel:       e.tel,
		receiver:  e.set.ID, observers: e.observers,
		log: e.log, status: &e.status, clock: e.clock,
	}, &e.places)
	if err != nil {
		return err
	}
	if err := e.tel.register(e.asked()); err != nil {
		return fmt.Errorf("register own telemetry: %w", err)
	}
	return e.namespaces.start(context.Background(), e.clock().Add(attachTimeout))
}

func (e *engine) asked() asked {
	o := asked{
		memory: e.source.MemoryBytes(), slots: e.source.SlotLimit(), namespaces: e.namespaces,
		maxSeries: e.cfg.CardinalityLimit,
	}
	o.kinds = e.packets.kinds()
	if e.messages != nil {
		o.protocols = e.packets.Protocols
	}
	if e.table != nil {
		o.maxFlows = e.cfg.Flows.MaxFlows
	}
	if e.metrics != nil {
		for name := range e.metrics.series() {
			o.metrics = append(o.metrics, name)
		}
	}
	return o
}

// run starts the goroutines.
func (e *engine) run() {
	ctx, cancel := context.WithCancel(context.Background())
	e.cancel = cancel
	pushCtx, cancelPush := context.WithCancel(context.Background())
	e.push.cancel = cancelPush
	if e.logs != nil {
		e.push.done.Go(func() { e.logs.run(pushCtx) })
	}
	if e.metricsPusher != nil {
		e.push.done.Go(func() { e.metricsPusher.run(pushCtx) })
	}
	e.loops.Go(func() { e.drainLoop(ctx) })
	if e.samples() {
		e.loops.Go(func() { e.sampleLoop(ctx) })
	}
	e.namespaces.run(ctx)
}

func (e *engine) running() bool { return e.cancel != nil }

// shutdown stops counting, then says everything that was counted, as far as ctx and flushTimeout allow, then lets go of
// the kernel.
func (e *engine) shutdown(ctx context.Context) error {
	if !e.running() { // never started, or failed to
		return e.release()
	}
	e.cancel()
	e.loops.Wait()
	e.namespaces.end()
	err := e.source.Stop()
	ctx, cancel := context.WithTimeout(ctx, e.flush)
	defer cancel()
	stop := context.AfterFunc(ctx, e.push.cancel)
	defer stop()
	if e.logs != nil {
		close(e.logs.ending)
	}
	err = errors.Join(err, e.finish())
	e.deliver(ctx)
	err = errors.Join(err, e.lost(ctx))
	e.log.Info(e.tel.summary())
	return errors.Join(err, e.release())
}

// release lets go of everything that load made.
func (e *engine) release() error {
	var err error
	if e.tel != nil {
		e.tel.Shutdown()
	}
	if e.namespaces != nil {
		err = e.namespaces.letGo()
		e.namespaces = nil
	}
	if e.source != nil {
		err = errors.Join(err, e.source.Close())
		e.source = nil
	}
	return err
}
