// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// imageUser is the user of the image.
const imageUser = 10001

var imageCapabilities = []string{"CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"}

// packer is the program that `make image` packs images with.
func packer(t *testing.T) string {
	t.Helper()
	tool := filepath.Join(t.TempDir(), "tool")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-C", "../tools", "-o", tool, "./image").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return tool
}

// pack packs an image and returns its path.
func pack(t *testing.T, tool string, args ...string) (image string, err error) {
	t.Helper()
	image = filepath.Join(t.TempDir(), "image.tar")
	args = append([]string{"-root", "../..", "-o", image}, args...)
	if out, err := exec.CommandContext(t.Context(), tool, args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return image, nil
}

// agentImage has `make image` pack the image of the collector for agents. For this machine only: to compile for another takes minutes.
func agentImage(t *testing.T, variables ...string) (image string) {
	t.Helper()
	testenv.Tool(t, "make")
	args := append([]string{"-C", repository, "image", "ARCHITECTURES=" + runtime.GOARCH}, variables...)
	out, err := exec.CommandContext(t.Context(), "make", args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return repository + "/_build/otelcol-ebpfpackets.image.tar"
}

// imageConfig is what the image says about how to run it.
type imageConfig struct {
	Architecture string
	Config       struct {
		User            string
		Entrypoint, Cmd []string
		Labels          map[string]string
	}
	RootFS struct {
		DiffIDs []string `json:"diff_ids"`
	}
}

// layer is the whole content of an image for one architecture.
type layer struct {
	config imageConfig
	tar    []byte
}

// openImage follows an OCI image layout from its index to the layer of each architecture, and checks every hash on the way.
func openImage(t *testing.T, path string) (name string, layers map[string]layer) {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	files := untar(t, text)
	require.JSONEq(t, `{"imageLayoutVersion": "1.0.0"}`, string(files["oci-layout"].content))
	type reference struct {
		MediaType, Digest string
		Size              int
		Platform          struct{ OS, Architecture string }
		Annotations       map[string]string
	}
	type document struct {
		MediaType         string
		Manifests, Layers []reference
		Config            reference
		Annotations       map[string]string
	}
	read := func(r reference) []byte {
		content := files["blobs/"+strings.Replace(r.Digest, ":", "/", 1)].content
		require.Equal(t, r.Digest, fmt.Sprintf("sha256:%x", sha256.Sum256(content)))
		require.Len(t, content, r.Size)
		return content
	}
	parse := func(text []byte) (d document) {
		require.NoError(t, json.Unmarshal(text, &d))
		return d
	}
	top := parse(files["index.json"].content)
	require.Len(t, top.Manifests, 1)
	layers = map[string]layer{}
	for _, m := range parse(read(top.Manifests[0])).Manifests {
		manifest := parse(read(m))
		var l layer
		require.NoError(t, json.Unmarshal(read(manifest.Config), &l.config))
		require.Equal(t, m.Platform.Architecture, l.config.Architecture)
		require.Equal(t, l.config.Config.Labels, manifest.Annotations)
		require.Len(t, manifest.Layers, 1)
		unzipped, err := gzip.NewReader(bytes.NewReader(read(manifest.Layers[0])))
		require.NoError(t, err)
		l.tar, err = io.ReadAll(unzipped)
		require.NoError(t, err)
		require.Equal(t, []string{fmt.Sprintf("sha256:%x", sha256.Sum256(l.tar))}, l.config.RootFS.DiffIDs)
		layers[m.Platform.Architecture] = l
	}
	return top.Manifests[0].Annotations["org.opencontainers.image.ref.name"], layers
}

type file struct {
	header  *tar.Header
	content []byte
}

func untar(t *testing.T, text []byte) map[string]file {
	t.Helper()
	files := map[string]file{}
	for r := tar.NewReader(bytes.NewReader(text)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		require.NoError(t, err)
		content, err := io.ReadAll(r)
		require.NoError(t, err)
		files[h.Name] = file{h, content}
	}
}

// TestImage looks at an image of two architectures. Its programs are the one that packs images, twice: what is in an image is
// the same for every program, and the collector takes minutes to build for an architecture that is not this one's.
func TestImage(t *testing.T) {
	tool, programs := packer(t), []string{}
	for _, arch := range []string{"amd64", "arm64"} {
		out := filepath.Join(t.TempDir(), arch)
		cmd := exec.CommandContext(t.Context(), "go", "build", "-C", "../tools", "-trimpath", "-o", out, "./image")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
		text, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", text)
		programs = append(programs, out)
	}
	args := append([]string{"-capabilities", "-name", "agent", "-version", "1.2.3", "-revision", "abc", "-created", "2026-01-02T03:04:05+01:00",
		"-config", "../../examples/container/config.yaml"}, programs...)
	image, err := pack(t, tool, args...)
	require.NoError(t, err)
	name, layers := openImage(t, image)
	require.Equal(t, "agent:1.2.3", name)
	require.Len(t, layers, 2)
	for _, program := range programs {
		arch := filepath.Base(program)
		config := layers[arch].config.Config
		assert.Equal(t, fmt.Sprintf("%d:%d", imageUser, imageUser), config.User)
		assert.Equal(t, []string{"/agent"}, config.Entrypoint)
		assert.Equal(t, []string{"--config=/etc/otelcol/config.yaml"}, config.Cmd)
		assert.Equal(t, "1.2.3", config.Labels["org.opencontainers.image.version"])
		assert.Equal(t, "abc", config.Labels["org.opencontainers.image.revision"])
		assert.Equal(t, "2026-01-02T02:04:05Z", config.Labels["org.opencontainers.image.created"])

		files := untar(t, layers[arch].tar)
		for name, source := range map[string]string{
			"agent":                   program,
			"etc/otelcol/config.yaml": "../../examples/container/config.yaml",
			"licenses/LICENSE":        "../../LICENSE",
			"licenses/NOTICE":         "../../NOTICE",
			"licenses/bpf/LICENSE":    "../../bpf/LICENSE",
		} {
			want, err := os.ReadFile(source)
			require.NoError(t, err)
			assert.True(t, bytes.Equal(want, files[name].content), "%s %s", arch, name)
		}
		assert.Contains(t, string(files["licenses/golang.org/x/mod/LICENSE"].content), "Redistribution and use")
		for name, f := range files {
			h := f.header
			assert.Zero(t, h.Uid+h.Gid, "%s belongs to root", name)
			assert.Zero(t, h.Mode&0o7022, "%s: writable for nobody but root, and no set-user-ID", name)
			assert.Equal(t, name == "agent", len(h.PAXRecords) > 0, "%s: file capabilities", name)
		}
	}

	again, err := pack(t, tool, args...)
	require.NoError(t, err)
	first, err := os.ReadFile(image)
	require.NoError(t, err)
	second, err := os.ReadFile(again)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(first, second), "the same input gives the same image")

	for _, bad := range []struct {
		name, want string
		programs   []string
	}{
		{"no program", "needs at least one collector", nil},
		{"two of one architecture", "are both for amd64", []string{programs[0], programs[0]}},
		{"no program of Go", "read what", []string{"/bin/sh"}},
	} {
		_, err := pack(t, tool, bad.programs...)
		assert.ErrorContains(t, err, bad.want, bad.name)
	}
}

// TestMakeImage looks at what `make image` tells of the image: the tag is the version that is asked for, or else that of the program.
func TestMakeImage(t *testing.T) {
	git := func(args ...string) string {
		out, err := exec.CommandContext(t.Context(), "git", append([]string{"-C", repository}, args...)...).Output()
		require.NoError(t, err)
		return strings.TrimSpace(string(out))
	}
	created, err := time.Parse(time.RFC3339, git("log", "-1", "--format=%cI"))
	require.NoError(t, err)
	for _, tt := range []struct {
		version   string
		variables []string
	}{
		{"1.2.3", []string{"VERSION=v1.2.3"}},
		{"0.0.0-dev", nil}, // builder-config.yaml
	} {
		name, layers := openImage(t, agentImage(t, tt.variables...))
		require.Equal(t, "otelcol-ebpfpackets:"+tt.version, name)
		require.Len(t, layers, 1)
		l := layers[runtime.GOARCH]
		assert.Equal(t, tt.version, l.config.Config.Labels["org.opencontainers.image.version"])
		assert.Equal(t, git("rev-parse", "HEAD"), l.config.Config.Labels["org.opencontainers.image.revision"])
		assert.Equal(t, created.UTC().Format(time.RFC3339), l.config.Config.Labels["org.opencontainers.image.created"])
		program := untar(t, l.tar)["otelcol-ebpfpackets"]
		assert.Contains(t, string(program.content), "github.com/ebpfpackets/ebpfpackets/receiver")
		assert.NotEmpty(t, program.header.PAXRecords, "file capabilities")
	}
}

// unpack has GNU tar make the image's root file system for this machine, with its extended attributes.
func unpack(t *testing.T, image string) (root string, config imageConfig) {
	t.Helper()
	_, layers := openImage(t, image)
	l, ok := layers[runtime.GOARCH]
	require.True(t, ok)
	root = t.TempDir()
	cmd := exec.CommandContext(t.Context(), testenv.Tool(t, "tar"), "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "-", "-C", root)
	cmd.Stdin = bytes.NewReader(l.tar)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return root, l.config
}

// containerSpec is what container runtimes ask an OCI runtime for, on the host's network and read-only: the namespaces and
// mounts are those of containerd and Docker, the seccomp profile is Docker's default.
func containerSpec(t *testing.T, root string, capabilities []string) *specs.Spec {
	t.Helper()
	readOnly := []string{"nosuid", "noexec", "nodev", "ro"}
	s := &specs.Spec{
		Version: "1.0.2", // all that the oldest crun needs to know
		Root:    &specs.Root{Path: root, Readonly: true},
		Process: &specs.Process{
			User:         specs.User{UID: imageUser, GID: imageUser},
			Cwd:          "/",
			Capabilities: &specs.LinuxCapabilities{Bounding: capabilities},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: readOnly},
		},
		Linux: &specs.Linux{
			Namespaces:    []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}},
			MaskedPaths:   []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	var err error
	s.Linux.Seccomp, err = seccomp.GetDefaultProfile(s)
	require.NoError(t, err)
	return s
}

// asKubernetes gives the process what containerd gives one of another user than root: its capabilities, until it executes a
// program that has none. With allowPrivilegeEscalation: false it can get no more.
func asKubernetes(s *specs.Spec) {
	c := s.Process.Capabilities
	c.Permitted, c.Effective = c.Bounding, c.Bounding
	s.Process.NoNewPrivileges = true
}

// asDocker gives the process nothing, as Docker does: it may get its capabilities from a program's file.
func asDocker(*specs.Spec) {}

// bind mounts a file or directory of the host; mode is ro or rw.
func bind(s *specs.Spec, source, destination, mode string) {
	s.Mounts = append(s.Mounts, specs.Mount{Destination: destination, Type: "bind", Source: source, Options: []string{"rbind", "nosuid", "nodev", mode}})
}

// contain starts a container in a network namespace. The OCI runtime gets a PID namespace, so that the container ends when it
// is killed, and a mount namespace with the unified hierarchy of control groups alone, for it knows no other beside that one.
func contain(t *testing.T, ns *testenv.NetNS, s *specs.Spec) *collector {
	t.Helper()
	testenv.Privileged(t)
	bundle := t.TempDir()
	text, err := json.Marshal(s)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o644))
	const script = `umount -R /sys/fs/cgroup 2>/dev/null; mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"`
	c := &collector{t: t, inner: true}
	c.cmd = exec.Command(testenv.Tool(t, "unshare"), "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script, "sh",
		testenv.Tool(t, "crun"), "--root", filepath.Join(bundle, "state"), "--cgroup-manager=disabled", "run", "--bundle", bundle, "one")
	c.cmd.Stdout, c.cmd.Stderr = &c.log, &c.log
	c.ended = ns.Start(c.cmd)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the container said:\n%s", c.log.String())
		}
	})
	return c
}

