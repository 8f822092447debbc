// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"math"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

// messageSettings has every message told at the end of a pair where the collector runs.
const messageSettings = `
interfaces: {include: [left0, right0]}
collection_interval: 1s
packets: {random_one_in: 0, protocols: [dns, tls, http], max_per_second: 100000}
`

// outcomes are what own telemetry says of messages, or of requests: protocol, then outcome. Those of which there are none are
// not in it.
type outcomes map[string]map[string]int64

// outcomesIn reads them from what a scrape returned.
func outcomesIn(t *testing.T, scraped, metric string) outcomes {
	t.Helper()
	o := outcomes{}
	line := regexp.MustCompile(`(?m)^otelcol_ebpfpackets_receiver_` + metric + `\{[^}]*outcome="(\w+)"[^}]*protocol="(\w+)"[^}]*\} (\S+)$`)
	for _, m := range line.FindAllStringSubmatch(scraped, -1) {
		n, err := strconv.ParseInt(m[3], 10, 64)
		require.NoError(t, err)
		if n == 0 {
			continue
		}
		if o[m[2]] == nil {
			o[m[2]] = map[string]int64{}
		}
		o[m[2]][m[1]] = n
	}
	return o
}

// stopAfter waits until own telemetry says that this became of messages, which must be all that began, and stops the
// collector. What was told must have left as records: each message once, and each question of DNS without an answer once more.
func (c *collector) stopAfter(t *testing.T, ns *testenv.NetNS, want outcomes) result {
	t.Helper()
	var text string
	for deadline := time.Now().Add(patience / 3); ; time.Sleep(100 * time.Millisecond) {
		text = scrape(t, ns)
		if assert.ObjectsAreEqual(want, outcomesIn(t, text, "messages")) || time.Now().After(deadline) {
			break
		}
	}
	assert.Equal(t, want, outcomesIn(t, text, "messages"), "what became of messages")
	assert.NotRegexp(t, `(?m)^otelcol_ebpfpackets_receiver_samples\{[^}]*outcome="(rate_limited|ring_full)"[^}]*\} [^0]`, text)
	assert.NotRegexp(t, `(?m)^otelcol_ebpfpackets_receiver_message_conflicts\{[^}]*\} [^0]`, text)
	requests := outcomesIn(t, text, "requests")
	out := c.stop()
	for _, protocol := range []string{"dns", "tls", "http"} {
		told, answered, unanswered := int64(0), int64(0), int64(0)
		for _, m := range out.messages(map[string]any{"network.protocol.name": protocol}) {
			assert.Equal(t, []any{"protocol"}, m.Reasons)
			if m.Attributes["error.type"] != nil {
				unanswered++
				continue
			}
			told++
			if m.Attributes["packet.message.response_time"] != nil {
				answered++
			}
		}
		assert.Equal(t, want[protocol]["told"], told, "records of %s", protocol)
		assert.Equal(t, requests[protocol]["answered"], answered, "responses of %s that belong to a request", protocol)
		if protocol == "dns" {
			assert.Equal(t, requests[protocol]["unanswered"], unanswered, "questions that were told again")
		} else {
			assert.Zero(t, unanswered, protocol)
		}
	}
	assert.Len(t, out.Packets(), len(out.messages(nil)), "all records are of messages")
	return out
}

// messages lists the records of messages whose attributes are as wanted; nil: that it is not there.
func (r result) messages(want map[string]any) (found []otlpcheck.Packet) {
	for _, p := range r.Packets() {
		same := p.Attributes["packet.message.type"] != nil
		for name, value := range want {
			same = same && assert.ObjectsAreEqual(value, p.Attributes[name])
		}
		if same {
			found = append(found, p)
		}
	}
	return found
}

// message returns the only record of a message whose attributes are as wanted.
func (r result) message(t *testing.T, want map[string]any) otlpcheck.Packet {
	t.Helper()
	found := r.messages(want)
	require.Len(t, found, 1, "%v", want)
	return found[0]
}

// requireSays wants these attributes of a message; nil: that it is not there.
func requireSays(t *testing.T, m *otlpcheck.Packet, want map[string]any) {
	t.Helper()
	for name, value := range want {
		assert.Equal(t, value, m.Attributes[name], "%s of %s", name, m.Body)
	}
}

// requireElapsed wants the response time of a message between two bounds.
func requireElapsed(t *testing.T, m *otlpcheck.Packet, least, most time.Duration) {
	t.Helper()
	seconds, _ := m.Attributes["packet.message.response_time"].(float64)
	elapsed := time.Duration(math.Round(seconds * float64(time.Second))) // a fraction of seconds may be less than its nanoseconds
	assert.Positive(t, elapsed, m.Body)
	assert.GreaterOrEqual(t, elapsed, least, m.Body)
	assert.LessOrEqual(t, elapsed, most, m.Body)
}

