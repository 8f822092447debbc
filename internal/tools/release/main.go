// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

// Command release looks at what a tag would make of this tree, before there is one: `make release-check VERSION=v0.1.0`.
// A tag cannot be taken back: module proxies keep what they have seen.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: release <root of the repository> <version, as v0.1.0> (make release-check VERSION=v0.1.0)")
		os.Exit(2)
	}
	if err := check(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("%s: the version, go.mod, CHANGELOG.md and the working tree are right\n", os.Args[2])
}

// check returns everything that is wrong with releasing the tree at root as version.
func check(root, version string) error {
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return err
	}
	changelog, err := os.ReadFile(filepath.Join(root, "CHANGELOG.md"))
	if err != nil {
		return err
	}
	return errors.Join(
		checkVersion(mod, version),
		checkModule(mod),
		checkChangelog(string(changelog), version),
		checkRepository(root, version),
	)
}

// checkRepository wants everything committed, and the tag new or where it belongs.
func checkRepository(root, version string) error {
	changes, err := git(root, "status", "--porcelain")
	if err != nil {
		return err
	}
	if changes != "" {
		err = fmt.Errorf("the tree has changes that no tag will have, commit them:\n%s", changes)
	}
	head, headErr := git(root, "rev-parse", "HEAD")
	tagged, tagErr := git(root, "for-each-ref", "--format=%(objectname) %(*objectname)", "refs/tags/"+version)
	older, olderErr := git(root, "tag", "--merged", "HEAD", "--list", "v*")
	return errors.Join(err, headErr, tagErr, olderErr,
		checkTag(version, tagged, head),
		checkOrder(version, strings.Fields(older)))
}

func git(root string, args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
