/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Every struct and enum shared with user space. Go names are generated from here (internal/kernel/gen.go); a test compares
 * sizes and enum values. Host byte order unless a field says otherwise. No struct is packed, every pad is explicit.
 */
#pragma once

#include <linux/types.h>

/* Where a packet was counted; internal/flow/reason.go says what each one means. */
enum reason {
	REASON_ACCOUNTED,
	REASON_OVERFLOW,
	REASON_FILTERED,
	REASON_ARP,
	REASON_LLC,
	REASON_ETHERTYPE,
	REASON_SHORT_ETHERNET,
	REASON_SHORT_VLAN,
	REASON_VLAN_DEPTH,
	REASON_SHORT_MPLS,
	REASON_MPLS_DEPTH,
	REASON_SHORT_PPPOE,
	REASON_SHORT_IPV4,
	REASON_BAD_IPV4,
	REASON_SHORT_IPV6,
	REASON_BAD_IPV6,
	REASON_SHORT_IPV6_EXTENSION,
	REASON_IPV6_EXTENSION_DEPTH,
	REASON_SHORT_TRANSPORT,
	REASON_NOT_IP,
	REASON_DUPLICATE,
	REASON_COUNT,
};

/* struct slot .bits beside the 12 bits of the VLAN id */
enum key_bits {
	KEY_VLAN_ID = 0x0fff,
	KEY_TAGGED = 0x1000, // a tag was present, even if its id is 0
	KEY_LATER_FRAGMENT = 0x2000,
	KEY_IPV6 = 0x4000,
	KEY_EGRESS = 0x8000,
	KEY_EGRESS_SHIFT = 15,
};

/* struct slot .netns beside the number of the namespace, of which user space gives no more than 4,095 */
enum netns_bits {
	KEY_NETNS = 0x0fff,
	KEY_QUOTED = 0x3000, // enum quoted
	KEY_QUOTED_SHIFT = 12,
	KEY_TUNNELLED = 0x8000, // the key is that of a packet inside of a tunnel, which struct outer names
};

/* Kinds of ICMP errors. A slot of such a kind counts the errors that quote its key, and no packet of its own. */
enum quoted {
	QUOTED_UNREACHABLE = 1,
	QUOTED_TOO_BIG = 2,
	QUOTED_TIME_EXCEEDED = 3,
};

/*
 * One direction of a 5-tuple at one interface on one CPU, between two drains: one cache line, one writer. The key is what
 * stands before tcp_flags, compared as five words and the low 40 bits of the sixth.
 */
struct slot {
	__u32 src_addr[4]; // network byte order; IPv4 in [3], the rest 0
	__u32 dst_addr[4]; // network byte order
	__u16 dst_port; // of ICMP see icmp_ports; class slot: ethertype, iff REASON_ETHERTYPE
	__u16 src_port; // class slot: enum reason. In this order one swap of bytes makes both of what stands in a header
	__u32 ifindex;
	__u16 netns; // enum netns_bits; number 0: the receiver's own namespace
	__u16 bits; // enum key_bits
	__u8 ip_proto;
	__u8 tcp_flags; // OR of the flags of every packet; RFC 9293 3.1, IPFIX 6
	__u16 number; // enum number_bits
	__u32 packets; // on the wire; 0: a class slot is free
	__u32 last; // low 32 bits of jiffies64 at the last packet; wraps five minutes after boot
	__u64 bytes; // low 48 bits: on the wire, link header and tags included; above: marks of the last packet of a flow
};
_Static_assert(sizeof(struct slot) == 64, "a slot is one cache line");
_Static_assert(__builtin_offsetof(struct slot, tcp_flags) == 45, "the key is 45 bytes: five words and 40 bits");

/* struct slot .number */
enum number_bits {
	NUMBER = 0x7fff, // its own, and that of its struct cold: there are no more slots than that
	NUMBER_CHOSEN = 0x8000, // every packet of this flow is a sample
};

/*
 * An entry of the index, which is open-addressed; 0: free. Slots are claimed one after the other: new flows write memory in
 * order, which the CPU fetches ahead, and only the index, small enough for its caches, is looked at here and there.
 */
enum index_bits {
	INDEX_NUMBER = 0x00007fff, // of the slot
	INDEX_USED = 0x00008000,
	INDEX_TAG = 0xffff0000, // of the hash: a slot with another key is hardly ever looked at
};
#define INDEX_PER_SLOT 2 // entries: at most half of them are in use
_Static_assert((int)INDEX_NUMBER == NUMBER, "a number is the same in both");

