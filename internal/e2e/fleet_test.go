// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

// fleetSize is EBPFPACKETS_FLEET. These tests print what a fleet takes, and docs/fleet.md quotes that.
func fleetSize(t *testing.T) int {
	t.Helper()
	s := os.Getenv("EBPFPACKETS_FLEET")
	if s == "" {
		return 4 // what there is time for every day, with the race detector
	}
	size, err := strconv.Atoi(s)
	require.NoError(t, err)
	return size
}

// TestTheGatewayOfAFleet sends so many thousand flow records through the gateway of the examples while the backend refuses, and as many when it
// does not. The gateway must hand on every one.
func TestTheGatewayOfAFleet(t *testing.T) {
	left, right := testenv.Pair(t, testenv.PairConfig{})
	dir := newAuthority(t).issue(right.V4)
	message := flowMessage(t, left)
	protobuf, err := (&plog.ProtoMarshaler{}).MarshalLogs(message)
	require.NoError(t, err)
	t.Logf("%d bytes a record", len(protobuf)/message.LogRecordCount())
	for _, tt := range []struct {
		name, storage string
		backlog       int // thousand records
	}{
		{"queue on disk", "file_storage", fleetSize(t)},
		{"queue in memory", "null", 1}, // more would be refused: memory is limited
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := serveBackend(t, right, mutualTLS(t, dir))
			queue := filepath.Join(t.TempDir(), "queue")
			gateway := example{
				files: []string{"gateway/gateway.yaml"},
				// This process is the backend, and slow with the race detector: no time-out, after which all would come twice.
				settings: "exporters: {otlp_grpc: {timeout: 1m, retry_on_failure: {initial_interval: 500ms, max_interval: 1s}, sending_queue: {storage: " +
					tt.storage + "}}}",
				env: []string{"TLS_DIR=" + dir, "QUEUE_DIR=" + queue, "BACKEND_ENDPOINT=" + b.address},
			}.start(t, right.NetNS)
			f := &fleet{t: t, host: left.NetNS, config: mutualTLS(t, dir), to: net.JoinHostPort(right.V4.String(), "4317")}
			b.refuse.Store(true)
			backlog := f.send(message, tt.backlog*1000)
			t.Logf("%.0f bytes on disk for each of %d records", float64(sizeOn(t, queue))/float64(backlog), backlog)
			require.Eventually(t, func() bool { return b.refused.Load() > 0 }, patience, 10*time.Millisecond)
			require.Zero(t, b.records.Load())
			b.refuse.Store(false)
			began := time.Now()
			sent := backlog + f.send(message, fleetSize(t)*1000)
			require.Eventually(t, func() bool { return b.records.Load() >= sent }, patience, 10*time.Millisecond)
			took := time.Since(began)
			memory := gateway.mostMemory()
			gateway.terminate()
			assert.Equal(t, sent, b.records.Load())
			state := gateway.cmd.ProcessState
			cpu := state.UserTime() + state.SystemTime()
			t.Logf("%d records, in %.1f s after the backlog, %.1f s of CPU: %.0f records/s on one core; at most %d MiB of RSS",
				sent, took.Seconds(), cpu.Seconds(), float64(sent)/cpu.Seconds(), memory>>20)
		})
	}
}

// TestThePrometheusGatewayOfAFleet sends metrics of so many hosts, of 200 series each, to the gateway of the examples that offers them to
// Prometheus. One scrape must have them all.
func TestThePrometheusGatewayOfAFleet(t *testing.T) {
	testenv.Privileged(t)
	hosts := fleetSize(t)
	ns := testenv.NewNetNS(t)
	dir := newAuthority(t).issue(netip.MustParseAddr("127.0.0.1"))
	gateway := example{files: []string{"prometheus/gateway-scrape.yaml"}, env: []string{"TLS_DIR=" + dir}}.start(t, ns)
	f := &fleet{t: t, host: ns, config: mutualTLS(t, dir), to: "127.0.0.1:4317"}
	client := pmetricotlp.NewGRPCClient(f.dial())
	for host := range hosts {
		_, err := client.Export(t.Context(), pmetricotlp.NewExportRequestFromMetrics(metricsOfHost(host)), grpc.UseCompressor(gzip.Name))
		require.NoError(t, err)
	}
	began := time.Now()
	text := ns.Run(testenv.Tool(t, "curl"), "-sSf", "http://localhost:8889/metrics")
	took := time.Since(began)
	assert.Equal(t, hosts*200, strings.Count(text, "\nnetwork_flow_"))
	memory := gateway.mostMemory()
	gateway.terminate()
	t.Logf("%d series: a scrape of %.1f MB took %.2f s; at most %d MiB of RSS", hosts*200, float64(len(text))/1e6, took.Seconds(), memory>>20)
}

