/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Parsing apart from counting. Verifiers before 6.12 walk all that follows the parsers once for each set of values that those
 * may leave, and give up at a million instructions. Of a function that is not static they look at the body once, and what it
 * leaves in a map is any value to them: what follows is walked once. It costs 15 to 18 ns a packet (docs/performance.md), which
 * newer kernels are spared.
 */
#pragma once

#include "maps.h"
#include "parse.h"

/* Leaves the packet in inners; netns and bits of its key are known before. */
static __always_inline int parse_into(struct __sk_buff *skb, __u32 netns_bits, bool link_header)
{
	struct packet p = {.netns = netns_bits >> 16, .bits = netns_bits};
	struct inner *inner;
	__u32 zero = 0;

	parse(skb, &p, link_header);
	inner = bpf_map_lookup_elem(&inners, &zero);
	if (inner)
		inner->packet = p;
	return 0;
}

__noinline int parse_l2(struct __sk_buff *skb, __u32 netns_bits)
{
	return parse_into(skb, netns_bits, true);
}

__noinline int parse_l3(struct __sk_buff *skb, __u32 netns_bits)
{
	return parse_into(skb, netns_bits, false);
}

static __always_inline void parse_apart(struct __sk_buff *skb, struct packet *p, bool link_header)
{
	__u32 netns_bits = p->netns << 16 | p->bits, zero = 0;
	const struct inner *inner;

	if (link_header)
		parse_l2(skb, netns_bits);
	else
		parse_l3(skb, netns_bits);
	inner = bpf_map_lookup_elem(&inners, &zero);
	if (!inner)
		return;
	take_flow(p, &inner->packet);
	p->fragment = inner->packet.fragment;
	p->fragment_id = inner->packet.fragment_id;
	p->jumbo = inner->packet.jumbo;
	p->ethertype = inner->packet.ethertype;
	p->reason = inner->packet.reason;
}
