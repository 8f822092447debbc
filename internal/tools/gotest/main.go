// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

// Command gotest runs `go test` in one or more modules and ends with an account: how many tests passed, which failed,
// which were left out for what reason, and which took longest.
//
//	gotest [-C dir]... [flags and packages of go test]
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

func main() {
	dirs, args := modules(os.Args[1:])
	run := newAccount()
	broken := false
	for _, dir := range dirs {
		if err := run.module(dir, args); err != nil {
			broken = true
		}
	}
	run.report(os.Stdout)
	if broken || run.failed > 0 || run.empty() {
		os.Exit(1)
	}
}

// modules splits the leading -C flags from what is for go test.
func modules(args []string) (dirs, rest []string) {
	for len(args) >= 2 && args[0] == "-C" {
		dirs, args = append(dirs, args[1]), args[2:]
	}
	if len(dirs) == 0 {
		dirs = []string{"."}
	}
	return dirs, args
}

// event is one line of `go test -json` (go doc test2json).
type event struct {
	Time                          time.Time
	Action, Package, Test, Output string
	Elapsed                       float64
}

// account adds up what happened to each test.
type account struct {
	passed, failed int
	failures       []string
	skipped        map[string][]string // reason => tests
	took           stopwatch
}

func newAccount() account {
	return account{
		skipped: map[string][]string{},
		took:    stopwatch{since: map[string]time.Time{}, ran: map[string]time.Duration{}},
	}
}

func (a *account) module(dir string, args []string) error {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		fmt.Println(err)
		return err
	}
	a.read(out)
	return cmd.Wait()
}

func (a *account) read(r io.Reader) {
	output := map[[2]string][]string{} // of each running test, kept until it is known whether anyone wants it
	counts := map[string]int{}         // tests passed in each package
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var e event
		if json.Unmarshal(line, &e) != nil {
			fmt.Print(string(line)) // go's own words, such as a package pattern that matches nothing
			continue
		}
		a.took.see(e)
		id := [2]string{e.Package, e.Test}
		switch e.Action {
		case "build-output":
			fmt.Print(e.Output)
		case "output":
			output[id] = append(output[id], e.Output)
		case "pass", "fail", "skip":
			if e.Test == "" {
				a.endPackage(e, output[id], counts[e.Package])
			} else {
				counts[e.Package] += a.endTest(e, output[id])
			}
			delete(output, id)
		}
	}
}

// endTest returns how many tests passed: 0 or 1.
func (a *account) endTest(e event, output []string) int {
	name := shortName(e.Package) + "." + e.Test
	switch e.Action {
	case "pass":
		a.passed++
		return 1
	case "fail":
		a.failed++
		a.failures = append(a.failures, name)
		fmt.Print(strings.Join(output, ""))
	case "skip":
		a.skipped[reason(output)] = append(a.skipped[reason(output)], name)
	}
	return 0
}

func (a *account) endPackage(e event, output []string, passed int) {
	switch {
	case e.Action == "fail":
		// The package's own output says what no test does: a panic, a data race, a timeout, os.Exit.
		fmt.Print(strings.Join(output, ""))
		a.failures = append(a.failures, shortName(e.Package))
	case passed > 0:
		fmt.Printf("ok   %-60s %6.1f s  %d tests\n", e.Package, e.Elapsed, passed)
	default:
		fmt.Printf("-    %-60s no test ran\n", e.Package)
	}
}

// empty reports whether there was no test: the packages and flags name none.
func (a *account) empty() bool { return a.passed == 0 && len(a.skipped) == 0 }

func (a *account) report(w io.Writer) {
	left := 0
	for _, tests := range a.skipped {
		left += len(tests)
	}
	fmt.Fprintf(w, "\n%d tests passed, %d failed, %d left out\n", a.passed, a.failed, left)
	for _, name := range a.failures {
		fmt.Fprintf(w, "  FAIL %s\n", name)
	}
	reasons := make([]string, 0, len(a.skipped))
	for r := range a.skipped {
		reasons = append(reasons, r)
	}
	slices.Sort(reasons)
	for _, r := range reasons {
		fmt.Fprintf(w, "  left out: %s\n    %s\n", r, strings.Join(a.skipped[r], "\n    "))
	}
	a.took.report(w)
	if a.passed > 0 && len(a.failures) == 0 {
		fmt.Fprintln(w, "ok")
	}
}

var logLine = regexp.MustCompile(`^\s+\S+\.go:\d+: (.*)\n$`)

// reason is the last thing a skipped test logged.
func reason(output []string) string {
	for _, line := range slices.Backward(output) {
		if m := logLine.FindStringSubmatch(line); m != nil {
			return m[1]
		}
	}
	return "no reason given"
}

func shortName(pkg string) string {
	const module = "github.com/ebpfpackets/ebpfpackets"
	if pkg == module {
		return "the root package"
	}
	return strings.TrimPrefix(pkg, module+"/")
}
