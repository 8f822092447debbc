/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Find messages of application protocols: packets that begin one, by their port or their first bytes, and packets that go on with
 * it. User space reads them (internal/app). What only looks like a message costs budget and nothing else.
 */
#pragma once

#include <linux/if_ether.h>
#include <linux/in.h>

#include "region.h"

#define PORT_DNS 53
#define PORT_MDNS 5353 // RFC 6762
#define PORT_LLMNR 5355 // RFC 4795

#define TLS_HANDSHAKE 0x16 // type of a record; RFC 8446 5.1
#define TLS_MAJOR 0x03
#define TLS_MINOR_MAX 4
#define TLS_CLIENT_HELLO 1
#define TLS_SERVER_HELLO 2
#define TLS_RECORD_HEADER 5 // type, version, length
#define TLS_CHANGE_CIPHER 0x140303000101ULL // a whole record, which may stand before a second hello; RFC 8446 D.4
#define TLS_CHANGE_CIPHER_LENGTH 6
#define FOLLOW_FRAMES 0x80 // in place of PROTOCOL_HTTP: of HTTP/2, whose frames have no end that is looked for
#define HEAD_END 0x0d0a0d0a // what a head of HTTP ends with; RFC 9112 2.1
#define HEAD_END_LENIENT 0x0a0a // where lines end in LF alone; RFC 9112 2.2

static __always_inline bool has_port(const struct slot *s, __u16 port)
{
	return s->src_port == port || s->dst_port == port;
}

static __always_inline bool has_dns_port(const struct slot *s)
{
	return has_port(s, PORT_DNS) || has_port(s, PORT_MDNS) || has_port(s, PORT_LLMNR);
}

/* Eight bytes of text in the order of first_bytes. */
#define TEXT(a, b, c, d, e, f, g, h)                                                                                       \
	((__u64)(a) << 56 | (__u64)(b) << 48 | (__u64)(c) << 40 | (__u64)(d) << 32 | (__u64)(e) << 24 | (__u64)(f) << 16 | \
	 (__u64)(g) << 8 | (h))

/* Whether the first bytes, of which there are n, are those of a text of this length; fewer can only say that they may be. */
static __always_inline bool begins_with(__u64 bytes, __u32 n, __u64 text, __u32 length)
{
	__u32 compared = n < length ? n : length;

	return (bytes ^ text) >> (64 - 8 * compared) == 0;
}

static __always_inline bool begins_hello(__u64 bytes, __u32 n)
{
	__u8 type = bytes >> 16;

	return bytes >> 56 == TLS_HANDSHAKE && (n < 2 || (__u8)(bytes >> 48) == TLS_MAJOR) &&
	       (n < 3 || (__u8)(bytes >> 40) <= TLS_MINOR_MAX) &&
	       (n < 6 || type == TLS_CLIENT_HELLO || type == TLS_SERVER_HELLO);
}

/* The preface of HTTP/2; RFC 9113 3.4. */
static __always_inline bool begins_preface(__u64 bytes, __u32 n)
{
	return begins_with(bytes, n, TEXT('P', 'R', 'I', ' ', '*', ' ', 'H', 'T'), 8);
}

/* Methods of RFC 9110 9.1 and RFC 5789, and the status line. */
static __always_inline bool begins_head(__u64 bytes, __u32 n)
{
	return begins_with(bytes, n, TEXT('G', 'E', 'T', ' ', 0, 0, 0, 0), 4) ||
	       begins_with(bytes, n, TEXT('P', 'O', 'S', 'T', ' ', 0, 0, 0), 5) ||
	       begins_with(bytes, n, TEXT('H', 'T', 'T', 'P', '/', '1', '.', 0), 7) ||
	       begins_with(bytes, n, TEXT('P', 'U', 'T', ' ', 0, 0, 0, 0), 4) ||
	       begins_with(bytes, n, TEXT('H', 'E', 'A', 'D', ' ', 0, 0, 0), 5) ||
	       begins_with(bytes, n, TEXT('D', 'E', 'L', 'E', 'T', 'E', ' ', 0), 7) ||
	       begins_with(bytes, n, TEXT('P', 'A', 'T', 'C', 'H', ' ', 0, 0), 6) ||
	       begins_with(bytes, n, TEXT('O', 'P', 'T', 'I', 'O', 'N', 'S', ' '), 8) ||
	       begins_with(bytes, n, TEXT('C', 'O', 'N', 'N', 'E', 'C', 'T', ' '), 8) ||
	       begins_with(bytes, n, TEXT('T', 'R', 'A', 'C', 'E', ' ', 0, 0), 6);
}

/* Up to eight bytes at an offset, the first in the highest byte. */
static __always_inline bool first_bytes(struct __sk_buff *skb, __u32 offset, __u32 n, __u64 *bytes)
{
	__be64 copy = 0;

	if (bpf_skb_load_bytes(skb, offset, &copy, ((n - 1) & 7) + 1))
		return false;
	*bytes = bpf_be64_to_cpu(copy);
	return true;
}

/* Whether the payload begins with a hello, and how many bytes its record takes if it is in one. The first bytes are given. */
static __always_inline bool find_hello(struct __sk_buff *skb, struct message *m, __u32 length, __u64 bytes)
{
	__u32 before = 0, n, record, rounded;

	if (length > TLS_CHANGE_CIPHER_LENGTH && bytes >> 16 == TLS_CHANGE_CIPHER)
		before = TLS_CHANGE_CIPHER_LENGTH;
	length -= before;
	n = length < 8 ? length : 8;
	if (before && !first_bytes(skb, m->offset + before, n, &bytes))
		return false;
	if (!begins_hello(bytes, n))
		return false;
	record = (__u16)(bytes >> 24);
	rounded = (bytes & 0xffff) << 8; // down: length of the hello, whose last byte is not among these
	if (n == 8 && rounded > record)
		return true; // it goes on in records to come, which nobody tells the length of
	if (n >= TLS_RECORD_HEADER && record < FOLLOW_BYTES - TLS_RECORD_HEADER - before)
		m->bytes = before + TLS_RECORD_HEADER + record;
	return true;
}

