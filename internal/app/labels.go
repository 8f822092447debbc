// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"math"
	"sync"
	"time"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// Label is what messages said of the flow they belong to.
type Label struct {
	Protocol   string // dns, mdns, llmnr, tls, http
	Version    string // of TLS that chosen, of HTTP that of the last message; "" if not known, and of DNS
	ServerName string // of TLS the name asked for, of HTTP the host of the last request; not of DNS, where it is a question
}

// Labels remembers what was learnt of flows, for their records. It may be used by several goroutines. Each of both flows that
// loopback has with flow.ScopeInterface has a label of its own.
type Labels struct {
	mu      sync.Mutex
	scope   flow.Scope
	idle    int64
	now     int64 // of the last Expire
	recent  *recent[flow.Conversation, labelled]
	dropped uint64
}

type labelled struct {
	Label
	used int64
}

// NewLabels returns Labels of at most size flows of a scope, each forgotten when it was neither learnt of nor asked for that long.
func NewLabels(size int, idle time.Duration, scope flow.Scope) *Labels {
	return &Labels{scope: scope, idle: int64(idle), now: math.MinInt64, recent: newRecent[flow.Conversation, labelled](size)}
}

// Learn notes what m says. If there is no room, what was neither learnt of nor asked for longest is pushed out.
func (l *Labels) Learn(m *Message) {
	c, _ := l.scope.Converse(&m.Key, m.Direction)
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.recent.use(c)
	if e == nil {
		if l.recent.full() {
			l.recent.drop(l.recent.oldest().key)
			l.dropped++
		}
		e = l.recent.put(c, labelled{})
	}
	e.Label.learn(m)
	e.used = max(m.Time, l.now)
}

// Of returns what was learnt of the flow that packets with key k at the hook d belong to.
func (l *Labels) Of(k flow.Key, d flow.Direction) (Label, bool) {
	c, _ := l.scope.Converse(&k, d)
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.recent.use(c)
	if e == nil {
		return Label{}, false
	}
	e.used = max(e.used, l.now)
	return e.Label, true
}

// Forget drops what was learnt of a flow: it ended.
func (l *Labels) Forget(k flow.Key, d flow.Direction) {
	c, _ := l.scope.Converse(&k, d)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recent.drop(c)
}

// Expire drops what was not used for as long as NewLabels was told, at now in ns since 1970.
func (l *Labels) Expire(now int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now < l.now { // the clock was set back
		for e := range l.recent.all() {
			e.value.used = min(e.value.used, now)
		}
	}
	l.now = now
	for e := l.recent.oldest(); e != nil && e.value.used <= now-l.idle; e = l.recent.oldest() {
		l.recent.drop(e.key)
	}
}

// Len returns the number of flows.
func (l *Labels) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.recent.len()
}

// PushedOut returns how many flows were forgotten to make room for others.
func (l *Labels) PushedOut() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped
}

// Label returns what m by itself says of its flow.
func (m *Message) Label() (l Label) {
	l.learn(m)
	return l
}

// learn adds what m says. What speaks another protocol than before, as TLS through a proxy, is another label. A ClientHello or a
// request without a name leaves none: that of an earlier connection with the same tuple would be wrong.
func (l *Label) learn(m *Message) {
	if p := labelProtocol(m); l.Protocol != p {
		*l = Label{Protocol: p}
	}
	switch {
	case m.TLS != nil && m.TLS.Server:
		if !m.TLS.RetryRequest {
			l.Version = TLSVersion(m.TLS.Version)
		}
	case m.TLS != nil: // a second hello names the same; RFC 8446 4.1.2
		l.ServerName = m.TLS.ServerName
	case m.HTTP != nil:
		l.Version = m.HTTP.Version
		if m.HTTP.Host != "" || !m.HTTP.Response && !m.Cut {
			l.ServerName = m.HTTP.Host
		}
	}
}

func labelProtocol(m *Message) string {
	switch m.Protocol() {
	case ProtocolDNS:
		return [...]string{VariantDNS: "dns", VariantMDNS: "mdns", VariantLLMNR: "llmnr"}[m.DNS.Variant]
	case ProtocolTLS:
		return "tls"
	}
	return "http"
}
