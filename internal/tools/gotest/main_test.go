// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

func TestAccount(t *testing.T) {
	a := newAccount()
	a.read(strings.NewReader(`{"Action":"start","Package":"github.com/ebpfpackets/ebpfpackets/internal/flow"}
{"Action":"pass","Package":"github.com/ebpfpackets/ebpfpackets/internal/flow","Test":"TestOne"}
{"Action":"output","Package":"github.com/ebpfpackets/ebpfpackets/internal/flow","Test":"TestTwo","Output":"    two_test.go:7: needs CAP_BPF\n"}
{"Action":"output","Package":"github.com/ebpfpackets/ebpfpackets/internal/flow","Test":"TestTwo","Output":"--- SKIP: TestTwo (0.00s)\n"}
{"Action":"skip","Package":"github.com/ebpfpackets/ebpfpackets/internal/flow","Test":"TestTwo"}
{"Action":"fail","Package":"github.com/ebpfpackets/ebpfpackets/internal/flow","Test":"TestThree"}
{"Action":"fail","Package":"github.com/ebpfpackets/ebpfpackets/internal/flow"}
{"Action":"fail","Package":"github.com/ebpfpackets/ebpfpackets","Elapsed":0.1}
`))
	var got bytes.Buffer
	a.report(&got)
	const want = `
1 tests passed, 1 failed, 1 left out
  FAIL internal/flow.TestThree
  FAIL internal/flow
  FAIL the root package
  left out: needs CAP_BPF
    internal/flow.TestTwo
`
	if got.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", got.String(), want)
	}
}

func TestNoTestAtAllIsAFailure(t *testing.T) {
	a := newAccount()
	if !a.empty() {
		t.Error("nothing ran")
	}
	a.read(strings.NewReader(line("00:00", "skip", "TestLeftOut")))
	if a.empty() {
		t.Error("one was left out, which is reported")
	}
}

func TestModules(t *testing.T) {
	dirs, rest := modules([]string{"-C", "a", "-C", "b", "-race", "./..."})
	if got := strings.Join(dirs, " ") + " | " + strings.Join(rest, " "); got != "a b | -race ./..." {
		t.Errorf("got %q", got)
	}
}

func TestTheSlowestTestsAreNamed(t *testing.T) {
	a := newAccount()
	for i := range 12 {
		name := fmt.Sprintf("Test%02d", i)
		a.read(strings.NewReader(line("05:00", "run", name) + line(fmt.Sprintf("05:%02d", i), "pass", name)))
	}
	a.read(strings.NewReader(
		// Elapsed is 6 s: it ends where the parallel subtest goes on.
		line("10:00", "run", "TestGuests") + line("10:06", "run", "TestGuests/one") + line("10:06", "pause", "TestGuests/one") +
			line("10:06", "cont", "TestGuests/one") + line("11:40", "pass", "TestGuests/one") + line("11:40", "pass", "TestGuests") +
			// Runs 3 s and 17 s.
			line("20:00", "run", "TestParallel") + line("20:03", "pause", "TestParallel") +
			line("25:00", "cont", "TestParallel") + line("25:17", "fail", "TestParallel")))
	var got bytes.Buffer
	a.took.report(&got)
	const want = `  slow: 100 s in internal/flow.TestGuests
  slow: 20 s in internal/flow.TestParallel
  slow: 11 s in internal/flow.Test11
  slow: 10 s in internal/flow.Test10
  slow: 9 s in internal/flow.Test09
  slow: 8 s in internal/flow.Test08
  slow: 7 s in internal/flow.Test07
  slow: 6 s in internal/flow.Test06
  slow: 5 s in internal/flow.Test05
  slow: 4 s in internal/flow.Test04
`
	if got.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", got.String(), want)
	}
}

// line is a line of go test -json, at a minute and second.
func line(at, action, test string) string {
	return fmt.Sprintf(`{"Time":"2026-11-22T09:%s.5Z","Action":%q,"Package":"github.com/ebpfpackets/ebpfpackets/internal/flow","Test":%q}`+"\n", at, action, test)
}
