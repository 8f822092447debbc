// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"maps"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"

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

func TestEventNamesAreThoseOfTheContract(t *testing.T) {
	c := readContract(t)
	assert.Len(t, c.Events, 2)
	assert.Contains(t, c.Events, eventFlow)
	assert.Contains(t, c.Events, eventPacket)
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
