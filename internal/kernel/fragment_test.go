// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// fragment is a frame with a fragment of a UDP datagram from 192.0.2.1, or 2001:db8::1, port 1000.
func fragment(v6 bool, id uint16, offset int, to uint16) []byte {
	f := testenv.Frame{
		Proto: 17, Payload: 64, Fragment: &testenv.Fragment{ID: id, Offset: offset, More: true},
		From: netip.MustParseAddrPort("192.0.2.1:1000"), To: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.2"), to),
	}
	if v6 {
		f.From, f.To = netip.MustParseAddrPort("[2001:db8::1]:1000"), netip.AddrPortFrom(netip.MustParseAddr("2001:db8::2"), to)
	}
	return f.AppendTo(nil)
}

// behindOptions moves what follows the fragment header of an IPv6 frame behind a destination header, as only a first fragment
// has it.
func behindOptions(frame []byte) []byte {
	const at = 14 + 40 + 8
	options := []byte{frame[14+40], 0, 1, 4, 0, 0, 0, 0} // next header, length, PadN
	moved := append(append(append([]byte{}, frame[:at]...), options...), frame[at:]...)
	moved[14+40] = 60
	binary.BigEndian.PutUint16(moved[14+4:], binary.BigEndian.Uint16(moved[14+4:])+8)
	return moved
}

// joining is what became of fragments, in packets: with ports, without, and without a flow.
type joining struct{ joined, apart, unparsed uint64 }

func TestLaterFragmentsHaveThePortsOfTheirFirst(t *testing.T) {
	k := load(t, Config{})
	pin(t, 0)
	id := uint16(0)
	for _, v6 := range []bool{false, true} {
		first := func(to uint16) []byte { return fragment(v6, id, 0, to) }
		later := func(n int) []byte { return fragment(v6, id, 72*n, 0) }
		for _, c := range []struct {
			name   string
			frames func() [][]byte
			want   joining
		}{
			{"in order", func() [][]byte { return [][]byte{first(2000), later(1), later(2)} }, joining{joined: 3}},
			{"the first comes later", func() [][]byte { return [][]byte{later(1), first(2000), later(2)} }, joining{joined: 2, apart: 1}},
			{"the first was not seen", func() [][]byte { return [][]byte{later(1), later(2)} }, joining{apart: 2}},
			{"the first is sent again", func() [][]byte { return [][]byte{first(2000), first(2000), later(1)} }, joining{joined: 3}},
			{"two first ones that differ", func() [][]byte { return [][]byte{first(2000), first(2001), later(1)} }, joining{joined: 2, apart: 1}},
			{"and then the one again", func() [][]byte { return [][]byte{first(2000), first(2001), first(2001), later(1)} }, joining{joined: 3, apart: 1}},
			{"a tiny first one", func() [][]byte { return [][]byte{first(2000)[:14+20+map[bool]int{true: 28}[v6]+7], later(1)} }, joining{apart: 1, unparsed: 1}},
			{"a tiny one between", func() [][]byte {
				return [][]byte{first(2000), first(2000)[:14+20+map[bool]int{true: 28}[v6]+7], later(1)}
			}, joining{joined: 2, unparsed: 1}},
			{"another packet's", func() [][]byte {
				one := first(2000)
				id++
				return [][]byte{one, later(1)}
			}, joining{joined: 1, apart: 1}},
		} {
			t.Run(c.name+map[bool]string{true: " over IPv6"}[v6], func(t *testing.T) {
				id++
				for _, f := range c.frames() {
					inject(t, k.objects.IngressL2, f, nil)
				}
				require.Equal(t, c.want, joined(t, drain(t, k), v6))
			})
		}
	}

	t.Run("the other direction has packets of its own", func(t *testing.T) {
		inject(t, k.objects.IngressL2, fragment(false, 999, 0, 2000), nil)
		inject(t, k.objects.EgressL2, fragment(false, 999, 72, 0), nil)
		require.Equal(t, joining{joined: 1, apart: 1}, joined(t, drain(t, k), false))
	})
	t.Run("behind extension headers that only the first one has", func(t *testing.T) {
		inject(t, k.objects.IngressL2, behindOptions(fragment(true, 998, 0, 2000)), nil)
		later := fragment(true, 998, 72, 0)
		later[14+40] = 60 // names the destination header of the first
		inject(t, k.objects.IngressL2, later, nil)
		require.Equal(t, joining{joined: 2}, joined(t, drain(t, k), true))
	})
	t.Run("of IPv4, another protocol's packet has the same identification", func(t *testing.T) {
		inject(t, k.objects.IngressL2, fragment(false, 997, 0, 2000), nil)
		inject(t, k.objects.IngressL2, ipProto(fragment(false, 997, 72, 0), 6), nil)
		got := drain(t, k)
		require.Len(t, got.slots, 2)
		for _, s := range got.slots {
			require.Equal(t, s.Proto == 6, s.LaterFragment)
		}
	})
}

// joined counts the packets with ports, the later fragments without, and those without a flow; all are of one protocol.
func joined(t *testing.T, got taken, v6 bool) (n joining) {
	t.Helper()
	for _, s := range got.slots {
		require.Equal(t, got.slots[0].Proto, s.Proto)
		require.Equal(t, v6, s.IPv6)
		if s.LaterFragment {
			require.Zero(t, s.SrcPort+s.DstPort)
			n.apart += s.Packets
			continue
		}
		require.EqualValues(t, 1000, s.SrcPort)
		require.Contains(t, []uint16{2000, 2001}, s.DstPort)
		n.joined += s.Packets
	}
	n.unparsed = got.Ledger.Entries[flow.ReasonShortTransport].Packets
	return n
}

