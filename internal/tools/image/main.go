// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

// Command image packs static collectors, one for each architecture, into an OCI image: a tar archive that engines load and
// registries take. It is `make image`. No engine takes part, nothing runs as root, and the same input gives the same bytes.
//
//	image -o image.tar -name otelcol-ebpfpackets -version 1.2.3 [-capabilities] [-config config.yaml] collector...
package main

import (
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// image is what is asked for.
type image struct {
	name, version, revision string
	created                 time.Time
	capabilities            bool   // the program gets those of the receiver as file capabilities
	config                  string // file that the collector reads if it gets no arguments; "": none
	root                    string // of the repository: where licences are
}

func main() {
	var i image
	out := flag.String("o", "image.tar", "archive to write")
	flag.StringVar(&i.name, "name", "otelcol-ebpfpackets", "name of the image, and of the program in it")
	flag.StringVar(&i.version, "version", "0.0.0-dev", "version of the image, and its tag")
	flag.StringVar(&i.revision, "revision", "", "commit that it was built from")
	created := flag.String("created", "1970-01-01T00:00:00Z", "time of that commit, RFC 3339: the time of all files")
	flag.BoolVar(&i.capabilities, "capabilities", false, "give the program CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON as file capabilities")
	flag.StringVar(&i.config, "config", "", "default configuration")
	flag.StringVar(&i.root, "root", ".", "root of the repository")
	flag.Parse()
	var err error
	if i.created, err = time.Parse(time.RFC3339, *created); err == nil {
		err = i.write(*out, flag.Args())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// write packs an image for the architectures of the programs.
func (i image) write(out string, programs []string) error {
	if len(programs) == 0 {
		return errors.New("needs at least one collector")
	}
	seen := map[string]string{}
	var platforms []mutate.IndexAddendum
	for _, p := range programs {
		info, err := buildinfo.ReadFile(p)
		if err != nil {
			return fmt.Errorf("read what %q was built from: %w", p, err)
		}
		arch, err := architecture(p, info)
		if err != nil {
			return err
		}
		if other := seen[arch]; other != "" {
			return fmt.Errorf("%q and %q are both for %s: give one of each architecture", other, p, arch)
		}
		seen[arch] = p
		layer, err := i.layer(p, info)
		if err != nil {
			return fmt.Errorf("pack %q: %w", p, err)
		}
		m, err := i.platform(arch, layer)
		if err != nil {
			return fmt.Errorf("pack %q: %w", p, err)
		}
		on := v1.Platform{OS: "linux", Architecture: arch}
		platforms = append(platforms, mutate.IndexAddendum{Add: m, Descriptor: v1.Descriptor{Platform: &on}})
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	if err := i.archive(out, platforms); err != nil {
		return fmt.Errorf("write %q: %w", out, err)
	}
	return nil
}

// architecture refuses programs that need a loader or run on other systems: there is nothing else in the image.
func architecture(program string, info *buildinfo.BuildInfo) (string, error) {
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	if settings["GOOS"] != "linux" {
		return "", fmt.Errorf("%q is for %q, not for linux", program, settings["GOOS"])
	}
	f, err := elf.Open(program)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // read only
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", fmt.Errorf("%q is linked dynamically: build it with CGO_ENABLED=0", program)
		}
	}
	return settings["GOARCH"], nil
}
