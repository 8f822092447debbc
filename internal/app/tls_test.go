// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// tlsCase is a stream that is one hello, in a record of its own unless it says otherwise, and what is read of it; fingerprints
// have tests of their own.
type tlsCase struct {
	name  string
	hello []byte // handshake message
	want  TLS
}

var anyRandom = bytes.Repeat([]byte{0xcf}, 32)

func client(version uint16, extensions ...[]byte) []byte {
	return message(handshakeClient, clientHello(version, []uint16{0x0a0a, 0x1301, 0x00ff}, extensions...))
}

func server(version uint16, extensions ...[]byte) []byte {
	return message(handshakeServer, serverHello(version, anyRandom, 0x1301, extensions...))
}

var (
	longHost  = strings.Join([]string{longLabel, longLabel, longLabel, longLabel[:61]}, ".") // 253 bytes
	manyALPN  = slices.Repeat([]string{"h2"}, maxProtocols)
	manyTypes = func() (block [][]byte) {
		for typ := range uint16(25) {
			block = append(block, extension(0x4400+typ))
		}
		return block
	}()
)

var tlsCases = []tlsCase{
	{"a client of today", message(handshakeClient, published(publishedScheme...)),
		TLS{ServerName: "example.com", ALPN: []string{"h2", "http/1.1"}, Versions: []uint16{0x0304, 0x0303}}},
	{"a client without extensions", client(0x0301), TLS{Versions: []uint16{0x0301}}},
	{"a client with an empty block of extensions", client(0x0303, nil), TLS{Versions: []uint16{0x0303}}},
	{"a client of SSL 3", client(0x0300), TLS{Versions: []uint16{0x0300}}},
	{"a client with 25 extensions", client(0x0303, manyTypes...), TLS{Versions: []uint16{0x0303}}},
	{"versions that are all GREASE", client(0x0303, versionsExtension(0xfafa)), TLS{Versions: []uint16{0x0303}}},
	{"more versions than are told", client(0x0303, versionsExtension(slices.Repeat([]uint16{0x0304}, 99)...)),
		TLS{Versions: slices.Repeat([]uint16{0x0304}, maxVersions)}},
	{"a server name in upper case", client(0x0303, serverNameExtension("WWW.Ex-ample_1.COM")),
		TLS{ServerName: "www.ex-ample_1.com", Versions: []uint16{0x0303}}},
	{"a server name of 253 bytes", client(0x0303, serverNameExtension(longHost)), TLS{ServerName: longHost, Versions: []uint16{0x0303}}},
	{"a server name of 254 bytes", client(0x0303, serverNameExtension(longHost+"x")), TLS{Versions: []uint16{0x0303}}},
	{"a server name that no host has", client(0x0303, serverNameExtension("a\nb")), TLS{Versions: []uint16{0x0303}}},
	{"a server name in UTF-8", client(0x0303, serverNameExtension("bücher.example")), TLS{Versions: []uint16{0x0303}}},
	{"an empty server name", client(0x0303, serverNameExtension("")), TLS{Versions: []uint16{0x0303}}},
	{"a name of another type before that of the host",
		client(0x0303, extension(extensionServerName, behind16([]byte{9}, behind16([]byte("x")), []byte{0}, behind16([]byte("host"))))),
		TLS{ServerName: "host", Versions: []uint16{0x0303}}},
	{"protocols with odd bytes, GREASE and an empty one", client(0x0303, alpnExtension("\x3a\x3a", "a b\\\x00\xff", "", "h2")),
		TLS{ALPN: []string{`a\032b\\\000\255`, "h2"}, Versions: []uint16{0x0303}}},
	{"more protocols than are told", client(0x0303, alpnExtension(append(manyALPN, "h3")...)), TLS{ALPN: manyALPN, Versions: []uint16{0x0303}}},
	{"a client with 16 KiB of an extension", client(0x0303, extension(21, make([]byte, helloMost-80))), TLS{Versions: []uint16{0x0303}}},

	{"a server of TLS 1.3", server(0x0303, extension(51, make([]byte, 36)), extension(extensionSupportedVersions, u16s(0x0304))),
		TLS{Server: true, Version: 0x0304, Cipher: 0x1301, KnowsResumed: true}},
	{"a server of TLS 1.3 that resumes", server(0x0303, extension(extensionSupportedVersions, u16s(0x0304)), extension(extensionPreSharedKey, u16s(0))),
		TLS{Server: true, Version: 0x0304, Cipher: 0x1301, Resumed: true, KnowsResumed: true}},
	{"a server that asks for another key",
		message(handshakeServer, serverHello(0x0303, retryRandom[:], 0x1302, extension(extensionSupportedVersions, u16s(0x0304)), extension(51, u16s(23)))),
		TLS{Server: true, Version: 0x0304, Cipher: 0x1302, RetryRequest: true}},
	{"a server of TLS 1.2 with ALPN", server(0x0303, extension(0xff01, []byte{0}), alpnExtension("http/1.1")),
		TLS{Server: true, Version: 0x0303, Cipher: 0x1301, ChosenALPN: "http/1.1"}},
	{"a server without extensions", server(0x0301), TLS{Server: true, Version: 0x0301, Cipher: 0x1301}},
}

