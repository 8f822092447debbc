// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// What of targets and of URLs in User-Agent may hold secrets. People put there what no grammar allows, and proxies encode it or
// merge its slashes; so these look for more than RFC 3986 has.
var (
	queryBegins = regexp.MustCompile(`(?i)[?#]|%3f|%23`)
	parameters  = regexp.MustCompile(`(?i)(;|%3b)[^/]*`)                                   // of a segment; RFC 3986 3.3
	userInPath  = regexp.MustCompile(`(?i)((?:/|%2f){2,}|(?::|%3a)(?:/|%2f)+).*(?:@|%40)`) // behind the beginning of an authority, up to the last
	userInURL   = regexp.MustCompile(`(?i)(://)\S*(@|%40)\S*`)
	queryInURL  = regexp.MustCompile(`(?i)(://[^\s?#]*?)([?#]|%3f|%23)\S*`)
)

// readTarget reads the four forms of a target; RFC 9112 3.2.
func (h *HTTP) readTarget(b []byte) bool {
	switch {
	case h.Method == methodConnect:
		return h.readAuthority(b)
	case len(b) == 1 && b[0] == '*':
		h.Path = "*"
		return h.Method == methodOptions
	case len(b) > 0 && b[0] == '/':
		h.Path = cleanPath(b)
		return true
	}
	scheme, rest, ok := bytes.Cut(b, []byte("://"))
	if !ok || !isScheme(scheme) {
		return false
	}
	end := bytes.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	if bytes.IndexByte(rest[end:], '@') >= 0 { // what is before it may be a password with these characters
		return true
	}
	h.Path = "/" // RFC 9110 4.2.3
	if end < len(rest) && rest[end] == '/' {
		h.Path = cleanPath(rest[end:])
	}
	return h.readAuthority(rest[:end])
}

func (h *HTTP) readAuthority(b []byte) bool {
	if i := bytes.IndexAny(b, "/?#"); i >= 0 { // of CONNECT
		if bytes.IndexByte(b[i:], '@') >= 0 {
			return true // as above
		}
		b = b[:i]
	}
	h.readHost(b)
	return h.Host != ""
}

// cleanPath returns a path without query, fragment and parameters, and without the user information of a URL in it. Where a query
// is in between, it may be a password or hold the address: then nothing behind the beginning of that URL is kept.
func cleanPath(b []byte) string {
	if u := userInPath.FindSubmatchIndex(b); u != nil {
		end, mark := u[1], u[3]
		if queryBegins.Match(b[mark:end]) {
			end = len(b)
		}
		b = slices.Concat(b[:mark], b[end:])
	}
	if i := queryBegins.FindIndex(b); i != nil {
		b = b[:i[0]]
	}
	return clean(parameters.ReplaceAll(b, nil), MaxPath)
}

// cleanUserAgent returns a User-Agent without user information and queries of the URLs in it. Of one with user information nothing
// but the scheme is kept.
func cleanUserAgent(b []byte) string {
	if bytes.Contains(b, []byte("://")) {
		b = userInURL.ReplaceAll(b, []byte("$1"))
		b = queryInURL.ReplaceAll(b, []byte("$1"))
	}
	return clean(b, maxUserAgent)
}

// isScheme reports whether b is a scheme; RFC 3986 3.1.
func isScheme(b []byte) bool {
	for i, c := range b {
		if !isAlpha(c) && (i == 0 || !isDigit(c) && c != '+' && c != '-' && c != '.') {
			return false
		}
	}
	return len(b) > 0
}

// readHost reads host and port without what is before them; RFC 3986 3.2. Of what is no host nothing is kept.
func (h *HTTP) readHost(b []byte) {
	b = b[bytes.LastIndexByte(b, '@')+1:] // user information, which Host never has
	host, port := b, []byte(nil)
	if i := bytes.LastIndexByte(b, ':'); i >= 0 && i > bytes.LastIndexByte(b, ']') {
		host, port = b[:i], b[i+1:]
	}
	if n := len(host); n > 2 && host[0] == '[' && host[n-1] == ']' {
		host = host[1 : n-1]
	} else if bytes.IndexByte(host, ':') >= 0 {
		return
	}
	if len(host) == 0 || len(host) > maxHost {
		return
	}
	for _, c := range host {
		if !isAlpha(c) && !isDigit(c) && strings.IndexByte("-._~%!$&'()*+,;=:", c) < 0 {
			return
		}
	}
	n, err := strconv.ParseUint(string(port), 10, 16)
	if len(port) > 0 && err != nil {
		return
	}
	h.Host, h.Port = strings.ToLower(string(host)), uint16(n)
}
