/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A packet as it is known here: its key and what else its headers said. And how bytes of it are read, so that verifiers of every
 * kernel follow.
 */
#pragma once

#include "config.h"

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

/* One load. Packets may lie anywhere, amd64 and arm64 do not mind; on the stack the verifier does. */
static __always_inline __u64 word(const void *at)
{
	return *(const __u64 *)at;
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

/* One step of a hash that is no secret. */
static __always_inline __u64 mix(__u64 sum, __u64 value)
{
	sum = (sum ^ value) * GOLDEN;
	return sum ^ sum >> 32;
}
