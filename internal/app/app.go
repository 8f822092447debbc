// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

// Package app reads application protocols out of sampled packets: DNS, TLS handshakes, heads of HTTP/1.x messages.
//
//	Segment ─▶ Tracker: one stream for each direction of a connection ─▶ message parsers ─▶ Message
//	                    questions that wait for an answer
//
// What it keeps is bounded in entries, bytes and time, and what it gives up is counted by cause. It never sees a clock:
// time is that of the segments and of Expire.
package app

import (
	"time"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// Protocol is one that messages are read of.
type Protocol uint8

const (
	ProtocolDNS Protocol = iota // over UDP and TCP at port 53; multicast DNS and LLMNR
	ProtocolTLS
	ProtocolHTTP
	ProtocolCount
)

// String returns the word of the configuration.
func (p Protocol) String() string { return [...]string{"dns", "tls", "http"}[p] }

// Segment is what one sampled packet carried behind its transport header. Payload is valid only until Read returns.
type Segment struct {
	Time      int64    // ns since 1970
	Key       flow.Key // as the packet travelled
	Direction flow.Direction
	Seq       uint32 // of the first byte of Payload, so one more than the header's if that has SYN; TCP only
	Ack       uint32 // of the header; TCP with ACK only
	TCPFlags  uint8
	Payload   []byte // as far as it was captured
	Length    int    // bytes of payload on the wire, never less than len(Payload)
}

// Message is one that was read whole, or as far as it was captured. Exactly one of DNS, TLS and HTTP is not nil. It is valid
// only until the callback that received it returns.
type Message struct {
	Time      int64    // ns since 1970: of the packet that completed it; of a question without an answer, the question's
	Key       flow.Key // as the message travelled
	Direction flow.Direction
	TimedOut  bool          // a question that was told before, now without an answer
	Answers   bool          // it answers one that was seen, Elapsed before it
	Elapsed   time.Duration // from the packet that completed the question to the first packet of this one, valid iff Answers

	DNS  *DNS
	TLS  *TLS
	HTTP *HTTP
}

// Protocol returns which one m is of.
func (m *Message) Protocol() Protocol {
	switch {
	case m.DNS != nil:
		return ProtocolDNS
	case m.TLS != nil:
		return ProtocolTLS
	}
	return ProtocolHTTP
}

// DNSVariant is which of the protocols with the format of DNS a message is of.
type DNSVariant uint8

const (
	VariantDNS   DNSVariant = iota // RFC 1035
	VariantMDNS                    // RFC 6762, port 5353
	VariantLLMNR                   // RFC 4795, port 5355
)

// DNS is what a DNS message says; RFC 1035.
type DNS struct {
	Variant      DNSVariant
	Response     bool
	Truncated    bool // the TC bit
	HasQuestion  bool // Name, Type and Class are those of the first question
	ID           uint16
	Type         uint16   // RFC 1035 3.2.2 and the registry of types
	Class        uint16   // without the top bit of multicast DNS, which asks for a unicast answer
	ResponseCode uint16   // 12 bits with those of EDNS (RFC 6891 6.1.3); valid iff Response
	Name         string   // presentation form (RFC 4343), without the final dot; the root is "."
	Answers      []string // of a response: addresses among the answers, at most MaxAnswers
	AnswerCount  int      // of all records in the answer section, as the header says
}

// TLS is what a ClientHello or a ServerHello says; RFC 8446 4.1, RFC 5246 7.4.1.
type TLS struct {
	Server bool // a ServerHello, else a ClientHello

	// ClientHello
	ServerName string   // RFC 6066 3; lower case
	ALPN       []string // offered, RFC 7301; without GREASE, at most 32, odd bytes as \DDD
	Versions   []uint16 // offered, in the client's order; without GREASE (RFC 8701), at most 32
	JA4        string
	JA3        string // empty where Go may not use MD5: GODEBUG=fips140=only

	// ServerHello
	Version      uint16 // chosen
	Cipher       uint16 // chosen
	Resumed      bool   // an earlier session, or an external key, was taken up
	RetryRequest bool   // a HelloRetryRequest; RFC 8446 4.1.4
	ChosenALPN   string // of TLS 1.2 and before; later ones encrypt it

	sessionID string // of both; TLS.resumes compares them
}

// HTTP is what the head of an HTTP/1.x message says (RFC 9112), or that the connection speaks HTTP/2 in the clear (RFC 9113 3.4).
// Values of Authorization, cookies, queries, user information and Referer are never in it.
type HTTP struct {
	Response bool
	Version  string // 1.0, 1.1; 2: the preface of HTTP/2, of which nothing else is told but GRPC and Cut
	GRPC     bool   // HTTP/2 whose first request says application/grpc, in the frames that the kernel follows behind the preface
	Cut      bool   // the end of the head was not seen; of HTTP/2 that of the first request's fields

	Method        string // of a request; RFC 9110 9, or any token of at most 32 bytes
	Path          string // of a request, without query and fragment; RFC 3986 3.3, at most MaxPath bytes
	Host          string // of a request, without port and user information
	Port          uint16 // of a request's host; 0: none was said
	UserAgent     string
	Status        int    // of a response
	ContentType   string // without parameters
	ContentLength int64  // -1: none was said, or none that is a number

	AuthScheme string // of Authorization, lower case, RFC 9110 11.1; "other" if it is none that is known: it may be the secret itself
	APIKey     bool   // a header that is known to carry an API key was there

	HasTrace   bool // a valid traceparent; W3C Trace Context
	TraceID    [16]byte
	SpanID     [8]byte // parent-id
	TraceFlags byte
	TraceState string // at most 512 bytes
}

// What messages are bounded by.
const (
	MaxAnswers = 16
	MaxPath    = 1024
)
