/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Find or claim the slot of a key. One writer per region: bottom halves are off in tc, so plain adds lose nothing. */
#pragma once

#include "maps.h"
#include "parse.h"
#include "wire.h"

#define KEY_WORD5 0x000000ffffffffffULL // netns, bits, ip_proto; above lie tcp_flags and cold

/*
 * NH (UMAC, RFC 4418 5.2.2) over 32-bit halves, then a finaliser. A linear form over 64-bit words collides on structured
 * addresses: a /24 x /25 matrix gave 256 values for 32,768 flows. NH followed by multiply-shift alone keeps arithmetic
 * progressions, which pile up in linear probing: 2 to 5 % of key draws put up to 90 % of a /24 x /24 matrix or a port scan
 * into overflow. With the fold between two multiplications no set differs from random keys (400 draws each, simulated).
 */
static __always_inline __u32 hash(const __u64 *key, const struct region_header *h)
{
	const __u32 *k = h->hash_keys;
	__u64 sum = 0;

#pragma unroll
	for (int i = 0; i < KEY_WORDS; i++)
		sum += (__u64)((__u32)key[i] + k[2 * i]) * ((__u32)(key[i] >> 32) + k[2 * i + 1]);
	sum *= h->hash_odd;
	sum ^= sum >> 32;
	return sum * h->hash_odd >> hash_shift;
}

static __always_inline bool same_key(const struct slot *s, const __u64 *key)
{
	const __u64 *a = (const __u64 *)s;

	return a[0] == key[0] && a[1] == key[1] && a[2] == key[2] && a[3] == key[3] && a[4] == key[4] &&
	       (a[5] & KEY_WORD5) == key[5];
}

static __always_inline void set_key(struct slot *s, const __u64 *key)
{
#pragma unroll
	for (int i = 0; i < KEY_WORDS; i++)
		((__u64 *)s)[i] = key[i];
}

static __always_inline struct slot *slot_at(void *region, __u32 index)
{
	return region + REGION_SLOTS + (__u64)(index & slot_mask) * sizeof(struct slot);
}

static __always_inline struct cold *cold_at(void *region, __u32 index)
{
	return region + REGION_SLOTS + (__u64)(slot_mask + 1) * sizeof(struct slot) +
	       (__u64)(index & slot_mask) * sizeof(struct cold);
}

/* A region half full asks to be drained; the count passes that mark once between two flips. */
static __always_inline void announce_pressure(__u32 region, __u32 buffer)
{
	struct pressure record = {.region = region, .buffer = buffer};

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

static __always_inline struct slot *claim(void *region, __u32 index, const __u64 *key, __u32 number, __u32 buffer)
{
	struct region_header *h = region;
	struct slot *s = slot_at(region, index);
	struct cold *c = cold_at(region, h->colds);

	set_key(s, key);
	s->cold = h->colds;
	c->first_ns = claim_time(h);
	c->slot = index;
	h->colds++;
	if (h->colds == (slot_mask + 1) / 2)
		announce_pressure(number, buffer);
	return s;
}

/* The slot of a flow, or NULL if the region has no room where it would have to lie. */
static __always_inline struct slot *flow_slot(void *region, const struct packet *p, __u32 number, __u32 buffer)
{
	__u64 key[KEY_WORDS];
	__u32 index;

	key_words(p, key);
#pragma unroll
	for (int i = 0; i < KEY_WORDS; i++)
		asm volatile("" : "+r"(key[i])); // keeps the compiler from taking the words apart again
	index = hash(key, region);
	for (int n = 0; n < PROBE_MAX; n++) {
		struct slot *s = slot_at(region, index);

		if (s->packets == 0)
			return claim(region, index & slot_mask, key, number, buffer);
		if (same_key(s, key))
			return s;
		index++;
	}
	return NULL;
}

/* The slot of an interface, direction and reason: never NULL. */
static __always_inline struct slot *class_slot(void *region, const struct packet *p)
{
	struct slot *classes = region + sizeof(struct region_header);
	__u32 reason = p->reason % REASONS_MAX, egress = p->bits & KEY_EGRESS;
	__u32 ethertype = reason == REASON_ETHERTYPE ? p->ethertype : 0;
	__u64 key[KEY_WORDS] = {
		[4] = (__u64)p->ifindex << 32 | ethertype << 16 | reason,
		[5] = egress << 16 | p->netns,
	};
	__u32 index = p->ifindex * 31 + ethertype * 7 + reason * 2 + !!egress;
	struct slot *spare = &classes[CLASS_SLOTS + reason * 2 + !!egress];

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
	spare->bits = egress;
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

/* Which side opened the connection: the OR of a slot's flags cannot tell a SYN-ACK from a SYN and later ACKs. */
static __always_inline void note_handshake(void *region, const struct slot *s, __u8 tcp_flags)
{
	cold_at(region, s->cold)->handshake |= tcp_flags & TCP_ACK ? HANDSHAKE_SYN_ACK : HANDSHAKE_SYN;
}