// notTLS are streams that begin with no hello.
var notTLS = map[string][]byte{
	"text":                                  []byte("GET / HTTP/1.1\r\n\r\n"),
	"a hello of SSL 2":                      {0x80, 0x2e, 0x01, 0x03, 0x01, 0x00, 0x15, 0x00, 0x00, 0x00, 0x10},
	"application data":                      {23, 3, 3, 0, 1, 0},
	"an alert":                              {21, 3, 3, 0, 2, 2, 40},
	"a change of cipher specs that is none": {20, 3, 3, 0, 1, 2},
	"a record of another version":           {22, 2, 0, 0, 1, 1},
	"an empty record":                       {22, 3, 1, 0, 0},
	"a record of more than 16 KiB":          {22, 3, 1, 0x40, 0x01},
	"a certificate":                         records(1000, message(11, make([]byte, 10))),
	"a hello of more than 16 KiB":           records(1000, message(handshakeClient, make([]byte, helloMost+1)))[:20],
	"an empty hello":                        records(1000, message(handshakeClient, nil)),
	"a version that is not of TLS":          records(1000, client(0x0203)),
	"a server of such a version":            records(1000, server(0xfefd)),
	"half a cipher":                         records(1000, message(handshakeClient, slices.Concat(u16s(0x0303), anyRandom, []byte{0}, behind16([]byte{1, 2, 3}), behind8([]byte{0})))),
	"no cipher":                             records(1000, message(handshakeClient, slices.Concat(u16s(0x0303), anyRandom, []byte{0}, behind16(), behind8([]byte{0})))),
	"no compression":                        records(1000, message(handshakeClient, slices.Concat(u16s(0x0303), anyRandom, []byte{0}, behind16(u16s(1)), behind8()))),
	"a session id of 33 bytes":              records(1000, message(handshakeClient, slices.Concat(u16s(0x0303), anyRandom, behind8(make([]byte, 33)), behind16(u16s(1)), behind8([]byte{0})))),
	"half an extension":                     records(1000, client(0x0303, []byte{0, 21, 0})),
	"an extension that goes on":             records(1000, client(0x0303, []byte{0, 21, 0, 1})),
	"bytes behind the extensions":           records(1000, message(handshakeClient, append(clientHello(0x0303, []uint16{1}, extension(21)), 0))),
	"a server name that goes on":            records(1000, client(0x0303, extension(extensionServerName, behind16([]byte{0, 0, 2, 'a'})))),
	"bytes behind the server names":         records(1000, client(0x0303, extension(extensionServerName, behind16([]byte{0, 0, 1, 'a'}), []byte{0}))),
	"half a version":                        records(1000, client(0x0303, extension(extensionSupportedVersions, behind8([]byte{3})))),
	"half a group":                          records(1000, client(0x0303, extension(extensionSupportedGroups, behind16([]byte{3})))),
	"half an algorithm":                     records(1000, client(0x0303, extension(extensionSignatureAlgorithms, behind16([]byte{3})))),
	"no list of formats":                    records(1000, client(0x0303, extension(extensionPointFormats))),
	"a protocol that goes on":               records(1000, client(0x0303, extension(extensionALPN, behind16([]byte{2, 'h'})))),
	"a server with two versions":            records(1000, server(0x0303, extension(extensionSupportedVersions, u16s(0x0304, 0x0303)))),
	"a server's extension that goes on":     records(1000, server(0x0303, []byte{0, 21, 0, 1})),
	"a server with two protocols":           records(1000, server(0x0303, alpnExtension("a", "b"))),
	"a server's hello that is cut":          records(1000, message(handshakeServer, serverHello(0x0303, anyRandom, 1)[:50])),
}

