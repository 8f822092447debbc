// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernel

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/packet"
)

// segment is a TCP frame with a payload; the ports tell connections apart.
func segment(srcPort uint16, payload []byte) []byte { return segmentTo(srcPort, 8080, payload) }

func segmentTo(srcPort, dstPort uint16, payload []byte) []byte {
	f := tcpFrame(0x18, 54)
	binary.BigEndian.PutUint16(f[34:], srcPort)
	binary.BigEndian.PutUint16(f[36:], dstPort)
	return append(f, payload...)
}

// segment6 is the same over IPv6, with 12 bytes of TCP options.
func segment6(srcPort uint16, payload []byte) []byte {
	f := udp6Frame(1, 2, srcPort, 8080)[:54]
	f[20] = unix.IPPROTO_TCP
	tcp := make([]byte, 32)
	binary.BigEndian.PutUint16(tcp, srcPort)
	binary.BigEndian.PutUint16(tcp[2:], 8080)
	tcp[12], tcp[13] = 8<<4, 0x18
	return slices.Concat(f, tcp, payload)
}

// hello is a TLS record with a handshake message of this type.
func hello(typ byte, length int) []byte {
	r := bytes.Repeat([]byte{0xaa}, 5+length) // zeros at the end of a small frame are padding
	copy(r, []byte{0x16, 3, 1, byte(length >> 8), byte(length), typ, 0, byte((length - 4) >> 8), byte(length - 4)})
	return r
}

// dnsOverTCP is an answer of so many bytes behind its length, with one question and one record; RFC 1035 4.2.2.
func dnsOverTCP(length int) []byte {
	b := bytes.Repeat([]byte{0xaa}, 2+length)
	copy(b, []byte{byte(length >> 8), byte(length), 0, 7, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0})
	return b
}

// changeCipherSpec is the record that may stand before a second hello; RFC 8446 D.4.
var changeCipherSpec = []byte{0x14, 3, 3, 0, 1, 1}

func messages(p Protocols) Config {
	return Config{Samples: true, SnapLength: 60, MaxPerSecond: unlimited, Protocols: p, cpus: []int{0}}
}

// found injects frames one by one and says of which there were samples.
func found(t *testing.T, k *Kernel, frames ...[]byte) []bool {
	t.Helper()
	all := make([]bool, len(frames))
	for i, f := range frames {
		inject(t, k.objects.EgressL2, f, nil)
		got := read(t, k)
		require.LessOrEqual(t, len(got), 1)
		if all[i] = len(got) == 1; all[i] {
			require.Equal(t, packet.ReasonProtocol, got[0].Reasons)
			require.Equal(t, f[:min(len(f), MessageSnap)], got[0].Message)
			require.Equal(t, f[:min(len(f), 60)], got[0].Data, "snap_length")
		}
	}
	return all
}

func eachForm(t *testing.T, cfg Config, test func(*testing.T, *Kernel)) {
	for name, form := range map[string]object{"full": objectFull, "old": objectOld} {
		t.Run(name, func(t *testing.T) {
			cfg.object = form
			k := load(t, cfg)
			pin(t, 0)
			test(t, k)
		})
	}
}

var heads = []string{
	"GET / HTTP/1.1", "HEAD / HTTP/1.1", "POST /a", "PUT /a", "DELETE /a", "OPTIONS *", "PATCH /", "CONNECT a:1", "TRACE /",
	"HTTP/1.1 200 OK", "HTTP/1.0 404", "PRI * HTTP/2.0",
}

// A buffer that segmentation offload made larger than what is copied of messages is read where samples are as long.
func TestLongSamplesHaveLongMessages(t *testing.T) {
	cfg := messages(ProtocolTLS)
	cfg.SnapLength = 2 * MessageSnap
	f := segment(40000, hello(1, MessageSnap+1000))
	eachForm(t, cfg, func(t *testing.T, k *Kernel) {
		inject(t, k.objects.EgressL2, f, nil)
		got := read(t, k)
		require.Len(t, got, 1)
		require.Equal(t, f, got[0].Message)
	})
}

