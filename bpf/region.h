/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Find or claim the slot of a key: hash, index, slot. One writer per region: bottom halves are off in tc, so plain adds lose nothing. */
#pragma once

#include "maps.h"
#include "packet.h"
#include "wire.h"

#define KEY_WORD5 0x000000ffffffffffULL // netns, bits, ip_proto; above lie tcp_flags and number

static __always_inline bool is_ipv6(const __u64 *key)
{
	return key[5] >> 16 & KEY_IPV6;
}

/*
 * NH (UMAC, RFC 4418 5.2.2) over 32-bit halves, then a finaliser. A linear form over 64-bit words collides on structured
 * addresses: a /24 x /25 matrix gave 256 values for 32,768 flows. NH followed by multiply-shift alone keeps arithmetic
 * progressions, which pile up in linear probing: 2 to 5 % of key draws put up to 90 % of a /24 x /24 matrix or a port scan
 * into overflow. With the fold between two multiplications no set differs from random keys (400 draws each, simulated), also
 * where both addresses of IPv4 are one pair, which takes three products instead of six.
 */
static __always_inline __u64 nh(const __u64 *words, int count, const __u32 *keys)
{
	__u64 sum = 0;

#pragma unroll
	for (int i = 0; i < count; i++)
		sum += (__u64)((__u32)words[i] + keys[2 * i]) * ((__u32)(words[i] >> 32) + keys[2 * i + 1]);
	return sum;
}

/* The first four words are addresses, of IPv4 one half of the second and of the fourth: these two make one product. */
static __always_inline __u64 hash_addresses(const __u64 *key, const __u32 *keys)
{
	__u32 src = key[1] >> 32, dst = key[3] >> 32;

	if (is_ipv6(key))
		return nh(key, 4, keys);
	return (__u64)(src + keys[0]) * (dst + keys[1]);
}

static __always_inline __u64 hash(const __u64 *key, const struct outer *outer, const struct region_header *h)
{
	__u64 sum = hash_addresses(key, h->hash_keys) + nh(key + 4, 2, h->hash_keys + 8);

	if (outer)
		sum += nh((const __u64 *)outer, OUTER_WORDS, h->hash_keys) * h->hash_outer;
	sum *= h->hash_odd;
	sum ^= sum >> 32;
	return sum * h->hash_odd;
}

/* The last word, which says which version it is, comes first: of IPv4 the words not compared are 0 in both. */
static __always_inline bool same_key(const struct slot *s, const __u64 *key)
{
	const __u64 *a = (const __u64 *)s;

	return (a[5] & KEY_WORD5) == key[5] && a[4] == key[4] && a[3] == key[3] && a[1] == key[1] &&
	       (!is_ipv6(key) || (a[2] == key[2] && a[0] == key[0]));
}

static __always_inline void set_key(struct slot *s, const __u64 *key)
{
#pragma unroll
	for (int i = 0; i < KEY_WORDS; i++)
		((__u64 *)s)[i] = key[i];
}

/* Where the parts of a region lie whose size is set at load: index, slots, colds, outers. mask is slot_mask, which is read once. */
static __always_inline __u32 *index_at(void *region, __u32 mask, __u32 position)
{
	return region + REGION_INDEX + (__u64)(position & (INDEX_PER_SLOT * mask + INDEX_PER_SLOT - 1)) * sizeof(__u32);
}

static __always_inline void *slots_of(void *region, __u32 mask)
{
	return region + REGION_INDEX + (__u64)(mask + 1) * INDEX_PER_SLOT * sizeof(__u32);
}

static __always_inline struct slot *slot_at(void *region, __u32 mask, __u32 number)
{
	return slots_of(region, mask) + (__u64)(number & mask) * sizeof(struct slot);
}

static __always_inline struct cold *cold_at(void *region, __u32 mask, __u32 number)
{
	return slots_of(region, mask) + (__u64)(mask + 1) * sizeof(struct slot) + (__u64)(number & mask) * sizeof(struct cold);
}

