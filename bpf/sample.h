/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Choose buffers and copy their first bytes to the ring: at random, 1 in N with geometric gaps; all of one flow in N; the first
 * of every flow; messages of application protocols. What several kinds choose is copied once.
 */
#pragma once

#include "protocol.h"

static __always_inline __u64 mix_endpoint(const void *addr, __u16 port)
{
	const __u64 *words = addr;

	return mix(mix(mix(flow_seed, words[0]), words[1]), port);
}

/*
 * Of a flow: the same for both directions, at every interface and on every host, so all choose the same flows. Nothing in it is
 * secret: who knows it can send flows that are chosen, which costs the budget, or flows that are not.
 */
static __always_inline __u64 flow_hash(const struct slot *s)
{
	__u64 sum = mix_endpoint(s->src_addr, s->src_port) + mix_endpoint(s->dst_addr, s->dst_port);

	return mix(mix(sum, s->ip_proto), 0);
}

/*
 * Of a flow at one interface: with what tells flows apart beside the tuple. Of the tunnel that is its two ends, and not its id, which
 * may be another one for each direction.
 */
static __always_inline __u64 beginning_key(__u64 flow, void *region, const struct slot *s)
{
	__u64 place = (__u64)s->ifindex << 32 | (__u32)(s->bits & ~KEY_EGRESS) << 16 | s->netns;
	const struct outer *outer;

	flow = mix(flow, place);
	if (!tunnels || !(s->netns & KEY_TUNNELLED))
		return flow;
	outer = outer_at(region, slot_mask, s->number);
	return mix(flow, mix_endpoint(outer->src_addr, outer->kind) + mix_endpoint(outer->dst_addr, outer->kind));
}

/* Both directions may run on two CPUs at once. Before 5.18 not every JIT knows an addition that says what was there: see docs/packets.md. */
static __always_inline __u32 advance(struct beginning *b, __u32 packets)
{
#ifdef OLD
	__u32 before = b->packets;

	__sync_fetch_and_add(&b->packets, packets);
	return before;
#else
	return __sync_fetch_and_add(&b->packets, packets);
#endif
}

/*
 * Which packet of its flow this is, from 1; 0: none of the first. A flow that cannot be remembered has no first packets, rather than
 * nothing else.
 */
static __always_inline __u32 first_number(__u64 key, __u32 packets)
{
	__u32 now = bpf_jiffies64(), before;
	struct beginning new = {.packets = packets, .last = now}, *b;

	b = bpf_map_lookup_elem(&beginnings, &key);
	if (!b) {
		if (!bpf_map_update_elem(&beginnings, &key, &new, BPF_NOEXIST))
			return 1;
		b = bpf_map_lookup_elem(&beginnings, &key); // another CPU came first
		if (!b)
			return 0;
	}
	if ((__s32)(now - b->last) > (__s32)first_idle) // below 0: another CPU was here since
		b->packets = 0;
	b->last = now;
	if (b->packets >= first_per_flow) // so that it does not wrap
		return 0;
	before = advance(b, packets);
	return before < first_per_flow ? before + 1 : 0;
}

/* Of a packet whose slot has few before it and does not count it yet: chooses its flow, if it is the first, and numbers it. */
static __always_inline __u32 choose_young(void *region, struct slot *s, __u32 packets)
{
	__u64 flow = flow_hash(s);
	__u32 number;

	if (flow_limit && !s->packets && flow <= flow_limit)
		s->number |= NUMBER_CHOSEN;
	if (!first_per_flow)
		return 0;
	number = first_number(beginning_key(flow, region, s), packets);
	return number ? number << CHOICE_NUMBER | SAMPLE_FIRST : 0;
}

/*
 * Of a packet in a slot that does not count it yet: its wire packets, and where its payload begins, 0 if it has no transport header.
 * Not static, so that verifiers look at it once.
 */
__noinline int choose_in_slot(struct __sk_buff *skb, __u32 place, __u32 number, __u32 offset, __u32 packets)
{
	__u32 choice = 0;
	struct slot *s;
	void *region;

	if (!young_packets && !protocols) // so that verifiers look no further
		return 0;
	region = bpf_map_lookup_elem(&regions, &place);
	if (!region)
		return 0;
	s = slot_at(region, slot_mask, number);
	if (protocols && offset)
		choice = find_message(skb, s, offset, place);
	if (s->packets < young_packets)
		choice |= choose_young(region, s, packets);
	return choice;
}

/* Whether its flow, or the message that it is part of, makes a packet a sample. */
static __always_inline __u32 choose_known(struct __sk_buff *skb, struct slot *s, const struct packet *p, struct wire w,
					  __u32 place, bool later)
{
	__u32 choice = 0, offset = later ? 0 : p->offset;

	if (protocols || s->packets < young_packets)
		choice = choose_in_slot(skb, place, s->number, offset, w.packets);
	if (flow_limit && s->number & NUMBER_CHOSEN)
		choice |= SAMPLE_FLOW;
	return choice;
}

/*
 * Whether the gap is over. What is not chosen pays one decrement, in a cache line that every packet writes: so each of the two buffers
 * has a gap of its own. That one stands still while the other is active changes nothing, since geometric gaps have no memory.
 */
static __always_inline bool choose_random(struct region_header *h)
{
	if (!h->countdown)
		return true;
	h->countdown--;
	return false;
}

/* Bytes to copy: 1 to SNAP_MAX, in the form in which 5.10's verifier sees the bounds. Of an empty buffer it is SNAP_MAX, which fails. */
static __always_inline __u32 captured(struct __sk_buff *skb, __u32 reasons)
{
	__u32 most = reasons & SAMPLE_PROTOCOL && snap_length < MESSAGE_SNAP ? MESSAGE_SNAP : snap_length;
	__u32 length = skb->len < most ? skb->len : most;

	return ((length - 1) & (SNAP_MAX - 1)) + 1;
}

