// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"debug/buildinfo"
	"encoding/binary"
	"os"
	"path"
	"path/filepath"
	"time"
)

// User of the image: not root, and of no host. Numbers, so that Kubernetes can tell that it is not root.
const (
	user   = "10001:10001"
	passwd = "otelcol:x:10001:10001:OpenTelemetry Collector:/:/sbin/nologin\n"
	group  = "otelcol:x:10001:\n"
	hosts  = "127.0.0.1 localhost\n::1 localhost\n" // engines put theirs in its place; the Collector listens at localhost
)

// layer returns the root file system of the image as a tar archive.
func (i image) layer(program string, info *buildinfo.BuildInfo) ([]byte, error) {
	t := newTree(i.created)
	t.add("etc/passwd", []byte(passwd), 0o644, nil)
	t.add("etc/group", []byte(group), 0o644, nil)
	t.add("etc/hosts", []byte(hosts), 0o644, nil)
	if i.config != "" {
		text, err := os.ReadFile(i.config)
		if err != nil {
			return nil, err
		}
		t.add("etc/otelcol/config.yaml", text, 0o644, nil)
	}
	for _, name := range []string{"LICENSE", "NOTICE", "bpf/LICENSE"} {
		text, err := os.ReadFile(filepath.Join(i.root, name))
		if err != nil {
			return nil, err
		}
		t.add("licenses/"+name, text, 0o644, nil)
	}
	if err := t.addLicences(info); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	var attributes map[string]string
	if i.capabilities {
		attributes = map[string]string{"security.capability": fileCapabilities()}
	}
	t.add(i.name, text, 0o755, attributes)
	return t.close()
}

// linux/capability.h
const (
	capNetAdmin = 12
	capPerfmon  = 38
	capBPF      = 39
)

// fileCapabilities is the value of security.capability for the three that the receiver needs, permitted and effective:
// struct vfs_cap_data of linux/capability.h, little endian.
func fileCapabilities() string {
	const revision2, effective = 0x02000000, 1
	permitted := uint64(1)<<capNetAdmin | 1<<capPerfmon | 1<<capBPF
	var b []byte
	for _, word := range []uint32{revision2 | effective, uint32(permitted), 0, uint32(permitted >> 32), 0} {
		b = binary.LittleEndian.AppendUint32(b, word)
	}
	return string(b)
}

// tree is a tar archive of files that belong to root, with the directories above them.
type tree struct {
	buffer bytes.Buffer
	tar    *tar.Writer
	time   time.Time
	made   map[string]bool
	err    error
}

func newTree(created time.Time) *tree {
	t := &tree{time: created, made: map[string]bool{".": true}}
	t.tar = tar.NewWriter(&t.buffer)
	return t
}

// add adds a file. The OCI image specification has extended attributes as records SCHILY.xattr of PAX.
func (t *tree) add(name string, content []byte, mode int64, attributes map[string]string) {
	t.directory(path.Dir(name))
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content)), ModTime: t.time, Format: tar.FormatPAX}
	for key, value := range attributes {
		h.PAXRecords = map[string]string{"SCHILY.xattr." + key: value}
	}
	t.write(h, content)
}

func (t *tree) directory(name string) {
	if t.made[name] {
		return
	}
	t.directory(path.Dir(name))
	t.made[name] = true
	t.write(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: t.time, Format: tar.FormatPAX}, nil)
}

// write keeps the first error, which close returns.
func (t *tree) write(h *tar.Header, content []byte) {
	if t.err == nil {
		t.err = t.tar.WriteHeader(h)
	}
	if t.err == nil {
		_, t.err = t.tar.Write(content)
	}
}

func (t *tree) close() ([]byte, error) {
	if t.err == nil {
		t.err = t.tar.Close()
	}
	return t.buffer.Bytes(), t.err
}
