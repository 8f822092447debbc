/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What a packet begins with, up to the IP header: Ethernet, VLAN tags, MPLS labels, PPPoE; or nothing of that, on a device without
 * link header.
 */
#pragma once

#include <linux/if_ether.h>

#include "packet.h"

/* struct ethhdr is packed, which would make the compiler read its last field byte by byte. */
struct ethernet {
	__u8 dst[6];
	__u8 src[6];
	__be16 ethertype;
};

struct vlan_tag {
	__be16 tci;
	__be16 ethertype; // of what follows
};

/* RFC 2516 4 */
struct pppoe_header {
	__u8 version_type; // 1 and 1
	__u8 code; // 0: session data
	__be16 session;
	__be16 length;
};

#define PPPOE_VERSION_TYPE 0x11
#define PPP_IP 0x0021 // RFC 1332
#define PPP_IPV6 0x0057 // RFC 5072

/* The outermost tag names the VLAN of the flow. */
static __always_inline void set_vlan(struct packet *p, __u16 tci)
{
	if (!(p->bits & KEY_TAGGED))
		p->bits |= KEY_TAGGED | (tci & KEY_VLAN_ID);
}

/* Inline tags, and the ethertype behind them; the offloaded tag, if there is one, lies outside of them. */
static __always_inline __u8 parse_tags(struct __sk_buff *skb, struct packet *p, __be16 ethertype)
{
	for (int depth = 0; depth <= VLAN_DEPTH; depth++) {
		struct vlan_tag tag;

		if (ethertype != bpf_htons(ETH_P_8021Q) && ethertype != bpf_htons(ETH_P_8021AD))
			break;
		if (depth == VLAN_DEPTH)
			return REASON_VLAN_DEPTH;
		if (bpf_skb_load_bytes(skb, p->offset, &tag, sizeof(tag)))
			return REASON_SHORT_VLAN;
		set_vlan(p, bpf_ntohs(tag.tci));
		ethertype = tag.ethertype;
		p->offset = forgotten(skb, p->offset + sizeof(tag));
	}
	p->ethertype = bpf_ntohs(ethertype);
	return REASON_ACCOUNTED;
}

/*
 * Labels do not say what they carry. The first nibble behind the last one does, as for every router that spreads flows: 4 and
 * 6 are IP, pseudowires begin with 0 or 1 (RFC 4928 2). One without a control word begins with a MAC address, though: that
 * of an Ethernet frame whose destination begins with 4 or 6 is taken for IP (RFC 8469 3).
 */
static __always_inline __u8 parse_mpls_payload(struct __sk_buff *skb, struct packet *p)
{
	__u8 first;

	if (bpf_skb_load_bytes(skb, p->offset, &first, sizeof(first)))
		return REASON_SHORT_MPLS;
	switch (first >> 4) {
	case 4:
		p->ethertype = ETH_P_IP;
		return REASON_ACCOUNTED;
	case 6:
		p->ethertype = ETH_P_IPV6;
		return REASON_ACCOUNTED;
	}
	return REASON_ETHERTYPE;
}

/* A stack of labels; RFC 3032 2.1. */
static __always_inline __u8 parse_mpls(struct __sk_buff *skb, struct packet *p)
{
	int depth = 0;

	do {
		__u8 label[4]; // label 20 bits, traffic class 3, bottom of stack 1, TTL 8

		if (bpf_skb_load_bytes(skb, p->offset, label, sizeof(label)))
			return REASON_SHORT_MPLS;
		p->offset = forgotten(skb, p->offset + sizeof(label));
		if (label[2] & 1)
			return parse_mpls_payload(skb, p);
	} while (++depth < MPLS_DEPTH);
	return REASON_MPLS_DEPTH;
}

/*
 * Session data: a PPP frame, whose protocol has two bytes, or one where that is odd (RFC 1661 6.5). What is no IP, the
 * control protocols above all, counts by the ethertype.
 */
static __always_inline __u8 parse_pppoe(struct __sk_buff *skb, struct packet *p)
{
	struct pppoe_header header;
	__u8 protocol[2];
	__u16 number;

	if (bpf_skb_load_bytes(skb, p->offset, &header, sizeof(header)))
		return REASON_SHORT_PPPOE;
	if (header.version_type != PPPOE_VERSION_TYPE || header.code != 0)
		return REASON_ETHERTYPE;
	p->offset += sizeof(header);
	if (bpf_skb_load_bytes(skb, p->offset, protocol, sizeof(protocol)))
		return REASON_SHORT_PPPOE;
	number = protocol[0] & 1 ? protocol[0] : protocol[0] << 8 | protocol[1];
	p->offset = forgotten(skb, p->offset + (protocol[0] & 1 ? 1 : 2));
	switch (number) {
	case PPP_IP:
		p->ethertype = ETH_P_IP;
		return REASON_ACCOUNTED;
	case PPP_IPV6:
		p->ethertype = ETH_P_IPV6;
		return REASON_ACCOUNTED;
	}
	return REASON_ETHERTYPE;
}

/* What lies between Ethernet and IP. */
static __always_inline __u8 parse_between(struct __sk_buff *skb, struct packet *p, __be16 ethertype)
{
	__u8 reason = parse_tags(skb, p, ethertype);

	if (reason)
		return reason;
	switch (p->ethertype) {
	case ETH_P_MPLS_UC:
	case ETH_P_MPLS_MC:
		reason = parse_mpls(skb, p);
		break;
	case ETH_P_PPP_SES:
		reason = parse_pppoe(skb, p);
		break;
	}
	p->ethertype = forgotten(skb, p->ethertype);
	return reason;
}

/* An Ethernet frame at the cursor. */
static __always_inline __u8 parse_link(struct __sk_buff *skb, struct packet *p, __u32 usual)
{
	struct ethernet eth_copy;
	const struct ethernet *eth = peek(skb, p->offset, usual, &eth_copy, sizeof(eth_copy));

	if (!eth)
		return REASON_SHORT_ETHERNET;
	p->offset += ETH_HLEN;
	p->ethertype = bpf_ntohs(eth->ethertype);
	if (p->ethertype == ETH_P_IP || p->ethertype == ETH_P_IPV6)
		return REASON_ACCOUNTED;
	return parse_between(skb, p, eth->ethertype);
}

/*
 * A device without link header hands over IP at offset 0; its first nibble is the version. The kernel must say the same: over
 * GRE, IPIP or PPP a peer may send what is no IP, MPLS for one, and choose its first nibble.
 */
static __always_inline __u8 parse_version(struct __sk_buff *skb, struct packet *p)
{
	__u8 copy;
	const __u8 *first = peek(skb, 0, 0, &copy, sizeof(copy));

	if (!first)
		return REASON_NOT_IP;
	switch (*first >> 4) {
	case 4:
		p->ethertype = ETH_P_IP;
		break;
	case 6:
		p->ethertype = ETH_P_IPV6;
		break;
	default:
		return REASON_NOT_IP;
	}
	return check_protocol && skb->protocol != bpf_htons(p->ethertype) ? REASON_NOT_IP : REASON_ACCOUNTED;
}
