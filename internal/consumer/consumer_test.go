// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package consumer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const modulePath = "github.com/ebpfpackets/ebpfpackets"

// TestManifest builds a Collector from a manifest that knows this module by its gomod line only. Until there is a tag, a
// replace says where the module is.
func TestManifest(t *testing.T) {
	root := repository(t)
	ocb := builder(t, root)
	for _, platform := range []string{"linux/amd64", "linux/arm64"} {
		t.Run(platform, func(t *testing.T) {
			m := manifest{version: "v0.0.0", replaces: modulePath + " => " + root}
			binary := m.build(t, ocb, platform)
			if os, arch, _ := strings.Cut(platform, "/"); os+"/"+arch == goEnv(t, "GOOS")+"/"+goEnv(t, "GOARCH") {
				hasReceiver(t, binary, "devel") // a folder has no version
			}
		})
	}
}

// TestModuleZip builds a Collector from the zip that a module proxy would serve, without any replace.
func TestModuleZip(t *testing.T) {
	root := repository(t)
	ocb := builder(t, root)
	version, proxy := serveZip(t, root)
	m := manifest{version: version, env: []string{
		"GOPROXY=file://" + proxy + "," + goEnv(t, "GOPROXY"),
		"GONOSUMDB=" + modulePath, // a version that exists on this machine only
		"GOFLAGS=-mod=mod -modcacherw -buildvcs=false",
	}}
	hasReceiver(t, m.build(t, ocb, goEnv(t, "GOOS")+"/"+goEnv(t, "GOARCH")), strings.TrimPrefix(version, "v"))
}

// manifest is the smallest one that makes a working Collector with this receiver.
type manifest struct {
	version  string
	replaces string
	env      []string
}

func (m manifest) String() string {
	s := `dist: {name: otelcol, output_path: ./out}
receivers:
  - gomod: ` + modulePath + " " + m.version + `
exporters:
  - gomod: go.opentelemetry.io/collector/exporter/debugexporter v0.161.0
providers:
  - gomod: go.opentelemetry.io/collector/confmap/provider/envprovider v1.67.0
  - gomod: go.opentelemetry.io/collector/confmap/provider/fileprovider v1.67.0
`
	if m.replaces != "" {
		s += "replaces:\n  - " + m.replaces + "\n"
	}
	return s
}

// build runs ocb in a directory outside of any module, with nothing in PATH but go, and returns the binary.
func (m manifest) build(t *testing.T, ocb, platform string) string {
	t.Helper()
	dir, bin := t.TempDir(), t.TempDir()
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(goTool, filepath.Join(bin, "go")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "manifest.yaml"), []byte(m.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	goos, arch, _ := strings.Cut(platform, "/")
	cmd := exec.CommandContext(t.Context(), ocb, "--config", "manifest.yaml")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), append([]string{"PATH=" + bin, "PWD=" + dir, "CGO_ENABLED=0", "GOOS=" + goos, "GOARCH=" + arch}, m.env...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ocb: %v\n%s\n%s", err, m, out)
	}
	binary := filepath.Join(dir, "out", "otelcol")
	info, err := os.Stat(binary)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("built for %s: %d MB", platform, info.Size()/1e6)
	return binary
}

// hasReceiver runs a Collector just long enough to see that it knows the receiver, its defaults, and what version it is.
func hasReceiver(t *testing.T, binary, version string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), binary, "components").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "name: ebpfpackets") {
		t.Errorf("components: %v, want ebpfpackets among them\n%s", err, out)
	}
	config := filepath.Join(repository(t), "examples", "minimal.yaml")
	if out, err := exec.CommandContext(t.Context(), binary, "validate", "--config", config).CombinedOutput(); err != nil {
		t.Errorf("validate %s: %v\n%s", config, err, out)
	}
	startsAs(t, binary, version)
}

// startsAs wants the receiver to say its version when it starts. It need not be allowed to count: no interface has the name.
func startsAs(t *testing.T, binary, version string) {
	t.Helper()
	config := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(config, []byte(`
receivers: {ebpfpackets: {interfaces: {include: [none-such0]}, error_mode: ignore}}
exporters: {debug: {}}
service:
  telemetry: {logs: {encoding: json}, metrics: {level: none}}
  pipelines: {metrics: {receivers: [ebpfpackets], exporters: [debug]}}
`), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "--config", config)
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`"version":%q`, version)
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "Starting ebpfpackets") {
			if !strings.Contains(lines.Text(), want) {
				t.Errorf("the receiver starts with %s, want %s", lines.Text(), want)
			}
			cancel()
			_ = cmd.Wait() // it was killed
			return
		}
	}
	t.Errorf("the receiver never started: %v", errors.Join(lines.Err(), cmd.Wait()))
}

// builder compiles ocb at the version that internal/tools names.
func builder(t *testing.T, root string) string {
	t.Helper()
	ocb := filepath.Join(t.TempDir(), "ocb")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", ocb, "go.opentelemetry.io/collector/cmd/builder")
	cmd.Dir = filepath.Join(root, "internal", "tools")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build ocb: %v\n%s", err, out)
	}
	return ocb
}

func repository(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
