// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"bytes"
	"cmp"
	"slices"
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

// serverPorts holds the values of server.port that some metrics may have. While there is room, every port that earned its
// name gets it. Without, a port takes the place of one that is idle, if it also asked in the collection before: a scan that
// finds every port open comes by each of them once, a service comes again.
type serverPorts struct {
	of    []*aggregator     // whose series name a port
	named map[uint16]uint64 // by port, the collection in which it last came
	asked [2]portSet        // in vain, in collections with an even and with an odd number

	idle      []idlePort // candidates to make room in idleRound, the one idle for longest last
	idleRound uint64
}

// portSet has one bit for each port.
type portSet [1 << 16 / 64]uint64

func (s *portSet) add(port uint16)      { s[port/64] |= 1 << (port % 64) }
func (s *portSet) has(port uint16) bool { return s[port/64]&(1<<(port%64)) != 0 }

// idlePort is a port all of whose series were quiet when the list was made.
type idlePort struct {
	port   uint16
	since  uint64 // collection in which it last came
	series []*series
}

// use lets the series of a name ports.
func (p *serverPorts) use(a *aggregator) {
	if a.wants&hasServerPort != 0 {
		p.of = append(p.of, a)
	}
}

func (p *serverPorts) round() uint64 { return p.of[0].round }

// admit reports whether what is counted now may name port.
func (p *serverPorts) admit(port uint16) bool {
	round := p.round()
	switch last, ok := p.named[port]; {
	case ok && last == round:
		return true
	case ok:
	case len(p.named) < maxServerPorts:
	case p.asked[(round+1)%2].has(port) && p.makeRoom():
	default:
		p.asked[round%2].add(port)
		return false
	}
	if p.named == nil {
		p.named = map[uint16]uint64{}
	}
	p.named[port] = round
	return true
}

// makeRoom takes its name from the port idle for longest, if there is one, and drops its series: no more values than
// maxServerPorts are ever in use, and what comes back begins a new series.
func (p *serverPorts) makeRoom() bool {
	if p.idleRound != p.round() {
		p.idleRound = p.round()
		p.listIdle()
	}
	for n := len(p.idle); n > 0; n = len(p.idle) {
		candidate := p.idle[n-1]
		p.idle[n-1], p.idle = idlePort{}, p.idle[:n-1]
		if p.named[candidate.port] == p.round() {
			continue // it had traffic since the list was made
		}
		for _, s := range candidate.series {
			for _, a := range p.of {
				a.drop(s)
			}
		}
		delete(p.named, candidate.port)
		return true
	}
	return false
}

func (p *serverPorts) listIdle() {
	byPort := map[uint16][]*series{}
	busy := map[uint16]bool{}
	for _, a := range p.of {
		for _, s := range a.byKey {
			if s.key.attrs&hasServerPort != 0 {
				byPort[s.key.serverPort] = append(byPort[s.key.serverPort], s)
				busy[s.key.serverPort] = busy[s.key.serverPort] || !s.quiet()
			}
		}
	}
	p.idle = p.idle[:0]
	for port, last := range p.named {
		if last != p.round() && !busy[port] {
			p.idle = append(p.idle, idlePort{port, last, byPort[port]})
		}
	}
	slices.SortFunc(p.idle, func(x, y idlePort) int {
		return cmp.Or(cmp.Compare(y.since, x.since), cmp.Compare(y.port, x.port))
	})
}

// collected forgets the ports whose series have gone, and who asked in the collection before the last one. It follows
// each collection.
func (p *serverPorts) collected() {
	if len(p.of) == 0 {
		return
	}
	p.asked[p.round()%2] = portSet{}
	if len(p.named) == 0 {
		return
	}
	named := make(map[uint16]uint64, len(p.named))
	for _, a := range p.of {
		for _, s := range a.byKey {
			if s.key.attrs&hasServerPort != 0 {
				named[s.key.serverPort] = p.named[s.key.serverPort]
			}
		}
	}
	p.named = named
}
