// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Counts every packet that passes an interface, and copies a few. An observer: it never ends the tcx chain, never writes to
 * a packet, never re-allocates one.
 *
 *   observe: region of this CPU -> parse as usual -> account
 *         or parse apart -> look into tunnels -> account -> perhaps note what it quotes
 *   account: leave out duplicates -> filter -> slot -> count -> perhaps sample, if it is part of a message for one
 *
 * contract.h shared structs, config.h knobs, maps.h maps, then one header for each step.
 */
#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>

#include "bpf_endian.h"
#include "bpf_helpers.h"

#include "apart.h"
#include "duplicate.h"
#include "filter.h"
#include "quote.h"
#include "sample.h"
#include "tunnel.h"
#include "usual.h"

#ifndef TCX_NEXT // linux/bpf.h has it from 6.6 on
#define TCX_NEXT -1 // go on with the next program; the same number as TC_ACT_UNSPEC for a clsact filter
#endif

/* A CPU without a region has company in its counters: atomics. It came online after loading. The index is masked as a whole for 5.10 and 6.1. */
static __always_inline void count_late(__u32 place, bool egress, struct wire w)
{
	struct late *l = &control.late[masked(place % 2 * 2 + egress, 3)];

	__sync_fetch_and_add(&l->buffers, 1);
	__sync_fetch_and_add(&l->packets, w.packets);
	__sync_fetch_and_add(&l->bytes, w.bytes);
}

/* It is neither a flow nor a sample here. */
static __always_inline bool is_duplicate(const struct packet *p)
{
	return deduplicate && p->reason == REASON_DUPLICATE;
}

/* The slot of a packet that was parsed: of its flow, or else of the reason why it has none. */
static __always_inline struct slot *slot_of(struct __sk_buff *skb, struct region_header *h, struct packet *p, const __u64 *key,
					    const struct outer *outer, __u32 place, bool link_header)
{
	struct slot *s;

	if (duplicate(skb, p->bits & KEY_EGRESS))
		p->reason = REASON_DUPLICATE;
	if (filter_count && !p->reason && filtered(p))
		p->reason = REASON_FILTERED;
	if (likely(!p->reason)) {
		s = flow_slot(skb, h, p, key, outer, link_header, place);
		if (likely(s))
			return s;
		p->reason = REASON_OVERFLOW;
		if (protocols)
			miss(place);
	}
	return class_slot(h, p);
}

/* Counts a packet that was parsed. */
static __always_inline void account(struct __sk_buff *skb, struct region_header *h, struct packet *p, const __u64 *key,
				    const struct outer *outer, __u32 place, bool link_header, bool later)
{
	__u32 headers = repeated_headers(skb, p, outer || later); // before it has a reason to be in no flow
	struct slot *s = slot_of(skb, h, p, key, outer, place, link_header);
	struct wire w = wire_of(skb, headers, p->jumbo); // here, since what is known before the slot waits on the stack
	__u32 choice = 0;

	if (likely(!p->reason)) {
		if (unlikely(remarkable(s, p)))
			note(h, s, p, w);
		if (young_packets || protocols)
			choice = choose_known(skb, s, p, w, place, later);
	}
	count(h, s, p, w);
	if (sample_random && !(filter_count && p->reason == REASON_FILTERED) && !is_duplicate(p) && choose_random(h))
		choice |= SAMPLE_RANDOM;
	if (unlikely(choice))
		sample(skb, place, choice, p, w, link_header);
}

/*
 * The same of a packet that was parsed apart; flags are enum apart_flags. Returns whether it quotes another, which is to be noted. Not
 * static, so that verifiers look at it once.
 */
