// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

const (
	ownTelemetry = "localhost:8888"
	suffixed     = "localhost:8889" // own telemetry once more, from a reader that adds types and units to names
	rateInterval = "5s"             // ten scrapes
)

// dashboardOverrides are for a test what a machine of its own and time would be; its place is what is observed.
const dashboardOverrides = `--config=yaml:{
receivers: {ebpfpackets: {
  %s, collection_interval: 1s,
  flows: {idle_timeout: 2s, max_records_per_second: 1},
  packets: {random_one_in: 2, max_per_second: 5}}},
service: {telemetry: {logs: {encoding: json}, metrics: {readers: [
  {pull: {exporter: {prometheus: {host: 0.0.0.0, port: 8888}}}},
  {pull: {exporter: {prometheus: {host: 0.0.0.0, port: 8889, without_type_suffix: false, without_units: false}}}}]}}}}`

// TestEveryQueryOfTheDashboardHasData runs the example's collector under traffic, and asks a Prometheus that scrapes it every
// query of the dashboard: of all hosts and collectors, and of one, whichever way the names of own telemetry are spelled. The
// one panel and annotation that need trouble get it: an identity that does not hold.
func TestEveryQueryOfTheDashboardHasData(t *testing.T) {
	testenv.Privileged(t)
	t.Parallel() // it mostly waits
	left, right := testenv.Pair(t, testenv.PairConfig{})
	c := startForDashboard(t, left.NetNS, "interfaces: {include: [left0]}")
	talk(t, left, right)
	p := watch(t, left.NetNS)
	talkOnce(t, left, right)

	d := readDashboard(t)
	p.isHealthy(d)
	assert.Empty(t, p.choices(d.variable(t, "namespace"), chosen()), "only one is observed")
	c.miscount()
	p.ask(d, chosen())
	host, err := os.Hostname()
	require.NoError(t, err)
	for _, instance := range []string{ownTelemetry, suffixed} {
		values := chosen()
		for name, want := range map[string]string{"host": host, "interface": "left0", "direction": "transmit", "instance": instance} {
			assert.Contains(t, p.choices(d.variable(t, name), values), want, "values of $%s", name)
			values[name] = regexp.QuoteMeta(want)
		}
		c.miscount()
		p.ask(d, values)
	}
	p.isRight(d)
	p.missesWhatWasShort(d)
	c.terminate()
	c.ledger()
}

// TestTheDashboardTellsNamespacesApart has a collector that observes both ends of a conversation and, in a third namespace, an interface
// with the name of one of them. What both ends see is in top talkers twice, and once if one direction is chosen.
func TestTheDashboardTellsNamespacesApart(t *testing.T) {
	testenv.Privileged(t)
	t.Parallel() // it mostly waits
	left, right := testenv.Pair(t, testenv.PairConfig{})
	other, beyond := testenv.Pair(t, testenv.PairConfig{})
	prefix := fmt.Sprintf("ebpfpackets-dashboard-%d-", os.Getpid())
	peers, others := prefix+"peer", prefix+"other"
	right.Mount("/run/netns/" + peers)
	other.Mount("/run/netns/" + others)
	c := startForDashboard(t, left.NetNS, fmt.Sprintf(`interfaces: {include: [left0, right0]}, namespaces: [host, "/run/netns/%s*"]`, prefix))
	talk(t, left, right)
	talk(t, other, beyond)
	p := watch(t, left.NetNS)

	d := readDashboard(t)
	assert.ElementsMatch(t, []string{"host", peers, others}, p.choices(d.variable(t, "namespace"), chosen()))
	const byInterface, drift = "By interface", "Drift against the interfaces' counters"
	all := []string{"host left0", peers + " right0", others + " left0"}
	for _, title := range []string{byInterface, "Packets by interface", "Active flows", drift} {
		p.places(d, title, chosen(), all...)
	}
	values := chosen()
	values["namespace"] = regexp.QuoteMeta(others)
	assert.Equal(t, []string{"left0"}, p.choices(d.variable(t, "interface"), values))
	p.places(d, byInterface, values, others+" left0")
	assert.Zero(t, p.shown(d, "Namespaces not observed", "A")[0].last)
	for _, s := range p.shown(d, "Network namespaces", "A") {
		assert.Equal(t, map[string]int{"observed": 3}[s.Metric["state"]], int(s.last), s.Metric["state"])
	}

	values["namespace"] = "host|" + regexp.QuoteMeta(peers)
	twice := p.shownOf(d, "Conversations", "A", values)[0].last
	for _, direction := range []string{"receive", "transmit"} {
		values["direction"] = direction
		assert.InDelta(t, 2, twice/p.shownOf(d, "Conversations", "A", values)[0].last, 0.3, "%s alone is all that was sent", direction)
	}
	c.terminate()
	c.ledger()
}

