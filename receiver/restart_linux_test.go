// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package receiver

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
	"github.com/ebpfpackets/ebpfpackets/receiver/internal/metadata"
)

// held is what this process holds of the kernel: files, and "prog_id 7", "map_id 9", "link_id 3" behind some of them.
type held struct {
	files int
	ids   map[string]bool
}

func whatIsHeld(t *testing.T) held {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fdinfo")
	require.NoError(t, err)
	h := held{len(entries), map[string]bool{}}
	for _, entry := range entries {
		info, err := os.ReadFile("/proc/self/fdinfo/" + entry.Name())
		if err != nil {
			continue // the file of ReadDir itself
		}
		for _, m := range heldID.FindAllStringSubmatch(string(info), -1) {
			h.ids[m[1]+" "+m[2]] = true
		}
	}
	return h
}

var heldID = regexp.MustCompile(`(?m)^(prog_id|map_id|link_id):\s*(\d+)$`)

// requireGone waits for the kernel, which frees programs and maps after a grace period.
func requireGone(t *testing.T, ids map[string]bool) {
	t.Helper()
	require.NotEmpty(t, ids)
	require.Eventually(t, func() bool {
		for id := range ids {
			if exists(t, id) {
				return false
			}
		}
		return true
	}, 10*time.Second, 100*time.Millisecond)
}

func exists(t *testing.T, id string) bool {
	t.Helper()
	var kind string
	var number uint32
	_, err := fmt.Sscan(id, &kind, &number)
	require.NoError(t, err)
	var file io.Closer
	switch kind {
	case "prog_id":
		file, err = ebpf.NewProgramFromID(ebpf.ProgramID(number))
	case "map_id":
		file, err = ebpf.NewMapFromID(ebpf.MapID(number))
	case "link_id":
		file, err = link.NewFromID(link.ID(number))
	}
	if errors.Is(err, os.ErrNotExist) {
		return false
	}
	require.NoError(t, err)
	require.NoError(t, file.Close())
	return true
}

// restart runs one receiver with both pipelines, as a collector that reloads its configuration does.
func restart(t *testing.T, host platform, include string) (during held, started error) {
	t.Helper()
	f := newFactory(host)
	cfg := f.CreateDefaultConfig().(*Config)
	cfg.Interfaces.Include = []string{include}
	set := receivertest.NewNopSettings(metadata.Type)
	metrics, err := f.CreateMetrics(t.Context(), set, cfg, new(consumertest.MetricsSink))
	require.NoError(t, err)
	logs, err := f.CreateLogs(t.Context(), set, cfg, new(consumertest.LogsSink))
	require.NoError(t, err)
	started = metrics.Start(t.Context(), componenttest.NewNopHost())
	require.Equal(t, started, logs.Start(t.Context(), componenttest.NewNopHost()))
	during = whatIsHeld(t)
	require.NoError(t, metrics.Shutdown(t.Context()))
	require.NoError(t, logs.Shutdown(t.Context()))
	return during, started
}

func TestTwentyRestartsLeaveNothing(t *testing.T) {
	testenv.Privileged(t)
	_, started := restart(t, linux{}, "lo") // what the libraries keep open for good is open now
	require.NoError(t, started)
	before, ids := whatIsHeld(t), map[string]bool{}
	for range 20 {
		during, started := restart(t, linux{}, "lo")
		require.NoError(t, started)
		maps.Copy(ids, during.ids)
	}
	require.Equal(t, before, whatIsHeld(t))
	requireGone(t, ids)
}

// unfit is a host whose only interface is none that can be attached to. It remembers what was held then.
type unfit struct {
	linux
	t   *testing.T
	ids map[string]bool
}

func (*unfit) interfaces() ([]iface.Interface, error) {
	return []iface.Interface{{Index: 1 << 30, Name: "can0", HWType: 280, Up: true}}, nil
}

func (u *unfit) load(c sourceConfig, notice func(string)) (source, error) {
	s, err := u.linux.load(c, notice)
	maps.Copy(u.ids, whatIsHeld(u.t).ids)
	return s, err
}

func TestTwentyFailedStartsLeaveNothing(t *testing.T) {
	testenv.Privileged(t)
	host := &unfit{t: t, ids: map[string]bool{}}
	_, started := restart(t, host, "can0")
	require.ErrorContains(t, started, `attach tcx ingress to "can0" (ifindex 1073741824)`)
	before := whatIsHeld(t)
	for range 20 {
		_, started := restart(t, host, "can0")
		require.Error(t, started)
	}
	require.Equal(t, before, whatIsHeld(t))
	requireGone(t, host.ids)
}
