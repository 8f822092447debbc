// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/semver"
)

// checkVersion wants what the go command takes for a version of the module; a "1.0" or "v2.0.0" would be a tag that nobody can use.
func checkVersion(mod []byte, version string) error {
	if err := module.Check(modfile.ModulePath(mod), version); err != nil {
		return fmt.Errorf("the tag must be a version of the module, for example v0.1.0: %w", err)
	}
	if semver.Canonical(version) != version {
		return fmt.Errorf("the tag must be a version of the module with three numbers, for example v0.1.0, got %q", version)
	}
	return nil
}

// checkModule refuses what go.mod means here and for no one who builds a collector with this module.
func checkModule(mod []byte) error {
	file, err := modfile.Parse("go.mod", mod, nil)
	if err != nil {
		return err
	}
	var errs error
	for _, r := range file.Replace {
		errs = errors.Join(errs, fmt.Errorf("go.mod must not replace %s: users would build with another one", r.Old.Path))
	}
	for _, e := range file.Exclude {
		errs = errors.Join(errs, fmt.Errorf("go.mod must not exclude %s: users would not", e.Mod))
	}
	return errs
}

var section = regexp.MustCompile(`(?m)^## \[(.+?)\](?: - (.+))?$`)

// checkChangelog wants the version to be the first one below Unreleased, with a day and entries, and Unreleased to be empty.
func checkChangelog(text, version string) error {
	heads := section.FindAllStringSubmatchIndex(text, -1)
	if len(heads) < 2 || group(text, heads[0], 1) != "Unreleased" {
		return fmt.Errorf("CHANGELOG.md must begin with [Unreleased] and then [%s] - <day>", strings.TrimPrefix(version, "v"))
	}
	unreleased, ours := heads[0], heads[1]
	end := len(text)
	if len(heads) > 2 {
		end = heads[2][0]
	}
	var errs error
	if name := group(text, ours, 1); "v"+name != version {
		errs = errors.Join(errs, fmt.Errorf("CHANGELOG.md must have [%s] below [Unreleased], has [%s]", strings.TrimPrefix(version, "v"), name))
	}
	if _, err := time.Parse(time.DateOnly, group(text, ours, 2)); err != nil {
		errs = errors.Join(errs, fmt.Errorf("CHANGELOG.md must say the day of [%s]: %w", group(text, ours, 1), err))
	}
	if strings.TrimSpace(text[ours[1]:end]) == "" {
		errs = errors.Join(errs, fmt.Errorf("CHANGELOG.md must say what changed in [%s]", group(text, ours, 1)))
	}
	if rest := strings.TrimSpace(text[unreleased[1]:ours[0]]); rest != "" {
		errs = errors.Join(errs, errors.New("CHANGELOG.md must have nothing under [Unreleased]: everything here is released"))
	}
	return errs
}

// group is a group of a match, "" if it took no part.
func group(text string, match []int, n int) string {
	if match[2*n] < 0 {
		return ""
	}
	return text[match[2*n]:match[2*n+1]]
}

// checkTag refuses a tag that is elsewhere. Tagged has the object of the tag and, if it is annotated, the commit; "" if there is none.
func checkTag(version, tagged, head string) error {
	if objects := strings.Fields(tagged); len(objects) > 0 && objects[len(objects)-1] != head {
		return fmt.Errorf("tag %s is at another commit, %s: take the next version", version, objects[len(objects)-1])
	}
	return nil
}

// checkOrder wants the version to be above all that this commit builds on.
func checkOrder(version string, older []string) error {
	for _, tag := range older {
		if semver.Compare(tag, version) > 0 {
			return fmt.Errorf("%s is below %s, which this commit builds on", version, tag)
		}
	}
	return nil
}
