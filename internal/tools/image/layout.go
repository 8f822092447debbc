// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// platform returns the image of one architecture: a layer, and how to run it.
func (i image) platform(arch string, files []byte) (v1.Image, error) {
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files)), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.DefaultCompression), tarball.WithCompressedCaching)
	if err != nil {
		return nil, err
	}
	created := v1.Time{Time: i.created.UTC()}
	// The empty image has the media types of Docker.
	m := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	m, err = mutate.ConfigFile(m, &v1.ConfigFile{
		Created:      created,
		Architecture: arch,
		OS:           "linux",
		Config: v1.Config{
			User:       user,
			Entrypoint: []string{"/" + i.name},
			Cmd:        []string{"--config=/etc/otelcol/config.yaml"},
			WorkingDir: "/",
			Labels:     i.annotations(),
		},
		RootFS: v1.RootFS{Type: "layers"},
	})
	if err != nil {
		return nil, err
	}
	m, err = mutate.Append(m, mutate.Addendum{Layer: layer, History: v1.History{Created: created, CreatedBy: "internal/tools/image"}})
	if err != nil {
		return nil, err
	}
	return mutate.Annotations(m, i.annotations()).(v1.Image), nil
}

func (i image) annotations() map[string]string {
	const source = "https://github.com/ebpfpackets/ebpfpackets"
	a := map[string]string{
		"org.opencontainers.image.title":         i.name,
		"org.opencontainers.image.description":   "OpenTelemetry Collector with the ebpfpackets receiver",
		"org.opencontainers.image.version":       i.version,
		"org.opencontainers.image.created":       i.created.UTC().Format(time.RFC3339),
		"org.opencontainers.image.source":        source,
		"org.opencontainers.image.documentation": source + "/tree/main/examples/container",
		"org.opencontainers.image.licenses":      "Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)",
	}
	if i.revision != "" {
		a["org.opencontainers.image.revision"] = i.revision
	}
	return a
}

// archive writes one image of those of all architectures, with the name that engines give it: an OCI image layout, as tar.
func (i image) archive(out string, platforms []mutate.IndexAddendum) (err error) {
	dir, err := os.MkdirTemp("", "image")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	index := mutate.Annotations(mutate.AppendManifests(empty.Index, platforms...), i.annotations()).(v1.ImageIndex)
	name := map[string]string{"org.opencontainers.image.ref.name": i.name + ":" + i.version}
	if err := l.AppendIndex(index, layout.WithAnnotations(name)); err != nil {
		return err
	}
	t := newTree(i.created)
	err = fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(filepath.Join(dir, name))
		t.add(name, content, 0o644, nil)
		return err
	})
	if err != nil {
		return err
	}
	text, err := t.close()
	if err != nil {
		return err
	}
	return os.WriteFile(out, text, 0o644)
}