// read wants a hello and returns it without what has tests of its own.
func read(t *testing.T, b []byte) (TLS, int) {
	t.Helper()
	var m Message
	before := slices.Clone(b)
	n, err := readTLS(b[:len(b):len(b)], &m)
	require.NoError(t, err)
	require.Equal(t, before, b, "the stream was written to")
	require.NotNil(t, m.TLS)
	assert.Equal(t, Message{TLS: m.TLS}, m)
	got := *m.TLS
	assert.Equal(t, !got.Server, got.JA4 != "" && len(got.JA3) == 32)
	got.JA4, got.JA3 = "", ""
	return got, n
}

func TestReadTLS(t *testing.T) {
	for _, c := range tlsCases {
		t.Run(c.name, func(t *testing.T) {
			c.want.sessionID = sessionID
			for _, size := range []int{1 << 14, 1000, 50, 3} {
				b := records(size, c.hello)
				got, n := read(t, b)
				assert.Equal(t, c.want, got, "records of %d bytes", size)
				assert.Equal(t, len(b), n)
			}
			b := records(1<<14, c.hello)
			got, n := read(t, append(slices.Clip(b), "what follows"...))
			assert.Equal(t, c.want, got)
			assert.Equal(t, len(b), n)
			got, n = read(t, append(slices.Clip(changeCipherSpec), b...))
			assert.Equal(t, c.want, got)
			assert.Equal(t, len(changeCipherSpec)+len(b), n)
		})
	}
	for name, b := range notTLS {
		t.Run(name, func(t *testing.T) {
			var m Message
			n, err := readTLS(slices.Clip(b), &m)
			assert.ErrorIs(t, err, errMalformed)
			assert.Equal(t, []any{0, Message{}}, []any{n, m})
		})
	}
}

// TestReadTLSCut cuts every stream everywhere: there is more to come, and nothing is told before.
func TestReadTLSCut(t *testing.T) {
	for _, c := range tlsCases {
		for _, size := range []int{1 << 14, 700, 60} {
			b := append(slices.Clip(changeCipherSpec), records(size, c.hello)...)
			for n := range b {
				var m Message
				taken, err := readTLS(slices.Clip(b[:n]), &m)
				require.Equal(t, errMore, err, "%s: %d bytes", c.name, n)
				require.Equal(t, []any{0, Message{}}, []any{taken, m})
			}
		}
	}
	for name, b := range notTLS {
		for n := range b {
			var m Message
			_, err := readTLS(slices.Clip(b[:n]), &m)
			require.Error(t, err, "%s: %d bytes", name, n)
			require.Nil(t, m.TLS)
		}
	}
}

// TestReadTLSBesideOthers: a server may send its certificate in the same record, which is not waited for.
func TestReadTLSBesideOthers(t *testing.T) {
	hello := server(0x0303)
	b := records(1<<14, slices.Concat(hello, message(11, make([]byte, 4000))))
	for _, there := range []int{recordHeaderLen + len(hello), recordHeaderLen + len(hello) + 100, len(b)} {
		got, n := read(t, b[:there])
		assert.Equal(t, TLS{Server: true, Version: 0x0303, Cipher: 0x1301, sessionID: sessionID}, got)
		assert.Equal(t, there, n)
	}
}

