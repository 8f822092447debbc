// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

// One object serves amd64 and arm64: both are little endian and the programs use UAPI headers only. Debian keeps asm/types.h
// in a folder named after the machine, hence the two -idirafter. v3 is the newest instruction set of 5.10.
// The programs are compiled three times: object in load_linux.go says why.
//
//go:generate go tool -modfile=../tools/go.mod bpf2go -tags linux -target bpfel -cc clang-19 -strip llvm-strip-19 -type slot -type cold -type outer -type region_header -type place bpf ../../bpf/packets.bpf.c -- -O2 -mcpu=v3 -Wall -Wextra -Wpadded -Werror -I../../bpf/headers -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
//go:generate go tool -modfile=../tools/go.mod bpf2go -tags linux -target bpfel -cc clang-19 -strip llvm-strip-19 old ../../bpf/packets.bpf.c -- -O2 -mcpu=v3 -Wall -Wextra -Wpadded -Werror -DOLD -I../../bpf/headers -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
//go:generate go tool -modfile=../tools/go.mod bpf2go -tags linux -target bpfel -cc clang-19 -strip llvm-strip-19 plain ../../bpf/packets.bpf.c -- -O2 -mcpu=v3 -Wall -Wextra -Wpadded -Werror -DPLAIN -I../../bpf/headers -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
