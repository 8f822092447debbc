// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package kernel

import (
	"fmt"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// mmap maps a whole array into the process, unmapped by Close. The library's own Memory copies on every access.
func (k *Kernel) mmap(m *ebpf.Map) ([]byte, error) {
	length := int(m.MaxEntries()) * (int(m.ValueSize()+7) / 8 * 8) // the kernel rounds values up to 8 bytes, and refuses a page more
	page := os.Getpagesize()
	memory, err := unix.Mmap(m.FD(), 0, (length+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s into memory: %w", m, err)
	}
	k.unmap = append(k.unmap, func() error { return unix.Munmap(memory) })
	return memory, nil
}

// regions is the table: for each CPU two buffers, one of which the programs write.
type regions struct {
	memory []byte
	count  int // CPUs with a region
	slots  int // in one region
	size   int // bytes of one region
	outers int // in one region: as many as slots, or none
}

func newRegions(memory []byte, c Config) *regions {
	r := &regions{memory: memory, count: len(c.cpus), slots: c.Slots, size: regionSize(c.Slots, c.Tunnels)}
	if c.Tunnels {
		r.outers = c.Slots
	}
	return r
}

// region is one buffer of one CPU, as struct region lays it out.
type region struct {
	header  *bpfRegionHeader
	classes []bpfSlot
	index   []uint32
	slots   []bpfSlot
	colds   []bpfCold
	outers  []bpfOuter // empty unless tunnels are looked into
}

func (r *regions) at(number int, buffer uint32) region {
	base := unsafe.Pointer(&r.memory[(2*number+int(buffer))*r.size])
	value := (*bpfRegion)(base)
	index := unsafe.Add(base, regionHead)
	slots := unsafe.Add(index, indexPerSlot*r.slots*int(unsafe.Sizeof(value.Index[0])))
	colds := unsafe.Add(slots, r.slots*int(unsafe.Sizeof(bpfSlot{})))
	outers := unsafe.Add(colds, r.slots*int(unsafe.Sizeof(bpfCold{})))
	return region{
		header:  &value.Header,
		classes: value.Classes[:],
		index:   unsafe.Slice((*uint32)(index), indexPerSlot*r.slots),
		slots:   unsafe.Slice((*bpfSlot)(slots), r.slots),
		colds:   unsafe.Slice((*bpfCold)(colds), r.slots),
		outers:  unsafe.Slice((*bpfOuter)(outers), r.outers),
	}
}
