/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Choose buffers at random, 1 in N with geometric gaps, and copy their first bytes to the ring. */
#pragma once

#include "region.h"

/* Bytes to copy: 1 to SNAP_MAX, in the form in which 5.10's verifier sees the bounds. Of an empty buffer it is SNAP_MAX, which fails. */
static __always_inline __u32 captured(struct __sk_buff *skb)
{
	__u32 length = skb->len < snap_length ? skb->len : snap_length;

	return ((length - 1) & (SNAP_MAX - 1)) + 1;
}

static __always_inline bool emit(struct __sk_buff *skb, const struct packet *p, struct wire w, __u64 pool, bool link_header)
{
	__u32 zero = 0, length = captured(skb);
	struct sample_scratch *s = bpf_map_lookup_elem(&scratch, &zero);

	if (!s)
		return false;
	s->head.boot_ns = bpf_ktime_get_boot_ns();
	s->head.pool = pool;
	s->head.ifindex = p->ifindex;
	s->head.wire_bytes = w.bytes;
	s->head.segments = w.packets;
	s->head.captured = length;
	s->head.netns = p->netns & KEY_NETNS;
	s->head.vlan_tci = skb->vlan_tci;
	s->head.vlan_proto = bpf_ntohs(skb->vlan_proto);
	s->head.reasons = SAMPLE_RANDOM;
	s->head.bits = (p->bits & KEY_EGRESS ? SAMPLE_EGRESS : 0) | (link_header ? 0 : SAMPLE_L3) |
		       (skb->vlan_present ? SAMPLE_TAGGED : 0) | (p->reason == REASON_NOT_IP ? SAMPLE_NOT_IP : 0);
	if (bpf_skb_load_bytes(skb, 0, s->data, length))
		return false;
	return !bpf_ringbuf_output(&samples, s, sizeof(s->head) + length, BPF_RB_NO_WAKEUP);
}

/*
 * Credit is spread at random over all that is selected until the next grant, or who comes first would get it all. When less is left
 * than user space planned for, it gets thinner; none left is no chance. The coin is a hash of the selection's number, so
 * that user space's seed decides.
 */
static __always_inline bool admitted(const struct sampler *s)
{
	const __u64 odd = 0x9e3779b97f4a7c15; // 2^64 / golden ratio
	__u64 coin = (s->key + s->cursor) * odd;
	__u32 left = s->allowed - s->used;

	coin = (coin ^ coin >> 32) * odd;
	return coin >> 33 < (__u64)s->chance * (left < s->plenty ? left : s->plenty);
}

/* The pool grows by whole gaps, so a packet that is not chosen pays one decrement. */
static __always_inline void sample(struct __sk_buff *skb, struct region_header *h, __u32 place, const struct packet *p,
				   struct wire w, bool link_header)
{
	__u32 number = place / 2;
	struct sampler *s = bpf_map_lookup_elem(&samplers, &number);

	if (!s)
		return;
	if (s->countdown) {
		s->countdown--;
		return;
	}
	h->samples_selected++;
	s->pool += (__u64)s->gap + 1;
	s->gap = s->countdown = s->skips[s->cursor++ % SKIPS];
	if (!admitted(s)) {
		h->samples_rate_limited++;
		return;
	}
	s->used++;
	if (!emit(skb, p, w, s->pool, link_header)) {
		h->samples_ring_full++;
		return;
	}
	h->samples_emitted++;
	s->pool = 0;
}
