// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const ownPath = "/proc/thread-self/ns/net"

// Own returns the namespace of the process.
func Own() (ID, error) {
	id, err := identify(ownPath)
	if err != nil {
		return ID{}, fmt.Errorf("look for the own network namespace: %w", err)
	}
	return id, nil
}

// identify follows path to what is there.
func identify(path string) (ID, error) {
	var s unix.Stat_t
	for {
		err := unix.Stat(path, &s)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return ID{}, &fs.PathError{Op: "stat", Path: path, Err: err}
		}
		return idOf(&s), nil
	}
}

func idOf(s *unix.Stat_t) ID {
	return ID{uint64(s.Dev), uint64(s.Ino)} //nolint:unconvert // of 32 bits on some machines
}

// Gone reports whether what was found is no longer at its path. Where that cannot be told, it is not.
func Gone(f Found) bool {
	id, err := identify(f.Path)
	if err != nil {
		return absent(err)
	}
	return id != f.ID
}

// absent: processes end, containers go.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EINVAL)
}

// Find returns the paths that patterns lead to and at which there is a namespace, in the order of patterns and then of names, each path
// once. What is no namespace is left out: "ip netns add" makes a file first and then mounts the namespace there. The error is a
// *RefusedError, and is nil if that is only not there; what was found is right nevertheless.
func Find(patterns []string) (found []Found, err error) {
	own, err := Own()
	if err != nil {
		return nil, err
	}
	var refused RefusedError
	seen := map[string]bool{}
	for _, pattern := range patterns {
		for _, p := range expand(pattern, &refused) {
			if seen[p] {
				continue
			}
			seen[p] = true
			id, err := identify(p)
			switch {
			case err != nil:
				refused.add(err)
			case id.Device == own.Device: // all namespaces are files of one file system, nsfs
				found = append(found, Found{p, id})
			}
		}
	}
	return found, refused.err()
}

// expand returns the paths that a pattern may mean; those without a glob need not exist.
func expand(pattern string, refused *RefusedError) []string {
	paths := []string{"/"}
	for part := range strings.SplitSeq(strings.Trim(pattern, "/"), "/") {
		var next []string
		for _, dir := range paths {
			if !IsGlob(part) {
				next = append(next, filepath.Join(dir, part))
				continue
			}
			entries, err := os.ReadDir(dir)
			if err != nil {
				refused.add(err)
			}
			for _, e := range entries {
				if ok, _ := path.Match(part, e.Name()); ok {
					next = append(next, filepath.Join(dir, e.Name()))
				}
			}
		}
		paths = next
	}
	return paths
}

// add leaves out what is not there.
func (r *RefusedError) add(err error) {
	if absent(err) {
		return
	}
	if r.First == nil {
		r.First = err
	}
	r.Paths++
}

func (r *RefusedError) err() error {
	if r.Paths == 0 {
		return nil
	}
	return r
}
