/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * From a socket buffer to a key, or to the reason why there is none. internal/packet decodes sampled frames by the same
 * rules in the same order; a test compares the two on every frame.
 */
#pragma once

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "config.h"

#ifndef IPPROTO_SCTP
#define IPPROTO_SCTP 132
#endif
#define IPPROTO_HIP 139 // RFC 7401
#define IPPROTO_SHIM6 140 // RFC 5533

#define FRAGMENT_OFFSET 0x1fff // IPv4: low 13 bits; RFC 791
#define FRAGMENT_ANY 0x3fff // IPv4: not the only one: more of them, or an offset
#define FRAGMENT_OFFSET_IPV6 0xfff8 // IPv6: high 13 bits; RFC 8200 4.5
#define FRAGMENT_ANY_IPV6 0xfff9
#define ETHERTYPE_MIN 1536 // below, the field is the length of an 802.3 frame

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

/* The first bytes of any IPv6 extension header; RFC 8200 4. */
struct extension {
	__u8 next;
	__u8 length; // in 8 octets without the first 8; AH: in 4 octets minus 2
	__be16 fragment; // offset, if this is a fragment header
	__be32 rest; // identification, if this is a fragment header
};

struct sctp_header {
	__be16 source;
	__be16 dest;
	__be32 tag;
	__be32 checksum;
};

/* What ICMP (RFC 792) and ICMPv6 (RFC 4443) begin with. */
struct icmp_header {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be16 id; // where the message has one
	__be16 rest;
};

#define KEY_WORDS 6 // 64-bit words of a slot that hold its key

/*
 * Begins with the key of a slot, addresses and ports in the words they have there: as many halves would not fit into registers,
 * and moving them to and from the stack was a tenth of the cost of a packet.
 */
struct packet {
	__u64 src_addr[2]; // network byte order
	__u64 dst_addr[2]; // network byte order
	__u32 ports; // src_port in the high half
	__u32 ifindex;
	__u16 netns;
	__u16 bits; // enum key_bits
	__u8 ip_proto;
	__u8 zeros[3]; // the key ends here
	__u32 fragment_id; // network byte order
	__u32 label; // IPv6
	__u32 offset; // cursor; at the end: bytes of headers, which segmentation repeats in every segment
	__u16 ethertype; // of what follows the tags
	__u8 reason;
	__u8 tcp_flags;
	__u16 marks; // enum marks
	__u8 fragment; // one of several; an atomic fragment (RFC 6946) is not
	__u8 jumbo; // IPv6 without a length, but with an option for it; RFC 2675
	__u8 quoted; // enum quoted, of an ICMP error
	__u8 _pad[3];
};
_Static_assert(__builtin_offsetof(struct packet, fragment_id) == KEY_WORDS * sizeof(__u64),
	       "it begins with the words of a key");

static __always_inline void key_words(const struct packet *p, __u64 *key)
{
	key[0] = p->src_addr[0];
	key[1] = p->src_addr[1];
	key[2] = p->dst_addr[0];
	key[3] = p->dst_addr[1];
	key[4] = (__u64)p->ifindex << 32 | p->ports;
	key[5] = (__u64)p->ip_proto << 32 | (__u32)p->bits << 16 | p->netns;
#pragma unroll
	for (int i = 0; i < KEY_WORDS; i++)
		asm volatile("" : "+r"(key[i])); // keeps the compiler from taking the words apart again
}

/* What counts of a packet, from one to another: field by field, of a copy as a whole the compiler keeps one more on the stack. */
static __always_inline void take_flow(struct packet *p, const struct packet *from)
{
	p->src_addr[0] = from->src_addr[0];
	p->src_addr[1] = from->src_addr[1];
	p->dst_addr[0] = from->dst_addr[0];
	p->dst_addr[1] = from->dst_addr[1];
	p->ports = from->ports;
	p->netns = from->netns;
	p->bits = from->bits;
	p->ip_proto = from->ip_proto;
	p->quoted = from->quoted;
	p->label = from->label;
	p->offset = from->offset;
	p->tcp_flags = from->tcp_flags;
	p->marks = from->marks;
}

