// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"io"
	"net"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

// longName has 253 bytes, the most that a name may have; RFC 1035 2.3.4.
var longName = strings.Repeat(strings.Repeat("l", 63)+".", 3) + strings.Repeat("l", 48) + ".long.example"

// serveNames runs dnsmasq with the records that questions ask for.
func serveNames(t *testing.T, e *testenv.End) {
	t.Helper()
	cmd := exec.Command(testenv.Tool(t, "dnsmasq"), "--conf-file=/dev/null", "--keep-in-foreground", "--user=root", "--group=root",
		"--pid-file=", "--no-resolv", "--no-hosts", "--bind-interfaces", "--listen-address="+e.V4.String(), "--listen-address="+e.V6.String(),
		"--local=/example/", "--address=/long.example/192.0.2.9", "--host-record=host.example,192.0.2.7,2001:db8::7",
		"--host-record=many.example,192.0.2.21", "--host-record=many.example,192.0.2.22", "--txt-record=text.example,some words",
		"--txt-record=large.example"+strings.Repeat(","+strings.Repeat("b", 250), 12), "--edns-packet-max=4096", "--log-facility=-")
	var said safeBuffer
	cmd.Stderr = &said
	e.Start(cmd)
	require.Eventually(t, func() bool { return strings.Contains(said.String(), "started") }, patience, 10*time.Millisecond, "dnsmasq listens")
}

// TestDNSMessages has dig ask dnsmasq, and compares the records with what dig was told to ask and says it was answered.
func TestDNSMessages(t *testing.T) {
	require.Len(t, longName, 253)
	left, right := testenv.Pair(t, testenv.PairConfig{})
	serveNames(t, right)
	c := start(t, left.NetNS, messageSettings)
	var asked []question
	id := 1000
	for _, v6 := range []bool{false, true} {
		for _, transport := range []string{"udp", "tcp"} {
			for _, q := range []question{
				{name: "host.example", typ: "A", code: "NOERROR", answers: texts("192.0.2.7")},
				{name: "host.example", typ: "AAAA", code: "NOERROR", answers: texts("2001:db8::7")},
				{name: "many.example", typ: "A", code: "NOERROR", answers: texts("192.0.2.21", "192.0.2.22")},
				{name: "text.example", typ: "TXT", code: "NOERROR"},
				{name: "absent.example", typ: "A", code: "NXDOMAIN"},
				{name: "elsewhere.test", typ: "A", code: "REFUSED"},
				{name: "large.example", typ: "TXT", code: "NOERROR", large: true},
				{name: longName, typ: "A", code: "NOERROR", answers: texts("192.0.2.9")},
			} {
				if q.large && transport == "udp" {
					continue // dig would ask again over TCP
				}
				id++
				q.id, q.transport, q.v6 = id, transport, v6
				q.ask(t, left, right)
				asked = append(asked, q)
			}
		}
	}
	out := c.stopAfter(t, left.NetNS, outcomes{"dns": {"told": int64(2 * len(asked))}})
	for _, q := range asked {
		q.requireTold(t, out, left, right)
	}
}

// TestALargeDNSAnswer comes in one buffer where it is sent, of which the program in the kernel copies 2,048 bytes.
func TestALargeDNSAnswer(t *testing.T) {
	left, right := testenv.Pair(t, testenv.PairConfig{})
	serveNames(t, right)
	c := start(t, right.NetNS, messageSettings)
	q := question{id: 4711, name: "large.example", typ: "TXT", code: "NOERROR", transport: "tcp", v6: true}
	q.ask(t, left, right)
	out := c.stopAfter(t, right.NetNS, outcomes{"dns": {"told": 2}})
	response := out.message(t, map[string]any{"packet.message.type": "response"})
	assert.Greater(t, response.Length, int64(3000))
	requireSays(t, &response, map[string]any{
		"packet.dns.id": int64(4711), "dns.question.name": "large.example", "packet.dns.answer_count": int64(1), "packet.dns.response_code": "NOERROR",
	})
	requireElapsed(t, &response, 0, q.took)
}

// TestAFragmentedDNSAnswer is told with what its first fragment says, and that there is more.
func TestAFragmentedDNSAnswer(t *testing.T) {
	left, right := testenv.Pair(t, testenv.PairConfig{})
	serveNames(t, right)
	c := start(t, left.NetNS, messageSettings)
	for _, v6 := range []bool{false, true} {
		said := left.Run(testenv.Tool(t, "dig"), "@"+right.Addr(v6).String(), "+bufsize=4096", "+ignore", "+notcp", "+tries=1", "large.example", "TXT")
		require.Contains(t, said, "flags: qr aa rd ra;", "not truncated")
	}
	out := c.stopAfter(t, left.NetNS, outcomes{"dns": {"told": 4}})
	for _, version := range []string{"ipv4", "ipv6"} {
		request := out.message(t, map[string]any{"network.type": version, "packet.message.type": "request"})
		requireSays(t, &request, map[string]any{"packet.message.cut": nil})
		response := out.message(t, map[string]any{"network.type": version, "packet.message.type": "response"})
		requireSays(t, &response, map[string]any{
			"dns.question.name": "large.example", "packet.dns.truncated": false, "packet.dns.answer_count": int64(1), "packet.message.cut": true,
		})
		assert.NotNil(t, response.Attributes["packet.message.response_time"])
	}
}

