// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernelmatrix

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// From uapi/linux/wireguard.h; the library makes the device, and does not set it up.
const (
	wireguardSetDevice = 1 // WG_CMD_SET_DEVICE

	deviceIfIndex, devicePrivateKey, deviceListenPort, devicePeers = 1, 3, 6, 8 // WGDEVICE_A_*
	peerPublicKey, peerEndpoint, peerAllowedIPs                    = 1, 4, 9    // WGPEER_A_*
	allowedFamily, allowedAddr, allowedMask                        = 1, 2, 3    // WGALLOWEDIP_A_*
)

const wireguardPort = 51820

// pairWireguard makes the devices at both ends each other's peer.
func pairWireguard(t *testing.T, _ *device, left, right, l, r *testenv.End) {
	t.Helper()
	keys := [2]*ecdh.PrivateKey{}
	for i := range keys {
		var err error
		keys[i], err = ecdh.X25519().GenerateKey(rand.Reader)
		require.NoError(t, err)
	}
	setWireguard(t, l, keys[0], keys[1].PublicKey(), right.V4)
	setWireguard(t, r, keys[1], keys[0].PublicKey(), left.V4)
}

// setWireguard lets the device e speak to one peer, of any address.
func setWireguard(t *testing.T, e *testenv.End, own *ecdh.PrivateKey, peer *ecdh.PublicKey, at netip.Addr) {
	t.Helper()
	endpoint := slices.Concat(nl.Uint16Attr(unix.AF_INET), binary.BigEndian.AppendUint16(nil, wireguardPort), at.AsSlice(), make([]byte, 8)) // struct sockaddr_in
	peers := nl.NewRtAttr(devicePeers|unix.NLA_F_NESTED, nil)
	one := peers.AddRtAttr(unix.NLA_F_NESTED, nil)
	one.AddRtAttr(peerPublicKey, peer.Bytes())
	one.AddRtAttr(peerEndpoint, endpoint)
	allowed := one.AddRtAttr(peerAllowedIPs|unix.NLA_F_NESTED, nil)
	for family, any := range map[uint16]netip.Addr{unix.AF_INET: netip.IPv4Unspecified(), unix.AF_INET6: netip.IPv6Unspecified()} {
		network := allowed.AddRtAttr(unix.NLA_F_NESTED, nil)
		network.AddRtAttr(allowedFamily, nl.Uint16Attr(family))
		network.AddRtAttr(allowedAddr, any.AsSlice())
		network.AddRtAttr(allowedMask, []byte{0})
	}
	e.Do(func() {
		family, err := netlink.GenlFamilyGet("wireguard")
		require.NoError(t, err)
		request := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
		request.AddData(&nl.Genlmsg{Command: wireguardSetDevice, Version: 1})
		request.AddData(nl.NewRtAttr(deviceIfIndex, nl.Uint32Attr(uint32(e.Index))))
		request.AddData(nl.NewRtAttr(devicePrivateKey, own.Bytes()))
		request.AddData(nl.NewRtAttr(deviceListenPort, nl.Uint16Attr(wireguardPort)))
		request.AddData(peers)
		_, err = request.Execute(unix.NETLINK_GENERIC, 0)
		require.NoError(t, err)
	})
}
