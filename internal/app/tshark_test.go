// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/frames"
)

// tsharkDisagrees says of which messages tshark has another idea, of which fields, and why.
var tsharkDisagrees = map[string]struct {
	why    string
	fields []string
}{
	"a name with every kind of odd byte":                                                         {"escapes in octal, and neither dots nor what is UTF-8", []string{"dns.qry.name"}},
	"an answer with an alias and more addresses than are told":                                   {"tells all, and those of other sections", []string{"dns.a"}},
	"a bad cookie, OPT behind another record":                                                    {"tells addresses of other sections", []string{"dns.a"}},
	"a question of multicast DNS with an answer that is known (RFC 6762 7.1): none that answers": {"tells of queries, too", []string{"dns.a", "dns.resp.ext_rcode"}},
	"addresses of the wrong length and of another class":                                         {"minds neither length nor class", []string{"dns.a", "dns.aaaa"}},
	"an answer whose name points at itself: counted only":                                        {"reads on behind the name", []string{"dns.a"}},

	"a client of today": {"tells GREASE", []string{"tls.handshake.extensions_alpn_str"}},
	"protocols with odd bytes, GREASE and an empty one": {"tells GREASE and does not escape", []string{"tls.handshake.extensions_alpn_str"}},
	"more protocols than are told":                      {"tells all", []string{"tls.handshake.extensions_alpn_str"}},
	"more versions than are told":                       {"tells all", []string{"tls.handshake.extensions.supported_version"}},
	"a server name in upper case":                       {"leaves it so", []string{"tls.handshake.extensions_server_name"}},
	"a name of another type before that of the host":    {"tells names of any type", []string{"tls.handshake.extensions_server_name"}},
	"a server name of 254 bytes":                        {"tells any", []string{"tls.handshake.extensions_server_name"}},
	"a server name that no host has":                    {"tells any", []string{"tls.handshake.extensions_server_name"}},
	"a server name in UTF-8":                            {"tells any", []string{"tls.handshake.extensions_server_name"}},
	"TLS_AEGIS_256_SHA512":                              {"does not know it yet", []string{columnCipher}},
	"TLS_AEGIS_128L_SHA256":                             {"does not know it yet", []string{columnCipher}},
}

// carried is a frame with a payload between a port and one of a server.
func carried(proto uint8, from, to uint16, payload []byte) frames.Frame {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.2")
	f := testenv.Frame{From: netip.AddrPortFrom(a, from), To: netip.AddrPortFrom(b, to), Proto: proto, TCPFlags: 0x18, Payload: len(payload)}
	data := f.AppendTo(nil)
	copy(data[len(data)-len(payload):], payload)
	return frames.Frame{Data: data}
}

// columnCipher is the name that tshark has for a cipher suite: of fields it tells numbers alone.
const (
	columnCipher     = "_ws.col.Cipher"
	preferenceCipher = `gui.column.format:"Cipher","%Cus:tls.handshake.ciphersuite:0:R"`
)

// asked writes frames to a capture file and asks tshark for each field of each.
func asked(t *testing.T, all []frames.Frame, fields map[string]func(*Message) []string, preferences ...string) []map[string][]string {
	path := filepath.Join(t.TempDir(), "messages.pcap")
	require.NoError(t, frames.WritePcap(path, all))
	names := make([]string, 0, len(fields))
	for field := range fields {
		names = append(names, field)
	}
	rows := testenv.Tshark(t, path, names, preferences...)
	require.Len(t, rows, len(all))
	return rows
}

// compare wants of each field what tshark says, a number as a decimal, and that some message had it.
func compare(t *testing.T, fields map[string]func(*Message) []string, names []string, messages []Message, rows []map[string][]string) {
	for field, words := range fields {
		told := 0
		for i := range messages {
			ours, theirs := words(&messages[i]), theirWords(field, rows[i])
			told += len(ours)
			name, _, _ := strings.Cut(names[i], "; ")
			if d := tsharkDisagrees[name]; slices.Contains(d.fields, field) {
				assert.NotEqual(t, theirs, ours, "%s: %s: tshark agrees, although it %s", names[i], field, d.why)
				continue
			}
			assert.Equal(t, theirs, ours, "%s: %s", names[i], field)
		}
		assert.NotZero(t, told, "no message has %s: it was not compared", field)
	}
}

// theirWords is what tshark says of a field, numbers in decimal, without what is not for us to say: GREASE; of questions all but
// the first, and the bit of multicast DNS; an extension of a response code that is 0; the ciphers that a client offers.
func theirWords(field string, row map[string][]string) (out []string) {
	if (field == "tls.handshake.ciphersuite" || field == columnCipher) && slices.Contains(row["tls.handshake.type"], "1") {
		return nil
	}
	for _, word := range row[field] {
		if n, err := strconv.ParseUint(word, 0, 16); err == nil {
			if field == "dns.qry.class" {
				n &^= dnsUnicastBit
			}
			if strings.HasPrefix(field, "tls.") && isGREASE(uint16(n)) || field == "dns.resp.ext_rcode" && n == 0 {
				continue
			}
			word = fmt.Sprint(n)
		}
		out = append(out, word)
	}
	if strings.HasPrefix(field, "dns.qry.") {
		out = out[:min(1, len(out))]
	}
	return out
}

// word is a list of one if it is, else of none.
func word(is bool, values ...any) (out []string) {
	for _, v := range values {
		if b, isBool := v.(bool); isBool {
			v = map[bool]int{true: 1}[b]
		}
		if is {
			out = append(out, fmt.Sprint(v))
		}
	}
	return out
}

