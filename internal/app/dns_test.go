// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// dnsCase is a message and what is read of it.
type dnsCase struct {
	name string
	b    []byte
	want DNS
}

// Flags of a header; RFC 1035 4.1.1.
const (
	qr = 1 << 15
	tc = 1 << 9
	rd = 1 << 8
	ra = 1 << 7
)

// dnsHeader is a header with the counts of the four sections.
func dnsHeader(flags uint16, counts ...uint16) []byte {
	b := binary.BigEndian.AppendUint16([]byte{0x12, 0x34}, flags)
	for _, n := range counts {
		b = binary.BigEndian.AppendUint16(b, n)
	}
	return b
}

// question is a name of the given labels, a type and a class.
func question(typ, class uint16, labels ...string) []byte {
	b := binary.BigEndian.AppendUint16(dnsLabels(labels...), typ)
	return binary.BigEndian.AppendUint16(b, class)
}

func dnsLabels(labels ...string) (b []byte) {
	for _, l := range labels {
		b = append(append(b, byte(len(l))), l...)
	}
	return append(b, 0)
}

// record is one of the name at the given offset.
func record(offset byte, typ, class uint16, ttl uint32, data string) []byte {
	b := binary.BigEndian.AppendUint16([]byte{0xc0, offset}, typ)
	b = binary.BigEndian.AppendUint16(b, class)
	b = binary.BigEndian.AppendUint32(b, ttl)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	return append(b, data...)
}

// opt is an OPT record; RFC 6891 6.1.2.
func opt(extended byte) []byte {
	return slices.Concat([]byte{0}, []byte{0, 41}, []byte{0x04, 0xd0}, []byte{extended, 0, 0, 0}, []byte{0, 0})
}

var exampleCom = question(1, 1, "example", "com")

func built(b *dnsmessage.Builder) []byte {
	out, err := b.Finish()
	if err != nil {
		panic(err)
	}
	return out
}

// resolved is an answer as a resolver sends it: an alias, more addresses than are told, OPT.
func resolved() []byte {
	name := dnsmessage.MustNewName
	header := func(s string) dnsmessage.ResourceHeader {
		return dnsmessage.ResourceHeader{Name: name(s), Class: dnsmessage.ClassINET, TTL: 60}
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 0x1234, Response: true, RecursionDesired: true, RecursionAvailable: true})
	b.EnableCompression()
	_ = b.StartQuestions()
	_ = b.Question(dnsmessage.Question{Name: name("www.example.com."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET})
	_ = b.StartAnswers()
	_ = b.CNAMEResource(header("www.example.com."), dnsmessage.CNAMEResource{CNAME: name("cdn.example.net.")})
	_ = b.AAAAResource(header("cdn.example.net."), dnsmessage.AAAAResource{AAAA: [16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 1}})
	for i := range byte(MaxAnswers) {
		_ = b.AResource(header("cdn.example.net."), dnsmessage.AResource{A: [4]byte{192, 0, 2, i}})
	}
	_ = b.StartAuthorities()
	_ = b.NSResource(header("example.net."), dnsmessage.NSResource{NS: name("ns.example.net.")})
	_ = b.StartAdditionals()
	_ = b.AResource(header("ns.example.net."), dnsmessage.AResource{A: [4]byte{198, 51, 100, 1}})
	var edns dnsmessage.ResourceHeader
	_ = edns.SetEDNS0(1232, 0, false)
	_ = b.OPTResource(edns, dnsmessage.OPTResource{})
	return built(&b)
}

func resolvedAnswers() []string {
	answers := []string{"2001:db8::1"}
	for i := range MaxAnswers - 1 {
		answers = append(answers, fmt.Sprintf("192.0.2.%d", i))
	}
	return answers
}

const longLabel = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijk" // 63 bytes, the most

