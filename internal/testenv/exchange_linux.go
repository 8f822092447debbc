// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// patience bounds every exchange of packets: the ends are on one machine.
const patience = 60 * time.Second

// ListenTCP listens on the end's address of the given version; port 0 takes a free one.
func (e *End) ListenTCP(v6 bool, port uint16) *net.TCPListener {
	e.tb.Helper()
	var l *net.TCPListener
	var err error
	e.Do(func() { l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(e.Addr(v6), port))) })
	require.NoError(e.tb, err)
	e.tb.Cleanup(func() { l.Close() })
	return l
}

// ListenUDP is ListenTCP for UDP.
func (e *End) ListenUDP(v6 bool, port uint16) *net.UDPConn {
	e.tb.Helper()
	var c *net.UDPConn
	var err error
	e.Do(func() { c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(e.Addr(v6), port))) })
	require.NoError(e.tb, err)
	e.tb.Cleanup(func() { c.Close() })
	return c
}

// Addr returns the end's address of the given version.
func (e *End) Addr(v6 bool) netip.Addr {
	if v6 {
		return e.V6
	}
	return e.V4
}

// Transferred is one finished TCP connection.
type Transferred struct {
	Client, Server netip.AddrPort
	Payload        int64  // bytes from client to server; none came back
	Sent, Received uint64 // segments, as the client's TCP counted them before its last acknowledgement; tcp_info
	SentPayload    uint64 // Payload and what of it was sent again
	Start, End     time.Time
}

// Transfer sends payload bytes from client to server over a connection of its own and ends it by FIN from both sides.
func Transfer(client, server *End, v6 bool, payload int64) Transferred {
	tb := client.tb
	tb.Helper()
	l := server.ListenTCP(v6, 0)
	type result struct {
		n   int64
		err error
	}
	received := make(chan result, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			received <- result{err: err}
			return
		}
		defer c.Close()
		n, err := io.Copy(io.Discard, c)
		received <- result{n, err}
	}()
	t := Transferred{Start: time.Now(), Server: l.Addr().(*net.TCPAddr).AddrPort(), Payload: payload}
	var c *net.TCPConn
	var err error
	client.Do(func() { c, err = net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr)) })
	require.NoError(tb, err)
	defer c.Close()
	require.NoError(tb, c.SetDeadline(time.Now().Add(patience)))
	t.Client = c.LocalAddr().(*net.TCPAddr).AddrPort()
	require.NoError(tb, send(c, payload))
	require.NoError(tb, c.CloseWrite())
	_, err = io.Copy(io.Discard, c) // until the server's FIN
	require.NoError(tb, err)
	r := <-received
	require.NoError(tb, r.err)
	require.Equal(tb, payload, r.n)
	info, err := tcpInfo(c)
	require.NoError(tb, err)
	t.Sent, t.Received, t.SentPayload = uint64(info.Segs_out), uint64(info.Segs_in), info.Bytes_sent
	t.End = time.Now()
	return t
}

// send writes n bytes in pieces so large that few segments are not full.
func send(w io.Writer, n int64) error {
	zeros := make([]byte, min(n, 4<<20))
	for n > 0 {
		written, err := w.Write(zeros[:min(n, int64(len(zeros)))])
		if err != nil {
			return err
		}
		n -= int64(written)
	}
	return nil
}

func tcpInfo(c *net.TCPConn) (info *unix.TCPInfo, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	controlErr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO) })
	return info, errors.Join(controlErr, err)
}

// Talk sends 100 datagrams of 1,000 bytes from client to server, and 50 back. It returns where they came from.
func Talk(client, server *End) (asking, answering netip.AddrPort) {
	tb := client.tb
	tb.Helper()
	one, other := client.ListenUDP(false, 0), server.ListenUDP(false, 0)
	defer one.Close()
	defer other.Close()
	buffer := make([]byte, 2000)
	pass := func(from, to *net.UDPConn, n int) {
		require.NoError(tb, to.SetReadDeadline(time.Now().Add(patience)))
		for range n {
			_, err := from.WriteTo(buffer[:1000], to.LocalAddr())
			require.NoError(tb, err)
			_, err = to.Read(buffer)
			require.NoError(tb, err)
		}
	}
	pass(one, other, 100)
	pass(other, one, 50)
	return one.LocalAddr().(*net.UDPAddr).AddrPort(), other.LocalAddr().(*net.UDPAddr).AddrPort()
}

// Echo sends count echo requests with the given payload, each after the answer to the one before.
func Echo(client, server *End, v6 bool, count, payload int) {
	tb := client.tb
	tb.Helper()
	network, request := "ip4:icmp", []byte{8, 0, 0, 0, 0x77, 0x77, 0, 0}
	if v6 {
		network, request[0] = "ip6:ipv6-icmp", 128
	}
	request = append(request, make([]byte, payload)...)
	var c *net.IPConn
	var err error
	client.Do(func() { c, err = net.DialIP(network, nil, &net.IPAddr{IP: server.Addr(v6).AsSlice()}) })
	require.NoError(tb, err)
	defer c.Close()
	require.NoError(tb, c.SetDeadline(time.Now().Add(patience)))
	answer := make([]byte, 1<<16)
	for i := range count {
		binary.BigEndian.PutUint16(request[6:], uint16(i))
		if !v6 { // of ICMPv6 the kernel writes it
			request[2], request[3] = 0, 0
			binary.BigEndian.PutUint16(request[2:], ^checksum(request))
		}
		_, err = c.Write(request)
		require.NoError(tb, err)
		_, err = c.Read(answer)
		require.NoError(tb, err)
	}
}
