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

// serverPorts holds the ports that server.port may name.
type serverPorts struct {
	used map[uint16]struct{}
}

// admit reports whether port may be named. A port once admitted stays until release.
func (p *serverPorts) admit(port uint16) bool {
	if _, ok := p.used[port]; ok {
		return true
	}
	if len(p.used) >= maxServerPorts {
		return false
	}
	if p.used == nil {
		p.used = map[uint16]struct{}{}
	}
	p.used[port] = struct{}{}
	return true
}

// release keeps only the ports for which keep holds, so that those of dropped series make room.
func (p *serverPorts) release(keep map[uint16]struct{}) { p.used = keep }
