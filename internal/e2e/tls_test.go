// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

// mss is what a segment carries with an MTU of 1500 and TCP's time stamps.
var mss = map[bool]int{false: 1500 - 20 - 20 - 12, true: 1500 - 40 - 20 - 12}

// certificate writes a key and its certificate to a folder.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &k.PublicKey, k)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(k)
	require.NoError(t, err)
	cert, key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: private}} {
		require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(block), 0o600))
	}
	return cert, key
}

// thinking is how long servers wait before they answer.
const thinking = 50 * time.Millisecond

// handshakes is a TLS server that notes what it made of each connection.
type handshakes struct {
	mu     sync.Mutex
	states map[netip.AddrPort]tls.ConnectionState // by the client's end
	hellos map[netip.AddrPort]*tls.ClientHelloInfo
}

// serveTLS thinks after each ClientHello, and says one word on each connection.
func serveTLS(t *testing.T, e *testenv.End, port uint16) *handshakes {
	t.Helper()
	h := &handshakes{states: map[netip.AddrPort]tls.ConnectionState{}, hellos: map[netip.AddrPort]*tls.ClientHelloInfo{}}
	certFile, keyFile := certificate(t)
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	require.NoError(t, err)
	config := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12}
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		time.Sleep(thinking)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.hellos[remote(hello.Conn)] = hello
		return nil, nil //nolint:nilnil // says: the same configuration
	}
	for _, v6 := range []bool{false, true} {
		l := tls.NewListener(e.ListenTCP(v6, port), config)
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go h.serve(conn.(*tls.Conn))
			}
		}()
	}
	return h
}

func remote(c net.Conn) netip.AddrPort { return c.RemoteAddr().(*net.TCPAddr).AddrPort() }

func (h *handshakes) serve(conn *tls.Conn) {
	defer conn.Close()
	if conn.Handshake() != nil {
		return
	}
	h.mu.Lock()
	h.states[remote(conn)] = conn.ConnectionState()
	h.mu.Unlock()
	_, _ = conn.Write([]byte("welcome"))
}

// tlsClient is one way to connect to a TLS server.
type tlsClient struct {
	name     string // that it asks for; one of its own, so that its records are found
	versions []any
	alpn     []string
	resumes  bool
	hello    []byte // nil: not known
	rest     int64  // bytes of its hello in the second segment; 0: there is only one
}

// TestTLSHandshakes compares the records with what Go's server made of the hellos of openssl and of Go. It listens at the server:
// where the client sends, a hello of two segments is one buffer yet.
func TestTLSHandshakes(t *testing.T) {
	left, right := testenv.Pair(t, testenv.PairConfig{})
	server := serveTLS(t, right, 443)
	c := start(t, right.NetNS, messageSettings)
	var clients []tlsClient
	for _, v6 := range []bool{false, true} {
		addr := netip.AddrPortFrom(right.Addr(v6), 443)
		for _, version := range []string{"1.2", "1.3"} {
			session := filepath.Join(t.TempDir(), "session")
			for _, resumes := range []bool{false, true} {
				client := tlsClient{name: fmt.Sprintf("openssl-%s-%t-%t.example", version, resumes, v6), versions: texts(version), alpn: []string{"h2", "x/7"}, resumes: resumes}
				client.openssl(t, left, addr, session)
				clients = append(clients, client)
			}
		}
		cache := tls.NewLRUClientSessionCache(1)
		for _, resumes := range []bool{false, true} {
			client := tlsClient{name: fmt.Sprintf("go-%t-%t.example", resumes, v6), versions: texts("1.3", "1.2"), alpn: []string{"http/1.1", strings.Repeat("x", 250)}, resumes: resumes}
			client.dial(t, left, addr, cache)
			clients = append(clients, client)
		}
	}
	n := int64(len(clients))
	out := c.stopAfter(t, right.NetNS, outcomes{"tls": {"told": 2 * n}})

	ja4 := map[string]string{} // of a kind of client
	for _, client := range clients {
		request := client.requireTold(t, out, server)
		kind, _, _ := strings.Cut(client.name, ".example")
		kind = kind[:strings.LastIndexByte(kind, '-')] // without the version of IP
		fingerprint, _ := request.Attributes["packet.tls.client.ja4"].(string)
		assert.Regexp(t, `^t1[23]d\d{4}\w\w_[0-9a-f]{12}_[0-9a-f]{12}$`, fingerprint)
		if other, ok := ja4[kind]; ok {
			assert.Equal(t, other, fingerprint, "of %s over IPv4 and IPv6", kind)
		}
		ja4[kind] = fingerprint
	}
	distinct := map[string]bool{}
	for _, fingerprint := range ja4 {
		distinct[fingerprint] = true
	}
	// openssl says the same in a hello of TLS 1.2 with and without a session; of TLS 1.3 there is one extension more.
	assert.Len(t, distinct, len(ja4)-1, "%v", ja4)
	assert.Equal(t, ja4["openssl-1.2-false"], ja4["openssl-1.2-true"])
}

