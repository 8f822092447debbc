// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command guest is process 1 of a test kernel: it mounts what a test needs, loads /modules in the order of their names, runs /commands
// (one a line), says how that ended, and switches the machine off.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	fmt.Print("\nguest: started\n")
	fmt.Printf("\nguest: exit %d\n", run())
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("guest: power off:", err)
	}
}

func run() int {
	if err := prepare(); err != nil {
		fmt.Println("guest:", err)
		return 1
	}
	commands, err := os.ReadFile("/commands")
	if err != nil {
		fmt.Println("guest:", err)
		return 1
	}
	code := 0
	for command := range strings.Lines(string(commands)) {
		args := strings.Fields(command)
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdout, cmd.Stderr, cmd.Dir = os.Stdout, os.Stderr, "/tmp"
		cmd.Env = []string{"HOME=/tmp", "PATH=/", "EBPFPACKETS_PRIVILEGED=1", "EBPFPACKETS_GUEST=1", "EBPFPACKETS_COLLECTOR=/collector"}
		if err := cmd.Run(); err != nil {
			fmt.Printf("guest: %s: %v\n", args[0], err)
			code = 1
		}
	}
	return code
}

func prepare() error {
	for _, m := range []struct{ kind, at string }{
		{"proc", "/proc"},
		{"sysfs", "/sys"},
		{"devtmpfs", "/dev"},
		{"tmpfs", "/tmp"},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %q: %w", m.at, err)
		}
	}
	if err := os.Mkdir("/etc", 0o755); err != nil {
		return err
	}
	if err := os.WriteFile("/etc/hosts", []byte("127.0.0.1 localhost\n"), 0o644); err != nil { // where the collector serves its metrics
		return err
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return err
	}
	fmt.Printf("guest: Linux %s %s\n", unix.ByteSliceToString(uts.Release[:]), unix.ByteSliceToString(uts.Version[:]))
	if err := loadModules(); err != nil {
		return err
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	// 5.10 charges maps to RLIMIT_MEMLOCK; process 1 starts with the small default.
	return unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
}

// loadModules loads them in an order in which each finds those it depends on.
func loadModules() error {
	files, err := os.ReadDir("/modules") // sorted
	if err != nil {
		return err
	}
	for _, file := range files {
		module, err := os.Open("/modules/" + file.Name())
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(module.Fd()), "", 0)
		module.Close()
		if err != nil {
			return fmt.Errorf("load %q: %w", file.Name(), err)
		}
	}
	return nil
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req)
}
