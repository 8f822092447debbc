// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package ebpfpackets

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// What pages say about the code is held against the code here: links, files, functions, tests, telemetry, log lines. Their
// configurations and commands need a collector: internal/e2e.

// page is a Markdown file.
type page struct {
	path   string // from the root, with slashes
	text   string
	blocks []block
	prose  string // text without blocks
}

// block is fenced code.
type block struct{ language, text string }

var fence = regexp.MustCompile("(?ms)^```([^\n`]*)\n(.*?)^```[ \t]*$")

func pages(t *testing.T) map[string]*page {
	t.Helper()
	all := map[string]*page{}
	for _, path := range files(t, ".md") {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		p := &page{path: path, text: string(text), prose: fence.ReplaceAllString(string(text), "")}
		for _, m := range fence.FindAllStringSubmatch(p.text, -1) {
			p.blocks = append(p.blocks, block{m[1], m[2]})
		}
		all[path] = p
	}
	require.Greater(t, len(all), 10)
	return all
}

// files returns the paths of all files that end in suffix, but for what is built.
func files(t *testing.T, suffix string) (paths []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && (d.Name() == ".git" || strings.HasPrefix(d.Name(), "_")):
			return fs.SkipDir
		case !d.IsDir() && strings.HasSuffix(path, suffix):
			paths = append(paths, filepath.ToSlash(path))
		}
		return nil
	}))
	return paths
}

var (
	codeSpan   = regexp.MustCompile("``.+?``|`[^`]+`")
	link       = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	definition = regexp.MustCompile(`(?m)^\[[^\]]+\]: (\S+)$`)
	heading    = regexp.MustCompile(`(?m)^#{1,6} +(.+?)\s*$`)
	address    = regexp.MustCompile(`^[a-z]+:`) // of somewhere else
)

// links returns where a page points to inside of this repository.
func (p *page) links() (targets []string) {
	prose := codeSpan.ReplaceAllString(p.prose, "code")
	for _, m := range append(link.FindAllStringSubmatch(prose, -1), definition.FindAllStringSubmatch(prose, -1)...) {
		if !address.MatchString(m[1]) {
			targets = append(targets, m[1])
		}
	}
	return targets
}

