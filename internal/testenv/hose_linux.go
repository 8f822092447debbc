// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const hoseBatch = 64 // frames of one system call

// Hose writes many frames to an interface, with one system call for a batch of them: as fast as one CPU can. It does not say
// what was delivered; the far end's counters do.
type Hose struct {
	tb       testing.TB
	fd       int
	frames   [][]byte
	messages [hoseBatch]mmsghdr
	vectors  [hoseBatch]unix.Iovec
}

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	header unix.Msghdr
	_      uint32 // bytes that were sent
	_      uint32
}

// NewHose opens a hose on the interface of e, for these frames. It may be used by one goroutine at a time.
func (e *End) NewHose(frames [][]byte) *Hose {
	e.tb.Helper()
	h := &Hose{tb: e.tb, frames: frames}
	e.Do(func() {
		var err error
		h.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // protocol 0: it receives nothing
		require.NoError(e.tb, err)
	})
	e.tb.Cleanup(func() { unix.Close(h.fd) })
	require.NoError(e.tb, unix.Bind(h.fd, &unix.SockaddrLinklayer{Ifindex: e.Index}))
	for i := range h.messages {
		h.messages[i].header.Iov = &h.vectors[i]
		h.messages[i].header.SetIovlen(1)
	}
	return h
}

// Send sends the frames with these numbers.
func (h *Hose) Send(numbers []uint32) error {
	for len(numbers) > 0 {
		batch := numbers[:min(hoseBatch, len(numbers))]
		for i, n := range batch {
			h.vectors[i].Base = &h.frames[n][0]
			h.vectors[i].SetLen(len(h.frames[n]))
		}
		// Raw, since it does not wait: the runtime would else wake a thread that takes over, and measurements have that in them.
		sent, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(h.fd), uintptr(unsafe.Pointer(&h.messages)), uintptr(len(batch)), 0, 0, 0)
		switch errno {
		case 0:
			numbers = numbers[sent:]
		case unix.EINTR, unix.ENOBUFS: // the first frame of the batch did not go
		default:
			return errno
		}
	}
	return nil
}
