// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

// clientHello returns the bytes of a hello of Go without a key of a post-quantum algorithm: one that a segment holds.
func clientHello(t *testing.T) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		defer client.Close()
		_ = tls.Client(client, &tls.Config{
			ServerName: "split.example", NextProtos: []string{"h2", "http/1.1"}, CurvePreferences: []tls.CurveID{tls.X25519}, MinVersion: tls.VersionTLS12,
		}).Handshake()
	}()
	b := make([]byte, 2048)
	n, err := server.Read(b)
	require.NoError(t, err)
	return b[:n]
}

// TestMessagesSplitAnywhere sends a hello and a head whole, and in two segments once for each place between two bytes. One
// connection follows the other: the program in the kernel follows a bounded number of messages, by a hash.
func TestMessagesSplitAnywhere(t *testing.T) {
	left, right := testenv.Pair(t, testenv.PairConfig{})
	messages := map[string][]byte{
		"tls":  clientHello(t),
		"http": []byte("DELETE /split?here HTTP/1.1\r\nHost: split.example\r\nUser-Agent: two\r\n\r\n"),
	}
	c := start(t, left.NetNS, messageSettings)
	want := outcomes{}
	for protocol, message := range messages {
		for _, v6 := range []bool{false, true} {
			l := right.ListenTCP(v6, 443)
			go discard(l)
			for i := range message {
				sendSplit(t, left, l.Addr().(*net.TCPAddr), message, i)
			}
			l.Close()
		}
		want[protocol] = map[string]int64{"told": int64(2 * len(message))}
	}
	out := c.stopAfter(t, left.NetNS, want)
	told := map[string]otlpcheck.Packet{} // by what was sent, and the length of its last segment
	place := func(protocol, version, last any) string { return fmt.Sprint(protocol, " ", version, " ", last) }
	for _, m := range out.messages(nil) {
		told[place(m.Attributes["network.protocol.name"], m.Type, m.Attributes["packet.payload_length"])] = m
	}
	for protocol, message := range messages {
		whole := told[place(protocol, "ipv4", len(message))]
		requireSays(t, &whole, map[string]any{"server.address": "split.example"})
		for _, version := range []string{"ipv4", "ipv6"} {
			for i := range message {
				m, ok := told[place(protocol, version, len(message)-i)]
				require.True(t, ok, "%s over %s in two segments, the first of %d bytes", protocol, version, i)
				for _, name := range splitSays[protocol] {
					require.NotNil(t, whole.Attributes[name], name)
					require.Equal(t, whole.Attributes[name], m.Attributes[name], "%s of %s after byte %d", name, m.Body, i)
				}
				require.Nil(t, m.Attributes["packet.message.cut"])
			}
		}
	}
}

// splitSays are the attributes of a message that do not depend on its segments.
var splitSays = map[string][]string{
	"tls":  {"server.address", "packet.tls.alpn", "packet.tls.versions", "packet.tls.client.ja4", "tls.client.ja3"},
	"http": {"server.address", "http.request.method", "url.path", "user_agent.original", "network.protocol.version"},
}

// sendSplit sends a message in two segments, the first of i bytes: Go sets TCP_NODELAY. None is a segment without bytes.
func sendSplit(t *testing.T, from *testenv.End, to *net.TCPAddr, message []byte, i int) {
	t.Helper()
	conn := dial(t, from, to)
	defer conn.Close()
	_, err := conn.Write(message[:i])
	require.NoError(t, err)
	_, err = conn.Write(message[i:])
	require.NoError(t, err)
}

// discard reads what is sent to l and answers nothing.
func discard(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(io.Discard, conn)
		}()
	}
}
