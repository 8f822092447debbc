// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"net/netip"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// communityKey is the key of packets from src to dst.
func communityKey(proto uint8, src, dst string, srcPort, dstPort uint16) Key {
	k := Key{SrcPort: srcPort, DstPort: dstPort, IfIndex: 2, Proto: proto}
	for addr, s := range map[*Addr]string{&k.SrcAddr: src, &k.DstAddr: dst} {
		ip := netip.MustParseAddr(s)
		b := ip.AsSlice()
		copy(addr[len(addr)-len(b):], b)
		k.IPv6 = ip.Is6()
	}
	return k
}

// The reference data of the specification's repository (baseline_deflt.json) and of its reference implementation.
var communityIDs = []struct {
	key  Key
	want string
}{
	{communityKey(6, "128.232.110.120", "66.35.250.204", 34855, 80), "1:LQU9qZlK+B5F3KDmev6m5PMibrg="},
	{communityKey(6, "10.0.0.1", "10.0.0.2", 10, 11569), "1:SXBGMX1lBOwhhoDrZynfROxnhnM="},
	{communityKey(6, "2001:470:e5bf:dead:4957:2174:e82c:4887", "2607:f8b0:400c:c03::1a", 63943, 25), "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4="},
	{communityKey(17, "192.168.1.52", "8.8.8.8", 54585, 53), "1:d/FP5EW3wiY1vCndhwleRRKHowQ="},
	{communityKey(132, "192.168.170.8", "192.168.170.56", 7, 7), "1:MP2EtRCAUIZvTw6MxJHLV7N7JDs="},
	{communityKey(132, "192.168.170.8", "192.168.170.56", 7, 80), "1:jQgCxbku+pNGw8WPbEc/TS/uTpQ="},
	{communityKey(46, "10.1.12.1", "10.1.12.2", 0, 0), "1:KHlLkgoJW7ifUTyTSgyVfkFHzKw="},
	{communityKey(46, "10.1.24.4", "10.1.12.1", 0, 0), "1:/nQI4Rh/TtY3mf0R2gJFBkVlgS4="},
}

func TestCommunityIDIsThatOfOtherTools(t *testing.T) {
	for _, tt := range communityIDs {
		for _, k := range []Key{tt.key, tt.key.Reversed()} {
			id, ok := k.CommunityID()
			assert.True(t, ok)
			assert.Equal(t, tt.want, id, "%v %v", k.Src(), k.Dst())
		}
	}
	t.Run("of one address, the lower port comes first", func(t *testing.T) {
		k := communityKey(6, "127.0.0.1", "127.0.0.1", 40000, 80)
		there, _ := k.CommunityID()
		k = k.Reversed()
		back, _ := k.CommunityID()
		assert.Equal(t, there, back)
	})
	t.Run("what only we distinguish does not change it", func(t *testing.T) {
		k := communityIDs[0].key
		k.IfIndex, k.NetNS, k.Tagged, k.VLAN = 7, 1, true, 100
		id, _ := k.CommunityID()
		assert.Equal(t, communityIDs[0].want, id)
	})
	t.Run("a later fragment of a protocol without ports has the id of the first", func(t *testing.T) {
		k := communityIDs[6].key
		k.LaterFragment = true
		id, ok := k.CommunityID()
		assert.True(t, ok)
		assert.Equal(t, communityIDs[6].want, id)
	})
}

func TestCommunityIDIsNotInvented(t *testing.T) {
	fragment := communityKey(17, "10.0.0.1", "10.0.0.2", 0, 0)
	fragment.LaterFragment = true
	for name, k := range map[string]Key{
		"ICMP behind IPv6":   communityKey(1, "fe80::1", "fe80::2", 0, 0),
		"ICMPv6 behind IPv4": communityKey(58, "192.168.0.89", "192.168.0.1", 0, 0),
		"a later fragment of ICMP": func() Key {
			k := communityKey(1, "192.168.0.89", "192.168.0.1", 0, 0)
			k.LaterFragment = true
			return k
		}(),
		"a later fragment: its ports are not": fragment,
	} {
		t.Run(name, func(t *testing.T) {
			id, ok := k.CommunityID()
			assert.False(t, ok)
			assert.Empty(t, id)
		})
	}
}

// SHA-1 panics there unless it is said that it is no cryptography.
func TestCommunityIDWhereOnlyFIPSIsAllowed(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCommunityIDIsThatOfOtherTools$", "-test.v")
	cmd.Env = append(os.Environ(), "GODEBUG=fips140=only")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "--- PASS: TestCommunityIDIsThatOfOtherTools")
}

func TestCommunityIDAllocatesOnlyItself(t *testing.T) {
	for _, tt := range communityIDs {
		assert.LessOrEqual(t, testing.AllocsPerRun(100, func() {
			id, _ := tt.key.CommunityID()
			if id != tt.want {
				t.Error(id)
			}
		}), 1.0)
	}
}

func BenchmarkCommunityID(b *testing.B) {
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		_, _ = communityIDs[n%len(communityIDs)].key.CommunityID()
	}
}
