// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
)

// builderKeys are the keys that mdatagen's configuration adds; documentation.md has their contents.
var builderKeys = []string{"events", "metrics", "resource_attributes"}

// configKeys returns every key of a configuration, "flows.max_flows" for one inside of another; of a list, only its own.
func configKeys(t reflect.Type, prefix string) (keys []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("mapstructure"), ",")
		switch {
		case name == "": // unexported, or mdatagen's
		case f.Type.Kind() == reflect.Struct:
			keys = append(keys, configKeys(f.Type, prefix+name+".")...)
		default:
			keys = append(keys, prefix+name)
		}
	}
	return keys
}

var configRow = regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\| `(.*?)` \\| .+ \\|$")

// Every key is in the README's table, with its default, and no other.
func TestReadmeHasEveryKeyAndItsDefault(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	defaults := &Config{}
	var documented []string
	for _, row := range configRow.FindAllStringSubmatch(string(readme), -1) {
		key, text := row[1], row[2]
		documented = append(documented, key)
		value, err := confmap.NewRetrievedFromYAML([]byte(text))
		require.NoError(t, err, key)
		raw, err := value.AsRaw()
		require.NoError(t, err, key)
		path := strings.Split(key, ".")
		for _, name := range slices.Backward(path) {
			raw = map[string]any{name: raw}
		}
		require.NoError(t, confmap.NewFromStringMap(raw.(map[string]any)).Unmarshal(defaults), "%s: %s", key, text)
	}
	want := createDefaultConfig().(*Config)
	defaults.MetricsBuilder, defaults.LogsBuilder = want.MetricsBuilder, want.LogsBuilder
	emptied(reflect.ValueOf(want).Elem())
	emptied(reflect.ValueOf(defaults).Elem())
	assert.Equal(t, want, defaults, "a default in the README is not the one in the code")
	assert.ElementsMatch(t, configKeys(reflect.TypeFor[Config](), ""), documented)
	for _, key := range builderKeys {
		assert.Contains(t, string(readme), "`"+key+"`")
	}
}

// emptied makes lists without elements equal to those that are not there.
func emptied(v reflect.Value) {
	for i := range v.NumField() {
		f := v.Field(i)
		switch {
		case !f.CanSet():
		case f.Kind() == reflect.Struct:
			emptied(f)
		case f.Kind() == reflect.Slice && f.Len() == 0:
			f.SetZero()
		}
	}
}

// The keys of a filter have a table of their own.
func TestReadmeHasEveryKeyOfAFilter(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(readme), "### Filters")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n#")
	for _, key := range configKeys(reflect.TypeFor[FilterConfig](), "") {
		assert.Contains(t, section, "| `"+key+"` |")
	}
}

var nameRow = regexp.MustCompile("(?m)^\\| `([a-z0-9_.-]+)` \\| (metric|event|attribute) \\| ([123]) \\|")

// docs/data.md has every name with its tier, once.
func TestDocsHaveEveryNameAndItsTier(t *testing.T) {
	page, err := os.ReadFile("../docs/data.md")
	require.NoError(t, err)
	kinds := map[string]nameKind{"metric": kindMetric, "event": kindEvent, "attribute": kindAttribute}
	documented := map[nameKind]map[string]tier{kindMetric: {}, kindEvent: {}, kindAttribute: {}}
	for _, row := range nameRow.FindAllStringSubmatch(string(page), -1) {
		names := documented[kinds[row[2]]]
		assert.NotContains(t, names, row[1], "twice")
		names[row[1]] = tier(row[3][0] - '0')
	}
	assert.Equal(t, tiers, documented)
}
