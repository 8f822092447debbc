/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* TCP, UDP and SCTP: ports. ICMP: what stands for ports, and whether the message is an error that quotes a packet. */
#pragma once

#include <linux/in.h>
#include <linux/in6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "packet.h"

#ifndef IPPROTO_SCTP
#define IPPROTO_SCTP 132
#endif

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
