// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"bytes"
	"strconv"
)

// defaultEphemeralLow is Linux' own default of the first port given to clients.
const defaultEphemeralLow = 32768

// maxServerPorts is how many values server.port has at most: a scan must not fill the metric.
const maxServerPorts = 256

// parseEphemeralLow reads the first number of ip_local_port_range: "32768\t60999\n".
func parseEphemeralLow(b []byte) uint16 {
	f := bytes.Fields(b)
	if len(f) == 0 {
		return defaultEphemeralLow
	}
	low, err := strconv.ParseUint(string(f[0]), 10, 16)
	if err != nil || low == 0 {
		return defaultEphemeralLow
	}
	return uint16(low)
}

// serverPorts holds the values of server.port that some metrics may have.
type serverPorts struct {
	of    []*aggregator // whose series name a port
	named map[uint16]struct{}
}

// use lets the series of a name ports.
func (p *serverPorts) use(a *aggregator) {
	if a.wants&hasServerPort != 0 {
		p.of = append(p.of, a)
	}
}

// admit reports whether port may be named. A port once admitted stays until collected.
func (p *serverPorts) admit(port uint16) bool {
	if _, ok := p.named[port]; ok {
		return true
	}
	if len(p.named) >= maxServerPorts {
		return false
	}
	if p.named == nil {
		p.named = map[uint16]struct{}{}
	}
	p.named[port] = struct{}{}
	return true
}

// collected forgets the ports whose series have gone. It follows each collection.
func (p *serverPorts) collected() {
	if len(p.named) == 0 {
		return
	}
	named := make(map[uint16]struct{}, len(p.named))
	for _, a := range p.of {
		for _, s := range a.byKey {
			if s.key.attrs&hasServerPort != 0 {
				named[s.key.serverPort] = struct{}{}
			}
		}
	}
	p.named = named
}
