// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kernelmatrix

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// row is one kernel of the matrix: a kernel package of a Debian suite.
type row struct {
	name     string // of the subtest and of the directory in the cache
	suite    string
	security bool     // the suite has a -security part, with newer kernels
	arch     string   // of Debian and of Go
	byHand   bool     // only if EBPFPACKETS_KERNELS names it: what the suite has now is known to nobody
	tests    []string // of this package
	attach   []string // of internal/kernel; "Test/sub" must have passed as well as Test
	built    []string // of internal/e2e, with the built collector, which is of this machine's architecture
	modules  []string // that the tests need, beside those which these need
	pkg      string   // meta-package that depends on the newest kernel
}

var (
	attachTests = []string{
		"TestEachWayOfAttachingIsExact", "TestEachWayOfAttachingIsExact/clsact", "TestFiltersOfOthersStay",
		"TestAKilledProcessLeavesAFilterThatStopsAndIsReplaced",
	}
	attachTestsOfFloor = []string{
		"TestNamespacesNeverMix", "TestNamespacesNeverMix/clsact", "TestLeftoversGoWhereNobodyAttaches",
		"TestInterfacesComeAndGoUnderTraffic", "TestInterfacesComeAndGoUnderTraffic/clsact",
	}
	privilegeTests   = []string{"TestAMissingPrivilegeIsNamed", "TestOtherCapabilitiesStandForThem", "TestAUserNamespaceIsNamed"}
	attachTestsOfTCX = []string{
		"TestEachWayOfAttachingIsExact", "TestEachWayOfAttachingIsExact/tcx", "TestEachWayOfAttachingIsExact/clsact",
		"TestTCXProgramsOfOthersStay", "TestAKilledProcessLeavesNoTCXProgram", "TestNamespacesNeverMix", "TestNamespacesNeverMix/tcx",
	}
	attachModules = []string{"veth", "sch_ingress", "cls_bpf", "cls_u32"}

	builtTests   = []string{"TestInterfacesOnInterfacesCountOnce"}
	builtModules = []string{"8021q", "bonding"}
)

var kernels = []row{
	{ // the floor
		name: "5.10", suite: "bullseye", security: true, arch: "amd64", pkg: "linux-image-cloud-amd64",
		tests:  []string{"TestLoad", "TestACPUThatComesLaterIsCounted", "TestRealTimeKernelsAreRefused", "TestDevices", "TestDevicesThatAreNot"},
		attach: slices.Concat(attachTests, privilegeTests, attachTestsOfFloor), built: builtTests,
		modules: slices.Concat(deviceModules, attachModules, builtModules),
	},
	{
		name: "6.1", suite: "bookworm", security: true, arch: "amd64", pkg: "linux-image-cloud-amd64",
		tests: []string{"TestLoad", "TestACPUThatComesLaterIsCounted", "TestDevices", "TestDevicesThatAreNot"}, attach: slices.Concat(attachTests, privilegeTests), built: builtTests,
		modules: slices.Concat(deviceModules, attachModules, builtModules),
	},
	{
		name: "6.12", suite: "trixie", security: true, arch: "amd64", pkg: "linux-image-cloud-amd64",
		tests:  []string{"TestLoad", "TestACPUThatComesLaterIsCounted", "TestDevices", "TestSegmentsInDevices", "TestDevicesThatAreNot", "TestDevicesOfIPsecBeginInTwoWays", "TestTunnelsOnTheWire"},
		attach: attachTestsOfTCX, built: builtTests, modules: slices.Concat(deviceModules, attachModules, builtModules),
	},
	{
		name: "6.12-arm64", suite: "trixie", security: true, arch: "arm64", pkg: "linux-image-cloud-arm64",
		tests: []string{"TestLoad", "TestACPUThatComesLaterIsCounted", "TestDevices", "TestDevicesThatAreNot"}, modules: deviceModules,
	},
	{
		name: "backports", suite: "trixie-backports", arch: "amd64", pkg: "linux-image-cloud-amd64", byHand: true,
		tests:  []string{"TestLoad", "TestACPUThatComesLaterIsCounted", "TestDevices", "TestSegmentsInDevices", "TestDevicesThatAreNot", "TestDevicesOfIPsecBeginInTwoWays", "TestTunnelsOnTheWire"},
		attach: slices.Concat(attachTestsOfTCX, privilegeTests), built: builtTests, modules: slices.Concat(deviceModules, attachModules, builtModules),
	},
	{
		name: "backports-rt", suite: "trixie-backports", arch: "amd64", pkg: "linux-image-rt-amd64", byHand: true,
		tests: []string{"TestRealTimeKernelsAreRefused"},
	},
}

