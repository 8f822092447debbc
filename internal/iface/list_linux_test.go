// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package iface

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestListKnowsLoopback(t *testing.T) {
	all, err := List()
	require.NoError(t, err)
	require.NotEmpty(t, all)
	for _, i := range all {
		assert.NotZero(t, i.Index)
		assert.NotEmpty(t, i.Name)
		assert.NotEmpty(t, i.Kind)
		if i.Name == "lo" {
			assert.True(t, i.Loopback)
			assert.False(t, i.Device)
			assert.Equal(t, LinkHeaderEthernet, i.LinkHeader())
		}
	}
}

// inNamespace runs f in a network namespace of its own, which ends with it.
func inNamespace(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			f(t)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		if os.Getenv("EBPFPACKETS_PRIVILEGED") == "1" {
			t.Fatalf("new network namespace: %v", err)
		}
		t.Skipf("needs CAP_SYS_ADMIN and CAP_NET_ADMIN: new network namespace: %v", err)
	}
}

// addVeth must run on the namespace's thread, so it reports with assert.
func addVeth(t *testing.T, name, peer string) {
	assert.NoError(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer}))
}

func byName(all []Interface) map[string]Interface {
	m := map[string]Interface{}
	for _, i := range all {
		m[i.Name] = i
	}
	return m
}

func TestListInANamespaceWithTheHostsSysfs(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		addVeth(t, "eth0", "peer0") // the host's eth0 is backed by a device, if it has one
		link, err := netlink.LinkByName("eth0")
		if !assert.NoError(t, err) {
			return
		}
		assert.NoError(t, netlink.LinkSetUp(link))
		_, everywhere, _ := net.ParseCIDR("0.0.0.0/0")
		assert.NoError(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: everywhere, Scope: netlink.SCOPE_LINK}))
		peer, err := netlink.LinkByName("peer0")
		assert.NoError(t, err)
		assert.NoError(t, netlink.LinkSetUp(peer))
		_, somewhere, _ := net.ParseCIDR("192.0.2.0/24")
		assert.NoError(t, netlink.RouteAdd(&netlink.Route{LinkIndex: peer.Attrs().Index, Dst: somewhere, Scope: netlink.SCOPE_LINK}))
		assert.NoError(t, netlink.RouteAdd(&netlink.Route{Dst: everywhere, Type: unix.RTN_UNREACHABLE, Priority: 9}))
		assert.NoError(t, netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun7"}, Mode: netlink.TUNTAP_MODE_TUN}))

		all, err := List()
		assert.NoError(t, err)
		got := byName(all)
		assert.Equal(t, Interface{
			Index: uint32(link.Attrs().Index), Name: "eth0", Kind: "veth", HWType: 1, Peer: uint32(peer.Attrs().Index), Up: true, DefaultRoute: true,
		}, got["eth0"])
		assert.Equal(t, "veth", got["peer0"].Kind)
		assert.False(t, got["peer0"].DefaultRoute)
		assert.Equal(t, "tun", got["tun7"].Kind, "the kernel's word, not tuntap")
		assert.Equal(t, LinkHeaderNone, (&Interface{HWType: got["tun7"].HWType}).LinkHeader())
	})
}

func TestDeviceInSysfsBelievesOnlyTheSameInterface(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(root, "eth0", name), []byte(text), 0o600))
	}
	require.NoError(t, os.MkdirAll(filepath.Join(root, "eth0", "device"), 0o700))
	write("ifindex", "2\n")
	write("address", "02:fc:00:00:00:01\n")
	address := []byte{2, 0xfc, 0, 0, 0, 1}

	assert.True(t, deviceInSysfs(root, &Interface{Name: "eth0", Index: 2}, address))
	assert.False(t, deviceInSysfs(root, &Interface{Name: "eth0", Index: 3}, address), "another index")
	assert.False(t, deviceInSysfs(root, &Interface{Name: "eth0", Index: 2}, []byte{2, 0xfc, 0, 0, 0, 2}), "another address")
	assert.False(t, deviceInSysfs(root, &Interface{Name: "eth1", Index: 2}, address), "no such interface")
	require.NoError(t, os.Remove(filepath.Join(root, "eth0", "device")))
	assert.False(t, deviceInSysfs(root, &Interface{Name: "eth0", Index: 2}, address), "no device")
}

func TestParseLinkRefusesShortMessages(t *testing.T) {
	for n := range unix.SizeofIfInfomsg {
		_, err := parseLink(make([]byte, n))
		require.ErrorContains(t, err, "link message has")
	}
	_, err := parseLink(append(make([]byte, unix.SizeofIfInfomsg), 255, 255, 3, 0)) // an attribute longer than the message
	require.Error(t, err)
}

