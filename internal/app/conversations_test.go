// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/frames"
)

const conversations = "../../testdata/pcap/messages/conversations.pcap"

// overheard is what a Tracker tells of each frame of a capture that completes messages.
func overheard(t *testing.T, all []frames.Frame) [][]Message {
	r := newRig()
	var decoder packet.Decoder
	told := make([][]Message, len(all))
	for i := range all {
		s, d := all[i].Sample(), packet.Details{}
		payload := decoder.DecodePayload(&s, &d)
		require.True(t, d.HasPayloadLen)
		seg := Segment{
			Time: all[i].Time, Key: d.Key, Seq: d.TCPSeq, Ack: d.TCPAck, TCPFlags: d.TCPFlags, Payload: payload, Length: int(d.PayloadLen),
		}
		if d.Key.SrcPort > d.Key.DstPort { // captured where the clients are
			seg.Direction = flow.DirectionEgress
		}
		if d.TCPFlags&tcpSYN != 0 {
			seg.Seq++
		}
		r.Read(&seg, func(m *Message) {
			require.True(t, m.Completed)
			told[i] = append(told[i], *m)
		})
	}
	r.requireIdentity(t)
	c := r.Counts()
	assert.Equal(t, [ProtocolCount]uint64{ProtocolDNS: 52, ProtocolTLS: 12, ProtocolHTTP: 42}, c.Told)
	assert.Equal(t, c.Begun, c.Told)
	assert.Equal(t, [ProtocolCount]uint64{ProtocolDNS: 26, ProtocolTLS: 6, ProtocolHTTP: 21}, c.Asked)
	assert.Equal(t, c.Asked, c.Answered)
	assert.Zero(t, c.Conflicts)
	return told
}

// conversationFields is what tshark knows of messages, and what we do.
func conversationFields() map[string]func(*Message) []string {
	fields := map[string]func(*Message) []string{
		"dns.time": func(m *Message) []string { return word(m.Answers, m.Elapsed) },
		"tls.handshake.version": func(m *Message) []string { // 1.3 says 1.2 there; RFC 8446 4.1.2 and 4.1.3
			return word(true, min(0x0303, slices.Max(append(m.TLS.Versions, m.TLS.Version))))
		},
		"tls.resumed":                func(m *Message) []string { return word(m.TLS.Server && m.TLS.Version < 0x0304 && m.TLS.Resumed, 1) },
		"http.request.method":        func(m *Message) []string { return word(!m.HTTP.Response, m.HTTP.Method) },
		"http.request.uri":           func(m *Message) []string { return word(!m.HTTP.Response, m.HTTP.Path) },
		"http.request.version":       func(m *Message) []string { return word(!m.HTTP.Response, "HTTP/"+m.HTTP.Version) },
		"http.response.version":      func(m *Message) []string { return word(m.HTTP.Response, "HTTP/"+m.HTTP.Version) },
		"http.response.code":         func(m *Message) []string { return word(m.HTTP.Response, m.HTTP.Status) },
		"http.host":                  func(m *Message) []string { return word(m.HTTP.Host != "", m.HTTP.Host) },
		"http.user_agent":            func(m *Message) []string { return word(m.HTTP.UserAgent != "", m.HTTP.UserAgent) },
		"http.content_type":          func(m *Message) []string { return word(m.HTTP.ContentType != "", m.HTTP.ContentType) },
		"http.content_length_header": func(m *Message) []string { return word(m.HTTP.ContentLength >= 0, m.HTTP.ContentLength) },
		"http.authorization":         func(m *Message) []string { return word(m.HTTP.AuthScheme != "", m.HTTP.AuthScheme) },
		"http.time":                  func(m *Message) []string { return word(m.Answers, m.Elapsed) },
	}
	maps.Copy(fields, dnsFields)
	maps.Copy(fields, tlsFields)
	delete(fields, "dns.resp.ext_rcode") // nobody says any
	return fields
}

