/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* IPv4, and IPv6 with its extension headers: addresses, protocol, fragments, and what the marks of a packet are. */
#pragma once

#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include "packet.h"

#define IPPROTO_HIP 139 // RFC 7401
#define IPPROTO_SHIM6 140 // RFC 5533

#define FRAGMENT_OFFSET 0x1fff // IPv4: low 13 bits; RFC 791
#define FRAGMENT_ANY 0x3fff // IPv4: not the only one: more of them, or an offset
#define FRAGMENT_OFFSET_IPV6 0xfff8 // IPv6: high 13 bits; RFC 8200 4.5
#define FRAGMENT_ANY_IPV6 0xfff9

/* The first bytes of any IPv6 extension header; RFC 8200 4. */
struct extension {
	__u8 next;
	__u8 length; // in 8 octets without the first 8; AH: in 4 octets minus 2
	__be16 fragment; // offset, if this is a fragment header
	__be32 rest; // identification, if this is a fragment header
};

static __always_inline __u8 parse_ipv4(struct __sk_buff *skb, struct packet *p, __u32 usual)
{
	struct iphdr copy;
	const struct iphdr *ip = peek(skb, p->offset, usual, &copy, sizeof(copy));

	if (!ip)
		return REASON_SHORT_IPV4;
	if (ip->version != 4 || ip->ihl < 5)
		return REASON_BAD_IPV4;
	if (ip->ihl > 5 && p->offset + ip->ihl * 4 > skb->len)
		return REASON_SHORT_IPV4;
	p->src_addr[1] = (__u64)ip->saddr << 32;
	p->dst_addr[1] = (__u64)ip->daddr << 32;
	p->ip_proto = ip->protocol;
	p->marks = ip->ttl << MARKS_TTL_SHIFT | ip->tos;
	if (ip->frag_off & bpf_htons(FRAGMENT_ANY)) {
		p->fragment = 1;
		p->fragment_id = ip->id;
		if (ip->frag_off & bpf_htons(FRAGMENT_OFFSET))
			p->bits |= KEY_LATER_FRAGMENT;
	}
	p->offset += ip->ihl * 4;
	return REASON_ACCOUNTED;
}

static __always_inline bool is_extension(__u8 next)
{
	switch (next) {
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_FRAGMENT:
	case IPPROTO_AH:
	case IPPROTO_DSTOPTS:
	case IPPROTO_MH:
	case IPPROTO_HIP:
	case IPPROTO_SHIM6:
		return true;
	}
	return false;
}

static __always_inline __u8 parse_extension(struct __sk_buff *skb, struct packet *p, __u8 *next)
{
	struct extension ext;

	if (bpf_skb_load_bytes(skb, p->offset, &ext, sizeof(ext)))
		return REASON_SHORT_IPV6_EXTENSION;
	if (*next == IPPROTO_FRAGMENT) {
		if (ext.fragment & bpf_htons(FRAGMENT_ANY_IPV6)) {
			p->fragment = 1;
			p->fragment_id = ext.rest;
		}
		if (ext.fragment & bpf_htons(FRAGMENT_OFFSET_IPV6))
			p->bits |= KEY_LATER_FRAGMENT;
		p->offset += sizeof(ext);
	} else if (*next == IPPROTO_AH) {
		p->offset += (ext.length + 2) * 4;
	} else {
		p->offset += (ext.length + 1) * 8;
	}
	*next = ext.next;
	return REASON_ACCOUNTED;
}

/*
 * Walks the extension chain; after a later fragment's header comes payload, whatever "next" says. The condition stands at
 * the end of the loop: 5.10 and 6.1 refuse a loop that falls through into its own head.
 */
static __always_inline __u8 parse_extensions(struct __sk_buff *skb, struct packet *p, __u8 next)
{
	int depth = 0;

	if (is_extension(next)) {
		do {
			__u8 reason = parse_extension(skb, p, &next);

			if (reason)
				return reason;
			if (!is_extension(next) || p->bits & KEY_LATER_FRAGMENT) {
				p->offset = forgotten(skb, p->offset);
				next = forgotten(skb, next);
				goto end;
			}
		} while (++depth < IPV6_EXTENSION_DEPTH);
		return REASON_IPV6_EXTENSION_DEPTH;
	}
end:
	p->ip_proto = next;
	return REASON_ACCOUNTED;
}

static __always_inline __u8 parse_ipv6(struct __sk_buff *skb, struct packet *p, __u32 usual)
{
	struct ipv6hdr copy __attribute__((aligned(8)));
	const struct ipv6hdr *ip = peek(skb, p->offset, usual, &copy, sizeof(copy));
	__u32 first;

	if (!ip)
		return REASON_SHORT_IPV6;
	first = bpf_ntohl(*(const __be32 *)ip);
	if (first >> 28 != 6)
		return REASON_BAD_IPV6;
	p->marks = ip->hop_limit << MARKS_TTL_SHIFT | (first >> 20 & 0xff);
	p->label = first & FACT_LABEL;
	p->src_addr[0] = word(&ip->saddr.s6_addr32[0]);
	p->src_addr[1] = word(&ip->saddr.s6_addr32[2]);
	p->dst_addr[0] = word(&ip->daddr.s6_addr32[0]);
	p->dst_addr[1] = word(&ip->daddr.s6_addr32[2]);
	p->bits |= KEY_IPV6;
	p->offset += sizeof(*ip);
	p->jumbo = !ip->payload_len && ip->nexthdr == IPPROTO_HOPOPTS;
	return parse_extensions(skb, p, ip->nexthdr);
}
