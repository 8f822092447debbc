// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/collector/component"

	"github.com/ebpfpackets/ebpfpackets/internal/app"
	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
	"github.com/ebpfpackets/ebpfpackets/internal/netns"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

// What a value may be. Validate's messages and the README quote these.
const (
	minInterval       = 100 * time.Millisecond // of a collection: a drain waits for the kernel up to 16 ms
	minFlowTimeout    = time.Second
	maxFlowsLimit     = 1 << 22   // about 1.6 GiB of table, and 0.25 of memory for ended flows
	maxFlowRecords    = 1_000_000 // a second
	maxOneIn          = 1 << 30
	maxFirst          = 1000      // packets of a flow
	maxSamples        = 1_000_000 // a second
	minSeries         = 2         // one series and the overflow point
	minSnapLength     = 128       // Ethernet, two tags, IPv6 and TCP with all of its options: 122 bytes
	maxSnapLength     = 9216
	maxDrainInterval  = 5 * time.Second
	drainsPerIdleTime = 3
)

// Config is the user's configuration. A key that is not here is an error.
type Config struct {
	// Interfaces says where to attach.
	Interfaces InterfacesConfig `mapstructure:"interfaces"`
	// Directions to count, as the interface sees them: ingress, egress.
	Directions []string `mapstructure:"directions"`
	// Namespaces are the network namespaces that are observed: host, the collector's own, paths and globs.
	Namespaces []string `mapstructure:"namespaces"`
	// AttachOrder says whether the programs are before or behind those of others: first or last.
	AttachOrder string `mapstructure:"attach_order"`
	// Tunnels says whose flow a packet inside of a tunnel belongs to: outer or inner.
	Tunnels string `mapstructure:"tunnels"`
	// Filters leave packets out, in the kernel.
	Filters []FilterConfig `mapstructure:"filters"`
	// CollectionInterval is how often metrics leave.
	CollectionInterval time.Duration `mapstructure:"collection_interval"`
	// AggregationTemporality of sums that only grow: cumulative or delta.
	AggregationTemporality string `mapstructure:"aggregation_temporality"`
	// CardinalityLimit is how many series a metric may have, the overflow point included.
	CardinalityLimit int `mapstructure:"cardinality_limit"`
	// SeriesTimeout drops a series without traffic; with traffic again it restarts with a new start time.
	SeriesTimeout time.Duration `mapstructure:"series_timeout"`
	// Networks gives addresses the names that source.cidr and destination.cidr say.
	Networks []NetworkConfig `mapstructure:"networks"`
	// Flows bounds the table of conversations.
	Flows FlowsConfig `mapstructure:"flows"`
	// Packets says which packets become samples.
	Packets PacketsConfig `mapstructure:"packets"`
	// ErrorMode says what a failed Start does to the collector: propagate or ignore.
	ErrorMode string `mapstructure:"error_mode"`
	// MetricsBuilder holds the keys metrics and resource_attributes.
	MetricsBuilder metadata.MetricsBuilderConfig `mapstructure:",squash"`
	// LogsBuilder holds the keys events and resource_attributes.
	LogsBuilder metadata.LogsBuilderConfig `mapstructure:",squash"`

	_ struct{} // forbids unkeyed literals
}

// InterfacesConfig selects interfaces by name, glob or kind:<kind>.
type InterfacesConfig struct {
	Include []string `mapstructure:"include"`
	Exclude []string `mapstructure:"exclude"` // wins over Include
	// Deduplicate counts a packet that crosses several selected interfaces at one of them.
	Deduplicate bool `mapstructure:"deduplicate"`

	_ struct{}
}

// FlowsConfig bounds the table of conversations and says when one ends.
type FlowsConfig struct {
	MaxFlows      int           `mapstructure:"max_flows"`
	IdleTimeout   time.Duration `mapstructure:"idle_timeout"`   // without a packet for so long, it has ended
	ActiveTimeout time.Duration `mapstructure:"active_timeout"` // a longer one is reported so often while it goes on
	// MaxRecordsPerSecond limits the network.flow records of the whole receiver; what one minute left over is saved up.
	MaxRecordsPerSecond int `mapstructure:"max_records_per_second"`

	_ struct{}
}

