// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

// loadConfig returns the configuration called name in a file of testdata.
func loadConfig(t *testing.T, file, name string) (*Config, error) {
	t.Helper()
	cm, err := confmaptest.LoadConf(filepath.Join("testdata", file))
	require.NoError(t, err)
	sub, err := cm.Sub(component.NewIDWithName(metadata.Type, name).String())
	require.NoError(t, err)
	cfg := createDefaultConfig().(*Config)
	if err := sub.Unmarshal(cfg); err != nil {
		return nil, err
	}
	return cfg, confmap.Validate(cfg)
}

func TestDefaultConfigIsValid(t *testing.T) {
	cfg, err := loadConfig(t, "config.yaml", "")
	require.NoError(t, err)
	assert.Equal(t, createDefaultConfig(), cfg)
}

func TestConfigTakesEveryKey(t *testing.T) {
	cfg, err := loadConfig(t, "config.yaml", "all")
	require.NoError(t, err)
	want := createDefaultConfig().(*Config)
	want.Interfaces = InterfacesConfig{Include: []string{"eth0", "wlan*", "kind:veth"}, Exclude: []string{"eth1"}, Deduplicate: true}
	want.Directions = []string{"egress"}
	want.AttachOrder = attachLast
	want.Namespaces = []string{"host", "/run/netns/web-*", "/proc/1234/ns/net"}
	want.Tunnels = tunnelsInner
	noPort, exports := 0, 4317
	want.Filters = []FilterConfig{
		{Action: "count", CIDR: "10.0.0.1/32", Port: &noPort},
		{Action: "count", Protocol: "0"},
		{Action: "skip", CIDR: "2001:db8::/32", Protocol: "ipv6-icmp"},
		{Action: "skip", Port: &exports, Protocol: "tcp"},
	}
	want.CollectionInterval = 10 * time.Second
	want.CardinalityLimit = 500
	want.SeriesTimeout = time.Minute
	want.Flows = FlowsConfig{MaxFlows: 1000, IdleTimeout: 3 * time.Second, ActiveTimeout: 30 * time.Second, MaxRecordsPerSecond: 50}
	want.Packets = PacketsConfig{RandomOneIn: 50, FlowOneIn: 70, FirstPerFlow: 3, Protocols: []string{"dns", "http"}, MaxPerSecond: 20, SnapLength: 128, Payload: true}
	want.AggregationTemporality = temporalityDelta
	want.Networks = []NetworkConfig{{Name: "office", CIDR: "10.0.0.0/8"}, {CIDR: "2001:db8::/32"}}
	want.ErrorMode = errorModeIgnore
	want.MetricsBuilder, want.LogsBuilder = cfg.MetricsBuilder, cfg.LogsBuilder // below
	assert.Equal(t, want, cfg)
	requireNoDefault(t, reflect.ValueOf(*cfg), reflect.ValueOf(*createDefaultConfig().(*Config)), "")

	require.NotEmpty(t, cfg.MetricsBuilder.Metrics.NetworkFlowPackets.EnabledAttributes)
	assert.False(t, cfg.MetricsBuilder.Metrics.NetworkFlowActive.Enabled)
	assert.Equal(t, []metadata.NetworkFlowIoMetricAttributeKey{"source.address"}, cfg.MetricsBuilder.Metrics.NetworkFlowIo.EnabledAttributes)
	assert.False(t, cfg.LogsBuilder.Events.NetworkPacket.Enabled)
	assert.False(t, cfg.MetricsBuilder.ResourceAttributes.HostName.Enabled)
	assert.False(t, cfg.LogsBuilder.ResourceAttributes.HostName.Enabled)
	assert.Equal(t, time.Second, cfg.drainInterval())
}

// requireNoDefault wants another value than the default of every key, else the test above could not see one that is not read.
func requireNoDefault(t *testing.T, got, byDefault reflect.Value, prefix string) {
	t.Helper()
	for i := range got.NumField() {
		name, _, _ := strings.Cut(got.Type().Field(i).Tag.Get("mapstructure"), ",")
		switch g, d := got.Field(i), byDefault.Field(i); {
		case name == "": // unexported, or mdatagen's
		case g.Kind() == reflect.Struct:
			requireNoDefault(t, g, d, prefix+name+".")
		default:
			assert.NotEqual(t, d.Interface(), g.Interface(), prefix+name)
		}
	}
}

