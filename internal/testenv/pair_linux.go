// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// End is one end of a pair: a namespace with an interface whose only packets are those of the test.
type End struct {
	*NetNS
	Name   string
	Index  int
	MAC    MAC
	V4, V6 netip.Addr
}

// PairConfig is how a pair differs from a plain one.
type PairConfig struct {
	MTU      int  // 0: 1500
	Offloads bool // segmentation offload stays on; off, the interfaces count what crosses the wire
	Beside   *End // an end whose namespace the right one shares, in a network of its own
}

// Pair joins two namespaces, new ones but for Beside, by a veth. The ends know each other's address, so that no neighbour is ever asked for.
func Pair(tb testing.TB, c PairConfig) (left, right *End) {
	tb.Helper()
	if c.MTU == 0 {
		c.MTU = 1500
	}
	left = &End{Name: "left0", MAC: MAC{2, 0, 0, 0, 0, 0x0a}, V4: netip.MustParseAddr("10.77.0.1"), V6: netip.MustParseAddr("fd77::1")}
	right = &End{Name: "right0", MAC: MAC{2, 0, 0, 0, 0, 0x0b}, V4: netip.MustParseAddr("10.77.0.2"), V6: netip.MustParseAddr("fd77::2")}
	if c.Beside == nil {
		left.NetNS, right.NetNS = NewNetNS(tb), NewNetNS(tb)
	} else {
		left.NetNS, right.NetNS = NewNetNS(tb), c.Beside.NetNS
		right.Name = "right1"
		left.V4, left.V6 = netip.MustParseAddr("10.78.0.1"), netip.MustParseAddr("fd78::1")
		right.V4, right.V6 = netip.MustParseAddr("10.78.0.2"), netip.MustParseAddr("fd78::2")
	}
	require.NoError(tb, left.link.LinkAdd(&netlink.Veth{
		LinkAttrs:        netlink.LinkAttrs{Name: left.Name, MTU: c.MTU, HardwareAddr: left.MAC[:], TxQLen: 1000},
		PeerName:         right.Name,
		PeerHardwareAddr: right.MAC[:],
		PeerMTU:          uint32(c.MTU),
		PeerNamespace:    netlink.NsFd(right.file.Fd()),
	}))
	left.configure(right, c)
	right.configure(left, c)
	left.awaitUp()
	right.awaitUp()
	return left, right
}

// awaitUp waits until the kernel has noticed that both ends are up. Until then the one that was first sends into a queue that
// drops without a word or a counter.
func (e *End) awaitUp() {
	e.tb.Helper()
	require.Eventually(e.tb, func() bool {
		l, err := e.link.LinkByName(e.Name)
		return err == nil && l.Attrs().OperState == netlink.OperUp
	}, patience, time.Millisecond, "%s is up", e.Name)
}

func (e *End) configure(peer *End, c PairConfig) {
	l, err := e.link.LinkByName(e.Name)
	require.NoError(e.tb, err)
	e.Index = l.Attrs().Index
	require.NoError(e.tb, e.link.LinkSetARPOff(l))
	if !c.Offloads {
		e.setOffloads(false, ethtoolSTSO, ethtoolSGSO, ethtoolSGRO)
	}
	require.NoError(e.tb, e.link.LinkSetUp(l))
	for _, a := range []struct {
		own, peer netip.Addr
		bits      int
	}{{e.V4, peer.V4, 24}, {e.V6, peer.V6, 64}} {
		require.NoError(e.tb, e.link.AddrAdd(l, &netlink.Addr{
			IPNet: &net.IPNet{IP: a.own.AsSlice(), Mask: net.CIDRMask(a.bits, a.own.BitLen())},
			Flags: unix.IFA_F_NODAD,
		}))
		require.NoError(e.tb, e.link.NeighSet(&netlink.Neigh{
			LinkIndex:    e.Index,
			State:        netlink.NUD_PERMANENT,
			IP:           a.peer.AsSlice(),
			HardwareAddr: peer.MAC[:],
		}))
	}
}

