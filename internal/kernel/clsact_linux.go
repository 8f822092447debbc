// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package kernel

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// Where there is no tcx a program is a filter of the qdisc clsact, which others use, too. A filter and a qdisc stay when their
// process ends, so a filter says by its name that it is ours, and whether one of us added the qdisc; that its process is alive
// says a claim, and its lease ends without one. Nothing but our filters is ever removed, and the qdisc only if one of us added it
// and no filter is left.
const (
	filterName     = "ebpfpackets"
	filterAndQdisc = filterName + "+clsact" // name of our filters in a qdisc that one of us added
)

// Priorities of our filters, unless others are before or behind. Both leave room; the kernel gives 0xc000 to the first filter
// that comes without one, and less to the next.
const (
	priorityFirst = 0x0eb9
	priorityLast  = 0xeb90
)

// clsact is one filter of ours.
type clsact struct {
	rtnl      *rtnl
	patience  *patience
	alive     *claim
	ifindex   uint32
	direction flow.Direction
	filter    tcFilter
	behind    bool // of filters that it should be before
}

// attachClsact must run in the network namespace of the interface. What predecessors left there goes when the filter has come.
func attachClsact(ifindex uint32, d flow.Direction, program *ebpf.Program, last bool, p *patience) (*clsact, error) {
	r, err := openRTNL()
	if err != nil {
		return nil, err
	}
	c := &clsact{rtnl: r, patience: p, ifindex: ifindex, direction: d}
	lock, err := c.lock()
	if err == nil {
		err = errors.Join(c.add(program, last), lock.release())
	}
	if err != nil {
		r.close()
		return nil, err
	}
	return c, nil
}

// lock keeps others of us from this interface: whoever removes a qdisc must know that nobody adds a filter meanwhile. It is nil if
// that lasts too long, for whoever is in the namespace may take a name.
func (c *clsact) lock() (*claim, error) {
	l, err := c.patience.await(fmt.Sprintf("%s.%d", filterName, c.ifindex))
	if err != nil && !errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("lock the interface: %w", err)
	}
	return l, nil
}

func (c *clsact) add(program *ebpf.Program, last bool) error {
	added, err := c.addQdisc()
	if err != nil {
		return err
	}
	err = c.addFilter(program, last, added)
	if err != nil && added {
		err = errors.Join(err, c.removeQdisc())
	}
	return err
}

// addQdisc reports whether there was none.
func (c *clsact) addQdisc() (added bool, err error) {
	err = c.rtnl.addClsact(c.ifindex)
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, fmt.Errorf("add qdisc clsact: %w: the kernel needs sch_ingress (CONFIG_NET_SCH_INGRESS), or tcx, which Linux 6.6 has", err)
	case err != nil && !errors.Is(err, unix.EEXIST):
		return false, fmt.Errorf("add qdisc clsact: %w", err)
	case err == nil:
		return true, nil
	}
	kind, err := c.rtnl.qdisc(c.ifindex)
	if err == nil && kind == "ingress" && c.direction == flow.DirectionEgress {
		err = errors.New(`the qdisc "ingress" is in the place of clsact, and sees no egress: replace it, or leave egress out of directions`)
	}
	return false, err
}

func (c *clsact) addFilter(program *ebpf.Program, last, addedQdisc bool) error {
	info, err := program.Info()
	if err != nil {
		return err
	}
	id, _ := info.ID()
	all, err := c.list()
	if err != nil {
		return err
	}
	c.filter = tcFilter{
		kind: "bpf", name: filterName, program: uint32(id), protocol: unix.ETH_P_ALL,
		handle: 1 + rand.Uint32N(math.MaxUint32), // of two of us at one priority, which are one list
	}
	if addedQdisc || slices.ContainsFunc(all, func(f placed) bool { return f.kind == "bpf" && f.name == filterAndQdisc }) {
		c.filter.name = filterAndQdisc
	}
	c.place(all, last)
	if c.alive, err = newClaim(c.claimOf(c.direction, &c.filter)); err != nil {
		return fmt.Errorf("claim a filter: %w", err)
	}
	err = c.rtnl.addFilter(c.ifindex, c.direction, &c.filter, program.FD())
	if errors.Is(err, unix.ENOENT) {
		err = fmt.Errorf("%w: the kernel needs cls_bpf (CONFIG_NET_CLS_BPF), or tcx, which Linux 6.6 has", err)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("add a filter: %w", err), c.alive.release())
	}
	if _, err := c.sweep(all); err != nil {
		_, removeErr := c.remove()
		return errors.Join(err, removeErr, c.alive.release())
	}
	return nil
}

// placed is a filter and the direction in which it is.
type placed struct {
	tcFilter
	direction flow.Direction
}

func (f *tcFilter) ours() bool {
	return f.kind == "bpf" && (f.name == filterName || f.name == filterAndQdisc)
}