func TestBeginningsOfMessagesAreFound(t *testing.T) {
	const dns, tls, http = ProtocolDNS, ProtocolTLS, ProtocolHTTP
	type frame struct {
		name  string
		of    Protocols // 0: of none
		bytes []byte
	}
	frames := []frame{
		{"question", dns, udpFrame(1, 2, 40000, 53, 70)},
		{"answer", dns, udpFrame(1, 2, 53, 40000, 70)},
		{"mDNS", dns, udpFrame(1, 2, 5353, 5353, 70)},
		{"LLMNR", dns, udpFrame(1, 2, 40000, 5355, 70)},
		{"question over IPv6", dns, append(udp6Frame(1, 2, 40000, 53), 1, 2)},
		{"empty datagram", 0, udp6Frame(1, 2, 40000, 53)},
		{"question over TCP", dns, segmentTo(40000, 53, []byte{0, 30, 1, 2})},
		{"answer over TCP", dns, segmentTo(53, 40000, dnsOverTCP(300))},
		{"answer over TCP without its question", dns, segmentTo(53, 40000, []byte{0, 12, 1, 2, 0x80, 4, 0, 0, 0, 0, 0, 0, 0, 0})},
		{"answer over TCP to another one's question", dns, segmentTo(53, 40000, []byte{0, 40, 1, 2, 0xa8, 0x9f, 0, 1, 0, 1, 0, 0, 0, 1})}, // update, RFC 2136
		{"more than DNS has room for", 0, segmentTo(40000, 53, []byte{0, 40, 1, 2, 0x81, 0x80, 0, 1, 0, 1, 0, 1, 0, 1})},
		{"more questions than one", 0, segmentTo(40000, 53, []byte{0, 40, 1, 2, 0x81, 0x80, 0, 2, 0, 0, 0, 0, 0, 0})},
		{"no opcode of DNS", 0, segmentTo(40000, 53, []byte{0, 40, 1, 2, 0x99, 0x80, 0, 1, 0, 0, 0, 0, 0, 0})},
		{"reserved bit of DNS", 0, segmentTo(40000, 53, []byte{0, 40, 1, 2, 0x81, 0xc0, 0, 1, 0, 0, 0, 0, 0, 0})},
		{"question with a code", 0, segmentTo(40000, 53, []byte{0, 40, 1, 2, 1, 3, 0, 1, 0, 0, 0, 0, 0, 0})},
		{"shorter than DNS", 0, segmentTo(40000, 53, []byte{0, 11})},
		{"the middle of an answer", 0, segmentTo(40000, 53, bytes.Repeat([]byte{0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4, 192, 0, 2, 1}, 90))},
		{"other UDP", 0, udpFrame(1, 2, 40000, 54, 70)},
		{"TCP without payload", 0, segmentTo(40000, 53, nil)},
		{"client hello", tls, segment(40000, hello(1, 300))},
		{"server hello", tls, segment(40000, hello(2, 90))},
		{"hello over IPv6", tls, segment6(40000, hello(1, 300))},
		{"certificate", 0, segment(40000, hello(11, 90))},
		{"TLS application data", 0, segment(40000, []byte{0x17, 3, 3, 0, 9, 1, 1, 1})},
		{"second hello", tls, segment(40000, slices.Concat(changeCipherSpec, hello(1, 300)))},
		{"second hello over IPv6", tls, segment6(40000, slices.Concat(changeCipherSpec, hello(1, 300)))},
		{"the beginning of a second hello", tls, segment(40000, slices.Concat(changeCipherSpec, hello(1, 300)[:1]))},
		{"change of cipher", 0, segment(40000, changeCipherSpec)},
		{"change of cipher and application data", 0, segment(40000, slices.Concat(changeCipherSpec, []byte{0x17, 3, 3, 0, 9, 1, 1, 1}))},
		{"change of cipher and Finished", 0, segment(40000, slices.Concat(changeCipherSpec, hello(20, 40)))},
		{"another change of cipher", 0, segment(40000, slices.Concat([]byte{0x14, 3, 3, 0, 1, 2}, hello(1, 300)))},
		{"change of cipher and head", 0, segment(40000, slices.Concat(changeCipherSpec, []byte("GET / HTTP/1.1")))},
		{"no version of TLS", 0, segment(40000, []byte{0x16, 3, 5, 0, 9, 1, 1, 1})},
		{"no TLS", 0, segment(40000, []byte{0x16, 2, 1, 0, 9, 1, 1, 1})},
		{"like a head", 0, segment(40000, []byte("GETS a lot"))},
		{"lower case", 0, segment(40000, []byte("get / HTTP/1.1"))},
		{"another answer", 0, segment(40000, []byte("HTTP/2 200"))},
		{"zero", 0, segment(40000, []byte{0})},
	}
	for _, head := range heads {
		frames = append(frames, frame{head, http, segment(40000, []byte(head))}, frame{head + " over IPv6", http, segment6(40000, []byte(head))})
		for n := 1; n < min(len(head), 8); n++ {
			frames = append(frames, frame{"the beginning of " + head, http, segment(40000, []byte(head[:n]))})
			wrong := []byte(head[:n])
			wrong[min(n, strings.IndexByte(head, ' ')+1)-1] ^= 0x80 // within what is compared
			frames = append(frames, frame{"not the beginning of " + head, 0, segment(40000, wrong)})
		}
	}
	for n := 1; n < 10; n++ {
		frames = append(frames, frame{"the beginning of a hello", tls, segment(40000, hello(1, 300)[:n])})
	}
	for n := 1; n < 16; n++ {
		frames = append(frames, frame{"the beginning of a question over TCP", dns, segmentTo(40000, 53, dnsOverTCP(300)[:n])})
	}
	for _, asked := range []Protocols{dns, tls, http, allProtocols} {
		eachForm(t, messages(asked), func(t *testing.T, k *Kernel) {
			for i, f := range frames {
				srcPort := binary.BigEndian.Uint16(f.bytes[34:])
				if f.bytes[12] == 0x08 && srcPort == 40000 { // one connection each, so that none is taken for more of the one before
					binary.BigEndian.PutUint16(f.bytes[34:], uint16(20000+i))
				} else if f.bytes[12] == 0x86 {
					binary.BigEndian.PutUint16(f.bytes[54:], uint16(20000+i))
				}
				require.Equal(t, f.of&asked != 0, found(t, k, f.bytes)[0], f.name)
			}
			drain(t, k)
		})
	}
}