// TestImageCounts runs the image as Kubernetes and Docker do, and in ways that cannot work.
func TestImageCounts(t *testing.T) {
	testenv.Privileged(t)
	root, image := unpack(t, agentImage(t))
	for _, way := range []struct {
		name         string
		capabilities []string
		as           func(*specs.Spec)
		refused      string // what it says instead of counting
	}{
		{"Kubernetes", imageCapabilities, asKubernetes, ""},
		{"Docker", imageCapabilities, asDocker, ""},
		{"Docker, no-new-privileges", imageCapabilities, func(s *specs.Spec) { s.Process.NoNewPrivileges = true },
			"missing CAP_BPF (to load programs and maps)"},
		{"Kubernetes, a seccomp profile without bpf", imageCapabilities, func(s *specs.Spec) {
			asKubernetes(s)
			s.Linux.Seccomp = containerSpec(t, root, nil).Linux.Seccomp // what it is for those that lack the capability
		}, "operation not permitted (the capabilities are there; a seccomp filter is in force here, and must allow bpf(2)"},
		{"Kubernetes, one capability less", imageCapabilities[:2], asKubernetes, "Operation not permitted"},
		{"Kubernetes, none", nil, asKubernetes, "Operation not permitted"},
	} {
		t.Run(way.name, func(t *testing.T) {
			left, right := testenv.Pair(t, testenv.PairConfig{})
			s := containerSpec(t, root, way.capabilities)
			way.as(s)
			dir := t.TempDir()
			require.NoError(t, os.Chown(dir, imageUser, imageUser))
			bind(s, dir, "/out", "rw")
			config := filepath.Join(dir, "config.yaml")
			text := (&collector{output: "/out/otlp.jsonl"}).config("interfaces: {include: [left0]}\n")
			require.NoError(t, os.WriteFile(config, []byte(text), 0o644))
			s.Process.Args = slices.Concat(image.Config.Entrypoint, []string{"--config=/out/config.yaml"})

			c := contain(t, left.NetNS, s)
			c.output = filepath.Join(dir, "otlp.jsonl")
			if way.refused != "" {
				require.Error(t, c.awaitExit())
				assert.Contains(t, c.log.String(), way.refused)
				return
			}
			c.awaitReady()
			testenv.Echo(left, right, true, 2, 100)
			out := c.stop()
			assert.EqualValues(t, 2, out.counted("left0", "transmit").Packets)
			assert.EqualValues(t, 2, out.counted("left0", "receive").Packets)
		})
	}
	t.Run("by itself", func(t *testing.T) {
		left, right := testenv.Pair(t, testenv.PairConfig{})
		left.Run(testenv.Tool(t, "ip"), "route", "add", "default", "dev", "left0") // an uplink
		s := containerSpec(t, root, imageCapabilities)
		s.Process.Args = slices.Concat(image.Config.Entrypoint, image.Config.Cmd)
		c := contain(t, left.NetNS, s)
		c.awaitReady()
		testenv.Echo(left, right, true, 2, 100)
		c.terminate()
		assert.Contains(t, c.log.String(), "icmp")
	})
}