// PacketsConfig says which packets become samples.
type PacketsConfig struct {
	RandomOneIn  int `mapstructure:"random_one_in"`  // 0: none at random
	FlowOneIn    int `mapstructure:"flow_one_in"`    // every packet of one flow in so many; 0: of none
	FirstPerFlow int `mapstructure:"first_per_flow"` // the first packets of every flow; 0: none
	// Protocols whose messages are read: dns, tls, http. Names and paths leave the host when set.
	Protocols    []string `mapstructure:"protocols"`
	HTTPPath     bool     `mapstructure:"http_path"`      // false: no url.path
	MaxPerSecond int      `mapstructure:"max_per_second"` // of the whole receiver, for each kind of samples
	SnapLength   int      `mapstructure:"snap_length"`    // bytes copied from the link header on
	// Payload says whether the copied bytes leave the host, as packet.data; without it, nothing behind a transport header does.
	Payload bool `mapstructure:"payload"`

	_ struct{}
}

// The values of packets.protocols.
const (
	protocolDNS  = "dns"
	protocolTLS  = "tls"
	protocolHTTP = "http"
)

// protocols are those that messages can be read of, as the kernel program has them.
var protocols = map[string]kernel.Protocols{
	protocolDNS: kernel.ProtocolDNS, protocolTLS: kernel.ProtocolTLS, protocolHTTP: kernel.ProtocolHTTP,
}

func (c *PacketsConfig) validateProtocols() error {
	for i, p := range c.Protocols {
		if protocols[p] == 0 {
			return fmt.Errorf("packets.protocols must be any of dns, tls and http, got %q", p)
		}
		if slices.Contains(c.Protocols[:i], p) {
			return fmt.Errorf("packets.protocols must name each protocol once, got %q twice", p)
		}
	}
	return nil
}

func (c *PacketsConfig) kernelProtocols() (all kernel.Protocols) {
	for _, p := range c.Protocols {
		all |= protocols[p]
	}
	return all
}

// messages is what is read of the packets that the kernel program finds.
func (c *Config) messages() app.Config {
	on := func(p string) bool { return slices.Contains(c.Packets.Protocols, p) }
	return app.Config{
		DNS: on(protocolDNS), TLS: on(protocolTLS), HTTP: on(protocolHTTP), HTTPPath: c.Packets.HTTPPath, OneWay: len(c.Directions) == 1, Scope: c.scope(),
	}
}

// keepNames is for how long the name of an interface that is gone stays known: until the flows that it left behind are told. With
// deduplicate they may go on at another.
func (c *Config) keepNames() time.Duration {
	keep := c.Flows.IdleTimeout + 2*maxDrainInterval
	if c.Interfaces.Deduplicate {
		keep += c.Flows.ActiveTimeout
	}
	return keep
}

// scope says where the two directions of a conversation may count.
func (c *Config) scope() flow.Scope {
	if c.Interfaces.Deduplicate {
		return flow.ScopeNamespace
	}
	return flow.ScopeInterface
}

// The values of error_mode.
const (
	errorModePropagate = "propagate" // the collector does not start
	errorModeIgnore    = "ignore"    // the collector starts; this receiver emits nothing
)

// The values of tunnels.
const (
	tunnelsOuter = "outer" // the packets between the ends of the tunnel
	tunnelsInner = "inner" // the packets that it carries
)

// The values of attach_order.
const (
	attachFirst = "first" // nothing hides packets
	attachLast  = "last"  // what others end is not counted
)

// The values of aggregation_temporality.
const (
	temporalityCumulative = "cumulative"
	temporalityDelta      = "delta"
)

// The values of directions.
const (
	directionIngress = "ingress"
	directionEgress  = "egress"
)

func createDefaultConfig() component.Config {
	return &Config{
		Interfaces:             InterfacesConfig{Include: []string{"kind:uplink"}},
		Directions:             []string{directionIngress, directionEgress},
		AttachOrder:            attachFirst,
		Namespaces:             []string{netns.Host},
		Tunnels:                tunnelsOuter,
		CollectionInterval:     30 * time.Second,
		AggregationTemporality: temporalityCumulative,
		CardinalityLimit:       2000,
		SeriesTimeout:          5 * time.Minute,
		Flows:                  FlowsConfig{MaxFlows: 65536, IdleTimeout: 15 * time.Second, ActiveTimeout: time.Minute, MaxRecordsPerSecond: 500},
		Packets:                PacketsConfig{RandomOneIn: 1000, HTTPPath: true, MaxPerSecond: 100, SnapLength: 256},
		ErrorMode:              errorModePropagate,
		MetricsBuilder:         metadata.NewDefaultMetricsBuilderConfig(),
		LogsBuilder:            metadata.DefaultLogsBuilderConfig(),
	}
}

