// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package iface

import (
	"fmt"
	"path"
	"regexp"
	"strings"
)

// Kinds of ours, beside those of the kernel.
const (
	kindUplink   = "uplink"
	kindLoopback = "loopback"
)

const (
	kindPrefix = "kind:"
	globMeta   = `*?[\` // what makes a pattern a glob; path.Match
	nameMax    = 15     // IFNAMSIZ without the final zero
)

// Any lower-case word may be a kind: the module that brings it need not be loaded yet.
var kindForm = regexp.MustCompile(`^[a-z][a-z0-9_-]*$`)

// Selector chooses interfaces. The zero Selector chooses none.
type Selector struct {
	include, exclude []pattern
}

// pattern has exactly one of its fields set.
type pattern struct {
	name, glob, kind string
}

// ParseSelector reads the patterns of interfaces.include and interfaces.exclude: names, globs (path.Match) and
// kind:<kind>. It does not look at the host: an interface or a kind may appear later.
func ParseSelector(include, exclude []string) (Selector, error) {
	var s Selector
	var err error
	if s.include, err = parsePatterns(include); err != nil {
		return Selector{}, fmt.Errorf("include: %w", err)
	}
	if s.exclude, err = parsePatterns(exclude); err != nil {
		return Selector{}, fmt.Errorf("exclude: %w", err)
	}
	return s, nil
}

func parsePatterns(texts []string) ([]pattern, error) {
	patterns := make([]pattern, 0, len(texts))
	for _, text := range texts {
		p, err := parsePattern(text)
		if err != nil {
			return nil, err
		}
		patterns = append(patterns, p)
	}
	return patterns, nil
}

func parsePattern(text string) (pattern, error) {
	if kind, ok := strings.CutPrefix(text, kindPrefix); ok {
		if !kindForm.MatchString(kind) {
			return pattern{}, fmt.Errorf(`%q: a kind is a lower-case word, for example "kind:uplink" or "kind:veth"`, text)
		}
		return pattern{kind: kind}, nil
	}
	switch {
	case text == "":
		return pattern{}, fmt.Errorf(`%q: must be a name, a glob or a kind, for example "eth0", "eth*" or "kind:uplink"`, text)
	case strings.Contains(text, ":"): // the kernel refuses such a name
		return pattern{}, fmt.Errorf(`%q: no interface name contains a colon; kinds are written "kind:veth", and an address label such as "eth0:1" belongs to the interface "eth0"`, text)
	case strings.ContainsAny(text, "/ \t\n\v\f\r"): // so is this
		return pattern{}, fmt.Errorf(`%q: no interface name contains "/" or white space; write one pattern per list entry`, text)
	case strings.ContainsAny(text, globMeta):
		if _, err := path.Match(text, ""); err != nil {
			return pattern{}, fmt.Errorf(`%q: not a glob: every "[" needs its "]" with characters or ranges between, and "\" a character after it, for example "eth[0-3]"`, text)
		}
		return pattern{glob: text}, nil
	case len(text) > nameMax || text == "." || text == "..":
		return pattern{}, fmt.Errorf(`%q: no interface can have this name; at most %d bytes, not "." or ".."`, text, nameMax)
	}
	return pattern{name: text}, nil
}

// Select returns those of all that an include pattern matches and no exclude pattern, in the order of all.
//
// "kind:uplink" is every interface backed by a device; if there is none, every one that holds a default route. A device
// whose master is backed by a device too is left out, because its packets pass the master again: the VF under a Hyper-V
// or failover interface. (The ports of a bond stay: the bond has no device.) Loopback is included only by its name or
// by "kind:loopback", never by a glob or another kind; excluding has no such exception.
func (s Selector) Select(all []Interface) []Interface {
	uplinks := uplinks(all)
	var selected []Interface
	for n := range all {
		i := &all[n]
		if includes(s.include, i, uplinks) && !excludes(s.exclude, i, uplinks) {
			selected = append(selected, *i)
		}
	}
	return selected
}

func includes(patterns []pattern, i *Interface, uplinks map[uint32]bool) bool {
	for _, p := range patterns {
		if i.Loopback && p.name == "" && p.kind != kindLoopback {
			continue
		}
		if p.matches(i, uplinks) {
			return true
		}
	}
	return false
}

func excludes(patterns []pattern, i *Interface, uplinks map[uint32]bool) bool {
	for _, p := range patterns {
		if p.matches(i, uplinks) {
			return true
		}
	}
	return false
}

func (p *pattern) matches(i *Interface, uplinks map[uint32]bool) bool {
	switch {
	case p.name != "":
		return p.name == i.Name
	case p.glob != "":
		ok, _ := path.Match(p.glob, i.Name) // the pattern was tried by parsePattern
		return ok
	case p.kind == kindUplink:
		return uplinks[i.Index]
	case p.kind == kindLoopback:
		return i.Loopback
	}
	return p.kind == i.Kind
}

// uplinks returns the indexes of the interfaces that kind:uplink stands for.
func uplinks(all []Interface) map[uint32]bool {
	devices, routes := map[uint32]bool{}, map[uint32]bool{}
	for _, i := range all {
		switch {
		case i.Device:
			devices[i.Index] = true
		case i.DefaultRoute:
			routes[i.Index] = true
		}
	}
	if len(devices) == 0 {
		return routes
	}
	uplinks := map[uint32]bool{}
	for _, i := range all {
		if devices[i.Index] && !devices[i.Master] {
			uplinks[i.Index] = true
		}
	}
	return uplinks
}