/* Struct slot .bytes: where the counter ends, at 281 TB between two drains. */
#define BYTES_BITS 48
#define BYTES_MASK ((1ULL << BYTES_BITS) - 1)

/* What two octets of a packet's IP header said: TTL or hop limit, and type of service (RFC 2474, RFC 3168) or traffic class. */
enum marks {
	MARKS_ECN = 0x0003,
	MARKS_CE = 0x0003, // congestion experienced
	MARKS_DSCP = 0x00fc,
	MARKS_DSCP_SHIFT = 2,
	MARKS_TTL_SHIFT = 8,
};

/* struct cold .facts */
enum fact_bits {
	FACT_LABEL = 0x000fffff, // IPv6 flow label of the first packet; RFC 6437
	FACT_SYN = 0x00100000, // a packet with SYN and not ACK was counted in this slot
	FACT_SYN_ACK = 0x00200000, // a packet with SYN and ACK was
	FACT_DSCP_VARIES = 0x00400000, // not all packets had the first one's
	FACT_MACS = 0x00800000, // there was a link header
	FACT_DSCP_SHIFT = 26, // of the first packet
};

/* Both hardware addresses as they stand in an Ethernet header. */
struct macs {
	__u32 words[3]; // network byte order: destination, source
};

/* What is touched when a slot is claimed and on packets that differ from the last one. */
struct cold {
	__u64 first_ns; // bpf_ktime_get_boot_ns of the first packet; in a flood of new flows early by less than a jiffy
	__u32 facts; // enum fact_bits
	__u32 ce_packets; // on the wire, marked "congestion experienced"
	struct macs macs; // of the first packet, iff FACT_MACS
	__u16 position; // of its slot in the index
	__u8 ttl_min; // TTL or hop limit
	__u8 ttl_max;
};
_Static_assert(sizeof(struct cold) == 32, "two colds are one cache line");

/* struct outer .kind */
enum tunnel_kind {
	TUNNEL_VXLAN = 1,
	TUNNEL_GENEVE = 2,
	TUNNEL_GRE = 3,
	TUNNEL_IP = 4, // IP in IP, of any two versions
};

/* struct outer .bits */
enum outer_bits {
	OUTER_IPV6 = 1, // of its addresses
	OUTER_ID = 2, // the tunnel has an id: of GRE, if there is a key
};

/* The tunnel that a packet was in: the rest of the key of a tunnelled slot. Compared as five words. */
struct outer {
	__u64 src_addr[2]; // network byte order, as in struct slot
	__u64 dst_addr[2]; // network byte order
	__u32 id; // VNI of VXLAN and Geneve, key of GRE
	__u8 kind; // enum tunnel_kind
	__u8 bits; // enum outer_bits
	__u8 _pad[2];
};
#define OUTER_WORDS 5 // 64-bit words of a struct outer

#define HASH_WORDS 12 // 32-bit halves of the six words of a key

/* Kinds of samples, each with a budget of its own. */
enum sample_kind {
	KIND_RANDOM,
	KIND_FLOW, // a packet of one flow in N
	KIND_FIRST, // one of the first packets of a flow
	KIND_PROTOCOL, // part of a message of an application protocol
	KIND_COUNT,
};

/* What became of the packets that one kind chose. */
struct sample_counts {
	__u64 selected; // = emitted + rate_limited + ring_full
	__u64 emitted;
	__u64 rate_limited;
	__u64 ring_full; // or the frame could not be copied
};

/* Head of a region. Line 0 is the program's, line 1 is written by user space before the flip, the rest is rare. */
struct region_header {
	__u64 buffers_seen; // socket buffers, counted first thing in the program
	__u64 buffers_counted; // socket buffers, counted at the one place that writes a slot
	__u64 packets; // sum over all slots
	__u64 bytes; // sum over all slots
	__u64 reentered; // times the program found a packet of this CPU seen and not counted yet: must stay 0
	__u32 _pad0;
	__u32 used; // slots in use: the first ones
	__u32 countdown; // buffers still to skip before the next random sample; it outlives the drain
	__u32 gap; // what it began with
	__u64 _pad1;

