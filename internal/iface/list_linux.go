// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package iface

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	sysClassNet = "/sys/class/net"

	dumpAttempts  = 3                      // a dump is told to be inconsistent if links change meanwhile
	watchInterval = 100 * time.Millisecond // at most one call of changed in this time
)

// List returns every interface of the network namespace of the calling thread. With ErrIncomplete what it returns is right, but some
// interfaces may be missing, or their default routes.
//
// Device comes from IFLA_PARENT_DEV_NAME, which is right in any namespace. Kernels before 5.14 lack it: there it is the
// link "device" in sysfs, which shows the interfaces of the namespace it was mounted in. An entry of sysfs is believed
// only if it has the index and the address of the interface, so that an interface of the same name in another namespace
// is not mistaken for ours; in a namespace without a sysfs of its own, no interface is then backed by a device, and
// kind:uplink means those with a default route.
func List() ([]Interface, error) {
	links, whole, err := dumpLinks()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var all []Interface
	devices := false
	for _, link := range links {
		i, err := parseLink(link)
		if err != nil {
			return nil, fmt.Errorf("list interfaces: %w", err)
		}
		devices = devices || i.Device
		all = append(all, i)
	}
	if !devices { // only then, because a router's table is large and the kernel does not filter it
		routes, wholeRoutes, err := defaultRoutes()
		if err != nil {
			return nil, fmt.Errorf("list default routes: %w", err)
		}
		for n := range all {
			all[n].DefaultRoute = routes[int(all[n].Index)]
		}
		whole = whole && wholeRoutes
	}
	if !whole {
		return all, fmt.Errorf("list interfaces: %w", ErrIncomplete)
	}
	return all, nil
}

// Count returns the counters of every interface of the network namespace of the calling thread, by index. While many change it may
// leave out some.
func Count() (map[uint32]Counters, error) {
	links, _, err := dumpLinks()
	if err != nil {
		return nil, fmt.Errorf("read the counters of interfaces: %w", err)
	}
	all := make(map[uint32]Counters, len(links))
	for _, link := range links {
		if len(link) < unix.SizeofIfInfomsg {
			continue
		}
		attrs, err := nl.ParseRouteAttr(link[unix.SizeofIfInfomsg:])
		if err != nil {
			return nil, fmt.Errorf("read the counters of interfaces: %w", err)
		}
		for _, a := range attrs {
			if a.Attr.Type == unix.IFLA_STATS64 {
				all[uint32(nl.DeserializeIfInfomsg(link).Index)] = parseStats(a.Value)
			}
		}
	}
	return all, nil
}

func dumpLinks() (links [][]byte, whole bool, err error) {
	return dump(func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	})
}

// dump calls get until the kernel says that nothing changed while it answered. If it never does, the last answer is not the whole one:
// what changed is announced to Watch, but before Linux 6.9 links may be missing that did not, since the kernel goes on by their
// number in a bucket, from which others have gone.
func dump[T any](get func() ([]T, error)) (all []T, whole bool, err error) {
	for range dumpAttempts {
		all, err = get()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, true, err
		}
	}
	return all, false, nil
}

