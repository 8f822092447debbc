/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * From a socket buffer to a key, or to the reason why there is none: link, network, transport. internal/packet decodes sampled frames
 * by the same rules in the same order; a test compares the two on every frame.
 */
#pragma once

#include "link.h"
#include "network.h"
#include "transport.h"

#define ETHERTYPE_MIN 1536 // below, the field is the length of an 802.3 frame

static __always_inline __u8 parse_network(struct __sk_buff *skb, struct packet *p, __u32 usual)
{
	__u8 reason;

	switch (p->ethertype) {
	case ETH_P_IP:
		reason = parse_ipv4(skb, p, usual);
		return reason ?: parse_transport(skb, p, usual + sizeof(struct iphdr));
	case ETH_P_IPV6:
		reason = parse_ipv6(skb, p, usual);
		return reason ?: parse_transport(skb, p, usual + sizeof(struct ipv6hdr));
	case ETH_P_ARP:
	case ETH_P_RARP:
		return REASON_ARP;
	}
	return p->ethertype < ETHERTYPE_MIN ? REASON_LLC : REASON_ETHERTYPE;
}

/* Fills p, which is zero but for what of its key is known before: interface, namespace, direction, offloaded tag. */
static __always_inline void parse(struct __sk_buff *skb, struct packet *p, bool link_header)
{
	p->reason = link_header ? parse_link(skb, p, 0) : parse_version(skb, p);
	if (!p->reason)
		p->reason = parse_network(skb, p, link_header ? ETH_HLEN : 0);
}
