/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What lies inside of a tunnel. Two want to know: who counts the flow of the inner packet, if that is asked for; and of buffers
 * that will be segmented everybody, since every segment repeats all headers, down to the innermost transport header.
 */
#pragma once

#include "fragment.h"
#include "wire.h"
#include "parse.h"

#define PORT_GENEVE 6081 // RFC 8926
#define PORT_VXLAN 4789 // RFC 7348
#define PORT_VXLAN_LINUX 8472 // the default of the driver, older than the RFC
#define ETHERTYPE_BRIDGING 0x6558 // Ethernet inside GRE and Geneve; RFC 1701

struct gre_header {
	__be16 flags;
	__be16 ethertype;
};
#define GRE_CHECKSUM 0x8000 // RFC 2784
#define GRE_KEY 0x2000 // RFC 2890
#define GRE_SEQUENCE 0x1000
#define GRE_OTHER 0x4c07 // bits 1, 4 and 5, which RFC 1701 had for routes, and the version: not read; RFC 2784 2.3, RFC 2890 2

struct vxlan_header {
	__u8 flags;
	__u8 reserved[3];
	__be32 vni; // and 8 reserved bits
};
#define VXLAN_VNI 0x08 // the VNI is valid

struct geneve_header {
	__u8 options; // version 2 bits, length in 4 octets 6 bits
	__u8 flags;
	__be16 ethertype;
	__be32 vni; // and 8 reserved bits
};

/* Where a tunnel's payload begins, and what it is. */
struct tunnel {
	__u32 offset;
	__u32 id;
	__u16 ethertype; // ETH_P_IP, ETH_P_IPV6 or ETHERTYPE_BRIDGING; 0: this is no tunnel, or holds something else
	__u8 kind; // enum tunnel_kind
	__u8 has_id;
};

static __always_inline bool carried(__u16 ethertype)
{
	return ethertype == ETH_P_IP || ethertype == ETH_P_IPV6 || ethertype == ETHERTYPE_BRIDGING;
}

static __always_inline struct tunnel open_vxlan(struct __sk_buff *skb, __u32 offset)
{
	struct tunnel t = {.offset = offset + sizeof(struct vxlan_header), .kind = TUNNEL_VXLAN, .has_id = 1};
	struct vxlan_header h;

	if (bpf_skb_load_bytes(skb, offset, &h, sizeof(h)) || !(h.flags & VXLAN_VNI))
		return t;
	t.id = bpf_ntohl(h.vni) >> 8;
	t.ethertype = ETHERTYPE_BRIDGING;
	return t;
}

static __always_inline struct tunnel open_geneve(struct __sk_buff *skb, __u32 offset)
{
	struct tunnel t = {.kind = TUNNEL_GENEVE, .has_id = 1};
	struct geneve_header h;
	__u16 ethertype;

	if (bpf_skb_load_bytes(skb, offset, &h, sizeof(h)) || h.options >> 6)
		return t;
	t.offset = offset + sizeof(h) + (h.options & 0x3f) * 4;
	t.id = bpf_ntohl(h.vni) >> 8;
	ethertype = bpf_ntohs(h.ethertype);
	t.ethertype = carried(ethertype) ? ethertype : 0;
	return t;
}

static __always_inline struct tunnel open_gre(struct __sk_buff *skb, __u32 offset)
{
	struct tunnel t = {.kind = TUNNEL_GRE};
	struct gre_header h;
	__u16 flags, ethertype;
	__be32 key = 0;

	if (bpf_skb_load_bytes(skb, offset, &h, sizeof(h)))
		return t;
	flags = bpf_ntohs(h.flags);
	if (flags & GRE_OTHER)
		return t;
	offset += sizeof(h) + (flags & GRE_CHECKSUM ? 4 : 0);
	if (flags & GRE_KEY) {
		if (bpf_skb_load_bytes(skb, offset, &key, sizeof(key)))
			return t;
		t.has_id = 1;
		t.id = bpf_ntohl(key);
		offset += sizeof(key);
	}
	t.offset = offset + (flags & GRE_SEQUENCE ? 4 : 0);
	ethertype = bpf_ntohs(h.ethertype);
	t.ethertype = carried(ethertype) ? ethertype : 0;
	return t;
}

/* From behind the last header that was parsed. */
static __always_inline struct tunnel open_tunnel(struct __sk_buff *skb, __u32 offset, __u8 ip_proto, __u16 dst_port)
{
	struct tunnel t = {.offset = offset, .kind = TUNNEL_IP};

	switch (ip_proto) {
	case IPPROTO_UDP:
		if (dst_port == PORT_VXLAN || dst_port == PORT_VXLAN_LINUX)
			return open_vxlan(skb, offset);
		if (dst_port == PORT_GENEVE)
			return open_geneve(skb, offset);
		break;
	case IPPROTO_GRE:
		return open_gre(skb, offset);
	case IPPROTO_IPIP:
		t.ethertype = ETH_P_IP;
		break;
	case IPPROTO_IPV6:
		t.ethertype = ETH_P_IPV6;
		break;
	}
	return t;
}

static __always_inline __u8 parse_inner(struct __sk_buff *skb, struct packet *p, __u16 ethertype)
{
	if (ethertype == ETHERTYPE_BRIDGING) {
		__u8 reason = parse_link(skb, p, NOT_USUAL);

		if (reason)
			return reason;
		ethertype = p->ethertype;
	}
	p->offset = forgotten(skb, p->offset);
	p->ethertype = forgotten(skb, ethertype);
	return parse_network(skb, p, NOT_USUAL);
}