// TestHandshakes compares what is read of real handshakes with what the two ends say, which is where the truth is.
func TestHandshakes(t *testing.T) {
	cache := map[uint16]tls.ClientSessionCache{}
	plain := serverConfig(t)
	plain.NextProtos = []string{"http/1.1"}
	only := func(version uint16) *tls.Config {
		if cache[version] == nil {
			cache[version] = tls.NewLRUClientSessionCache(1)
		}
		return &tls.Config{
			MinVersion: version, MaxVersion: version, ServerName: "Host.Example", NextProtos: []string{"h2", "http/1.1"},
			ClientSessionCache: cache[version], InsecureSkipVerify: true, //nolint:gosec // nothing to verify
		}
	}
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12, tls.VersionTLS13} {
		for _, again := range []bool{false, true} {
			t.Run(fmt.Sprintf("TLS %s, again %t", TLSVersion(version), again), func(t *testing.T) {
				s := shake(t, only(version), plain)
				require.Equal(t, again, s.state.DidResume)
				requireAgrees(t, &s)
			})
		}
	}
	t.Run("all versions, no names", func(t *testing.T) {
		s := shake(t, &tls.Config{MinVersion: tls.VersionTLS10, InsecureSkipVerify: true}, plain) //nolint:gosec // as above
		require.Empty(t, s.hello.ServerName)
		require.Len(t, s.hello.SupportedVersions, 4)
		require.Contains(t, s.hello.SupportedCurves, tls.X25519MLKEM768, "a key of 1,216 bytes")
		requireAgrees(t, &s)
	})
	t.Run("a name of 253 bytes, many protocols", func(t *testing.T) {
		config := only(tls.VersionTLS13)
		config.ServerName = longHost
		config.NextProtos = []string{"a", "b c", "http/1.1"}
		s := shake(t, config, plain)
		requireAgrees(t, &s)
	})
	t.Run("a retry", func(t *testing.T) {
		picky := plain.Clone()
		picky.CurvePreferences = []tls.CurveID{tls.CurveP384}
		config := only(tls.VersionTLS13)
		config.ClientSessionCache, config.CurvePreferences = nil, []tls.CurveID{tls.X25519, tls.CurveP384}
		s := shake(t, config, picky)
		require.True(t, s.state.HelloRetryRequest)
		retry, n := read(t, s.server)
		assert.True(t, retry.RetryRequest)
		assert.Equal(t, s.state.Version, retry.Version)
		s.server = s.server[n:]
		_, n = read(t, s.client)
		s.client = s.client[n:]
		requireAgrees(t, &s)
	})
}

// requireAgrees compares the hellos of a handshake with what its ends say.
func requireAgrees(t *testing.T, s *shaken) {
	t.Helper()
	requireAgreesWith(t, s.client, s.hello)
	hello, _ := read(t, s.client)
	answer, _ := read(t, s.server)
	require.Equal(t, s.state.Version, answer.Version)
	require.Equal(t, s.state.CipherSuite, answer.Cipher)
	require.Equal(t, s.state.DidResume, answer.resumes(&hello))
	require.False(t, answer.RetryRequest)
	if s.state.Version < tls.VersionTLS13 {
		require.Equal(t, s.state.NegotiatedProtocol, answer.ChosenALPN)
	} else {
		require.Empty(t, answer.ChosenALPN)
	}
}

// requireAgreesWith compares the ClientHello that a stream begins with with what crypto/tls reads of it, which names neither
// GREASE nor what is not a list.
func requireAgreesWith(t *testing.T, stream []byte, hello *tls.ClientHelloInfo) {
	t.Helper()
	got, _ := read(t, stream)
	useful := func(list []uint16) []uint16 { return slices.DeleteFunc(slices.Clone(list), isGREASE) }
	require.Equal(t, strings.ToLower(hello.ServerName), got.ServerName)
	var protocols []string
	for _, p := range hello.SupportedProtos {
		protocols = append(protocols, printable([]byte(p)))
	}
	require.Equal(t, protocols, got.ALPN)
	if slices.Contains(hello.Extensions, extensionSupportedVersions) {
		require.Equal(t, useful(hello.SupportedVersions), got.Versions)
	} else {
		require.Equal(t, hello.SupportedVersions[:1], got.Versions)
	}

	var m Message
	_, err := readTLS(stream, &m)
	require.NoError(t, err)
	types := useful(hello.Extensions)
	prefix := fmt.Sprintf("%s%02d%02d", map[bool]string{true: "d", false: "i"}[slices.Contains(types, extensionServerName)],
		len(useful(hello.CipherSuites)), len(types))
	require.Equal(t, prefix, m.TLS.JA4[3:8])
	slices.Sort(types)
	types = slices.DeleteFunc(types, func(typ uint16) bool { return typ == extensionServerName || typ == extensionALPN })
	list := hexadecimal(types)
	if len(hello.SignatureSchemes) > 0 {
		var algorithms []uint16
		for _, scheme := range hello.SignatureSchemes {
			algorithms = append(algorithms, uint16(scheme))
		}
		list += "_" + hexadecimal(useful(algorithms))
	}
	require.Equal(t, hashed(list), m.TLS.JA4[24:])
}

