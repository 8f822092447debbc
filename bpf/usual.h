/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Nearly all packets are TCP or UDP over plain IP, whole, with all headers where they usually lie: those are parsed here, in a few
 * dozen instructions in a row. All others are left to apart.h.
 */
#pragma once

#include "link.h"
#include "network.h"
#include "transport.h"

#define IPV4_NO_OPTIONS 0x45 // version 4, five words of header

/* Returns false, and nothing of use in p, unless it is TCP or UDP. */
static __always_inline bool parse_usual_transport(struct packet *p, const void *header, const void *end)
{
	const struct tcphdr *tcp = header;

	p->ports = ports(header);
	if (p->ip_proto == IPPROTO_UDP) {
		p->offset += sizeof(struct udphdr);
		return true;
	}
	if (unlikely(p->ip_proto != IPPROTO_TCP || (const void *)(tcp + 1) > end))
		return false;
	p->tcp_flags = ((const __u8 *)tcp)[13]; // as in parse_tcp
	p->offset += tcp->doff > 5 ? tcp->doff * 4 : sizeof(*tcp);
	return true;
}

static __always_inline bool parse_usual_ipv4(struct packet *p, const struct iphdr *ip, const void *end)
{
	if (unlikely((const void *)(ip + 1) + sizeof(struct udphdr) > end))
		return false;
	if (unlikely(*(const __u8 *)ip != IPV4_NO_OPTIONS || ip->frag_off & bpf_htons(FRAGMENT_ANY)))
		return false;
	p->src_addr[1] = (__u64)ip->saddr << 32;
	p->dst_addr[1] = (__u64)ip->daddr << 32;
	p->ip_proto = ip->protocol;
	p->marks = ip->ttl << MARKS_TTL_SHIFT | ip->tos;
	p->offset += sizeof(*ip);
	return parse_usual_transport(p, ip + 1, end);
}

static __always_inline bool parse_usual_ipv6(struct packet *p, const struct ipv6hdr *ip, const void *end)
{
	__u32 first;

	if (unlikely((const void *)(ip + 1) + sizeof(struct udphdr) > end))
		return false;
	first = bpf_ntohl(*(const __be32 *)ip);
	if (unlikely(first >> 28 != 6))
		return false;
	p->src_addr[0] = word(&ip->saddr.s6_addr32[0]);
	p->src_addr[1] = word(&ip->saddr.s6_addr32[2]);
	p->dst_addr[0] = word(&ip->daddr.s6_addr32[0]);
	p->dst_addr[1] = word(&ip->daddr.s6_addr32[2]);
	p->bits |= KEY_IPV6;
	p->ip_proto = ip->nexthdr;
	p->marks = ip->hop_limit << MARKS_TTL_SHIFT | (first >> 20 & 0xff);
	p->label = first & FACT_LABEL;
	p->offset += sizeof(*ip);
	return parse_usual_transport(p, ip + 1, end);
}

/* Fills p as parse would, or returns false: it must be parsed apart. */
static __always_inline bool parse_usual(struct __sk_buff *skb, struct packet *p, bool link_header)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	const struct ethernet *eth = data;
	__be16 ethertype;

	if (link_header) {
		if ((void *)(eth + 1) > end)
			return false;
		ethertype = eth->ethertype;
		data = (void *)(eth + 1);
		p->offset = sizeof(*eth);
	} else {
		if (!check_protocol)
			return false;
		ethertype = skb->protocol;
	}
	if (likely(ethertype == bpf_htons(ETH_P_IP)))
		return parse_usual_ipv4(p, data, end);
	if (likely(ethertype == bpf_htons(ETH_P_IPV6)))
		return parse_usual_ipv6(p, data, end);
	return false;
}
