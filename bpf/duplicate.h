/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Which packets another hook counts: a packet that crosses several attached interfaces of one namespace counts at one of them.
 * Nothing is remembered of a packet. The kernel says through which interface it came in last (0: it was made here), and user
 * space how interfaces are joined; docs/design.md, "Counted once", has what each hook sees.
 */
#pragma once

#include "maps.h"

#ifdef PLAIN
#define counted_elsewhere(skb, egress) ((void)(skb), (void)(egress), 0)
#else
/* A function of its own: verifiers walk it once. */
__noinline int counted_elsewhere(struct __sk_buff *skb, __u32 egress)
{
	struct place here = {.ifindex = skb->ifindex, .netns = netns},
		     origin = {.ifindex = skb->ingress_ifindex, .netns = netns};
	__u32 through = 0, bits = 0;
	struct stacking *s;

	s = bpf_map_lookup_elem(&stackings, &here);
	if (s) {
		through = s->through;
		bits = s->bits;
	}
	if (!egress)
		return !!(bits & STACKING_INGRESS);
	if (bits & STACKING_EGRESS)
		return 1;
	if (!origin.ifindex) // of this host
		return through != 0;
	s = bpf_map_lookup_elem(&stackings, &origin);
	if (s && s->bits & STACKING_KNOWN)
		return 1;
	return through && (!s || s->through != through); // from port to port the bridge's own hooks see nothing
}
#endif

static __always_inline bool duplicate(struct __sk_buff *skb, bool egress)
{
	return deduplicate && counted_elsewhere(skb, egress);
}