// list returns the filters of both directions.
func (c *clsact) list() (all []placed, err error) {
	for _, d := range []flow.Direction{flow.DirectionIngress, flow.DirectionEgress} {
		filters, err := c.rtnl.filters(c.ifindex, d)
		if err != nil {
			return nil, err
		}
		for _, f := range filters {
			all = append(all, placed{f, d})
		}
	}
	return all, nil
}

// place chooses a priority.
func (c *clsact) place(all []placed, last bool) {
	var others []tcFilter
	for _, f := range all {
		if f.direction == c.direction && f.chain == 0 && !f.ours() {
			others = append(others, f.tcFilter)
		}
	}
	c.filter.priority = priority(others, last)
	c.behind = !last && slices.ContainsFunc(others, func(f tcFilter) bool { return f.priority < c.filter.priority })
}

// priority is before all others, or behind them. At the ends of the numbers a filter shares one with other programs, and is before
// these; what is no program does not share, and the filter comes as near to the end as it can.
func priority(others []tcFilter, last bool) uint16 {
	shared := map[uint16]bool{}
	want, step := uint16(priorityFirst), uint16(1)
	if last {
		want, step = priorityLast, math.MaxUint16 // -1
	}
	for _, f := range others {
		shared[f.priority] = f.kind == "bpf" && f.protocol == unix.ETH_P_ALL
		if last {
			want = max(want, min(f.priority, math.MaxUint16-1)+1)
		} else {
			want = min(want, max(f.priority, 2)-1)
		}
	}
	for {
		if shares, taken := shared[want]; !taken || shares {
			return want
		}
		want += step
	}
}

// claimOf is what the process of one of our filters has while it lives.
func (c *clsact) claimOf(d flow.Direction, f *tcFilter) string {
	return fmt.Sprintf("%s.%d.%s.%s", filterName, c.ifindex, d, strconv.FormatUint(uint64(f.handle), 16))
}

// sweep removes those of ours that nobody claims: their process is gone.
func (c *clsact) sweep(all []placed) (swept []placed, err error) {
	var errs []error
	for _, f := range all {
		if !f.ours() {
			continue
		}
		claim, err := newClaim(c.claimOf(f.direction, &f.tcFilter))
		if errors.Is(err, unix.EADDRINUSE) {
			continue
		}
		if err == nil {
			err = errors.Join(gone(c.rtnl.deleteFilter(c.ifindex, f.direction, &f.tcFilter)), claim.release())
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove a filter whose process is gone: %w", err))
			continue
		}
		swept = append(swept, f)
	}
	return swept, errors.Join(errs...)
}

// sweepClsact removes what killed predecessors left at an interface, and returns how many filters that was. It must run in the network
// namespace of the interface.
func sweepClsact(ifindex uint32, p *patience) (filters int, err error) {
	r, err := openRTNL()
	if err != nil {
		return 0, err
	}
	defer r.close()
	c := &clsact{rtnl: r, patience: p, ifindex: ifindex}
	all, err := c.list()
	if err != nil || !slices.ContainsFunc(all, func(f placed) bool { return f.ours() }) {
		return 0, err
	}
	lock, err := c.lock()
	if err != nil {
		return 0, err
	}
	swept, err := c.sweep(all)
	if lock != nil && slices.ContainsFunc(swept, func(f placed) bool { return f.name == filterAndQdisc }) {
		err = errors.Join(err, c.removeQdisc())
	}
	return len(swept), errors.Join(err, lock.release())
}

// Close removes the filter, unless somebody else has already or it is no longer ours, and a qdisc that one of us added, if
// nothing is left in it. An interface that is gone took both along.
func (c *clsact) Close() error {
	lock, err := c.lock()
	return errors.Join(err, c.close(lock))
}

// close leaves the qdisc without a lock.
func (c *clsact) close(lock *claim) error {
	removed, err := c.remove()
	if removed && lock != nil && c.filter.name == filterAndQdisc {
		err = errors.Join(err, c.removeQdisc())
	}
	c.rtnl.close()
	return errors.Join(err, c.alive.release(), lock.release())
}

func (c *clsact) remove() (removed bool, err error) {
	filters, err := c.rtnl.filters(c.ifindex, c.direction)
	if err != nil {
		return false, err
	}
	for _, f := range filters {
		if f == c.filter {
			return true, gone(c.rtnl.deleteFilter(c.ifindex, c.direction, &f))
		}
	}
	return false, nil
}

// there: somebody else may have removed the filter or the qdisc that it is in, or replaced one of them.
func (c *clsact) there() (bool, error) {
	filters, err := c.rtnl.filters(c.ifindex, c.direction)
	return slices.Contains(filters, c.filter), err
}

func (c *clsact) removeQdisc() error {
	all, err := c.list()
	if err != nil || len(all) > 0 {
		return err
	}
	return gone(c.rtnl.deleteClsact(c.ifindex))
}

// gone is nil if err says that the interface or filter is not there any more.
func gone(err error) error {
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
