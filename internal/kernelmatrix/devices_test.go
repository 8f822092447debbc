// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernelmatrix

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// outerHeader is a header of the packet that carries another one.
type outerHeader uint8

const (
	outerLink outerHeader = iota + 1
	outerIP
)

// device is a kind of interface that packets begin with something of its own at.
type device struct {
	name   string
	link   func(attrs netlink.LinkAttrs, local, remote *testenv.End) netlink.Link // nil: the veth of the pair itself
	header uint64                                                                 // bytes in front of the inner IP header that are counted
	inner  []int                                                                  // versions of IP that it carries
	outer  outerHeader                                                            // that comes in first below Linux 5.14
	gre    bool                                                                   // carries whatever a peer says
	meet   func(t *testing.T, d *device, left, right, l, r *testenv.End)          // nil: addresses are all that they need to know
}

// Plain Ethernet is there to compare with: what is wrong there is wrong with the test.
var devices = []device{
	{name: "veth", header: 14, inner: []int{4, 6}},
	{name: "ipip", outer: outerLink, inner: []int{4}, link: func(a netlink.LinkAttrs, l, r *testenv.End) netlink.Link {
		return &netlink.Iptun{LinkAttrs: a, Local: ip(l.V4), Remote: ip(r.V4), Ttl: 64}
	}},
	{name: "sit", outer: outerIP, inner: []int{6}, link: func(a netlink.LinkAttrs, l, r *testenv.End) netlink.Link {
		return &netlink.Sittun{LinkAttrs: a, Local: ip(l.V4), Remote: ip(r.V4), Ttl: 64, Proto: unix.IPPROTO_IPV6}
	}},
	{name: "ip6tnl", outer: outerLink, inner: []int{4, 6}, link: func(a netlink.LinkAttrs, l, r *testenv.End) netlink.Link {
		const ignoreEncapsulationLimit = 1
		return &netlink.Ip6tnl{LinkAttrs: a, Local: ip(l.V6), Remote: ip(r.V6), Ttl: 64, Flags: ignoreEncapsulationLimit}
	}},
	{name: "gre", outer: outerIP, inner: []int{4, 6}, gre: true, link: func(a netlink.LinkAttrs, l, r *testenv.End) netlink.Link {
		return &netlink.Gretun{LinkAttrs: a, Local: ip(l.V4), Remote: ip(r.V4), Ttl: 64}
	}},
	{name: "ip6gre", outer: outerLink, inner: []int{4, 6}, link: func(a netlink.LinkAttrs, l, r *testenv.End) netlink.Link {
		return &netlink.Gretun{LinkAttrs: a, Local: ip(l.V6), Remote: ip(r.V6), Ttl: 64}
	}},
	{name: "wireguard", inner: []int{4, 6}, meet: pairWireguard, link: func(a netlink.LinkAttrs, _, _ *testenv.End) netlink.Link {
		return &netlink.Wireguard{LinkAttrs: a}
	}},
}

func ip(a netip.Addr) net.IP { return a.AsSlice() }

// TestDevices sends datagrams through each kind of device, in both directions. What is counted there must be those packets: a
// layout that is taken for another would give other addresses, ports or bytes. Those with two layouts are not attached. TestKernels runs it
// on kernels that have all kinds; elsewhere it tests those that are there.
func TestDevices(t *testing.T) {
	testenv.Privileged(t)
	k, err := kernel.Load(kernel.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, k.Close()) })
	sampler := sync.OnceValue(func() *kernel.Kernel { return sampling(t) })
	for _, d := range devices {
		t.Run(d.name, func(t *testing.T) {
			left, right := testenv.Pair(t, testenv.PairConfig{})
			l, r := d.ends(t, left, right)
			if l == nil {
				return
			}
			if d.outer != 0 && below514(t) {
				d.beginsInTwoWays(t, sampler(), left, right, l, r)
				return
			}
			observe(t, k, l)
			want := map[counted]flow.Volume{}
			for _, version := range d.inner {
				key, volume := d.exchange(t, l, r, version)
				want[counted{key, flow.DirectionEgress}] = volume
				key, volume = d.exchange(t, r, l, version)
				want[counted{key, flow.DirectionIngress}] = volume
			}
			got, classes := drained(t, k)
			require.Equal(t, want, got)
			require.Empty(t, classes)
			if d.gre {
				d.disguise(t, k, right, left)
			}
		})
	}
}

