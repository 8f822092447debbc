// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kernelmatrix

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// kernelMaxAge is how long a kernel in the cache is used without asking Debian for a newer one.
const kernelMaxAge = 7 * 24 * time.Hour

// What fetched leaves in its directory: the image, and every module that a test may want.
const (
	imageName  = "vmlinuz"
	modulesDir = "modules"
)

// fetched returns the directory in the user's cache that holds k's kernel, fetched when it is not there or old.
func (k row) fetched(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir() // no HOME, as in some CI jobs
	}
	dir := filepath.Join(cache, "ebpfpackets", "kernels", k.name)
	image := filepath.Join(dir, imageName)
	info, statErr := os.Stat(image) // written last
	if _, err := os.Stat(filepath.Join(dir, modulesDir)); err != nil {
		statErr = err
	}
	if statErr == nil && time.Since(info.ModTime()) < kernelMaxAge {
		return dir
	}
	t.Logf("fetch the newest %s of Debian %s", k.pkg, k.suite)
	err = k.fetch(t.Context(), dir)
	switch {
	case err == nil:
	case statErr == nil:
		t.Logf("use the kernel of %s: %v", info.ModTime().Format(time.DateOnly), err)
	default:
		t.Fatalf("fetch kernel %s from deb.debian.org: %v", k.name, err)
	}
	return dir
}

// fetch asks Debian with lists and caches of its own in dir: nothing is installed, the machine's apt is not touched.
func (k row) fetch(ctx context.Context, dir string) error {
	a := apt{ctx, dir, k.arch}
	for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "sources.list"), []byte(k.sources()), 0o644); err != nil {
		return err
	}
	if _, err := a.run("apt-get", "update", "--error-on=any"); err != nil {
		return err
	}
	pkg, err := a.imagePackage(k.pkg)
	if err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return err
	}
	for _, f := range old {
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	packages := []string{pkg}
	if version, ok := strings.CutPrefix(pkg, "linux-binary-"); ok {
		packages = append(packages, "linux-modules-"+version)
	}
	if _, err := a.run("apt-get", append([]string{"download"}, packages...)...); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return err
	}
	if len(debs) != len(packages) {
		return fmt.Errorf("download %q: want as many .deb in %q, got %q", packages, dir, debs)
	}
	if err := extract(ctx, debs, dir); err != nil {
		return err
	}
	for _, deb := range debs {
		if err := os.Remove(deb); err != nil {
			return err
		}
	}
	return nil
}

func (k row) sources() string {
	// A suite that is no longer updated has a Release file past its date; the signature is checked all the same.
	const options = "check-valid-until=no signed-by=/usr/share/keyrings/debian-archive-keyring.gpg"
	list := fmt.Sprintf("deb [arch=%s %s] http://deb.debian.org/debian %s main\n", k.arch, options, k.suite)
	if k.security {
		list += fmt.Sprintf("deb [arch=%s %s] http://deb.debian.org/debian-security %s-security main\n", k.arch, options, k.suite)
	}
	return list
}

// apt runs the tools of apt on lists and caches below dir.
type apt struct {
	ctx  context.Context
	dir  string
	arch string
}

func (a apt) run(name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(a.ctx, name, append([]string{
		"-q",
		"-o", "APT::Architecture=" + a.arch,
		"-o", "APT::Architectures=" + a.arch,
		"-o", "APT::Sandbox::User=root",
		"-o", "Acquire::Languages=none",
		"-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
		"-o", "Dir::Etc::sourcelist=" + filepath.Join(a.dir, "sources.list"),
		"-o", "Dir::Etc::sourceparts=/dev/null",
		"-o", "Dir::State::lists=" + filepath.Join(a.dir, "lists"),
		"-o", "Dir::Cache=" + filepath.Join(a.dir, "cache"),
	}, args...)...)
	cmd.Dir = a.dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", name, args[0], err, stderr.Bytes())
	}
	return out, nil
}

// versioned matches the package that holds an image, such as linux-image-5.10.0-38-cloud-amd64; from 7.x on it is
// linux-binary-*, below an empty linux-image-*, and its modules are linux-modules-*.
var versioned = regexp.MustCompile(`(?m)^Depends:.*\b(linux-(?:image|binary)-[0-9][^\s,]*)`)

// imagePackage follows the dependencies of the meta-package pkg, in its newest version, to the one with an image.
func (a apt) imagePackage(pkg string) (string, error) {
	for {
		out, err := a.run("apt-cache", "show", "--no-all-versions", pkg)
		if err != nil {
			return "", err
		}
		m := versioned.FindSubmatch(out)
		if m == nil {
			return pkg, nil
		}
		pkg = string(m[1])
	}
}

var (
	imageFile = regexp.MustCompile(`^\./(boot/vmlinuz-|(usr/)?lib/modules/[^/]+/vmlinuz$)`)
	// Modules of networks and what these need; the compression differs by suite.
	moduleFile = regexp.MustCompile(`^\./(?:usr/)?lib/modules/[^/]+/kernel/(?:net|drivers/net|crypto|lib|arch/[^/]+/lib|arch/[^/]+/crypto)/(?:.*/)?([^/]+)\.ko(\.xz)?$`)
)

// extract copies the kernel image in debs, and modules, to dir: the image last, so that it is there only if all of it is.
func extract(ctx context.Context, debs []string, dir string) error {
	modules := filepath.Join(dir, modulesDir)
	if err := errors.Join(os.RemoveAll(modules), os.Mkdir(modules, 0o755)); err != nil {
		return err
	}
	image := filepath.Join(dir, imageName)
	found := false
	for _, deb := range debs {
		has, err := extractOne(ctx, deb, modules, image+".part")
		if err != nil {
			return fmt.Errorf("read %q: %w", deb, err)
		}
		found = found || has
	}
	if !found {
		return fmt.Errorf("no kernel image in %q", debs)
	}
	return os.Rename(image+".part", image)
}

// extractOne reports whether there was an image.
func extractOne(ctx context.Context, deb, modules, image string) (found bool, err error) {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return false, err
	}
	if err := cmd.Start(); err != nil {
		return false, err
	}
	defer func() {
		stdout.Close() // what is left after an error is not wanted: dpkg-deb ends on the closed pipe
		_ = cmd.Wait()
	}()
	for r := tar.NewReader(stdout); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return false, err
		}
		to := ""
		if m := moduleFile.FindStringSubmatch(h.Name); m != nil {
			to = filepath.Join(modules, m[1]+".ko"+m[2])
		} else if imageFile.MatchString(h.Name) {
			to, found = image, true
		}
		if h.Typeflag != tar.TypeReg || to == "" {
			continue
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return false, err
		}
		if err := os.WriteFile(to, content, 0o644); err != nil {
			return false, err
		}
	}
}
