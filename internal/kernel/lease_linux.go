// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package kernel

import (
	"fmt"
	"math"
	"time"

	"github.com/cilium/ebpf"
)

// A clsact filter whose process was killed stays, and would count for nobody. So it goes on for no longer than a lease, which the
// process renews: if it is stopped for longer, packets pass uncounted until it goes on. Jiffies stand still while the host sleeps.
const (
	defaultLease  = time.Minute
	leaseRenewals = 12 // in the time of a lease: every 5 s
)

// leaseTicks is the lease in jiffies, 0 if nothing needs one.
func leaseTicks(c Config, tick int64) uint32 {
	if !c.Clsact {
		return 0
	}
	return uint32(min(int64(c.lease)/tick, math.MaxInt32))
}

// renewLease makes it valid from now on, and says for how long it was not.
func (k *Kernel) renewLease() error {
	expired, err := k.objects.RenewLease.Run(&ebpf.RunOptions{Data: make([]byte, 64)})
	if err != nil {
		return fmt.Errorf("renew the lease of clsact filters: %w", err)
	}
	if expired > 0 {
		k.notice(fmt.Sprintf("for %v packets passed the clsact filters uncounted: this process stood still for longer than their lease of %v",
			(time.Duration(expired) * time.Duration(k.clock.tick)).Round(time.Millisecond), k.cfg.lease))
	}
	return nil
}

// renewLeases runs until the kernel is closed.
func (k *Kernel) renewLeases() {
	t := time.NewTicker(k.cfg.lease / leaseRenewals)
	defer t.Stop()
	var last error
	for {
		select {
		case <-k.ending:
			return
		case <-t.C:
		}
		err := k.renewLease()
		if err != nil && last == nil {
			k.notice(err.Error())
		}
		last = err
	}
}

func (k *Kernel) notice(what string) {
	if k.cfg.Notice != nil {
		k.cfg.Notice(what)
	}
}
