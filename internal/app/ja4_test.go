// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The example of JA4.md, the description of JA4: extensions in the client's order.
var (
	publishedCiphers = []uint16{0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014, 0x009c, 0x009d, 0x002f, 0x0035}
	publishedTypes   = []uint16{0x001b, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002d, 0x000d, 0x0005, 0x0023, 0x0012, 0x002b, 0xff01, 0x000b, 0x000a, 0x0015}
	publishedScheme  = []uint16{0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601}
)

// What browserleaks.com says of Chrome 143, its JA3 being 98487aa16281980e7d1120d399efb6a4. Ciphers and signature algorithms are
// those of the example.
var (
	chromeTypes  = []uint16{45, 51, 16, 65037, 23, 17613, 0, 11, 10, 43, 65281, 35, 18, 5, 13, 27}
	chromeGroups = []uint16{4588, 29, 23, 24}
)

// published is the hello of the example, with GREASE as the browser that it is from sends it.
func published(algorithms ...uint16) []byte {
	return browserHello(publishedTypes, []uint16{29, 23, 24}, algorithms)
}

func browserHello(types, groups, algorithms []uint16) []byte {
	var block [][]byte
	for _, typ := range types {
		switch typ {
		case extensionServerName:
			block = append(block, serverNameExtension("example.com"))
		case extensionALPN:
			block = append(block, alpnExtension("\x0a\x0a", "h2", "http/1.1"))
		case extensionSignatureAlgorithms:
			block = append(block, algorithmsExtension(algorithms...))
		case extensionSupportedVersions:
			block = append(block, versionsExtension(0x3a3a, 0x0304, 0x0303))
		case extensionSupportedGroups:
			block = append(block, groupsExtension(append([]uint16{0xcaca}, groups...)...))
		case extensionPointFormats:
			block = append(block, formatsExtension(0))
		default:
			block = append(block, extension(typ))
		}
	}
	block = append([][]byte{extension(0x1a1a)}, append(block, extension(0xfafa, []byte{0}))...)
	return clientHello(0x0303, append([]uint16{0xeaea}, publishedCiphers...), block...)
}

func TestJA4(t *testing.T) {
	extensionsOfExample := slices.Concat(groupsExtension(29), algorithmsExtension(0x0403))
	for _, c := range []struct {
		name  string
		hello []byte
		want  string
	}{
		{"the published example", published(publishedScheme...), "t13d1516h2_8daaf6152771_e5627efa2ab1"},
		{"Chrome 143 as a server describes it", browserHello(chromeTypes, chromeGroups, publishedScheme), "t13d1516h2_8daaf6152771_d8a2da3f94cd"},
		{"the published example without signature algorithms", published(), "t13d1516h2_8daaf6152771_6d807ffa2a79"},
		{"signature algorithms that are all GREASE", published(0x0a0a), "t13d1516h2_8daaf6152771_6d807ffa2a79"},
		{"no extensions, an old version", clientHello(0x0301, []uint16{5}), "t10i010000_" + hashed("0005") + "_000000000000"},
		{"SSL 3", clientHello(0x0300, []uint16{5}), "ts3i010000_" + hashed("0005") + "_000000000000"},
		{"TLS 1.1", clientHello(0x0302, []uint16{5}), "t11i010000_" + hashed("0005") + "_000000000000"},
		{"TLS 1.2", clientHello(0x0303, []uint16{5}, extensionsOfExample), "t12i010200_" + hashed("0005") + "_" + hashed("000a,000d_0403")},
		{"a version that nobody knows", clientHello(0x0303, []uint16{5}, versionsExtension(0x0303, 0x7f1c)), "t00i010100_" + hashed("0005") + "_" + hashed("002b")},
		{"server name and ALPN only", clientHello(0x0303, []uint16{5}, serverNameExtension("a"), alpnExtension("h2")), "t12d0102h2_" + hashed("0005") + "_000000000000"},
		{"ciphers that are all GREASE", clientHello(0x0303, []uint16{0x0a0a}), "t12i000000_000000000000_000000000000"},
		{"a hundred ciphers", clientHello(0x0303, slices.Repeat([]uint16{1}, 100)), "t12i990000_" + hashed("0001"+strings.Repeat(",0001", 99)) + "_000000000000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var m Message
			_, err := readTLS(records(1000, message(handshakeClient, c.hello)), &m)
			require.NoError(t, err)
			assert.Equal(t, c.want, m.TLS.JA4)
		})
	}
}

// TestJA4Ends has the examples of JA4.md.
func TestJA4Ends(t *testing.T) {
	for protocol, want := range map[string]string{
		"h2": "h2", "http/1.1": "h1", "": "00", "x": "xx", "\xab": "ab", "\xab\xcd": "ad", "\x30\xab": "3b",
		"\x30\x31\xab\xcd": "3d", "\x30\xab\xcd\x31": "01", "/a": "21", "Zz": "Zz", "a\x7b": "6b",
	} {
		first, last := ja4Ends([]byte(protocol))
		assert.Equal(t, want, string([]byte{first, last}), "%q", protocol)
	}
}

// TestJA3 has the two examples of JA3's own README, and a browser.
func TestJA3(t *testing.T) {
	o := offer{ // 769,47-53-5-10-49161-49162-49171-49172-50-56-19-4,0-10-11,23-24-25,0
		legacyVersion: 769, ciphers: u16s(47, 53, 5, 10, 49161, 49162, 49171, 49172, 50, 56, 19, 4),
		extensions: slices.Concat(extension(0), extension(10), extension(11)), groups: u16s(23, 24, 25), pointFormats: []byte{0},
	}
	assert.Equal(t, "ada70206e40642a3e4461f35503241d5", o.ja3())

	o = offer{legacyVersion: 769, ciphers: u16s(4, 5, 10, 9, 100, 98, 3, 6, 19, 18, 99)} // 769,4-5-10-9-100-98-3-6-19-18-99,,,
	assert.Equal(t, "de350869b8c85de67a350c8d186f11e6", o.ja3())

	var m Message
	_, err := readTLS(records(1000, message(handshakeClient, browserHello(chromeTypes, chromeGroups, publishedScheme))), &m)
	require.NoError(t, err)
	assert.Equal(t, "98487aa16281980e7d1120d399efb6a4", m.TLS.JA3)
}

// hashed is the start of the SHA-256 of a list.
func hashed(list string) string {
	sum := sha256.Sum256([]byte(list))
	return hex.EncodeToString(sum[:])[:12]
}
