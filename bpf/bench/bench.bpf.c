// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * What the program of ../packets.bpf.c is measured against, and what drives it. Never part of the receiver: only
 * internal/kernel/bench_test.go loads this object. docs/performance.md says what is measured how.
 *
 *   drive_*: rewrite the packet to the next flow of a prepared sequence, then tail-call the program under test
 *   copy: what a sample costs at least, 128 bytes from the packet to a ring
 *   noop, reference, percpu: programs under test beside our own; they parse with ../usual.h, so only accounting differs
 */
#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>

#include "bpf_endian.h"
#include "bpf_helpers.h"

#include "usual.h"
#include "wire.h"

#ifndef TCX_NEXT
#define TCX_NEXT -1
#endif

#define SEQUENCE 131072 // packets until the sequence of flows starts again, a power of two
#define FLOWS_MAX 131072 // entries of the hash maps: all flows of every workload fit, so none is refused

/* What distinguishes a flow from the others; the rest of the frame stays. */
struct step {
	__be32 src_addr; // IPv6: low word of the source address
	__be32 dst_addr; // IPv6: low word of the destination address
	__be16 src_port;
	__be16 dst_port;
	__u32 _pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct step);
	__uint(max_entries, SEQUENCE);
} sequence SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} under_test SEC(".maps");

__u64 driven; // packets so far: the truth, since a run that a signal interrupts is started again
__u64 failures; // tail calls that did not happen, flows that found no room: must stay 0

static __always_inline int drive(struct __sk_buff *skb, __u32 src, __u32 dst, __u32 ports)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 index = driven++ % SEQUENCE;
	const struct step *s = bpf_map_lookup_elem(&sequence, &index);

	if (!s || data + ports + 4 > end)
		return TCX_NEXT;
	*(__be32 *)(data + src) = s->src_addr;
	*(__be32 *)(data + dst) = s->dst_addr;
	*(__be32 *)(data + ports) = *(const __be32 *)&s->src_port;
	bpf_tail_call(skb, &under_test, 0);
	failures++;
	return TCX_NEXT;
}

SEC("tc")
int drive_ipv4(struct __sk_buff *skb)
{
	return drive(skb, ETH_HLEN + 12, ETH_HLEN + 16, ETH_HLEN + 20);
}

SEC("tc")
int drive_ipv6(struct __sk_buff *skb)
{
	return drive(skb, ETH_HLEN + 20, ETH_HLEN + 36, ETH_HLEN + 40);
}

SEC("tc")
int noop(struct __sk_buff *skb __attribute__((unused)))
{
	return TCX_NEXT;
}

#define COPY 128

struct copied {
	__u8 bytes[COPY];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct copied);
	__uint(max_entries, 1);
} copy_scratch SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} copies SEC(".maps");

SEC("tc")
int copy(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct copied *c = bpf_map_lookup_elem(&copy_scratch, &zero);

	if (!c)
		return TCX_NEXT;
	if (bpf_skb_load_bytes(skb, 0, c->bytes, COPY) || bpf_ringbuf_output(&copies, c, COPY, BPF_RB_NO_WAKEUP))
		failures++;
	return TCX_NEXT;
}

/* The usual design: one hash map of all CPUs, each entry guarded by a spin lock, the time of every packet from ktime. */
struct reference_flow {
	struct bpf_spin_lock lock;
	__u32 tcp_flags; // OR of the flags of every packet
	__u64 packets;
	__u64 bytes;
	__u64 first_ns; // bpf_ktime_get_ns
	__u64 last_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64[KEY_WORDS]);
	__type(value, struct reference_flow);
	__uint(max_entries, FLOWS_MAX);
} reference_flows SEC(".maps");

SEC("tc")
int reference(struct __sk_buff *skb)
{
	struct packet p = {.ifindex = skb->ifindex, .netns = netns};
	__u64 key[KEY_WORDS];
	__u64 now = bpf_ktime_get_ns();
	struct reference_flow *f;
	struct wire w;

	if (!parse_usual(skb, &p, true)) {
		failures++;
		return TCX_NEXT;
	}
	w = wire_of(skb, skb->gso_size ? p.offset : NOT_SEGMENTED, false);
	key_words(&p, key);
	f = bpf_map_lookup_elem(&reference_flows, key);
	if (f) {
		bpf_spin_lock(&f->lock);
		f->packets += w.packets;
		f->bytes += w.bytes;
		f->tcp_flags |= p.tcp_flags;
		f->last_ns = now;
		bpf_spin_unlock(&f->lock);
	} else {
		struct reference_flow new = {
			.tcp_flags = p.tcp_flags,
			.packets = w.packets,
			.bytes = w.bytes,
			.first_ns = now,
			.last_ns = now,
		};

		if (bpf_map_update_elem(&reference_flows, key, &new, BPF_NOEXIST))
			failures++;
	}
	return TCX_NEXT;
}

/* The lean variant of a hash map: a value for each CPU, no lock, the time of every packet from jiffies. */
struct percpu_flow {
	__u32 tcp_flags;
	__u32 last; // low 32 bits of jiffies64
	__u64 packets;
	__u64 bytes;
	__u64 first_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__type(key, __u64[KEY_WORDS]);
	__type(value, struct percpu_flow);
	__uint(max_entries, FLOWS_MAX);
} percpu_flows SEC(".maps");

SEC("tc")
int percpu(struct __sk_buff *skb)
{
	struct packet p = {.ifindex = skb->ifindex, .netns = netns};
	__u64 key[KEY_WORDS];
	struct percpu_flow *f;
	struct wire w;

	if (!parse_usual(skb, &p, true)) {
		failures++;
		return TCX_NEXT;
	}
	w = wire_of(skb, skb->gso_size ? p.offset : NOT_SEGMENTED, false);
	key_words(&p, key);
	f = bpf_map_lookup_elem(&percpu_flows, key);
	if (f) {
		f->packets += w.packets;
		f->bytes += w.bytes;
		f->tcp_flags |= p.tcp_flags;
		f->last = bpf_jiffies64();
	} else {
		struct percpu_flow new = {
			.tcp_flags = p.tcp_flags,
			.last = bpf_jiffies64(),
			.packets = w.packets,
			.bytes = w.bytes,
			.first_ns = bpf_ktime_get_boot_ns(),
		};

		if (bpf_map_update_elem(&percpu_flows, key, &new, BPF_NOEXIST))
			failures++;
	}
	return TCX_NEXT;
}

char _license[] SEC("license") = "Dual BSD/GPL";
