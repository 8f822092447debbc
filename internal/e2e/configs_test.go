// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

const repository = "../.."

// document is YAML that a reader may copy: a file, or a block of a page.
type document struct {
	name   string // of its file, from the root of the repository
	text   string
	values map[string]any // nil: a list
	gates  []string       // that its page tells to enable
}

var (
	yamlBlock    = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$")
	featureGates = regexp.MustCompile(`--feature-gates=[^\s\x60]+`)
)

// documents returns all YAML in README.md, receiver/README.md, docs and examples.
func documents(t *testing.T) (all []document) {
	t.Helper()
	read := func(path string) {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		name, err := filepath.Rel(repository, path)
		require.NoError(t, err)
		texts := []string{string(text)}
		if strings.HasSuffix(path, ".md") {
			texts = nil
			for _, m := range yamlBlock.FindAllStringSubmatch(string(text), -1) {
				texts = append(texts, m[1])
			}
		}
		gates := featureGates.FindAllString(string(text), -1)
		for _, text := range texts {
			for _, d := range parse(t, name, text) {
				d.gates = gates
				all = append(all, d)
			}
		}
	}
	read(repository + "/README.md")
	read(repository + "/receiver/README.md")
	for _, dir := range []string{"docs", "examples"} {
		require.NoError(t, filepath.WalkDir(filepath.Join(repository, dir), func(path string, _ fs.DirEntry, err error) error {
			if slices.Contains([]string{".md", ".yaml", ".yml"}, filepath.Ext(path)) {
				read(path)
			}
			return err
		}))
	}
	return all
}

// parse splits a stream of documents.
func parse(t *testing.T, name, text string) (all []document) {
	t.Helper()
	for decoder := yaml.NewDecoder(strings.NewReader(text)); ; {
		var node yaml.Node
		err := decoder.Decode(&node)
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err, name)
		one, err := yaml.Marshal(&node)
		require.NoError(t, err, name)
		d := document{name: name, text: string(one)}
		_ = node.Decode(&d.values) // a list stays nil
		all = append(all, d)
	}
}

// sections are those of a collector's configuration.
var sections = []string{"connectors", "exporters", "extensions", "processors", "receivers", "service"}

// programs are those that other documents are for, by a key that only these have. They have tests of their own.
var programs = map[string]string{
	"apiVersion":     "Kubernetes",
	"dist":           "ocb",
	"groups":         "Prometheus",
	"replaces":       "ocb",
	"rule_files":     "Prometheus",
	"scrape_configs": "Prometheus",
	"tests":          "promtool",
}

// program names what a document is for; "" is the collector.
func (d document) program() string {
	for key, value := range d.values {
		if program := programs[key]; program != "" {
			return program
		}
		if _, list := value.([]any); list && slices.Contains(sections, key) {
			return "ocb"
		}
	}
	return ""
}

// config returns what the collector reads. A part of a configuration is merged into the smallest one, settings of the receiver are
// put where they belong.
func (d document) config(t *testing.T) (configs []string) {
	t.Helper()
	values := d.values
	require.NotEmpty(t, values, "%s has YAML that is no configuration:\n%s", d.name, d.text)
	if !slices.ContainsFunc(slices.Collect(maps.Keys(values)), func(key string) bool { return slices.Contains(sections, key) }) {
		values = map[string]any{"receivers": map[string]any{"ebpfpackets": values}}
	}
	text, err := yaml.Marshal(values)
	require.NoError(t, err)
	config := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(config, text, 0o600))
	if service, ok := values["service"].(map[string]any); ok && service["pipelines"] != nil {
		return []string{config}
	}
	return []string{repository + "/examples/minimal.yaml", config}
}

// needs returns the components that a document configures, beside those of built.
func (d document) needs(built map[string][]string) (missing []string) {
	for _, section := range sections[:len(sections)-1] {
		components, _ := d.values[section].(map[string]any)
		for id := range components {
			kind, _, _ := strings.Cut(id, "/")
			if kind = strings.TrimSpace(kind); !slices.Contains(built[section], kind) {
				missing = append(missing, strings.TrimSuffix(section, "s")+" "+kind)
			}
		}
	}
	return missing
}

// components returns what a collector was built with, by section.
func components(t *testing.T, collector string) map[string][]string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), collector, "components").Output()
	require.NoError(t, err)
	var listed map[string]yaml.Node
	require.NoError(t, yaml.Unmarshal(out, &listed))
	built := map[string][]string{}
	for _, section := range sections {
		var all []struct{ Name string }
		node := listed[section]
		if node.Decode(&all) == nil {
			for _, c := range all {
				built[section] = append(built[section], c.Name)
			}
		}
	}
	require.Contains(t, built["receivers"], "ebpfpackets")
	return built
}

// awaited are components of configurations that no collector here can validate. To be emptied.
var awaited = map[string][]string{}

var environment = regexp.MustCompile(`\$\{env:(\w+)\}`)

// TestEveryConfigurationIsValid has the built collector validate all that a reader may copy: the small one what it can, the one for
// fleets the rest.
func TestEveryConfigurationIsValid(t *testing.T) {
	small := binary(t)
	built := components(t, small)
	validated := 0
	for _, d := range documents(t) {
		if program := d.program(); program != "" {
			t.Logf("%s: YAML for %s", d.name, program)
			continue
		}
		if missing := d.needs(built); len(missing) > 0 {
			assert.Subset(t, awaited[d.name], missing, "%s needs what %s has not", d.name, small)
			continue
		}
		args := append([]string{"validate"}, d.gates...)
		for _, config := range d.config(t) {
			args = append(args, "--config", config)
		}
		cmd := exec.CommandContext(t.Context(), small, args...)
		cmd.Env = os.Environ()
		for _, m := range environment.FindAllStringSubmatch(d.text, -1) {
			cmd.Env = append(cmd.Env, m[1]+"=localhost:4317") // an endpoint, or a path
		}
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		assert.NoError(t, cmd.Run(), "%s:\n%s\n%s", d.name, d.text, said.String())
		validated++
	}
	require.Greater(t, validated, 5)
}