// metricsOfHost are 100 series of each of two metrics.
func metricsOfHost(number int) pmetric.Metrics {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("host.name", fmt.Sprintf("node-%d.example.com", number))
	for name, unit := range map[string]string{"network.flow.io": "By", "network.flow.packets": "{packet}"} {
		metric := rm.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
		metric.SetName(name)
		metric.SetUnit(unit)
		total := metric.SetEmptySum()
		total.SetIsMonotonic(true)
		total.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		for series := range int64(100) {
			point := total.DataPoints().AppendEmpty()
			point.SetTimestamp(pcommon.NewTimestampFromTime(time.Now()))
			point.SetIntValue(series * 1_000_003)
			point.Attributes().PutStr("network.interface.name", "eth0")
			point.Attributes().PutStr("network.io.direction", "receive")
			point.Attributes().PutStr("network.transport", "tcp")
			point.Attributes().PutStr("network.type", "ipv4")
			point.Attributes().PutInt("server.port", series)
		}
	}
	return md
}

// flowMessage returns a message of 2,000 flow records that a collector has said.
func flowMessage(t *testing.T, e *testenv.End) plog.Logs {
	t.Helper()
	c := start(t, e.NetNS, fast)
	s := e.NewSender()
	s.Datagrams(&testenv.Datagrams{Flows: 2000, Payloads: []int{100}, Src: e.MAC, Dst: testenv.Nobody}, 0, 20_000)
	c.awaitOutput(func(out *otlpcheck.Output) bool { return len(out.Metrics) > 0 })
	out := c.stop()
	require.Len(t, out.Flows(), 2000)
	message := plog.NewLogs()
	out.Logs[0].ResourceLogs().At(0).CopyTo(message.ResourceLogs().AppendEmpty())
	records := message.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords()
	for _, more := range out.Logs[1:] {
		more.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().MoveAndAppendTo(records)
	}
	return message
}

// mostMemory is what a collector had in RAM at most so far, in bytes. The usage that wait reports is no less than what this process had
// when it started the collector.
func (c *collector) mostMemory() (bytes int64) {
	c.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	require.NoError(c.t, err)
	_, line, _ := strings.Cut(string(status), "\nVmHWM:")
	_, err = fmt.Sscanf(line, "%d kB", &bytes)
	require.NoError(c.t, err)
	return bytes << 10
}

// fleet is many agents that send to one gateway.
type fleet struct {
	t      *testing.T
	host   *testenv.NetNS
	config *tls.Config
	to     string
}

func (f *fleet) dial() *grpc.ClientConn {
	f.t.Helper()
	conn, err := grpc.NewClient("passthrough:"+f.to, grpc.WithTransportCredentials(credentials.NewTLS(f.config)),
		grpc.WithContextDialer(func(_ context.Context, address string) (c net.Conn, err error) {
			f.host.Do(func() { c, err = net.Dial("tcp", address) })
			return c, err
		}))
	require.NoError(f.t, err)
	f.t.Cleanup(func() { conn.Close() })
	return conn
}

// send hands the message over from up to four connections, as often on each, until there are at least so many records.
func (f *fleet) send(message plog.Logs, records int) (sent int64) {
	f.t.Helper()
	agents := max(1, min(4, records/message.LogRecordCount()))
	of := agents * message.LogRecordCount()
	each := (records + of - 1) / of
	failed := make(chan error, agents)
	for range agents {
		client := plogotlp.NewGRPCClient(f.dial())
		go func() {
			var err error
			for i := 0; i < each && err == nil; i++ {
				_, err = client.Export(f.t.Context(), plogotlp.NewExportRequestFromLogs(message), grpc.UseCompressor(gzip.Name))
			}
			failed <- err
		}()
	}
	for range agents {
		require.NoError(f.t, <-failed)
	}
	return int64(each * of)
}

// backend counts the records that it is sent.
type backend struct {
	plogotlp.UnimplementedGRPCServer
	address string
	records atomic.Int64
	refuse  atomic.Bool
	refused atomic.Int64 // messages
}

func serveBackend(t *testing.T, e *testenv.End, config *tls.Config) *backend {
	t.Helper()
	l := e.ListenTCP(false, 0)
	b := &backend{address: l.Addr().String()}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(config))) // takes 4 MiB, as others do
	plogotlp.RegisterGRPCServer(server, b)
	go server.Serve(l) // until Stop
	t.Cleanup(server.Stop)
	return b
}

// Export implements plogotlp.GRPCServer.
func (b *backend) Export(_ context.Context, request plogotlp.ExportRequest) (plogotlp.ExportResponse, error) {
	if b.refuse.Load() {
		b.refused.Add(1)
		return plogotlp.NewExportResponse(), status.Error(codes.Unavailable, "not now")
	}
	b.records.Add(int64(request.Logs().LogRecordCount()))
	return plogotlp.NewExportResponse(), nil
}

// sizeOn adds up the files in a folder, in bytes.
func sizeOn(t *testing.T, dir string) (size int64) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
		return err
	}))
	return size
}