/* Copies a packet to the ring; what its head says of the packet and of the choice is there already. */
static __always_inline bool emit(struct __sk_buff *skb, struct sample_scratch *s)
{
	__u32 length = captured(skb, s->head.reasons);

	s->head.boot_ns = bpf_ktime_get_boot_ns();
	s->head.ifindex = skb->ifindex;
	s->head.captured = length;
	s->head.vlan_tci = skb->vlan_tci;
	s->head.vlan_proto = bpf_ntohs(skb->vlan_proto);
	if (skb->vlan_present)
		s->head.bits |= SAMPLE_TAGGED;
	if (bpf_skb_load_bytes(skb, 0, s->data, length))
		return false;
	return !bpf_ringbuf_output(&samples, s, sizeof(s->head) + length, BPF_RB_NO_WAKEUP);
}

/*
 * Credit of random samples is spread at random over all that is selected until the next grant, or who comes first would get it all.
 * When less is left than user space planned for, it gets thinner; none left is no chance. The coin is a hash of the
 * selection's number, so that user space's seed decides.
 */
static __always_inline bool admitted(const struct sampler *s)
{
	__u64 coin = mix(0, s->key + s->cursor) * GOLDEN;
	__u32 left = s->allowed[KIND_RANDOM] - s->used[KIND_RANDOM];

	return coin >> 33 < (__u64)s->chance * (left < s->plenty ? left : s->plenty);
}

/* The pool of random samples grows by whole gaps. */
static __always_inline void next_gap(struct region_header *h, struct sampler *s)
{
	s->pools[KIND_RANDOM] += h->gap;
	h->gap = h->countdown = s->skips[s->cursor++ % SKIPS];
}

/* Whether a kind has credit. What goes on with a message is copied on credit that comes later, or its beginning were of no use. */
static __always_inline bool affords(const struct sampler *s, int kind, __u32 choice)
{
	if (kind == KIND_RANDOM)
		return admitted(s);
	return choice & CHOICE_FOLLOWS || (__s32)(s->allowed[kind] - s->used[kind]) > 0;
}

/* The reasons that have credit. */
static __always_inline __u32 spend(struct region_header *h, struct sampler *s, __u32 choice)
{
	__u32 paid = 0;

#pragma unroll
	for (int kind = 0; kind < KIND_COUNT; kind++) {
		if (!(choice & 1 << kind))
			continue;
		h->samples[kind].selected++;
		s->pools[kind]++;
		if (!affords(s, kind, choice)) {
			h->samples[kind].rate_limited++;
			s->missed += kind == KIND_PROTOCOL;
			continue;
		}
		s->used[kind]++;
		paid |= 1 << kind;
	}
	return paid;
}

static __always_inline void settle(struct region_header *h, struct sampler *s, __u32 paid, bool emitted)
{
#pragma unroll
	for (int kind = 0; kind < KIND_COUNT; kind++) {
		if (!(paid & 1 << kind))
			continue;
		if (!emitted) {
			h->samples[kind].ring_full++;
			s->missed += kind == KIND_PROTOCOL;
			continue;
		}
		h->samples[kind].emitted++;
		s->pools[kind] = 0;
	}
}

/*
 * Makes a sample of a packet that was chosen: netns of its key, and enum sample_bits, as far as they are known before; its struct
 * wire, bytes in the high half. Not static, so that verifiers look at it once.
 */
__noinline int take_sample(struct __sk_buff *skb, __u32 place, __u32 netns_bits, __u32 choice, __u64 wire)
{
	__u32 number = place / 2, zero = 0, paid;
	bool emitted;
	struct sample_scratch *out;
	struct region_header *h;
	struct sampler *s;

	if (!sample_random && !young_packets && !protocols) // so that verifiers look no further
		return 0;
	h = bpf_map_lookup_elem(&regions, &place);
	s = bpf_map_lookup_elem(&samplers, &number);
	out = bpf_map_lookup_elem(&scratch, &zero);
	if (!h || !s || !out)
		return 0;
	if (choice & SAMPLE_RANDOM)
		next_gap(h, s);
	paid = spend(h, s, choice);
	if (protocols && choice & CHOICE_SEGMENT && !(paid & SAMPLE_PROTOCOL))
		follow(skb, out, false); // what goes on with it is of no use either
	if (!paid)
		return 0;
	out->head.pool = s->pools[KIND_RANDOM];
	out->head.flow_pool = s->pools[KIND_FLOW];
	out->head.number = choice >> CHOICE_NUMBER;
	out->head.wire_bytes = wire >> 32;
	out->head.segments = wire;
	out->head.netns = netns_bits >> 16 & KEY_NETNS;
	out->head.reasons = paid;
	out->head.bits = netns_bits;
	emitted = emit(skb, out);
	settle(h, s, paid, emitted);
	if (protocols && paid & SAMPLE_PROTOCOL && choice & CHOICE_SEGMENT)
		follow(skb, out, emitted);
	return 0;
}

/* A packet that was counted, and chosen. */
static __always_inline void sample(struct __sk_buff *skb, __u32 place, __u32 choice, const struct packet *p, struct wire w,
				   bool link_header)
{
	__u32 bits = (p->bits & KEY_EGRESS ? SAMPLE_EGRESS : 0) | (link_header ? 0 : SAMPLE_L3) |
		     (p->reason == REASON_NOT_IP ? SAMPLE_NOT_IP : 0);

	take_sample(skb, place, p->netns << 16 | bits, choice, (__u64)w.bytes << 32 | w.packets);
}
