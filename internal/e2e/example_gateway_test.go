// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

// twoTier is an agent on one end of a pair, its gateway on the other, and behind that a backend that writes a file. Each can be ended and
// started again, and finds its disk as it was.
type twoTier struct {
	t                       *testing.T
	host                    *testenv.End
	sender                  *testenv.Sender
	agent, gateway, backend func() *collector
	emitted                 []*collector // every agent there was, beside its exports, writes what it emits to a file
}

func newTwoTier(t *testing.T) *twoTier {
	t.Helper()
	testenv.Privileged(t)
	left, right := testenv.Pair(t, testenv.PairConfig{})
	ca := newAuthority(t)
	tier := &twoTier{t: t, host: left, sender: left.NewSender()}
	tls, agentQueue, gatewayQueue, written := ca.issue(right.V4), filepath.Join(t.TempDir(), "queue"), filepath.Join(t.TempDir(), "queue"), t.TempDir()
	agents := 0
	tier.agent = func() *collector {
		agents++
		output := filepath.Join(written, fmt.Sprintf("agent-%d.jsonl", agents))
		c := example{
			files: []string{"gateway/agent.yaml"},
			settings: fmt.Sprintf(`
receivers:
  ebpfpackets:
    interfaces: {include: [left0]}
    collection_interval: 1s
    flows: {idle_timeout: 1s, max_records_per_second: 100000}
    packets: {random_one_in: 10, max_per_second: 100000}
exporters:
  file: {path: %s, flush_interval: 100ms}
  otlp_grpc: {retry_on_failure: {initial_interval: 500ms, max_interval: 1s}}
service:
  telemetry: {logs: {encoding: json}}
  pipelines:
    metrics: {exporters: [otlp_grpc, file]}
    logs: {exporters: [otlp_grpc, file]}
`, output),
			env: []string{"TLS_DIR=" + tls, "QUEUE_DIR=" + agentQueue, fmt.Sprintf("GATEWAY_ENDPOINT=%s:4317", right.V4)},
		}.start(t, left.NetNS)
		c.output = output
		tier.emitted = append(tier.emitted, c)
		return c
	}
	tier.gateway = func() *collector {
		return example{
			files:    []string{"gateway/gateway.yaml"},
			settings: "exporters: {otlp_grpc: {retry_on_failure: {initial_interval: 500ms, max_interval: 1s}}}",
			env:      []string{"TLS_DIR=" + tls, "QUEUE_DIR=" + gatewayQueue, fmt.Sprintf("BACKEND_ENDPOINT=%s:4319", right.V4)},
		}.start(t, right.NetNS)
	}
	tier.backend = func() *collector {
		output := filepath.Join(written, "backend.jsonl")
		c := launchAs(t, right.NetNS, func(c *collector) string {
			return fmt.Sprintf(`
receivers:
  otlp: {protocols: {grpc: {endpoint: "%s:4319", tls: {cert_file: %[2]s/tls.crt, key_file: %[2]s/tls.key, client_ca_file: %[2]s/ca.crt}}}}
exporters:
  file: {path: %[3]s, append: true, flush_interval: 100ms}
service:
  telemetry: {metrics: {level: none}}
  pipelines:
    metrics: {receivers: [otlp], exporters: [file]}
    logs: {receivers: [otlp], exporters: [file]}
`, right.V4, tls, output)
		})
		c.output = output
		c.awaitReady()
		return c
	}
	return tier
}

// send sends datagrams and waits until the agent has told them.
func (tier *twoTier) send(packets int) {
	tier.t.Helper()
	d := &testenv.Datagrams{Flows: 200, Payloads: []int{100}, Src: tier.host.MAC, Dst: testenv.Nobody}
	tier.sender.Datagrams(d, 0, packets)
	var before flow.Volume
	last := len(tier.emitted) - 1
	for _, agent := range tier.emitted[:last] {
		before.Add(told(agent.read()))
	}
	tier.emitted[last].awaitOutput(func(out *otlpcheck.Output) bool {
		v := told(out)
		v.Add(before)
		return v == tier.sender.Sent
	})
}

// records lists what all agents emitted.
func (tier *twoTier) records() (all []string) {
	tier.t.Helper()
	for _, agent := range tier.emitted {
		all = append(all, recordsOf(tier.t, agent.read())...)
	}
	return all
}

// delivered is how many records the agent has handed to the gateway in its life.
func (tier *twoTier) delivered() int {
	tier.t.Helper()
	return int(sample(tier.t, scrape(tier.t, tier.host.NetNS), `otelcol_exporter_sent_log_records\{[^}]*exporter="otlp_grpc"[^}]*\}`))
}

// awaitAll waits until the backend has as many records as the agents have emitted.
func (tier *twoTier) awaitAll(backend *collector) {
	tier.t.Helper()
	backend.awaitOutput(func(out *otlpcheck.Output) bool {
		return told(out) == tier.sender.Sent && len(recordsOf(tier.t, out)) >= len(tier.records())
	})
}

// TestExampleGateway ends gateway and agent while packets are sent, then the backend, and kills the gateway. What comes out in the end is what
// the agents emitted, and that is what was sent; nothing comes twice.
func TestExampleGateway(t *testing.T) {
	t.Parallel() // it mostly waits
	tier := newTwoTier(t)
	backend := tier.backend()
	gateway := tier.gateway()
	agent := tier.agent()
	tier.send(10_000)
	tier.awaitAll(backend)

	gateway.terminate()
	tier.send(20_000) // onto the agent's disk
	agent.terminate() // its log says "Dropping data": of memory, it is on the disk
	agent = tier.agent()
	tier.send(30_000)
	require.Less(t, told(backend.read()).Packets, tier.sender.Sent.Packets, "without a gateway")
	gateway = tier.gateway()
	tier.awaitAll(backend)

	backend.terminate()
	emitted, delivered := len(tier.records()), tier.delivered()
	tier.send(40_000) // onto the gateway's disk
	require.Eventually(t, func() bool { return tier.delivered()-delivered >= len(tier.records())-emitted }, patience, 100*time.Millisecond)
	require.NoError(t, gateway.cmd.Process.Kill())
	require.Error(t, gateway.awaitExit())
	tier.gateway()
	backend = tier.backend()
	tier.awaitAll(backend)

	agent.terminate()
	tier.awaitAll(backend)
	backend.terminate()
	assert.ElementsMatch(t, tier.records(), recordsOf(t, backend.read()))
	assert.Equal(t, tier.sender.Sent, sum(result{Output: backend.read()}), "by the metrics")
}