var dnsCases = []dnsCase{
	{"a query", slices.Concat(dnsHeader(rd, 1, 0, 0, 0), exampleCom),
		DNS{ID: 0x1234, HasQuestion: true, Type: 1, Class: 1, Name: "example.com"}},
	{"a query of dig, with OPT", slices.Concat(dnsHeader(rd|1<<5, 1, 0, 0, 1), question(28, 1, "eXample", "COM"), opt(0)),
		DNS{ID: 0x1234, HasQuestion: true, Type: 28, Class: 1, Name: "eXample.COM"}},
	{"an answer with an alias and more addresses than are told", resolved(),
		DNS{ID: 0x1234, Response: true, HasQuestion: true, Type: 1, Class: 1, Name: "www.example.com", Answers: resolvedAnswers(), AnswerCount: 18}},
	{"no such name", slices.Concat(dnsHeader(qr|rd|ra|3, 1, 0, 0, 0), exampleCom),
		DNS{ID: 0x1234, Response: true, HasQuestion: true, Type: 1, Class: 1, Name: "example.com", ResponseCode: 3}},
	{"a bad version of EDNS, a response code of more than four bits", slices.Concat(dnsHeader(qr, 1, 0, 0, 1), exampleCom, opt(1)),
		DNS{ID: 0x1234, Response: true, HasQuestion: true, Type: 1, Class: 1, Name: "example.com", ResponseCode: 16}},
	{"a bad cookie, OPT behind another record", slices.Concat(dnsHeader(qr|7, 1, 0, 0, 2), exampleCom, record(12, 1, 1, 60, "\xc0\x00\x02\x01"), opt(1)),
		DNS{ID: 0x1234, Response: true, HasQuestion: true, Type: 1, Class: 1, Name: "example.com", ResponseCode: 23}},
	{"the root", slices.Concat(dnsHeader(rd, 1, 0, 0, 0), question(2, 1)),
		DNS{ID: 0x1234, HasQuestion: true, Type: 2, Class: 1, Name: "."}},
	{"a header alone: a refusal", dnsHeader(qr|5, 0, 0, 0, 0),
		DNS{ID: 0x1234, Response: true, ResponseCode: 5}},
	{"no question but a cookie", slices.Concat(dnsHeader(0, 0, 0, 0, 1), opt(0)),
		DNS{ID: 0x1234}},
	{"cut by its sender behind the question", slices.Concat(dnsHeader(qr|tc, 1, 0, 0, 0), exampleCom),
		DNS{ID: 0x1234, Response: true, Truncated: true, HasQuestion: true, Type: 1, Class: 1, Name: "example.com"}},
	{"cut by its sender inside of the second of three answers",
		slices.Concat(dnsHeader(qr|tc, 1, 3, 0, 1), exampleCom, record(12, 1, 1, 60, "\xc0\x00\x02\x01"), record(12, 1, 1, 60, "\xc0\x00\x02\x02")[:14]),
		DNS{ID: 0x1234, Response: true, Truncated: true, HasQuestion: true, Type: 1, Class: 1, Name: "example.com", Answers: []string{"192.0.2.1"}, AnswerCount: 3}},
	{"addresses of the wrong length and of another class",
		slices.Concat(dnsHeader(qr, 1, 4, 0, 0), exampleCom, record(12, 1, 1, 60, "\xc0\x00\x02"), record(12, 28, 1, 60, "\xc0\x00\x02\x01"),
			record(12, 1, 3, 60, "\xc0\x00\x02\x01"), record(12, 1, 1, 60, "\xc0\x00\x02\x02")),
		DNS{ID: 0x1234, Response: true, HasQuestion: true, Type: 1, Class: 1, Name: "example.com", Answers: []string{"192.0.2.2"}, AnswerCount: 4}},
	{"a question of multicast DNS that asks for a unicast answer",
		slices.Concat(dnsHeader(0, 2, 0, 0, 0), question(12, 0x8001, "_http", "_tcp", "local"), question(255, 1, "me", "local")),
		DNS{ID: 0x1234, HasQuestion: true, Type: 12, Class: 1, Name: "_http._tcp.local"}},
	{"a question of multicast DNS with an answer that is known (RFC 6762 7.1): none that answers",
		slices.Concat(dnsHeader(0, 1, 1, 0, 1), question(1, 1, "me", "local"), record(12, 1, 1, 60, "\xc0\x00\x02\x01"), opt(1)),
		DNS{ID: 0x1234, HasQuestion: true, Type: 1, Class: 1, Name: "me.local", AnswerCount: 1}},
	{"an answer of multicast DNS: no question, the bit that says flush, a label with a dot in between",
		slices.Concat(dnsHeader(qr|1<<10, 0, 3, 0, 0),
			slices.Concat(dnsLabels("me", "local"), []byte{0, 1, 0x80, 1, 0, 0, 0, 120, 0, 4, 192, 0, 2, 1}),
			slices.Concat(dnsLabels("Me v1.0", "_ipp", "_tcp", "local"), []byte{0, 16, 0x80, 1, 0, 0, 0, 120, 0, 1, 0}),
			record(12, 28, 0x8001, 120, "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02")),
		DNS{ID: 0x1234, Response: true, Answers: []string{"192.0.2.1", "2001:db8::2"}, AnswerCount: 3}},
	{"a name with every kind of odd byte", slices.Concat(dnsHeader(rd, 1, 0, 0, 0), question(1, 1, "a.b\\c d\x00\x1f\x7f", "\xc3\xbc", "!~")),
		DNS{ID: 0x1234, HasQuestion: true, Type: 1, Class: 1, Name: `a\.b\\c\032d\000\031\127.\195\188.!~`}},
	{"a name of 255 bytes", slices.Concat(dnsHeader(rd, 1, 0, 0, 0), question(1, 1, longLabel, longLabel, longLabel, longLabel[:61])),
		DNS{ID: 0x1234, HasQuestion: true, Type: 1, Class: 1, Name: strings.Join([]string{longLabel, longLabel, longLabel, longLabel[:61]}, ".")}},
	{"a class and a type that nobody knows", slices.Concat(dnsHeader(rd, 1, 0, 0, 0), question(65280, 0x7000, "x")),
		DNS{ID: 0x1234, HasQuestion: true, Type: 65280, Class: 0x7000, Name: "x"}},
	{"a notification of a new zone", slices.Concat(dnsHeader(4<<11, 1, 0, 0, 0), question(6, 1, "example", "com")),
		DNS{ID: 0x1234, HasQuestion: true, Type: 6, Class: 1, Name: "example.com"}},
	{"an answer whose name points at itself: counted only", slices.Concat(dnsHeader(qr, 1, 2, 0, 0), exampleCom,
		record(29, 1, 1, 60, "\xc0\x00\x02\x01"), record(12, 1, 1, 60, "\xc0\x00\x02\x02")),
		DNS{ID: 0x1234, Response: true, HasQuestion: true, Type: 1, Class: 1, Name: "example.com", Answers: []string{"192.0.2.2"}, AnswerCount: 2}},
}

