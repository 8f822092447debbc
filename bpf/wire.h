/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What a socket buffer is on the wire. With segmentation offload one buffer is up to 45 packets and more. */
#pragma once

#include "config.h"

#define GSO_BY_FRAGS 0xffff // gso_size of SCTP: segments differ in size, only gso_segs counts them
#define NOT_SEGMENTED 0xffffffff // in place of the bytes of headers that each segment repeats
#define VLAN_TAG_BYTES 4
#define JUMBO_BYTES 8

struct wire {
	__u32 packets;
	__u32 bytes; // link header and tags included; FCS and padding not
};

/*
 * Segments of a GSO buffer with this gso_size. virtio, tun and packet sockets leave gso_segs at 0 (virtio_net_hdr_to_skb),
 * so it is worked out from the payload there.
 */
static __always_inline __u32 segments(struct __sk_buff *skb, __u32 size, __u32 headers)
{
	__u32 segs = skb->gso_segs;

	if (segs)
		return segs;
	if (size == GSO_BY_FRAGS || skb->len <= headers)
		return 1;
	return (skb->len - headers + size - 1) / size;
}

/*
 * Lengths come from skb->len, never from an IP header: BIG TCP writes 0 there. Of IPv6 it adds a hop-by-hop header of 8 bytes
 * with the length, which segmentation takes off again. An offloaded tag is not in skb->len.
 */
static __always_inline struct wire wire_of(struct __sk_buff *skb, __u32 headers, bool jumbo)
{
	struct wire w = {.packets = 1, .bytes = skb->len};

	if (unlikely(headers != NOT_SEGMENTED)) {
		w.packets = segments(skb, skb->gso_size, headers);
		if (jumbo)
			headers -= JUMBO_BYTES;
		w.bytes += (w.packets - 1) * headers;
		if (jumbo)
			w.bytes -= JUMBO_BYTES;
	}
	if (unlikely(skb->vlan_present))
		w.bytes += w.packets * VLAN_TAG_BYTES;
	return w;
}