var dnsFields = map[string]func(*Message) []string{
	"dns.id":              func(m *Message) []string { return word(true, m.DNS.ID) },
	"dns.flags.response":  func(m *Message) []string { return word(true, m.DNS.Response) },
	"dns.flags.truncated": func(m *Message) []string { return word(true, m.DNS.Truncated) },
	"dns.flags.rcode":     func(m *Message) []string { return word(m.DNS.Response, m.DNS.ResponseCode&0xf) },
	"dns.count.answers":   func(m *Message) []string { return word(true, m.DNS.AnswerCount) },
	"dns.qry.name": func(m *Message) []string {
		return word(m.DNS.HasQuestion, strings.Replace(m.DNS.Name, ".", "<Root>", rootOnly(m)))
	},
	"dns.qry.type":       func(m *Message) []string { return word(m.DNS.HasQuestion, m.DNS.Type) },
	"dns.qry.class":      func(m *Message) []string { return word(m.DNS.HasQuestion, m.DNS.Class) },
	"dns.a":              func(m *Message) []string { return answers(m, netip.Addr.Is4) },
	"dns.aaaa":           func(m *Message) []string { return answers(m, netip.Addr.Is6) },
	"dns.resp.ext_rcode": func(m *Message) []string { return word(m.DNS.ResponseCode > 0xf, m.DNS.ResponseCode>>4) },
}

func rootOnly(m *Message) int {
	if m.DNS.Name == "." {
		return 1
	}
	return 0
}

func answers(m *Message, family func(netip.Addr) bool) (out []string) {
	for _, a := range m.DNS.Answers {
		if family(netip.MustParseAddr(a)) {
			out = append(out, a)
		}
	}
	return out
}

func TestTsharkAgreesOnDNS(t *testing.T) {
	var all []frames.Frame
	var names []string
	var messages []Message
	for i, c := range dnsCases {
		for _, over := range []struct {
			name    string
			proto   uint8
			port    uint16
			variant DNSVariant
		}{{"UDP", 17, 53, VariantDNS}, {"TCP", 6, 53, VariantDNS}, {"multicast", 17, 5353, VariantMDNS}, {"LLMNR", 17, 5355, VariantLLMNR}} {
			d := DNS{Variant: over.variant}
			require.NoError(t, parseDNS(c.b, &d))
			payload := c.b
			if over.proto == 6 {
				payload = overTCP(c.b)
			}
			all = append(all, carried(over.proto, uint16(40000+i), over.port, payload))
			names, messages = append(names, c.name+"; over "+over.name), append(messages, Message{DNS: &d})
		}
	}
	compare(t, dnsFields, names, messages, asked(t, all, dnsFields))
}

var tlsFields = map[string]func(*Message) []string{
	"tls.handshake.type":                         func(m *Message) []string { return word(true, map[bool]int{false: 1, true: 2}[m.TLS.Server]) },
	"tls.handshake.extensions_server_name":       func(m *Message) []string { return word(m.TLS.ServerName != "", m.TLS.ServerName) },
	"tls.handshake.extensions.supported_version": tlsVersions,
	"tls.handshake.ja3":                          func(m *Message) []string { return word(!m.TLS.Server, m.TLS.JA3) },
	"tls.handshake.session_id": func(m *Message) []string {
		return word(m.TLS.sessionID != "", hex.EncodeToString([]byte(m.TLS.sessionID)))
	},
	"tls.handshake.extensions_alpn_str": func(m *Message) []string {
		return append(word(m.TLS.ChosenALPN != "", m.TLS.ChosenALPN), m.TLS.ALPN...)
	},
	"tls.handshake.ciphersuite": func(m *Message) []string { return word(m.TLS.Server, m.TLS.Cipher) },
	columnCipher:                func(m *Message) []string { return word(m.TLS.Server, TLSCipher(m.TLS.Cipher)) },
}

// tlsVersions are those of the extension: those of the old field are below TLS 1.3, and alone.
func tlsVersions(m *Message) []string {
	var out []string
	for _, v := range m.TLS.Versions {
		if len(m.TLS.Versions) > 1 || v > 0x0303 {
			out = append(out, fmt.Sprint(v))
		}
	}
	return append(out, word(m.TLS.Server && m.TLS.Version > 0x0303, m.TLS.Version)...)
}

func TestTsharkAgreesOnTLS(t *testing.T) {
	var all []frames.Frame
	var names []string
	var messages []Message
	add := func(name string, stream []byte) {
		var m Message
		_, err := readTLS(stream, &m)
		require.NoError(t, err)
		from, to := uint16(10000+len(all)), uint16(443)
		if m.TLS.Server {
			from, to = to, from
		}
		all, names, messages = append(all, carried(6, from, to, stream)), append(names, name), append(messages, m)
	}
	for _, c := range tlsCases {
		add(c.name, records(1<<14, c.hello))
	}
	s := shake(t, goClient(), serverConfig(t))
	add("a client of Go", s.client[:firstRecord(s.client)])
	add("a server of Go", s.server[:firstRecord(s.server)])
	for cipher, name := range tlsCiphers {
		add(name, records(1<<14, message(handshakeServer, serverHello(0x0303, anyRandom, cipher))))
	}
	compare(t, tlsFields, names, messages, asked(t, all, tlsFields, preferenceCipher))
}

func firstRecord(stream []byte) int {
	return recordHeaderLen + int(stream[3])<<8 + int(stream[4])
}

func goClient() *tls.Config {
	return &tls.Config{ServerName: "host.example", NextProtos: []string{"http/1.1"}, InsecureSkipVerify: true} //nolint:gosec // nothing to verify
}