// conversationWords is what tshark says of a field of frame i, as we would.
func conversationWords(field string, i int, rows []map[string][]string, all []frames.Frame) []string {
	row := rows[i]
	switch field {
	case "tls.handshake.type":
		row = map[string][]string{field: slices.DeleteFunc(slices.Clone(row[field]), func(typ string) bool { return typ != "1" && typ != "2" })}
	case "dns.a":
		row = map[string][]string{field: row[field][:min(MaxAnswers, len(row[field]))]}
	case "http.content_type": // one with a parameter is two words
		row = map[string][]string{field: row[field][:min(1, len(row[field]))]}
	}
	words := theirWords(field, row)
	for n, w := range words {
		switch field {
		case "dns.time", "http.time":
			words[n] = fmt.Sprint(fromFirstSegment(w, i, rows, all))
		case "http.request.uri":
			words[n], _, _ = strings.Cut(w, "?")
		case "http.host":
			words[n] = strings.Trim(w, "[]")
		case "http.user_agent":
			w = strings.TrimSpace(w)
			words[n] = w[:min(maxUserAgent, len(w))]
		case "http.authorization":
			scheme, _, _ := strings.Cut(w, " ")
			words[n] = strings.ToLower(scheme)
		}
	}
	return words
}

// fromFirstSegment returns the time of a response that ends in frame i. tshark says that to its last segment, we to its first.
func fromFirstSegment(seconds string, i int, rows []map[string][]string, all []frames.Frame) time.Duration {
	d, err := time.ParseDuration(seconds + "s")
	if segments := rows[i]["tcp.segment"]; err == nil && segments != nil {
		var first int
		first, err = strconv.Atoi(segments[0])
		d -= time.Duration(all[i].Time - all[first-1].Time)
	}
	if err != nil {
		panic(err)
	}
	return d
}

// TestTsharkAgreesOnConversations reads what real clients and servers said to each other, packet by packet. Hellos, heads and answers
// are split over segments, connections are used again, requests do not wait for answers.
func TestTsharkAgreesOnConversations(t *testing.T) {
	all, err := frames.ReadPcap(conversations)
	require.NoError(t, err)
	told := overheard(t, all)
	fields := conversationFields()
	rows := testenv.Tshark(t, conversations, append(slices.Collect(maps.Keys(fields)), "tcp.segment"),
		preferenceCipher, "http.desegment_body:FALSE") // a head ends where it does
	require.Len(t, rows, len(all))
	for field, words := range fields {
		protocol, _, _ := strings.Cut(strings.Replace(field, columnCipher, "tls.", 1), ".")
		compared := 0
		for i := range all {
			var ours []string
			for _, m := range told[i] {
				if m.Protocol().String() == protocol {
					ours = append(ours, words(&m)...)
				}
			}
			compared += len(ours)
			theirs := conversationWords(field, i, rows, all)
			if field == "http.time" && theirs == nil && ours != nil { // of requests in one packet it pairs the first alone
				theirs = []string{time.Duration(all[i].Time - pipelined(all, told)).String()}
			}
			assert.Equal(t, theirs, ours, "frame %d: %s", i+1, field)
		}
		assert.NotZero(t, compared, "%s: nothing was compared", field)
	}
	split := map[Protocol]int{}
	for i, row := range rows {
		if len(row["tcp.segment"]) > 1 && len(told[i]) > 0 {
			split[told[i][0].Protocol()]++
		}
	}
	assert.Equal(t, map[Protocol]int{ProtocolDNS: 2, ProtocolTLS: 2, ProtocolHTTP: 6}, split, "messages that are split")
}

// pipelined returns the time of the one frame with several requests.
func pipelined(all []frames.Frame, told [][]Message) int64 {
	return all[slices.IndexFunc(told, func(messages []Message) bool { return len(messages) > 1 })].Time
}
