// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// inContainer starts the collector as Docker does: with its runtime and its seccomp profile, as another user than root that can get no
// more than three capabilities, a read-only file system but for its output, in namespaces of its own but for that of the network. The
// profile depends on the capabilities; it is the one for those in profiled.
func inContainer(t *testing.T, ns *testenv.NetNS, settings string, profiled ...string) *collector {
	t.Helper()
	testenv.Privileged(t)
	runc := testenv.Tool(t, "runc")
	bundle := t.TempDir()
	id := "ebpfpackets-" + filepath.Base(filepath.Dir(bundle))
	t.Cleanup(func() {
		_ = exec.Command(runc, "delete", "--force", id).Run() // it goes when it ends
	})
	return launchAs(t, ns, func(c *collector) string {
		dir := filepath.Dir(c.output)
		require.NoError(t, os.Chown(dir, nobody, nobody))
		require.NoError(t, openWay(dir))
		spec := defaultSpec(t, runc, bundle)
		confine(t, spec, profiled)
		for path, mode := range map[string]string{binary(t): "ro", dir: "rw"} {
			spec.Mounts = append(spec.Mounts, specs.Mount{Destination: path, Type: "bind", Source: path, Options: []string{"rbind", mode}})
		}
		spec.Process.Args = []string{binary(t), "--config", filepath.Join(dir, "config.yaml")}
		text, err := json.Marshal(spec)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o600))
		return c.config(settings)
	}, "sh", "-c", fmt.Sprintf("exec %s run --bundle %s %s", runc, bundle, id)) // the command is in the bundle
}

// defaultSpec makes a bundle whose root file system has what Docker puts into any, and returns what the runtime suggests for it.
func defaultSpec(t *testing.T, runc, bundle string) *specs.Spec {
	t.Helper()
	require.NoError(t, openWay(bundle))
	etc := filepath.Join(bundle, "rootfs", "etc")
	require.NoError(t, os.MkdirAll(etc, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(etc, "hosts"), []byte("127.0.0.1 localhost\n"), 0o644))
	out, err := exec.CommandContext(t.Context(), runc, "spec", "--bundle", bundle).CombinedOutput()
	require.NoError(t, err, "%s", out)
	path := filepath.Join(bundle, "config.json")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var spec specs.Spec
	require.NoError(t, json.Unmarshal(text, &spec))
	require.True(t, spec.Root.Readonly)
	require.True(t, spec.Process.NoNewPrivileges)
	return &spec
}

func confine(t *testing.T, spec *specs.Spec, profiled []string) {
	t.Helper()
	var err error
	spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: profiled}
	spec.Linux.Seccomp, err = seccomp.GetDefaultProfile(spec)
	require.NoError(t, err)
	spec.Process.Terminal = false
	spec.Process.User = specs.User{UID: nobody, GID: nobody}
	spec.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding: theThree, Effective: theThree, Permitted: theThree, Inheritable: theThree, Ambient: theThree,
	}
	spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
}

var theThree = []string{"CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"}

func TestContainer(t *testing.T) {
	left, right := testenv.Pair(t, testenv.PairConfig{})
	c := inContainer(t, left.NetNS, "interfaces: {include: [left0]}\n", theThree...)
	c.awaitReady()
	testenv.Echo(left, right, true, 2, 100)
	out := c.stop()
	assert.EqualValues(t, 2, out.counted("left0", "transmit").Packets)
	assert.EqualValues(t, 2, out.counted("left0", "receive").Packets)
}

// Profiles that are older than CAP_BPF let only CAP_SYS_ADMIN call bpf.
func TestASeccompProfileThatForbidsBPFIsNamed(t *testing.T) {
	left, _ := testenv.Pair(t, testenv.PairConfig{})
	c := inContainer(t, left.NetNS, "interfaces: {include: [left0]}\n")
	var exit *exec.ExitError
	require.ErrorAs(t, c.awaitExit(), &exit)
	assert.Contains(t, c.log.String(), "load programs: probe tcx: load program: operation not permitted (the capabilities are there; "+
		"a seccomp filter is in force here, and must allow bpf(2): the profile of a container, SystemCallFilter= of a systemd unit)")
}
