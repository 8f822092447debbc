/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Every knob. User space sets variables before loading; the verifier then sees constants and drops what is off. */
#pragma once

#include "contract.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define MAX_CPUS 4096 // longest region_of_cpu; a CPU beyond it counts as late
#define PROBE_MAX 16 // entries of the index looked at; with all slots in use, 0.03 % of flows would need more (simulation)
#define CLASS_PROBE_MAX 16 // class slots looked at before a spare one takes it
#define CLOCK_EXACT 256 // new flows in one jiffy that each read the clock: 64,000 a second at 250 Hz
#define CLOCK_SHARE 8 // of those beyond, one in so many does
#define VLAN_DEPTH 2 // inline tags walked
#define MPLS_DEPTH 8 // labels walked
#define IPV6_EXTENSION_DEPTH 8 // extension headers walked
#define FILTERS_MAX 16 // rules; a packet that none matches pays for all of them (docs/performance.md)
#define GOLDEN 0x9e3779b97f4a7c15ULL // 2^64 / golden ratio, odd: a multiplier that mixes; Knuth, TAOCP 3, 6.4
#define FRAGMENT_CONTEST_NS 1000000000 // two first fragments apart by more are of two packets: identifications are used again
#define MESSAGE_SNAP 2048 // bytes of a packet of a message copied, whatever snap_length is: user space reads them
#define FOLLOW_PACKETS 8 // of one direction copied after one that begins a message, at most
#define FOLLOW_BYTES 16384 // of their payload, its own included
#define FOLLOWS 1024 // messages followed at once, of all CPUs; a power of two
#define SNAP_MAX 16384 // largest snap_length; a power of two, since 5.10 bounds helper lengths by masks only

/* What every packet reads in the usual form comes first, so that it shares a cache line. */
volatile const __u32 first_cpus = 0; // CPUs from 0 on whose regions have their numbers
volatile const __u32 slot_mask = DEFAULT_SLOTS - 1; // slots of a region - 1
volatile const __u32 index_shift = 64 - 15; // 64 - log2(entries of the index)
volatile const __u32 filter_count = 0; // rules in use; 0: no program filters
volatile const __u16 netns = 0; // number of the network namespace this instance is attached in
volatile const __u32 sample_random = 0; // 0: no program samples at random
volatile const __u32 check_protocol = 1; // 0: for tests, since BPF_PROG_TEST_RUN makes a protocol up
volatile const __u16 region_of_cpu[MAX_CPUS] = {}; // of others: region + 1; 0: this CPU has none
volatile const struct filter filters[FILTERS_MAX] = {}; // the first that matches decides
volatile const __u64 fragment_ns = 30000000000; // how long a first fragment is remembered: ipfrag_time of IPv4; 0: not at all
volatile const __u32 fragment_keys[2 * OUTER_WORDS] = {}; // secret, of the hash that tells the fragments of two tunnels apart
volatile const __u32 quotes = 0; // 0: what ICMP errors quote is not looked at
volatile const __u64 flow_seed = 0x6562706670616b74; // of that hash: the same on every host
volatile const __u32 first_per_flow = 0; // packets of every flow that are samples, from its first on
volatile const __u32 first_idle = 0; // jiffies without a packet after which a flow is a new one to first_per_flow
volatile const __u32 snap_length = 256; // bytes of a sample copied, 1 to SNAP_MAX

#ifdef PLAIN // off for good, as for most: packets then cost a tenth less (docs/performance.md)
#define tunnels 0
#define protocols 0
#define flow_limit 0
#define young_packets 0
#define lease 0 // kernels that get this form have tcx
#define deduplicate 0
#else
volatile const __u32 protocols = 0; // enum protocol_bits: their messages are samples
volatile const __u32 tunnels = 0; // 1: the flow of a packet inside of a tunnel is the inner one
volatile const __u32 deduplicate = 0; // 1: what another hook counts is a duplicate
volatile const __u64 flow_limit = 0; // flows whose hash is not above are samples: 2^64 / N; 0: none
volatile const __u32 young_packets = 0; // a slot with fewer is looked at for samples of flows and their beginnings
volatile const __u32 lease = 0; // jiffies that a clsact filter goes on without its process; 0: tcx links, which go with it
#endif