// parseLink reads one RTM_NEWLINK. The netlink package's own reading renames kinds (tun to tuntap) and loses the
// hardware type.
func parseLink(data []byte) (Interface, error) {
	if len(data) < unix.SizeofIfInfomsg {
		return Interface{}, fmt.Errorf("link message has %d bytes, needs %d", len(data), unix.SizeofIfInfomsg)
	}
	msg := nl.DeserializeIfInfomsg(data)
	attrs, err := nl.ParseRouteAttr(data[unix.SizeofIfInfomsg:])
	if err != nil {
		return Interface{}, fmt.Errorf("link %d: %w", msg.Index, err)
	}
	i := Interface{
		Index:        uint32(msg.Index),
		Kind:         kindDevice,
		HWType:       msg.Type,
		Up:           msg.Flags&unix.IFF_UP != 0,
		Loopback:     msg.Flags&unix.IFF_LOOPBACK != 0,
		PointToPoint: msg.Flags&(unix.IFF_POINTOPOINT|unix.IFF_BROADCAST) == unix.IFF_POINTOPOINT,
	}
	var address []byte
	var link uint32
	elsewhere := false // link counts in another namespace
	for _, a := range attrs {
		switch a.Attr.Type &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER) {
		case unix.IFLA_IFNAME:
			i.Name = unix.ByteSliceToString(a.Value)
		case unix.IFLA_ADDRESS:
			address = a.Value
		case unix.IFLA_MASTER:
			if len(a.Value) == 4 {
				i.Master = nl.NativeEndian().Uint32(a.Value)
			}
		case unix.IFLA_LINK:
			if len(a.Value) == 4 {
				link = nl.NativeEndian().Uint32(a.Value)
			}
		case unix.IFLA_LINK_NETNSID:
			elsewhere = true
		case unix.IFLA_PARENT_DEV_NAME:
			i.Device = true
		case unix.IFLA_LINKINFO:
			if i.Kind, err = parseKind(a.Value); err != nil {
				return Interface{}, fmt.Errorf("link %d: %w", msg.Index, err)
			}
		}
	}
	i.OuterFirst = keepsOuter() && slices.Contains(decapsulating, i.Kind)
	i.Device = i.Device || deviceInSysfs(sysClassNet, &i, address)
	if !elsewhere {
		i.join(link)
	}
	return i, nil
}

// decapsulating are the kinds whose drivers say only since Linux 5.14 that a packet begins behind the outer headers (skb_reset_mac_header,
// commits 99c8719b7981, 7ad136fd288c, 730eed2772e7, aab1e898c26c, da5a2e49f064 and b2d898c8a523). Before it the tc hook sees those, too.
var decapsulating = []string{"bareudp", "ipip", "sit", "gre", "ip6gre", "ip6tnl", "gtp"}

// keepsOuter reports whether this kernel is so old. Its version is all that tells.
var keepsOuter = sync.OnceValue(func() bool {
	var name unix.Utsname
	err := unix.Uname(&name)
	return err == nil && below514(unix.ByteSliceToString(name.Release[:]))
})

func below514(release string) bool {
	var major, minor int
	_, err := fmt.Sscanf(release, "%d.%d", &major, &minor)
	return err == nil && (major < 5 || major == 5 && minor < 14)
}

// join notes what IFLA_LINK means. A tunnel's is the interface that its packets leave through, and those are other packets.
func (i *Interface) join(link uint32) {
	switch i.Kind {
	case "vlan", "macvlan", "macvtap", "ipvlan", "ipvtap":
		i.Lower = link
	case "veth":
		i.Peer = link
	}
	if i.Loopback {
		i.Peer = i.Index
	}
}

// parseStats reads packets from struct rtnl_link_stats64 of linux/if_link.h.
func parseStats(data []byte) Counters {
	const rxPackets, txPackets, txDropped = 0, 8, 56
	if len(data) < txDropped+8 {
		return Counters{}
	}
	at := func(offset int) uint64 { return nl.NativeEndian().Uint64(data[offset:]) }
	return Counters{Received: at(rxPackets), Transmitted: at(txPackets) + at(txDropped)}
}

// parseKind returns the kind in the attributes of IFLA_LINKINFO. They may be there for the sake of a master only.
func parseKind(data []byte) (string, error) {
	attrs, err := nl.ParseRouteAttr(data)
	if err != nil {
		return "", err
	}
	for _, a := range attrs {
		if a.Attr.Type == unix.IFLA_INFO_KIND {
			return unix.ByteSliceToString(a.Value), nil
		}
	}
	return kindDevice, nil
}

// deviceInSysfs reports whether sysfs, mounted at root, shows a device behind i; see List for whose sysfs it may be.
func deviceInSysfs(root string, i *Interface, address []byte) bool {
	dir := filepath.Join(root, i.Name)
	if _, err := os.Stat(filepath.Join(dir, "device")); err != nil {
		return false
	}
	return sysfsValue(dir, "ifindex") == fmt.Sprint(i.Index) &&
		sysfsValue(dir, "address") == net.HardwareAddr(address).String()
}