__noinline int account_apart(struct __sk_buff *skb, __u32 place, __u32 flags)
{
	bool later = flags & APART_LATER;
	struct region_header *h;
	__u32 headers, zero = 0;
	struct apart *apart;
	struct packet *p;

	apart = bpf_map_lookup_elem(&aparts, &zero);
	if (!apart)
		return 0;
	p = &apart->packet;
	if (tunnels && !p->reason && !later && may_be_tunnel(p))
		later = enter_tunnel(skb, apart);
	h = bpf_map_lookup_elem(&regions, &place);
	if (!h) {
		headers = repeated_headers(skb, p, later || outer_of(apart));
		count_late(place, p->bits & KEY_EGRESS, wire_of(skb, headers, p->jumbo));
		return 0;
	}
	account(skb, h, p, (const __u64 *)p, outer_of(apart), place, flags & APART_LINK_HEADER, later);
	return p->quoted && p->reason != REASON_FILTERED && !is_duplicate(p);
}

/* A clsact filter outlives a process that is killed, a tcx link does not. 64 bits: 32 would come round after 50 days. */
static __always_inline bool lease_expired(void)
{
	return bpf_jiffies64() > *(volatile __u64 *)&control.valid_until;
}

/* No region: far beyond the last. */
static __always_inline __u32 region_of(__u32 cpu)
{
	if (likely(cpu < first_cpus))
		return cpu;
	return (cpu < MAX_CPUS ? region_of_cpu[cpu] : 0) - 1;
}

/* Nothing else runs on this CPU until the packet is counted: bottom halves are off. */
static __always_inline void enter(struct region_header *h)
{
	__u64 seen = *(volatile __u64 *)&h->buffers_seen;

	*(volatile __u64 *)&h->buffers_seen = seen + 1;
	if (unlikely(seen != h->buffers_counted))
		h->reentered++;
}

static __always_inline int observe(struct __sk_buff *skb, bool egress, bool link_header)
{
	__u32 buffer = *(volatile __u32 *)&control.active; // read once: slots, colds and ledger must agree
	struct packet p = {.bits = egress ? KEY_EGRESS : 0};
	__u32 cpu = bpf_get_smp_processor_id();
	struct region_header *h;
	__u64 key[KEY_WORDS];
	__u32 place;

	if (unlikely(buffer >= STOPPED || (lease && lease_expired())))
		return TCX_NEXT;
	place = region_of(cpu) * 2 + buffer;
	h = bpf_map_lookup_elem(&regions, &place);
	if (likely(h))
		enter(h);
	if (link_header && unlikely(skb->vlan_present)) // an offloaded tag lies outside of those in the frame
		set_vlan(&p, skb->vlan_tci);
	if (likely(h && parse_usual(skb, &p, link_header) && !(tunnels && may_be_tunnel(&p)))) {
		p.ifindex = skb->ifindex;
		p.netns = netns;
		key_words(&p, key);
		account(skb, h, &p, key, NULL, place, link_header, false);
	} else if (account_apart(skb, place, parse_apart(skb, p.bits, link_header))) {
		note_quoted(skb, place);
	}
	return TCX_NEXT;
}

SEC("tc")
int ingress_l2(struct __sk_buff *skb)
{
	return observe(skb, false, true);
}

SEC("tc")
int egress_l2(struct __sk_buff *skb)
{
	return observe(skb, true, true);
}

SEC("tc")
int ingress_l3(struct __sk_buff *skb)
{
	return observe(skb, false, false);
}

SEC("tc")
int egress_l3(struct __sk_buff *skb)
{
	return observe(skb, true, false);
}

/* Run by user space at every drain: the clock of struct slot .last, read together with a clock it knows. */
SEC("tc")
int jiffies_now(struct __sk_buff *skb __attribute__((unused)))
{
	return (__u32)bpf_jiffies64();
}

/* Run by user space every few seconds. Returns for how many jiffies no lease was valid since the last time. */
SEC("tc")
int renew_lease(struct __sk_buff *skb __attribute__((unused)))
{
	__u64 now = bpf_jiffies64(), until = control.valid_until;

	control.valid_until = now + lease;
	return until && now > until ? (__u32)(now - until) : 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
