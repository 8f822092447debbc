// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	dashboardFile = "../../examples/dashboard/ebpfpackets.json"
	dashboardUID  = "${datasource}" // of whatever the user chooses
	grafanaUID    = "-- Grafana --" // of Grafana's own annotations
	gridColumns   = 24
	repositoryURL = "https://github.com/ebpfpackets/ebpfpackets/blob/main/"
)

// dashboard is what the tests read of Grafana's dashboard model.
type dashboard struct {
	Annotations struct{ List []annotation }
	Links       []dashboardLink
	Panels      []panel
	Templating  struct{ List []variable }
}

type annotation struct {
	Name, Expr, TitleFormat string
	Datasource              datasource
}

type dashboardLink struct{ Title, URL string }

type panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               datasource
	GridPos                  struct{ X, Y, W, H int }
	FieldConfig              struct{ Defaults fieldDefaults }
	Links                    []dashboardLink
	Targets                  []target
}

type fieldDefaults struct {
	Unit       string
	Thresholds struct{ Steps []struct{ Value *float64 } }
}

type target struct {
	RefID, Expr, LegendFormat string
	Instant, Range            bool
	Datasource                datasource
}

type variable struct {
	Name, Label, Type, AllValue string
	Datasource                  datasource
	Definition                  string
	Query                       any
	Options                     []struct{ Value string }
}

type datasource struct{ Type, UID string }

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	text, err := os.ReadFile(dashboardFile)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &d))
	return d
}

// graphs returns the panels that show data.
func (d *dashboard) graphs() []panel {
	return slices.DeleteFunc(slices.Clone(d.Panels), func(p panel) bool { return p.Type == "row" })
}

// TestTheDashboardIsWhole finds what Grafana would show as a broken panel, or not at all.
func TestTheDashboardIsWhole(t *testing.T) {
	d := readDashboard(t)
	require.NotEmpty(t, d.graphs())
	ids, titles := map[int]bool{}, map[string]bool{}
	for i, p := range d.Panels {
		assert.False(t, ids[p.ID], "%q: id %d twice", p.Title, p.ID)
		assert.False(t, titles[p.Title], "title %q twice", p.Title)
		ids[p.ID], titles[p.Title] = true, true
		assert.Positive(t, p.ID, p.Title)
		g := p.GridPos
		assert.True(t, g.X >= 0 && g.Y >= 0 && g.W > 0 && g.H > 0 && g.X+g.W <= gridColumns, "%q lies outside of the grid: %+v", p.Title, g)
		for _, other := range d.Panels[:i] {
			o := other.GridPos
			assert.False(t, g.X < o.X+o.W && o.X < g.X+g.W && g.Y < o.Y+o.H && o.Y < g.Y+g.H, "%q lies on %q", p.Title, other.Title)
		}
	}
	for _, p := range d.graphs() {
		assert.Equal(t, datasource{"prometheus", dashboardUID}, p.Datasource, p.Title)
		assert.Greater(t, len(p.Description), 80, "%q does not say what to do", p.Title)
		assert.NotEmpty(t, p.FieldConfig.Defaults.Unit, p.Title)
		steps := p.FieldConfig.Defaults.Thresholds.Steps
		require.NotEmpty(t, steps, p.Title)
		assert.Nil(t, steps[0].Value, "%q: the first threshold is the base", p.Title)
		for j := range steps[1:] {
			require.NotNil(t, steps[j+1].Value, p.Title)
			assert.True(t, j == 0 || *steps[j].Value < *steps[j+1].Value, "%q: thresholds go up", p.Title)
		}
		refs := map[string]bool{}
		require.NotEmpty(t, p.Targets, p.Title)
		for _, q := range p.Targets {
			assert.False(t, refs[q.RefID], "%q: query %s twice", p.Title, q.RefID)
			refs[q.RefID] = true
			assert.Equal(t, p.Datasource, q.Datasource, "%q %s", p.Title, q.RefID)
			assert.NotEqual(t, q.Instant, q.Range, "%q %s is one of instant and range", p.Title, q.RefID)
		}
	}
	for _, a := range d.Annotations.List {
		assert.Contains(t, []string{dashboardUID, grafanaUID}, a.Datasource.UID, a.Name)
	}
}