// Whatever the cut, both parts of a message of DNS are copied, and what is neither its rest nor the beginning of another is not.
func TestDNSOverTCPIsFollowed(t *testing.T) {
	message, data := dnsOverTCP(300), bytes.Repeat([]byte{0xc0}, 300)
	eachForm(t, messages(ProtocolDNS), func(t *testing.T, k *Kernel) {
		for cut := 1; cut < len(message); cut++ {
			to := func(b []byte) []byte { return segmentTo(53, uint16(1000+cut), b) }
			want := []bool{true, true, cut < 2} // half of the length does not say how long it is
			require.Equal(t, want, found(t, k, to(message[:cut]), to(message[cut:]), to(data)), "cut at %d", cut)
		}
		for cut := 1; cut < len(message); cut++ { // two answers, the second of which ends in another packet
			to := func(b []byte) []byte { return segmentTo(53, uint16(2000+cut), b) }
			both := slices.Concat(message, message[:cut])
			want := []bool{true, true, cut < 2}
			require.Equal(t, want, found(t, k, to(both), to(message[cut:]), to(data)), "the second cut at %d", cut)
			require.Equal(t, []bool{true, false}, found(t, k, to(message), to(data)), "after that, a whole one")
		}
		drain(t, k)
	})
}

// A large answer takes the credit of one message, a zone transfer that of few packets.
func TestFollowingDNSOverTCPIsBounded(t *testing.T) {
	cfg := messages(ProtocolDNS)
	cfg.MaxPerSecond = 10
	k := load(t, cfg)
	pin(t, 0)
	large, transfer := dnsOverTCP(4000), dnsOverTCP(60_000)
	give := func(port uint16, b []byte) (n int) {
		for part := range slices.Chunk(b, 1448) {
			inject(t, k.objects.EgressL2, segmentTo(53, port, part), nil)
		}
		return len(read(t, k))
	}
	require.Equal(t, 3, give(1, large), "on credit that comes later")
	missed := k.MissedMessages()
	require.Zero(t, give(2, large), "what has no credit is left out whole")
	require.Equal(t, missed+3, k.MissedMessages())
	require.Equal(t, SampleCounts{Selected: 4, Emitted: 3, RateLimited: 1}, drain(t, k).Samples[packet.KindProtocol])

	k = load(t, messages(ProtocolDNS))
	require.Equal(t, 1+8, give(3, transfer), "FOLLOW_PACKETS")
	require.Equal(t, 1, give(4, slices.Concat(dnsOverTCP(300), make([]byte, 1100))), "what is no message, behind one")
	require.Equal(t, 1+8, give(5, bytes.Repeat(dnsOverTCP(500), 200)), "most of them begin in packets of others")
	require.Equal(t, 1, give(6, bytes.Repeat(dnsOverTCP(100), 40)), "DNS_MESSAGES")
	drain(t, k)
}

