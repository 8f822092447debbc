// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kernelmatrix

import (
	"bytes"
	"fmt"
)

// cpioWriter writes the "newc" archive that the kernel unpacks into its first root file system
// (Documentation/driver-api/early-userspace/buffer-format.rst).
type cpioWriter struct {
	bytes.Buffer
	inode int
}

const (
	modeDir  = 0o040755
	modeFile = 0o100755
)

func (w *cpioWriter) add(name string, mode int, content []byte) {
	w.inode++
	links := 1
	if mode == modeDir {
		links = 2
	}
	// magic, inode, mode, uid, gid, links, mtime, size, device ×2, rdev ×2, name size with its NUL, checksum (unused)
	fmt.Fprintf(w, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		w.inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(name)+1, 0)
	w.WriteString(name)
	w.WriteByte(0)
	w.pad()
	w.Write(content)
	w.pad()
}

func (w *cpioWriter) pad() {
	for w.Len()%4 != 0 {
		w.WriteByte(0)
	}
}

// initramfs holds process 1, which is the file "guest", test binaries and what else they need, the commands that process 1 runs, and
// modules, named so that their order is that of names.
func initramfs(files map[string][]byte, commands []byte, modules []module) []byte {
	var w cpioWriter
	w.add("dev", modeDir, nil)
	for name, content := range files {
		if name == "guest" {
			name = "init"
		}
		w.add(name, modeFile, content)
	}
	w.add("commands", modeFile, commands)
	w.add("modules", modeDir, nil)
	for i, m := range modules {
		w.add(fmt.Sprintf("modules/%03d-%s.ko", i, m.name), modeFile, m.content)
	}
	w.add("TRAILER!!!", 0, nil)
	return w.Bytes()
}
