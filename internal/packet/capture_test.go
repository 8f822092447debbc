// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/frames"
)

// captured says what each capture is there for. A tool that failed while they were made would leave it out, and the tests
// that compare parsers would not notice.
var captured = map[string][]string{
	"linux.pcap": {"IPv4 TCP 0x02", "IPv6 TCP 0x02", "not_ip"}, // TestDecodeLinuxCapture counts all of it
	"tcp.pcap": {
		"IPv4 TCP 0x02", "IPv4 TCP 0x12", "IPv4 TCP 0x10", "IPv4 TCP 0x18", "IPv4 TCP 0x11",
		"IPv6 TCP 0x02", "IPv6 TCP 0x12", "IPv6 TCP 0x10", "IPv6 TCP 0x18", "IPv6 TCP 0x11",
	},
	"fragments.pcap": {
		"IPv4 ICMP 8/0", "later fragment of IPv4 protocol 1", "IPv4 protocol 17", "later fragment of IPv4 protocol 17",
		"IPv6 ICMP 128/0", "later fragment of IPv6 protocol 58", "IPv6 protocol 17", "later fragment of IPv6 protocol 17",
	},
	"tunnels.pcap": {"IPv4 protocol 17", "IPv6 protocol 17", "IPv6 ICMP 128/0", "IPv6 protocol 41", "IPv6 protocol 4"},
	"errors.pcap": {
		"IPv4 ICMP 11/0", "IPv4 ICMP 3/0", "IPv4 ICMP 3/1", "IPv4 ICMP 3/3", "IPv4 ICMP 3/4", "IPv4 TCP 0x14",
		"IPv6 ICMP 3/0", "IPv6 ICMP 1/0", "IPv6 ICMP 1/1", "IPv6 ICMP 1/3", "IPv6 ICMP 1/4", "IPv6 ICMP 2/0", "IPv6 TCP 0x14",
	},
	"scans.pcap": {
		"IPv4 TCP 0x02", "IPv4 TCP 0x01", "IPv4 TCP 0x29", "IPv4 TCP 0x00", "IPv4 TCP 0x10", "IPv4 TCP 0x04",
		"IPv6 TCP 0x02", "IPv6 TCP 0x01", "IPv6 TCP 0x29", "IPv6 TCP 0x00", "IPv6 TCP 0x10", "IPv6 TCP 0x04",
		"IPv4 protocol 17", "IPv4 protocol 132", "IPv4 protocol 47", "IPv4 protocol 4", "IPv4 ICMP 3/2",
		"IPv6 protocol 17", "IPv6 protocol 132", "IPv6 protocol 47", "IPv6 protocol 50", "IPv6 ICMP 4/1",
		"unparsed_short_ipv6_extension", "unparsed_short_transport", "later fragment of IPv4 protocol 6",
	},
	"multicast.pcap": {"IPv4 protocol 2", "IPv6 ICMP 131/0", "IPv6 ICMP 132/0", "IPv6 ICMP 143/0", "IPv4 ICMP 8/0", "IPv6 ICMP 128/0"},
	"vlan.pcap":      {"VLAN 100 IPv4 TCP 0x02", "VLAN 100 IPv6 TCP 0x02"},
	"qinq.pcap":      {"VLAN 200 IPv4 ICMP 11/0", "VLAN 200 IPv6 ICMP 3/0"},
	"mpls.pcap":      {"IPv4 TCP 0x02", "IPv4 TCP 0x18", "IPv6 TCP 0x02", "IPv6 TCP 0x11", "not_ip"},
	"pppoe.pcap":     {"IPv4 TCP 0x02", "IPv4 TCP 0x18", "IPv6 TCP 0x02", "IPv6 TCP 0x11", "not_ip"},
	"devices.pcap": {
		"IPv4 protocol 4", "IPv4 protocol 41", "IPv4 protocol 47", "IPv4 protocol 17", "IPv4 protocol 50",
		"IPv6 protocol 4", "IPv6 protocol 41", "IPv6 protocol 47",
	},
	"raw.pcap": {"raw IPv4 ICMP 11/0", "raw IPv6 ICMP 3/0"},
}

func TestCapturesHoldWhatTheyAreFor(t *testing.T) {
	paths, err := filepath.Glob("../../testdata/pcap/*.pcap")
	require.NoError(t, err)
	var names []string
	for _, path := range paths {
		names = append(names, filepath.Base(path))
		all, err := frames.ReadPcap(path)
		require.NoError(t, err)
		seen := map[string]bool{}
		for _, f := range all {
			s := f.Sample()
			var p packet.Packet
			packet.Decode(&s, &p)
			seen[kindOf(&s, &p)] = true
		}
		assert.Subset(t, slices.Collect(maps.Keys(seen)), captured[filepath.Base(path)], path)
	}
	assert.ElementsMatch(t, slices.Collect(maps.Keys(captured)), names)
}

// kindOf says in words what was sent.
func kindOf(s *packet.Sample, p *packet.Packet) string {
	kind := "IPv4"
	if p.Key.IPv6 {
		kind = "IPv6"
	}
	if p.Key.Tagged {
		kind = fmt.Sprintf("VLAN %d %s", p.Key.VLAN, kind)
	}
	if s.L3 {
		kind = "raw " + kind
	}
	switch {
	case p.Reason != flow.ReasonAccounted:
		return p.Reason.Entry()
	case p.Key.LaterFragment:
		return fmt.Sprintf("later fragment of %s protocol %d", kind, p.Key.Proto)
	case p.HasTCP:
		return fmt.Sprintf("%s TCP 0x%02x", kind, p.TCPFlags)
	case p.HasICMP:
		return fmt.Sprintf("%s ICMP %d/%d", kind, p.ICMPType, p.ICMPCode)
	}
	return fmt.Sprintf("%s protocol %d", kind, p.Key.Proto)
}