// notDNS are messages that are none.
var notDNS = map[string][]byte{
	"nothing":                          nil,
	"an opcode that is not in use":     slices.Concat(dnsHeader(3<<11, 1, 0, 0, 0), exampleCom),
	"the obsolete inverse query":       slices.Concat(dnsHeader(1<<11, 1, 0, 0, 0), exampleCom),
	"the reserved bit":                 slices.Concat(dnsHeader(1<<6, 1, 0, 0, 0), exampleCom),
	"a query that failed":              slices.Concat(dnsHeader(2, 1, 0, 0, 0), exampleCom),
	"more than 65,535 bytes hold":      slices.Concat(dnsHeader(qr, 1, 3000, 2000, 1000), exampleCom),
	"text":                             []byte("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"),
	"a question that is missing":       dnsHeader(rd, 1, 0, 0, 0),
	"a name that points at itself":     slices.Concat(dnsHeader(rd, 1, 0, 0, 0), []byte{0xc0, 12, 0, 1, 0, 1}),
	"a name that points forward":       slices.Concat(dnsHeader(rd, 1, 0, 0, 0), []byte{0xc0, 18, 0, 1, 0, 1}, dnsLabels("a")),
	"a label of a kind that never was": slices.Concat(dnsHeader(rd, 1, 0, 0, 0), []byte{0x41, 'a', 0, 0, 1, 0, 1}),
	"a label of 64 bytes":              slices.Concat(dnsHeader(rd, 1, 0, 0, 0), question(1, 1, longLabel+"l")),
	"a name of 256 bytes":              slices.Concat(dnsHeader(rd, 1, 0, 0, 0), question(1, 1, longLabel, longLabel, longLabel, longLabel[:62])),
}

