// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestAccount(t *testing.T) {
	a := account{skipped: map[string][]string{}}
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

func TestModules(t *testing.T) {
	dirs, rest := modules([]string{"-C", "a", "-C", "b", "-race", "./..."})
	if got := strings.Join(dirs, " ") + " | " + strings.Join(rest, " "); got != "a b | -race ./..." {
		t.Errorf("got %q", got)
	}
}
