/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * An ICMP error says what became of another packet, whose first bytes it quotes. That flow gets a slot of its own that counts
 * such errors, so that they are drained with everything else; user space finds the flow.
 */
#pragma once

#include "region.h"

#define QUOTED_BYTES 8 // of the transport header; RFC 792. Later RFCs quote more

/* One header after the other is read here: the stack has no room for all of them. */
union quoted_header {
	struct iphdr ip4;
	struct ipv6hdr ip6;
	struct extension extension;
	__u32 transport[QUOTED_BYTES / 4];
} __attribute__((aligned(8)));

/* Cursor behind the IPv4 header, 0 if that is none. */
static __always_inline __u32 quoted_ipv4(struct __sk_buff *skb, struct packet *q, union quoted_header *h)
{
	struct iphdr *ip = &h->ip4;

	if (bpf_skb_load_bytes(skb, q->offset, ip, sizeof(*ip)) || ip->version != 4 || ip->ihl < 5)
		return 0;
	q->src_addr[1] = (__u64)ip->saddr << 32;
	q->dst_addr[1] = (__u64)ip->daddr << 32;
	q->ip_proto = ip->protocol;
	if (ip->frag_off & bpf_htons(FRAGMENT_OFFSET))
		q->bits |= KEY_LATER_FRAGMENT;
	return q->offset + ip->ihl * 4;
}

/* The same of IPv6. One fragment header is read; behind other extension headers nothing is: errors about such are rare. */
static __always_inline __u32 quoted_ipv6(struct __sk_buff *skb, struct packet *q, union quoted_header *h)
{
	__u32 offset = q->offset + sizeof(h->ip6);

	if (bpf_skb_load_bytes(skb, q->offset, &h->ip6, sizeof(h->ip6)) || h->ip6.version != 6)
		return 0;
	q->src_addr[0] = word(&h->ip6.saddr.s6_addr32[0]);
	q->src_addr[1] = word(&h->ip6.saddr.s6_addr32[2]);
	q->dst_addr[0] = word(&h->ip6.daddr.s6_addr32[0]);
	q->dst_addr[1] = word(&h->ip6.daddr.s6_addr32[2]);
	q->bits |= KEY_IPV6;
	q->ip_proto = h->ip6.nexthdr;
	if (q->ip_proto == IPPROTO_FRAGMENT) {
		if (bpf_skb_load_bytes(skb, offset, &h->extension, sizeof(h->extension)))
			return 0;
		q->ip_proto = h->extension.next;
		if (h->extension.fragment & bpf_htons(FRAGMENT_OFFSET_IPV6))
			q->bits |= KEY_LATER_FRAGMENT;
		offset += sizeof(h->extension);
	}
	return is_extension(q->ip_proto) ? 0 : offset;
}

/* What stands for ports, of a packet of which no more than eight bytes are quoted behind the IP header. */
static __always_inline __u32 quoted_ports(const struct packet *q, const void *header)
{
	switch (q->ip_proto) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
		return ports(header);
	case IPPROTO_ICMP:
		return q->bits & KEY_IPV6 ? 0 : icmp_ports(header, false);
	case IPPROTO_ICMPV6:
		return q->bits & KEY_IPV6 ? icmp_ports(header, true) : 0;
	}
	return 0;
}

/* Whether the key of the quoted packet could be read. */
static __always_inline bool parse_quoted(struct __sk_buff *skb, struct packet *q, bool v6)
{
	union quoted_header h;
	__u32 offset = v6 ? quoted_ipv6(skb, q, &h) : quoted_ipv4(skb, q, &h);

	if (!offset)
		return false;
	if (q->bits & KEY_LATER_FRAGMENT)
		return true;
	if (bpf_skb_load_bytes(skb, forgotten(skb, offset), h.transport, sizeof(h.transport)))
		return false;
	q->ports = forgotten(skb, quoted_ports(q, h.transport));
	return true;
}

/* The quoted packet travelled through the same tunnel, the other way; the packet that quotes it was counted already. */
static __always_inline void turn_outer(const struct packet *q)
{
	struct outer *outer = outer_of(q);

	if (!outer)
		return;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		__u64 src = outer->src_addr[i];

		outer->src_addr[i] = outer->dst_addr[i];
		outer->dst_addr[i] = src;
	}
}

/*
 * Of a packet that is an ICMP error and was counted: its keys bits and netns, the latter with enum quoted, and where the quote
 * begins. The quoted packet went the other way at this hook. In a region half full the slots are for packets: nobody fills it
 * with forged quotes. Not static, so that verifiers look at it once, and not with each state that a packet may be in.
 */
__noinline int note_quoted(struct __sk_buff *skb, __u32 netns_bits, __u32 offset, __u32 place)
{
	struct region_header *h;
	struct inner *scratch;
	struct slot *s = NULL;
	struct packet *q;
	__u32 zero = 0;

	if (!quotes) // so that verifiers look no further
		return 0;
	h = bpf_map_lookup_elem(&regions, &place);
	scratch = bpf_map_lookup_elem(&inners, &zero);
	if (!h || !scratch)
		return 0;
	q = &scratch->packet; // not on the stack: with that of the caller it has 512 bytes
	*q = (struct packet){
		.ifindex = skb->ifindex,
		.netns = netns_bits >> 16,
		.bits = (netns_bits & (KEY_TAGGED | KEY_VLAN_ID | KEY_EGRESS)) ^ KEY_EGRESS,
		.offset = offset,
	};
	turn_outer(q);
	if (h->used < (slot_mask + 1) / 2 && parse_quoted(skb, q, netns_bits & KEY_IPV6))
		s = flow_slot(skb, h, q, false, place);
	if (s)
		s->packets++;
	else
		h->quotes_lost++;
	return 0;
}
