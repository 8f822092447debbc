// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"unsafe"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// TapConfig is the kind of a tap.
type TapConfig struct {
	L3      bool // a tun: frames begin at the IP header
	Vnet    bool // IFF_VNET_HDR: frames may be larger than a packet, to be segmented; as from a virtual machine
	Scatter bool // IFF_NAPI_FRAGS: frames come in parts, of which only the first is in the linear area
}

// Tap is an interface whose incoming packets the test writes. It is told nothing and says nothing.
type Tap struct {
	Name  string
	Index int

	ns     *NetNS
	config TapConfig
	fd     int
}

// NewTap makes a tap in the namespace.
func (n *NetNS) NewTap(name string, c TapConfig) *Tap {
	n.tb.Helper()
	t := &Tap{Name: name, ns: n, config: c}
	request, err := unix.NewIfreq(name)
	require.NoError(n.tb, err)
	request.SetUint16(c.flags())
	n.Do(func() { t.fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0) })
	if err != nil {
		LeaveOut(n.tb, "needs /dev/net/tun: "+err.Error())
	}
	n.tb.Cleanup(func() { unix.Close(t.fd) })
	require.NoError(n.tb, unix.IoctlIfreq(t.fd, unix.TUNSETIFF, request), "make tap %q", name)
	l, err := n.link.LinkByName(name)
	require.NoError(n.tb, err)
	t.Index = l.Attrs().Index
	if !c.L3 { // a tun has no ARP
		require.NoError(n.tb, n.link.LinkSetARPOff(l))
	}
	require.NoError(n.tb, n.link.LinkSetUp(l))
	require.Eventually(n.tb, func() bool {
		l, err := n.link.LinkByName(name)
		return err == nil && l.Attrs().OperState != netlink.OperDown
	}, patience, patience/1000)
	return t
}

// SetType gives the interface another hardware type, ARPHRD_* of linux/if_arp.h. What it carries is as before.
func (t *Tap) SetType(hwType int) {
	t.ns.tb.Helper()
	l := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: t.Index}}
	require.NoError(t.ns.tb, t.ns.link.LinkSetDown(l)) // or the kernel refuses
	require.NoError(t.ns.tb, unix.IoctlSetInt(t.fd, unix.TUNSETLINK, hwType))
	require.NoError(t.ns.tb, t.ns.link.LinkSetUp(l))
}

func (c TapConfig) flags() uint16 {
	flags := uint16(unix.IFF_NO_PI)
	if c.L3 {
		flags |= unix.IFF_TUN
	} else {
		flags |= unix.IFF_TAP
	}
	if c.Vnet {
		flags |= unix.IFF_VNET_HDR
	}
	if c.Scatter {
		flags |= unix.IFF_NAPI | unix.IFF_NAPI_FRAGS
	}
	return flags
}

// Write lets the interface receive one frame. With Scatter it comes in parts: the linear area ends with the first.
func (t *Tap) Write(parts ...[]byte) {
	t.ns.tb.Helper()
	if t.config.Vnet {
		t.write(append([][]byte{make([]byte, virtioHeader)}, parts...))
		return
	}
	t.write(parts)
}

// WriteSegmented lets the interface receive f in one buffer whose payload stands for packets of at most segment bytes each,
// and returns what they are on the wire.
func (t *Tap) WriteSegmented(f Frame, segment int) flow.Volume {
	t.ns.tb.Helper()
	require.True(t.ns.tb, t.config.Vnet, "a tap without Vnet has no segmentation")
	header, whole, wire := segmented(f, segment)
	t.write([][]byte{header, whole})
	return wire
}

func (t *Tap) write(parts [][]byte) {
	vectors := make([]unix.Iovec, len(parts))
	want := 0
	for i, p := range parts {
		vectors[i].Base = &p[0]
		vectors[i].SetLen(len(p))
		want += len(p)
	}
	n, _, errno := unix.Syscall(unix.SYS_WRITEV, uintptr(t.fd), uintptr(unsafe.Pointer(&vectors[0])), uintptr(len(vectors)))
	require.Zero(t.ns.tb, errno, "write to tap %q: %v", t.Name, errno)
	require.Equal(t.ns.tb, want, int(n))
}

// Counters reads the counters of the interface. It counts a buffer that is to be segmented once.
func (t *Tap) Counters() Counters {
	t.ns.tb.Helper()
	return t.ns.Counters(t.Name)
}