// places waits until a panel shows exactly these namespaces and interfaces.
func (p *prometheus) places(d dashboard, title string, values map[string]string, want ...string) {
	p.t.Helper()
	slices.Sort(want)
	var found []string
	require.Eventually(p.t, func() bool {
		found = nil
		for _, s := range p.shownOf(d, title, "A", values) {
			if place := s.Metric["network_namespace_name"] + " " + s.Metric["network_interface_name"]; !slices.Contains(found, place) {
				found = append(found, place)
			}
		}
		slices.Sort(found)
		return slices.Equal(found, want)
	}, 10*time.Second, 200*time.Millisecond, "%s shows something else than %v", title, want)
}

// startForDashboard starts the example's collector.
func startForDashboard(t *testing.T, ns *testenv.NetNS, observed string) *collector {
	t.Helper()
	c := launchAs(t, ns, func(c *collector) string {
		c.args = []string{strings.ReplaceAll(fmt.Sprintf(dashboardOverrides, observed), "\n", " ")}
		config, err := os.ReadFile("../../examples/dashboard/collector.yaml")
		require.NoError(t, err)
		return string(config)
	})
	c.awaitReady()
	return c
}

// watch starts a Prometheus as the example's README has it, in a hurry, and waits until it has scraped every target ten times.
func watch(t *testing.T, ns *testenv.NetNS) *prometheus {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yaml")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ebpfpackets.rules.yaml"), hurriedRules(t), 0o600))
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
global: {scrape_interval: 500ms, evaluation_interval: 500ms}
rule_files: [ebpfpackets.rules.yaml]
scrape_configs:
  - job_name: traffic
    static_configs: [{targets: ["localhost:9464"]}]
  - job_name: collectors
    static_configs: [{targets: [%q, %q]}]
