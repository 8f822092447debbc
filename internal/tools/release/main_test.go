// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	goodModule    = "module github.com/ebpfpackets/ebpfpackets\n\ngo 1.26.0\n"
	goodChangelog = "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-11-21\n\n### Added\n\n- A thing.\n\n## [0.1.0] - 2026-10-01\n\n- First.\n"
)

func judge(t *testing.T, name, want string, err error) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: %v", name, err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("%s: got %v, want %q", name, err, want)
	}
}

func TestVersion(t *testing.T) {
	for version, want := range map[string]string{
		"v0.2.0": "", "v1.0.0": "", "v0.2.0-rc.1": "",
		"0.2.0": "must be a version", "v0.2": "must be a version", "v2.0.0": "must be a version",
		"v0.2.0+1": "must be a version", "release": "must be a version", "": "must be a version",
	} {
		judge(t, version, want, checkVersion([]byte(goodModule), version))
	}
}

func TestModule(t *testing.T) {
	for added, want := range map[string]string{
		"": "",
		"require example.com/a v1.0.0\nreplace example.com/a => ../a\n": "must not replace example.com/a",
		"exclude example.com/a v1.0.0\n":                                "must not exclude example.com/a@v1.0.0",
		"nonsense\n":                                                    "unknown directive",
	} {
		judge(t, added, want, checkModule([]byte(goodModule+added)))
	}
}

func TestChangelog(t *testing.T) {
	first, _, _ := strings.Cut(goodChangelog, "## [0.1.0]")
	change := func(old, now string) string { return strings.Replace(goodChangelog, old, now, 1) }
	for _, c := range []struct{ name, text, want string }{
		{"as it should be", goodChangelog, ""},
		{"the first release", first, ""},
		{"another version", change("[0.2.0]", "[0.3.0]"), "must have [0.2.0] below [Unreleased], has [0.3.0]"},
		{"not renamed", "# Changelog\n\n## [Unreleased]\n\n- A thing.\n", "must begin with [Unreleased] and then [0.2.0]"},
		{"without Unreleased", change("## [Unreleased]\n\n", ""), "must begin with [Unreleased]"},
		{"without a day", change(" - 2026-11-21", ""), "must say the day of [0.2.0]"},
		{"a day that is none", change("2026-11-21", "2026-11-31"), "must say the day of [0.2.0]"},
		{"without entries", change("### Added\n\n- A thing.\n", ""), "must say what changed in [0.2.0]"},
		{"something left", change("## [Unreleased]\n", "## [Unreleased]\n\n- Another.\n"), "nothing under [Unreleased]"},
	} {
		judge(t, c.name, c.want, checkChangelog(c.text, "v0.2.0"))
	}
}

// TestRepository changes a repository step by step.
func TestRepository(t *testing.T) {
	root := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false", "-c", "tag.gpgsign=false"}, args...)...)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, out)
		}
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run("init", "-q")
	write("go.mod", goodModule)
	write("CHANGELOG.md", goodChangelog)
	judge(t, "nothing committed", "commit them", check(root, "v0.2.0"))
	run("add", ".")
	run("commit", "-q", "-m", "one")
	judge(t, "as it should be", "", check(root, "v0.2.0"))
	run("tag", "v0.1.0")
	judge(t, "an older release", "", check(root, "v0.2.0"))
	run("tag", "-a", "-m", "two", "v0.2.0")
	judge(t, "tagged here", "", check(root, "v0.2.0"))
	write("new", "")
	judge(t, "a new file", "commit them", check(root, "v0.2.0"))
	run("add", ".")
	run("commit", "-q", "-m", "two")
	judge(t, "tagged elsewhere", "is at another commit", check(root, "v0.2.0"))
	run("tag", "v0.3.0")
	judge(t, "a newer release", "v0.2.1 is below v0.3.0", checkRepository(root, "v0.2.1"))
}
