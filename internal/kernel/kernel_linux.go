// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package kernel

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
)

// Config is what the programs are loaded with.
type Config struct {
	Slots         int       // flow slots of a region: a power of two, at most MaxSlots; 0: DefaultSlots
	MemoryCeiling int       // bytes of all regions together; Slots is halved until it fits; 0: DefaultMemoryCeiling
	Filters       []Filter  // at most MaxFilters
	Tunnels       bool      // the flow of a packet inside of a tunnel is the inner one
	Deduplicate   bool      // count what another hook counts as flow.ReasonDuplicate; Stack says which interfaces are joined
	Quotes        bool      // count the ICMP errors that quote a flow
	Samples       bool      // false: no ring, no sampling
	RandomOneIn   int       // 1 in N buffers is a sample; 0: none
	FlowOneIn     int       // every packet of 1 flow in N is; 0: none
	FirstPerFlow  int       // the first packets of every flow are: so many; 0: none
	Protocols     Protocols // whose messages are samples, and the packets that they go on in
	SnapLength    int       // bytes copied of a sample, 1 to MaxSnapLength; of part of a message at least MessageSnap
	MaxPerSecond  int       // samples of each kind, of all CPUs together
	Seed          [32]byte  // of random samples; zero: drawn from crypto/rand
	AttachLast    bool      // behind the programs of others, not before them
	Namespaces    bool      // Observe will be called

	Notice func(string) // what a user should know and no call returns; called from any goroutine, with locks held

	FirstIdle time.Duration // without a packet after which a flow is a new one to FirstPerFlow; 0: DefaultFirstIdle

	// For tests:
	Clsact    bool           // even if this kernel has tcx; Load sets it where there is none
	cpus      []int          // that get a region; nil: those online
	loaded    func(*objects) // what to spoil before the objects are opened
	fragments time.Duration  // how long a first fragment is remembered; 0: fragmentTime, negative: not at all
	injected  bool           // frames come from BPF_PROG_TEST_RUN, which makes a protocol up
	object    object         // which programs, whatever this kernel and the rest of the configuration need
	flowSeed  uint64         // 0: that of bpf/config.h
	ring      int            // bytes of the ring of samples; 0: sampleRing
	firsts    int            // beginnings of flows remembered; 0: firstFlows
	lease     time.Duration  // of a clsact filter; 0: defaultLease
	version   string         // of the kernel, uname(2); "": that of this one
}

const (
	DefaultSlots         = 16384
	MaxSlots             = 32768
	maxRegionSize        = 4 << 20 // 5.10 refuses a larger map value
	MinSlots             = 256
	DefaultMemoryCeiling = 64 << 20
	MaxSnapLength        = 9216
	MaxFirstPerFlow      = 1000
	DefaultFirstIdle     = 30 * time.Second

	// MessageSnap is how many bytes are copied of a packet that is part of a message.
	MessageSnap = 2048

	minRing    = 1 << 20
	maxRing    = 16 << 20
	ringHeader = 8 // BPF_RINGBUF_HDR_SZ of linux/bpf.h

	follows      = 1024             // FOLLOWS of bpf/config.h
	firstFlows   = 65536            // beginnings of flows remembered
	fragmentTime = 30 * time.Second // net.ipv4.ipfrag_time
)

// Kernel is the loaded programs, their maps and their attachments; itself, it attaches to the interfaces of the namespace that the
// process runs in. Attach, Detach, Observe and Pressure may be called from anywhere. Drain and Stop have one caller between them at a
// time, ReadSamples one of its own; Close comes after all others.
type Kernel struct {
	Namespace
	cfg      Config
	objects  objects
	control  *bpfControl
	regions  *regions
	barrier  *barrier
	clock    *clock
	sampling *sampling       // nil: no sampling
	pressed  *ringbuf.Reader // nil once closed
	pressure chan struct{}
	watching sync.WaitGroup
	ending   chan struct{} // closed by Close

	mu       sync.Mutex
	closed   bool // no more links
	others   map[uint16]*Namespace
	patience patience

	failed atomic.Pointer[error] // of the pressure ring

	drain    drainState
	memory   int
	unmap    []func() error
	closing  sync.Once
	closeErr error
}

