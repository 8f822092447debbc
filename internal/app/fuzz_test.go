// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// FuzzDNS also asks dnsmessage: what it takes for a whole message must be read, and alike.
func FuzzDNS(f *testing.F) {
	for _, c := range dnsCases {
		f.Add(c.b)
	}
	for _, b := range notDNS {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var d DNS
		err := parseDNS(slices.Clip(data), &d) // a read past the end of a clipped slice panics
		var whole dnsmessage.Message
		isWhole := whole.Unpack(data) == nil
		if err != nil {
			require.ErrorIs(t, err, errMalformed)
			require.False(t, isWhole && checkDNSHeader(data) == nil && !compressesQuestion(data), "refused: %v", err)
		} else {
			requireDNS(t, &d)
			if isWhole {
				requireAsDNSMessage(t, &d, &whole)
			}
		}
		requireOverTCP(t, data, &d, err)
	})
}

func requireDNS(t *testing.T, d *DNS) {
	requirePrintable(t, d.Name)
	require.LessOrEqual(t, len(d.Name), 4*dnsNameMost)
	require.Equal(t, d.HasQuestion, d.Name != "")
	require.LessOrEqual(t, len(d.Answers), min(MaxAnswers, d.AnswerCount))
	require.LessOrEqual(t, d.AnswerCount, dnsMostBytes/dnsRecordMin)
	for _, a := range d.Answers {
		_, err := netip.ParseAddr(a)
		require.NoError(t, err)
	}
	if !d.Response {
		require.Zero(t, d.ResponseCode)
		require.Empty(t, d.Answers)
	}
}

func requireAsDNSMessage(t *testing.T, d *DNS, whole *dnsmessage.Message) {
	require.Len(t, whole.Answers, d.AnswerCount)
	if d.HasQuestion {
		q := whole.Questions[0]
		require.Equal(t, [2]uint16{uint16(q.Type), uint16(q.Class) &^ dnsUnicastBit}, [2]uint16{d.Type, d.Class})
		if name := q.Name.String(); name != "." {
			require.Equal(t, printable([]byte(strings.TrimSuffix(name, "."))), d.Name)
		}
	}
	var answers []string
	for _, r := range whole.Answers {
		if r.Header.Class&^dnsUnicastBit != dnsmessage.ClassINET || !d.Response || len(answers) == MaxAnswers {
			continue
		}
		switch body := r.Body.(type) { // it takes addresses of any length
		case *dnsmessage.AResource:
			if r.Header.Length == 4 {
				answers = append(answers, netip.AddrFrom4(body.A).String())
			}
		case *dnsmessage.AAAAResource:
			if r.Header.Length == 16 {
				answers = append(answers, netip.AddrFrom16(body.AAAA).String())
			}
		}
	}
	require.Equal(t, answers, d.Answers)
	for _, r := range whole.Additionals {
		if d.Response && r.Header.Type == dnsmessage.TypeOPT {
			require.Equal(t, uint16(r.Header.ExtendedRCode(whole.RCode)), d.ResponseCode)
			return
		}
	}
}

// compressesQuestion reports whether the first name of a message has a pointer.
func compressesQuestion(b []byte) bool {
	for n := dnsHeaderLen; n < len(b) && b[n] != 0; n += 1 + int(b[n]) {
		if b[n] > 63 {
			return true
		}
	}
	return false
}

// requireOverTCP wants of a message over TCP what was read of it over UDP.
func requireOverTCP(t *testing.T, data []byte, d *DNS, over error) {
	if len(data) > dnsMostBytes {
		return
	}
	var m Message
	n, err := readDNS(append(overTCP(data), 0xff), &m)
	if over != nil {
		require.ErrorIs(t, err, errMalformed)
		return
	}
	require.NoError(t, err)
	require.Equal(t, 2+len(data), n)
	require.Equal(t, d, m.DNS)
	_, err = readDNS(overTCP(data)[:1+len(data)], &m)
	require.Equal(t, errMore, err)
}

func requirePrintable(t *testing.T, text string) {
	for _, c := range []byte(text) {
		require.True(t, c > ' ' && c <= '~', "%q", text)
	}
}

