// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// fields are what was read of the field lines of a head.
type fields struct {
	*HTTP
	hosts, lengths, traces int    // lines of that name
	state                  []byte // of all lines of tracestate
}

// readLine reads one line; RFC 9112 5. Of fields that are not known nothing is kept.
func (f *fields) readLine(line []byte) bool {
	if line[0] == ' ' || line[0] == '\t' {
		return true // continues the line before; RFC 9112 5.2
	}
	name, value, ok := bytes.Cut(line, []byte{':'})
	if !ok || !isToken(name) { // no space before the colon: RFC 9112 5.1
		return false
	}
	var lower [32]byte // no name that is known is longer
	if len(name) <= len(lower) {
		for i, c := range name {
			if 'A' <= c && c <= 'Z' {
				c |= 0x20
			}
			lower[i] = c
		}
		f.read(lower[:len(name)], bytes.Trim(value, " \t"))
	}
	return true
}

// read reads a field, whose name is in lower case.
func (f *fields) read(name, value []byte) {
	switch string(name) {
	case "content-type":
		f.ContentType = mediaType(value)
	case "content-length":
		f.readLength(value)
	case "transfer-encoding":
		f.unframed = true
	case "traceparent":
		f.traces++
		f.readTraceparent(value)
	case "tracestate":
		f.state = append(append(f.state, ','), value...)
	default:
		if !f.Response {
			f.readAsked(name, value)
		}
	}
}

// readAsked reads a field that only requests have.
func (f *fields) readAsked(name, value []byte) {
	switch string(name) {
	case "host": // of more than one the first: RFC 9112 3.2 refuses them; an absolute target wins over all, 3.2.2
		if f.hosts++; f.hosts == 1 && f.Host == "" && !bytes.ContainsAny(value, "/?#") {
			f.readHost(value)
		}
	case "user-agent":
		f.UserAgent = cleanUserAgent(value)
	case "authorization":
		f.AuthScheme = authScheme(value)
	default:
		f.APIKey = f.APIKey || keyNames[string(name)] && len(value) > 0
	}
}

// finish decides what only the whole head tells.
func (f *fields) finish() {
	if f.traces != 1 { // which one is meant nobody knows
		f.HasTrace, f.TraceID, f.SpanID, f.TraceFlags = false, [16]byte{}, [8]byte{}, 0
	}
	if f.HasTrace {
		f.TraceState = traceState(f.state)
	}
}

// readLength reads a number of bytes. Two that differ say nothing; RFC 9112 6.3.
func (f *fields) readLength(b []byte) {
	n, err := strconv.ParseUint(string(b), 10, 63)
	if err != nil || f.lengths > 0 && f.ContentLength != int64(n) {
		f.ContentLength, f.unframed = -1, true
	} else {
		f.ContentLength = int64(n)
	}
	f.lengths++
}

// mediaType returns type and subtype in lower case, "" if they are none; RFC 9110 8.3.1.
func mediaType(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{';'})
	b = bytes.TrimRight(b, " \t")
	main, sub, _ := bytes.Cut(b, []byte{'/'})
	if len(b) > maxContentType || !isToken(main) || !isToken(sub) {
		return ""
	}
	return strings.ToLower(string(b))
}

// otherScheme stands for all that are not in authSchemes: what comes first in the value may be the secret itself.
const otherScheme = "other"

// authSchemes are those of IANA's registry of HTTP authentication schemes, and others in wide use.
var authSchemes = setOf(
	"basic", "bearer", "concealed", "digest", "dpop", "gnap", "hoba", "mutual", "negotiate", "oauth", "privatetoken",
	"scram-sha-1", "scram-sha-256", "vapid",
	"apikey", "aws", "aws4-ecdsa-p256-sha256", "aws4-hmac-sha256", "hawk", "ntlm", "sharedkey", "sharedkeylite", "splunk", "token",
)

// authScheme returns the scheme of credentials; RFC 9110 11.4.
func authScheme(value []byte) string {
	if len(value) == 0 {
		return ""
	}
	scheme, _, _ := bytes.Cut(value, []byte{' '})
	var lower [32]byte
	if len(scheme) > len(lower) {
		return otherScheme
	}
	name := strings.ToLower(string(scheme))
	if !authSchemes[name] {
		return otherScheme
	}
	return name
}

// keyNames are fields that carry an API key or a token and nothing else.
var keyNames = setOf(
	"api-key", "apikey", "api_key", "x-api-key", "x-apikey", "x-api-token", "x-access-token", "x-auth-key", "x-auth-token",
	"x-goog-api-key", "x-functions-key", "x-rapidapi-key", "x-vault-token", "x-amz-security-token", "private-token",
	"ocp-apim-subscription-key", "dd-api-key", "x-honeycomb-team", "x-figma-token", "x-shopify-access-token",
)

func setOf(words ...string) map[string]bool {
	set := make(map[string]bool, len(words))
	for _, w := range words {
		set[w] = true
	}
	return set
}

// clean returns the first most bytes of b as they may be shown: valid UTF-8, without control characters, and without those that
// nobody sees but in what they do to others (U+202E turns text round) or to lines.
func clean(b []byte, most int) string {
	if plain(b) {
		return string(b[:min(len(b), most)])
	}
	var out []byte
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		b = b[n:]
		if unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) {
			continue
		}
		if len(out)+utf8.RuneLen(r) > most { // RuneError, which is printed for what is none, has 3 bytes
			break
		}
		out = utf8.AppendRune(out, r)
	}
	return string(out)
}

func plain(b []byte) bool {
	for _, c := range b {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}