// Validate names every bad value, its key, and what would be right. It never looks at the host.
func (c *Config) Validate() error {
	return errors.Join(
		c.Interfaces.validate(),
		c.validateDirections(),
		c.validateAttachOrder(),
		c.validateNamespaces(),
		c.validateTunnels(),
		c.validateFilters(),
		c.validateSeries(),
		c.validateNetworks(),
		c.Flows.validate(),
		c.Packets.validate(),
		c.validateErrorMode(),
		c.validateMetrics(),
		c.validateResource(),
	)
}

func (c *InterfacesConfig) validate() error {
	if len(c.Include) == 0 {
		return errors.New(`interfaces.include must name at least one interface, glob or kind, for example "eth0", "eth*" or "kind:uplink", got none`)
	}
	if _, err := iface.ParseSelector(c.Include, c.Exclude); err != nil {
		return fmt.Errorf("interfaces.%w", err) // it begins with the key
	}
	return nil
}

func (c *Config) validateDirections() error {
	if len(c.Directions) == 0 {
		return errors.New("directions must be ingress, egress or both, got none")
	}
	for i, d := range c.Directions {
		if d != directionIngress && d != directionEgress {
			return fmt.Errorf("directions must be ingress, egress or both, got %q", d)
		}
		if slices.Contains(c.Directions[:i], d) {
			return fmt.Errorf("directions must name each direction once, got %q twice", d)
		}
	}
	return nil
}

func (c *Config) validateSeries() error {
	var errs error
	if c.CollectionInterval < minInterval {
		errs = errors.Join(errs, fmt.Errorf("collection_interval must be at least %v, got %v", minInterval, c.CollectionInterval))
	}
	if c.AggregationTemporality != temporalityCumulative && c.AggregationTemporality != temporalityDelta {
		errs = errors.Join(errs, fmt.Errorf("aggregation_temporality must be %s or %s, got %q", temporalityCumulative, temporalityDelta, c.AggregationTemporality))
	}
	if c.CardinalityLimit < minSeries {
		errs = errors.Join(errs, fmt.Errorf("cardinality_limit must be at least %d (one series and the overflow point), got %d", minSeries, c.CardinalityLimit))
	}
	if c.SeriesTimeout < c.CollectionInterval {
		errs = errors.Join(errs, fmt.Errorf("series_timeout must be at least collection_interval (%v), got %v", c.CollectionInterval, c.SeriesTimeout))
	}
	return errs
}

func (c *FlowsConfig) validate() error {
	var errs error
	if c.MaxFlows < 1 || c.MaxFlows > maxFlowsLimit {
		errs = errors.Join(errs, fmt.Errorf("flows.max_flows must be between 1 and %d, got %d", maxFlowsLimit, c.MaxFlows))
	}
	if c.IdleTimeout < minFlowTimeout {
		errs = errors.Join(errs, fmt.Errorf("flows.idle_timeout must be at least %v, got %v", minFlowTimeout, c.IdleTimeout))
	}
	if c.ActiveTimeout < minFlowTimeout {
		errs = errors.Join(errs, fmt.Errorf("flows.active_timeout must be at least %v, got %v", minFlowTimeout, c.ActiveTimeout))
	}
	if c.MaxRecordsPerSecond < 1 || c.MaxRecordsPerSecond > maxFlowRecords {
		errs = errors.Join(errs, fmt.Errorf("flows.max_records_per_second must be between 1 and %d (events: network.flow: enabled: false turns the records off), got %d", maxFlowRecords, c.MaxRecordsPerSecond))
	}
	return errs
}

func (c *PacketsConfig) validate() error {
	var errs error
	if c.RandomOneIn < 0 || c.RandomOneIn > maxOneIn {
		errs = errors.Join(errs, fmt.Errorf("packets.random_one_in must be between 0 (none at random) and %d, got %d", maxOneIn, c.RandomOneIn))
	}
	if c.FlowOneIn < 0 || c.FlowOneIn > maxOneIn {
		errs = errors.Join(errs, fmt.Errorf("packets.flow_one_in must be between 0 (of no flow) and %d, got %d", maxOneIn, c.FlowOneIn))
	}
	if c.FirstPerFlow < 0 || c.FirstPerFlow > maxFirst {
		errs = errors.Join(errs, fmt.Errorf("packets.first_per_flow must be between 0 (none) and %d, got %d", maxFirst, c.FirstPerFlow))
	}
	errs = errors.Join(errs, c.validateProtocols())
	if c.MaxPerSecond < 1 || c.MaxPerSecond > maxSamples {
		errs = errors.Join(errs, fmt.Errorf("packets.max_per_second must be between 1 and %d (events: network.packet: enabled: false turns samples off), got %d", maxSamples, c.MaxPerSecond))
	}
	if c.SnapLength < minSnapLength || c.SnapLength > maxSnapLength {
		errs = errors.Join(errs, fmt.Errorf("packets.snap_length must be between %d and %d, got %d", minSnapLength, maxSnapLength, c.SnapLength))
	}
	return errs
}