func TestTunnelsBelow514HaveNoHeaderInCommon(t *testing.T) {
	for release, want := range map[string]bool{
		"5.10.0-46-cloud-amd64": true, "5.13.19": true, "5.14.0-427.el9.x86_64": false, "6.1.192": false, "10.0-rc1": false, "4.19.0": true, "": false,
	} {
		assert.Equal(t, want, below514(release), release)
	}
	tunnel := Interface{Kind: "sit", HWType: unix.ARPHRD_SIT}
	assert.Equal(t, LinkHeaderNone, tunnel.LinkHeader())
	tunnel.OuterFirst = true
	assert.Equal(t, LinkHeaderUnknown, tunnel.LinkHeader())
}

func TestADefaultRouteLeadsEverywhere(t *testing.T) {
	_, v4, _ := net.ParseCIDR("0.0.0.0/0")
	_, v6, _ := net.ParseCIDR("::/0")
	_, half, _ := net.ParseCIDR("0.0.0.0/1")
	assert.True(t, isDefault(&netlink.Route{Type: unix.RTN_UNICAST}))
	assert.True(t, isDefault(&netlink.Route{Type: unix.RTN_UNICAST, Dst: v4}))
	assert.True(t, isDefault(&netlink.Route{Type: unix.RTN_UNICAST, Dst: v6}))
	assert.False(t, isDefault(&netlink.Route{Type: unix.RTN_UNICAST, Dst: half}))
	assert.False(t, isDefault(&netlink.Route{Type: unix.RTN_UNREACHABLE, Dst: v6}))
}

func TestDumpTriesAgainWhenInterrupted(t *testing.T) {
	calls := 0
	all, whole, err := dump(func() ([]int, error) {
		calls++
		if calls < 3 {
			return []int{calls}, netlink.ErrDumpInterrupted
		}
		return []int{calls}, nil
	})
	require.NoError(t, err)
	assert.Equal(t, []int{3}, all)
	assert.True(t, whole)

	all, whole, err = dump(func() ([]int, error) { return []int{7}, netlink.ErrDumpInterrupted })
	require.NoError(t, err, "what changed meanwhile is announced to Watch")
	assert.Equal(t, []int{7}, all)
	assert.False(t, whole, "others may be missing")

	broken := errors.New("broken")
	_, _, err = dump(func() ([]int, error) { return nil, broken })
	require.ErrorIs(t, err, broken)
}

func TestWatchTellsOnceAtTheStartAndOfChanges(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		calls, begun := 0, time.Time{}
		err := watch(ctx, func() { // on this thread, hence in this namespace
			calls++
			switch calls {
			case 1:
				begun = time.Now()
				for n := range 20 { // 40 links in one burst
					addVeth(t, fmt.Sprint("a", n), fmt.Sprint("b", n))
				}
			case 2: // the burst
				all, err := List()
				assert.NoError(t, err)
				assert.Contains(t, byName(all), "b19")
				assert.GreaterOrEqual(t, time.Since(begun), watchInterval)
				addVeth(t, "a20", "b20")
			case 3: // and nothing happens any more
				time.AfterFunc(4*watchInterval, cancel)
			}
		})
		assert.NoError(t, err)
		assert.Equal(t, 3, calls)
	})
}