func (c *tlsClient) openssl(t *testing.T, from *testenv.End, addr netip.AddrPort, session string) {
	t.Helper()
	args := []string{"s_client", "-connect", addr.String(), "-servername", c.name, "-alpn", strings.Join(c.alpn, ","), "-ign_eof", "-sess_out", session,
		"-tls" + strings.ReplaceAll(c.versions[0].(string), ".", "_")}
	if c.resumes {
		args = append(args, "-sess_in", session)
	}
	said := from.Run(testenv.Tool(t, "openssl"), args...)
	require.Contains(t, said, "welcome")
}

// dial connects with what Go offers by default: a hello with a key for a post-quantum algorithm.
func (c *tlsClient) dial(t *testing.T, from *testenv.End, addr netip.AddrPort, cache tls.ClientSessionCache) {
	t.Helper()
	first := &firstWrite{Conn: dial(t, from, net.TCPAddrFromAddrPort(addr))}
	defer first.Close()
	conn := tls.Client(first, &tls.Config{ServerName: c.name, NextProtos: c.alpn, ClientSessionCache: shared{cache}, InsecureSkipVerify: true}) //nolint:gosec // the server is the test's
	word := make([]byte, 7)
	_, err := conn.Read(word)
	require.NoError(t, err)
	require.Equal(t, "welcome", string(word))
	require.Equal(t, c.resumes, conn.ConnectionState().DidResume)
	c.hello, c.rest = first.bytes, int64(len(first.bytes)-mss[addr.Addr().Is6()])
	require.Positive(t, c.rest, "the hello takes two segments")
}

// shared is a cache of one session for all names.
type shared struct{ tls.ClientSessionCache }

func (s shared) Get(string) (*tls.ClientSessionState, bool) { return s.ClientSessionCache.Get("") }
func (s shared) Put(_ string, cs *tls.ClientSessionState)   { s.ClientSessionCache.Put("", cs) }

// firstWrite notes what is written first.
type firstWrite struct {
	net.Conn
	bytes []byte
}

func (f *firstWrite) Write(b []byte) (int, error) {
	if f.bytes == nil {
		f.bytes = bytes.Clone(b)
	}
	return f.Conn.Write(b)
}

