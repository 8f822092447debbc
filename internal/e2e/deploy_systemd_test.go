// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv/otlpcheck"
)

const systemdExample = "../../examples/systemd"

// TestSystemdUnit has systemd check the unit, and compares its verdict with the one in the README.
func TestSystemdUnit(t *testing.T) {
	analyze := testenv.Tool(t, "systemd-analyze")
	text, err := os.ReadFile(systemdExample + "/otelcol-ebpfpackets.service")
	require.NoError(t, err)
	unit := filepath.Join(t.TempDir(), "otelcol-ebpfpackets.service")
	installed := strings.ReplaceAll(string(text), "/usr/local/bin/otelcol-ebpfpackets", binary(t))
	require.NoError(t, os.WriteFile(unit, []byte(installed), 0o644))
	out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", unit).CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.NotContains(t, string(out), filepath.Base(unit), "nothing to complain about")

	readme, err := os.ReadFile(systemdExample + "/README.md")
	require.NoError(t, err)
	documented := regexp.MustCompile(`Overall exposure level for otelcol-ebpfpackets.service: (\d+\.\d)`).FindSubmatch(readme)
	require.NotNil(t, documented)
	level, err := strconv.ParseFloat(string(documented[1]), 64)
	require.NoError(t, err)
	threshold := "--threshold=" + strconv.Itoa(int(math.Round(level*10)))
	out, err = exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--no-pager", threshold, unit).CombinedOutput()
	assert.NoError(t, err, "%s", out)
}

// TestSystemdRestrictions runs the collector with the unit's capabilities, system calls and address families, in a file system
// with nothing but its files, against a gateway. systemd itself would have to be the first process of a machine.
func TestSystemdRestrictions(t *testing.T) {
	testenv.Privileged(t)
	u, secrets := readUnit(t), certificates(t)
	t.Run("as in the unit", func(t *testing.T) {
		left, right := testenv.Pair(t, testenv.PairConfig{})
		left.Run(testenv.Tool(t, "ip"), "route", "add", "default", "dev", left.Name) // an uplink
		gateway := launchAs(t, left.NetNS, func(c *collector) string { return otlpToFile(c.output, secrets["otlp-gateway-tls"]) })
		gateway.awaitReady()
		c := contain(t, left.NetNS, u.spec(t, u.systemCalls(t), secrets["otlp-agent-tls"]))
		c.awaitReady()
		sent := testenv.Transfer(left, right, false, 1000)
		c.terminate()
		gateway.awaitOutput(func(o *otlpcheck.Output) bool { return len(o.Flows()) == 1 && o.Total("network.flow.io", nil) > 0 })
		flow := gateway.read().Flows()[0]
		assert.Equal(t, sent.Client, flow.Source)
		assert.Equal(t, sent.Server, flow.Destination)
		assert.Regexp(t, ledgerLine, c.log.String())
		assert.NotContains(t, c.log.String(), "\terror\t")
	})
	t.Run("without bpf", func(t *testing.T) {
		left, _ := testenv.Pair(t, testenv.PairConfig{})
		calls := u.systemCalls(t)
		delete(calls, "bpf")
		c := contain(t, left.NetNS, u.spec(t, calls, secrets["otlp-agent-tls"]))
		require.Error(t, c.awaitExit())
		assert.Contains(t, c.log.String(), "operation not permitted")
	})
}

// otlpToFile is a gateway that writes what it gets to a file.
func otlpToFile(path, tls string) string {
	return `
receivers:
  otlp:
    protocols:
      grpc:
        endpoint: 127.0.0.1:4317
        tls: {cert_file: ` + tls + `/tls.crt, key_file: ` + tls + `/tls.key, client_ca_file: ` + tls + `/ca.crt}
exporters:
  file: {path: ` + path + `, flush_interval: 100ms}
service:
  telemetry: {metrics: {level: none}}
  pipelines:
    metrics: {receivers: [otlp], exporters: [file]}
    logs: {receivers: [otlp], exporters: [file]}
`
}

// unit has the settings of a service, in order.
type unit map[string][]string

func readUnit(t *testing.T) unit {
	t.Helper()
	text, err := os.ReadFile(systemdExample + "/otelcol-ebpfpackets.service")
	require.NoError(t, err)
	u := unit{}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			u[key] = append(u[key], value)
		}
	}
	return u
}

// one returns a setting that is there once.
func (u unit) one(t *testing.T, key string) string {
	t.Helper()
	require.Len(t, u[key], 1, key)
	return u[key][0]
}

