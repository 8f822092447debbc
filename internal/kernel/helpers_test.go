// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

const tcxNext = 0xffffffff // TCX_NEXT, -1, as BPF_PROG_TEST_RUN returns it

func load(tb testing.TB, cfg Config) *Kernel {
	tb.Helper()
	testenv.Privileged(tb)
	k, err := Load(cfg)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, k.Close()) })
	return k
}

// pin keeps the test on one CPU, so that all its packets meet in one region.
func pin(tb testing.TB, cpu int) {
	tb.Helper()
	runtime.LockOSThread()
	var before, one unix.CPUSet
	require.NoError(tb, unix.SchedGetaffinity(0, &before))
	one.Set(cpu)
	require.NoError(tb, unix.SchedSetaffinity(0, &one))
	tb.Cleanup(func() {
		require.NoError(tb, unix.SchedSetaffinity(0, &before))
		runtime.UnlockOSThread()
	})
}

// inject runs a program on one frame and checks that it is the observer it must be.
func inject(tb testing.TB, program *ebpf.Program, frame []byte, ctx any) {
	out := make([]byte, len(frame)+64)
	opts := &ebpf.RunOptions{Data: frame, DataOut: out, Context: ctx}
	verdict, err := program.Run(opts)
	if err == nil && verdict == tcxNext && bytes.Equal(frame, opts.DataOut) {
		return // millions of times: what follows takes longer than the program
	}
	tb.Helper()
	require.NoError(tb, err)
	require.Equal(tb, uint32(tcxNext), verdict, "an observer never ends the chain")
	require.Equal(tb, frame, opts.DataOut, "an observer never changes a packet")
}

// taken is everything one drain returned.
type taken struct {
	*Drained
	slots []flow.Slot
}

func drain(tb testing.TB, k *Kernel) taken {
	tb.Helper()
	var t taken
	var err error
	t.Drained, err = k.Drain(func(s *flow.Slot) { t.slots = append(t.slots, *s) })
	require.NoError(tb, err)
	requireClosed(tb, t.Drained)
	return t
}

// requireClosed checks every identity of one drain.
func requireClosed(tb testing.TB, d *Drained) {
	tb.Helper()
	require.Empty(tb, d.Mismatches)
	var sum flow.Volume
	for _, entry := range d.Ledger.Entries {
		sum.Add(entry)
	}
	require.Equal(tb, d.Ledger.Seen, sum, "seen = accounted + filtered + duplicate + overflow + not IP + unparsed")
}

// skbContext is struct __sk_buff up to gso_size, the part of it that BPF_PROG_TEST_RUN takes.
type skbContext struct {
	_       [164]byte
	GSOSegs uint32
	_       [4]byte // sk
	_       [4]byte
	GSOSize uint32
	_       [4]byte
	_       [8]byte // hwtstamp
}

// udpFrame is an Ethernet frame of the given length with an IPv4 UDP header.
func udpFrame(src, dst uint32, srcPort, dstPort uint16, length int) []byte {
	f := make([]byte, length)
	binary.BigEndian.PutUint16(f[12:], 0x0800)
	f[14], f[22], f[23] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint32(f[26:], src)
	binary.BigEndian.PutUint32(f[30:], dst)
	binary.BigEndian.PutUint16(f[34:], srcPort)
	binary.BigEndian.PutUint16(f[36:], dstPort)
	return f
}

// tcpFrame is an Ethernet frame of the given length with an IPv4 TCP header without options.
func tcpFrame(flags byte, length int) []byte {
	f := udpFrame(0x0a000001, 0x0a000002, 40000, 443, length)
	f[23], f[46], f[47] = unix.IPPROTO_TCP, 5<<4, flags
	return f
}

// udp6Frame is an Ethernet frame with an IPv6 UDP header whose addresses differ in their last eight bytes.
func udp6Frame(src, dst uint64, srcPort, dstPort uint16) []byte {
	f := make([]byte, 62)
	binary.BigEndian.PutUint16(f[12:], 0x86dd)
	f[14], f[20], f[21] = 0x60, unix.IPPROTO_UDP, 64
	binary.BigEndian.PutUint64(f[22:], 0x20010db8_00000000)
	binary.BigEndian.PutUint64(f[30:], src)
	binary.BigEndian.PutUint64(f[38:], 0x20010db8_00000000)
	binary.BigEndian.PutUint64(f[46:], dst)
	binary.BigEndian.PutUint16(f[54:], srcPort)
	binary.BigEndian.PutUint16(f[56:], dstPort)
	return f
}
