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

#define DNS_BEGINNING 14 // bytes: the length that is before a message over TCP, and its header; RFC 1035 4.2.2 and 4.1.1
#define DNS_HEADER 12
#define DNS_QUESTION_MIN 5 // bytes: the root's name, type, class
#define DNS_RECORD_MIN 11 // bytes: the root's name, type, class, time to live, length of no data
#define DNS_OPCODES 0x75 // bit n: opcode n is assigned and in use; RFC 6895 2.2, RFC 8490 5.4
#define DNS_RESPONSE 0x8000
#define DNS_RESERVED 0x40
#define DNS_CODE 0xf // of a response
#define DNS_MESSAGES 8 // of one packet looked at; user space reads no more

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

/* How much is followed of a message of so many bytes. */
static __always_inline __u32 followed(__u32 bytes)
{
	return bytes < FOLLOW_BYTES ? bytes : FOLLOW_BYTES;
}

/*
 * Whether the payload begins with the length and the header of a DNS message, as far as it is there, and how many bytes that takes.
 * DNS has no mark; but a header is mostly zeros, has one question at most (RFC 9619), and no more records than fit into its length.
 */
static __always_inline bool find_dns(struct __sk_buff *skb, struct message *m, __u32 length, __u64 bytes)
{
	__u32 message = bytes >> 48, flags = (__u16)(bytes >> 16), questions = (__u16)bytes, records;
	__u32 rest = length < DNS_BEGINNING ? length - 8 : DNS_BEGINNING - 8;
	__u64 counts = 0;

	if (length < 2)
		return true;
	if (!(DNS_OPCODES >> (flags >> 11 & 0xf) & 1) || flags & DNS_RESERVED || questions > 1 ||
	    (!(flags & DNS_RESPONSE) && flags & DNS_CODE))
		return false;
	if (length > 8 && !first_bytes(skb, m->offset + 8, rest, &counts))
		return false;
	records = (counts >> 48) + (__u16)(counts >> 32) + (__u16)(counts >> 16);
	if (message < DNS_HEADER + DNS_QUESTION_MIN * questions + DNS_RECORD_MIN * records)
		return false;
	m->bytes = followed(2 + message);
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

/* The protocol, or FOLLOW_FRAMES, of the message that a TCP packet may begin, 0 if it begins none; up to eight of its first bytes are given. */
static __always_inline __u32 begun(struct __sk_buff *skb, const struct slot *s, struct message *m, __u32 length, __u64 bytes)
{
	__u32 n = length < 8 ? length : 8;

	if (protocols & PROTOCOL_DNS && has_port(s, PORT_DNS))
		return find_dns(skb, m, length, bytes) ? PROTOCOL_DNS : 0;
	if (protocols & PROTOCOL_TLS && find_hello(skb, m, length, bytes))
		return PROTOCOL_TLS;
	if (protocols & PROTOCOL_HTTP && begins_preface(bytes, n))
		return FOLLOW_FRAMES;
	if (protocols & PROTOCOL_HTTP && begins_head(bytes, n))
		return PROTOCOL_HTTP;
	return 0;
}

/* A packet that may be part of a message, and is not copied. */
static __always_inline void miss(__u32 place)
{
	__u32 number = place / 2;
	struct sampler *s = bpf_map_lookup_elem(&samplers, &number);

	if (s)
		s->missed++;
}

/* A packet that neither begins a message nor goes on with one that was copied: what a server of DNS says may have answers in it. */
static __always_inline void pass_over(const struct slot *s, __u32 place)
{
	if (protocols & PROTOCOL_DNS && s->src_port == PORT_DNS)
		miss(place);
}

/* Of a TCP packet with payload: whether it begins a message, or goes on with one that was copied. What is found is left in scratch. */
static __always_inline __u32 find_segment(struct __sk_buff *skb, const struct slot *s, __u32 offset, __u32 place)
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
	m->protocol = begun(skb, s, m, length, bytes);
	if (m->protocol && (m->protocol != PROTOCOL_DNS || length >= DNS_BEGINNING)) // fewer bytes are rather the end of one
		return SAMPLE_PROTOCOL | CHOICE_SEGMENT;
	f = follow_of(key);
	if (!f || f->key != key || !f->packets) {
		if (m->protocol)
			return SAMPLE_PROTOCOL | CHOICE_SEGMENT;
		pass_over(s, place);
		return 0;
	}
	m->protocol = f->protocol;
	m->packets = f->packets - 1;
	m->bytes = f->bytes;
	m->tail = f->tail;
	return SAMPLE_PROTOCOL | CHOICE_SEGMENT | CHOICE_FOLLOWS;
}

/* Whether a packet in this slot, with its headers up to an offset, is part of a message. */
static __always_inline __u32 find_message(struct __sk_buff *skb, const struct slot *s, __u32 offset, __u32 place)
{
	if (skb->len <= offset)
		return 0;
	switch (s->ip_proto) {
	case IPPROTO_TCP:
		return find_segment(skb, s, offset, place);
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

/* How much is to come of the message of DNS that the end of a copied packet is in: one may end in the packet, and others begin. */
static __always_inline __u32 rest_of_dns(const struct sample_scratch *s, __u32 payload)
{
	__u32 offset = s->message.offset, end = s->message.bytes; // behind the message, counted from the payload's first byte

	for (int i = 0; i < DNS_MESSAGES && end < payload; i++) {
		if (end + 1 == payload)
			return FOLLOW_BYTES; // nobody knows its length yet
		end += 2 + (s->data[(offset + end) & (SNAP_MAX - 1)] << 8 | s->data[(offset + end + 1) & (SNAP_MAX - 1)]);
	}
	return end <= payload ? 0 : followed(end - payload);
}

/* Whether what follows a copied packet of a message is more of it, and can be joined. */
static __always_inline bool goes_on(struct __sk_buff *skb, struct sample_scratch *s)
{
	struct message *m = &s->message;
	__u32 length = s->head.captured, payload = skb->len - m->offset;

	if (!m->packets || skb->len > length)
		return false;
	if (m->protocol == PROTOCOL_DNS) {
		m->bytes = rest_of_dns(s, payload);
		return m->bytes;
	}
	if (payload >= m->bytes)
		return false;
	m->bytes -= payload;
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
