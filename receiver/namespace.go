// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

package receiver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/ebpfpackets/ebpfpackets/internal/kernel"
	"github.com/ebpfpackets/ebpfpackets/internal/netns"
)

// namespace is a network namespace that is observed.
type namespace struct {
	number     uint16 // 0: the receiver's own
	name, path string
	space      space
	held       heldSpace   // nil: the receiver's own
	source     observation // nil: the receiver's own
	interfaces *interfaces
	synced     bool // its interfaces were listed

	cancel context.CancelFunc // ends its loops; nil: they do not run
	loops  sync.WaitGroup
}

func (n *namespaces) make(id netns.ID, path string) (*namespace, error) {
	if id == (netns.ID{}) {
		s := &namespace{space: n.host, path: path}
		if n.others() {
			s.name = netns.Host
		}
		s.interfaces = n.newInterfaces(s, id, n.source)
		return s, nil
	}
	held, err := n.host.holdSpace(netns.Found{Path: path, ID: id})
	if err != nil {
		return nil, err
	}
	s := &namespace{number: n.next(), name: n.nameFor(path, id), path: path, space: held, held: held}
	if s.source, err = n.source.Observe(s.number, held.handle()); err != nil {
		return nil, errors.Join(fmt.Errorf("observe network namespace %q: %w", path, err), held.close())
	}
	s.interfaces = n.newInterfaces(s, id, s.source)
	return s, nil
}

func (n *namespaces) newInterfaces(s *namespace, id netns.ID, source attacher) *interfaces {
	i := n.base.clone()
	i.host, i.source, i.number, i.space, i.id = s.space, source, s.number, s.name, id
	i.low = s.space.ephemeralLow()
	if s.name != "" {
		i.log = i.log.With(zap.String("namespace", s.name))
	}
	return i
}

// nameFor returns what a namespace is called: short, if no other one is called so. Its path may have been another's, too.
func (n *namespaces) nameFor(path string, id netns.ID) string {
	taken := map[string]bool{netns.Host: true}
	for _, s := range n.all {
		taken[s.name] = true
	}
	for _, name := range []string{netns.Name(path), path} {
		if !taken[name] {
			return name
		}
	}
	return fmt.Sprintf("%s#%d", path, id.Inode)
}

// next returns a number that nothing bears any more. They go round: what the kernel and the table still remember of one namespace is
// not taken for another's.
func (n *namespaces) next() uint16 {
	used := map[uint16]bool{}
	for _, s := range n.all {
		used[s.number] = true
	}
	delete(used, 0)
	for {
		n.last = n.last%kernel.MaxNamespace + 1
		if _, was := n.former[n.last]; !was && !used[n.last] {
			return n.last
		}
		if len(used)+len(n.former) >= kernel.MaxNamespace { // one a second for longer than names are kept: the oldest goes early
			n.dropFormer(slices.MinFunc(slices.Collect(maps.Keys(n.former)), func(a, b uint16) int { return n.former[a].Compare(n.former[b]) }))
		}
	}
}

// run starts the loops of one namespace.
func (s *namespace) run(ctx context.Context) {
	ctx, s.cancel = context.WithCancel(ctx)
	changed := make(chan struct{}, 1)
	s.loops.Go(func() {
		s.interfaces.watch(ctx, func() {
			select {
			case changed <- struct{}{}:
			default: // one is waiting to be seen
			}
		})
	})
	s.loops.Go(func() {
		t := time.NewTicker(tickInterval)
		defer t.Stop()
		if !s.synced {
			s.interfaces.report("list", s.interfaces.sync())
		}
		s.interfaces.run(ctx, changed, t.C)
	})
}

// end waits until the loops have ended.
func (s *namespace) end() {
	if s.cancel != nil {
		s.cancel()
	}
	s.loops.Wait()
}

// release detaches from a namespace and lets go of it. The receiver's own stays as it is, but for the programs.
func (s *namespace) release() error {
	if s.held == nil {
		var errs []error
		for index := range s.interfaces.byIndex {
			errs = append(errs, s.interfaces.source.Detach(index))
		}
		return errors.Join(errs...)
	}
	return errors.Join(s.source.Close(), s.held.close())
}