var (
	markup      = regexp.MustCompile("[`*]|\\[([^\\]]*)\\]\\([^)]*\\)")
	punctuation = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors are those that GitHub makes of headings.
func (p *page) anchors() map[string]bool {
	anchors := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(p.prose, -1) {
		slug := strings.ToLower(markup.ReplaceAllString(m[1], "$1"))
		slug = strings.ReplaceAll(punctuation.ReplaceAllString(slug, ""), " ", "-")
		unique := slug
		for n := 1; anchors[unique]; n++ {
			unique = fmt.Sprintf("%s-%d", slug, n)
		}
		anchors[unique] = true
	}
	return anchors
}

func TestLinksLeadSomewhere(t *testing.T) {
	all := pages(t)
	checked := 0
	for _, p := range all {
		for _, target := range p.links() {
			checked++
			path, anchor, _ := strings.Cut(target, "#")
			to := p.path
			if path != "" {
				to = filepath.ToSlash(filepath.Join(filepath.Dir(p.path), path))
			}
			if _, err := os.Stat(to); !assert.NoError(t, err, "%s links to %s", p.path, target) || anchor == "" {
				continue
			}
			if assert.Contains(t, all, to, "%s links to %s: only pages have anchors", p.path, target) {
				assert.Contains(t, slices.Sorted(maps.Keys(all[to].anchors())), anchor, "%s links to %s", p.path, target)
			}
		}
	}
	require.Greater(t, checked, 50)
}

var (
	sentenceEnd = regexp.MustCompile(`\.\s+|\n\n|\n(?:- |\|)`)
	// figures are a number or two with a unit: "15 to 67 ns".
	figures = regexp.MustCompile(`(\d[\d,.]*(?:(?: to |-)\d[\d,.]*)?) ?(%|(?:ns|µs|ms|s|B|kB|MB|MiB)\b)`)
	number  = regexp.MustCompile(`\d[\d,.]*\d|\d`)
	// source is a link to where the figures of its sentence or row are from: in parentheses, in a cell of its own, or one of them.
	source = regexp.MustCompile(`(?:(?:\(|\| )\[[^\]]*|\[[\d.,]+\s[^\]]*)\]\(([\w./]*performance\.md)#([\w-]+)\)`)
)

// figuresIn returns the numbers in a text with the unit that each has.
func figuresIn(text string) (all []string) {
	for _, m := range figures.FindAllStringSubmatch(strings.Join(strings.Fields(text), " "), -1) {
		for _, n := range number.FindAllString(m[1], -1) {
			all = append(all, n+" "+m[2])
		}
	}
	return all
}

// Figures that pages quote from performance.md, naming the section, are in that section.
func TestFiguresAreThoseOfTheirSource(t *testing.T) {
	all := pages(t)
	checked := 0
	for _, p := range all {
		for _, sentence := range sentenceEnd.Split(p.prose, -1) {
			for _, m := range source.FindAllStringSubmatch(sentence, -1) {
				from := all[filepath.ToSlash(filepath.Join(filepath.Dir(p.path), m[1]))].section(t, m[2])
				for _, figure := range figuresIn(markup.ReplaceAllString(sentence, "$1")) {
					checked++
					assert.Contains(t, figuresIn(from), figure, "%s: %q", p.path, sentence)
				}
			}
		}
	}
	require.Greater(t, checked, 15)
}

// section returns the text below the heading that has an anchor, up to the next heading.
func (p *page) section(t *testing.T, anchor string) string {
	t.Helper()
	headings := heading.FindAllStringIndex(p.prose, -1)
	for i, at := range headings {
		if !(&page{prose: p.prose[at[0]:at[1]]}).anchors()[anchor] {
			continue
		}
		if i+1 < len(headings) {
			return p.prose[at[1]:headings[i+1][0]]
		}
		return p.prose[at[1]:]
	}
	t.Fatalf("%s has no section %s", p.path, anchor)
	return ""
}

// Whoever reads docs/README.md finds every page, those of examples perhaps by their own index.
func TestTheIndexHasEveryPage(t *testing.T) {
	all := pages(t)
	found := map[string]bool{"docs/README.md": true}
	for _, index := range []string{"docs/README.md", "examples/README.md"} {
		p := all[index]
		if p == nil || !found[index] {
			continue
		}
		for _, target := range p.links() {
			path, _, _ := strings.Cut(target, "#")
			path = filepath.ToSlash(filepath.Join(filepath.Dir(index), path))
			if all[path] == nil { // a folder
				path += "/README.md"
			}
			found[path] = true
		}
	}
	for path := range all {
		if strings.HasPrefix(path, "docs/") || strings.HasPrefix(path, "examples/") {
			assert.True(t, found[path], "docs/README.md does not lead to %s", path)
		}
	}
}

// spans returns what is code in the prose of a page.
func (p *page) spans() (spans []string) {
	for _, s := range codeSpan.FindAllString(p.prose, -1) {
		spans = append(spans, strings.Trim(s, "` "))
	}
	return spans
}

var (
	repositoryPath = regexp.MustCompile(`^(?:\.ci|bpf|docs|examples|internal|receiver|testdata)/[\w./-]*\w$`)
	testName       = regexp.MustCompile(`^((?:Test|Fuzz|Benchmark)[A-Z]\w+)(…?)$`) // with "…" the beginning of some
	testCommand    = regexp.MustCompile(`go(?: -C (\S+))? test\b[^\x60\n]*?-(?:run|bench) '?([^\s'\x60]+)'?[^\x60\n]* (\.(?:/[\w/]+)?)`)
	testFunction   = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
)

// testsIn returns the names of all tests, by folder.
func testsIn(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, path := range files(t, "_test.go") {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, m := range testFunction.FindAllStringSubmatch(string(text), -1) {
			all[filepath.Dir(path)] = append(all[filepath.Dir(path)], m[1])
		}
	}
	return all
}

// Files and tests that pages name are there, and the commands that repeat a figure run something.
func TestFilesAndTestsInPagesExist(t *testing.T) {
	tests := testsIn(t)
	names := slices.Concat(slices.Collect(maps.Values(tests))...)
	commands := 0
	for _, p := range pages(t) {
		for _, s := range p.spans() {
			switch {
			case repositoryPath.MatchString(s):
				_, err := os.Stat(s)
				assert.NoError(t, err, "%s names a file", p.path)
			case testName.MatchString(s):
				m := testName.FindStringSubmatch(s)
				assert.True(t, slices.ContainsFunc(names, func(name string) bool {
					return name == m[1] || m[2] != "" && strings.HasPrefix(name, m[1])
				}), "%s names %s, which is no test", p.path, s)
			}
		}
		for _, m := range testCommand.FindAllStringSubmatch(strings.ReplaceAll(p.text, "-run '^$'", ""), -1) {
			commands++
			name, _, _ := strings.Cut(m[2], "/") // of a subtest, that of the test
			pattern, err := regexp.Compile(name)
			require.NoError(t, err, p.path)
			assert.True(t, slices.ContainsFunc(tests[filepath.Join(m[1], m[3])], func(name string) bool {
				return pattern.MatchString(name) || pattern.MatchString(strings.TrimPrefix(name, "Benchmark"))
			}), "%s: %q runs no test", p.path, m[0])
		}
	}
	require.Greater(t, commands, 10)
}

var telemetryName = regexp.MustCompile(`otelcol_(ebpfpackets_receiver_[a-z_]*[a-z])`)

// suffixes are what Prometheus adds to a name.
var suffixes = regexp.MustCompile(`(?:_bytes|_seconds)?(?:_total|_bucket|_sum|_count)?$`)

func TestTelemetryInPagesExists(t *testing.T) {
	text, err := os.ReadFile("metadata.yaml")
	require.NoError(t, err)
	is := func(name string) bool { return strings.Contains(string(text), "\n    "+name+":\n") }
	for _, p := range pages(t) {
		for _, m := range telemetryName.FindAllStringSubmatch(p.text, -1) {
			name := m[1]
			assert.True(t, is(name) || is(suffixes.ReplaceAllString(name, "")), "%s names otelcol_%s, which metadata.yaml has not", p.path, name)
		}
	}
}

var (
	// bareName is a name alone, of telemetry perhaps with labels, or before a value.
	bareName = regexp.MustCompile(`^([a-z][a-z0-9_.]*)(?:\{(\w+)="(\w+)"\}|=(\w+)|: \w+)?$`)
	// settingRow is one of the table of settings; receiver/docs_test.go holds it against the code.
	settingRow = regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\| `.*?` \\| .+ \\|$")
	// Of the Collector, of Linux, and what this page says about names.
	others = []string{"ebpfpackets", "memory_limiter", "otel.metric.overflow", "otelcol_ebpfpackets_receiver_", "otelcol_exporter_send_failed_log_records",
		"otelcol_receiver_accepted_metric_points", "pprof", "sending_queue", "setcap"}
)

// named is what metadata.yaml says of names.
type named struct {
	Attributes map[string]struct {
		Override string   `yaml:"name_override"`
		Enum     []string `yaml:"enum"`
	} `yaml:"attributes"`
	Metrics   map[string]any `yaml:"metrics"`
	Events    map[string]any `yaml:"events"`
	Telemetry struct {
		Metrics map[string]struct {
			Attributes []string `yaml:"attributes"`
		} `yaml:"metrics"`
	} `yaml:"telemetry"`
}

// values returns what attributes that are called name may be. Only those of the telemetry item, unless that is "".
func (n *named) values(item, name string) (values []string) {
	for key, attribute := range n.Attributes {
		of := item == "" || slices.Contains(n.Telemetry.Metrics["ebpfpackets_receiver_"+item].Attributes, key)
		if of && (attribute.Override == name || attribute.Override == "" && key == name) {
			values = append(values, attribute.Enum...)
		}
	}
	return values
}

// Names in troubleshooting.md are of telemetry without its prefix, of what leaves, of values of attributes, or of settings.
func TestNamesInTroubleshootingExist(t *testing.T) {
	metadata, err := os.ReadFile("metadata.yaml")
	require.NoError(t, err)
	var n named
	require.NoError(t, yaml.Unmarshal(metadata, &n))
	known := slices.Concat(others, slices.Collect(maps.Keys(n.Metrics)), slices.Collect(maps.Keys(n.Events)))
	for name := range n.Telemetry.Metrics {
		known = append(known, strings.TrimPrefix(name, "ebpfpackets_receiver_"))
	}
	for key, attribute := range n.Attributes {
		known = append(append(known, cmp.Or(attribute.Override, key)), attribute.Enum...)
	}
	for _, row := range settingRow.FindAllStringSubmatch(pages(t)["receiver/README.md"].text, -1) {
		known = append(known, row[1])
	}
	checked := 0
	for _, s := range pages(t)["docs/troubleshooting.md"].spans() {
		m := bareName.FindStringSubmatch(s)
		if m == nil {
			continue
		}
		checked++
		name, label, value, alone := m[1], m[2], m[3], m[4]
		assert.True(t, slices.Contains(known, name), "nobody else knows %s", s)
		if label != "" {
			assert.Contains(t, n.values(name, label), value, "%s has no such value", s)
		} else if alone != "" && !slices.Contains(others, name) {
			assert.Contains(t, n.values("", name), alone, "%s has no such value", s)
		}
	}
	require.Greater(t, checked, 60)
}

// A line in a block of language log is one that the code can write: but for "…", it is one of its strings.
func TestLogLinesInPagesExist(t *testing.T) {
	said := stringsOf(t)
	checked := 0
	for _, p := range pages(t) {
		for _, b := range p.blocks {
			if b.language != "log" {
				continue
			}
			for line := range strings.Lines(b.text) {
				checked++
				pattern := lineWith(strings.TrimSpace(line))
				assert.NotEmpty(t, strings.Trim(line, "… \n"), "%s has a log line that says nothing", p.path)
				assert.True(t, slices.ContainsFunc(said, pattern.MatchString), "%s has a log line that nobody writes: %q", p.path, line)
			}
		}
	}
	require.Greater(t, checked, 10)
}

// lineWith returns what finds line in a string, or in a format, with anything in place of "…". What does not begin
// with "…" is where the string begins, and so at the end.
func lineWith(line string) *regexp.Regexp {
	var parts []string
	for part := range strings.SplitSeq(line, "…") {
		parts = append(parts, regexp.QuoteMeta(part))
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".*") + "$")
}