	__u32 hash_keys[HASH_WORDS]; // NH keys, secret, redrawn for each buffer at every drain
	__u64 hash_odd; // multiplier of the finaliser, odd
	__u64 hash_outer; // multiplier of what the tunnel adds, odd

	struct sample_counts samples[KIND_COUNT];

	__u64 clock_ns; // bpf_ktime_get_boot_ns when a claim last read it, and 1 ns for each claim since
	__u32 clock_jiffies; // low 32 bits of jiffies64 then
	__u32 clock_claims; // in that jiffy
	__u64 quotes_lost; // ICMP errors that were counted, but what they quote could not be read, or had no room
	__u64 _pad2[5];
};
_Static_assert(sizeof(struct region_header) == 320, "a region header is five cache lines");

/* struct filter .bits */
enum filter_bits {
	FILTER_SKIP = 1, // packets that match are counted as filtered; else: as if there were no filter
	FILTER_PORT = 2, // port is compared
	FILTER_PROTOCOL = 4, // ip_proto is compared
	FILTER_IPV4 = 8, // only IPv4 matches
	FILTER_IPV6 = 16, // only IPv6 matches
};

/* A rule. It matches a packet if one of its two endpoints has this address and this port, as far as they are compared. */
struct filter {
	__u64 addr[2]; // network byte order, as in struct slot
	__u64 mask[2]; // network byte order; 0: every address
	__u16 port;
	__u8 ip_proto;
	__u8 bits; // enum filter_bits
	__u32 _pad;
};

/* Names an interface among those of all observed namespaces: a key of stackings. */
struct place {
	__u32 ifindex;
	__u32 netns; // number of its namespace
};

/* struct stacking .bits */
enum stacking_bits {
	STACKING_KNOWN = 1, // what came in here has passed an attached ingress hook, or an attached egress hook before
	STACKING_INGRESS = 2, // what comes in here is counted at another hook
	STACKING_EGRESS = 4, // so is what leaves here
};

/* How an interface is joined to others, as far as their hooks count what passes its own. Written by user space. */
struct stacking {
	__u32 through; // index of the bridge or bond that it is a port of, directly or not, and whose egress hook counts; 0: there is none
	__u32 bits; // enum stacking_bits
};

#define CLASS_SLOTS 256 // (interface, direction, reason) triples of one region; a power of two
#define REASONS_MAX 32 // room for enum reason; a power of two, since verifiers follow a mask and not a remainder
#define SPARE_SLOTS (2 * REASONS_MAX) // one for each reason and direction: what finds no class slot loses its interface
#define DEFAULT_SLOTS 16384 // slots of a region unless user space loads with another power of two

_Static_assert(REASON_COUNT <= REASONS_MAX, "every reason has spare slots");

/* The value of one array element; index = region * 2 + buffer. What must flip together lies together. */
struct region {
	struct region_header header;
	struct slot classes[CLASS_SLOTS + SPARE_SLOTS]; // no addresses: the reason is in src_port
	__u32 index[INDEX_PER_SLOT * DEFAULT_SLOTS]; // where the slot of a hash is
	struct slot slots[DEFAULT_SLOTS]; // of flows; begins where index[] ends, also when loaded with another number
	struct cold colds[DEFAULT_SLOTS]; // begins where slots[] ends
	struct outer outers[DEFAULT_SLOTS]; // begins where colds[] ends; not there unless tunnels are looked into
};
#define REGION_INDEX __builtin_offsetof(struct region, index)

/* What CPUs count that have no region: they came online after loading. Added to atomically; becomes overflow. */
struct late {
	__u64 buffers;
	__u64 packets;
	__u64 bytes;
	__u64 _pad[5];
};

/* Names a packet whose fragments are on their way. */
struct fragment_key {
	__u64 words[6]; // as a slot's, with the identification in place of ports
};

/* What its first fragment said. */
struct fragment {
	__u64 seen_ns; // bpf_ktime_get_boot_ns
	__u32 ports; // as in struct slot
	__u8 ip_proto; // behind extension headers, which the later ones lack
	__u8 contested; // there were two that differ
	__u8 _pad[2];
};

#define STOPPED 2 // value of control.active that stops counting

/* Alone in .bss, which user space maps. The word that every program reads has a cache line of its own. */
struct control {
	__u32 active; // buffer that programs count into: 0, 1 or STOPPED; written by user space
	__u32 _pad0;
	__u64 valid_until; // iff there is a lease: jiffies64 after which programs return at once; written by renew_lease
	__u64 _pad1[6];
	struct late late[4]; // by buffer * 2 + egress; user space clears those of the quiet buffer
};

