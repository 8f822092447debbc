// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
)

// Config is what the programs are loaded with.
type Config struct {
	Slots         int      // flow slots of a region: a power of two, at most MaxSlots; 0: DefaultSlots
	MemoryCeiling int      // bytes of all regions together; Slots is halved until it fits; 0: DefaultMemoryCeiling
	Samples       bool     // false: no ring, no sampling
	RandomOneIn   int      // 1 in N buffers is sampled; 0: none
	SnapLength    int      // bytes copied of a sample, 1 to MaxSnapLength
	MaxPerSecond  int      // samples of all CPUs together
	Seed          [32]byte // of sampling; zero: drawn from crypto/rand

	cpus []int // that get a region; nil: those online
}

const (
	DefaultSlots         = 16384
	MaxSlots             = 32768 // 5.10 refuses a map value above 4 MiB
	MinSlots             = 256
	DefaultMemoryCeiling = 64 << 20
	MaxSnapLength        = 9216
)

// Kernel is the loaded programs, their maps and their attachments. Drain and ReadSamples have one caller each at a time;
// all else may be called from anywhere.
type Kernel struct {
	cfg      Config
	objects  bpfObjects
	bss      *ebpf.Map
	control  *bpfControl
	regions  *regions
	barrier  *barrier
	clock    *clock
	sampling *sampling       // nil: no sampling
	pressed  *ringbuf.Reader // nil once closed
	pressure chan struct{}
	watching sync.WaitGroup

	mu    sync.Mutex
	links map[hook]attachment

	drain    drainState
	unmap    []func() error
	closed   sync.Once
	closeErr error
}

// Load verifies and loads the programs and maps; nothing is attached yet. Errors name the step and, where the kernel says
// no more than "operation not permitted", the capability that is missing.
func Load(cfg Config) (*Kernel, error) {
	if err := checkHost(); err != nil {
		return nil, err
	}
	k := &Kernel{pressure: make(chan struct{}, 1), links: map[hook]attachment{}}
	if err := k.load(cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("load programs: %w", explain(err)), k.Close())
	}
	k.watching.Go(k.watchPressure)
	return k, nil
}

// Pressure delivers when a region is half full: a drain that waits longer may overflow.
func (k *Kernel) Pressure() <-chan struct{} { return k.pressure }

// MemoryBytes is the locked memory of all maps, charged to the memory cgroup of the process.
func (k *Kernel) MemoryBytes() int {
	bytes := k.regions.bytes()
	if k.sampling != nil {
		bytes += k.sampling.bytes()
	}
	return bytes
}

// SlotLimit is the number of flow slots of one region.
func (k *Kernel) SlotLimit() int { return k.cfg.Slots }

// Stop makes every program return at once and waits until none counts any more. The next Drain takes both buffers.
func (k *Kernel) Stop() error { return k.stopCounting() }

// Close detaches everything and frees the maps. It is idempotent.
func (k *Kernel) Close() error {
	k.closed.Do(func() { k.closeErr = k.close() })
	return k.closeErr
}

func (k *Kernel) close() error {
	errs := []error{k.detachAll()}
	if k.pressed != nil {
		errs = append(errs, k.pressed.Close())
	}
	k.watching.Wait()
	if k.sampling != nil {
		errs = append(errs, k.sampling.close())
	}
	for _, unmap := range k.unmap {
		errs = append(errs, unmap())
	}
	if k.barrier != nil {
		errs = append(errs, k.barrier.close())
	}
	if k.bss != nil {
		errs = append(errs, k.bss.Close())
	}
	return errors.Join(append(errs, k.objects.Close())...)
}

// watchPressure turns ring records into wake-ups until the reader is closed.
func (k *Kernel) watchPressure() {
	var record ringbuf.Record
	for k.pressed.ReadInto(&record) == nil {
		select {
		case k.pressure <- struct{}{}:
		default: // a wake-up is pending already
		}
	}
}