#define NOT_USUAL 0x8000 // there is no usual offset; so of what follows

/*
 * Bytes [offset, offset + size) of the packet, NULL if it ends before. Read in place where the header lies at its usual
 * offset: a constant, which the verifier of every kernel accepts. Elsewhere, and outside the linear area, copied:
 * bpf_skb_pull_data would re-allocate the packet, which an observer must not.
 */
static __always_inline const void *peek(struct __sk_buff *skb, __u32 offset, __u32 usual, void *copy, __u32 size)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (usual < NOT_USUAL && offset == usual && data + usual + size <= end)
		return data + usual;
	return bpf_skb_load_bytes(skb, offset, copy, size) ? NULL : copy;
}

/*
 * The value, of which the verifier no longer knows anything: it walks what follows once, and not once for each value that may
 * be. With tags and extension headers that is a quarter of the instructions walked (80,000 instead of 330,000 on 6.18).
 */
static __always_inline __u64 forgotten(struct __sk_buff *skb, __u64 value)
{
	__u64 unknown = skb->len;

	asm volatile("%0 += %1\n%0 -= %1" : "+r"(value) : "r"(unknown));
	return value;
}

/* value & mask, done here: what the compiler folds into another expression, the verifier of 6.1 does not follow there. */
#define masked(value, mask)                                       \
	({                                                        \
		__u64 __v = value;                                \
		asm volatile("%0 &= %1" : "+r"(__v) : "i"(mask)); \
		__v;                                              \
	})

static __always_inline __u64 mix(__u64 sum, __u64 value)
{
	sum = (sum ^ value) * GOLDEN;
	return sum ^ sum >> 32;
}

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