// VXLAN joins two ends of a pair by a tunnel over IPv4, or IPv6 if v6. The ends that it returns are those of the tunnel, in the same
// namespaces; offloads stay as the system has them.
func VXLAN(left, right *End, v6 bool, port int) (l, r *End) {
	l = &End{NetNS: left.NetNS, Name: "vxlan0", MAC: MAC{2, 0, 0, 0, 0, 0x1a}, V4: netip.MustParseAddr("10.88.0.1"), V6: netip.MustParseAddr("fd88::1")}
	r = &End{NetNS: right.NetNS, Name: "vxlan0", MAC: MAC{2, 0, 0, 0, 0, 0x1b}, V4: netip.MustParseAddr("10.88.0.2"), V6: netip.MustParseAddr("fd88::2")}
	for _, e := range []struct{ tunnel, under, peer *End }{{l, left, right}, {r, right, left}} {
		require.NoError(e.under.tb, e.under.link.LinkAdd(&netlink.Vxlan{
			LinkAttrs:    netlink.LinkAttrs{Name: e.tunnel.Name, HardwareAddr: e.tunnel.MAC[:]},
			VxlanId:      42,
			VtepDevIndex: e.under.Index,
			SrcAddr:      e.under.Addr(v6).AsSlice(),
			Group:        e.peer.Addr(v6).AsSlice(),
			Port:         port,
			UDPCSum:      true,
		}))
	}
	l.configure(r, PairConfig{Offloads: true})
	r.configure(l, PairConfig{Offloads: true})
	l.awaitAddress()
	r.awaitAddress()
	return l, r
}

// awaitAddress waits until the end takes what is sent to its IPv6 address: the kernel adds that route behind the address, in its own time.
// Unlike awaitUp it needs no carrier, which a tunnel has not.
func (e *End) awaitAddress() {
	e.tb.Helper()
	require.Eventually(e.tb, func() bool {
		routes, err := e.link.RouteGet(e.V6.AsSlice())
		return err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL
	}, patience, time.Millisecond, "%s has its address", e.Name)
}

// AllowBuffers lets TCP hand buffers of up to size bytes to the interface, more than IP headers have numbers for: BIG TCP.
func (e *End) AllowBuffers(size int) {
	e.tb.Helper()
	l, err := e.link.LinkByName(e.Name)
	require.NoError(e.tb, err)
	require.NoError(e.tb, e.link.LinkSetGSOMaxSize(l, size))
	require.NoError(e.tb, e.link.LinkSetGSOIPv4MaxSize(l, size))
}

// linux/ethtool.h
const (
	ethtoolSTSO = 0x1f
	ethtoolSGSO = 0x24
	ethtoolSGRO = 0x2c
)

func (e *End) setOffloads(on bool, commands ...uint32) {
	e.tb.Helper()
	fd, err := 0, error(nil)
	e.Do(func() { fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) })
	require.NoError(e.tb, err)
	defer unix.Close(fd)
	for _, command := range commands {
		value := struct{ command, on uint32 }{command: command}
		if on {
			value.on = 1
		}
		request := struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}{data: unsafe.Pointer(&value)}
		copy(request.name[:], e.Name)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
		require.Zero(e.tb, errno, "ethtool %#x on %s: %v", command, e.Name, errno)
	}
}

// Segment has what from sends to its peer segmented behind the egress hook and joined again before the ingress hook, as cards and GRO do.
// So the counters of from are those of the wire. TCP would make no buffers for an interface that takes none: with it the interface
// only does not segment by itself.
func Segment(from, to *End, tcp bool) {
	if !tcp {
		from.AllowBuffers(1500)
	}
	from.setOffloads(false, ethtoolSTSO) // a veth does not join what came from an interface that could segment
	to.setOffloads(true, ethtoolSGRO)
}

// AddBridge joins the interfaces of ports, which lie in the namespace, by a bridge. It passes on what the test sends, an offloaded
// VLAN tag included, and is silent itself.
func (n *NetNS) AddBridge(ports ...*End) {
	n.tb.Helper()
	off := false
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "bridge0"}, MulticastSnooping: &off}
	require.NoError(n.tb, n.link.LinkAdd(bridge))
	require.NoError(n.tb, n.link.LinkSetARPOff(bridge))
	for _, p := range ports {
		l, err := n.link.LinkByName(p.Name)
		require.NoError(n.tb, err)
		require.NoError(n.tb, n.link.LinkSetMaster(l, bridge))
	}
	require.NoError(n.tb, n.link.LinkSetUp(bridge))
}

// AddVeth adds a veth with both ends in the namespace. They have no addresses of IP and say nothing by themselves.
func (n *NetNS) AddVeth(left, right string) (ends [2]*End) {
	n.tb.Helper()
	n.LinkAddVeth(left, right)
	return n.SetUp(left, right)
}