// A later fragment that overlaps the TCP header may change its flags where it arrives (RFC 1858 3.2), or have the whole packet
// thrown away (RFC 8200 4.5). Here it changes neither ports nor flags, whatever its bytes look like and whenever it comes.
func TestOverlappingFragmentsChangeNothing(t *testing.T) {
	k := load(t, Config{})
	pin(t, 0)
	id := uint16(0)
	for _, v6 := range []bool{false, true} {
		for _, c := range []struct {
			name    string
			offsets []int
			want    joining
		}{
			{"behind the first", []int{0, 8, 8}, joining{joined: 3}},
			{"before the first", []int{8, 0}, joining{joined: 1, apart: 1}},
			{"without the first", []int{8}, joining{apart: 1}},
		} {
			t.Run(c.name+map[bool]string{true: " over IPv6"}[v6], func(t *testing.T) {
				id++
				for _, offset := range c.offsets {
					inject(t, k.objects.IngressL2, overlapping(v6, id, offset), nil)
				}
				got := drain(t, k)
				require.Equal(t, c.want, joined(t, got, v6))
				for _, s := range got.slots {
					require.Zero(t, s.TCPFlags&tcpSYN)
					require.Zero(t, s.Handshake)
				}
			})
		}
	}
}

const tcpACK = 0x10

// overlapping is a first fragment with a TCP header that opens nothing, or a later one at an offset inside of that header. Where
// the later one begins it looks like a header with other ports, and it opens a connection, whoever reads it.
func overlapping(v6 bool, id uint16, offset int) []byte {
	f := testenv.Frame{
		Proto: unix.IPPROTO_TCP, Payload: 64, TCPFlags: tcpACK, Fragment: &testenv.Fragment{ID: id, Offset: offset, More: true},
		From: netip.MustParseAddrPort("192.0.2.1:1000"), To: netip.MustParseAddrPort("192.0.2.2:2000"),
	}
	at := 14 + 20
	if v6 {
		f.From, f.To = netip.MustParseAddrPort("[2001:db8::1]:1000"), netip.MustParseAddrPort("[2001:db8::2]:2000")
		at = 14 + 40 + 8
	}
	b := f.AppendTo(nil)
	if offset > 0 {
		const flags = 13 // offset of the flags in a TCP header
		copy(b[at:], []byte{0x1a, 0x0a, 0x1a, 0x0b})
		b[at+12], b[at+flags], b[at+flags-offset] = 5<<4, tcpSYN, tcpSYN
	}
	return b
}

func TestAFirstFragmentIsForgotten(t *testing.T) {
	k := load(t, Config{fragments: 50 * time.Millisecond})
	pin(t, 0)
	inject(t, k.objects.IngressL2, fragment(false, 1, 0, 2000), nil)
	time.Sleep(60 * time.Millisecond)
	inject(t, k.objects.IngressL2, fragment(false, 1, 72, 0), nil)
	got := joined(t, drain(t, k), false)
	require.EqualValues(t, 1, got.apart)
}

// An identification comes again after 65,536 packets. The first fragments of a second ago are of another packet.
func TestIdentificationsAreUsedAgain(t *testing.T) {
	k := load(t, Config{})
	pin(t, 0)
	inject(t, k.objects.IngressL2, fragment(false, 1, 0, 2000), nil)
	time.Sleep(time.Second + 20*time.Millisecond) // FRAGMENT_CONTEST_NS
	inject(t, k.objects.IngressL2, fragment(false, 1, 0, 2001), nil)
	inject(t, k.objects.IngressL2, fragment(false, 1, 72, 0), nil)
	got := joined(t, drain(t, k), false)
	require.EqualValues(t, 3, got.joined)
}

// A flood of first fragments pushes out others, and nothing else happens.
func TestAFloodOfFragmentsIsCounted(t *testing.T) {
	k := load(t, Config{})
	pin(t, 0)
	const flood = 20_000
	for i := range flood {
		f := fragment(true, uint16(i), 0, 2000)
		binary.BigEndian.PutUint32(f[14+40+4:], uint32(i))
		inject(t, k.objects.IngressL2, f, nil)
	}
	got := drain(t, k)
	require.EqualValues(t, flood, joined(t, got, true).joined)
}

// Large echo requests of a real stack, whose fragments cross a wire, are one flow with all of their packets and bytes.
func TestFragmentedPingsAreOneFlow(t *testing.T) {
	k := load(t, Config{})
	left, right := testenv.Pair(t, testenv.PairConfig{})
	k.attachEnd(t, left, flow.DirectionEgress, flow.DirectionIngress)
	ping := testenv.Tool(t, "ping")
	before := left.Counters()
	left.Run(ping, "-n", "-q", "-c5", "-i0.2", "-s4000", right.V4.String())
	left.Run(ping, "-n", "-q", "-c5", "-i0.2", "-s4000", right.V6.String())
	got := drain(t, k)
	truth := left.Counters().Since(before)
	for _, d := range []flow.Direction{flow.DirectionEgress, flow.DirectionIngress} {
		slots, classes, sum := got.direction(d)
		require.Empty(t, classes)
		require.Equal(t, map[flow.Direction]flow.Volume{flow.DirectionEgress: truth.Transmitted, flow.DirectionIngress: truth.Received}[d], sum)
		flows := map[flow.Key]uint64{}
		for _, s := range slots {
			require.False(t, s.LaterFragment)
			flows[s.Key] += s.Packets
		}
		require.Len(t, flows, 2, "one of each version")
		for key, packets := range flows {
			require.EqualValues(t, 15, packets, "%v: three fragments for each of five", key)
		}
	}
}
