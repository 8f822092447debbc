// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
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

// document is YAML that a reader may copy out of a page.
type document struct {
	name   string // of its page, from the root of the repository
	text   string
	values map[string]any // nil: a list
	page   string
}

var (
	yamlBlock    = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$")
	featureGates = regexp.MustCompile(`--feature-gates=[^\s\x60]+`)
)

// documents returns all YAML in pages.
func documents(t *testing.T) (all []document) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(repository, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || strings.HasPrefix(d.Name(), "_")):
			return fs.SkipDir
		case filepath.Ext(path) != ".md", d.Name() == "documentation.md": // mdatagen's, with <name> in place of names
			return nil
		}
		page, err := os.ReadFile(path)
		require.NoError(t, err)
		name, err := filepath.Rel(repository, path)
		require.NoError(t, err)
		blocks := yamlBlock.FindAllStringSubmatch(string(page), -1)
		require.Len(t, blocks, strings.Count(string(page), "```yaml"), "%s: blocks begin at the margin", name)
		for _, m := range blocks {
			for _, d := range parse(t, name, m[1]) {
				d.page = string(page)
				all = append(all, d)
			}
		}
		return nil
	}))
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

var referred = regexp.MustCompile(`\$\{env:(\w+)\}`)

// TestEveryConfigurationInPagesIsValid has the collector for fleets validate them. Those that are files are for TestEveryExampleIsValid.
func TestEveryConfigurationInPagesIsValid(t *testing.T) {
	collector := fullBinary(t)
	validated := 0
	for _, d := range documents(t) {
		if program := d.program(); program != "" {
			t.Logf("%s: YAML for %s", d.name, program)
			continue
		}
		args := append([]string{"validate"}, featureGates.FindAllString(d.page, -1)...) // that the page tells to enable
		for _, config := range d.config(t) {
			args = append(args, "--config", config)
		}
		cmd := exec.CommandContext(t.Context(), collector, args...)
		cmd.Env = os.Environ()
		for _, m := range referred.FindAllStringSubmatch(d.text, -1) {
			cmd.Env = append(cmd.Env, m[1]+"=localhost:4317") // an endpoint, or a path
		}
		out, err := cmd.CombinedOutput()
		assert.NoError(t, err, "%s:\n%s\n%s", d.name, d.text, out)
		validated++
	}
	require.GreaterOrEqual(t, validated, 5)
}
