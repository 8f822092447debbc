// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package kernel

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/ringbuf"
)

// regionHead is the part of a region that does not depend on the number of slots.
const regionHead = int(unsafe.Offsetof(bpfRegion{}.Index))

// regionSize is the size of the value of one region with this many slots.
func regionSize(slots int, tunnels bool) int {
	each := unsafe.Sizeof(bpfSlot{}) + unsafe.Sizeof(bpfCold{}) + indexPerSlot*unsafe.Sizeof(bpfRegion{}.Index[0])
	if tunnels {
		each += unsafe.Sizeof(bpfOuter{})
	}
	return regionHead + slots*int(each)
}

func (k *Kernel) load(cfg Config) error {
	if cfg.cpus == nil {
		var err error
		if cfg.cpus, err = onlineCPUs(); err != nil {
			return err
		}
	}
	var err error
	if k.cfg, err = fit(cfg); err != nil {
		return err
	}
	if !k.cfg.Clsact {
		tcx, err := haveTCX()
		if err != nil {
			return err
		}
		k.cfg.Clsact = !tcx
	}
	if err := k.loadObjects(); err != nil {
		return errors.Join(append([]error{err}, lacking(required)...)...)
	}
	return k.open()
}

// fit fills in defaults and halves the slots until both buffers of all regions lie under the ceiling.
func fit(cfg Config) (Config, error) {
	if cfg.Slots == 0 {
		cfg.Slots = DefaultSlots
	}
	if cfg.fragments == 0 {
		cfg.fragments = fragmentTime
	}
	if cfg.lease == 0 {
		cfg.lease = defaultLease
	}
	if cfg.MemoryCeiling == 0 {
		cfg.MemoryCeiling = DefaultMemoryCeiling
	}
	if cfg.Slots < MinSlots || cfg.Slots > MaxSlots || cfg.Slots&(cfg.Slots-1) != 0 {
		return cfg, fmt.Errorf("slots of a region must be a power of two from %d to %d, got %d", MinSlots, MaxSlots, cfg.Slots)
	}
	tooLarge := func() bool {
		size := regionSize(cfg.Slots, cfg.Tunnels)
		return size > maxRegionSize || 2*len(cfg.cpus)*size > cfg.MemoryCeiling
	}
	for cfg.Slots > MinSlots && tooLarge() {
		cfg.Slots /= 2
	}
	if len(cfg.Filters) > MaxFilters {
		return cfg, fmt.Errorf("there must be at most %d filters, got %d", MaxFilters, len(cfg.Filters))
	}
	return fitSamples(cfg)
}

func fitSamples(cfg Config) (Config, error) {
	if cfg.RandomOneIn < 0 {
		return cfg, fmt.Errorf("1 in N samples must be 0 (none) or more, got %d", cfg.RandomOneIn)
	}
	if cfg.FlowOneIn < 0 {
		return cfg, fmt.Errorf("samples of 1 flow in N must be 0 (none) or more, got %d", cfg.FlowOneIn)
	}
	if cfg.FirstPerFlow < 0 || cfg.FirstPerFlow > MaxFirstPerFlow {
		return cfg, fmt.Errorf("first samples of a flow must be 0 (none) to %d, got %d", MaxFirstPerFlow, cfg.FirstPerFlow)
	}
	if cfg.Protocols&^allProtocols != 0 {
		return cfg, fmt.Errorf("samples of protocols must be of those that are known, got %#x", cfg.Protocols)
	}
	if !cfg.Samples {
		cfg.RandomOneIn, cfg.FlowOneIn, cfg.FirstPerFlow, cfg.Protocols = 0, 0, 0, 0
	}
	if cfg.sampling() && (cfg.SnapLength < 1 || cfg.SnapLength > MaxSnapLength) {
		return cfg, fmt.Errorf("snap length must be from 1 to %d bytes, got %d", MaxSnapLength, cfg.SnapLength)
	}
	if cfg.FirstIdle == 0 {
		cfg.FirstIdle = DefaultFirstIdle
	}
	if cfg.firsts == 0 {
		cfg.firsts = firstFlows
	}
	return cfg, nil
}

// sampling reports whether any kind of samples is on.
func (c *Config) sampling() bool {
	return c.RandomOneIn > 0 || c.FlowOneIn > 0 || c.FirstPerFlow > 0 || c.Protocols != 0
}

func (k *Kernel) loadObjects() error {
	spec, err := loadSpec(k.cfg)
	if err != nil {
		return err
	}
	sizeMaps(spec, k.cfg)
	if err := spec.LoadAndAssign(&k.objects, nil); err != nil {
		return err
	}
	if k.cfg.loaded != nil {
		k.cfg.loaded(&k.objects)
	}
	return nil
}

// object is one of the forms that the programs are compiled to.
type object uint8

const (
	objectAny   object = iota // as choose says
	objectPlain               // without what few ask for: the fastest
	objectFull                // with everything
	objectOld                 // with everything, for kernels before 5.18
)

