// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/frames"
)

func skip(prefix string, port *uint16, protocol *uint8) Filter {
	f := Filter{Skip: true, Port: port, Protocol: protocol}
	if prefix != "" {
		f.Prefix = netip.MustParsePrefix(prefix)
	}
	return f
}

func but(f Filter) Filter {
	f.Skip = false
	return f
}

// One list of filters and frames that it must tell apart; the corpus then goes through the same programs.
var filterCases = []struct {
	name    string
	filters []Filter
	skipped map[string][]byte
	counted map[string][]byte
}{
	{
		"an address matches as source and as destination",
		[]Filter{skip("10.0.0.1/32", nil, nil)},
		map[string][]byte{"source": udpFrame(0x0a000001, 0x0b000001, 1, 2, 60), "destination": udpFrame(0x0b000001, 0x0a000001, 1, 2, 60)},
		map[string][]byte{"neighbour": udpFrame(0x0a000002, 0x0b000001, 1, 2, 60)},
	},
	{
		"a prefix ends at its last bit",
		[]Filter{skip("10.0.0.128/25", nil, nil), skip("2001:db8:0:0:8000::/65", nil, nil)},
		map[string][]byte{
			"first": udpFrame(0x0a000080, 1, 1, 2, 60), "last": udpFrame(0x0a0000ff, 1, 1, 2, 60),
			"IPv6": udp6Frame(0x8000_0000_0000_0000, 1, 1, 2),
		},
		map[string][]byte{
			"before": udpFrame(0x0a00007f, 1, 1, 2, 60), "behind": udpFrame(0x0a000100, 1, 1, 2, 60),
			"IPv6 before": udp6Frame(0x7fff_ffff_ffff_ffff, 1, 1, 2),
		},
	},
	{
		"one endpoint has both the address and the port",
		[]Filter{skip("10.0.0.1/32", new(uint16(4317)), new(uint8(6)))},
		map[string][]byte{
			"source":      tcp(udpFrame(0x0a000001, 0x0b000001, 4317, 2, 60)),
			"destination": tcp(udpFrame(0x0b000001, 0x0a000001, 2, 4317, 60)),
		},
		map[string][]byte{
			"port of the other": tcp(udpFrame(0x0a000001, 0x0b000001, 2, 4317, 60)),
			"other protocol":    udpFrame(0x0a000001, 0x0b000001, 4317, 2, 60),
			"other port":        tcp(udpFrame(0x0a000001, 0x0b000001, 4318, 2, 60)),
		},
	},
	{
		"the first match decides",
		[]Filter{but(skip("10.0.0.1/32", nil, nil)), skip("10.0.0.0/8", nil, nil), but(skip("", nil, nil))},
		map[string][]byte{"second": udpFrame(0x0a000002, 1, 1, 2, 60)},
		map[string][]byte{"first": udpFrame(0x0a000001, 0x0a000002, 1, 2, 60), "none": udpFrame(0x0b000001, 1, 1, 2, 60)},
	},
	{
		"only what is named is counted",
		[]Filter{but(skip("", new(uint16(53)), nil)), skip("", nil, nil)},
		map[string][]byte{"other port": udpFrame(1, 2, 54, 55, 60), "IPv6": udp6Frame(1, 2, 3, 4)},
		map[string][]byte{"DNS": udpFrame(1, 2, 53, 40000, 60), "DNS over IPv6": udp6Frame(1, 2, 40000, 53)},
	},
	{
		"all of IPv4 is not IPv6",
		[]Filter{skip("0.0.0.0/0", nil, nil)},
		map[string][]byte{"IPv4": udpFrame(0, 0, 1, 2, 60)},
		map[string][]byte{"IPv6": udp6Frame(1, 2, 3, 4)},
	},
	{
		"all of IPv6 is not IPv4",
		[]Filter{skip("::/0", nil, nil)},
		map[string][]byte{"IPv6": udp6Frame(1, 2, 3, 4)},
		map[string][]byte{"IPv4": udpFrame(0, 0, 1, 2, 60)},
	},
	{
		"port 0 is a port, of packets that have ports",
		[]Filter{skip("", new(uint16(0)), nil)},
		map[string][]byte{"port 0": udpFrame(1, 2, 0, 9, 60)},
		map[string][]byte{"other": udpFrame(1, 2, 1, 2, 60), "ICMP": ipProto(udpFrame(1, 2, 8, 0, 60), 1), "later fragment": laterFragment(udpFrame(1, 2, 0, 0, 60))},
	},
	{
		"protocol 0 is a protocol",
		[]Filter{skip("", nil, new(uint8(0)))},
		map[string][]byte{"protocol 0": ipProto(udpFrame(1, 2, 0, 0, 60), 0)},
		map[string][]byte{"UDP": udpFrame(1, 2, 0, 0, 60)},
	},
	{
		"the last of sixteen decides as well",
		append(slicesOf(MaxFilters-1, skip("192.0.2.1/32", new(uint16(1)), new(uint8(17)))), skip("10.0.0.1/32", nil, nil)),
		map[string][]byte{"last": udpFrame(0x0a000001, 1, 1, 2, 60)},
		map[string][]byte{"none": udpFrame(0x0a000002, 1, 1, 2, 60)},
	},
}

