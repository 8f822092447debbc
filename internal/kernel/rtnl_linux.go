// Copyright The ebpfpackets Authors
// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64

package kernel

import (
	"fmt"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/ebpfpackets/ebpfpackets/internal/flow"
)

// rtnl asks the kernel for qdiscs and filters, in the network namespace that it was opened in. It reads their answers itself: the
// netlink package's own reading may fail at filters of others that it does not know.
type rtnl struct {
	sockets map[int]*nl.SocketHandle
}

func openRTNL() (*rtnl, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE) // to nothing
	if err != nil {
		return nil, fmt.Errorf("open an rtnetlink socket: %w", err)
	}
	return &rtnl{map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}}, nil
}

func (r *rtnl) close() { r.sockets[unix.NETLINK_ROUTE].Close() }

func (r *rtnl) request(kind, flags int, msg *nl.TcMsg, attributes ...nl.NetlinkRequestData) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(kind, flags)
	req.Sockets = r.sockets
	req.Seq = atomic.AddUint32(&r.sockets[unix.NETLINK_ROUTE].Seq, 1)
	req.AddData(msg)
	for _, a := range attributes {
		req.AddData(a)
	}
	return req
}

// do waits until the kernel has done what it is asked for.
func (r *rtnl) do(kind, flags int, msg *nl.TcMsg, attributes ...nl.NetlinkRequestData) error {
	_, err := r.request(kind, flags|unix.NLM_F_ACK, msg, attributes...).Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// clsactOf names the place of clsact, which the older qdisc "ingress" may be in.
func clsactOf(ifindex uint32) *nl.TcMsg {
	return &nl.TcMsg{Ifindex: int32(ifindex), Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}
}

func (r *rtnl) addClsact(ifindex uint32) error {
	return r.do(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL, clsactOf(ifindex), nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated("clsact")))
}

func (r *rtnl) deleteClsact(ifindex uint32) error {
	return r.do(unix.RTM_DELQDISC, 0, clsactOf(ifindex))
}

// qdisc returns the kind of the qdisc in the place of clsact: "" if there is none.
func (r *rtnl) qdisc(ifindex uint32) (kind string, err error) {
	messages, err := r.request(unix.RTM_GETQDISC, unix.NLM_F_DUMP, clsactOf(ifindex)).Execute(unix.NETLINK_ROUTE, unix.RTM_NEWQDISC)
	if err != nil {
		return "", fmt.Errorf("list qdiscs: %w", err)
	}
	for _, m := range messages {
		msg, attributes, err := parseTC(m)
		if err != nil {
			return "", fmt.Errorf("list qdiscs: %w", err)
		}
		if msg.Ifindex == int32(ifindex) && msg.Parent == netlink.HANDLE_CLSACT { // kernels send those of all interfaces
			kind = text(attributes[nl.TCA_KIND])
		}
	}
	return kind, nil
}

// tcFilter is one filter of an interface.
type tcFilter struct {
	priority uint16 // lower ones come first
	protocol uint16 // ethertype
	kind     string
	handle   uint32
	chain    uint32 // but 0, only a jump leads there

	// iff kind is bpf
	name    string
	program uint32 // its id
}

// parents are where the filters of each direction are.
var parents = [...]uint32{flow.DirectionIngress: netlink.HANDLE_MIN_INGRESS, flow.DirectionEgress: netlink.HANDLE_MIN_EGRESS}

func (f *tcFilter) message(ifindex uint32, d flow.Direction) *nl.TcMsg {
	return &nl.TcMsg{
		Ifindex: int32(ifindex), Handle: f.handle, Parent: parents[d], Info: netlink.MakeHandle(f.priority, nl.Swap16(f.protocol)),
	}
}

// addFilter adds a program as a filter that decides itself ("direct action"), and is not offered to the network card.
func (r *rtnl) addFilter(ifindex uint32, d flow.Direction, f *tcFilter, fd int) error {
	options := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	options.AddRtAttr(nl.TCA_BPF_FD, nl.Uint32Attr(uint32(fd)))
	options.AddRtAttr(nl.TCA_BPF_NAME, nl.ZeroTerminated(f.name))
	options.AddRtAttr(nl.TCA_BPF_FLAGS, nl.Uint32Attr(nl.TCA_BPF_FLAG_ACT_DIRECT))
	options.AddRtAttr(nl.TCA_BPF_FLAGS_GEN, nl.Uint32Attr(nl.TCA_CLS_FLAGS_SKIP_HW))
	return r.do(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE|unix.NLM_F_EXCL, f.message(ifindex, d),
		nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated(f.kind)), options)
}

func (r *rtnl) deleteFilter(ifindex uint32, d flow.Direction, f *tcFilter) error {
	return r.do(unix.RTM_DELTFILTER, 0, f.message(ifindex, d), nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated(f.kind)))
}

// filters returns those of one direction, in the order in which packets pass them; none if there is no such qdisc or interface.
func (r *rtnl) filters(ifindex uint32, d flow.Direction) (all []tcFilter, err error) {
	all, err = r.listFilters(ifindex, d)
	if err != nil {
		return nil, fmt.Errorf("list filters: %w", err)
	}
	return all, nil
}

func (r *rtnl) listFilters(ifindex uint32, d flow.Direction) (all []tcFilter, err error) {
	msg := &nl.TcMsg{Ifindex: int32(ifindex), Parent: parents[d]}
	messages, err := r.request(unix.RTM_GETTFILTER, unix.NLM_F_DUMP, msg).Execute(unix.NETLINK_ROUTE, unix.RTM_NEWTFILTER)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		msg, attributes, err := parseTC(m)
		if err != nil {
			return nil, err
		}
		options, ok := attributes[nl.TCA_OPTIONS]
		if !ok { // what is common to all filters of this priority
			continue
		}
		f := tcFilter{handle: msg.Handle, kind: text(attributes[nl.TCA_KIND]), chain: number(attributes[nl.TCA_CHAIN])}
		f.priority, f.protocol = netlink.MajorMinor(msg.Info)
		f.protocol = nl.Swap16(f.protocol)
		if f.kind == "bpf" {
			if err := f.parse(options); err != nil {
				return nil, err
			}
		}
		all = append(all, f)
	}
	return all, nil
}

func (f *tcFilter) parse(options []byte) error {
	attributes, err := parseAttributes(options)
	if err != nil {
		return err
	}
	f.name = text(attributes[nl.TCA_BPF_NAME])
	f.program = number(attributes[nl.TCA_BPF_ID])
	return nil
}

func parseTC(message []byte) (*nl.TcMsg, map[uint16][]byte, error) {
	if len(message) < nl.SizeofTcMsg {
		return nil, nil, fmt.Errorf("message has %d bytes, needs %d", len(message), nl.SizeofTcMsg)
	}
	attributes, err := parseAttributes(message[nl.SizeofTcMsg:])
	return nl.DeserializeTcMsg(message), attributes, err
}

func parseAttributes(b []byte) (map[uint16][]byte, error) {
	list, err := nl.ParseRouteAttr(b)
	if err != nil {
		return nil, err
	}
	attributes := make(map[uint16][]byte, len(list))
	for _, a := range list {
		attributes[a.Attr.Type&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER)] = a.Value
	}
	return attributes, nil
}

func text(value []byte) string { return unix.ByteSliceToString(value) }

func number(value []byte) uint32 {
	if len(value) != 4 {
		return 0
	}
	return nl.NativeEndian().Uint32(value)
}
