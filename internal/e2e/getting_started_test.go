// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// building is patience with what `make run` compiles and links, on a busy machine.
const building = 5 * time.Minute

// The page's blocks of language console. A line that begins with "$ " is a command, the others are what it prints. In a block marked
// "stays", the command goes on until a later such block has the line "^C"; what these blocks show is what it prints meanwhile.
var consoleBlock = regexp.MustCompile("(?ms)^```console( stays)?\n(.*?)^```$")

// TestGettingStarted does what docs/getting-started.md says, as root in a namespace without any network, in a clone of the sources as
// they are here.
func TestGettingStarted(t *testing.T) {
	t.Parallel() // beside tests that mostly wait
	testenv.Privileged(t)
	for _, tool := range []string{"bash", "git", "make", "curl", "ping"} {
		testenv.Tool(t, tool)
	}
	page, err := os.ReadFile(repository + "/docs/getting-started.md")
	require.NoError(t, err)
	r := newReader(t)
	for _, b := range consoleBlock.FindAllStringSubmatch(string(page), -1) {
		for line := range strings.Lines(b[2]) {
			line = strings.TrimSuffix(line, "\n")
			command, isCommand := strings.CutPrefix(line, "$ ")
			switch {
			case isCommand && b[1] != "":
				r.begin(command)
			case isCommand:
				r.run(command)
			case line == "^C":
				r.interrupt()
			case b[1] != "":
				r.await(line)
			default:
				r.compare(line)
			}
		}
	}
	require.Equal(t, []int{2, 2}, []int{r.interrupted, r.begun})
	require.Greater(t, r.ran, 5)
}

// reader is somebody with two terminals who follows the page.
type reader struct {
	*testing.T
	ns     *testenv.NetNS
	dir    string   // where the shells are
	env    []string // beside this process's
	output string   // what the last command printed

	stays *exec.Cmd // in the first terminal; nil: nothing runs there
	ended <-chan error
	said  *safeBuffer // by what stays
	seen  int         // bytes of it that the page has shown

	ran, begun, interrupted int
}

func newReader(t *testing.T) *reader {
	dir := t.TempDir()
	config := filepath.Join(dir, "gitconfig")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `[safe]
	directory = *
[user]
	name = test
	email = test@example.com
[url "%s/"]
	insteadOf = https://github.com/ebpfpackets/
`, dir), 0o600))
	r := &reader{T: t, ns: testenv.NewNetNS(t), dir: t.TempDir(), env: []string{"GIT_CONFIG_GLOBAL=" + config, "GOPROXY=off", "GOSUMDB=off"}}
	// What is not committed yet belongs to it.
	origin := filepath.Join(dir, "ebpfpackets")
	r.shell("git init -q " + origin)
	r.dir = absolute(t, repository)
	r.shell("(git ls-files -coz --exclude-standard; git ls-files -dz) | sort -z | uniq -zu | xargs -0 cp --parents -t " + origin)
	r.dir = origin
	r.shell("git add -A; git commit -q -m test")
	r.dir = t.TempDir()
	return r
}

func absolute(t *testing.T, path string) string {
	path, err := filepath.Abs(path)
	require.NoError(t, err)
	return path
}

// command is one for a shell. Whoever runs the test is root.
func (r *reader) command(ctx context.Context, text string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "bash", "-c", "set -euo pipefail\n"+strings.TrimPrefix(text, "sudo "))
	cmd.Dir, cmd.Env = r.dir, append(os.Environ(), r.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as terminals do, for Ctrl-C
	return cmd
}

// shell runs a command to its end, and stays where it went.
func (r *reader) shell(text string) string {
	r.Helper()
	var out safeBuffer
	cmd := r.command(r.Context(), text+"\npwd >&3")
	where, err := os.CreateTemp(r.TempDir(), "pwd")
	require.NoError(r, err)
	defer where.Close()
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = &out, &out, []*os.File{where}
	select {
	case err := <-r.ns.Start(cmd):
		require.NoError(r, err, "%s\n%s", text, &out)
	case <-time.After(patience):
		r.Fatalf("%q did not end within %v:\n%s", text, patience, &out)
	}
	dir, err := os.ReadFile(where.Name())
	require.NoError(r, err)
	r.dir = strings.TrimSpace(string(dir))
	return out.String()
}

func (r *reader) run(command string) {
	r.Helper()
	r.ran++
	r.output = r.shell(command)
	r.Logf("%q said:\n%s", command, r.output)
}

// begin starts what stays.
func (r *reader) begin(command string) {
	r.Helper()
	require.Nil(r, r.stays, "%q: something else still runs in this terminal", command)
	r.begun++
	r.stays, r.said, r.seen = r.command(context.Background(), "exec "+strings.TrimPrefix(command, "sudo ")), &safeBuffer{}, 0
	r.stays.Stdout, r.stays.Stderr = r.said, r.said
	r.ended = r.ns.Start(r.stays)
	group, said := r.stays.Process.Pid, r.said
	r.Cleanup(func() {
		r.Logf("%q said:\n%s", command, said)
		_ = syscall.Kill(-group, syscall.SIGKILL) // it may have ended
	})
}

// interrupt is Ctrl-C.
func (r *reader) interrupt() {
	r.Helper()
	require.NotNil(r, r.stays)
	r.interrupted++
	require.NoError(r, syscall.Kill(-r.stays.Process.Pid, syscall.SIGINT))
	select {
	case err := <-r.ended:
		if status, _ := r.stays.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGINT { // make's way
			assert.NoError(r, err)
		}
	case <-time.After(patience):
		r.Fatal("what stays did not end")
	}
	r.stays = nil
}

var number = regexp.MustCompile(`\d+`)

// shown is what a line of the page stands for: numbers differ, and "…" is anything.
func shown(line string) *regexp.Regexp {
	pattern := number.ReplaceAllString(regexp.QuoteMeta(line), `\d+`)
	return regexp.MustCompile(`(?m)^` + strings.ReplaceAll(pattern, "…", ".*"))
}

// await waits for a line of what stays, behind those that were shown before.
func (r *reader) await(line string) {
	r.Helper()
	pattern := shown(line)
	for deadline := time.Now().Add(building); ; time.Sleep(50 * time.Millisecond) {
		over := len(r.ended) > 0 || time.Now().After(deadline)
		if found := pattern.FindStringIndex(r.said.String()[r.seen:]); found != nil {
			r.seen += found[1]
			return
		}
		require.False(r, over, "%v ended or said nothing for %v; the page shows %q", r.stays, building, line)
	}
}

// compare looks for a line in what the last command printed.
func (r *reader) compare(line string) {
	r.Helper()
	assert.Regexp(r, shown(line), r.output)
}
