// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

// TestExampleKafka reads from the topics what the agent wrote to them. The broker is a fake that speaks Kafka's protocol over TLS, and
// refuses who has no certificate of the authority.
func TestExampleKafka(t *testing.T) {
	testenv.Privileged(t)
	left, right := testenv.Pair(t, testenv.PairConfig{})
	ca := newAuthority(t)
	dir := ca.issue(right.V4)
	config := mutualTLS(t, dir)
	broker := startBroker(t, right, config, "network-metrics", "network-records")
	agent := example{
		files: []string{"kafka/agent.yaml"},
		settings: `
receivers:
  ebpfpackets:
    interfaces: {include: [left0]}
    collection_interval: 500ms
    flows: {idle_timeout: 1s, max_records_per_second: 100000}
service: {telemetry: {logs: {encoding: json}}}
`,
		env:     []string{"TLS_DIR=" + dir, "KAFKA_BROKER=" + broker},
		host:    "host-one",
		program: fullBinary(t),
	}.start(t, left.NetNS)
	s := left.NewSender()
	d := &testenv.Datagrams{Flows: 2000, Payloads: []int{100}, Src: left.MAC, Dst: testenv.Nobody}
	s.Datagrams(d, 0, 20_000)

	topics := consume(t, right, config, broker, "network-metrics", "network-records")
	for told(topics.Output) != s.Sent || sum(result{Output: topics.Output}) != s.Sent {
		topics.poll()
	}
	agent.terminate()
	assert.Equal(t, s.Sent, agent.ledger().accounted, "nothing else was counted")
	assert.NotZero(t, agent.ledger().filtered.Packets, "what went to the broker was not")
	assert.Len(t, topics.Flows(), d.Flows)
	assert.Greater(t, topics.messages, 3)
	assert.Len(t, topics.keys, 1, "all messages of a host have the same key")
	assert.NotContains(t, topics.keys, "")
	t.Logf("%d messages, the largest of %d bytes", topics.messages, topics.largest)
}

// startBroker starts a fake broker at the end of a pair and returns its address.
func startBroker(t *testing.T, e *testenv.End, config *tls.Config, topics ...string) (address string) {
	t.Helper()
	address = net.JoinHostPort(e.V4.String(), "9093")
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, topics...), kfake.TLS(config),
		kfake.ListenFn(func(network, _ string) (l net.Listener, err error) {
			e.Do(func() { l, err = net.Listen(network, address) })
			return l, err
		}))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	return address
}

// consumer reads topics, and what it has read so far is its Output.
type consumer struct {
	*otlpcheck.Output
	t        *testing.T
	client   *kgo.Client
	keys     map[string]bool
	messages int
	largest  int // bytes
}

func consume(t *testing.T, e *testenv.End, config *tls.Config, broker string, topics ...string) *consumer {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.ConsumeTopics(topics...),
		kgo.Dialer(func(_ context.Context, network, address string) (conn net.Conn, err error) {
			e.Do(func() { conn, err = tls.Dial(network, address, config) })
			return conn, err
		}))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return &consumer{Output: &otlpcheck.Output{}, t: t, client: client, keys: map[string]bool{}}
}

// poll waits for more.
func (c *consumer) poll() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	fetches := c.client.PollFetches(ctx)
	require.NoError(c.t, fetches.Err(), "there is no more, and this is not all: %s", fmt.Sprint(told(c.Output)))
	fetches.EachRecord(func(r *kgo.Record) {
		c.messages++
		c.largest = max(c.largest, len(r.Value))
		c.keys[string(r.Key)] = true
		if r.Topic == "network-metrics" {
			metrics, err := (&pmetric.ProtoUnmarshaler{}).UnmarshalMetrics(r.Value)
			require.NoError(c.t, err)
			c.Metrics = append(c.Metrics, metrics)
			return
		}
		logs, err := (&plog.ProtoUnmarshaler{}).UnmarshalLogs(r.Value)
		require.NoError(c.t, err)
		c.Logs = append(c.Logs, logs)
	})
}
