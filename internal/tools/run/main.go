// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

// Command run starts a collector and shows in words what it writes as OTLP JSON lines: flows, sampled packets, and the
// totals of each interface. It ends the collector on Ctrl-C and shows the receiver's last account. It is `make run`.
//
//	run <collector> <config.yaml> <out.jsonl>
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: run <collector> <config.yaml> <out.jsonl>")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "run:", err)
		os.Exit(1)
	}
}

func run(collector, config, out string) error {
	// Before anything is started, so that no Ctrl-C is missed.
	interrupt := make(chan os.Signal, 2)
	signal.Notify(interrupt, os.Interrupt, syscall.SIGTERM)

	out, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	lines, err := create(out)
	if err != nil {
		return err
	}
	defer lines.Close()

	cmd := exec.Command(collector, "--config", config)
	if os.Geteuid() != 0 {
		fmt.Println("run: not root: the collector is started with sudo")
		cmd = exec.Command("sudo", "--preserve-env=EBPFPACKETS_OUT", collector, "--config", config)
		cmd.Stdin = os.Stdin
	}
	cmd.Env = append(os.Environ(), "EBPFPACKETS_OUT="+out)
	logs, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	fmt.Printf("run: %s with %s; OTLP JSON lines go to %s; Ctrl-C ends it\n", collector, config, out)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the collector: %w", err)
	}

	view := newView(os.Stdout)
	ended := make(chan error, 1)
	go func() {
		view.logs(logs)
		ended <- cmd.Wait()
	}()
	follow := tail{r: bufio.NewReader(lines)}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	asked := false
	for {
		select {
		case <-interrupt:
			if !asked {
				asked = true
				fmt.Println("\nrun: ending the collector")
				_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself: then Wait says how
			}
		case <-tick.C:
			follow.each(view.line)
		case err := <-ended:
			follow.each(view.line)
			view.summary(out)
			if err != nil {
				return fmt.Errorf("the collector ended: %w", err)
			}
			return nil
		}
	}
}

// create makes the file that the collector writes to: here, so that it is the caller's even if the collector runs as root, and
// for nobody else, since names and paths of everybody on this machine are in it. The one of an earlier run goes, so that
// whoever has that open does not read on.
func create(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// tail reads the whole lines of a growing file.
type tail struct {
	r    *bufio.Reader
	part []byte // of a line whose end is not written yet
}

func (t *tail) each(f func(line []byte)) {
	for {
		b, err := t.r.ReadBytes('\n')
		t.part = append(t.part, b...)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				fmt.Fprintln(os.Stderr, "run: read the collector's output:", err)
			}
			return
		}
		f(bytes.TrimSpace(t.part))
		t.part = t.part[:0]
	}
}
