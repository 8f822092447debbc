// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

// contract is the part of metadata.yaml that hand-written code repeats.
type contract struct {
	Attributes map[string]struct {
		NameOverride string `mapstructure:"name_override"`
	} `mapstructure:"attributes"`
	Metrics map[string]struct {
		Description string   `mapstructure:"description"`
		Unit        string   `mapstructure:"unit"`
		Stability   string   `mapstructure:"stability"`
		Attributes  []string `mapstructure:"attributes"`
		Sum         struct {
			Monotonic bool `mapstructure:"monotonic"`
		} `mapstructure:"sum"`
	} `mapstructure:"metrics"`
	Events map[string]struct {
		Attributes []string `mapstructure:"attributes"`
	} `mapstructure:"events"`
}

func readContract(t *testing.T) contract {
	t.Helper()
	cm, err := confmaptest.LoadConf("metadata.yaml")
	require.NoError(t, err)
	raw := cm.ToStringMap()
	for key := range raw {
		if key != "attributes" && key != "metrics" && key != "events" {
			cm.Delete(key)
		}
	}
	var c contract
	for key, into := range map[string]any{"attributes": &c.Attributes, "metrics": &c.Metrics, "events": &c.Events} {
		sub, err := cm.Sub(key)
		require.NoError(t, err)
		require.NoError(t, sub.Unmarshal(into, confmap.WithIgnoreUnused()))
	}
	return c
}

func TestEveryAttributeIsInTheTableOfNames(t *testing.T) {
	c := readContract(t)
	emitted := map[string]tier{attrMetricOverflow: tierSemconv}
	use := func(keys []string) {
		for _, key := range keys {
			name := key
			if o := c.Attributes[key].NameOverride; o != "" {
				name = o
			}
			emitted[name] = attributeTiers[name]
			assert.Contains(t, attributeTiers, name)
		}
	}
	for _, m := range c.Metrics {
		use(m.Attributes)
	}
	for _, e := range c.Events {
		use(e.Attributes)
	}
	assert.Equal(t, attributeTiers, emitted, "names in the table that metadata.yaml does not have")
}

func TestInstrumentsAreThoseOfTheContract(t *testing.T) {
	c := readContract(t)
	all := []instrument{instrumentIO, instrumentPackets, instrumentActive}
	assert.Len(t, c.Metrics, len(all))
	for _, i := range all {
		m := c.Metrics[i.name]
		assert.Equal(t, m.Description, i.description, i.name)
		assert.Equal(t, m.Unit, i.unit, i.name)
		assert.Equal(t, m.Sum.Monotonic, i.monotonic, i.name)
	}
}

func TestMetricsAndEventsAreInTheTableOfNames(t *testing.T) {
	c := readContract(t)
	assert.ElementsMatch(t, slices.Collect(maps.Keys(c.Metrics)), slices.Collect(maps.Keys(tiers[kindMetric])))
	assert.ElementsMatch(t, slices.Collect(maps.Keys(c.Events)), slices.Collect(maps.Keys(tiers[kindEvent])))
}

// documentation.md is what users read: "### name" is a metric or an event, the rows of its table are attributes.
func TestTheDocumentationHasTheTableOfNames(t *testing.T) {
	text, err := os.ReadFile("documentation.md")
	require.NoError(t, err)
	text, _, found := bytes.Cut(text, []byte("## Resource Attributes"))
	require.True(t, found)
	documented := map[string]bool{attrMetricOverflow: false}
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "### "); ok {
			documented[strings.TrimSpace(name)] = true
		} else if row := documentedAttribute.FindStringSubmatch(line); row != nil {
			documented[row[1]] = true
		}
	}
	assert.True(t, bytes.Contains(text, []byte("`"+attrMetricOverflow+"`")))
	names := map[string]bool{}
	for _, of := range tiers {
		for name := range of {
			names[name] = name != attrMetricOverflow
		}
	}
	assert.Equal(t, names, documented)
}

// documentedAttribute is a row of a table of attributes, whose names have a dot and no unit.
var documentedAttribute = regexp.MustCompile(`^\| ([a-z_.]+\.[a-z0-9_.-]+) \|`)

// A name of tier 1 is taken from the semantic conventions; all others are said to be in development.
func TestOnlyNamesOfTierOneAreStable(t *testing.T) {
	for name, metric := range readContract(t).Metrics {
		require.NotEqual(t, tierSemconv, tiers[kindMetric][name])
		assert.Equal(t, "development", metric.Stability, name)
	}
}

func TestEveryMetricAttributeHasABit(t *testing.T) {
	c := readContract(t)
	for _, m := range c.Metrics {
		for _, key := range m.Attributes {
			name := key
			if o := c.Attributes[key].NameOverride; o != "" {
				name = o
			}
			assert.NotZero(t, attrBits[name], name)
		}
	}
}

