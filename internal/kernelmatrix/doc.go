// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

// Package kernelmatrix runs tests of this module, its own, those of attaching in internal/kernel, and in internal/e2e those of the
// built collector, on other kernels than the running one: Debian's kernel packages, booted under qemu without hardware acceleration.
// It has no code but its tests (`make kernels`) and the guest's init.
//
//	kernels_test.go  the table of kernels, and what one run is
//	load_test.go     what runs in the guest: every program is loaded
//	devices_test.go  what runs there as well: exact traffic through each kind of device
//	ipsec_test.go    and why devices of IPsec are not counted at
//	wireguard_test.go  how two devices of WireGuard get to know each other
//	wire_test.go     what tunnels put on the wire, and captures of it
//	modules_test.go  the modules which that needs
//	debian_test.go   fetches a kernel package, without installing it
//	cpio_test.go     writes the initramfs
//	guest/           process 1 of the guest
package kernelmatrix
