/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * An ICMP error says what became of another packet, whose first bytes it quotes. That flow gets a slot of its own that counts
 * such errors, so that they are drained with everything else; user space finds the flow.
 */
#pragma once

#include "network.h"
#include "region.h"
#include "transport.h"

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
static __always_inline void turn_outer(struct apart *apart)
{
	struct outer *outer = outer_of(apart);

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
 * Of a packet in aparts that is an ICMP error and was counted: notes the one that it quotes, which went the other way at this hook. In a
 * region half full the slots are for packets: nobody fills it with forged quotes. Not static, so that verifiers look at it once.
 */
__noinline int note_quoted(struct __sk_buff *skb, __u32 place)
{
	struct packet *p, *q;
	struct region_header *h;
	struct apart *apart;
	struct slot *s = NULL;
	__u32 zero = 0;

	if (!quotes) // so that verifiers look no further
		return 0;
	h = bpf_map_lookup_elem(&regions, &place);
	apart = bpf_map_lookup_elem(&aparts, &zero);
	if (!h || !apart)
		return 0;
	p = &apart->packet;
	q = &apart->inside;
	*q = (struct packet){
		.ifindex = p->ifindex,
		.netns = p->netns | p->quoted << KEY_QUOTED_SHIFT,
		.bits = (p->bits & (KEY_TAGGED | KEY_VLAN_ID | KEY_EGRESS)) ^ KEY_EGRESS,
		.offset = p->offset,
	};
	turn_outer(apart);
	if (h->used < (slot_mask + 1) / 2 && parse_quoted(skb, q, p->bits & KEY_IPV6))
		s = flow_slot(skb, h, q, (const __u64 *)q, outer_of(apart), false, place);
	if (s)
		s->packets++;
	else
		h->quotes_lost++;
	return 0;
}
