// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// MostVerified is how many instructions of a program a verifier may walk: half of where it gives up leaves room for kernels whose verifier
// sees less far than those that tests run on.
const MostVerified = 500_000

// Privileged leaves the test out unless it may load programs and attach them.
func Privileged(tb testing.TB) {
	tb.Helper()
	if missing := missingCapabilities(); len(missing) > 0 {
		LeaveOut(tb, "needs CAP_BPF and CAP_NET_ADMIN (and CAP_PERFMON): "+strings.Join(missing, ", ")+" missing")
	}
}

// Tool returns the path of a program, or leaves the test out.
func Tool(tb testing.TB, name string) string {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		LeaveOut(tb, "needs "+name)
	}
	return path
}

// LeaveOut skips the test and says what is missing. EBPFPACKETS_PRIVILEGED=1 turns it into a failure, so that a CI job made
// for these tests cannot leave them out unnoticed.
func LeaveOut(tb testing.TB, why string) {
	tb.Helper()
	if os.Getenv("EBPFPACKETS_PRIVILEGED") == "1" {
		tb.Fatal(why)
	}
	tb.Skip(why)
}
