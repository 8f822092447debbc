// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"
)

// The media types, and the fields below, are those of the OCI image specification 1.1.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Config        *descriptor       `json:"config,omitempty"`    // of one platform
	Layers        []descriptor      `json:"layers,omitempty"`    // the same
	Manifests     []descriptor      `json:"manifests,omitempty"` // of an index
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// platform adds the image of one architecture, and returns its manifest.
func (i image) platform(l *layout, arch string, layer []byte) descriptor {
	on := platform{arch, "linux"}
	config := l.addJSON(typeConfig, map[string]any{
		"created":      i.created.UTC().Format(time.RFC3339),
		"architecture": on.Architecture,
		"os":           on.OS,
		"config": map[string]any{
			"User":       user,
			"Entrypoint": []string{"/" + i.name},
			"Cmd":        []string{"--config=/etc/otelcol/config.yaml"},
			"WorkingDir": "/",
			"Labels":     i.annotations(),
		},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{digest(layer)}},
		"history": []map[string]any{{"created": i.created.UTC().Format(time.RFC3339), "created_by": "internal/tools/image"}},
	})
	d := l.addJSON(typeManifest, manifest{
		SchemaVersion: 2,
		MediaType:     typeManifest,
		Config:        &config,
		Layers:        []descriptor{l.add(typeLayer, compressed(layer))},
		Annotations:   i.annotations(),
	})
	d.Platform = &on
	return d
}

// index makes one image of those of all architectures, with the name that engines give it.
func (i image) index(l *layout, platforms []descriptor) {
	all := l.addJSON(typeIndex, manifest{SchemaVersion: 2, MediaType: typeIndex, Manifests: platforms, Annotations: i.annotations()})
	all.Annotations = map[string]string{"org.opencontainers.image.ref.name": i.name + ":" + i.version}
	l.top = manifest{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{all}}
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

// layout is an OCI image layout: content by its hash, and an index that says where to begin.
type layout struct {
	blobs []blob
	top   manifest
}

type blob struct {
	digest  string
	content []byte
}

func (l *layout) add(mediaType string, content []byte) descriptor {
	d := digest(content)
	if !slices.ContainsFunc(l.blobs, func(b blob) bool { return b.digest == d }) {
		l.blobs = append(l.blobs, blob{d, content})
	}
	return descriptor{MediaType: mediaType, Digest: d, Size: len(content)}
}

func (l *layout) addJSON(mediaType string, value any) descriptor {
	return l.add(mediaType, asJSON(value))
}

// write writes the layout as a tar archive.
func (l *layout) write(out string, created time.Time) error {
	t := newTree(created)
	t.add("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644, nil)
	t.add("index.json", asJSON(l.top), 0o644, nil)
	for _, b := range l.blobs {
		t.add("blobs/sha256/"+b.digest[len("sha256:"):], b.content, 0o644, nil)
	}
	text, err := t.close()
	if err != nil {
		return err
	}
	return os.WriteFile(out, text, 0o644)
}

// asJSON sorts the keys of maps, so that the same value always has the same digest.
func asJSON(value any) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // strings and numbers alone
	}
	return text
}

func digest(content []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(content)) }

// compressed has neither name nor time.
func compressed(content []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(content) // into memory
	_ = z.Close()
	return b.Bytes()
}
