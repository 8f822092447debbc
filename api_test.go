// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package ebpfpackets

import (
	"bufio"
	"bytes"
	"fmt"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What others can name is a promise. It is the factory, and the configuration with what that is made of.
const (
	factory       = "NewFactory"
	configuration = "Config"
)

// hooks are the methods by which the Collector reads a configuration.
var hooks = []string{"Unmarshal", "Validate"}

func TestOnlyTheFactoryAndTheConfigurationAreExported(t *testing.T) {
	for _, platform := range []string{"linux/amd64", "windows/amd64"} { // each compiles another file with a factory
		t.Run(platform, func(t *testing.T) {
			packages := public(t, platform)
			require.Len(t, packages, 2, "this package and the receiver's; all others are internal")
			root, receiver := packages[module], packages[module+"/receiver"]
			assert.Equal(t, []string{factory}, exported(root))
			promised := map[string]bool{}
			addParts(promised, receiver, receiver.Scope().Lookup(configuration).Type())
			for name := range promised {
				for _, method := range methods(receiver.Scope().Lookup(name)) {
					assert.Contains(t, hooks, method, "receiver.%s.%s is exported", name, method)
				}
			}
			promised[factory] = true
			for _, name := range exported(receiver) {
				assert.True(t, promised[name], "receiver.%s is exported, and no part of its Config", name)
			}
		})
	}
}

// exported returns the names of a package that others can use.
func exported(p *types.Package) []string {
	return slices.DeleteFunc(p.Scope().Names(), func(name string) bool { return !token.IsExported(name) })
}

// methods returns the names of the methods of a type, and of a pointer to it, that others can use.
func methods(name types.Object) (all []string) {
	for m := range types.NewMethodSet(types.NewPointer(name.Type())).Methods() {
		if m.Obj().Exported() {
			all = append(all, m.Obj().Name())
		}
	}
	return all
}

// addParts adds the names of the types of p that t is made of, its own first.
func addParts(names map[string]bool, p *types.Package, t types.Type) {
	switch t := types.Unalias(t).(type) {
	case *types.Named:
		if name := t.Obj(); name.Pkg() == p && !names[name.Name()] {
			names[name.Name()] = true
			addParts(names, p, t.Underlying())
		}
	case *types.Struct:
		for f := range t.Fields() {
			if f.Exported() {
				addParts(names, p, f.Type())
			}
		}
	case interface{ Elem() types.Type }: // a pointer, slice or map
		addParts(names, p, t.Elem())
	}
}

// public returns the packages that are not internal, as compiled for a platform.
func public(t *testing.T, platform string) map[string]*types.Package {
	t.Helper()
	goos, arch, _ := strings.Cut(platform, "/")
	cmd := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}", "./...")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+arch)
	out, err := cmd.Output()
	require.NoError(t, err)
	compiled := map[string]string{}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		path, file, _ := strings.Cut(lines.Text(), " ")
		compiled[path] = file
	}
	from := importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) {
		if compiled[path] == "" {
			return nil, fmt.Errorf("go list did not compile %q", path)
		}
		return os.Open(compiled[path])
	})
	packages := map[string]*types.Package{}
	for path := range compiled {
		if within(path, module) && !slices.Contains(strings.Split(path, "/"), "internal") {
			packages[path], err = from.Import(path)
			require.NoError(t, err)
		}
	}
	return packages
}
