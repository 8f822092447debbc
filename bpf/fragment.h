/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Gives later fragments the ports of their first one, which alone has them. What is not known for certain stays without: the
 * first was not seen, came later, or ended before its ports (RFC 1858), or there were two that differ.
 */
#pragma once

#include "maps.h"
#include "packet.h"

/*
 * Both fields of RFC 791 and RFC 8200 4.5 that tell packets apart, and the place, a tunnel included. The protocol counts for
 * IPv4 only.
 */
static __always_inline void fragment_key(const struct packet *p, __u32 tunnel, struct fragment_key *key)
{
	struct packet of = *p;

	of.ports = p->fragment_id;
	of.bits &= ~KEY_LATER_FRAGMENT;
	if (of.bits & KEY_IPV6)
		of.ip_proto = 0;
	key_words(&of, key->words);
	key->words[5] |= (__u64)tunnel << 40; // 24 bits, above ip_proto
}

static __always_inline void note_first(const struct packet *p, const struct fragment_key *key, __u64 now)
{
	struct fragment f = {.seen_ns = now, .ports = p->ports, .ip_proto = p->ip_proto};
	const struct fragment *before = bpf_map_lookup_elem(&fragments, key);

	if (before && now - before->seen_ns < FRAGMENT_CONTEST_NS)
		f.contested = before->contested || before->ports != f.ports || before->ip_proto != f.ip_proto;
	bpf_map_update_elem(&fragments, key, &f, BPF_ANY);
}

/* A packet that is one of several fragments, parsed; tunnel is the hash of the one that it is in. */
static __always_inline void join_fragment(struct packet *p, __u32 tunnel)
{
	__u64 now = bpf_ktime_get_boot_ns();
	const struct fragment *first;
	struct fragment_key key;

	if (p->reason)
		return;
	fragment_key(p, tunnel, &key);
	if (!(p->bits & KEY_LATER_FRAGMENT)) {
		note_first(p, &key, now);
		return;
	}
	/* Another CPU may recycle the entry while it is read: in a flood of fragments, ports of another packet. */
	first = bpf_map_lookup_elem(&fragments, &key);
	if (!first || first->contested || now - first->seen_ns > fragment_ns)
		return;
	p->ports = first->ports;
	p->ip_proto = first->ip_proto;
	p->bits &= ~KEY_LATER_FRAGMENT;
}