// TestAnAnsweredQuestionIsNoTimeout whatever keeps its answer from being read.
func TestAnAnsweredQuestionIsNoTimeout(t *testing.T) {
	t.Parallel() // it mostly waits
	for name, tt := range map[string]struct {
		settings string
		answered bool // some are seen
	}{
		"the budget leaves answers out": {strings.Replace(messageSettings, "max_per_second: 100000", "max_per_second: 10", 1), true},
		"one direction is seen":         {messageSettings + "directions: [egress]\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			left, right := testenv.Pair(t, testenv.PairConfig{})
			serveNames(t, right)
			c := start(t, left.NetNS, tt.settings)
			ask := func(times int) {
				args := []string{"@" + right.V4.String(), "-u", "+tries=1"}
				for range times {
					args = append(args, "host.example", "A")
				}
				said := left.Run(testenv.Tool(t, "dig"), args...)
				require.Equal(t, times, strings.Count(said, "status: NOERROR"), said)
			}
			requests := map[string]int64{}
			for until := time.Now().Add(patience); tt.answered && requests["answered"] == 0; {
				require.True(t, time.Now().Before(until), "one question a second is within the budget")
				time.Sleep(time.Second)
				ask(1)
				requests = outcomesIn(t, scrape(t, left.NetNS), "requests")["dns"]
			}
			for range 15 { // some 30 times the budget, in as many of its grants
				ask(10)
				time.Sleep(50 * time.Millisecond)
			}
			c.awaitOutput(func(o *otlpcheck.Output) bool {
				asked := int64(len(result{Output: o}.messages(map[string]any{"packet.message.type": "request"})))
				requests = outcomesIn(t, scrape(t, left.NetNS), "requests")["dns"]
				return requests["unknown"] > 0 && requests["answered"]+requests["unknown"]+requests["unanswered"] >= asked
			})
			out := c.stop()
			assert.Zero(t, requests["unanswered"])
			assert.Positive(t, requests["unknown"])
			assert.Equal(t, tt.answered, requests["answered"] > 0)
			for _, m := range out.messages(nil) {
				assert.Nil(t, m.Attributes["error.type"], m.Body)
			}
			assert.Equal(t, !tt.answered, strings.Contains(c.log.String(), "directions names one direction alone"))
		})
	}
}