func (c *tlsClient) requireTold(t *testing.T, out result, server *handshakes) otlpcheck.Packet {
	t.Helper()
	request := out.message(t, map[string]any{"server.address": c.name})
	server.mu.Lock()
	defer server.mu.Unlock()
	hello, state := server.hellos[request.Source], server.states[request.Source]
	require.NotNil(t, hello)
	require.Equal(t, []any{c.name, c.alpn, c.resumes}, []any{hello.ServerName, hello.SupportedProtos, state.DidResume}, "what the server heard")
	requireSays(t, &request, map[string]any{
		"network.protocol.name": "tls", "network.protocol.version": nil, "packet.message.type": "request", "packet.tls.alpn": texts(c.alpn...),
		"packet.tls.versions": c.versions, "network.io.direction": "receive", "packet.message.response_time": nil, "tls.resumed": nil,
		"tls.next_protocol": nil, "tls.protocol.version": nil, "server.port": nil,
	})
	assert.Regexp(t, `^[0-9a-f]{32}$`, request.Attributes["tls.client.ja3"])
	if c.rest > 0 {
		requireSays(t, &request, map[string]any{"packet.payload_length": c.rest, "packet.segments": int64(1)})
	}
	response := out.answer(t, &request)
	version, next := map[uint16]string{tls.VersionTLS12: "1.2", tls.VersionTLS13: "1.3"}[state.Version], any(nil)
	if version == "1.2" {
		next = state.NegotiatedProtocol
		require.Equal(t, "h2", next)
	}
	requireSays(t, &response, map[string]any{
		"network.protocol.name": "tls", "network.protocol.version": version, "network.io.direction": "transmit",
		"tls.protocol.name": "tls", "tls.protocol.version": version, "tls.cipher": tls.CipherSuiteName(state.CipherSuite),
		"tls.resumed": state.DidResume, "tls.next_protocol": next, "packet.tls.retry_request": nil, "server.address": nil,
	})
	requireElapsed(t, &response, thinking, thinking+patience)
	out.requireLabel(t, &request, "tls", version, c.name)
	return request
}

// TestTLSServerAsksForAnotherHello has openssl ask for a key that clients do not offer: RFC 8446 4.1.4. Before its second hello
// a client says that it changes the cipher, which it does not (RFC 8446 D.4): Go in a packet of its own, openssl in that of the hello.
func TestTLSServerAsksForAnotherHello(t *testing.T) {
	left, right := testenv.Pair(t, testenv.PairConfig{})
	addr := netip.AddrPortFrom(right.V4, 443)
	openssl := testenv.Tool(t, "openssl")
	cert, key := certificate(t)
	cmd := exec.Command(openssl, "s_server", "-accept", addr.String(), "-cert", cert, "-key", key, "-groups", "P-384", "-www")
	var said safeBuffer
	cmd.Stdout = &said
	right.Start(cmd)
	require.Eventually(t, func() bool { return strings.Contains(said.String(), "ACCEPT") }, patience, 10*time.Millisecond)
	c := start(t, left.NetNS, messageSettings)

	conn := tls.Client(dial(t, left, net.TCPAddrFromAddrPort(addr)), &tls.Config{ServerName: "go.example", InsecureSkipVerify: true}) //nolint:gosec // the server is the test's
	require.NoError(t, conn.Handshake())
	require.Equal(t, tls.CurveP384, conn.ConnectionState().CurveID)
	require.NoError(t, conn.Close())
	dialled := left.Run(testenv.Tool(t, "sh"), "-c", openssl+" s_client -connect "+addr.String()+" -servername openssl.example -groups X25519:P-384 </dev/null")
	require.Contains(t, dialled, "Server Temp Key: ECDH, secp384r1, 384 bits")

	out := c.stopAfter(t, left.NetNS, outcomes{"tls": {"told": 2 * 4}})
	for _, name := range []string{"go.example", "openssl.example"} {
		hellos := out.messages(map[string]any{"server.address": name})
		require.Len(t, hellos, 2)
		answers := out.messages(map[string]any{"packet.message.type": "response", "destination.port": hellos[0].Attributes["source.port"]})
		require.Len(t, answers, 2)
		for i := range answers {
			requireSays(t, &answers[i], map[string]any{
				"tls.protocol.version": "1.3", "tls.resumed": false, "packet.tls.retry_request": map[int]any{0: true}[i],
			})
			requireElapsed(t, &answers[i], answers[i].Time.Sub(hellos[i].Time), answers[i].Time.Sub(hellos[i].Time))
		}
		out.requireLabel(t, &hellos[0], "tls", "1.3", name)
	}
}