// FuzzTLS reads data as a stream, and as a hello in records of a size; of the latter it also asks crypto/tls.
func FuzzTLS(f *testing.F) {
	for _, c := range tlsCases {
		if len(c.hello) < 2000 {
			f.Add(c.hello, uint16(1<<14), uint16(40))
			f.Add(records(100, c.hello), uint16(100), uint16(0))
		}
	}
	for _, b := range notTLS {
		f.Add(b, uint16(100), uint16(3))
	}
	f.Fuzz(func(t *testing.T, data []byte, size, cut uint16) {
		requireStream(t, data, cut)
		if len(data) == 0 {
			return
		}
		stream := records(int(size)%recordMost+1, data)
		m, err := requireStream(t, stream, cut)
		hello := goReads(stream)
		switch {
		case hello == nil || !isClientHello(data):
		case err != nil:
			require.Fail(t, "crypto/tls reads it", "%v: %x", err, data)
		default:
			requireAlike(t, m.TLS, hello.ServerName, hello.SupportedProtos)
		}
	})
}

// requireStream reads a stream whole, cut, and with something behind it, and wants no contradiction.
func requireStream(t *testing.T, stream []byte, cut uint16) (Message, error) {
	var m Message
	n, err := readTLS(slices.Clip(stream), &m)
	var part Message
	_, partErr := readTLS(slices.Clip(stream[:min(int(cut), len(stream))]), &part)
	if err != nil {
		require.True(t, err == errMore || isMalformed(err)) //nolint:errorlint // errMore is never wrapped
		require.Equal(t, []any{0, Message{}}, []any{n, m})
		require.Error(t, partErr)
		return m, err
	}
	requireTLS(t, m.TLS)
	require.LessOrEqual(t, n, len(stream))
	if partErr == nil {
		require.Equal(t, m, part)
	} else {
		require.Equal(t, errMore, partErr)
	}
	var more Message
	_, err = readTLS(append(slices.Clip(stream), "more"...), &more)
	require.NoError(t, err)
	require.Equal(t, m, more)
	return m, nil
}

func isMalformed(err error) bool { return strings.HasPrefix(err.Error(), errMalformed.Error()) }

func requireTLS(t *testing.T, s *TLS) {
	require.LessOrEqual(t, len(s.sessionID), sessionIDMost)
	if s.Server {
		requirePrintable(t, s.ChosenALPN)
		require.Equal(t, TLS{Server: true, Version: s.Version, Cipher: s.Cipher, Resumed: s.Resumed, KnowsResumed: s.KnowsResumed, RetryRequest: s.RetryRequest,
			ChosenALPN: s.ChosenALPN, sessionID: s.sessionID}, *s)
		return
	}
	require.Equal(t, s.ServerName, hostName([]byte(s.ServerName)))
	for _, p := range s.ALPN {
		requirePrintable(t, p)
		require.LessOrEqual(t, len(p), 4*maxProtocolSize)
	}
	require.LessOrEqual(t, len(s.ALPN), maxProtocols)
	require.LessOrEqual(t, len(s.Versions), maxVersions)
	require.NotEmpty(t, s.Versions)
	require.Regexp(t, `^t(1[0-3]|s3|00)[di]\d{4}[0-9A-Za-z]{2}_[0-9a-f]{12}_[0-9a-f]{12}$`, s.JA4)
	require.Regexp(t, `^[0-9a-f]{32}$`, s.JA3)
	require.Equal(t, TLS{ServerName: s.ServerName, ALPN: s.ALPN, Versions: s.Versions, JA4: s.JA4, JA3: s.JA3, sessionID: s.sessionID}, *s)
}

// isClientHello reports whether crypto/tls and we must agree that b is one: it minds less what versions, ciphers and compression
// look like, and is content with more bytes.
func isClientHello(b []byte) bool {
	c := cursor{rest: b}
	header := c.take(handshakeHeadLen)
	major := c.u8()
	c.take(1 + 32)
	id, ciphers, compression := c.vector8(), c.vector16(), c.vector8()
	return !c.bad && header[0] == handshakeClient && major == 3 && len(id) <= sessionIDMost && len(ciphers) > 0 && len(compression) > 0 &&
		binary.BigEndian.Uint32(header)&0xffffff <= helloMost
}

func requireAlike(t *testing.T, s *TLS, name string, protocols []string) {
	require.Equal(t, hostName([]byte(name)), s.ServerName)
	var want []string
	for _, p := range protocols {
		if (len(p) != 2 || !isGREASE(binary.BigEndian.Uint16([]byte(p)))) && len(want) < maxProtocols {
			want = append(want, protocolName([]byte(p)))
		}
	}
	require.Equal(t, want, s.ALPN)
}