func hexadecimal(list []uint16) string {
	var words []string
	for _, n := range list {
		words = append(words, fmt.Sprintf("%04x", n))
	}
	return strings.Join(words, ",")
}

// TestOpenSSL reads hellos of another library.
func TestOpenSSL(t *testing.T) {
	openssl := testenv.Tool(t, "openssl")
	for _, args := range [][]string{
		{"-tls1_3", "-servername", "Host.Example", "-alpn", "h2,http/1.1"},
		{"-tls1_2", "-servername", "host.example", "-alpn", "http/1.1"},
		{"-tls1_2", "-noservername", "-no_ticket"},
		{"-noservername", "-ciphersuites", "TLS_AES_128_GCM_SHA256", "-curves", "P-384:X25519"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) { requireAgreesWithOpenSSL(t, openssl, args) })
	}
}

func requireAgreesWithOpenSSL(t *testing.T, openssl string, args []string) {
	config := serverConfig(t)
	config.NextProtos = []string{"http/1.1"}
	addr, served := listen(t, config)
	args = append([]string{"s_client", "-connect", addr}, args...)
	out, err := exec.CommandContext(t.Context(), openssl, args...).CombinedOutput() // ends with its input, which is empty
	require.NoError(t, err, string(out))
	s := <-served
	require.NotNil(t, s.hello, string(out))
	require.True(t, s.state.HandshakeComplete, string(out))
	requireAgrees(t, &s)
}

// TestResumes has what no handshake above shows.
func TestLongProtocolsAreToldInPart(t *testing.T) {
	odd, want := alpnExtension(strings.Repeat("\x00", 255)), strings.Repeat(`\000`, maxProtocolSize)
	asked, _ := read(t, records(1<<14, client(0x0303, odd)))
	assert.Equal(t, []string{want}, asked.ALPN)
	chosen, _ := read(t, records(1<<14, server(0x0303, odd)))
	assert.Equal(t, want, chosen.ChosenALPN)
}

func TestResumes(t *testing.T) {
	one := TLS{sessionID: "1", Version: 0x0303}
	assert.True(t, one.resumes(&TLS{sessionID: "1"}))
	assert.False(t, one.resumes(&TLS{sessionID: "2"}))
	assert.False(t, (&TLS{Version: 0x0303}).resumes(&TLS{}), "no session at all")
	assert.False(t, (&TLS{sessionID: "1", Version: 0x0304}).resumes(&TLS{sessionID: "1"}), "TLS 1.3 repeats any")
}

func TestTLSNames(t *testing.T) {
	for version, want := range map[uint16][2]string{
		0x0304: {"tls", "1.3"}, 0x0303: {"tls", "1.2"}, 0x0302: {"tls", "1.1"}, 0x0301: {"tls", "1.0"}, 0x0300: {"ssl", "3"}, 0x7f1c: {"tls", "0x7f1c"},
	} {
		assert.Equal(t, want, [2]string{TLSProtocol(version), TLSVersion(version)})
	}
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		assert.Equal(t, suite.Name, TLSCipher(suite.ID))
	}
	assert.Equal(t, "TLS_DHE_RSA_WITH_AES_256_GCM_SHA384", TLSCipher(0x009f))
	for name, cipher := range map[string]uint16{"reserved": 0x0060, "GREASE": 0x0a0a, "of a draft": 0xcc13, "reserved, of NSS": 0xfeff, "private": 0xff01} {
		assert.Empty(t, TLSCipher(cipher), name)
	}
}

func BenchmarkTLS(b *testing.B) {
	for _, c := range []tlsCase{tlsCases[0], {name: "a server", hello: server(0x0303, alpnExtension("h2"))}} {
		for _, size := range []int{1 << 14, 200} {
			b.Run(fmt.Sprintf("%s, records of %d bytes", c.name, size), func(b *testing.B) {
				stream := records(size, c.hello)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := readTLS(stream, new(Message)); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