/* One load. Packets may lie anywhere, amd64 and arm64 do not mind; on the stack the verifier does. */
static __always_inline __u64 word(const void *at)
{
	return *(const __u64 *)at;
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

/* TCP, UDP and SCTP begin with source and destination port. */
static __always_inline __u32 ports(const void *header)
{
	return bpf_ntohl(*(const __be32 *)header);
}

static __always_inline __u8 parse_tcp(struct __sk_buff *skb, struct packet *p, __u32 usual)
{
	struct tcphdr copy;
	const struct tcphdr *tcp = peek(skb, p->offset, usual, &copy, sizeof(copy));

	if (!tcp)
		return REASON_SHORT_TRANSPORT;
	p->ports = ports(tcp);
	p->tcp_flags = ((const __u8 *)tcp)[13]; // RFC 9293 3.1: CWR ECE URG ACK PSH RST SYN FIN
	p->offset += tcp->doff > 5 ? tcp->doff * 4 : sizeof(*tcp);
	return REASON_ACCOUNTED;
}

static __always_inline __u8 parse_udp(struct __sk_buff *skb, struct packet *p, __u32 usual)
{
	struct udphdr copy;
	const struct udphdr *udp = peek(skb, p->offset, usual, &copy, sizeof(copy));

	if (!udp)
		return REASON_SHORT_TRANSPORT;
	p->ports = ports(udp);
	p->offset += sizeof(*udp);
	return REASON_ACCOUNTED;
}

static __always_inline __u8 parse_sctp(struct __sk_buff *skb, struct packet *p, __u32 usual)
{
	struct sctp_header copy;
	const struct sctp_header *sctp = peek(skb, p->offset, usual, &copy, sizeof(copy));

	if (!sctp)
		return REASON_SHORT_TRANSPORT;
	p->ports = ports(sctp);
	p->offset += sizeof(*sctp);
	return REASON_ACCOUNTED;
}

/* Type of the question that a type asks or answers, 0 if it does neither; internal/flow/icmp.go has the same pairs. */
static __always_inline __u8 icmp_question(__u8 type, bool v6)
{
	if (v6)
		switch (type) {
		case 128: // echo
		case 129:
			return 128;
		case 130: // multicast listener discovery
		case 131:
			return 130;
		case 133: // router discovery
		case 134:
			return 133;
		case 135: // neighbor discovery
		case 136:
			return 135;
		case 139: // node information
		case 140:
			return 139;
		case 144: // home agent discovery
		case 145:
			return 144;
		default:
			return 0;
		}
	switch (type) {
	case 8: // echo
	case 0:
		return 8;
	case 10: // router discovery
	case 9:
		return 10;
	case 13: // timestamp
	case 14:
		return 13;
	case 15: // information
	case 16:
		return 15;
	case 17: // address mask
	case 18:
		return 17;
	default:
		return 0;
	}
}

/* Whether an identifier follows the checksum. */
static __always_inline bool icmp_has_id(__u8 question)
{
	switch (question) {
	case 8:
	case 13:
	case 15:
	case 17:
	case 128:
	case 144:
		return true;
	default:
		return false;
	}
}

/* Kind of an error, 0 of anything else and of errors that say nothing of the way; RFC 792, RFC 1191, RFC 4443 3. */
static __always_inline __u8 icmp_quoted(const struct icmp_header *icmp, bool v6)
{
	if (v6)
		switch (icmp->type) {
		case 1:
			return QUOTED_UNREACHABLE;
		case 2:
			return QUOTED_TOO_BIG;
		case 3:
			return QUOTED_TIME_EXCEEDED;
		default:
			return 0;
		}
	switch (icmp->type) {
	case 3:
		return icmp->code == 4 ? QUOTED_TOO_BIG : QUOTED_UNREACHABLE;
	case 11:
		return QUOTED_TIME_EXCEEDED;
	default:
		return 0;
	}
}

/* ICMP has no ports: what stands for them makes a question and its answer one flow; see internal/flow/icmp.go. */
static __always_inline __u32 icmp_ports(const struct icmp_header *icmp, bool v6)
{
	__u8 type = icmp->type, question = icmp_question(type, v6);
	__u32 id = icmp_has_id(question) ? bpf_ntohs(icmp->id) : 0, asks = question << 8;

	if (!question)
		return type << 8 | icmp->code;
	return type == question ? id << 16 | asks : asks << 16 | id;
}

static __always_inline __u8 parse_icmp(struct __sk_buff *skb, struct packet *p, __u32 usual)
{
	struct icmp_header copy;
	const struct icmp_header *icmp = peek(skb, p->offset, usual, &copy, sizeof(copy));

	if (!icmp)
		return REASON_SHORT_TRANSPORT;
	p->ports = icmp_ports(icmp, p->bits & KEY_IPV6);
	if (quotes)
		p->quoted = icmp_quoted(icmp, p->bits & KEY_IPV6);
	p->offset += sizeof(*icmp);
	return REASON_ACCOUNTED;
}

static __always_inline __u8 parse_transport(struct __sk_buff *skb, struct packet *p, __u32 usual)
{
	if (p->bits & KEY_LATER_FRAGMENT)
		return REASON_ACCOUNTED; // its bytes are payload: never ports
	switch (p->ip_proto) {
	case IPPROTO_TCP:
		return parse_tcp(skb, p, usual);
	case IPPROTO_UDP:
		return parse_udp(skb, p, usual);
	case IPPROTO_SCTP:
		return parse_sctp(skb, p, usual);
	case IPPROTO_ICMP:
		return p->bits & KEY_IPV6 ? REASON_ACCOUNTED : parse_icmp(skb, p, usual);
	case IPPROTO_ICMPV6:
		return p->bits & KEY_IPV6 ? parse_icmp(skb, p, usual) : REASON_ACCOUNTED;
	}
	return REASON_ACCOUNTED;
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