// LinkAddVeth adds a veth and no more: what is configured later waits for the same lock as whoever is tested.
func (n *NetNS) LinkAddVeth(left, right string) {
	n.tb.Helper()
	require.NoError(n.tb, n.link.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: left, TxQLen: 1000}, PeerName: right}))
}

// SetUp sets both ends of a veth up, silent.
func (n *NetNS) SetUp(left, right string) (ends [2]*End) {
	n.tb.Helper()
	for i, name := range []string{left, right} {
		l, err := n.link.LinkByName(name)
		require.NoError(n.tb, err)
		require.NoError(n.tb, n.link.LinkSetARPOff(l))
		require.NoError(n.tb, n.link.LinkSetUp(l))
		ends[i] = &End{NetNS: n, Name: name, Index: l.Attrs().Index, MAC: MAC(l.Attrs().HardwareAddr)}
	}
	ends[0].awaitUp()
	ends[1].awaitUp()
	return ends
}

// Delete deletes the end's interface; of a veth the other end goes, too.
func (e *End) Delete() {
	e.tb.Helper()
	require.NoError(e.tb, e.link.LinkDel(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: e.Index, Name: e.Name}}))
}

// MoveTo moves the end's interface to another namespace under another name. Its addresses stay behind.
func (e *End) MoveTo(n *NetNS, name string) {
	e.tb.Helper()
	l, err := e.link.LinkByName(e.Name)
	require.NoError(e.tb, err)
	require.NoError(e.tb, e.link.LinkSetDown(l))
	require.NoError(e.tb, e.link.LinkSetName(l, name))
	require.NoError(e.tb, e.link.LinkSetNsFd(l, int(n.file.Fd())))
	e.NetNS, e.Name = n, name
	l, err = e.link.LinkByName(name)
	require.NoError(e.tb, err)
	e.Index = l.Attrs().Index
	require.NoError(e.tb, e.link.LinkSetUp(l))
}

// AddVLAN adds a VLAN of the end's interface. It has no addresses of IP and says nothing by itself. It is nil if this kernel has none.
func (e *End) AddVLAN(name string, id int, protocol netlink.VlanProtocol) *End {
	e.tb.Helper()
	return e.NetNS.addSilent(&netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: name, ParentIndex: e.Index}, VlanId: id, VlanProtocol: protocol})
}

// AddBond joins the interfaces of ports, which lie in the namespace, by a bond that sends through one after the other. It is nil if this
// kernel has none.
func (n *NetNS) AddBond(name string, ports ...*End) *End {
	n.tb.Helper()
	bond := netlink.NewLinkBond(netlink.LinkAttrs{Name: name})
	bond.Mode = netlink.BOND_MODE_BALANCE_RR
	e := n.addSilent(bond)
	if e == nil {
		return nil
	}
	for _, p := range ports {
		l, err := n.link.LinkByName(p.Name)
		require.NoError(n.tb, err)
		require.NoError(n.tb, n.link.LinkSetDown(l)) // a port must be
		require.NoError(n.tb, n.link.LinkSetMasterByIndex(l, e.Index))
		require.NoError(n.tb, n.link.LinkSetUp(l))
	}
	e.awaitUp()
	return e
}

// addSilent adds an interface and sets it up. Guests of internal/kernelmatrix have the modules that it needs; elsewhere it is nil without.
func (n *NetNS) addSilent(link netlink.Link) *End {
	n.tb.Helper()
	err := n.link.LinkAdd(link)
	if errors.Is(err, unix.EOPNOTSUPP) && !InGuest() {
		n.tb.Logf("not tested here: this kernel has no %s", link.Type())
		return nil
	}
	require.NoError(n.tb, err)
	l, err := n.link.LinkByName(link.Attrs().Name)
	require.NoError(n.tb, err)
	require.NoError(n.tb, n.link.LinkSetARPOff(l))
	require.NoError(n.tb, n.link.LinkSetUp(l))
	return &End{NetNS: n, Name: l.Attrs().Name, Index: l.Attrs().Index, MAC: MAC(l.Attrs().HardwareAddr)}
}

// InGuest reports whether this is a kernel that internal/kernelmatrix has booted, with all modules that its tests need.
func InGuest() bool { return os.Getenv("EBPFPACKETS_GUEST") != "" }