/* Not there unless tunnels are looked into. */
static __always_inline struct outer *outer_at(void *region, __u32 mask, __u32 number)
{
	return slots_of(region, mask) + (__u64)(mask + 1) * (sizeof(struct slot) + sizeof(struct cold)) +
	       (__u64)(number & mask) * sizeof(struct outer);
}

/* The tunnel that a packet is in; NULL: none. */
static __always_inline struct outer *outer_of(struct apart *apart)
{
	return tunnels && apart->packet.netns & KEY_TUNNELLED ? &apart->outer : NULL;
}

static __always_inline bool same_outer(const struct outer *a, const struct outer *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3] && x[4] == y[4];
}

/* A region half full asks to be drained; the count passes that mark once between two flips. */
static __always_inline void announce_pressure(__u32 place)
{
	struct pressure record = {.region = place / 2, .buffer = place % 2};

	bpf_ringbuf_output(&pressure, &record, sizeof(record), BPF_RB_FORCE_WAKEUP);
}

/*
 * The time of a claim, later for every next one. Reading the clock is 40 % of the cost of a claim (docs/performance.md), so
 * in a flood of new flows most take the last reading: early by the time of CLOCK_SHARE claims, never by a jiffy.
 */
static __always_inline __u64 claim_time(struct region_header *h)
{
	__u32 now = bpf_jiffies64();

	if (h->clock_jiffies != now) {
		h->clock_jiffies = now;
		h->clock_claims = 0;
	}
	if (h->clock_claims < CLOCK_EXACT || h->clock_claims % CLOCK_SHARE == 0)
		h->clock_ns = bpf_ktime_get_boot_ns();
	h->clock_claims++;
	return h->clock_ns++;
}

/* What the first packet tells of all of its slot. */
static __always_inline void set_facts(struct __sk_buff *skb, const struct packet *p, bool link_header, struct cold *c)
{
	__u32 facts = (p->marks & MARKS_DSCP) >> MARKS_DSCP_SHIFT << FACT_DSCP_SHIFT | p->label;
	const struct macs *macs = NULL;
	struct macs copy;

	c->ttl_min = c->ttl_max = p->marks >> MARKS_TTL_SHIFT;
	if (link_header)
		macs = peek(skb, 0, 0, &copy, sizeof(copy));
	if (macs) {
		c->macs = *macs;
		facts |= FACT_MACS;
	}
	c->ce_packets = 0;
	c->facts = facts;
}

/* The next slot, and its cold entry, become this key's. Every field is set here or by count: nobody clears what the last flow left. */
static __always_inline struct slot *claim(struct __sk_buff *skb, void *region, __u32 mask, __u32 position, __u32 tag,
					  const __u64 *key, const struct outer *outer, const struct packet *p, bool link_header,
					  __u32 place)
{
	struct region_header *h = region;
	__u32 number = h->used;
	struct slot *s = slot_at(region, mask, number);
	struct cold *c = cold_at(region, mask, number);

	if (number > mask)
		return NULL;
	*index_at(region, mask, position) = tag | INDEX_USED | number;
	set_key(s, key);
	s->number = number;
	s->packets = 0;
	s->bytes = (__u64)p->marks << BYTES_BITS;
	c->first_ns = claim_time(h);
	c->position = position;
	set_facts(skb, p, link_header, c);
	if (outer)
		*outer_at(region, mask, number) = *outer;
	h->used = number + 1;
	if (h->used == (mask + 1) / 2)
		announce_pressure(place);
	return s;
}

