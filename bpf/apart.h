/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Parses what usual.h does not, in a function of its own. So the caller keeps its values in registers and has less code, which the
 * rest of the kernel pushes out of the caches, and verifiers walk this once.
 */
#pragma once

#include "fragment.h"
#include "maps.h"
#include "parse.h"

/* What account_apart must know of a packet beside struct packet. */
enum apart_flags {
	APART_LATER = 1, // it is a later fragment, even if joined: what lies at the cursor is payload
	APART_LINK_HEADER = 2,
};

/* Leaves the packet in aparts; bits are what is known of its key before. Returns enum apart_flags. */
static __always_inline int parse_into(struct __sk_buff *skb, __u32 bits, bool link_header)
{
	__u32 flags = link_header ? APART_LINK_HEADER : 0, zero = 0;
	struct apart *apart;
	struct packet *p;

	apart = bpf_map_lookup_elem(&aparts, &zero);
	if (!apart)
		return flags;
	p = &apart->packet;
	*p = (struct packet){.ifindex = skb->ifindex, .netns = netns, .bits = bits};
	parse(skb, p, link_header);
	if (p->bits & KEY_LATER_FRAGMENT)
		flags |= APART_LATER;
	if (fragment_ns && p->fragment)
		join_fragment(p, 0);
	return flags;
}

/* Not static, so that verifiers look at them once. */
__noinline int parse_l2(struct __sk_buff *skb, __u32 bits)
{
	return parse_into(skb, bits, true);
}

__noinline int parse_l3(struct __sk_buff *skb, __u32 bits)
{
	return parse_into(skb, bits, false);
}

/* The usual parser may have found out that it is IPv6, which is of no use. */
static __always_inline int parse_apart(struct __sk_buff *skb, __u32 bits, bool link_header)
{
	bits &= ~KEY_IPV6;
	return link_header ? parse_l2(skb, bits) : parse_l3(skb, bits);
}