// systemCalls returns the calls that the unit's filter lets through, as systemd says what its sets have.
func (u unit) systemCalls(t *testing.T) map[string]bool {
	t.Helper()
	calls := map[string]bool{}
	for _, filter := range u["SystemCallFilter"] {
		names, remove := strings.CutPrefix(filter, "~")
		for name := range strings.FieldsSeq(names) {
			for call := range systemCallSet(t, name) {
				if calls[call] = !remove; remove {
					delete(calls, call)
				}
			}
		}
	}
	return calls
}

func systemCallSet(t *testing.T, name string) map[string]bool {
	t.Helper()
	if !strings.HasPrefix(name, "@") {
		return map[string]bool{name: true}
	}
	out, err := exec.CommandContext(t.Context(), testenv.Tool(t, "systemd-analyze"), "syscall-filter", name).Output()
	require.NoError(t, err)
	calls := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		if entry := strings.TrimSpace(line); line[0] == ' ' && !strings.HasPrefix(entry, "#") {
			maps.Copy(calls, systemCallSet(t, entry))
		}
	}
	return calls
}

// spec is the unit as a container. Calls that settings restrict by their arguments are those of systemd's seccomp filters.
func (u unit) spec(t *testing.T, calls map[string]bool, tls string) *specs.Spec {
	t.Helper()
	capabilities := strings.Fields(u.one(t, "AmbientCapabilities"))
	require.Equal(t, capabilities, strings.Fields(u.one(t, "CapabilityBoundingSet")))
	s := containerSpec(t, t.TempDir(), capabilities)
	c := s.Process.Capabilities
	c.Ambient, c.Inheritable, c.Permitted, c.Effective = c.Bounding, c.Bounding, c.Bounding, c.Bounding
	s.Process.NoNewPrivileges = u.one(t, "NoNewPrivileges") == "yes"
	s.Process.Args = strings.Fields(u.one(t, "ExecStart"))
	s.Process.Env = append(slices.Clone(u["Environment"]), "CREDENTIALS_DIRECTORY=/credentials", "STATE_DIRECTORY=/state", "OTLP_GATEWAY=127.0.0.1:4317")
	s.Linux.Seccomp = u.seccomp(t, calls)

	state := t.TempDir()
	require.NoError(t, os.Chown(state, imageUser, imageUser))
	config, err := filepath.Abs(systemdExample)
	require.NoError(t, err)
	bind(s, binary(t), s.Process.Args[0], "ro")
	bind(s, config, "/etc/otelcol-ebpfpackets", "ro")
	bind(s, tls, "/credentials", "ro")
	bind(s, state, "/state", "rw")
	return s
}

func (u unit) seccomp(t *testing.T, calls map[string]bool) *specs.LinuxSeccomp {
	t.Helper()
	refuse := uint(unix.EPERM)
	filter := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: &refuse}
	allow := func(name string, arguments ...specs.LinuxSeccompArg) {
		filter.Syscalls = append(filter.Syscalls, specs.LinuxSyscall{Names: []string{name}, Action: specs.ActAllow, Args: arguments})
		delete(calls, name)
	}
	lacks := func(argument uint, bits uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: argument, Value: bits, ValueTwo: 0, Op: specs.OpMaskedEqual}
	}
	families := map[string]uint64{"AF_UNIX": unix.AF_UNIX, "AF_INET": unix.AF_INET, "AF_INET6": unix.AF_INET6, "AF_NETLINK": unix.AF_NETLINK}
	for name := range strings.FieldsSeq(u.one(t, "RestrictAddressFamilies")) {
		require.Contains(t, families, name)
		allow("socket", specs.LinuxSeccompArg{Index: 0, Value: families[name], Op: specs.OpEqualTo})
	}
	if u.one(t, "MemoryDenyWriteExecute") == "yes" {
		allow("mmap", lacks(2, unix.PROT_WRITE))
		allow("mmap", lacks(2, unix.PROT_EXEC))
		allow("mprotect", lacks(2, unix.PROT_EXEC))
		allow("pkey_mprotect", lacks(2, unix.PROT_EXEC))
	}
	if u.one(t, "RestrictNamespaces") == "yes" {
		allow("clone", lacks(0, unix.CLONE_NEWNS|unix.CLONE_NEWCGROUP|unix.CLONE_NEWUTS|unix.CLONE_NEWIPC|unix.CLONE_NEWUSER|unix.CLONE_NEWPID|unix.CLONE_NEWNET))
		for _, name := range []string{"clone3", "unshare", "setns"} {
			delete(calls, name)
		}
	}
	for name := range calls {
		filter.Syscalls = append(filter.Syscalls, specs.LinuxSyscall{Names: []string{name}, Action: specs.ActAllow})
	}
	return filter
}