// Whoever waits for an answer is told that there may have been one.
func TestMissedMessagesAreCounted(t *testing.T) {
	cfg := messages(ProtocolDNS)
	cfg.ring = minRing
	eachForm(t, cfg, func(t *testing.T, k *Kernel) {
		long := udpFrame(1, 2, 53, 40000, 1500)
		for range 1000 { // more than the ring has room for
			inject(t, k.objects.EgressL2, long, nil)
		}
		emitted := len(read(t, k))
		require.Less(t, emitted, 1000)
		require.Equal(t, uint32(1000-emitted), k.MissedMessages(), "the ring was full")
		inject(t, k.objects.EgressL2, udpFrame(1, 2, 5, 6, 70), nil)
		require.Equal(t, uint32(1000-emitted), k.MissedMessages(), "no message")
		drain(t, k)
	})
	cfg = messages(ProtocolDNS)
	cfg.Slots = MinSlots
	eachForm(t, cfg, func(t *testing.T, k *Kernel) {
		for i := range uint32(4 * MinSlots) { // some find no room while there is any
			inject(t, k.objects.EgressL2, udpFrame(0x0a000000+i, 1, 1, 2, 60), nil)
		}
		before := k.MissedMessages()
		inject(t, k.objects.EgressL2, udpFrame(1, 2, 53, 40000, 70), nil)
		require.Empty(t, read(t, k))
		require.Equal(t, before+1, k.MissedMessages(), "a packet without a slot")
		drain(t, k)
	})
	eachForm(t, messages(ProtocolDNS), func(t *testing.T, k *Kernel) {
		data := bytes.Repeat([]byte{0xc0}, 300)
		require.Equal(t, []bool{false, false, true}, found(t, k, segmentTo(53, 1, data), segmentTo(1, 53, data), segmentTo(53, 1, dnsOverTCP(300))))
		require.Equal(t, uint32(1), k.MissedMessages(), "an answer may begin somewhere in what a server says")
		drain(t, k)
	})
}

// Whatever the cut, both parts are copied, and what comes behind the message is not.
func TestMessagesInTwoSegmentsAreFollowed(t *testing.T) {
	head := []byte("GET /a/long/path HTTP/1.1\r\nHost: example.com\r\nAccept: */*\r\n\r\n")
	body := bytes.Repeat([]byte("body"), 30)
	data := []byte{0x17, 3, 3, 0, 90, 1, 1, 1}
	eachForm(t, messages(allProtocols), func(t *testing.T, k *Kernel) {
		port := uint16(1000)
		for _, build := range []func(uint16, []byte) []byte{segment, segment6} {
			record := hello(1, 200)
			for cut := 1; cut < len(record); cut++ {
				port++
				want := []bool{true, true, false}
				if cut < 5 {
					want[2] = true // the first part does not say how long it is
				}
				require.Equal(t, want, found(t, k, build(port, record[:cut]), build(port, record[cut:]), build(port, data)), "hello cut at %d", cut)
			}
			for cut := 1; cut < len(head); cut++ {
				port++
				require.Equal(t, []bool{true, true, false}, found(t, k, build(port, head[:cut]), build(port, head[cut:]), build(port, body)), "head cut at %d", cut)
			}
		}
		drain(t, k)
	})
}

// The first record of a second hello is no measure of it.
func TestSecondHellosAreFollowed(t *testing.T) {
	second := slices.Concat(changeCipherSpec, hello(1, 200))
	data := []byte{0x17, 3, 3, 0, 90, 1, 1, 1}
	eachForm(t, messages(ProtocolTLS), func(t *testing.T, k *Kernel) {
		for cut := 7; cut < len(second); cut++ {
			want := []bool{true, true, cut < 11} // the first part does not say how long it is
			require.Equal(t, want, found(t, k, segment(uint16(cut), second[:cut]), segment(uint16(cut), second[cut:]), segment(uint16(cut), data)), "cut at %d", cut)
		}
		drain(t, k)
	})
}

