// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Namespace is a network namespace that is held: it lives on until Close, even if nothing else is in it. Its methods may be called
// from anywhere. Nil is the namespace of the process.
type Namespace struct{ file *os.File }

// Open holds the namespace that was found. Another one may be at its path by now: then it fails.
func Open(f Found) (*Namespace, error) {
	n, err := open(f)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %q: %w", f.Path, err)
	}
	return n, nil
}

func open(f Found) (*Namespace, error) {
	fd, err := unix.Open(f.Path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	n := &Namespace{os.NewFile(uintptr(fd), f.Path)}
	if err := n.check(f.ID); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Namespace) check(want ID) error {
	return n.with(func(fd int) error {
		var s unix.Stat_t
		if err := unix.Fstat(fd, &s); err != nil {
			return err
		}
		if idOf(&s) != want {
			return ErrReplaced
		}
		kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE) // Linux 4.11
		if err == nil && kind != unix.CLONE_NEWNET {
			err = ErrNotNetwork
		}
		return err
	})
}

// Close lets go of the namespace.
func (n *Namespace) Close() error {
	if n == nil {
		return nil
	}
	return n.file.Close()
}

// with keeps the file open while f runs.
func (n *Namespace) with(f func(fd int) error) error {
	raw, err := n.file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil {
		return err // closed
	}
	return failed
}

// Do runs f on a thread that is in the namespace. Sockets made by f stay there; goroutines started by f do not. It takes
// CAP_SYS_ADMIN.
func (n *Namespace) Do(f func() error) error {
	if n == nil {
		return f()
	}
	done := make(chan error, 1)
	go func() { done <- n.visit(f) }()
	return <-done
}

// visit must have its goroutine to itself: a thread that cannot come home keeps it, and ends with it, so no other goroutine ever
// runs in a namespace that is not its own. The first thread stays: /proc/self is its view, and it cannot end.
func (n *Namespace) visit(f func() error) error {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		defer runtime.UnlockOSThread()
		return n.Do(f) // on another one, since this is locked
	}
	home, err := unix.Open(ownPath, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open the own network namespace: %w", err)
	}
	defer func() { _ = unix.Close(home) }() // it was only read
	if err := n.with(func(fd int) error { return unix.Setns(fd, unix.CLONE_NEWNET) }); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace %q (takes CAP_SYS_ADMIN): %w", n.file.Name(), err)
	}
	err = f()
	if back := setns(home, unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("leave network namespace %q, a thread ends there: %w", n.file.Name(), back))
	}
	runtime.UnlockOSThread()
	return err
}

var setns = unix.Setns // tests let the way home fail