// Devices that are not attached say so: what they begin with is not known for certain.
func TestDevicesThatAreNot(t *testing.T) {
	testenv.Privileged(t)
	for name, link := range map[string]func(netlink.LinkAttrs, *testenv.End) netlink.Link{
		"vti": func(a netlink.LinkAttrs, l *testenv.End) netlink.Link {
			return &netlink.Vti{LinkAttrs: a, Local: ip(l.V4), Remote: net.IPv4(10, 77, 0, 2), IKey: 1, OKey: 1}
		},
		"xfrm": func(a netlink.LinkAttrs, _ *testenv.End) netlink.Link {
			return &netlink.Xfrmi{LinkAttrs: a, Ifid: 7}
		},
		"gre to many": func(a netlink.LinkAttrs, l *testenv.End) netlink.Link {
			return &netlink.Gretun{LinkAttrs: a, Local: ip(l.V4), Remote: net.IPv4zero.To4()}
		},
		"gre to a group": func(a netlink.LinkAttrs, l *testenv.End) netlink.Link {
			return &netlink.Gretun{LinkAttrs: a, Local: ip(l.V4), Remote: net.IPv4(239, 1, 1, 1), Link: uint32(l.Index)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			left, _ := testenv.Pair(t, testenv.PairConfig{})
			if !add(t, left, link(netlink.LinkAttrs{Name: "device0"}, left)) {
				return
			}
			i := find(t, left.NetNS, "device0")
			require.Equal(t, iface.LinkHeaderUnknown, i.LinkHeader())
		})
	}
}

// below514 reports whether this kernel is older than Linux 5.14.
func below514(t *testing.T) bool {
	t.Helper()
	var name unix.Utsname
	require.NoError(t, unix.Uname(&name))
	var major, minor int
	_, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
	require.NoError(t, err)
	return 100*major+minor < 514
}

// beginsInTwoWays wants that the device is not attached, and shows why: what it sends begins with the inner header, what it receives with
// one of the outer packet.
func (d *device) beginsInTwoWays(t *testing.T, k *kernel.Kernel, left, right, l, r *testenv.End) {
	t.Helper()
	i := find(t, l.NetNS, l.Name)
	require.Equal(t, iface.LinkHeaderUnknown, i.LinkHeader())
	l.Do(func() { require.ErrorContains(t, k.Attach(i, flow.DirectionIngress), "link header not supported") })
	for _, version := range d.inner {
		begins := d.begins(t, k, l, r, version)
		outer := []byte{0x45}
		if d.outer == outerLink {
			outer = slices.Concat(left.MAC[:], right.MAC[:])
		}
		for n := range datagramsEach {
			require.Equal(t, byte(version), begins[flow.DirectionEgress][n][0]>>4)
			require.Equal(t, outer, begins[flow.DirectionIngress][n][:len(outer)])
		}
	}
}

// ends makes the device in both namespaces. They are nil if this kernel does not have it.
func (d *device) ends(t *testing.T, left, right *testenv.End) (l, r *testenv.End) {
	t.Helper()
	if d.link == nil {
		return left, right
	}
	l = &testenv.End{NetNS: left.NetNS, Name: "device0", V4: netip.MustParseAddr("10.99.0.1"), V6: netip.MustParseAddr("fd99::1")}
	r = &testenv.End{NetNS: right.NetNS, Name: "device0", V4: netip.MustParseAddr("10.99.0.2"), V6: netip.MustParseAddr("fd99::2")}
	for _, e := range []struct{ device, under, peer *testenv.End }{{l, left, right}, {r, right, left}} {
		if !add(t, e.under, d.link(netlink.LinkAttrs{Name: "device0"}, e.under, e.peer)) {
			return nil, nil
		}
		link, err := e.device.Link().LinkByName("device0")
		require.NoError(t, err)
		e.device.Index = link.Attrs().Index
		require.NoError(t, e.device.Link().LinkSetUp(link))
		for _, a := range []netip.Addr{e.device.V4, e.device.V6} {
			bits := map[bool]int{true: 24, false: 64}[a.Is4()]
			require.NoError(t, e.device.Link().AddrAdd(link, &netlink.Addr{
				IPNet: &net.IPNet{IP: ip(a), Mask: net.CIDRMask(bits, a.BitLen())},
				Flags: unix.IFA_F_NODAD,
			}))
		}
	}
	if d.meet != nil {
		d.meet(t, d, left, right, l, r)
	}
	return l, r
}

// add reports whether this kernel has such a device. In a guest it must.
func add(t *testing.T, e *testenv.End, link netlink.Link) bool {
	t.Helper()
	err := e.Link().LinkAdd(link)
	if errors.Is(err, unix.EOPNOTSUPP) && !testenv.InGuest() {
		t.Logf("not tested here: this kernel has no %s", link.Type())
		return false
	}
	require.NoError(t, err)
	return true
}

func find(t *testing.T, ns *testenv.NetNS, name string) iface.Interface {
	t.Helper()
	var all []iface.Interface
	var err error
	ns.Do(func() { all, err = iface.List() })
	require.NoError(t, err)
	i := slices.IndexFunc(all, func(i iface.Interface) bool { return i.Name == name })
	require.GreaterOrEqual(t, i, 0, "no interface %s", name)
	return all[i]
}