// stringsOf returns the strings in the code that is not of tests; of those that are added together, the sum.
func stringsOf(t *testing.T) (all []string) {
	t.Helper()
	for _, path := range files(t, ".go") {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		ast.Inspect(f, func(n ast.Node) bool {
			e, ok := n.(ast.Expr)
			if !ok {
				return true
			}
			s, whole := text(e)
			if whole {
				all = append(all, s)
			}
			return !whole
		})
	}
	return all
}

// text returns the string that e is, if it is one.
func text(e ast.Expr) (s string, ok bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil && e.Kind == token.STRING
	case *ast.BinaryExpr:
		left, ok1 := text(e.X)
		right, ok2 := text(e.Y)
		return left + right, ok1 && ok2
	}
	return "", false
}

var (
	stepRow    = regexp.MustCompile("(?m)^\\|[^|]*\\| `([\\w./]+\\.(?:go|c|h))` \\|([^|]*)\\|")
	cFunction  = regexp.MustCompile(`(?m)^(?:static|int|__\w+|void|SEC).*?\b(\w+)\(`)
	goFunction = regexp.MustCompile(`(?m)^func (?:\(\w* ?\*?(\w+)\) )?(\w+)\(`)
)

// The path of a packet, step by step: each function is in the file that the table says.
func TestThePathOfAPacketExists(t *testing.T) {
	rows := stepRow.FindAllStringSubmatch(pages(t)["docs/architecture.md"].text, -1)
	require.Greater(t, len(rows), 15)
	for _, row := range rows {
		text, err := os.ReadFile(row[1])
		if !assert.NoError(t, err) {
			continue
		}
		functions := map[string]bool{}
		for _, m := range cFunction.FindAllStringSubmatch(string(text), -1) {
			functions[m[1]] = true
		}
		for _, m := range goFunction.FindAllStringSubmatch(string(text), -1) {
			functions[strings.TrimPrefix(m[1]+"."+m[2], ".")] = true
		}
		for _, s := range codeSpan.FindAllString(row[2], -1) {
			assert.True(t, functions[strings.Trim(s, "`")], "%s has no function %s", row[1], s)
		}
	}
}