// kinds are the kinds of samples that are on.
func (c *PacketsConfig) kinds() (on []packet.Kind) {
	for kind, setting := range [packet.KindCount]int{
		packet.KindRandom: c.RandomOneIn, packet.KindFlow: c.FlowOneIn, packet.KindFirst: c.FirstPerFlow,
		packet.KindProtocol: len(c.Protocols),
	} {
		if setting > 0 {
			on = append(on, packet.Kind(kind))
		}
	}
	return on
}

func (c *Config) validateAttachOrder() error {
	if c.AttachOrder != attachFirst && c.AttachOrder != attachLast {
		return fmt.Errorf("attach_order must be %s or %s, got %q", attachFirst, attachLast, c.AttachOrder)
	}
	return nil
}

func (c *Config) validateNamespaces() error {
	if len(c.Namespaces) == 0 {
		return errors.New(`namespaces must name at least one network namespace, for example "host" or "/run/netns/*", got none`)
	}
	if _, _, err := netns.ParsePatterns(c.Namespaces); err != nil {
		return fmt.Errorf("namespaces: %w", err)
	}
	return nil
}

// observesOthers reports whether network namespaces beside the collector's own may be observed, and names are told.
func (c *Config) observesOthers() bool {
	return slices.ContainsFunc(c.Namespaces, func(text string) bool { return text != netns.Host })
}

func (c *Config) validateTunnels() error {
	if c.Tunnels != tunnelsOuter && c.Tunnels != tunnelsInner {
		return fmt.Errorf("tunnels must be %s or %s, got %q", tunnelsOuter, tunnelsInner, c.Tunnels)
	}
	return nil
}

func (c *Config) validateErrorMode() error {
	if c.ErrorMode != errorModePropagate && c.ErrorMode != errorModeIgnore {
		return fmt.Errorf("error_mode must be %s or %s, got %q", errorModePropagate, errorModeIgnore, c.ErrorMode)
	}
	return nil
}

// validateMetrics refuses what mdatagen's configuration offers and these metrics cannot mean: the points of a sum add up.
func (c *Config) validateMetrics() error {
	m := &c.MetricsBuilder.Metrics
	var errs error
	for _, s := range []struct{ metric, strategy string }{
		{metadata.MetricsInfo.NetworkFlowActive.Name, m.NetworkFlowActive.AggregationStrategy},
		{metadata.MetricsInfo.NetworkFlowIo.Name, m.NetworkFlowIo.AggregationStrategy},
		{metadata.MetricsInfo.NetworkFlowPackets.Name, m.NetworkFlowPackets.AggregationStrategy},
	} {
		if s.strategy != metadata.AggregationStrategySum {
			errs = errors.Join(errs, fmt.Errorf("metrics: %s: aggregation_strategy must be sum, got %q", s.metric, s.strategy))
		}
	}
	return errs
}

// validateResource refuses mdatagen's experimental filters: there is one resource, so they could only drop everything.
func (c *Config) validateResource() error {
	for _, r := range []metadata.ResourceAttributeConfig{c.MetricsBuilder.ResourceAttributes.HostName, c.LogsBuilder.ResourceAttributes.HostName} {
		if len(r.MetricsInclude)+len(r.MetricsExclude)+len(r.EventsInclude)+len(r.EventsExclude) > 0 {
			return errors.New("resource_attributes: host.name: only enabled is supported; use a filter processor to include or exclude data")
		}
	}
	return nil
}

// drainInterval is how often the kernel's counters are taken: often enough for the idle timeout to mean something.
func (c *Config) drainInterval() time.Duration {
	return min(c.CollectionInterval, c.Flows.IdleTimeout/drainsPerIdleTime, maxDrainInterval)
}

func (c *Config) flowDirections() []flow.Direction {
	var ds []flow.Direction
	if slices.Contains(c.Directions, directionIngress) {
		ds = append(ds, flow.DirectionIngress)
	}
	if slices.Contains(c.Directions, directionEgress) {
		ds = append(ds, flow.DirectionEgress)
	}
	return ds
}