func TestLedgerEntriesAreThoseOfTheContract(t *testing.T) {
	want := maps.Clone(metadata.MapAttributeEntry)
	delete(want, seen)
	for r := range flow.ReasonCount {
		assert.Contains(t, metadata.MapAttributeEntry, r.Entry())
		delete(want, r.Entry())
	}
	assert.Empty(t, want, "entries that no reason has")
}

func TestMetadataIsTheCopyOfTheRootFile(t *testing.T) {
	root, err := os.ReadFile("../metadata.yaml")
	require.NoError(t, err)
	here, err := os.ReadFile("metadata.yaml")
	require.NoError(t, err)
	assert.Equal(t, string(root), string(here), "run make generate")
}

func TestTransportIsTheKeywordOrTheNumber(t *testing.T) {
	for proto, want := range map[uint8]string{
		1: "icmp", 6: "tcp", 17: "udp", 47: "gre", 50: "esp", 58: "ipv6-icmp", 132: "sctp", 253: "253", 255: "255",
	} {
		assert.Equal(t, want, transportNames[proto])
	}
}

// valuesByAttributes returns the values of a metric by the attributes of its points.
func valuesByAttributes(messages []pmetric.Metrics, name string) map[string]int64 {
	values := map[string]int64{}
	for _, dp := range pointsOf(messages, name).All() {
		id := fmt.Sprint(dp.Attributes().AsRaw())
		if _, twice := values[id]; twice {
			id += ", again"
		}
		values[id] = dp.IntValue()
	}
	return values
}

// Each attribute alone: what a point says, and what it leaves out where it does not apply.
func TestEveryOptInAttribute(t *testing.T) {
	tagged := udp("[2001:db8::1]:500", "[2001:db8::2]:501", flow.DirectionIngress, 2, 200, 1, 1)
	tagged.Tagged, tagged.VLAN = true, 42
	fragment := udp("10.0.0.3:0", "10.0.0.4:0", flow.DirectionEgress, 1, 1500, 1, 1)
	fragment.LaterFragment = true
	slots := append(conversation("10.0.0.1:40000", "10.0.0.2:443"), tagged, fragment)
	for name, want := range map[string]map[string]int64{
		attrSourceAddress:      {"10.0.0.1": 500, "10.0.0.2": 4000, "2001:db8::1": 200, "10.0.0.3": 1500},
		attrDestinationAddress: {"10.0.0.2": 500, "10.0.0.1": 4000, "2001:db8::2": 200, "10.0.0.4": 1500},
		attrSourcePort:         {"40000": 500, "443": 4000, "500": 200, "": 1500},
		attrDestinationPort:    {"443": 500, "40000": 4000, "501": 200, "": 1500},
		attrClientAddress:      {"10.0.0.1": 4500, "": 1700},
		attrServerAddress:      {"10.0.0.2": 4500, "": 1700},
		attrVLANID:             {"42": 200, "": 6000},
		attrSourceCIDR:         {"one": 500, "": 5700},
		attrDestinationCIDR:    {"one": 4000, "": 2200},
	} {
		t.Run(name, func(t *testing.T) {
			c := testConfig()
			c.Networks = []NetworkConfig{{Name: "one", CIDR: "10.0.0.1/32"}}
			c.MetricsBuilder.Metrics.NetworkFlowIo.EnabledAttributes = []metadata.NetworkFlowIoMetricAttributeKey{metadata.NetworkFlowIoMetricAttributeKey(name)}
			require.NoError(t, confmap.Validate(c))
			b := newBench(t, c, newFakeHost("eth0"), consumertest.NewNop(), nil)
			b.host.count(slots...)
			got := map[string]int64{}
			for _, dp := range pointsOf(b.pointsAfter(2*time.Second), instrumentIO.name).All() {
				v, ok := dp.Attributes().Get(name)
				if !ok {
					assert.Zero(t, dp.Attributes().Len())
					got[""] = dp.IntValue()
					continue
				}
				assert.Equal(t, 1, dp.Attributes().Len())
				got[v.AsString()] = dp.IntValue()
			}
			assert.Equal(t, want, got)
		})
	}
}

func TestActiveFlowsByServerPort(t *testing.T) {
	c := testConfig()
	c.MetricsBuilder.Metrics.NetworkFlowActive.EnabledAttributes = []metadata.NetworkFlowActiveMetricAttributeKey{attrServerPort}
	b := newBench(t, c, newFakeHost("eth0"), consumertest.NewNop(), nil)
	b.host.count(conversation("10.0.0.1:40000", "10.0.0.2:443")...)
	b.host.count(conversation("10.0.0.1:40001", "10.0.0.2:443")...)
	b.host.count(udp("10.0.0.1:1000", "10.0.0.2:2000", flow.DirectionEgress, 3, 300, 1, 1))
	assert.Equal(t, map[string]int64{"map[server.port:443]": 2, "map[]": 1}, valuesByAttributes(b.pointsAfter(2*time.Second), instrumentActive.name))
	assert.Equal(t, map[string]int64{"map[server.port:443]": 0, "map[]": 0}, valuesByAttributes(b.pointsAfter(time.Minute), instrumentActive.name))
}