func TestBadConfigsNameKeyValueAndRemedy(t *testing.T) {
	cm, err := confmaptest.LoadConf(filepath.Join("testdata", "bad_config.yaml"))
	require.NoError(t, err)
	messages := map[string]string{
		"no_interface":                  `interfaces.include must name at least one interface, glob or kind, for example "eth0", "eth*" or "kind:uplink", got none`,
		"bad_glob":                      `interfaces.include: "eth[": not a glob: every "[" needs its "]" with characters or ranges between, and "\" a character after it, for example "eth[0-3]"`,
		"bad_exclude":                   `interfaces.exclude: "kind:": a kind is a lower-case word, for example "kind:uplink" or "kind:veth"`,
		"no_direction":                  `directions must be ingress, egress or both, got none`,
		"unknown_direction":             `directions must be ingress, egress or both, got "both"`,
		"repeated_direction":            `directions must name each direction once, got "egress" twice`,
		"short_interval":                `collection_interval must be at least 100ms, got 10ms`,
		"low_cardinality":               `cardinality_limit must be at least 2 (one series and the overflow point), got 1`,
		"short_series_timeout":          `series_timeout must be at least collection_interval (30s), got 5s`,
		"no_flows":                      `flows.max_flows must be between 1 and 4194304, got 0`,
		"many_flows":                    `flows.max_flows must be between 1 and 4194304, got 5000000`,
		"short_idle_timeout":            `flows.idle_timeout must be at least 1s, got 100ms`,
		"short_active_timeout":          `flows.active_timeout must be at least 1s, got 0s`,
		"no_records":                    `flows.max_records_per_second must be between 1 and 1000000 (events: network.flow: enabled: false turns the records off), got 0`,
		"many_records":                  `flows.max_records_per_second must be between 1 and 1000000 (events: network.flow: enabled: false turns the records off), got 1000001`,
		"negative_one_in":               `packets.random_one_in must be between 0 (none at random) and 1073741824, got -1`,
		"flow_one_in":                   `packets.flow_one_in must be between 0 (of no flow) and 1073741824, got 1073741825`,
		"negative_flow_one_in":          `packets.flow_one_in must be between 0 (of no flow) and 1073741824, got -1`,
		"first_per_flow":                `packets.first_per_flow must be between 0 (none) and 1000, got 1001`,
		"negative_first_per_flow":       `packets.first_per_flow must be between 0 (none) and 1000, got -1`,
		"no_samples_per_second":         `packets.max_per_second must be between 1 and 1000000 (events: network.packet: enabled: false turns samples off), got 0`,
		"short_snap":                    `packets.snap_length must be between 128 and 9216, got 127`,
		"long_snap":                     `packets.snap_length must be between 128 and 9216, got 65536`,
		"attach_order":                  `attach_order must be first or last, got "middle"`,
		"no_namespace":                  `namespaces must name at least one network namespace, for example "host" or "/run/netns/*", got none`,
		"namespace_word":                `namespaces: "all": must be "host", or a path or glob that begins with "/", for example "/run/netns/*" or "/proc/1234/ns/net"`,
		"namespace_glob":                `namespaces: "/run/netns/[": not a glob: every "[" needs its "]" with characters or ranges between, without "/", and "\" a character after it, for example "/run/netns/web-[0-9]"`,
		"tunnels":                       `tunnels must be outer or inner, got "both"`,
		"error_mode":                    `error_mode must be propagate or ignore, got "crash"`,
		"strategy":                      `metrics: network.flow.io: aggregation_strategy must be sum, got "avg"`,
		"attribute":                     `metricsbuilder::metrics::network.flow.active: metric network.flow.active doesn't have an attribute source.address, valid attributes: [network.namespace.name, network.interface.name, network.transport, network.type, server.port]`,
		"resource_filter":               `resource_attributes: host.name: only enabled is supported; use a filter processor to include or exclude data`,
		"many_filters":                  `filters must be at most 16, got 17`,
		"filter_action":                 `filters[1].action must be skip or count, got "drop"`,
		"filter_cidr":                   `filters[0].cidr must be an address and a prefix length, for example "10.0.0.0/8" or "2001:db8::1/128", got "10.0.0.1"`,
		"filter_host_bits":              `filters[0].cidr must not have address bits behind its prefix length: "10.0.0.0/8" or "10.0.0.1/32", got "10.0.0.1/8"`,
		"filter_port":                   `filters[0].port must be between 0 and 65535, got 65536`,
		"filter_protocol":               `filters[0].protocol must be an IANA keyword in lower case, for example "tcp", or a number from 0 to 255, got "TCP"`,
		"filter_protocol_without_ports": `filters[0].port is of tcp, udp or sctp, but protocol is "icmp": leave one of them out`,
		"filter_protocol_number":        `filters[0].protocol must be an IANA keyword in lower case, for example "tcp", or a number from 0 to 255, got "256"`,
		"filter_key":                    "decoding failed due to the following error(s):\n\n'filters[0]' decoding failed due to the following error(s):\n\n'receiver.FilterConfig' has invalid keys: ports",
		"two_mistakes":                  "cardinality_limit must be at least 2 (one series and the overflow point), got 0\nerror_mode must be propagate or ignore, got \"\"",
		"unknown_key":                   "decoding failed due to the following error(s):\n\n'receiver.Config' has invalid keys: no_such_key",
		"temporality":                   `aggregation_temporality must be cumulative or delta, got "Delta"`,
		"bad_network":                   `networks[0].cidr must be an address and a prefix length, for example "10.0.0.0/8" or "2001:db8::1/128", got "10.0.0.0"`,
		"host_bits":                     `networks[1].cidr must not have address bits behind its prefix length: "10.0.0.0/8" or "10.1.2.3/32", got "10.1.2.3/8"`,
		"repeated_network":              `networks[1].cidr must be given once, got "2001:0db8::/32" again`,
		"attribute_without_networks":    `metrics: network.flow.packets: attribute destination.cidr needs networks, for example [{name: office, cidr: "10.0.0.0/8"}], got none`,
		"unknown_protocol":              `packets.protocols must be any of dns, tls and http, got "quic"`,
		"repeated_protocol":             `packets.protocols must name each protocol once, got "dns" twice`,
	}
	for id := range cm.ToStringMap() {
		var cid component.ID
		require.NoError(t, cid.UnmarshalText([]byte(id)))
		assert.Contains(t, messages, cid.Name(), "testdata/bad_config.yaml has a case without a message")
	}
	for name, message := range messages {
		t.Run(name, func(t *testing.T) {
			_, err := loadConfig(t, "bad_config.yaml", name)
			require.EqualError(t, err, message)
		})
	}
}