// TestAZoneTransferTakesLittleOfTheBudget: of each message as much as of any other, and nothing of what lies between.
func TestAZoneTransferTakesLittleOfTheBudget(t *testing.T) {
	const messages, length = 8, 60_004
	left, right := testenv.Pair(t, testenv.PairConfig{})
	l := right.ListenTCP(false, 53)
	c := start(t, left.NetNS, messageSettings)
	head := []byte{length >> 8, length & 0xff, 0, 7, 0x84, 0, 0, 1, 3747 >> 8, 3747 & 0xff, 0, 0, 0, 0} // an answer; RFC 5936 2.2
	question := []byte("\x07example\x00\x00\xfc\x00\x01")                                               // AXFR
	message := append(slices.Clone(head), question...)
	for n := 0; len(message) < 2+length; n++ {
		record := []byte{0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4, 192, 0, byte(n >> 8), byte(n)}
		message = append(message, record[:min(len(record), 2+length-len(message))]...)
	}
	go func() {
		if conn, err := l.Accept(); err == nil {
			_, _ = io.ReadFull(conn, make([]byte, 2+12+len(question)))
			_, _ = conn.Write(slices.Repeat(message, messages))
			conn.Close()
		}
	}()
	conn := dial(t, left, l.Addr().(*net.TCPAddr))
	_, err := conn.Write(slices.Concat([]byte{0, byte(12 + len(question)), 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, question))
	require.NoError(t, err)
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Len(t, got, messages*(2+length))
	conn.Close()

	c.awaitOutput(func(o *otlpcheck.Output) bool {
		return len(result{Output: o}.messages(map[string]any{"packet.message.type": "response"})) > 0
	})
	text := scrape(t, left.NetNS)
	selected := sample(t, text, `otelcol_ebpfpackets_receiver_samples\{[^}]*outcome="selected"[^}]*reason="protocol"[^}]*\}`)
	t.Logf("%d packets copied of %d", selected, messages*(2+length)/1448)
	assert.Less(t, selected, int64(1+9*messages), "of each message FOLLOW_PACKETS and the first, if that begins a packet")
	out := c.stop()
	response := out.messages(map[string]any{"packet.message.type": "response"})[0]
	requireSays(t, &response, map[string]any{"packet.message.cut": true, "dns.question.name": "example", "packet.dns.answer_count": int64(3747)})
	assert.NotNil(t, response.Attributes["packet.message.response_time"])
}

// question is what dig asked, and what it says of the answer.
type question struct {
	id                         int
	transport, name, typ, code string
	v6                         bool
	large                      bool  // the answer takes more than a segment
	answers                    []any // addresses; nil: none
	records                    int64 // of the answer
	took                       time.Duration
}

var (
	digStatus = regexp.MustCompile(`status: (\w+), id: (\d+)\n`)
	digCount  = regexp.MustCompile(`ANSWER: (\d+),`)
	digTime   = regexp.MustCompile(`Query time: (\d+) usec`)
)

func (q *question) ask(t *testing.T, left, right *testenv.End) {
	t.Helper()
	args := []string{"@" + right.Addr(q.v6).String(), "-u", "+tries=1", "+time=5", "+qid=" + strconv.Itoa(q.id), q.name, q.typ}
	if q.transport == "tcp" {
		args = append(args, "+tcp")
	}
	said := left.Run(testenv.Tool(t, "dig"), args...)
	status, count, took := digStatus.FindStringSubmatch(said), digCount.FindStringSubmatch(said), digTime.FindStringSubmatch(said)
	require.NotNil(t, status, said)
	require.NotNil(t, took, said)
	require.Equal(t, []string{q.code, strconv.Itoa(q.id)}, status[1:], said)
	micros, err := strconv.Atoi(took[1])
	require.NoError(t, err)
	q.took = time.Duration(micros) * time.Microsecond
	q.records, err = strconv.ParseInt(count[1], 10, 64)
	require.NoError(t, err)
	for _, a := range q.answers {
		require.Contains(t, said, a, "the server answers what the test is about")
	}
}

func (q *question) requireTold(t *testing.T, out result, left, right *testenv.End) {
	t.Helper()
	here, there := left.Addr(q.v6).String(), right.Addr(q.v6).String()
	both := map[string]any{
		"network.protocol.name": "dns", "network.protocol.version": nil, "network.transport": q.transport,
		"dns.question.name": q.name, "packet.dns.question.type": q.typ, "packet.dns.question.class": "IN", "error.type": nil,
	}
	request := out.message(t, map[string]any{"packet.dns.id": int64(q.id), "packet.message.type": "request"})
	requireSays(t, &request, both)
	requireSays(t, &request, map[string]any{
		"source.address": here, "destination.address": there, "destination.port": int64(53), "network.io.direction": "transmit",
		"packet.message.response_time": nil, "packet.dns.response_code": nil, "packet.dns.answer_count": nil, "packet.dns.truncated": nil,
	})
	response := out.message(t, map[string]any{"packet.dns.id": int64(q.id), "packet.message.type": "response"})
	requireSays(t, &response, both)
	requireSays(t, &response, map[string]any{
		"source.address": there, "destination.address": here, "source.port": int64(53), "network.io.direction": "receive",
		"destination.port": request.Attributes["source.port"], "packet.dns.response_code": q.code,
		"packet.dns.answer_count": q.records, "packet.dns.truncated": false,
	})
	answers, _ := response.Attributes["dns.answers"].([]any)
	assert.ElementsMatch(t, q.answers, answers, "answers to %s", q.name)
	requireElapsed(t, &response, 0, q.took)
	out.requireLabel(t, &request, "dns", nil, nil)
}

// TestAQuestionWithoutAnAnswerIsToldAgain asks a server that hears and never says anything.
func TestAQuestionWithoutAnAnswerIsToldAgain(t *testing.T) {
	t.Parallel() // it mostly waits
	left, right := testenv.Pair(t, testenv.PairConfig{})
	c := start(t, left.NetNS, messageSettings)
	for _, v6 := range []bool{false, true} {
		right.ListenUDP(v6, 53)
		left.Run(testenv.Tool(t, "sh"), "-c", testenv.Tool(t, "dig")+" @"+right.Addr(v6).String()+" +tries=1 +time=1 nobody.example TXT || test $? = 9") // no answer
	}
	c.awaitOutput(func(o *otlpcheck.Output) bool {
		again := func(p otlpcheck.Packet) bool { return p.Attributes["error.type"] != nil }
		return len(slices.DeleteFunc(o.Packets(), func(p otlpcheck.Packet) bool { return !again(p) })) == 2
	})
	out := c.stopAfter(t, left.NetNS, outcomes{"dns": {"told": 2}})
	for _, version := range []string{"ipv4", "ipv6"} {
		first := out.message(t, map[string]any{"network.type": version, "error.type": nil})
		again := out.message(t, map[string]any{"network.type": version, "error.type": "timeout"})
		assert.Equal(t, first.Time, again.Time, "that of the question")
		assert.GreaterOrEqual(t, again.Observed.Sub(first.Observed), 4*time.Second, "the wait for an answer")
		for _, name := range []string{
			"packet.dns.id", "dns.question.name", "packet.dns.question.type", "packet.dns.question.class", "packet.message.type",
			"network.protocol.name", "network.transport", "network.interface.name", "network.io.direction",
			"source.address", "source.port", "destination.address", "destination.port",
		} {
			assert.NotNil(t, first.Attributes[name], name)
			assert.Equal(t, first.Attributes[name], again.Attributes[name], name)
		}
		requireSays(t, &again, map[string]any{"dns.question.name": "nobody.example", "packet.dns.question.type": "TXT", "packet.length": nil})
	}
}