// requireLabel wants the record of the flow of a message to say this of it; nil: that it is not there.
func (r result) requireLabel(t *testing.T, m *otlpcheck.Packet, protocol string, version, serverName any) {
	t.Helper()
	f := r.only(t, map[string]any{
		"source.address": m.Attributes["source.address"], "source.port": m.Attributes["source.port"],
		"destination.address": m.Attributes["destination.address"], "network.transport": m.Transport,
	})
	requireAttributes(t, &f, map[string]any{
		"network.protocol.name": protocol, "network.protocol.version": version, "flow.server.name": serverName,
	})
}

// texts is how attributes hold a list.
func texts(list ...string) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
	}
	return out
}

// answer returns the only message of the other way of the connection of m.
func (r result) answer(t *testing.T, m *otlpcheck.Packet) otlpcheck.Packet {
	t.Helper()
	return r.message(t, map[string]any{
		"packet.message.type": "response",
		"source.address":      m.Attributes["destination.address"], "source.port": m.Attributes["destination.port"],
		"destination.address": m.Attributes["source.address"], "destination.port": m.Attributes["source.port"],
	})
}

// TestEveryMessageThatBeganIsAccountedFor sends messages of which not all can be told. Of a connection that ends between two
// packets the program in the kernel copies nothing that says so: its message is given up by time.
func TestEveryMessageThatBeganIsAccountedFor(t *testing.T) {
	left, right := testenv.Pair(t, testenv.PairConfig{})
	l := right.ListenTCP(true, 8443)
	go discard(l)
	silent := right.ListenUDP(true, 53)
	hello := clientHello(t)
	refused := slices.Concat(hello[:76], []byte{0xff, 0xff}, hello[78:]) // the length of the list of ciphers
	c := start(t, left.NetNS, messageSettings)

	for _, sent := range []struct {
		withFIN bool // the last of it
		pieces  []string
	}{
		{pieces: []string{string(hello)}},
		{pieces: []string{string(refused)}},
		{pieces: []string{string(hello[:100])}},
		{pieces: []string{string(hello[:100])}, withFIN: true},
		{pieces: []string{"GET of-two-words\r\n\r\n"}},
		{pieces: []string{"GET /no-end HTTP/1.1\r\nHost: a.example\r\n"}},
		{pieces: []string{"GET /too-long HTTP/1.1\r\nX: ", strings.Repeat("x", 40_000), "\r\n\r\n"}},
		{pieces: []string{"GET /first HTTP/1.1\r\nHost: a.example\r\n\r\nGET /second HTTP/1.1\r\nHost: a.example\r\n\r\n"}},
	} {
		conn := dial(t, left, l.Addr().(*net.TCPAddr))
		if sent.withFIN {
			cork(t, conn)
		}
		for _, p := range sent.pieces {
			_, err := conn.Write([]byte(p))
			require.NoError(t, err)
		}
		conn.Close()
	}
	question := append([]byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 7}, "example\x00\x00\x01\x00\x01"...) // RFC 1035 4.1
	client := left.ListenUDP(true, 40000)
	for _, datagram := range [][]byte{question, question, question, []byte("this is no DNS")} {
		_, err := client.WriteToUDP(datagram, silent.LocalAddr().(*net.UDPAddr))
		require.NoError(t, err)
	}

	c.awaitOutput(func(o *otlpcheck.Output) bool {
		return slices.ContainsFunc(o.Packets(), func(p otlpcheck.Packet) bool { return p.Attributes["error.type"] != nil })
	})
	out := c.stopAfter(t, left.NetNS, outcomes{
		"dns":  {"told": 1, "repeated": 2, "malformed": 1},
		"tls":  {"told": 1, "malformed": 1, "timeout": 1, "closed": 1},
		"http": {"told": 4, "malformed": 1},
	})
	for path, cut := range map[string]any{"/no-end": true, "/too-long": true, "/first": nil, "/second": nil} {
		m := out.message(t, map[string]any{"url.path": path})
		requireSays(t, &m, map[string]any{"packet.message.cut": cut})
	}
}

// Records of flows say what messages said, with no records of packets, too.
func TestMessagesForRecordsOfFlowsAlone(t *testing.T) {
	left, right := testenv.Pair(t, testenv.PairConfig{})
	l := right.ListenTCP(true, 8443)
	go discard(l)
	c := start(t, left.NetNS, messageSettings+"events: {network.packet: {enabled: false}}\n")
	conn := dial(t, left, l.Addr().(*net.TCPAddr))
	_, err := conn.Write(clientHello(t))
	require.NoError(t, err)
	conn.Close()
	out := c.stop()
	assert.Empty(t, out.Packets())
	f := out.only(t, map[string]any{"destination.port": int64(8443)})
	requireAttributes(t, &f, map[string]any{"network.protocol.name": "tls", "flow.server.name": "split.example"})
}

// dial connects from an end.
func dial(t *testing.T, from *testenv.End, to *net.TCPAddr) (conn *net.TCPConn) {
	t.Helper()
	var err error
	from.Do(func() { conn, err = net.DialTCP("tcp", nil, to) })
	require.NoError(t, err)
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	return conn
}

// cork has what is written wait for the end of the connection.
func cork(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	raw, err := conn.SyscallConn()
	require.NoError(t, err)
	controlErr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK, 1) })
	require.NoError(t, controlErr)
	require.NoError(t, err)
}
