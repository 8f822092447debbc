// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux && (amd64 || arm64)

package kernelmatrix

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
	"github.com/ebpfpackets/ebpfpackets/internal/testenv"
)

// entryPoints are the programs that see packets: with and without a link header, each way.
const entryPoints = 4

// TestLoad has this kernel's verifier accept every program, in each configuration that makes it walk other paths, and
// drains once: the barrier works here. TestKernels runs it on other kernels.
func TestLoad(t *testing.T) {
	if os.Geteuid() != 0 {
		lacking(t, "needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")
	}
	for _, tt := range []struct {
		name string
		cfg  kernel.Config
	}{
		{"without samples", kernel.Config{Quotes: true}},
		{"with samples", kernel.Config{Samples: true, RandomOneIn: 10, SnapLength: 256, MaxPerSecond: 100}},
		{"with samples of flows", kernel.Config{Samples: true, FlowOneIn: 10, FirstPerFlow: 3, SnapLength: 256, MaxPerSecond: 100}},
		{"with longest samples", kernel.Config{Samples: true, RandomOneIn: 1, SnapLength: kernel.MaxSnapLength, MaxPerSecond: 100}},
		{"with most slots", kernel.Config{Slots: kernel.MaxSlots, MemoryCeiling: 1 << 30}},
		{"with fewest slots", kernel.Config{Slots: kernel.MinSlots}},
		{"with most filters", kernel.Config{Filters: filters(), Samples: true, RandomOneIn: 10, SnapLength: 256, MaxPerSecond: 100}},
		{"with protocols", kernel.Config{Samples: true, Protocols: protocols, SnapLength: 256, MaxPerSecond: 100}},
		{"with tunnels", kernel.Config{Tunnels: true, Quotes: true}},
		{"without duplicates", kernel.Config{Deduplicate: true}},
		{"with everything", everything()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k, err := kernel.Load(tt.cfg)
			if err != nil {
				var verifier *ebpf.VerifierError
				if errors.As(err, &verifier) {
					t.Logf("%+v", verifier)
				}
				t.Fatal(err)
			}
			defer func() {
				if err := k.Close(); err != nil {
					t.Error(err)
				}
			}()
			loaded, ran := 0, uint64(0)
			for id, name := range programs(t) {
				loaded++
				ran += run(t, id, name)
			}
			if loaded < entryPoints {
				t.Errorf("%d programs were loaded, want at least the %d that see packets", loaded, entryPoints)
			}
			count(t, k, ran)
		})
	}
}

// Where programs on one CPU may interrupt each other counts would be lost, so such kernels are refused. They are told by their
// version; here by the threads that run timers there.
func TestRealTimeKernelsAreRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		lacking(t, "needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")
	}
	k, err := kernel.Load(kernel.Config{})
	if !realtime(t) {
		require.NoError(t, err)
		require.NoError(t, k.Close())
		return
	}
	require.EqualError(t, err, "PREEMPT_RT kernels are not supported: programs may interrupt each other there and counts would be lost")
}

func realtime(t *testing.T) bool {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range names {
		if name, _ := os.ReadFile(path); strings.HasPrefix(string(name), "ktimers/") {
			return true
		}
	}
	return false
}

const protocols = kernel.ProtocolDNS | kernel.ProtocolTLS | kernel.ProtocolHTTP

// everything switches on all that makes the verifier walk more.
func everything() kernel.Config {
	return kernel.Config{
		Filters: filters(), Tunnels: true, Deduplicate: true, Quotes: true,
		Samples: true, RandomOneIn: 10, FlowOneIn: 10, FirstPerFlow: 3, SnapLength: 256, MaxPerSecond: 100,
		Protocols: protocols,
	}
}

// filters are as many as there may be, of every form; none matches what the test sends.
func filters() []kernel.Filter {
	port, tcp := uint16(4317), uint8(unix.IPPROTO_TCP)
	prefixes := []netip.Prefix{{}, netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	all := make([]kernel.Filter, kernel.MaxFilters)
	for i := range all {
		all[i] = kernel.Filter{Skip: i%5 != 0, Prefix: prefixes[i%len(prefixes)], Port: &port}
		if i%2 == 0 {
			all[i].Protocol = &tcp
		}
	}
	return all
}

// run sends one frame through a program that sees packets, attached or not, and returns how many it was given.
func run(t *testing.T, id ebpf.ProgramID, name string) uint64 {
	t.Helper()
	if !strings.HasPrefix(name, "ingress") && !strings.HasPrefix(name, "egress") {
		return 0
	}
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	frame := make([]byte, 64)
	frame[12], frame[14], frame[23] = 0x08, 0x45, 17 // Ethernet, IPv4, UDP
	verdict, _, err := p.Test(frame)
	if err != nil || int32(verdict) != -1 {
		t.Errorf("%s returns %d and %v, want TCX_NEXT (-1)", name, int32(verdict), err)
	}
	return 1
}

// count sends datagrams over loopback and looks in the ledger for them
// and for the frames that ran before.
func count(t *testing.T, k *kernel.Kernel, ran uint64) {
	t.Helper()
	const datagrams = 100
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	want := ran
	for _, d := range []flow.Direction{flow.DirectionIngress, flow.DirectionEgress} {
		err := k.Attach(iface.Interface{Index: uint32(lo.Index), Name: "lo", HWType: unix.ARPHRD_LOOPBACK, Loopback: true, Up: true}, d)
		if err != nil {
			t.Error(err)
			continue
		}
		want += datagrams
	}
	send(t, datagrams)
	drained, err := k.Drain(func(*flow.Slot) {})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range drained.Mismatches {
		t.Errorf("identity does not hold: %+v", m)
	}
	if seen := drained.Ledger.Seen.Packets; seen < want {
		t.Errorf("%d packets in the ledger, want at least %d", seen, want)
	}
}

func send(t *testing.T, datagrams int) {
	t.Helper()
	sink, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	c, err := net.Dial("udp4", sink.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range datagrams {
		if _, err := c.Write([]byte("datagram")); err != nil {
			t.Fatal(err)
		}
	}
}

// programs are the BPF programs that this process holds, by ID: others may be loaded meanwhile.
func programs(t *testing.T) map[ebpf.ProgramID]string {
	t.Helper()
	found := map[ebpf.ProgramID]string{}
	infos, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range infos {
		info, err := os.ReadFile(path)
		if err != nil {
			continue // closed since
		}
		if m := programID.FindSubmatch(info); m != nil {
			id, _ := strconv.ParseUint(string(m[1]), 10, 32)
			found[ebpf.ProgramID(id)] = name(t, ebpf.ProgramID(id))
		}
	}
	return found
}

var programID = regexp.MustCompile(`(?m)^prog_id:\s*(\d+)$`)

func name(t *testing.T, id ebpf.ProgramID) string {
	t.Helper()
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	verified, known := info.VerifiedInstructions() // from 5.16 on
	if !known {
		t.Logf("loaded %s", info.Name)
		return info.Name
	}
	t.Logf("loaded %s: %d instructions verified", info.Name, verified)
	if verified > testenv.MostVerified {
		t.Errorf("the verifier walked %d instructions of %s, want at most %d: it gives up at 1,000,000", verified, info.Name, testenv.MostVerified)
	}
	return info.Name
}