func TestParseDNS(t *testing.T) {
	for _, c := range dnsCases {
		t.Run(c.name, func(t *testing.T) {
			for _, variant := range []DNSVariant{VariantDNS, VariantMDNS} {
				got := DNS{Variant: variant, Name: "before", Answers: []string{"before"}, ResponseCode: 99, Truncated: true}
				c.want.Variant = variant
				require.NoError(t, parseDNS(slices.Clip(c.b), &got))
				assert.Equal(t, c.want, got)
			}
		})
	}
	for name, b := range notDNS {
		t.Run(name, func(t *testing.T) { assert.ErrorIs(t, parseDNS(slices.Clip(b), new(DNS)), errMalformed) })
	}
}

// TestParseDNSCut cuts every message everywhere: what a capture does. A header and a first question that are whole must be told,
// and of what is behind nothing that is not so.
func TestParseDNSCut(t *testing.T) {
	for _, c := range dnsCases {
		question := dnsHeaderLen
		if c.want.HasQuestion {
			_, n, err := dnsName(c.b[dnsHeaderLen:])
			require.NoError(t, err)
			question += n + 4
		}
		for n := range c.b {
			var got DNS
			err := parseDNS(slices.Clip(c.b[:n]), &got)
			if n < question {
				assert.ErrorIs(t, err, errMalformed, "%s: %d bytes", c.name, n)
				continue
			}
			require.NoError(t, err, "%s: %d bytes", c.name, n)
			want := c.want
			require.LessOrEqual(t, len(got.Answers), len(want.Answers))
			want.Answers = append([]string(nil), want.Answers[:len(got.Answers)]...)
			if got.ResponseCode != want.ResponseCode { // OPT is cut off
				want.ResponseCode &= 0xf
			}
			assert.Equal(t, want, got, "%s: %d bytes", c.name, n)
		}
	}
}

func TestReadDNS(t *testing.T) {
	for _, c := range dnsCases {
		t.Run(c.name, func(t *testing.T) {
			b := overTCP(c.b)
			for n := range b {
				var m Message
				taken, err := readDNS(slices.Clip(b[:n]), &m)
				require.Equal(t, errMore, err, "%d bytes", n)
				require.Zero(t, taken)
				require.Nil(t, m.DNS)
			}
			for _, behind := range []string{"", "\x00", "another message"} {
				var m Message
				taken, err := readDNS(append(slices.Clip(b), behind...), &m)
				require.NoError(t, err)
				assert.Equal(t, len(b), taken)
				assert.Equal(t, Message{DNS: &c.want}, m)
			}
		})
	}
	for name, b := range notDNS {
		t.Run(name, func(t *testing.T) {
			var m Message
			taken, err := readDNS(overTCP(b), &m)
			assert.ErrorIs(t, err, errMalformed)
			assert.Equal(t, []any{0, Message{}}, []any{taken, m})
		})
	}
	t.Run("what is no DNS is not waited for", func(t *testing.T) {
		_, err := readDNS([]byte("GET / HTTP/1.1\r\n"), new(Message)) // "GE" would be the length of a message
		assert.ErrorIs(t, err, errMalformed)
	})
}

func overTCP(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}

func TestDNSNames(t *testing.T) {
	assert.Equal(t, []string{"A", "AAAA", "HTTPS", "ANY", "TYPE0", "TYPE65280"},
		[]string{DNSType(1), DNSType(28), DNSType(65), DNSType(255), DNSType(0), DNSType(65280)})
	assert.Equal(t, []string{"IN", "CH", "ANY", "CLASS2"}, []string{DNSClass(1), DNSClass(3), DNSClass(255), DNSClass(2)})
	assert.Equal(t, []string{"NOERROR", "NXDOMAIN", "BADVERS", "RCODE4095"},
		[]string{DNSResponseCode(0), DNSResponseCode(3), DNSResponseCode(16), DNSResponseCode(4095)})
	for typ, name := range dnsTypes { // where dnsmessage has a name, it is the same
		if theirs, ok := strings.CutPrefix(dnsmessage.Type(typ).String(), "Type"); ok && theirs != "ALL" {
			assert.Equal(t, theirs, name)
		}
	}
}

func BenchmarkDNS(b *testing.B) {
	for _, c := range dnsCases[:3] {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			var d DNS
			for b.Loop() {
				if err := parseDNS(c.b, &d); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
