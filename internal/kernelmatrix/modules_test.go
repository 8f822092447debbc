// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kernelmatrix

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// deviceModules are what TestDevices and TestTunnelsOnTheWire make their devices of.
var deviceModules = []string{
	"veth", "ipip", "sit", "ip_gre", "ip6_tunnel", "ip6_gre", "ip_vti", "ip6_vti", "xfrm_interface", "xfrm_user", "mpls_router",
	"geneve", "wireguard",
	"esp4", "esp6", "authenc", "crypto_null", "echainiv", // of IPsec without encryption
}

// module is a kernel module, not compressed.
type module struct {
	name    string
	content []byte
}

// loadOrder returns k's modules and those they depend on, each behind what it depends on. One that k's kernel has built in is
// none.
func (k row) loadOrder(t *testing.T, dir string) (ordered []module) {
	t.Helper()
	done := map[string]bool{}
	var add func(name string)
	add = func(name string) {
		if done[name] {
			return
		}
		done[name] = true
		content := readModule(t, filepath.Join(dir, modulesDir, name+".ko"))
		if content == nil {
			return
		}
		for _, needed := range dependencies(t, name, content) {
			add(needed)
		}
		ordered = append(ordered, module{name, content})
	}
	for _, name := range k.modules {
		add(name)
	}
	return ordered
}

// readModule returns nil if there is no such module.
func readModule(t *testing.T, path string) []byte {
	t.Helper()
	if content, err := os.ReadFile(path); err == nil {
		return content
	}
	if _, err := os.Stat(path + ".xz"); err != nil {
		return nil
	}
	content, err := exec.CommandContext(t.Context(), "xz", "--decompress", "--stdout", path+".xz").Output()
	if err != nil {
		t.Fatalf("decompress %q: %v", path+".xz", err)
	}
	return content
}

// dependencies reads what the module itself says; Debian's packages leave modules.dep to depmod.
func dependencies(t *testing.T, name string, content []byte) []string {
	t.Helper()
	file, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		t.Fatalf("read module %s: %v", name, err)
	}
	info, err := file.Section(".modinfo").Data()
	if err != nil {
		t.Fatalf("read module %s: %v", name, err)
	}
	for field := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(field, "depends="); ok && list != "" {
			return strings.Split(list, ",")
		}
	}
	return nil
}
