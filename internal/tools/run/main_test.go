// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"
	"path/filepath"
	"testing"
)

// Names and paths are in the file: nobody else reads it, not one of an earlier run either.
func TestTheFileIsForTheCallerAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "otlp.jsonl")
	for _, run := range []string{"first", "second", "after one whose file everybody could read"} {
		lines, err := create(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != 0o600 {
			t.Errorf("%s run: the file has mode %v", run, got)
		}
		if err := os.WriteFile(path, []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(lines); err != nil || string(text) != "secret" {
			t.Errorf("%s run: what is written to the file reads %q, %v", run, text, err)
		}
		lines.Close()
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Whoever read along an earlier run does not read along the next.
func TestAReaderOfAnEarlierRunReadsNoMore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "otlp.jsonl")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	earlier, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer earlier.Close()
	lines, err := create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer lines.Close()
	if err := os.WriteFile(path, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(earlier); err != nil || len(text) > 0 {
		t.Errorf("the file of the earlier run reads %q, %v", text, err)
	}
}