// chosen are those that EBPFPACKETS_KERNELS names, or all but those by hand.
func chosen(t *testing.T) (rows []row) {
	t.Helper()
	names := strings.Fields(os.Getenv("EBPFPACKETS_KERNELS"))
	for _, k := range kernels {
		if slices.Contains(names, k.name) || len(names) == 0 && !k.byHand {
			rows = append(rows, k)
		}
	}
	if len(names) > 0 && len(rows) != len(names) {
		t.Fatalf("EBPFPACKETS_KERNELS must name kernels of the matrix, got %q", names)
	}
	return rows
}

// guestTimeout ends a guest that hangs. Four, one by one on what other tests leave of two cores (.ci/test), took 425 and 512 s.
const guestTimeout = 15 * time.Minute

// TestKernels boots each kernel and runs its tests there.
func TestKernels(t *testing.T) {
	for _, tool := range []string{machines["amd64"][0], machines["arm64"][0], "apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			lacking(t, "needs "+tool)
		}
	}
	files := built(t)
	maps.Copy(files[runtime.GOARCH], collector(t))
	for _, k := range chosen(t) {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel() // a guest waits more than it computes
			if len(k.built) > 0 && k.arch != runtime.GOARCH {
				lacking(t, "needs a collector for "+k.arch)
			}
			dir := k.fetched(t)
			root := initramfs(files[k.arch], []byte(k.commands()), k.loadOrder(t, dir))
			image := filepath.Join(dir, imageName)
			console := k.boot(t, image, root)
			for attempt := 1; attempt < boots && !started(console); attempt++ {
				t.Logf("the kernel did not reach process 1; booting again:\n%s", console)
				console = k.boot(t, image, root)
			}
			console = keepCaptures(t, console)
			t.Logf("serial console:\n%s", console)
			if !bytes.Contains(console, []byte("\nguest: exit 0\n")) {
				t.Errorf("the guest with kernel %s did not end well", k.name)
			}
			for _, test := range slices.Concat(k.tests, k.attach, k.built) {
				if !bytes.Contains(console, []byte("--- PASS: "+test+" (")) {
					t.Errorf("%s did not pass on kernel %s", test, k.name)
				}
			}
		})
	}
}

// capturePrefix begins a line of the console with a capture: its name, and base64.
const capturePrefix = "capture: "

// keepCaptures takes captures out of what a guest wrote, and writes them to the directory that EBPFPACKETS_CAPTURES names, if it does.
func keepCaptures(t *testing.T, console []byte) (rest []byte) {
	t.Helper()
	dir := os.Getenv("EBPFPACKETS_CAPTURES")
	for line := range bytes.Lines(console) {
		capture, ok := bytes.CutPrefix(line, []byte(capturePrefix))
		if !ok {
			rest = append(rest, line...)
			continue
		}
		name, encoded, _ := strings.Cut(strings.TrimSpace(string(capture)), " ")
		content, err := base64.StdEncoding.DecodeString(encoded)
		if err == nil && dir != "" {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(name)), content, 0o644)
		}
		if err != nil {
			t.Errorf("keep capture %q: %v", name, err)
		}
	}
	return rest
}

// collector returns the one that was built for this machine, and metadata.yaml, which its tests look for two directories above the
// one that they run in: "/" of a guest.
func collector(t *testing.T) map[string][]byte {
	t.Helper()
	path := os.Getenv("EBPFPACKETS_COLLECTOR")
	if path == "" {
		path = "../../_build/otelcol-ebpfpackets"
	}
	collector, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("needs the collector (make collector): %v", err)
	}
	metadata, err := os.ReadFile("../../metadata.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"collector": collector, "metadata.yaml": metadata}
}

// commands are those that process 1 runs.
func (k row) commands() (lines string) {
	for _, binary := range []struct {
		path  string
		tests []string
	}{{"/kernelmatrix.test", k.tests}, {"/kernel.test", k.attach}, {"/e2e.test", k.built}} {
		tests := slices.DeleteFunc(slices.Clone(binary.tests), func(name string) bool { return strings.Contains(name, "/") })
		if len(tests) > 0 {
			lines += binary.path + " -test.v -test.run=^(" + strings.Join(tests, "|") + ")$\n"
		}
	}
	return lines
}