// A router's many routes wake nobody; those do that kind:uplink may stand for.
func TestWatchTellsOfDefaultRoutesAndOfNoOthers(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		addVeth(t, "eth0", "peer0")
		host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		assert.NoError(t, err)
		defer host.Close()
		index := map[string]int{}
		for _, name := range []string{"eth0", "peer0"} {
			link, err := host.LinkByName(name)
			assert.NoError(t, err)
			assert.NoError(t, host.LinkSetUp(link))
			index[name] = link.Attrs().Index
		}
		route := func(to, name string) *netlink.Route {
			_, dst, err := net.ParseCIDR(to)
			assert.NoError(t, err)
			return &netlink.Route{LinkIndex: index[name], Dst: dst, Scope: netlink.SCOPE_LINK}
		}
		l, err := Listen()
		if !assert.NoError(t, err) {
			return
		}
		ctx, cancel := context.WithCancel(context.Background())
		var calls atomic.Int64
		ended := make(chan error)
		go func() { ended <- l.Watch(ctx, func() { calls.Add(1) }) }()
		told := func(what string, before int64) {
			assert.Eventually(t, func() bool { return calls.Load() > before }, 5*time.Second, time.Millisecond, what)
		}
		told("the beginning", 0)
		time.Sleep(4 * watchInterval)

		before := calls.Load()
		for n := range 200 {
			assert.NoError(t, host.RouteAdd(route(fmt.Sprintf("10.0.%d.0/24", n), "eth0")))
			assert.NoError(t, host.RouteAdd(route(fmt.Sprintf("2001:db8:%x::/48", n), "eth0")))
		}
		assert.NoError(t, host.RouteAdd(route("128.0.0.0/1", "eth0")))
		assert.NoError(t, host.RouteDel(route("128.0.0.0/1", "eth0")))
		time.Sleep(4 * watchInterval)
		assert.Equal(t, before, calls.Load())

		for _, everywhere := range []string{"0.0.0.0/0", "::/0"} {
			before = calls.Load()
			assert.NoError(t, host.RouteAdd(route(everywhere, "eth0")))
			told(everywhere+" added", before)
			time.Sleep(2 * watchInterval)
			before = calls.Load()
			assert.NoError(t, host.RouteReplace(route(everywhere, "peer0")))
			told(everywhere+" moved", before)
			time.Sleep(2 * watchInterval)
			before = calls.Load()
			assert.NoError(t, host.RouteDel(route(everywhere, "peer0")))
			told(everywhere+" withdrawn", before)
			time.Sleep(2 * watchInterval)
		}
		cancel()
		assert.NoError(t, <-ended)
	})
}

// deaf returns a socket that is subscribed to link events and has room for few.
func deaf(t *testing.T) *nl.NetlinkSocket {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	assert.NoError(t, err)
	assert.NoError(t, socket.SetReceiveBufferSize(1, false)) // as little as the kernel allows
	assert.NoError(t, socket.SetReceiveTimeout(&unix.Timeval{Usec: 100_000}))
	return socket
}

// Events that found no room are one event: the host is to be looked at. What a twin of the socket says is what receive is told.
func TestLostEventsAreAnEvent(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		socket, twin := deaf(t), deaf(t)
		defer twin.Close()
		for n := range 10 {
			addVeth(t, fmt.Sprint("a", n), fmt.Sprint("b", n))
		}
		_, _, err := twin.Receive()
		assert.ErrorIs(t, err, unix.ENOBUFS)
		kept := 0
		for _, _, err := twin.Receive(); err == nil; _, _, err = twin.Receive() {
			kept++
		}
		assert.Less(t, kept, 20)

		ctx, cancel := context.WithCancel(context.Background())
		events, ended := make(chan struct{}, 100), make(chan error)
		go func() { ended <- receive(ctx, socket, events) }()
		time.AfterFunc(time.Second, func() { cancel(); socket.Close() })
		assert.NoError(t, <-ended)
		assert.Len(t, events, 1+kept)
	})
}

// A socket that is lost ends Watch with an error; whoever called it begins anew.
func TestALostSocketIsAnError(t *testing.T) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	require.NoError(t, err)
	socket.Close()
	require.ErrorContains(t, receive(t.Context(), socket, nil), "receive link and route events: ")
}

func TestWatchEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- watch(ctx, func() {}) }()
	cancel()
	select {
	case err := <-ended:
		require.NoError(t, err)
	case <-time.After(5 * time.Second):
		t.Fatal("Watch did not return")
	}
}

func TestCountIsWhatTheInterfaceCounts(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		lo, err := netlink.LinkByName("lo")
		require.NoError(t, err)
		require.NoError(t, netlink.LinkSetUp(lo))
		before, err := Count()
		require.NoError(t, err)
		sink, err := net.ListenPacket("udp4", "127.0.0.1:0")
		require.NoError(t, err)
		defer sink.Close()
		c, err := net.Dial("udp4", sink.LocalAddr().String())
		require.NoError(t, err)
		defer c.Close()
		for range 7 {
			_, err := c.Write([]byte("datagram"))
			require.NoError(t, err)
		}
		after, err := Count()
		require.NoError(t, err)
		index := uint32(lo.Attrs().Index)
		assert.Equal(t, Counters{Received: 7, Transmitted: 7}, Counters{
			Received:    after[index].Received - before[index].Received,
			Transmitted: after[index].Transmitted - before[index].Transmitted,
		})
	})
}

func TestStatisticsCutShortAreNone(t *testing.T) {
	assert.Zero(t, parseStats(make([]byte, 63)))
	stats := make([]byte, 64)
	stats[0], stats[8], stats[56] = 1, 2, 4
	assert.Equal(t, Counters{Received: 1, Transmitted: 6}, parseStats(stats))
}

func watch(ctx context.Context, changed func()) error {
	l, err := Listen()
	if err != nil {
		return err
	}
	return l.Watch(ctx, changed)
}
