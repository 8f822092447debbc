// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Builders of what is on the wire. They nest as the structures of RFC 8446 do.

func u16s(list ...uint16) (b []byte) {
	for _, n := range list {
		b = binary.BigEndian.AppendUint16(b, n)
	}
	return b
}

func behind8(parts ...[]byte) []byte {
	b := slices.Concat(parts...)
	return append([]byte{byte(len(b))}, b...)
}

func behind16(parts ...[]byte) []byte {
	b := slices.Concat(parts...)
	return append(u16s(uint16(len(b))), b...)
}

func extension(typ uint16, body ...[]byte) []byte { return append(u16s(typ), behind16(body...)...) }

func serverNameExtension(name string) []byte {
	return extension(extensionServerName, behind16([]byte{0}, behind16([]byte(name))))
}

func alpnExtension(protocols ...string) []byte {
	var list []byte
	for _, p := range protocols {
		list = append(list, behind8([]byte(p))...)
	}
	return extension(extensionALPN, behind16(list))
}

func groupsExtension(list ...uint16) []byte {
	return extension(extensionSupportedGroups, behind16(u16s(list...)))
}
func algorithmsExtension(list ...uint16) []byte {
	return extension(extensionSignatureAlgorithms, behind16(u16s(list...)))
}
func versionsExtension(list ...uint16) []byte {
	return extension(extensionSupportedVersions, behind8(u16s(list...)))
}
func formatsExtension(list ...byte) []byte { return extension(extensionPointFormats, behind8(list)) }

const sessionID = "session id of up to 32 bytes"

// clientHello is the body of a ClientHello; without extensions it has no place for them, as before RFC 4366.
func clientHello(version uint16, ciphers []uint16, extensions ...[]byte) []byte {
	b := slices.Concat(u16s(version), make([]byte, 32), behind8([]byte(sessionID)), behind16(u16s(ciphers...)), behind8([]byte{0}))
	if len(extensions) > 0 {
		b = append(b, behind16(extensions...)...)
	}
	return b
}

func serverHello(version uint16, random []byte, cipher uint16, extensions ...[]byte) []byte {
	b := slices.Concat(u16s(version), random, behind8([]byte(sessionID)), u16s(cipher), []byte{0})
	if len(extensions) > 0 {
		b = append(b, behind16(extensions...)...)
	}
	return b
}

// message is a handshake message with its header.
func message(typ byte, body []byte) []byte {
	return slices.Concat([]byte{typ, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body)
}

// records carries b in records of at most size bytes.
func records(size int, b []byte) (out []byte) {
	for fragment := range slices.Chunk(b, size) {
		out = slices.Concat(out, []byte{recordHandshake, 3, 1}, behind16(fragment))
	}
	return out
}

// shaken is a handshake between two ends of crypto/tls, or one and another program: what each sent and what each says.
type shaken struct {
	client, server []byte
	hello          *tls.ClientHelloInfo // the server's view of the client
	state          tls.ConnectionState
}

// patience bounds every handshake.
const patience = 10 * time.Second

// shake lets two ends of crypto/tls speak until the client has what it needs to resume.
func shake(t *testing.T, client, server *tls.Config) shaken {
	addr, served := listen(t, server)
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	c := tls.Client(conn, client)
	require.NoError(t, c.Handshake())
	_, err = io.ReadFull(c, make([]byte, 1)) // the server's tickets are before it
	require.NoError(t, err)
	c.Close()
	s := <-served
	require.NotNil(t, s.hello)
	s.state = c.ConnectionState()
	return s
}

// listen serves one connection on the loopback interface.
func listen(t *testing.T, config *tls.Config) (addr string, served <-chan shaken) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	one := make(chan shaken, 1)
	go func() {
		defer close(one)
		if conn, err := l.Accept(); err == nil {
			_ = conn.SetDeadline(time.Now().Add(patience))
			one <- serve(conn, config)
		}
	}()
	return l.Addr().String(), one
}

// serve answers one connection with one byte.
func serve(conn net.Conn, config *tls.Config) (s shaken) {
	defer conn.Close()
	config = config.Clone()
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		s.hello = hello
		return nil, nil //nolint:nilnil // as documented: the config as it is
	}
	wire := &recorded{Conn: conn}
	c := tls.Server(wire, config)
	if c.Handshake() == nil {
		s.state = c.ConnectionState()
		_, _ = c.Write([]byte("x"))
		_, _ = io.Copy(io.Discard, c)
	}
	s.client, s.server = wire.in.Bytes(), wire.out.Bytes()
	return s
}

// recorded keeps what crosses a connection.
type recorded struct {
	net.Conn
	in, out bytes.Buffer
}

func (r *recorded) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	r.in.Write(b[:n])
	return n, err
}

func (r *recorded) Write(b []byte) (int, error) {
	r.out.Write(b)
	return r.Conn.Write(b)
}

// serverConfig has a certificate of its own making, that nobody verifies.
func serverConfig(t *testing.T) *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	config := &tls.Config{ //nolint:gosec // old versions are to be read, too
		Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}},
		MinVersion:   tls.VersionTLS10,
	}
	config.SetSessionTicketKeys([][32]byte{{1}}) // the same in every clone
	return config
}

var errStop = errors.New("that was all")

// goReads returns what crypto/tls reads of a ClientHello, or nil if it finds none.
func goReads(stream []byte) (hello *tls.ClientHelloInfo) {
	server := tls.Server(&deaf{Reader: bytes.NewReader(stream)}, &tls.Config{ //nolint:gosec // it speaks to nobody
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			hello = h
			return nil, errStop
		},
	})
	_ = server.Handshake()
	return hello
}

// deaf is a connection that speaks and does not listen.
type deaf struct {
	net.Conn
	io.Reader
}

func (d *deaf) Read(b []byte) (int, error)       { return d.Reader.Read(b) }
func (d *deaf) Write(b []byte) (int, error)      { return len(b), nil }
func (d *deaf) SetWriteDeadline(time.Time) error { return nil }
func (d *deaf) Close() error                     { return nil }
func (d *deaf) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (d *deaf) LocalAddr() net.Addr              { return &net.TCPAddr{} }