// choose returns the fastest form that does what is asked for on a kernel of this version, 0 if it cannot be told. Instructions that a
// kernel does not know are refused even where they are never run, so the version decides.
func (c *Config) choose(version uint32) object {
	const addsAndFetches = 5<<16 | 18<<8 // KERNEL_VERSION(5, 18, 0): atomic additions that return what was there; on amd64 since 5.12
	switch {
	case c.object != objectAny:
		return c.object
	case !c.Clsact && !c.Tunnels && !c.Deduplicate && c.FlowOneIn == 0 && c.FirstPerFlow == 0 && c.Protocols == 0:
		return objectPlain
	case version < addsAndFetches:
		return objectOld
	default:
		return objectFull
	}
}

// loadSpec reads the programs and sets their knobs.
func loadSpec(cfg Config) (*ebpf.CollectionSpec, error) {
	version, _ := features.LinuxVersionCode()
	form := cfg.choose(version)
	load := map[object]func() (*ebpf.CollectionSpec, error){objectPlain: loadPlain, objectFull: loadBpf, objectOld: loadOld}
	spec, err := load[form]()
	if err != nil {
		return nil, err
	}
	values, err := knobs(cfg)
	if err != nil {
		return nil, err
	}
	if form == objectPlain {
		for _, name := range []string{bpfVarTunnels, bpfVarProtocols, bpfVarDeduplicate, bpfVarFlowLimit, bpfVarYoungPackets, bpfVarLease} {
			delete(values, name) // off for good
		}
	}
	return spec, setKnobs(spec, values)
}

func sizeMaps(spec *ebpf.CollectionSpec, cfg Config) {
	m := spec.Maps[bpfMapRegions]
	m.MaxEntries = uint32(2 * len(cfg.cpus))
	if size := uint32(regionSize(cfg.Slots, cfg.Tunnels)); size != m.ValueSize {
		m.ValueSize, m.Value = size, nil // its BTF type says the default size
	}
	page := uint32(os.Getpagesize()) // the least a ring can be: 4 KiB, on some arm64 kernels 64
	spec.Maps[bpfMapPressure].MaxEntries = page
	spec.Maps[bpfMapSamplers].MaxEntries = uint32(len(cfg.cpus))
	// A kernel that runs low on free entries of an LRU gives 128 at a time to a CPU, which others cannot use.
	spec.Maps[bpfMapFragments].MaxEntries = uint32(max(1024, 256*len(cfg.cpus)))
	if cfg.FirstPerFlow > 0 {
		spec.Maps[bpfMapBeginnings].MaxEntries = uint32(max(cfg.firsts, 256*len(cfg.cpus)))
	}
	if cfg.Protocols != 0 {
		spec.Maps[bpfMapFollows].MaxEntries = follows
	}
	if cfg.Deduplicate {
		spec.Maps[bpfMapStackings].MaxEntries = maxStackings
	}
	spec.Maps[bpfMapSamples].MaxEntries = sampleRing(cfg)
	if !cfg.sampling() { // nothing is ever written to these
		spec.Maps[bpfMapSamples].MaxEntries = page
		scratch := spec.Maps[bpfMapScratch]
		scratch.ValueSize, scratch.Value = 8, nil
	}
}

// sampleRing is the size of the ring in bytes, a power of two as the kernel demands: what the budgets of all kinds allow in a second, within
// bounds. It is read every 90 ms, every 500 ms after a pause.
func sampleRing(cfg Config) uint32 {
	if cfg.ring > 0 {
		return uint32(cfg.ring)
	}
	second := 0
	add := func(on bool, captured int) {
		if on {
			second += cfg.MaxPerSecond * (ringHeader + int(unsafe.Sizeof(bpfSample{})) + captured)
		}
	}
	add(cfg.RandomOneIn > 0, cfg.SnapLength)
	add(cfg.FlowOneIn > 0, cfg.SnapLength)
	add(cfg.FirstPerFlow > 0, cfg.SnapLength)
	add(cfg.Protocols != 0, max(cfg.SnapLength, MessageSnap))
	return 1 << bits.Len(uint(min(max(second, minRing), maxRing)-1))
}

const maxCPUs = 4096 // MAX_CPUS of bpf/config.h

