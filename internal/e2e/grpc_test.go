// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

// TestGRPCIsRecognised: grpc-go sends preface, settings and request as it likes, in packets of their own.
func TestGRPCIsRecognised(t *testing.T) {
	left, right := testenv.Pair(t, testenv.PairConfig{})
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, grpchealth.NewServer())
	l := right.ListenTCP(false, 50051)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	c := start(t, left.NetNS, `
interfaces: {include: [left0]}
packets: {random_one_in: 0, protocols: [http], max_per_second: 1000}
`)
	checkHealth(t, left, netip.AddrPortFrom(right.V4, 50051))
	grpcRecords := func(o *otlpcheck.Output) (found []otlpcheck.Packet) {
		for _, p := range o.Packets() {
			if p.Attributes["rpc.system.name"] == "grpc" {
				found = append(found, p)
			}
		}
		return found
	}
	c.awaitOutput(func(o *otlpcheck.Output) bool { return len(grpcRecords(o)) > 0 })
	found := grpcRecords(c.stop().Output)

	require.Len(t, found, 1, "one connection")
	a := found[0].Attributes
	assert.Equal(t, []any{"http", "2", "request", nil},
		[]any{a["network.protocol.name"], a["network.protocol.version"], a["packet.message.type"], a["packet.message.cut"]})
	assert.Equal(t, netip.AddrPortFrom(right.V4, 50051), found[0].Destination)
}

// checkHealth asks a server for its health, in the clear.
func checkHealth(t *testing.T, from *testenv.End, to netip.AddrPort) {
	t.Helper()
	var conn net.Conn
	var err error
	from.Do(func() { conn, err = net.Dial("tcp", to.String()) })
	require.NoError(t, err)
	client, err := grpc.NewClient("passthrough:///"+to.String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return conn, nil }))
	require.NoError(t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	response, err := healthpb.NewHealthClient(client).Check(ctx, &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, response.GetStatus())
}
