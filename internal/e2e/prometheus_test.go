// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// prometheus is a running Prometheus that scrapes the collector of its namespace and evaluates rules, both twice a second.
type prometheus struct {
	t  *testing.T
	ns *testenv.NetNS
}

// startPrometheus starts one and waits until it has looked at a healthy collector for a while.
func startPrometheus(t *testing.T, ns *testenv.NetNS, rules []byte) *prometheus {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yaml")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "rules.yaml"), rules, 0o644))
	require.NoError(t, os.WriteFile(config, []byte(`
global: {scrape_interval: 500ms, evaluation_interval: 500ms}
rule_files: [rules.yaml]
scrape_configs:
  - job_name: collector
    static_configs: [{targets: ["localhost:8888"]}]
`), 0o644))
	p := runPrometheus(t, ns, config)
	require.Eventually(t, func() bool { return len(p.query("count_over_time(up[1h]) > 9 and up == 1")) == 1 },
		patience, 200*time.Millisecond, "prometheus never scraped the collector ten times")
	return p
}

// runPrometheus starts one with a configuration file, and with arguments beside that.
func runPrometheus(t *testing.T, ns *testenv.NetNS, config string, args ...string) *prometheus {
	t.Helper()
	args = append(args, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(t.TempDir(), "tsdb"), "--web.listen-address=127.0.0.1:9090")
	cmd := exec.Command(testenv.Tool(t, "prometheus"), args...)
	var log safeBuffer
	cmd.Stdout, cmd.Stderr = &log, &log
	ns.Start(cmd)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("prometheus said:\n%s", log.String())
		}
	})
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "Server is ready to receive web requests") },
		patience, 10*time.Millisecond, "prometheus never was ready")
	return &prometheus{t, ns}
}

// query returns the labels of an instant query's series.
func (p *prometheus) query(expression string) (found []map[string]string) {
	p.t.Helper()
	var data struct {
		Result []struct{ Metric map[string]string }
	}
	p.get("query", &data, "--get", "--data-urlencode", "query="+expression)
	for _, series := range data.Result {
		found = append(found, series.Metric)
	}
	return found
}

// values returns what an instant query says, by one label of its series.
func (p *prometheus) values(expression, label string) map[string]string {
	p.t.Helper()
	var data struct {
		Result []struct {
			Metric map[string]string
			Value  [2]any // time, value
		}
	}
	p.get("query", &data, "--get", "--data-urlencode", "query="+expression)
	values := map[string]string{}
	for _, series := range data.Result {
		values[series.Metric[label]] = fmt.Sprint(series.Value[1])
	}
	return values
}

// firing returns the labels of an alert that is firing now, nil if it is not.
func (p *prometheus) firing(alert string) map[string]string {
	p.t.Helper()
	var data struct {
		Alerts []struct {
			Labels map[string]string
			State  string
		}
	}
	p.get("alerts", &data)
	for _, a := range data.Alerts {
		if a.Labels["alertname"] == alert && a.State == "firing" {
			return a.Labels
		}
	}
	return nil
}

// fired returns the names of all alerts that have ever fired, in order.
func (p *prometheus) fired() []string {
	p.t.Helper()
	names := []string{}
	for _, labels := range p.query(`count by (alertname) (last_over_time(ALERTS{alertstate="firing"}[1h]))`) {
		names = append(names, labels["alertname"])
	}
	slices.Sort(names)
	return names
}

// get calls a method of Prometheus' HTTP API.
func (p *prometheus) get(method string, data any, curl ...string) {
	p.t.Helper()
	curl = append(curl, "-sSf", "http://127.0.0.1:9090/api/v1/"+method)
	response := struct{ Data any }{data}
	require.NoError(p.t, json.Unmarshal([]byte(p.ns.Run(testenv.Tool(p.t, "curl"), curl...)), &response), fmt.Sprint(curl))
}