// Load verifies and loads the programs and maps; nothing is attached yet. Errors name the step and, where the kernel says
// no more than "operation not permitted", the capability that is missing.
func Load(cfg Config) (*Kernel, error) {
	if err := checkHost(&cfg); err != nil {
		return nil, err
	}
	k := &Kernel{pressure: make(chan struct{}, 1), ending: make(chan struct{}), others: map[uint16]*Namespace{}}
	k.Namespace = Namespace{k: k, links: map[hook]attachment{}}
	if err := liftMemlock(); err != nil {
		return nil, err
	}
	if err := k.load(cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("load programs: %w", explain(err)), k.Close())
	}
	k.watching.Go(k.watchPressure)
	if k.cfg.Clsact {
		k.watching.Go(k.renewLeases)
	}
	return k, nil
}

// Missing says which optional features this kernel lacks, and what is done instead.
func (k *Kernel) Missing() []string {
	if !k.cfg.Clsact {
		return nil
	}
	return []string{"no tcx, which Linux 6.6 has: programs are attached as filters of clsact qdiscs"}
}

// Pressure delivers when a region is half full: a drain that waits longer may overflow.
func (k *Kernel) Pressure() <-chan struct{} { return k.pressure }

// MemoryBytes is the memory of all maps, but for 20 kB of constants and of the barrier, as the kernel charges it, to the memory cgroup of the process from 5.11 on.
func (k *Kernel) MemoryBytes() int { return k.memory }

// SlotLimit is the number of flow slots of one region.
func (k *Kernel) SlotLimit() int { return k.cfg.Slots }

// Stop makes every program return at once and waits until none counts any more. The next Drain takes both buffers.
func (k *Kernel) Stop() error { return k.stopCounting() }

// Close detaches everything and frees the maps. It is idempotent.
func (k *Kernel) Close() error {
	k.closing.Do(func() { k.closeErr = k.close() })
	return k.closeErr
}

func (k *Kernel) close() error {
	errs := []error{k.closeNamespaces()}
	close(k.ending)
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
	return errors.Join(append(errs, k.objects.close())...)
}

// watchPressure turns ring records into wake-ups until the reader is closed. Should the ring fail, Drain says so.
func (k *Kernel) watchPressure() {
	var record ringbuf.Record
	for {
		if err := k.pressed.ReadInto(&record); err != nil {
			if !errors.Is(err, ringbuf.ErrClosed) {
				err = fmt.Errorf("wait for pressure: %w", err)
				k.failed.Store(&err)
			}
			return
		}
		select {
		case k.pressure <- struct{}{}:
		default: // a wake-up is pending already
		}
	}
}

// objects are the programs and maps of bpf/packets.bpf.c. Variables are left out: they would stay mapped after Close.
type objects struct {
	bpfPrograms
	bpfMaps
	BSS *ebpf.Map `ebpf:".bss"`
}

func (o *objects) close() error {
	return errors.Join(o.bpfPrograms.Close(), o.bpfMaps.Close(), o.BSS.Close())
}

// maps are all maps but constants, by name.
func (o *objects) maps() map[string]*ebpf.Map {
	return map[string]*ebpf.Map{
		bpfMapRegions: o.Regions, bpfMapSamplers: o.Samplers, bpfMapSamples: o.Samples, bpfMapPressure: o.Pressure,
		bpfMapFragments: o.Fragments, bpfMapAparts: o.Aparts, bpfMapBeginnings: o.Beginnings, bpfMapFollows: o.Follows,
		bpfMapScratch: o.Scratch, bpfMapStackings: o.Stackings, ".bss": o.BSS,
	}
}

// memory sums up what the kernel charges for the maps.
func (o *objects) memory() (bytes int, err error) {
	for _, m := range o.maps() {
		info, err := m.Info()
		if err != nil {
			return 0, fmt.Errorf("ask for the size of %s: %w", m, err)
		}
		charged, _ := info.Memlock()
		bytes += int(charged)
	}
	return bytes, nil
}