`, ownTelemetry, suffixed), 0o600))
	p := runPrometheus(t, ns, config)
	require.Eventually(t, func() bool { return len(p.query("count_over_time(up[1h]) > 9 and up == 1")) == 3 },
		patience, 200*time.Millisecond, "prometheus never scraped each target ten times")
	return p
}

// talk has conversations from left to right until the test ends: of TCP with a service, and of ICMP, which has none.
func talk(t *testing.T, left, right *testenv.End) {
	t.Helper()
	service := serve(right, 443)
	stop, stopped := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(stop); <-stopped })
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
				left.Do(func() { askOnce(t, service) })
			}
		}
	}()
	left.Start(exec.Command(testenv.Tool(t, "ping"), "-q", "-i", "0.2", right.V4.String()))
}

// serve sends back what it is sent, until the test ends.
func serve(e *testenv.End, port uint16) (address string) {
	service := e.ListenTCP(false, port)
	go func() {
		for {
			conn, err := service.Accept()
			if err != nil {
				return // the test has ended
			}
			_, _ = io.CopyN(conn, conn, 10_000) // the client hangs up
			conn.Close()
		}
	}()
	return service.Addr().String()
}

// talkOnce has short conversations with three services, one with each. At most one of them may be under way when points are made.
func talkOnce(t *testing.T, left, right *testenv.End) {
	t.Helper()
	for _, port := range []uint16{1001, 1002, 1003} {
		service := serve(right, port)
		left.Do(func() { askOnce(t, service) })
	}
}

// missesWhatWasShort holds the panel to its description: what series counted before their first point is not shown.
func (p *prometheus) missesWhatWasShort(d dashboard) {
	p.t.Helper()
	sum := func(found []series) (sum float64) {
		for _, s := range found {
			if strings.HasPrefix(s.Metric["server_port"], "100") {
				sum += s.last
			}
		}
		return sum
	}
	counted := sum(p.series(`sum by (server_port) (network_flow_io_bytes_total)`, false))
	assert.Greater(p.t, counted, 3*20_000.0, "the metric has them")
	assert.Less(p.t, sum(p.shown(d, "Conversations", "A")), counted/2)
}

// askOnce sends as many bytes as it reads back.
func askOnce(t *testing.T, service string) {
	conn, err := net.DialTimeout("tcp", service, patience)
	if !assert.NoError(t, err) {
		return
	}
	defer conn.Close()
	_, err = conn.Write(make([]byte, 10_000))
	assert.NoError(t, err)
	_, err = io.CopyN(io.Discard, conn, 10_000)
	assert.NoError(t, err)
}

func (d *dashboard) variable(t *testing.T, name string) variable {
	t.Helper()
	for _, v := range d.Templating.List {
		if v.Name == name {
			return v
		}
	}
	t.Fatalf("the dashboard has no variable %q", name)
	return variable{}
}

var labelValues = regexp.MustCompile(`^label_values\((.+), (\w+)\)$`)

// choices are the values of a variable that Grafana finds.
func (p *prometheus) choices(v variable, values map[string]string) (found []string) {
	p.t.Helper()
	query := v.Query.(map[string]any)["query"].(string)
	require.Equal(p.t, v.Definition, query)
	m := labelValues.FindStringSubmatch(query)
	require.NotNil(p.t, m, query)
	p.get("label/"+m[2]+"/values", &found, "--get", "--data-urlencode", "match[]="+substitute(p.t, m[1], values))
	return found
}

// chosen are the values of the variables when a user has chosen nothing.
func chosen() map[string]string {
	return map[string]string{
		"__rate_interval": rateInterval, "__range": "1m", "top": "10",
		"host": ".*", "namespace": ".*", "interface": ".*", "direction": ".*", "instance": ".*",
	}
}

// substitute puts values in place of variables; the values are regular expressions in quotes, or plain.
func substitute(t *testing.T, query string, values map[string]string) string {
	t.Helper()
	return variableUse.ReplaceAllStringFunc(query, func(variable string) string {
		value, ok := values[strings.Trim(variable, "${}")]
		require.True(t, ok, "%s in %s", variable, query)
		return strings.ReplaceAll(value, `\`, `\\`)
	})
}

// ask executes every query.
func (p *prometheus) ask(d dashboard, values map[string]string) {
	p.t.Helper()
	for _, panel := range d.graphs() {
		for _, q := range panel.Targets {
			p.has(panel.Title+" "+q.RefID, q, values)
		}
	}
	for _, a := range d.Annotations.List {
		if a.Datasource.UID != grafanaUID {
			p.has("annotation "+a.Name, target{Expr: a.Expr, LegendFormat: a.TitleFormat, Range: true}, values)
		}
	}
}

var legendLabel = regexp.MustCompile(`\{\{(\w+)\}\}`)

// has asks until there is data with the labels that the legend names, but that of namespaces: only one is observed.
func (p *prometheus) has(name string, q target, values map[string]string) {
	p.t.Helper()
	query := substitute(p.t, q.Expr, values)
	legend := strings.ReplaceAll(q.LegendFormat, "{{network_namespace_name}}", "")
	var missing string
	for began := time.Now(); time.Since(began) < 10*time.Second; time.Sleep(200 * time.Millisecond) {
		if missing = lacks(p.series(query, q.Range), legend); missing == "" {
			return
		}
	}
	assert.Fail(p.t, name+" has no "+missing, query)
}

// lacks returns what there is not: any series, or one with a label that the legend names.
func lacks(found []series, legend string) string {
	if len(found) == 0 {
		return "data"
	}
	for _, m := range legendLabel.FindAllStringSubmatch(legend, -1) {
		if !slices.ContainsFunc(found, func(s series) bool { return s.Metric[m[1]] != "" }) {
			return "series with label " + m[1]
		}
	}
	return ""
}

// isHealthy looks at the panels that are 0 on a healthy host, not empty.
func (p *prometheus) isHealthy(d dashboard) {
	p.t.Helper()
	for _, title := range []string{
		"Ledger: seen − all entries", "Ledger mismatches", "Interfaces not attached", "Namespaces not observed", "Attachments lost",
	} {
		for _, s := range p.shown(d, title, "A") {
			assert.Zero(p.t, s.last, title)
		}
	}
	p.shown(d, "Trouble since the collectors started", "A") // of which a busy machine may have a little
}

// isRight looks at what some panels show.
func (p *prometheus) isRight(d dashboard) {
	p.t.Helper()
	assert.EqualValues(p.t, 1, int64(p.shown(d, "Collectors", "A")[0].last))
	assert.Zero(p.t, p.shown(d, "Ledger: seen − all entries", "A")[0].last)
	assert.Positive(p.t, p.shown(d, "Ledger mismatches", "A")[0].last)
	var total, seen int64 // far below 2^53
	for _, s := range p.shown(d, "Ledger since the collectors started", "A") {
		if s.Metric["entry"] == "seen" {
			seen = int64(s.last)
		} else {
			total += int64(s.last)
		}
	}
	assert.Positive(p.t, seen)
	assert.Equal(p.t, seen, total, "the ledger as it is shown is closed")
	conversation := map[string]string{"client_address": "10.77.0.1", "server_address": "10.77.0.2", "server_port": "443", "network_transport": "tcp"}
	found := p.shown(d, "Conversations", "A")
	assert.Equal(p.t, conversation, found[0].Metric, "the one with the most bytes comes first")
	assert.Greater(p.t, found[0].last, 20_000.0, "one exchange")
}

// shown is what a query of a panel shows of one collector, all that it has of traffic.
func (p *prometheus) shown(d dashboard, title, ref string) []series {
	p.t.Helper()
	return p.shownOf(d, title, ref, chosen())
}

// shownOf is shown, of chosen traffic.
func (p *prometheus) shownOf(d dashboard, title, ref string, values map[string]string) []series {
	p.t.Helper()
	values = maps.Clone(values)
	values["instance"] = regexp.QuoteMeta(ownTelemetry)
	for _, panel := range d.graphs() {
		for _, q := range panel.Targets {
			if panel.Title == title && q.RefID == ref {
				found := p.series(substitute(p.t, q.Expr, values), q.Range)
				require.NotEmpty(p.t, found, title)
				return found
			}
		}
	}
	p.t.Fatalf("the dashboard has no panel %q with a query %s", title, ref)
	return nil
}

// series is what Prometheus has of one series.
type series struct {
	Metric map[string]string
	Value  [2]any   // time and text, of an instant query
	Values [][2]any // of a range
	last   float64
}

// series returns those with a value that is a number, now or, for a range, in the last minutes.
func (p *prometheus) series(query string, ranged bool) (found []series) {
	p.t.Helper()
	var data struct{ Result []series }
	if ranged {
		span := fmt.Sprintf("start=%d&end=%d&step=1", time.Now().Add(-5*time.Minute).Unix(), time.Now().Unix())
		p.get("query_range", &data, "--get", "--data-urlencode", "query="+query, "--data", span)
	} else {
		p.get("query", &data, "--get", "--data-urlencode", "query="+query)
	}
	for _, s := range data.Result {
		if !ranged {
			s.Values = [][2]any{s.Value}
		}
		s.last = math.NaN()
		for _, v := range s.Values {
			number, err := strconv.ParseFloat(v[1].(string), 64)
			require.NoError(p.t, err)
			if !math.IsNaN(number) && !math.IsInf(number, 0) {
				s.last = number
			}
		}
		if !math.IsNaN(s.last) {
			found = append(found, s)
		}
	}
	return found
}