/* Of the packets of one direction at one interface. Two connections with the same are followed as one: user space tells them apart. */
static __always_inline __u64 follow_key(const struct slot *s)
{
	const __u64 *key = (const __u64 *)s;
	__u64 sum = mix(key[1] ^ key[4], key[3] ^ key[0]); // addresses of IPv4 are in 1 and 3, ports in 4

	return mix(sum ^ key[2], (__u64)s->bits << 16 | s->netns);
}

static __always_inline struct follow *follow_of(__u64 key)
{
	__u32 number = key >> 32 & (FOLLOWS - 1);

	return bpf_map_lookup_elem(&follows, &number);
}

/* Of a TCP packet with payload: whether it begins a message, or goes on with one that was copied. What is found is left in scratch. */
static __always_inline __u32 find_segment(struct __sk_buff *skb, const struct slot *s, __u32 offset)
{
	__u32 length = skb->len - offset, n = length < 8 ? length : 8, zero = 0;
	struct sample_scratch *out = bpf_map_lookup_elem(&scratch, &zero);
	__u64 bytes, key = follow_key(s);
	struct message *m;
	struct follow *f;

	if (!out || !first_bytes(skb, offset, n, &bytes))
		return 0;
	if (!bytes && skb->len <= ETH_ZLEN) // padding of a frame without payload; IEEE 802.3 4.2.3.3
		return 0;
	m = &out->message;
	m->key = key;
	m->offset = offset;
	m->packets = FOLLOW_PACKETS;
	m->bytes = FOLLOW_BYTES;
	m->tail = 0;
	if (protocols & PROTOCOL_DNS && has_port(s, PORT_DNS)) {
		m->protocol = PROTOCOL_DNS; // each packet begins one: no message is followed
		return SAMPLE_PROTOCOL | CHOICE_SEGMENT;
	}
	if (protocols & PROTOCOL_TLS && find_hello(skb, m, length, bytes)) {
		m->protocol = PROTOCOL_TLS;
		return SAMPLE_PROTOCOL | CHOICE_SEGMENT;
	}
	if (protocols & PROTOCOL_HTTP && begins_preface(bytes, n)) {
		m->protocol = FOLLOW_FRAMES;
		return SAMPLE_PROTOCOL | CHOICE_SEGMENT;
	}
	if (protocols & PROTOCOL_HTTP && begins_head(bytes, n)) {
		m->protocol = PROTOCOL_HTTP;
		return SAMPLE_PROTOCOL | CHOICE_SEGMENT;
	}
	f = follow_of(key);
	if (!f || f->key != key || !f->packets)
		return 0;
	m->protocol = f->protocol;
	m->packets = f->packets - 1;
	m->bytes = f->bytes;
	m->tail = f->tail;
	return SAMPLE_PROTOCOL | CHOICE_SEGMENT | CHOICE_FOLLOWS;
}

/* Whether a packet in this slot, with its headers up to an offset, is part of a message. */
static __always_inline __u32 find_message(struct __sk_buff *skb, const struct slot *s, __u32 offset)
{
	if (skb->len <= offset)
		return 0;
	switch (s->ip_proto) {
	case IPPROTO_TCP:
		return find_segment(skb, s, offset);
	case IPPROTO_UDP:
		return protocols & PROTOCOL_DNS && has_dns_port(s) ? SAMPLE_PROTOCOL : 0;
	}
	return 0;
}

/* Whether the end of a head is among the copied bytes, or in them and what stood before. */
static __always_inline bool ends_head(struct sample_scratch *s, __u32 length)
{
	struct message *m = &s->message;
	__u32 tail = m->tail, offset = m->offset;

	for (__u32 i = 0; i < MESSAGE_SNAP; i++) {
		if (offset + i >= length)
			break;
		tail = tail << 8 | s->data[(offset + i) & (SNAP_MAX - 1)];
		if (tail == HEAD_END || (__u16)tail == HEAD_END_LENIENT)
			return true;
	}
	m->tail = tail;
	return false;
}

/* Whether what follows a copied packet of a message is more of it, and can be joined. */
static __always_inline bool goes_on(struct __sk_buff *skb, struct sample_scratch *s)
{
	struct message *m = &s->message;
	__u32 length = s->head.captured;

	if (m->protocol == PROTOCOL_DNS || !m->packets || skb->len > length || skb->len - m->offset >= m->bytes)
		return false;
	m->bytes -= skb->len - m->offset;
	return m->protocol != PROTOCOL_HTTP || !ends_head(s, length);
}

/* After a packet of a message: follow it, or no longer. */
static __always_inline void follow(struct __sk_buff *skb, struct sample_scratch *s, bool emitted)
{
	const struct message *m = &s->message;
	struct follow *f = follow_of(m->key);

	if (!f)
		return;
	if (emitted && goes_on(skb, s)) {
		f->key = m->key;
		f->bytes = m->bytes;
		f->tail = m->tail;
		f->protocol = m->protocol;
		f->packets = m->packets;
	} else if (f->key == m->key) {
		f->packets = 0;
	}
}
