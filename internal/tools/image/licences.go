// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/mod/module"
)

var licenceName = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)([.-].*)?$`)

// addLicences adds the licences and notices of every module that the program is made of, as most of them ask for. They are
// in the module cache of whoever built the program.
func (t *tree) addLicences(info *buildinfo.BuildInfo) error {
	out, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		return fmt.Errorf("ask go for its module cache: %w", err)
	}
	cache := strings.TrimSpace(string(out))
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		if m.Sum == "" {
			continue // this repository
		}
		escaped, err := module.EscapePath(m.Path)
		if err != nil {
			return err
		}
		dir := filepath.Join(cache, filepath.FromSlash(escaped)+"@"+m.Version)
		if err := t.addLicencesIn(dir, "licenses/"+m.Path); err != nil {
			return fmt.Errorf("find the licence of %s %s, build the program here: %w", m.Path, m.Version, err)
		}
	}
	return nil
}

func (t *tree) addLicencesIn(dir, to string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	found := false
	for _, e := range entries {
		if !e.Type().IsRegular() || !licenceName.MatchString(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		t.add(path.Join(to, e.Name()), text, 0o644, nil)
		found = true
	}
	if !found {
		return fmt.Errorf("%q has none", dir)
	}
	return nil
}