// knobs are the values of the variables in bpf/config.h, by name.
func knobs(cfg Config) (map[string]any, error) {
	var regionOfCPU [maxCPUs]uint16
	inOrder := 0
	for region, cpu := range cfg.cpus {
		if cpu == region && region == inOrder {
			inOrder++
		}
		if cpu < len(regionOfCPU) {
			regionOfCPU[cpu] = uint16(region + 1)
		}
	}
	tick, err := tickLength()
	if err != nil {
		return nil, err
	}
	values := map[string]any{
		bpfVarRegionOfCpu:   regionOfCPU,
		bpfVarFirstCpus:     uint32(min(inOrder, maxCPUs)),
		bpfVarSlotMask:      uint32(cfg.Slots - 1),
		bpfVarIndexShift:    uint32(64 - bits.TrailingZeros(uint(indexPerSlot*cfg.Slots))),
		bpfVarFragmentKeys:  fragmentKeys(),
		bpfVarFragmentNs:    uint64(max(cfg.fragments, 0)),
		bpfVarCheckProtocol: knob(!cfg.injected),
		bpfVarFilterCount:   uint32(len(cfg.Filters)),
		bpfVarFilters:       compileFilters(cfg.Filters),
		bpfVarTunnels:       knob(cfg.Tunnels),
		bpfVarDeduplicate:   knob(cfg.Deduplicate),
		bpfVarQuotes:        knob(cfg.Quotes),
		bpfVarProtocols:     uint32(cfg.Protocols),
		bpfVarSampleRandom:  uint32(min(cfg.RandomOneIn, 1)),
		bpfVarFlowLimit:     flowLimit(cfg.FlowOneIn),
		bpfVarFirstPerFlow:  uint32(cfg.FirstPerFlow),
		bpfVarFirstIdle:     uint32(min(int64(cfg.FirstIdle)/tick, math.MaxInt32)),
		bpfVarYoungPackets:  youngPackets(cfg),
		bpfVarLease:         leaseTicks(cfg, tick),
		bpfVarSnapLength:    uint32(max(cfg.SnapLength, 1)),
	}
	if cfg.flowSeed != 0 {
		values[bpfVarFlowSeed] = cfg.flowSeed
	}
	return values, nil
}

func setKnobs(spec *ebpf.CollectionSpec, values map[string]any) error {
	var errs []error
	for name, value := range values {
		if err := spec.Variables[name].Set(value); err != nil {
			errs = append(errs, fmt.Errorf("set %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// flowLimit is the largest hash of a chosen flow. So whoever chooses 1 flow in 100 chooses among those of 1 in 10.
func flowLimit(oneIn int) uint64 {
	if oneIn == 0 {
		return 0
	}
	return math.MaxUint64 / uint64(oneIn)
}

// youngPackets is how long a slot is looked at: to choose its flow at its first packet, to number its packets as long as they
// may be among the first of the flow.
func youngPackets(cfg Config) uint32 {
	if cfg.FlowOneIn == 0 && cfg.FirstPerFlow == 0 {
		return 0
	}
	return uint32(max(cfg.FirstPerFlow, 1))
}

func fragmentKeys() (keys [2 * unsafe.Sizeof(bpfOuter{}) / 8]uint32) {
	for i := range keys {
		keys[i] = rand.Uint32()
	}
	return keys
}

// knob is how a switch of bpf/config.h is set.
func knob(on bool) uint32 {
	if on {
		return 1
	}
	return 0
}

// open maps what user space shares with the programs and starts counting into buffer 0.
func (k *Kernel) open() error {
	control, err := k.mmap(k.objects.BSS)
	if err != nil {
		return err
	}
	k.control = (*bpfControl)(unsafe.Pointer(&control[0]))
	memory, err := k.mmap(k.objects.Regions)
	if err != nil {
		return err
	}
	k.regions = newRegions(memory, k.cfg)
	if k.barrier, err = newBarrier(); err != nil {
		return err
	}
	if k.clock, err = newClock(k.objects.JiffiesNow); err != nil {
		return err
	}
	if err := k.readClock(); err != nil {
		return err
	}
	if k.cfg.Clsact {
		if err := k.renewLease(); err != nil {
			return err
		}
	}
	if k.pressed, err = ringbuf.NewReader(k.objects.Pressure); err != nil {
		return fmt.Errorf("open the pressure ring: %w", err)
	}
	if k.cfg.sampling() {
		samplers, err := k.mmap(k.objects.Samplers)
		if err != nil {
			return err
		}
		k.sampling, err = newSampling(k.cfg, k.objects.Samples, samplers, k.regions)
		if err != nil {
			return err
		}
	}
	if k.memory, err = k.objects.memory(); err != nil {
		return err
	}
	k.regions.redraw(0)
	return nil
}

// onlineCPUs reads the list of CPUs that can run programs now. One that comes later has no region: see struct late.
func onlineCPUs() ([]int, error) {
	const path = "/sys/devices/system/cpu/online"
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w: needs a sysfs, mounted at /sys", err)
	}
	if err != nil {
		return nil, fmt.Errorf("list online CPUs: %w", err)
	}
	cpus, err := parseCPUs(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return cpus, nil
}

// parseCPUs reads the kernel's list format: "0-3,7".
func parseCPUs(list string) ([]int, error) {
	var cpus []int
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		low, err1 := strconv.ParseUint(first, 10, 16)
		high, err2 := strconv.ParseUint(last, 10, 16)
		if err := errors.Join(err1, err2); err != nil || high < low {
			return nil, fmt.Errorf("not a list of CPUs: %q", list)
		}
		for cpu := low; cpu <= high; cpu++ {
			cpus = append(cpus, int(cpu))
		}
	}
	return cpus, nil
}
