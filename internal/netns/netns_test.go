// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParsePatterns(t *testing.T) {
	patterns, host, err := ParsePatterns([]string{"/run/netns/*", "host", "/proc/1/ns/net"})
	require.NoError(t, err)
	assert.True(t, host)
	assert.Equal(t, []string{"/run/netns/*", "/proc/1/ns/net"}, patterns)
	patterns, host, err = ParsePatterns([]string{"/run/netns/web-[0-9]"})
	require.NoError(t, err)
	assert.False(t, host)
	assert.Len(t, patterns, 1)
	for _, text := range []string{"", "all", "Host", "run/netns/*", "./red", "eth0", "/run/\x00", "/run/netns/[", "/run/[a/b]", `/run/netns/a\`} {
		_, _, err := ParsePatterns([]string{"host", text})
		assert.ErrorContains(t, err, "/run/netns/", "%q", text)
	}
}

func TestName(t *testing.T) {
	for path, want := range map[string]string{
		"/run/netns/red":         "red",
		"/run/docker/netns/1234": "1234",
		"/proc/1234/ns/net":      "pid:1234",
		"/host/proc/1/ns/net":    "pid:1",
		"/proc/self/ns/net":      "net",
		"/1/ns/net/red":          "red",
	} {
		assert.Equal(t, want, Name(path), path)
	}
}
