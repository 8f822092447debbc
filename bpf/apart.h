/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Parses what usual.h does not: apart from counting, in a function of its own. So the caller keeps its values in registers, its
 * code is less than half, and verifiers walk what follows the parsers once instead of once for each set of values that those may leave.
 */
#pragma once

#include "fragment.h"
#include "maps.h"
#include "parse.h"

/* Leaves the packet in inners; netns and bits of its key are known before. Returns whether it is a later fragment, even if joined. */
static __always_inline int parse_into(struct __sk_buff *skb, __u32 netns_bits, bool link_header)
{
	struct inner *inner;
	struct packet *p;
	__u32 zero = 0;
	bool later;

	inner = bpf_map_lookup_elem(&inners, &zero);
	if (!inner)
		return false;
	p = &inner->packet; // not on the stack: with that of the caller it has 512 bytes
	*p = (struct packet){.ifindex = skb->ifindex, .netns = netns_bits >> 16, .bits = netns_bits};
	parse(skb, p, link_header);
	later = p->bits & KEY_LATER_FRAGMENT;
	if (fragment_ns && p->fragment)
		join_fragment(p, 0);
	return later;
}

/* Not static, so that verifiers look at them once. */
__noinline int parse_l2(struct __sk_buff *skb, __u32 netns_bits)
{
	return parse_into(skb, netns_bits, true);
}

__noinline int parse_l3(struct __sk_buff *skb, __u32 netns_bits)
{
	return parse_into(skb, netns_bits, false);
}

/* Fills p. Returns whether it is a later fragment, even if joined: what lies at the cursor is payload. */
static __always_inline bool parse_apart(struct __sk_buff *skb, struct packet *p, bool link_header)
{
	__u32 netns_bits = p->netns << 16 | (p->bits & ~KEY_IPV6), zero = 0;
	const struct inner *inner;
	bool later;

	*p = (struct packet){.ifindex = p->ifindex}; // what was parsed already need not be kept
	later = link_header ? parse_l2(skb, netns_bits) : parse_l3(skb, netns_bits);
	inner = bpf_map_lookup_elem(&inners, &zero);
	if (!inner)
		return false;
	take_flow(p, &inner->packet);
	p->jumbo = inner->packet.jumbo;
	p->ethertype = inner->packet.ethertype;
	p->reason = inner->packet.reason;
	return later;
}