func TestDrainIntervalIsShortEnoughForEveryTimeout(t *testing.T) {
	c := createDefaultConfig().(*Config)
	assert.Equal(t, 5*time.Second, c.drainInterval())
	c.Flows.IdleTimeout = 3 * time.Second
	assert.Equal(t, time.Second, c.drainInterval())
	c.CollectionInterval = minInterval
	assert.Equal(t, minInterval, c.drainInterval())
	c.Flows.IdleTimeout, c.CollectionInterval = time.Hour, time.Hour
	assert.Equal(t, maxDrainInterval, c.drainInterval())
}

func TestFiltersReachTheKernel(t *testing.T) {
	cfg, err := loadConfig(t, "config.yaml", "all")
	require.NoError(t, err)
	filters, err := cfg.kernelFilters()
	require.NoError(t, err)
	port := func(p uint16) *uint16 { return &p }
	protocol := func(p uint8) *uint8 { return &p }
	assert.Equal(t, []kernel.Filter{
		{Prefix: netip.MustParsePrefix("10.0.0.1/32"), Port: port(0)},
		{Protocol: protocol(0)},
		{Skip: true, Prefix: netip.MustParsePrefix("2001:db8::/32"), Protocol: protocol(58)},
		{Skip: true, Port: port(4317), Protocol: protocol(6)},
	}, filters)
	h := newFakeHost("eth0")
	e := newEngine(cfg, receivertest.NewNopSettings(metadata.Type), h)
	require.NoError(t, e.start(t.Context()))
	require.NoError(t, e.shutdown(t.Context()))
	assert.Equal(t, filters, h.loaded[0].filters)
	assert.True(t, h.loaded[0].tunnels)
	assert.True(t, h.loaded[0].last)
}
