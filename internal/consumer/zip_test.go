// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package consumer

import (
	"archive/zip"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/module"
	modzip "golang.org/x/mod/zip"
)

// needed are the files without which a user's build fails or is not allowed; nothing tells git, or a proxy, that they are.
var needed = []string{
	"LICENSE", "NOTICE", "bpf/LICENSE",
	"metadata.yaml", "receiver/metadata.yaml", "receiver/documentation.md",
	"internal/kernel/*_bpfel.go", "internal/kernel/*_bpfel.o",
}

const (
	maxTestdata = 5 << 20 // of all folders testdata: they travel to every user
	maxFile     = 1 << 20 // uncompressed: more is a binary or a capture that nobody meant to ship
	maxZip      = 4 << 20
)

// serveZip lays out the commit at HEAD as a module proxy would serve it, and returns the version and the directory.
func serveZip(t *testing.T, root string) (version, proxy string) {
	t.Helper()
	if out, err := git(t, root, "status", "--porcelain"); err == nil && len(out) > 0 {
		t.Logf("changes that are not committed are not in the zip:\n%s", out)
	}
	commit, err := git(t, root, "rev-parse", "--short=12", "HEAD")
	if err != nil {
		t.Fatal(err)
	}
	// A new version at each run: the module cache never forgets what a version was.
	version = fmt.Sprintf("v0.0.0-%s-%s", time.Now().UTC().Format("20060102150405"), strings.TrimSpace(string(commit)))

	proxy = t.TempDir()
	dir := filepath.Join(proxy, filepath.FromSlash(modulePath), "@v")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	create(t, root, filepath.Join(dir, version+".zip"), version)
	checkZip(t, filepath.Join(dir, version+".zip"), modulePath+"@"+version+"/")
	mod, err := git(t, root, "show", "HEAD:go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"list":            version + "\n",
		version + ".mod":  string(mod),
		version + ".info": fmt.Sprintf(`{"Version": %q, "Time": %q}`, version, time.Now().UTC().Format(time.RFC3339)),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { forget(t, version) })
	return version, proxy
}

func create(t *testing.T, root, file, version string) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := modzip.CreateFromVCS(f, module.Version{Path: modulePath, Version: version}, root, "HEAD", ""); err != nil {
		t.Fatalf("make the module zip: %v", err)
	}
}

func checkZip(t *testing.T, file, prefix string) {
	t.Helper()
	z, err := zip.OpenReader(file)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	var testdata uint64
	found := map[string]bool{}
	for _, f := range z.File {
		name := strings.TrimPrefix(f.Name, prefix)
		if strings.Contains("/"+name, "/testdata/") {
			testdata += f.UncompressedSize64
		}
		if f.UncompressedSize64 >= maxFile {
			t.Errorf("%s has %d bytes, want less than %d", name, f.UncompressedSize64, maxFile)
		}
		for _, pattern := range needed {
			if ok, err := path.Match(pattern, name); err != nil || ok {
				found[pattern] = true
			}
		}
	}
	for _, pattern := range needed {
		if !found[pattern] {
			t.Errorf("the module zip has no %s", pattern)
		}
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("module zip: %d files, %d kB; testdata %d kB", len(z.File), info.Size()/1000, testdata/1000)
	if testdata >= maxTestdata {
		t.Errorf("testdata has %d bytes, want less than %d", testdata, maxTestdata)
	}
	if info.Size() >= maxZip {
		t.Errorf("the module zip has %d bytes, want less than %d", info.Size(), maxZip)
	}
}

// forget takes the version out of this machine's module cache: nothing else will ever ask for it.
func forget(t *testing.T, version string) {
	cmd := exec.Command("go", "env", "GOMODCACHE")
	out, err := cmd.Output()
	if err != nil {
		t.Error(err)
		return
	}
	cache := strings.TrimSpace(string(out))
	gone := []string{filepath.Join(cache, filepath.FromSlash(modulePath)+"@"+version)}
	downloads, err := filepath.Glob(filepath.Join(cache, "cache", "download", filepath.FromSlash(modulePath), "@v", version+".*"))
	if err != nil {
		t.Error(err)
	}
	for _, name := range append(gone, downloads...) {
		if err := os.RemoveAll(name); err != nil {
			t.Error(err)
		}
	}
}

func git(t *testing.T, dir string, args ...string) ([]byte, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("git %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}