func slicesOf(n int, f Filter) (all []Filter) {
	for range n {
		all = append(all, f)
	}
	return all
}

func tcp(frame []byte) []byte { frame[46] = 5 << 4; return ipProto(frame, 6) }

func ipProto(frame []byte, p byte) []byte { frame[23] = p; return frame }

func laterFragment(frame []byte) []byte { frame[21] = 1; return frame }

func TestFilters(t *testing.T) {
	for _, c := range filterCases {
		t.Run(c.name, func(t *testing.T) {
			k := load(t, Config{Filters: c.filters, fragments: -1, injected: true})
			pin(t, 0)
			for want, all := range map[flow.Reason]map[string][]byte{flow.ReasonFiltered: c.skipped, flow.ReasonAccounted: c.counted} {
				for name, frame := range all {
					inject(t, k.objects.IngressL2, frame, nil)
					requireFiltered(t, k, name, frame, want)
				}
			}
			for i := range frames.All {
				f := &frames.All[i]
				if refused(f) {
					continue
				}
				want := f.Want.Reason
				if want == flow.ReasonAccounted && skips(c.filters, &f.Want) {
					want = flow.ReasonFiltered
				}
				inject(t, k.programFor(t, f.L3, flow.DirectionIngress), f.Data, nil)
				requireFiltered(t, k, f.Name, f.Data, want)
			}
		})
	}
}

// requireFiltered wants the whole of one frame in one entry of the ledger, and a flow for it only if that is accounted.
func requireFiltered(t *testing.T, k *Kernel, name string, frame []byte, want flow.Reason) {
	t.Helper()
	got := drain(t, k)
	require.Equal(t, volumeOf(frame), got.Ledger.Entries[want], "%s is %s", name, want.Entry())
	if want == flow.ReasonAccounted {
		require.Len(t, got.slots, 1, name)
		require.Empty(t, got.Classes, name)
		return
	}
	require.Empty(t, got.slots, name)
	require.Len(t, got.Classes, 1, name)
	require.EqualValues(t, loopback, got.Classes[0].IfIndex, name)
}

// skips says in other words what the programs do.
func skips(filters []Filter, p *packet.Packet) bool {
	for _, f := range filters {
		protocols := f.Protocol == nil || *f.Protocol == p.Key.Proto
		from := netip.AddrPortFrom(p.Key.Src(), p.Key.SrcPort)
		to := netip.AddrPortFrom(p.Key.Dst(), p.Key.DstPort)
		if protocols && (f.names(from, &p.Key) || f.names(to, &p.Key)) {
			return f.Skip
		}
	}
	return false
}

func (f *Filter) names(e netip.AddrPort, k *flow.Key) bool {
	ports := !k.LaterFragment && (k.Proto == 6 || k.Proto == 17 || k.Proto == 132)
	return (!f.Prefix.IsValid() || f.Prefix.Contains(e.Addr())) && (f.Port == nil || ports && *f.Port == e.Port())
}

// What is filtered is not sampled either, and stands for nothing in a pool.
func TestFilteredPacketsAreNotSampled(t *testing.T) {
	k := load(t, Config{
		Filters: []Filter{skip("", new(uint16(4317)), nil)},
		Samples: true, RandomOneIn: 1, SnapLength: 64, MaxPerSecond: unlimited,
	})
	pin(t, 0)
	read(t, k) // grants credit
	for range 10 {
		inject(t, k.objects.EgressL2, udpFrame(1, 2, 4317, 1, 60), nil)
	}
	inject(t, k.objects.EgressL2, udpFrame(1, 2, 4318, 1, 60), nil)
	samples := read(t, k)
	require.Len(t, samples, 1)
	require.EqualValues(t, 1, samples[0].Pool)
	got := drain(t, k)
	require.EqualValues(t, 10, got.Ledger.Entries[flow.ReasonFiltered].Packets)
	require.EqualValues(t, 1, got.Ledger.Entries[flow.ReasonAccounted].Packets)
}

func TestTooManyFiltersAreRefused(t *testing.T) {
	_, err := fit(Config{Filters: make([]Filter, MaxFilters+1)})
	require.EqualError(t, err, "there must be at most 16 filters, got 17")
}
