// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernelmatrix

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

const ipsecID = 7 // of the interface, its states and its policies

var ipsec = []device{
	{name: "xfrm", inner: []int{4}, meet: connect, link: func(a netlink.LinkAttrs, _, _ *testenv.End) netlink.Link {
		return &netlink.Xfrmi{LinkAttrs: a, Ifid: ipsecID}
	}},
	{name: "vti", inner: []int{4}, meet: connect, link: func(a netlink.LinkAttrs, l, r *testenv.End) netlink.Link {
		return &netlink.Vti{LinkAttrs: a, Local: ip(l.V4), Remote: ip(r.V4), IKey: ipsecID, OKey: ipsecID}
	}},
}

// Why devices of IPsec are not attached: what they receive begins with the link header of the device beneath, what they send
// with the IP header. If that changes they can be.
func TestDevicesOfIPsecBeginInTwoWays(t *testing.T) {
	testenv.Privileged(t)
	k := sampling(t)
	for _, d := range ipsec {
		t.Run(d.name, func(t *testing.T) {
			left, right := testenv.Pair(t, testenv.PairConfig{})
			l, r := d.ends(t, left, right)
			if l == nil {
				return
			}
			begins := d.begins(t, k, l, r, 4)
			ethernet := slices.Concat(left.MAC[:], right.MAC[:], []byte{0x08, 0x00})
			for i := range datagramsEach {
				require.Equal(t, byte(0x45), begins[flow.DirectionEgress][i][0])
				require.Equal(t, append(ethernet, 0x45), begins[flow.DirectionIngress][i][:15])
			}
		})
	}
}

// sampling takes every packet for a sample.
func sampling(t *testing.T) *kernel.Kernel {
	t.Helper()
	k, err := kernel.Load(kernel.Config{Samples: true, RandomOneIn: 1, SnapLength: 256, MaxPerSecond: 1 << 20})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, k.Close()) })
	return k
}

// begins returns what the hooks at one end are given of an exchange, though the device is not attached otherwise. Its ports tell it from
// what IPv6 says by itself on a new interface.
func (d *device) begins(t *testing.T, k *kernel.Kernel, l, r *testenv.End, version int) map[flow.Direction][][]byte {
	t.Helper()
	forced := iface.Interface{Index: uint32(l.Index), Name: l.Name, HWType: unix.ARPHRD_NONE}
	for _, direction := range []flow.Direction{flow.DirectionIngress, flow.DirectionEgress} {
		var err error
		l.Do(func() { err = k.Attach(forced, direction) })
		require.NoError(t, err)
	}
	defer func() { require.NoError(t, k.Detach(forced.Index)) }()
	there, _ := d.exchange(t, l, r, version)
	back, _ := d.exchange(t, r, l, version)
	all := map[flow.Direction][][]byte{}
	_, err := k.ReadSamples(func(s *packet.Sample) {
		key := map[flow.Direction]flow.Key{flow.DirectionEgress: there, flow.DirectionIngress: back}[s.Direction]
		ports := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, key.SrcPort), key.DstPort)
		if bytes.Contains(s.Data, ports) {
			all[s.Direction] = append(all[s.Direction], slices.Clone(s.Data))
		}
	})
	require.NoError(t, err)
	require.Len(t, all[flow.DirectionEgress], datagramsEach)
	require.Len(t, all[flow.DirectionIngress], datagramsEach)
	return all
}

// connect lets the devices of both ends speak ESP without encryption.
func connect(t *testing.T, d *device, left, right, l, r *testenv.End) {
	t.Helper()
	for _, from := range []struct{ under, peer, device, other *testenv.End }{{left, right, l, r}, {right, left, r, l}} {
		state := netlink.XfrmState{
			Src: ip(from.under.V4), Dst: ip(from.peer.V4), Proto: netlink.XFRM_PROTO_ESP, Mode: netlink.XFRM_MODE_TUNNEL,
			Spi: 0x1000 + int(from.under.V4.As4()[3]), Reqid: 1,
			Crypt: &netlink.XfrmStateAlgo{Name: "ecb(cipher_null)"},
			Auth:  &netlink.XfrmStateAlgo{Name: "digest_null"},
		}
		policy := netlink.XfrmPolicy{
			Src: network(from.device.V4), Dst: network(from.other.V4), Dir: netlink.XFRM_DIR_OUT,
			Tmpls: []netlink.XfrmPolicyTmpl{{
				Src: state.Src, Dst: state.Dst, Proto: netlink.XFRM_PROTO_ESP, Mode: netlink.XFRM_MODE_TUNNEL, Reqid: 1,
			}},
		}
		if d.name == "xfrm" {
			state.Ifid, policy.Ifid = ipsecID, ipsecID
		} else {
			policy.Mark = &netlink.XfrmMark{Value: ipsecID, Mask: 0xffffffff}
			state.Mark = policy.Mark
		}
		from.under.Do(func() {
			require.NoError(t, netlink.XfrmStateAdd(&state))
			require.NoError(t, netlink.XfrmPolicyAdd(&policy))
		})
		policy.Dir = netlink.XFRM_DIR_IN
		from.peer.Do(func() {
			require.NoError(t, netlink.XfrmStateAdd(&state))
			require.NoError(t, netlink.XfrmPolicyAdd(&policy))
		})
	}
}

func network(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: ip(a), Mask: net.CIDRMask(32, 32)}
}