// boots is how often a kernel is started before one that does not reach process 1 is a failure.
const boots = 3

// started reports whether the guest came to run process 1. Before that nothing of ours is loaded, so a kernel that breaks
// there says nothing about the programs: 6.12 did once, with an int3 Oops while it booted, under qemu 7.2. Whatever breaks
// later is a failure.
func started(console []byte) bool { return bytes.Contains(console, []byte("\nguest: started\n")) }

// machines are the commands that start a guest, by architecture. TCG on purpose: nested KVM is present on some machines and
// then does not work.
var machines = map[string][]string{
	"amd64": {"qemu-system-x86_64", "-accel", "tcg", "-cpu", "max"},
	// Without pointer authentication, whose emulation takes most of the time otherwise.
	"arm64": {"qemu-system-aarch64", "-accel", "tcg", "-machine", "virt", "-cpu", "max,pauth=off"},
}

// consoles are the serial ports of those machines.
var consoles = map[string]string{"amd64": "ttyS0", "arm64": "ttyAMA0"}

// A test of this package that no kernel runs by itself would look as if it were, one for a newer kernel than there is among those of CI,
// for instance: each is in a row of the matrix. No test elsewhere leaves itself out for want of a newer kernel; it would fail.
func TestEveryTestRunsOnAKernel(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), os.Args[0], "-test.list=^Test").Output()
	if err != nil {
		t.Fatal(err)
	}
	run := map[string]bool{"TestKernels": true, "TestEveryTestRunsOnAKernel": true}
	for _, k := range kernels {
		for _, name := range k.tests {
			run[name] = run[name] || !k.byHand
		}
	}
	for name := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(name, "Test") && !run[name] {
			t.Errorf("%s runs on no kernel of the matrix", name)
		}
	}
}

// boot returns what a guest wrote to its serial console until it switched itself off.
func (k row) boot(t *testing.T, image string, root []byte) []byte {
	t.Helper()
	initrd := filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(initrd, root, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), guestTimeout)
	defer cancel()
	var console bytes.Buffer
	args := append(slices.Clone(machines[k.arch]), "-smp", "2", "-m", "1G",
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-kernel", image, "-initrd", initrd,
		"-append", "console="+consoles[k.arch]+" loglevel=4 panic=-1 random.trust_cpu=on")
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &console, &console
	err := cmd.Run()
	out := bytes.ReplaceAll(console.Bytes(), []byte("\r"), nil)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t.Fatalf("guest did not end within %v:\n%s", guestTimeout, out)
	}
	if err != nil {
		t.Fatalf("qemu: %v\n%s", err, out)
	}
	return out
}

// built returns static Linux binaries, by architecture and name: process 1 ("guest") and the tests; those with the built collector are
// for this machine only.
func built(t *testing.T) map[string]map[string][]byte {
	t.Helper()
	dirs, waits := map[string]string{}, []func(){}
	for arch := range machines {
		dirs[arch] = t.TempDir()
		waits = append(waits,
			build(t, arch, dirs[arch], []string{"build"}, "./guest"),
			build(t, arch, dirs[arch], []string{"test", "-c"}, ".", "../kernel"))
	}
	waits = append(waits, build(t, runtime.GOARCH, dirs[runtime.GOARCH], []string{"-C", "../e2e", "test", "-c"}, "."))
	for _, wait := range waits {
		wait()
	}
	binaries := map[string]map[string][]byte{}
	for arch, dir := range dirs {
		binaries[arch] = map[string][]byte{}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if binaries[arch][e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	return binaries
}

// build starts a go command that writes binaries to dir. What is compiled already is read from the disk and linked, so that it is
// worth while to start several before waiting.
func build(t *testing.T, arch, dir string, command []string, packages ...string) (wait func()) {
	t.Helper()
	args := slices.Concat(command, []string{"-trimpath", "-ldflags=-s -w", "-o", dir + "/"}, packages)
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := cmd.Wait(); err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, &said)
		}
	}
}

// lacking skips the test, or fails it where the caller said that nothing is to be skipped.
func lacking(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("EBPFPACKETS_PRIVILEGED") == "1" {
		t.Fatal(what)
	}
	t.Skip(what)
}