// The preface of HTTP/2 ends as a head does; what tells its protocol comes behind, in packets of its own.
func TestFramesBehindAPrefaceAreFollowed(t *testing.T) {
	preface := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	frame := append([]byte{0, 0, 100, 1, 4, 0, 0, 0, 1}, make([]byte, 100)...)
	eachForm(t, messages(ProtocolHTTP), func(t *testing.T, k *Kernel) {
		for cut := 1; cut <= len(preface); cut++ {
			frames := [][]byte{segment(uint16(cut), preface[:cut]), segment(uint16(cut), append(preface[cut:len(preface):len(preface)], frame...))}
			want := []bool{true, true}
			for n := 2; n < 12; n++ {
				frames = append(frames, segment(uint16(cut), frame))
				want = append(want, n <= 8) // FOLLOW_PACKETS
			}
			require.Equal(t, want, found(t, k, frames...), "cut at %d", cut)
		}
		drain(t, k)
	})
}

func TestFollowingIsBounded(t *testing.T) {
	k := load(t, messages(allProtocols))
	pin(t, 0)
	endless := func(port uint16, size, packets int) (n int) {
		frames := [][]byte{segment(port, []byte("GET / HTTP/1.1\r\nX: "))}
		for range packets {
			frames = append(frames, segment(port, bytes.Repeat([]byte("x"), size)))
		}
		for _, ok := range found(t, k, frames...) {
			if ok {
				n++
			}
		}
		return n
	}
	require.Equal(t, 1+8, endless(1, 10, 20), "FOLLOW_PACKETS")
	require.Equal(t, 1+8, endless(2, 1400, 20))
	require.Equal(t, 1+1, endless(3, 3000, 20), "what was not copied as a whole cannot be joined")

	whole := slices.Concat([]byte("POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n"), []byte("some body"))
	require.Equal(t, []bool{true, false}, found(t, k, segment(4, whole), segment(4, []byte("more body"))))
	require.Equal(t, []bool{true, true, false, false}, found(t, k,
		segment(5, []byte("GET / HTTP/1.1\r")), segment(5, []byte("\n\r\nbody")), segment(5, []byte("body")), segment(5, []byte("body"))))
	drain(t, k)
}

// What has no credit is left out whole, also where an older message of the connection is still followed.
func TestABeginningWithoutCreditIsNotFollowed(t *testing.T) {
	cfg := messages(ProtocolHTTP)
	cfg.MaxPerSecond = 10
	k := load(t, cfg)
	pin(t, 0)
	for _, payload := range []string{"GET /a HTTP/1.1\r\n", "GET /b HTTP/1.1\r\n", "Host: b\r\n"} {
		inject(t, k.objects.EgressL2, segment(1, []byte(payload)), nil)
	}
	require.Len(t, read(t, k), 1, "a tenth of a second's worth is one")
	require.Equal(t, SampleCounts{Selected: 2, Emitted: 1, RateLimited: 1}, drain(t, k).Samples[packet.KindProtocol])
}

// Of a hello in several records the first does not say how long it is.
func TestAHelloInSeveralRecordsIsFollowed(t *testing.T) {
	k := load(t, messages(ProtocolTLS))
	pin(t, 0)
	whole := hello(1, 900)
	first, second := append([]byte{0x16, 3, 1, 0, 200}, whole[5:205]...), append([]byte{0x16, 3, 1, 700 >> 8, 700 & 0xff}, whole[205:]...)
	require.Equal(t, []bool{true, true, true}, found(t, k, segment(1, first), segment(1, second[:300]), segment(1, second[300:])))
	drain(t, k)
}

