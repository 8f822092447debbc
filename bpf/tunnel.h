/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Headers inside of a tunnel, of buffers that will be segmented: every segment repeats all of them, down to the innermost
 * transport header. A flow is that of the outer headers whatever lies in there.
 */
#pragma once

#include "parse.h"

#define PORT_GENEVE 6081 // RFC 8926
#define PORT_VXLAN 4789 // RFC 7348
#define PORT_VXLAN_LINUX 8472 // the default of the driver, older than the RFC
#define ETHERTYPE_BRIDGING 0x6558 // Ethernet inside GRE; RFC 1701

struct gre_header {
	__be16 flags;
	__be16 ethertype;
};
#define GRE_CHECKSUM 0x8000 // RFC 2784
#define GRE_KEY 0x2000 // RFC 2890
#define GRE_SEQUENCE 0x1000

struct geneve_header {
	__u8 options; // version 2 bits, length in 4 octets 6 bits
	__u8 flags;
	__be16 ethertype;
	__be32 vni;
};

/* Cursor behind a transport header, as far as it is known; what is not stays out of the count. */
static __always_inline __u32 skip_transport(struct __sk_buff *skb, __u32 offset, __u8 proto)
{
	struct tcphdr tcp;

	switch (proto) {
	case IPPROTO_TCP:
		if (bpf_skb_load_bytes(skb, offset, &tcp, sizeof(tcp)))
			return offset;
		return offset + tcp.doff * 4;
	case IPPROTO_UDP:
		return offset + sizeof(struct udphdr);
	case IPPROTO_SCTP:
		return offset + sizeof(struct sctp_header);
	}
	return offset;
}

/* Cursor behind IP and transport. It is "otherwise" if there is no IP: then that was no tunnel. */
static __always_inline __u32 skip_ip(struct __sk_buff *skb, __u32 offset, __u32 otherwise)
{
	struct ipv6hdr ip6;
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)))
		return otherwise;
	if (ip.version == 4)
		return skip_transport(skb, offset + ip.ihl * 4, ip.protocol);
	if (ip.version != 6 || bpf_skb_load_bytes(skb, offset, &ip6, sizeof(ip6)))
		return otherwise;
	return skip_transport(skb, offset + sizeof(ip6), ip6.nexthdr);
}

static __always_inline __u32 skip_ethernet(struct __sk_buff *skb, __u32 offset, __u32 otherwise)
{
	struct ethernet eth;

	if (bpf_skb_load_bytes(skb, offset, &eth, sizeof(eth)))
		return otherwise;
	offset += sizeof(eth);
	if (eth.ethertype == bpf_htons(ETH_P_8021Q))
		offset += sizeof(struct vlan_tag);
	return skip_ip(skb, offset, otherwise);
}

/* Cursor behind everything, from behind the UDP header of a tunnel. */
static __always_inline __u32 skip_udp_tunnel(struct __sk_buff *skb, __u32 offset, __u16 port)
{
	struct geneve_header geneve;
	__u32 inner = offset;

	switch (port) {
	case PORT_VXLAN:
	case PORT_VXLAN_LINUX:
		return skip_ethernet(skb, offset + 8, offset);
	case PORT_GENEVE:
		if (bpf_skb_load_bytes(skb, offset, &geneve, sizeof(geneve)))
			return offset;
		inner += sizeof(geneve) + (geneve.options & 0x3f) * 4;
		return geneve.ethertype == bpf_htons(ETHERTYPE_BRIDGING) ? skip_ethernet(skb, inner, offset)
									 : skip_ip(skb, inner, offset);
	}
	return offset;
}

static __always_inline __u32 skip_gre(struct __sk_buff *skb, __u32 offset)
{
	struct gre_header gre;
	__u32 inner = offset;
	__u16 flags;

	if (bpf_skb_load_bytes(skb, offset, &gre, sizeof(gre)))
		return offset;
	flags = bpf_ntohs(gre.flags);
	inner += sizeof(gre) + (flags & GRE_CHECKSUM ? 4 : 0) + (flags & GRE_KEY ? 4 : 0) + (flags & GRE_SEQUENCE ? 4 : 0);
	return gre.ethertype == bpf_htons(ETHERTYPE_BRIDGING) ? skip_ethernet(skb, inner, offset) : skip_ip(skb, inner, offset);
}

/* Bytes of headers that segmentation repeats, of a packet that was parsed. */
static __always_inline __u32 repeated_headers(struct __sk_buff *skb, const struct packet *p)
{
	__u32 offset = forgotten(skb, p->offset);

	if (p->reason || p->bits & KEY_LATER_FRAGMENT)
		return offset;
	switch (p->ip_proto) {
	case IPPROTO_UDP:
		return skip_udp_tunnel(skb, offset, p->ports >> 16);
	case IPPROTO_GRE:
		return skip_gre(skb, offset);
	case IPPROTO_IPIP:
	case IPPROTO_IPV6:
		return skip_ip(skb, offset, offset);
	}
	return offset;
}
