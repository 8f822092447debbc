// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"time"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
	"github.com/ebpfpackets/ebpfpackets/internal/iface"
	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
	"github.com/ebpfpackets/ebpfpackets/internal/netns"
	"github.com/ebpfpackets/ebpfpackets/internal/packet"
)

// attacher counts packets at the interfaces of one network namespace. One goroutine at a time calls its methods.
type attacher interface {
	Attach(i iface.Interface, d flow.Direction) error
	// DropLost forgets the programs that are no longer at an interface, and returns how many. Attach attaches them again.
	DropLost(ifindex uint32) (int, error)
	Detach(ifindex uint32) error
	// Sweep removes what killed predecessors left at an interface that is not attached to, and returns how many programs that was.
	Sweep(i iface.Interface) (int, error)
	// Stack says which interfaces share packets.
	Stack(all map[uint32]iface.Stacking) error
}

// observation is an attacher in another namespace than the receiver's. Close detaches everything there.
type observation interface {
	attacher
	Close() error
}

// source counts packets: *kernel.Kernel, or a stand-in in tests. Itself, it attaches in the receiver's namespace. One goroutine at a
// time calls Drain and Stop, one ReadSamples, one Observe.
type source interface {
	attacher
	// Observe counts in another namespace, too; number is in all keys of what is counted there.
	Observe(number uint16, n *netns.Namespace) (observation, error)
	// Pressure says that a table is half full: drain now.
	Pressure() <-chan struct{}
	// Drain takes what was counted since the last one. A *flow.Slot is valid until visit returns.
	Drain(visit func(*flow.Slot)) (*kernel.Drained, error)
	// ReadSamples takes the samples that are there without waiting, and grants new credit for more.
	ReadSamples(visit func(*packet.Sample)) (int, error)
	// MissedMessages grows whenever a packet that is, or may be, part of a message was not copied.
	MissedMessages() uint32
	// Stop ends counting. The next Drain takes everything that is left.
	Stop() error
	Close() error
	// Missing says which optional features the kernel lacks, and what is done instead.
	Missing() []string
	MemoryBytes() int
	SlotLimit() int
}

// sourceConfig is what a pipeline or setting makes the kernel do.
type sourceConfig struct {
	filters []kernel.Filter
	tunnels bool // the flow of a packet inside of a tunnel is the inner one
	once    bool // count a packet at one interface
	quotes  bool // count ICMP errors for the flows that they quote
	samples bool // false: no ring and no sampling at all
	packets PacketsConfig
	idle    time.Duration // after which a flow has ended
	last    bool          // attach behind the programs of others
	enter   bool          // observe other namespaces
}

// space is a network namespace.
type space interface {
	// interfaces may return iface.ErrIncomplete beside those that it has found.
	interfaces() ([]iface.Interface, error)
	// counters returns what each interface counted itself.
	counters() (map[uint32]iface.Counters, error)
	// watch calls changed when the interfaces may have changed, until ctx is done.
	watch(ctx context.Context, changed func()) error
	// ephemeralLow is the first port that clients are given.
	ephemeralLow() uint16
}

// heldSpace is a namespace other than the receiver's, which lives until it is closed.
type heldSpace interface {
	space
	handle() *netns.Namespace
	close() error
}

// platform is the host that the receiver runs on; itself, it is the namespace that the receiver runs in.
type platform interface {
	space
	// load calls notice with what a user should know and no call returns, from any goroutine.
	load(c sourceConfig, notice func(string)) (source, error)
	// ownSpace names the receiver's namespace.
	ownSpace() (netns.ID, error)
	// findSpaces returns the paths that patterns lead to and at which there is a namespace. What was found is right even if there is an error.
	findSpaces(patterns []string) ([]netns.Found, error)
	// spaceGone reports whether what was found is positively no longer at its path.
	spaceGone(f netns.Found) bool
	// holdSpace opens a namespace that was found.
	holdSpace(f netns.Found) (heldSpace, error)
}
