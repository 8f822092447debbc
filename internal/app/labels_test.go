// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"crypto/tls"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

func TestLabels(t *testing.T) {
	k := v4(protoTCP, 40000, 443)
	in, out := flow.DirectionIngress, flow.DirectionEgress
	client := Message{Key: k, Direction: out, TLS: &TLS{ServerName: "a.example"}}
	retry := Message{Key: k.Reversed(), Direction: in, TLS: &TLS{Server: true, Version: tls.VersionTLS12, RetryRequest: true}}
	server := Message{Key: k.Reversed(), Direction: in, TLS: &TLS{Server: true, Version: tls.VersionTLS13}}
	nameless := Message{Key: k, Direction: out, TLS: &TLS{}}
	request := Message{Key: k, Direction: out, HTTP: &HTTP{Version: "1.1", Host: "b.example"}}
	response := Message{Key: k.Reversed(), Direction: in, HTTP: &HTTP{Version: "1.0", Response: true}}
	other := Message{Key: k, Direction: out, HTTP: &HTTP{Version: "1.1", Host: "c.example"}}
	hostless := Message{Key: k, Direction: out, HTTP: &HTTP{Version: "1.0"}}
	cut := Message{Key: k, Direction: out, HTTP: &HTTP{Version: "1.1"}, Cut: true}
	dns := func(v DNSVariant) Message {
		return Message{Key: k, Direction: out, DNS: &DNS{Variant: v, Name: "secret.example"}}
	}
	for _, tt := range []struct {
		name string
		said []Message
		want Label
	}{
		{"a ClientHello", []Message{client}, Label{"tls", "", "a.example"}},
		{"a retry", []Message{client, retry}, Label{"tls", "", "a.example"}},
		{"a handshake", []Message{client, server}, Label{"tls", "1.3", "a.example"}},
		{"a handshake out of order", []Message{server, client}, Label{"tls", "1.3", "a.example"}},
		{"a handshake with a retry", []Message{client, retry, client, server}, Label{"tls", "1.3", "a.example"}},
		{"another hello, without a name", []Message{client, nameless}, Label{"tls", "", ""}},
		{"a hello without a name, then one with", []Message{nameless, client}, Label{"tls", "", "a.example"}},
		{"HTTP", []Message{request, response}, Label{"http", "1.0", "b.example"}},
		{"requests to two hosts", []Message{request, response, other}, Label{"http", "1.1", "c.example"}},
		{"another request, without a host", []Message{request, response, hostless}, Label{"http", "1.0", ""}},
		{"another request, cut before its host", []Message{request, cut}, Label{"http", "1.1", "b.example"}},
		{"TLS through a proxy", []Message{request, response, client}, Label{"tls", "", "a.example"}},
		{"DNS", []Message{dns(VariantDNS)}, Label{"dns", "", ""}},
		{"mDNS", []Message{dns(VariantMDNS)}, Label{"mdns", "", ""}},
		{"LLMNR", []Message{dns(VariantLLMNR)}, Label{"llmnr", "", ""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := NewLabels(10, time.Minute, flow.ScopeInterface)
			for _, m := range tt.said {
				l.Learn(&m)
			}
			for d, k := range map[flow.Direction]flow.Key{out: k, in: k.Reversed()} {
				got, ok := l.Of(k, d)
				assert.True(t, ok)
				assert.Equal(t, tt.want, got)
				_, ok = l.Of(k.Reversed(), d)
				assert.False(t, ok, "the other flow of loopback")
			}
			assert.Equal(t, 1, l.Len())
			l.Forget(k.Reversed(), in)
			_, ok := l.Of(k, out)
			assert.False(t, ok)
		})
	}
}

func TestLabelsOfHalvesThatCountElsewhere(t *testing.T) {
	k := v4(protoTCP, 40000, 443)
	back := k.Reversed()
	back.IfIndex, back.Tagged, back.VLAN = 9, true, 5
	l := NewLabels(10, time.Minute, flow.ScopeNamespace)
	l.Learn(&Message{Key: k, TLS: &TLS{ServerName: "a.example"}})
	l.Learn(&Message{Key: back, TLS: &TLS{Server: true, Version: tls.VersionTLS13}})
	for _, k := range []flow.Key{k, back} {
		got, _ := l.Of(k, flow.DirectionIngress)
		assert.Equal(t, Label{"tls", "1.3", "a.example"}, got)
	}
	assert.Equal(t, 1, l.Len())
}

func TestLabelsAreBounded(t *testing.T) {
	l := NewLabels(2, time.Minute, flow.ScopeInterface)
	learn := func(port uint16) {
		l.Learn(&Message{Key: v4(protoTCP, port, 80), HTTP: &HTTP{Version: "1.1"}, Time: int64(time.Hour)})
	}
	has := func(port uint16) bool {
		_, ok := l.Of(v4(protoTCP, port, 80), flow.DirectionIngress)
		return ok
	}
	learn(1)
	learn(2)
	assert.True(t, has(1)) // used later than 2
	learn(3)
	assert.Equal(t, []bool{true, false, true}, []bool{has(1), has(2), has(3)})
	assert.Equal(t, uint64(1), l.PushedOut())

	hour := int64(time.Hour)
	l.Expire(hour + int64(50*time.Second))
	assert.True(t, has(3))
	l.Expire(hour + int64(70*time.Second))
	assert.Equal(t, 1, l.Len(), "1 was not used for a minute")
	assert.True(t, has(3))
	assert.Equal(t, uint64(1), l.PushedOut())

	l.Expire(int64(50 * time.Second)) // the clock was set back by an hour
	assert.Equal(t, 1, l.Len(), "the flow of 3 may go on")
	l.Expire(int64(100 * time.Second))
	assert.Equal(t, 1, l.Len())
	l.Expire(int64(111 * time.Second))
	assert.Zero(t, l.Len(), "what was learnt in what is the future is not kept until then")
}

func TestLabelsFromTwoGoroutines(t *testing.T) {
	l := NewLabels(50, time.Second, flow.ScopeInterface)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for i := range 10_000 {
				k := v4(protoTCP, uint16(i%100), 80)
				l.Learn(&Message{Key: k, HTTP: &HTTP{Version: "1.1"}})
				l.Of(k, flow.DirectionIngress)
				l.Expire(int64(i))
			}
		})
	}
	wg.Wait()
	assert.Equal(t, 50, l.Len())
}
