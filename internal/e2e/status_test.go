// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// healthCheck makes the collector tell the status of its components: a second configuration is merged into the first. Recovery
// may take longer than the interface loop's tick of 10 s: a problem that is reported again at every tick is never older.
var healthCheck = []string{"--feature-gates=+extension.healthcheck.useComponentStatus", `--config=yaml:
extensions:
  health_check:
    http: {endpoint: "localhost:13133", status: {path: /status}}
    component_health: {include_permanent_errors: true, include_recoverable_errors: true, recovery_duration: 11s}
service: {extensions: [health_check]}
`}

// launchWithHealth is launch with the extension.
func launchWithHealth(t *testing.T, ns *testenv.NetNS, settings string, wrap ...string) *collector {
	t.Helper()
	return launchAs(t, ns, func(c *collector) string {
		c.args = healthCheck
		return c.config(settings)
	}, wrap...)
}

// health is what the extension tells of the collector, a pipeline or a component.
type health struct {
	Healthy    bool
	Status     string
	Error      string
	Time       time.Time `json:"status_time"` // of the event
	Components map[string]health
}

func (h health) component(pipeline, name string) health {
	return h.Components["pipeline:"+pipeline].Components[name]
}

// readHealth returns the answer of the extension, and its HTTP status.
func readHealth(t *testing.T, ns *testenv.NetNS) (h health, code int) {
	t.Helper()
	out := ns.Run(testenv.Tool(t, "curl"), "-sS", "-w", "\n%{http_code}", "http://localhost:13133/status?verbose")
	body, status, _ := strings.Cut(out, "\n")
	require.NoError(t, json.Unmarshal([]byte(body), &h), out)
	code, err := strconv.Atoi(status)
	require.NoError(t, err)
	return h, code
}

// awaitHealth waits until the extension answers with code, and the collector and the receiver in both pipelines have the
// status wanted. It returns what the receiver says.
func awaitHealth(t *testing.T, ns *testenv.NetNS, code int, status string) health {
	t.Helper()
	var all, receiver, other health
	require.Eventually(t, func() bool {
		h, answered := readHealth(t, ns)
		all, receiver, other = h, h.component("metrics", "receiver:ebpfpackets"), h.component("logs", "receiver:ebpfpackets")
		return answered == code && all.Status == status && receiver.Status == status && other.Status == status
	}, patience, 100*time.Millisecond, "the status never was %d, %s", code, status)
	assert.Equal(t, code == http.StatusOK, receiver.Healthy)
	assert.Equal(t, receiver.Error, other.Error)
	assert.Equal(t, receiver.Error, all.Error)
	assert.Equal(t, "StatusOK", all.component("metrics", "exporter:file").Status, "it is the receiver's problem alone")
	return receiver
}

// TestTheStatusFollowsTheInterface takes the only interface away and brings it back.
func TestTheStatusFollowsTheInterface(t *testing.T) {
	t.Parallel() // it mostly waits
	testenv.Privileged(t)
	ns := testenv.NewNetNS(t)
	ip := testenv.Tool(t, "ip")
	add := func() { ns.Run(ip, "link", "add", "only0", "type", "bridge") }
	add()
	c := launchWithHealth(t, ns, "interfaces: {include: [only0]}\n")
	c.awaitReady()
	well := awaitHealth(t, ns, http.StatusOK, "StatusOK")
	assert.Empty(t, well.Error)

	ns.Run(ip, "link", "delete", "only0")
	gone := awaitHealth(t, ns, http.StatusOK, "StatusRecoverableError")
	assert.Equal(t, "no interface matches interfaces.include [only0]", gone.Error)
	still := awaitHealth(t, ns, http.StatusInternalServerError, "StatusRecoverableError")
	assert.Equal(t, gone.Time, still.Time, "a problem that goes on is one event")
	assert.Equal(t, gone.Error, still.Error)

	add()
	back := awaitHealth(t, ns, http.StatusOK, "StatusOK")
	assert.Empty(t, back.Error)
	assert.True(t, back.Time.After(gone.Time))
	c.stop()
}

// TestTheStatusSaysThatStartFailed has a collector that goes on without the receiver.
func TestTheStatusSaysThatStartFailed(t *testing.T) {
	testenv.Privileged(t)
	ns := testenv.NewNetNS(t)
	c := launchWithHealth(t, ns, "interfaces: {include: [lo]}\nerror_mode: ignore\n",
		testenv.Tool(t, "setpriv"), "--inh-caps=-sys_admin,-bpf", "--bounding-set=-sys_admin,-bpf")
	c.awaitReady()
	failed := awaitHealth(t, ns, http.StatusInternalServerError, "StatusPermanentError")
	assert.Contains(t, failed.Error, "missing CAP_BPF")
	c.terminate()
}