// TestTopTalkersSayWhatTheyLack looks at the panels that show increase(): TestEveryQueryOfTheDashboardHasData and
// TestTheDashboardTellsNamespacesApart show that what they say is so.
func TestTopTalkersSayWhatTheyLack(t *testing.T) {
	d := readDashboard(t)
	found := 0
	for _, p := range d.graphs() {
		for _, q := range p.Targets {
			if strings.Contains(q.Expr, "increase(") {
				found++
				assert.Contains(t, p.Description, "What a series counted before its first point is missing", p.Title)
				assert.Contains(t, p.Description, "Between two observed hosts, on loopback and over several interfaces bytes are counted at each place", p.Title)
				assert.Contains(t, q.Expr, `network_io_direction=~"$direction"`, p.Title)
			}
		}
	}
	assert.Equal(t, 4, found)
}

// notShown is own telemetry that no panel has.
var notShown = map[string]string{
	"icmp_errors":         "says something of the network, not of the receiver",
	"messages":            "what became of them is data of whoever reads protocols",
	"requests":            "as messages",
	"point_shed_io":       "Dropped has their packets",
	"record_shed_io":      "Dropped has their records",
	"record_shed_packets": "Dropped has their records",
}

var (
	telemetryHeading = regexp.MustCompile(`(?m)^### otelcol_ebpfpackets_receiver_(\w+)$`)
	nameOf           = regexp.MustCompile(`__name__=~"([^"]+)"|\b(otelcol_ebpfpackets_receiver_\w+)\{`)
)

// TestTheDashboardShowsOwnTelemetry finds what was added to the receiver's own telemetry and not to the dashboard.
func TestTheDashboardShowsOwnTelemetry(t *testing.T) {
	d := readDashboard(t)
	var names []string
	for _, p := range d.graphs() {
		for _, q := range p.Targets {
			for _, m := range nameOf.FindAllStringSubmatch(q.Expr, -1) {
				names = append(names, m[1]+m[2])
			}
		}
	}
	asked := regexp.MustCompile("^(?:" + strings.Join(names, "|") + ")$")
	page, err := os.ReadFile("../../receiver/documentation.md")
	require.NoError(t, err)
	all := telemetryHeading.FindAllSubmatch(page, -1)
	require.NotEmpty(t, all)
	for _, m := range all {
		name := "otelcol_ebpfpackets_receiver_" + string(m[1])
		_, left := notShown[string(m[1])]
		assert.NotEqual(t, left, asked.MatchString(name) || asked.MatchString(name+"_bucket"), "%s is shown, or it is said why not", name)
	}
}

var (
	variableUse = regexp.MustCompile(`\$\{?(\w+)`)
	// builtIn are Grafana's own variables that queries use.
	builtIn = []string{"__rate_interval", "__range"}
)

// TestEveryVariableOfTheDashboardIsDefinedAndUsed reads the file as text: titles, queries and data sources use variables, too.
func TestEveryVariableOfTheDashboardIsDefinedAndUsed(t *testing.T) {
	text, err := os.ReadFile(dashboardFile)
	require.NoError(t, err)
	names := map[string]bool{}
	for _, m := range variableUse.FindAllSubmatch(text, -1) {
		names[string(m[1])] = true
	}
	delete(names, "__all") // the value of a variable
	defined := map[string]bool{}
	for _, name := range builtIn {
		defined[name] = true
	}
	for _, v := range readDashboard(t).Templating.List {
		assert.False(t, defined[v.Name], "%s is defined twice", v.Name)
		defined[v.Name] = true
		if v.Type == "query" {
			assert.Equal(t, datasource{"prometheus", dashboardUID}, v.Datasource, v.Name)
			assert.Equal(t, ".*", v.AllValue, "%s: All has to match series without that label, too", v.Name)
		}
	}
	assert.Equal(t, defined, names)
}

// TestLinksOfTheDashboardLeadSomewhere compares them with the files and headings of this tree.
func TestLinksOfTheDashboardLeadSomewhere(t *testing.T) {
	d := readDashboard(t)
	all := slices.Clone(d.Links)
	for _, p := range d.Panels {
		all = append(all, p.Links...)
	}
	require.NotEmpty(t, all)
	for _, l := range all {
		path, ours := strings.CutPrefix(l.URL, repositoryURL)
		require.True(t, ours, l.URL)
		path, anchor, _ := strings.Cut(path, "#")
		page, err := os.ReadFile("../../" + path)
		require.NoError(t, err, "%s: %s", l.Title, l.URL)
		assert.True(t, anchor == "" || slices.Contains(anchors(string(page)), anchor), "%s: %s has no heading %s", l.Title, path, anchor)
	}
}

var (
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	noSlug  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors are those that GitHub gives to a page's headings.
func anchors(page string) (all []string) {
	for _, m := range heading.FindAllStringSubmatch(page, -1) {
		all = append(all, strings.ReplaceAll(noSlug.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return all
}
