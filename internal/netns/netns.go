// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

// Package netns finds network namespaces by path, holds them, and runs functions in them. It attaches nothing.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"
)

// Host stands for the namespace that the process runs in.
const Host = "host"

// ID names a namespace as long as somebody holds it. When nobody does, the kernel gives its inode number to another one.
type ID struct{ Device, Inode uint64 }

// Found is a path at which there is a namespace.
type Found struct {
	Path string
	ID   ID
}

// ErrReplaced says that there is another namespace at a path than the one that was found there.
var ErrReplaced = errors.New("it was replaced meanwhile")

// ErrNotNetwork says that a path leads to a namespace of another kind.
var ErrNotNetwork = errors.New("this is a namespace of another kind")

// RefusedError says that paths could not be looked at.
type RefusedError struct {
	Paths int
	First error
}

// Error leaves out how many there are: that changes as processes come and go, and what is wrong does not.
func (r *RefusedError) Error() string {
	text := "look for network namespaces: " + r.First.Error()
	if errors.Is(r.First, fs.ErrPermission) {
		text += " (of other users' processes this takes CAP_SYS_PTRACE)"
	}
	return text
}

func (r *RefusedError) Unwrap() error { return r.First }

const globMeta = `*?[\` // what makes a path a glob; path.Match

// ParsePatterns checks what Find is to be given: paths and globs (path.Match); and reports whether Host is among them. It does not look
// at the system: a namespace may appear later.
func ParsePatterns(texts []string) (patterns []string, host bool, err error) {
	for _, text := range texts {
		if text == Host {
			host = true
			continue
		}
		if err := check(text); err != nil {
			return nil, false, err
		}
		patterns = append(patterns, text)
	}
	return patterns, host, nil
}

func check(text string) error {
	if !strings.HasPrefix(text, "/") || strings.ContainsRune(text, 0) {
		return fmt.Errorf(`%q: must be %q, or a path or glob that begins with "/", for example "/run/netns/*" or "/proc/1234/ns/net"`, text, Host)
	}
	for part := range strings.SplitSeq(text, "/") {
		if _, err := path.Match(part, ""); err != nil {
			return fmt.Errorf(`%q: not a glob: every "[" needs its "]" with characters or ranges between, without "/", and "\" a character after it, for example "/run/netns/web-[0-9]"`, text)
		}
	}
	return nil
}

// IsGlob reports whether a pattern may lead to several paths.
func IsGlob(pattern string) bool { return strings.ContainsAny(pattern, globMeta) }

var ofProcess = regexp.MustCompile(`/([0-9]+)/ns/net$`)

// Name is what a namespace is called that was found at p: the last element of the path, or "pid:1234" for that of a process.
func Name(p string) string {
	if m := ofProcess.FindStringSubmatch(p); m != nil {
		return "pid:" + m[1]
	}
	return path.Base(p)
}