// Small frames are padded with zeros, which are no payload.
func TestPaddingIsNoPartOfAMessage(t *testing.T) {
	k := load(t, messages(allProtocols))
	pin(t, 0)
	padded := func(port uint16) []byte { return segment(port, make([]byte, 6)) }
	frames := [][]byte{segment(1, []byte("GET / HTTP/1.1\r\n"))}
	want := []bool{true}
	for range 10 {
		frames, want = append(frames, padded(1)), append(want, false)
	}
	frames, want = append(frames, segment(1, []byte("\r\n")), segment(1, []byte("body"))), append(want, true, false)
	require.Equal(t, want, found(t, k, frames...))
	require.Equal(t, []bool{false}, found(t, k, segmentTo(2, 53, make([]byte, 6))))
	require.Equal(t, []bool{true, false}, found(t, k, segment(3, []byte("GET / HTTP/1.1\nHost: a\n\n")), segment(3, []byte("body"))), "lines that end in LF")
	drain(t, k)
}

// Who is followed is one direction of one connection at one interface.
func TestOnlyTheSameDirectionIsFollowed(t *testing.T) {
	k := load(t, messages(ProtocolHTTP))
	pin(t, 0)
	begin, more := segment(7, []byte("GET / HTTP/1.1\r\n")), segment(7, []byte("Host: a\r\n"))
	back := segment(7, []byte("Host: a\r\n"))
	copy(back[26:30], more[30:34])
	copy(back[30:34], more[26:30])
	copy(back[34:36], more[36:38])
	copy(back[36:38], more[34:36])
	require.Equal(t, []bool{true, false, false, true}, found(t, k, begin, back, segment(8, []byte("Host: a\r\n")), more))

	inject(t, k.objects.EgressL2, begin, nil)
	inject(t, k.objects.IngressL2, more, nil)
	require.Len(t, read(t, k), 1, "the other hook")
	drain(t, k)
}

// What goes on with a message that was copied is copied on credit: half a message would be of no use.
func TestFollowersTakeCreditInAdvance(t *testing.T) {
	cfg := messages(ProtocolHTTP)
	cfg.MaxPerSecond = 10
	k := load(t, cfg)
	pin(t, 0)
	frames := [][]byte{segment(1, []byte("GET / HTTP/1.1\r\n")), segment(2, []byte("GET / HTTP/1.1\r\n"))}
	for range 4 {
		frames = append(frames, segment(1, []byte("X: y\r\n")), segment(2, []byte("X: y\r\n")))
	}
	for _, f := range frames {
		inject(t, k.objects.EgressL2, f, nil)
	}
	require.Len(t, read(t, k), 5, "a tenth of a second's worth is one")
	require.Equal(t, SampleCounts{Selected: 6, Emitted: 5, RateLimited: 1}, drain(t, k).Samples[packet.KindProtocol])

	begun := time.Now()
	more := 0
	for n := uint16(3); more < 2; n++ {
		require.Less(t, n, uint16(1000))
		inject(t, k.objects.EgressL2, segment(n, []byte("GET / HTTP/1.1\r\n")), nil)
		more += len(read(t, k))
		time.Sleep(10 * time.Millisecond)
	}
	require.Greater(t, time.Since(begun), 450*time.Millisecond, "two are earned in 0.2 s, and four were used in advance")
	drain(t, k)
}

// Filters, fragments and packets that several kinds choose.
func TestMessagesAmongOtherSamples(t *testing.T) {
	cfg := messages(allProtocols)
	cfg.RandomOneIn = 1
	port := uint16(9999)
	cfg.Filters = []Filter{{Skip: true, Port: &port}}
	k := load(t, cfg)
	pin(t, 0)
	inject(t, k.objects.EgressL2, segmentTo(1, 9999, []byte("GET / HTTP/1.1\r\n")), nil)
	require.Empty(t, read(t, k), "filtered")

	later := udpFrame(1, 2, 40000, 53, 80)
	later[21] = 1
	inject(t, k.objects.EgressL2, later, nil)
	got := read(t, k)
	require.Len(t, got, 1)
	require.Equal(t, packet.ReasonRandom, got[0].Reasons, "a later fragment has no ports")
	require.Nil(t, got[0].Message)

	long := segment(1, []byte("GET / HTTP/1.1\r\nHost: "+strings.Repeat("a", 3000)))
	inject(t, k.objects.EgressL2, long, nil)
	got = read(t, k)
	require.Len(t, got, 1)
	require.Equal(t, packet.ReasonRandom|packet.ReasonProtocol, got[0].Reasons)
	require.Equal(t, long[:MessageSnap], got[0].Message)
	require.Equal(t, long[:60], got[0].Data)
	drain(t, k)
}