// observe counts at one end, in both directions: that of the other has the same number in its own namespace.
func observe(t *testing.T, k *kernel.Kernel, e *testenv.End) {
	t.Helper()
	i := find(t, e.NetNS, e.Name)
	for _, d := range []flow.Direction{flow.DirectionIngress, flow.DirectionEgress} {
		var err error
		e.Do(func() { err = k.Attach(i, d) })
		require.NoError(t, err)
	}
	t.Cleanup(func() { require.NoError(t, k.Detach(i.Index)) })
}

// counted is where a packet ends up.
type counted struct {
	flow.Key
	flow.Direction
}

const datagramsEach = 50

// exchange sends datagrams of many sizes, and returns what each end must count.
func (d *device) exchange(t *testing.T, from, to *testenv.End, version int) (key flow.Key, sum flow.Volume) {
	t.Helper()
	src, dst := from.Addr(version == 6), to.Addr(version == 6)
	var receiver, sender *net.UDPConn
	var err error
	to.Do(func() { receiver, err = net.ListenUDP("udp", &net.UDPAddr{IP: ip(dst)}) })
	require.NoError(t, err)
	defer receiver.Close()
	port := receiver.LocalAddr().(*net.UDPAddr).Port
	from.Do(func() {
		sender, err = net.DialUDP("udp", &net.UDPAddr{IP: ip(src)}, &net.UDPAddr{IP: ip(dst), Port: port})
	})
	require.NoError(t, err)
	defer sender.Close()
	require.NoError(t, receiver.SetReadDeadline(time.Now().Add(10*time.Second)))
	for n := range datagramsEach {
		_, err := sender.Write(make([]byte, 20*n))
		require.NoError(t, err)
		_, err = receiver.Read(make([]byte, 2000))
		require.NoError(t, err)
		headers := map[int]int{4: 20 + 8, 6: 40 + 8}[version]
		sum.Add(flow.Volume{Packets: 1, Bytes: d.header + uint64(headers+20*n)})
	}
	key = flow.Key{
		IfIndex: uint32(from.Index), // the same at both ends
		SrcPort: uint16(sender.LocalAddr().(*net.UDPAddr).Port), DstPort: uint16(port),
		Proto: unix.IPPROTO_UDP, IPv6: version == 6,
	}
	copy(key.SrcAddr[16-len(ip(src)):], ip(src))
	copy(key.DstAddr[16-len(ip(dst)):], ip(dst))
	return key, sum
}

// drained is what was counted, but for what IPv6 says by itself on a new interface.
func drained(t *testing.T, k *kernel.Kernel) (map[counted]flow.Volume, []kernel.Class) {
	t.Helper()
	got := map[counted]flow.Volume{}
	drained, err := k.Drain(func(s *flow.Slot) {
		if s.Key.Proto == unix.IPPROTO_ICMPV6 {
			return
		}
		at := counted{s.Key, s.Direction}
		v := got[at]
		v.Add(s.Volume)
		got[at] = v
	})
	require.NoError(t, err)
	require.Empty(t, drained.Mismatches)
	return got, drained.Classes
}

// disguise lets the device receive MPLS whose labels and payload are made up to be an IPv4 packet. It is none.
func (d *device) disguise(t *testing.T, k *kernel.Kernel, from, to *testenv.End) {
	t.Helper()
	const mpls = 0x8847
	inner := ipv4(unix.IPPROTO_UDP, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), make([]byte, 28))
	outer := ipv4(unix.IPPROTO_GRE, from.V4, to.V4, slices.Concat([]byte{0, 0, mpls >> 8, mpls & 0xff}, inner))
	from.NewSender().Raw(slices.Concat(to.MAC[:], from.MAC[:], []byte{0x08, 0x00}, outer))
	var flows map[counted]flow.Volume
	var classes []kernel.Class
	for began := time.Now(); len(flows)+len(classes) == 0 && time.Since(began) < 10*time.Second; {
		flows, classes = drained(t, k)
	}
	require.Empty(t, flows, "taken for IP")
	require.Len(t, classes, 1)
	require.Equal(t, flow.ReasonNotIP, classes[0].Reason)
	require.Equal(t, flow.DirectionIngress, classes[0].Direction)
	require.Equal(t, flow.Volume{Packets: 1, Bytes: uint64(len(inner))}, classes[0].Volume)
}

func ipv4(proto byte, from, to netip.Addr, payload []byte) []byte {
	h := slices.Concat([]byte{0x45, 0}, binary.BigEndian.AppendUint16(nil, uint16(20+len(payload))), make([]byte, 4),
		[]byte{64, proto, 0, 0}, ip(from), ip(to))
	sum := uint32(0)
	for i := 0; i < len(h); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum+sum>>16))
	return append(h, payload...)
}
