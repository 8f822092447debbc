// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"encoding/binary"
	"net"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// virtio_net_hdr; linux/virtio_net.h
const (
	virtioNeedsChecksum = 1
	virtioTCPv4         = 1
	virtioTCPv6         = 4
	virtioUDP           = 5
	virtioHeader        = 10
)

// segmented returns f as one buffer whose payload stands for packets of at most segment bytes each, the header that says so, and what
// they are on the wire.
func segmented(f Frame, segment int) (header, whole []byte, wire flow.Volume) {
	whole = f.AppendTo(nil)
	headers := len(whole) - f.Payload
	transport, kind, checksumAt := 20, byte(virtioTCPv4), 16
	switch {
	case f.Proto == protoUDP:
		transport, kind, checksumAt = 8, virtioUDP, 6
	case f.From.Addr().Is6():
		kind = virtioTCPv6
	}
	header = []byte{virtioNeedsChecksum, kind}
	for _, v := range []int{headers, segment, headers - transport, checksumAt} {
		header = binary.NativeEndian.AppendUint16(header, uint16(v))
	}
	segments := max(1, (f.Payload+segment-1)/segment)
	return header, whole, flow.Volume{Packets: uint64(segments), Bytes: uint64(f.Payload + segments*headers)}
}

// Segmented is Tap.WriteSegmented for what an interface sends.
func (s *Sender) Segmented(f Frame, segment int) flow.Volume {
	s.end.tb.Helper()
	header, whole, wire := segmented(f, segment)
	require.NoError(s.end.tb, unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1))
	_, err := unix.Write(s.fd, append(header, whole...))
	require.NoError(s.end.tb, err)
	require.NoError(s.end.tb, unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 0))
	s.Sent.Add(wire)
	return wire
}

// TransferSegments sends n buffers of payload bytes from client to server, each of which is datagrams of at most segment bytes on the
// wire (UDP_SEGMENT). The server takes them joined again (UDP_GRO) where the kernel does that.
func TransferSegments(client, server *End, v6 bool, n, payload, segment int) {
	tb := client.tb
	tb.Helper()
	from, to := client.ListenUDP(v6, 0), server.ListenUDP(v6, 0)
	defer from.Close()
	defer to.Close()
	setUDP(client, from, unix.UDP_SEGMENT, segment)
	setUDP(server, to, unix.UDP_GRO, 1)
	require.NoError(tb, to.SetReadDeadline(time.Now().Add(patience)))
	data := make([]byte, 1<<16)
	for range n {
		_, err := from.WriteTo(data[:payload], to.LocalAddr())
		require.NoError(tb, err)
		for left := payload; left > 0; {
			read, err := to.Read(data)
			require.NoError(tb, err)
			left -= read
		}
	}
}

func setUDP(e *End, c *net.UDPConn, option, value int) {
	e.tb.Helper()
	raw, err := c.SyscallConn()
	require.NoError(e.tb, err)
	require.NoError(e.tb, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, option, value) }))
	require.NoError(e.tb, err)
}
