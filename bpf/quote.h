/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * An ICMP error says what became of another packet, whose first bytes it quotes. That flow gets a slot of its own that counts
 * such errors, so that they are drained with everything else; user space finds the flow.
 */
#pragma once

#include "region.h"

#define QUOTED_BYTES 8 // of the transport header; RFC 792. Later RFCs quote more

/* The ports of a packet of which no more is quoted. */
static __always_inline __u8 parse_quoted_transport(struct __sk_buff *skb, struct packet *q)
{
	__u32 header[QUOTED_BYTES / 4] = {};
	bool v6 = q->bits & KEY_IPV6;

	if (q->bits & KEY_LATER_FRAGMENT)
		return REASON_ACCOUNTED;
	if (bpf_skb_load_bytes(skb, q->offset, header, sizeof(header)))
		return REASON_SHORT_TRANSPORT;
	switch (q->ip_proto) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
		q->ports = ports(header);
		break;
	case IPPROTO_ICMP:
		q->ports = v6 ? 0 : icmp_ports((void *)header, false);
		break;
	case IPPROTO_ICMPV6:
		q->ports = v6 ? icmp_ports((void *)header, true) : 0;
		break;
	}
	return REASON_ACCOUNTED;
}

static __always_inline __u8 parse_quoted(struct __sk_buff *skb, struct packet *q, bool v6)
{
	__u8 reason = v6 ? parse_ipv6(skb, q, NOT_USUAL) : parse_ipv4(skb, q, NOT_USUAL);

	q->offset = forgotten(skb, q->offset);
	return reason ?: parse_quoted_transport(skb, q);
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
	if (h->colds < (slot_mask + 1) / 2 && !parse_quoted(skb, q, netns_bits & KEY_IPV6))
		s = flow_slot(skb, h, q, false, place);
	if (s)
		s->packets++;
	else
		h->quotes_lost++;
	return 0;
}
