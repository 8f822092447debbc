// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package kernel

import (
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// clock turns the kernel's times into ns since 1970. Programs stamp first packets with CLOCK_BOOTTIME, which goes on in
// suspend, and every packet with jiffies, which cost nothing.
type clock struct {
	jiffies func() (uint32, error)
	tick    int64 // ns of one jiffy
}

const clockTries = 5 // at readings that belong together

// instant is one reading of all clocks.
type instant struct {
	unix    int64  // ns since 1970
	booted  int64  // ns since 1970 at which CLOCK_BOOTTIME was 0
	jiffies uint32 // low 32 bits of jiffies64
	tick    int64
}

func newClock(jiffies *ebpf.Program) (*clock, error) {
	tick, err := tickLength()
	return &clock{jiffies: func() (uint32, error) {
		frame := make([]byte, 64) // some kernels refuse frames that end with the link header
		return jiffies.Run(&ebpf.RunOptions{Data: frame})
	}, tick: tick}, err
}

// tickLength is that of one jiffy in ns.
func tickLength() (int64, error) {
	var tick unix.Timespec // the coarse clock moves once per tick; HZ is not told to user space
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick); err != nil {
		return 0, fmt.Errorf("read the length of a tick: %w", err)
	}
	return tick.Nano(), nil
}

// now reads all clocks. Jiffies come first, and again if they were read a tick or more before the others.
func (c *clock) now() (at instant, err error) {
	for range clockTries {
		var before unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &before); err != nil {
			return instant{}, fmt.Errorf("read the clock: %w", err)
		}
		jiffies, err := c.jiffies()
		if err != nil {
			return instant{}, fmt.Errorf("read jiffies: %w", err)
		}
		if at, err = wallClock(); err != nil {
			return instant{}, err
		}
		at.jiffies, at.tick = jiffies, c.tick
		if at.boottime()-before.Nano() < c.tick {
			break
		}
	}
	return at, nil
}

// later is now, if jiffies cannot be read: as many ticks have passed since i as time has.
func (i *instant) later() instant {
	at, err := wallClock()
	if err != nil {
		return *i
	}
	at.jiffies, at.tick = i.jiffies+uint32((at.boottime()-i.boottime())/i.tick), i.tick
	return at
}

// boottime is CLOCK_BOOTTIME in ns.
func (i *instant) boottime() int64 { return i.unix - i.booted }

// wallClock reads all clocks but jiffies. CLOCK_REALTIME is read between two readings of CLOCK_BOOTTIME, again if something
// came in between: a preempted reader must not shift every flow.
func wallClock() (instant, error) {
	const close = 50_000 // ns
	var before, real, after unix.Timespec
	for range clockTries {
		for _, c := range []struct {
			id   int32
			into *unix.Timespec
		}{{unix.CLOCK_BOOTTIME, &before}, {unix.CLOCK_REALTIME, &real}, {unix.CLOCK_BOOTTIME, &after}} {
			if err := unix.ClockGettime(c.id, c.into); err != nil {
				return instant{}, fmt.Errorf("read the clock: %w", err)
			}
		}
		if after.Nano()-before.Nano() < close {
			break
		}
	}
	boot := before.Nano() + (after.Nano()-before.Nano())/2
	return instant{unix: real.Nano(), booted: real.Nano() - boot}, nil
}

// boot converts bpf_ktime_get_boot_ns.
func (i *instant) boot(ns uint64) int64 { return i.booted + int64(ns) }

// jiffy converts the low 32 bits of jiffies64. They wrap five minutes after boot, and may be later than i, so their
// difference is taken modulo 2^32 and signed.
func (i *instant) jiffy(jiffies uint32) int64 {
	return i.unix - int64(int32(i.jiffies-jiffies))*i.tick
}
