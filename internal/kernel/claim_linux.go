// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package kernel

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// claim is a name that one process at a time can have: an abstract Unix socket, bound and never listened at. Each network
// namespace has its own names, so whoever can attach to an interface sees who else has, whatever container it is in; and the name
// goes with its process, however that ends.
type claim struct{ fd int }

// newClaim returns unix.EADDRINUSE if the name is taken.
func newClaim(name string) (*claim, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + name}); err != nil { // "@" becomes a NUL
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &claim{fd}, nil
}

// patience is with whoever has a name that we wait for. Another of us is done with it within some ten milliseconds; but anybody who is in
// the namespace can take all names, and keep them. So it is long once in a minute, and short for all other names in that.
type patience struct{ lost time.Time }

const (
	patienceLong    = time.Second
	patienceShort   = 5 * time.Millisecond
	patienceReturns = time.Minute
)

// await takes the name as soon as it is free, or returns unix.EADDRINUSE.
func (p *patience) await(name string) (c *claim, err error) {
	long := time.Since(p.lost) > patienceReturns
	limit := patienceShort
	if long {
		limit = patienceLong
	}
	for began := time.Now(); time.Since(began) < limit; time.Sleep(time.Millisecond) {
		if c, err = newClaim(name); !errors.Is(err, unix.EADDRINUSE) {
			return c, err
		}
	}
	if long {
		p.lost = time.Now()
	}
	return nil, err
}

func (c *claim) release() error {
	if c == nil {
		return nil
	}
	return unix.Close(c.fd)
}