/* The slot of a flow, or NULL if the region has no room. */
static __always_inline struct slot *flow_slot(struct __sk_buff *skb, void *region, const struct packet *p, const __u64 *key,
					      const struct outer *outer, bool link_header, __u32 place)
{
	__u32 mask = slot_mask, position, tag;
	__u64 hashed;

	hashed = hash(key, outer, region);
	position = hashed >> index_shift;
	tag = (__u32)(hashed >> 16) & INDEX_TAG; // other bits than those of the position
	for (int n = 0; n < PROBE_MAX; n++) {
		__u32 entry = *index_at(region, mask, position);
		struct slot *s;

		if (unlikely(!entry))
			return claim(skb, region, mask, position, tag, key, outer, p, link_header, place);
		if (likely((entry & INDEX_TAG) == tag)) {
			s = slot_at(region, mask, entry);
			if (likely(same_key(s, key) && (!outer || same_outer(outer_at(region, mask, entry), outer))))
				return s;
		}
		position++;
	}
	return NULL;
}

/* The slot of an interface, direction and reason: never NULL. */
static __always_inline struct slot *class_slot(void *region, const struct packet *p)
{
	struct slot *classes = region + sizeof(struct region_header);
	__u32 reason = masked(p->reason, REASONS_MAX - 1), egress = masked(p->bits >> KEY_EGRESS_SHIFT, 1);
	__u32 ethertype = reason == REASON_ETHERTYPE ? p->ethertype : 0;
	__u64 key[KEY_WORDS] = {
		[4] = (__u64)p->ifindex << 32 | reason << 16 | ethertype,
		[5] = (__u64)egress << (16 + KEY_EGRESS_SHIFT) | (p->netns & KEY_NETNS),
	};
	__u32 index = p->netns * 149 + p->ifindex * 31 + ethertype * 7 + reason * 2 + egress;
	struct slot *spare = &classes[CLASS_SLOTS + reason * 2 + egress];

	for (int n = 0; n < CLASS_PROBE_MAX; n++) {
		struct slot *s = &classes[(index + n) % CLASS_SLOTS];

		if (s->packets == 0) {
			set_key(s, key);
			return s;
		}
		if (same_key(s, key))
			return s;
	}
	spare->src_port = reason;
	spare->bits = egress << KEY_EGRESS_SHIFT;
	return spare;
}

/* The one place that counts. */
static __always_inline void count(void *region, struct slot *s, const struct packet *p, struct wire w)
{
	struct region_header *h = region;

	s->packets += w.packets;
	s->bytes += w.bytes;
	s->last = bpf_jiffies64();
	if ((s->tcp_flags | p->tcp_flags) != s->tcp_flags)
		s->tcp_flags |= p->tcp_flags;
	h->buffers_counted++;
	h->packets += w.packets;
	h->bytes += w.bytes;
}

#define TCP_SYN 0x02
#define TCP_ACK 0x10

static __always_inline bool marked_ce(const struct packet *p)
{
	return (p->marks & MARKS_ECN) == MARKS_CE;
}

/* Whether a packet tells more of its flow than the one before it did. The cold entry, another cache line, stays untouched else. */
static __always_inline bool remarkable(const struct slot *s, const struct packet *p)
{
	return s->bytes >> BYTES_BITS != p->marks || p->tcp_flags & TCP_SYN || marked_ce(p);
}

/* A remarkable packet, before it is counted. */
static __always_inline void note(void *region, struct slot *s, const struct packet *p, struct wire w)
{
	struct cold *c = cold_at(region, slot_mask, s->number);
	__u8 ttl = p->marks >> MARKS_TTL_SHIFT;

	if ((s->bytes >> BYTES_BITS ^ p->marks) & MARKS_DSCP)
		c->facts |= FACT_DSCP_VARIES;
	s->bytes = (s->bytes & BYTES_MASK) | (__u64)p->marks << BYTES_BITS;
	if (ttl < c->ttl_min)
		c->ttl_min = ttl;
	if (ttl > c->ttl_max)
		c->ttl_max = ttl;
	if (marked_ce(p))
		c->ce_packets += w.packets;
	/* Which side opened the connection: the OR of a slot's flags cannot tell a SYN-ACK from a SYN and later ACKs. */
	if (p->tcp_flags & TCP_SYN)
		c->facts |= p->tcp_flags & TCP_ACK ? FACT_SYN_ACK : FACT_SYN;
}
