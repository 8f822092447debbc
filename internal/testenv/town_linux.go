// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
)

// Town is a host with pods and neighbours, each a namespace with an interface eth0, whose other end is the host's.
type Town struct {
	Host  *NetNS
	Homes map[string]*NetNS // by the name of the host's end
	tb    testing.TB
}

// NewTown makes the host. A bridge joins two pods and an uplink, and a third pod by a second bridge and a veth between the two. Another
// neighbour is reached without a bridge.
func NewTown(tb testing.TB) *Town {
	tb.Helper()
	Privileged(tb)
	w := &Town{NewNetNS(tb), map[string]*NetNS{}, tb}
	w.Host.Do(func() {
		for _, s := range [][2]string{{"ip_forward", "1"}, {"conf/all/send_redirects", "0"}, {"conf/default/send_redirects", "0"}} {
			require.NoError(tb, os.WriteFile("/proc/sys/net/ipv4/"+s[0], []byte(s[1]), 0o644))
		}
	})
	for _, bridge := range []string{"br0", "br1"} {
		off := false
		l := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}, MulticastSnooping: &off}
		require.NoError(tb, w.Host.Link().LinkAdd(l))
		require.NoError(tb, w.Host.Link().LinkSetUp(l))
	}
	w.IP("addr add 10.1.0.1/24 dev br0")
	w.home("poda", "10.1.0.2/24", "10.1.0.1", "br0")
	w.home("podb", "10.1.0.3/24", "10.1.0.1", "br0")
	w.home("up0", "10.1.0.9/24", "10.1.0.1", "br0")
	w.home("podc", "10.1.0.4/24", "10.1.0.1", "br1")
	w.IP("link add p0 type veth peer name p1", "link set p0 up master br0", "link set p1 up master br1")
	w.home("far0", "10.2.0.2/24", "10.2.0.1", "")
	w.IP("addr add 10.2.0.1/24 dev far0")
	// Two networks that share the bridge: from one to the other it is routed, in at the bridge and out at the bridge.
	w.IP("addr add 10.4.0.1/24 dev br0")
	w.home("podd", "10.4.0.2/24", "10.4.0.1", "br0")
	// Macvlans upon the interface to the neighbour, one of them in a namespace of its own; and a tunnel.
	w.IP("link add mac0 link far0 type macvlan mode bridge", "addr add 10.3.0.1/24 dev mac0", "link set mac0 up")
	w.In("far0", "addr add 10.3.0.2/24 dev eth0")
	w.Homes["mac1"] = NewNetNS(tb)
	w.IP("link add mac1 link far0 type macvlan mode bridge")
	w.move("mac1", w.Homes["mac1"])
	w.In("mac1", "addr add 10.3.0.5/24 dev eth0", "link set eth0 up")
	w.IP("link add vx0 type vxlan id 5 local 10.2.0.1 remote 10.2.0.2 dstport 4789", "addr add 10.5.0.1/24 dev vx0", "link set vx0 up")
	w.In("far0", "link add vx0 type vxlan id 5 local 10.2.0.2 remote 10.2.0.1 dstport 4789", "addr add 10.5.0.2/24 dev vx0", "link set vx0 up",
		"route add 10.1.0.3 via 10.3.0.1", "route add 10.4.0.2 via 10.5.0.1") // answers go back as the questions came
	return w
}

// move moves an interface of the host, which is eth0 there.
func (w *Town) move(name string, to *NetNS) {
	w.tb.Helper()
	l, err := w.Host.Link().LinkByName(name)
	require.NoError(w.tb, err)
	e := &End{NetNS: w.Host, Name: name, Index: l.Attrs().Index}
	e.MoveTo(to, "eth0")
}

func (w *Town) home(name, address, gateway, bridge string) {
	w.tb.Helper()
	left, right := Pair(w.tb, PairConfig{Offloads: true})
	left.MoveTo(w.Host, name)
	number := len(w.Homes)
	w.IP(fmt.Sprintf("link set dev %s arp on address 02:00:00:00:02:%02x", name, number), "addr flush dev "+name)
	if bridge != "" {
		w.IP("link set dev " + name + " master " + bridge)
	}
	w.Homes[name] = right.NetNS
	w.In(name, "link set right0 down", "link set right0 name eth0", fmt.Sprintf("link set eth0 arp on up address 02:00:00:00:01:%02x", number), "addr flush dev eth0", "neigh flush dev eth0", "addr add "+address+" dev eth0", "route add default via "+gateway)
}

// IP runs commands of ip in the host.
func (w *Town) IP(commands ...string) {
	w.tb.Helper()
	for _, c := range commands {
		w.Host.Run("ip", strings.Fields(c)...)
	}
}

// In is IP in a home.
func (w *Town) In(home string, commands ...string) {
	w.tb.Helper()
	for _, c := range commands {
		w.Homes[home].Run("ip", strings.Fields(c)...)
	}
}

// NS returns a home, or the host.
func (w *Town) NS(name string) *NetNS {
	if name == "" {
		return w.Host
	}
	return w.Homes[name]
}

// End returns a place in the town: a home, "" is the host, and one of its addresses of IPv4.
func (w *Town) End(home, address string) *End {
	return &End{NetNS: w.NS(home), V4: netip.MustParseAddr(address)}
}