func sysfsValue(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// defaultRoutes returns the indexes of the interfaces that a default route of the main table leads to.
func defaultRoutes() (indexes map[int]bool, whole bool, err error) {
	indexes, whole = map[int]bool{}, true
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, all, err := dump(func() (defaults []netlink.Route, err error) {
			err = netlink.RouteListFilteredIter(family, &netlink.Route{}, 0, func(r netlink.Route) bool {
				if isDefault(&r) {
					defaults = append(defaults, r)
				}
				return true
			})
			return defaults, err
		})
		if err != nil {
			return nil, false, err
		}
		whole = whole && all
		for _, r := range routes {
			indexes[r.LinkIndex] = true
			for _, hop := range r.MultiPath {
				indexes[hop.LinkIndex] = true
			}
		}
	}
	return indexes, whole, nil
}

// isDefault reports whether r leads everywhere: not "unreachable default", which IPv6 hangs on loopback.
func isDefault(r *netlink.Route) bool {
	if r.Type != unix.RTN_UNICAST {
		return false
	}
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0
}

// Listener hears when interfaces of one network namespace may have come, gone or changed, and when a default route may have.
type Listener struct{ socket *nl.NetlinkSocket }

// Listen opens its socket in the network namespace of the calling thread. Watch must follow, or Close.
func Listen() (*Listener, error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("subscribe to link and route events: %w", err)
	}
	if err := dropRoutes(socket.GetFd()); err != nil {
		socket.Close()
		return nil, fmt.Errorf("drop events of routes that are no default route: %w", err)
	}
	return &Listener{socket}, nil
}

// dropRoutes lets the kernel drop the events of routes that do not lead everywhere: a router may have a million, and
// many changes a second. The filter is a socket's (classic BPF), asks for no privilege, and looks at the only message of
// an event: struct nlmsghdr, then struct rtmsg.
func dropRoutes(fd int) error {
	const (
		nlmsgType = 4                                       // offset, host byte order: little-endian on amd64 and arm64
		rtmDstLen = unix.SizeofNlMsghdr + 1                 // offset, bits of the prefix
		load16    = unix.BPF_LD | unix.BPF_H | unix.BPF_ABS // in network byte order
		load8     = unix.BPF_LD | unix.BPF_B | unix.BPF_ABS
		ifEqual   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		keep      = unix.BPF_RET | unix.BPF_K
	)
	filter := []unix.SockFilter{
		{Code: load16, K: nlmsgType},
		{Code: ifEqual, K: uint32(nl.Swap16(unix.RTM_NEWROUTE)), Jt: 1},
		{Code: ifEqual, K: uint32(nl.Swap16(unix.RTM_DELROUTE)), Jf: 2},
		{Code: load8, K: rtmDstLen},
		{Code: ifEqual, K: 0, Jf: 1},
		{Code: keep, K: math.MaxUint32},
		{Code: keep, K: 0},
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

// Close is for who does not watch.
func (l *Listener) Close() { l.socket.Close() }

// Watch calls changed, from this goroutine, whenever interfaces or default routes may have come, gone or changed, until
// ctx is done; then it returns nil. It calls it once at the beginning, so nothing that happens after Listen was called is missed, then
// at once for a first event and at most ten times a second for many.
func (l *Listener) Watch(ctx context.Context, changed func()) error {
	socket := l.socket
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(ctx, socket.Close) // which is what ends receive
	events := make(chan struct{}, 1)
	received := make(chan error, 1)
	go func() { received <- receive(ctx, socket, events) }()

	for {
		changed()
		select {
		case <-ctx.Done():
			return <-received
		case <-time.After(watchInterval):
		}
		select {
		case <-ctx.Done():
			return <-received
		case err := <-received:
			return err
		case <-events:
		}
	}
}

// receive turns messages into events until ctx is done. Their content does not matter: List is the truth.
func receive(ctx context.Context, socket *nl.NetlinkSocket, events chan<- struct{}) error {
	for {
		_, _, err := socket.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil, errors.Is(err, unix.ENOBUFS): // events were lost: the more reason to look
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		default:
			return fmt.Errorf("receive link and route events: %w", err)
		}
		select {
		case events <- struct{}{}:
		default: // one is waiting already
		}
	}
}