/*
 * Cursor behind everything inside of what may be a tunnel, where look_inside finds it, so that a buffer weighs the same whichever flow it
 * counts in. Not static, so that verifiers look at it once.
 */
__noinline int skip_inside(struct __sk_buff *skb, __u32 offset, __u32 ip_proto, __u32 dst_port)
{
	struct tunnel t = open_tunnel(skb, offset, ip_proto, dst_port);
	struct apart *apart;
	struct packet *p;
	__u32 zero = 0;

	if (!t.ethertype)
		return offset;
	apart = bpf_map_lookup_elem(&aparts, &zero);
	if (!apart)
		return offset;
	p = &apart->inside; // of no use to others before the packet is counted
	*p = (struct packet){.offset = t.offset};
	return parse_inner(skb, p, t.ethertype) ? offset : p->offset;
}

/*
 * Bytes of headers that segmentation repeats, of a packet that was parsed; or NOT_SEGMENTED. Nothing is walked behind those of a
 * later fragment, nor of a packet that is inside of a tunnel itself: one level, whichever flow it counts in.
 */
static __always_inline __u32 repeated_headers(struct __sk_buff *skb, const struct packet *p, bool all)
{
	if (likely(!skb->gso_size))
		return NOT_SEGMENTED;
	return all ? p->offset : skip_inside(skb, p->offset, p->ip_proto, (__u16)p->ports);
}

/* 24 bits that differ between tunnels: NH (UMAC, RFC 4418 5.2.2) with keys that nobody outside knows. */
static __always_inline __u32 tunnel_hash(const struct outer *outer)
{
	const __u64 *words = (const __u64 *)outer;
	__u64 sum = 0;

#pragma clang loop unroll(disable) // the stack has no room for all words at once
	for (int i = 0; i < OUTER_WORDS; i++)
		sum += (__u64)((__u32)words[i] + fragment_keys[2 * i]) * ((__u32)(words[i] >> 32) + fragment_keys[2 * i + 1]);
	sum ^= sum >> 32; // a bit of one half may have changed the low ones alone
	return sum * GOLDEN >> 40;
}

enum inside {
	INSIDE_NOTHING, // that can be read: the flow is the outer one
	INSIDE_PACKET,
	INSIDE_LATER_FRAGMENT, // even when joined: what lies at the cursor is payload
};

/*
 * Looks into a packet that was parsed up to offset: netns, bits and marks are its own, protocol and destination port say which
 * kind of tunnel it may be. Leaves the packet inside and its tunnel in aparts, where the outer addresses are, and returns enum inside. Not
 * static, so that verifiers look at it once.
 */
__noinline int look_inside(struct __sk_buff *skb, __u32 netns_bits, __u32 offset, __u32 marks_proto, __u32 dst_port)
{
	struct apart *apart;
	struct packet *p;
	struct tunnel t;
	__u32 zero = 0;
	bool later;

	if (!tunnels) // so that verifiers look no further
		return INSIDE_NOTHING;
	t = open_tunnel(skb, offset, marks_proto, dst_port);
	apart = bpf_map_lookup_elem(&aparts, &zero);
	if (!apart || !t.ethertype)
		return INSIDE_NOTHING;
	apart->outer.id = t.id;
	apart->outer.kind = t.kind;
	apart->outer.bits = (apart->outer.bits & OUTER_IPV6) | (t.has_id ? OUTER_ID : 0);
	p = &apart->inside; // there, since the stacks of both programs together have 512 bytes
	*p = (struct packet){
		.ifindex = skb->ifindex,
		.netns = netns_bits >> 16 | KEY_TUNNELLED,
		.bits = netns_bits & KEY_EGRESS,
		.offset = t.offset,
	};
	if (parse_inner(skb, p, t.ethertype))
		return INSIDE_NOTHING;
	if ((marks_proto >> 16 & MARKS_ECN) == MARKS_CE && p->marks & MARKS_ECN)
		p->marks |= MARKS_CE; // as the end of the tunnel will; RFC 6040 4.2
	later = p->bits & KEY_LATER_FRAGMENT;
	if (fragment_ns && p->fragment)
		join_fragment(p, tunnel_hash(&apart->outer));
	return later ? INSIDE_LATER_FRAGMENT : INSIDE_PACKET;
}

/* Makes it the packet inside of it, if there is one, and returns whether that is a later fragment. */
static __always_inline bool enter_tunnel(struct __sk_buff *skb, struct apart *apart)
{
	struct packet *p = &apart->packet;
	int found;

	apart->outer.src_addr[0] = p->src_addr[0];
	apart->outer.src_addr[1] = p->src_addr[1];
	apart->outer.dst_addr[0] = p->dst_addr[0];
	apart->outer.dst_addr[1] = p->dst_addr[1];
	apart->outer.bits = p->bits & KEY_IPV6 ? OUTER_IPV6 : 0;
	found = look_inside(skb, p->netns << 16 | p->bits, p->offset, p->marks << 16 | p->ip_proto, (__u16)p->ports);
	if (found == INSIDE_NOTHING)
		return false;
	take_flow(p, &apart->inside); // the jumbo option is the outer one's
	return found == INSIDE_LATER_FRAGMENT;
}

static __always_inline bool may_be_tunnel(const struct packet *p)
{
	__u16 dst_port = p->ports;

	switch (p->ip_proto) {
	case IPPROTO_UDP:
		return dst_port == PORT_VXLAN || dst_port == PORT_VXLAN_LINUX || dst_port == PORT_GENEVE;
	case IPPROTO_GRE:
	case IPPROTO_IPIP:
	case IPPROTO_IPV6:
		return true;
	}
	return false;
}
