// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// Sender writes whole frames to an interface through a packet socket. They pass the qdisc layer, so the egress hook sees
// them (PACKET_QDISC_BYPASS is off), and it counts them as they cross the wire: link header included, no FCS.
type Sender struct {
	end     *End
	fd      int
	frame   []byte
	Sent    flow.Volume // passed the egress hook, delivered or not
	Dropped flow.Volume // of Sent: refused by the receiving end, whose backlog was full
}

// NewSender opens a sender on the interface of e.
func (e *End) NewSender() *Sender {
	e.tb.Helper()
	s := &Sender{end: e, frame: make([]byte, 0, 1<<16)}
	e.Do(func() {
		var err error
		s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // protocol 0: it receives nothing
		require.NoError(e.tb, err)
	})
	e.tb.Cleanup(s.Close)
	require.NoError(e.tb, unix.Bind(s.fd, &unix.SockaddrLinklayer{Ifindex: e.Index}))
	return s
}

// Frame sends one frame.
func (s *Sender) Frame(f Frame) {
	s.end.tb.Helper()
	s.Raw(f.AppendTo(nil))
}

// Datagrams sends the frames [first, first+n) of d.
func (s *Sender) Datagrams(d *Datagrams, first, n int) {
	s.end.tb.Helper()
	for i := first; i < first+n; i++ {
		s.frame = d.AppendFrame(s.frame[:0], i)
		s.Raw(s.frame)
	}
}

// Raw sends one frame as it is.
func (s *Sender) Raw(frame []byte) {
	s.end.tb.Helper()
	if err := s.Try(frame); err != nil { // formatted only then: this is called a million times
		require.NoError(s.end.tb, err, "send a frame of %d bytes", len(frame))
	}
}

// Try sends one frame and says why it could not: its interface may go.
func (s *Sender) Try(frame []byte) error {
	v := flow.Volume{Packets: 1, Bytes: uint64(len(frame))}
	_, err := unix.Write(s.fd, frame)
	for errors.Is(err, unix.EINTR) { // waiting for room in the socket: the frame is not on its way
		_, err = unix.Write(s.fd, frame)
	}
	if errors.Is(err, unix.ENOBUFS) { // the device dropped it, behind the hook
		s.Dropped.Add(v)
		time.Sleep(time.Millisecond) // until the backlog is worked off
		err = nil
	}
	if err == nil {
		s.Sent.Add(v)
	}
	return err
}

// Close may be called early, and again.
func (s *Sender) Close() {
	if s.fd >= 0 {
		unix.Close(s.fd)
		s.fd = -1
	}
}
