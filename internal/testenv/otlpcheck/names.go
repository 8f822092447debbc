// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package otlpcheck

import (
	"fmt"
	"io"
	"os"
	"slices"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.yaml.in/yaml/v3"
)

// Names is what a receiver may say: the part of metadata.yaml that is about names.
type Names struct {
	ScopeName string `yaml:"scope_name"`

	Resource   map[string]attribute `yaml:"resource_attributes"`
	Attributes map[string]attribute `yaml:"attributes"`
	Metrics    map[string]metric    `yaml:"metrics"`
	Events     map[string]event     `yaml:"events"`
}

type attribute struct {
	Override string   `yaml:"name_override"`
	Type     string   `yaml:"type"`
	Enum     []string `yaml:"enum"`
}

type metric struct {
	Unit string `yaml:"unit"`
	Sum  *struct {
		Monotonic bool `yaml:"monotonic"`
	} `yaml:"sum"`
	Attributes []string `yaml:"attributes"`
}

type event struct {
	Attributes []string `yaml:"attributes"`
}

// overflowAttribute marks the point that holds the series beyond the limit. metadata.yaml cannot say it: it is part of the
// OpenTelemetry specification, metrics SDK.
const overflowAttribute = "otel.metric.overflow"

// ReadNames reads a metadata.yaml.
func ReadNames(r io.Reader) (*Names, error) {
	var n Names
	if err := yaml.NewDecoder(r).Decode(&n); err != nil {
		return nil, fmt.Errorf("read metadata.yaml: %w", err)
	}
	for name, m := range n.Metrics {
		for _, a := range m.Attributes {
			if _, ok := n.Attributes[a]; !ok {
				return nil, fmt.Errorf("read metadata.yaml: metric %q has an unknown attribute %q", name, a)
			}
		}
	}
	return &n, nil
}

// OpenNames reads the metadata.yaml at path.
func OpenNames(path string) (*Names, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadNames(f)
}

// allowed returns the attributes of a metric or event by the names they have in OTLP.
func (n *Names) allowed(list []string) map[string]attribute {
	out := map[string]attribute{}
	for _, name := range list {
		a := n.Attributes[name]
		if a.Override != "" {
			name = a.Override
		}
		out[name] = a
	}
	return out
}

// accepts says what is wrong with a value, "" if nothing is.
func (a attribute) accepts(v pcommon.Value) string {
	types := map[string]pcommon.ValueType{
		"string": pcommon.ValueTypeStr, "int": pcommon.ValueTypeInt, "double": pcommon.ValueTypeDouble,
		"bool": pcommon.ValueTypeBool, "slice": pcommon.ValueTypeSlice, "map": pcommon.ValueTypeMap, "bytes": pcommon.ValueTypeBytes,
	}
	if want, ok := types[a.Type]; ok && v.Type() != want {
		return fmt.Sprintf("is of type %s, not %s", v.Type(), want)
	}
	if len(a.Enum) == 0 || slices.Contains(a.Enum, v.AsString()) {
		return ""
	}
	return fmt.Sprintf("has the value %q, not one of %q", v.AsString(), a.Enum)
}