/*
 * Drawn skips at hand for one CPU; user space replaces the used ones at every poll. A CPU that selects more between two polls
 * (at N = 10 and 90 ms: above 110,000 buffers a second) uses some of them again: the gaps are then no longer independent. Emitted are
 * no more of them than the budget has.
 */
#define SKIPS 1024

/* The sampler of one CPU. Line 0 is the program's, line 1 user space's, which also refreshes skips. */
struct sampler {
	__u64 pools
		[KIND_COUNT]; // buffers since the last emitted sample of a kind: seen, up to the last selected one; of other kinds selected
	__u32 used[KIND_COUNT]; // credits used, modulo 2^32
	__u32 cursor; // entries of skips taken, modulo 2^32
	__u32 missed; // packets that are part of a message, or may be, and were not copied; modulo 2^32
	__u32 _pad0[2];

	__u32 allowed[KIND_COUNT]; // credits granted, modulo 2^32; equal to used: none left; below: debts
	__u32 plenty; // random samples: credits left that are as good as more; fewer lower the chance
	__u32 chance; // of a selected buffer for each credit left, up to plenty, in 2^-31
	__u64 key; // of the coins
	__u64 _pad1[4];

	__u32 skips[SKIPS]; // geometric with p = 1/N: buffers to skip before the next selected one
};

/* The beginning of a flow, both directions together, at one interface; of all CPUs. */
struct beginning {
	__u32 packets; // on the wire, as far as they were looked at: enough to know that it is over
	__u32 last; // low 32 bits of jiffies64 when it was looked at
};

/* struct sample .reasons */
enum sample_reason {
	SAMPLE_RANDOM = 1 << KIND_RANDOM,
	SAMPLE_FLOW = 1 << KIND_FLOW,
	SAMPLE_FIRST = 1 << KIND_FIRST,
	SAMPLE_PROTOCOL = 1 << KIND_PROTOCOL,
};

/* What the programs know of a choice beside enum sample_reason. */
#define CHOICE_SEGMENT 0x40 // of TCP, part of the message that scratch says
#define CHOICE_FOLLOWS 0x80 // it goes on with a message that was copied
#define CHOICE_NUMBER 8 // where the packet's number in its flow begins

/* Application protocols; internal/app reads them. */
enum protocol_bits {
	PROTOCOL_DNS = 1,
	PROTOCOL_TLS = 2,
	PROTOCOL_HTTP = 4,
};

/* A message of which more is to come: one direction of a TCP connection at one interface. */
struct follow {
	__u64 key; // follow_key
	__u32 tail; // last four bytes of a head of HTTP
	__u16 bytes; // of payload still to come
	__u8 packets; // still to be copied; 0: it is over
	__u8 protocol; // enum protocol_bits, or FOLLOW_FRAMES
};
_Static_assert(sizeof(struct follow) == 16, "a follow has no hidden padding");

/* struct sample .bits */
enum sample_bits {
	SAMPLE_EGRESS = 1,
	SAMPLE_L3 = 2, // the frame starts at the IP header
	SAMPLE_TAGGED = 4, // vlan_tci and vlan_proto are valid: the outermost tag is not in the frame
	SAMPLE_NOT_IP = 8, // without link header, and not IP, whatever its first nibble says: the kernel knows
};

/* A ring record: this head, then the captured bytes. */
struct sample {
	__u64 boot_ns; // bpf_ktime_get_boot_ns
	__u64 pool; // iff SAMPLE_RANDOM: buffers this sample stands for
	__u32 flow_pool; // iff SAMPLE_FLOW: buffers of chosen flows this sample stands for
	__u32 number; // iff SAMPLE_FIRST: which packet of its flow this is, or the first segment of it; from 1
	__u32 ifindex;
	__u32 wire_bytes; // all segments, link header and tags included
	__u32 segments; // wire packets
	__u32 captured; // bytes that follow
	__u16 netns;
	__u16 vlan_tci;
	__u16 vlan_proto; // ethertype
	__u8 reasons; // enum sample_reason
	__u8 bits; // enum sample_bits
};
_Static_assert(sizeof(struct sample) == 48, "a sample head has no hidden padding");

/* Record of the pressure ring: this region is half full. */
struct pressure {
	__u32 region;
	__u32 buffer;
};
