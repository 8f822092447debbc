/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Every map: who writes it, who reads it. Most sizes are set at load. */
#pragma once

#include "config.h"
#include "packet.h"

/* Flow slots. Programs write the active buffer, user space reads and empties the quiet one through mmap. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct region);
	__uint(max_entries, 2);
} regions SEC(".maps");

/* One sampler for each region. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct sampler);
	__uint(max_entries, 1);
} samplers SEC(".maps");

/* Samples on their way to user space, which polls: no wake-up is paid for on the packet path. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__type(value, struct sample); // head of each record, for bpf2go; the kernel does not see it
	__uint(max_entries, 1 << 20); /* bytes; loaders size it */
} samples SEC(".maps");

/* Wakes the drain when a region is half full; at most one record for each region and flip. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__type(value, struct pressure);
	__uint(max_entries, 4096);
} pressure SEC(".maps");

/* First fragments of the last seconds, of all CPUs: the least recently used makes room. Touched by fragments only. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
	__uint(max_entries, 1024);
} fragments SEC(".maps");

/* A packet that functions of their own parse and count, and what it carries. */
struct apart {
	struct outer outer; // the tunnel that it is inside of; first: verifiers of 6.1 add nothing to what may be NULL
	struct packet packet;
	struct packet inside; // of it, or quoted by it
};

/* Where they leave it for each other: a program and what it calls have 512 bytes of stack in all. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct apart);
	__uint(max_entries, 1);
} aparts SEC(".maps");

/* How far flows have come, of all CPUs, by beginning_key: the least recently used makes room. Touched by packets of young slots. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, __u64);
	__type(value, struct beginning);
	__uint(max_entries, 1);
} beginnings SEC(".maps");

/* Messages that go on in packets to come, of all CPUs, by a hash of the direction: a newer one takes the place. A race costs a message. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct follow);
	__uint(max_entries, 1);
} follows SEC(".maps");

/* What is known of the message that a packet is part of. */
struct message {
	__u64 key; // as of struct follow
	__u32 tail; // as there
	__u32 offset; // of the payload
	__u32 bytes; // to come, this packet's included
	__u16 packets; // to come after this one
	__u16 protocol; // enum protocol_bits, or FOLLOW_FRAMES
};

struct sample_scratch {
	struct sample head;
	__u8 data[SNAP_MAX];
	struct message message; // iff it is a TCP packet that SAMPLE_PROTOCOL chose
};

/* Where a sample is put together: a ring reservation of variable size is refused by every verifier. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sample_scratch);
	__uint(max_entries, 1);
} scratch SEC(".maps");

/* Interfaces that are joined to others. The rest have no entry. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);
	__type(key, struct place);
	__type(value, struct stacking);
	__uint(max_entries, 1);
} stackings SEC(".maps");

struct control control; // alone in .bss, which user space maps
