/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* What the control plane and the program agree on: keys, values, maps, counters. src/layout.rs mirrors this file. */
#pragma once

#include <linux/types.h>

#define MAGLEV_SLOTS 65537
#define MAX_VIPS 64
#define MAX_BACKENDS 1024
#define MAX_FLOWS 1000000

/* Families as the IP version writes them. */
#define FAMILY_V4 4
#define FAMILY_V6 6

/* A service. Port 0 stands for "the address itself": its fragments (proto TCP or UDP) or its ICMP (proto ICMP, ICMPv6). */
struct vip_key {
	__u8 addr[16];		/* IPv4 in the first four bytes, the rest zero */
	__be16 port;
	__u8 proto;
	__u8 family;
};

#define VIP_FLOW_TABLE 1	/* established flows stay where they are */
#define VIP_FRAGMENTS_HASH3 2	/* fragments are spread over addresses and protocol only; without it they are dropped */
#define VIP_ADDRESS_ONLY 4	/* marks an address, is no service */

struct vip {
	__u32 index;		/* into rings (times two), active_ring, vip_stats */
	__u32 flags;
};

/* Backend id of every Maglev slot; 0 is nobody. Two rings a VIP: the active one is read, the other one is rewritten. */
struct ring {
	__u16 slot[MAGLEV_SLOTS + 3];
};

#define BACKEND_UP 1		/* its flows go to it */
#define BACKEND_NEW 2		/* it gets new flows too (not draining) */

#define MODE_L2 0
#define MODE_TUNNEL 1

/* The two words change while packets flow: each is written and read as one aligned quadword. */
struct backend {
	__u64 link;		/* bytes 0..5 next hop MAC, 6 mode, 7 family of addr */
	__u64 state;		/* low half BACKEND_*, high half incarnation */
	__u8 addr[16];		/* tunnel endpoint; constant during an incarnation */
};

struct settings {
	__u64 hash_seed;
	__u64 udp_idle_ns;
	__u8 mac[6];		/* ours; all zero: the destination address is not looked at */
	__u16 mtu;		/* of the way to the backends; 0: unlimited */
	__u32 icmp_per_second;	/* too-big answers a CPU and second */
	__u8 source4[4];	/* outer source address */
	__u8 source4_hash[4];	/* bits of it taken from the flow hash */
	__u8 source6[16];
	__u8 source6_hash[16];
	__u32 zero;
};

struct flow_key {
	__u8 src[16];
	__u8 dst[16];
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 family;
	__u16 zero;
};

#define FLOW_SYN 1		/* nothing but SYNs seen */
#define FLOW_CLOSED 2		/* the client sent FIN or RST */

struct flow {
	__u16 backend;
	__u16 previous;		/* whom a dead backend's flow belonged to before; 0: nobody */
	__u32 incarnation;	/* of backend */
	__u32 flags;
	__u32 moves;		/* times the flow had to leave a dead backend */
	__u64 created_ns;	/* CLOCK_MONOTONIC */
	__u64 since_ns;		/* with this backend */
	__u64 seen_ns;		/* last SYN (TCP) or datagram (UDP) */
};

struct vip_stats {
	__u64 packets;		/* for the VIP, whatever became of them */
	__u64 bytes;		/* of Ethernet frames as they came */
	__u64 new_flows;	/* first packet of a flow: SYN, or a flow unknown so far */
	__u64 flow_hits;	/* found in the connection table */
	__u64 flow_misses;	/* not found, not a SYN */
	__u64 rehashed;		/* left a dead backend */
	__u64 no_backend;	/* dropped: no backend takes flows */
};

struct backend_stats {
	__u64 packets;
	__u64 bytes;
	__u64 new_flows;
};

/* Each is counted once a packet, in packets. */
enum reason {
	REASON_NOT_IP,			/* passed */
	REASON_VLAN,			/* passed */
	REASON_OTHER_MAC,		/* passed: not addressed to our MAC */
	REASON_NOT_FOR_VIP,		/* passed */
	REASON_VIP_ICMP,		/* passed: ICMP to a VIP that is no error about a flow (echo) */
	REASON_MALFORMED,		/* dropped: lengths contradict each other */
	REASON_FRAGMENT_DROPPED,	/* dropped: fragment for a VIP without fragments = "hash3" */
	REASON_FRAGMENT_HASHED,		/* forwarded by addresses and protocol */
	REASON_NO_BACKEND,		/* dropped */
	REASON_TOO_BIG_ANSWERED,	/* answered with frag-needed or packet-too-big */
	REASON_TOO_BIG_DROPPED,		/* dropped: too big, but must not be answered (ICMP, rate limit) */
	REASON_ICMP_ERROR_FORWARDED,	/* sent to the flow's backend */
	REASON_ENCAP_FAILED,		/* dropped: no headroom */
	REASON_FORWARDED,		/* TCP and UDP sent to a backend */
	REASON_COUNT,
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_VIPS * 4);
	__type(key, struct vip_key);
	__type(value, struct vip);
} vips SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_VIPS * 2);
	__type(key, __u32);
	__type(value, struct ring);
} rings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_VIPS);
	__type(key, __u32);
	__type(value, __u32);
} active_ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_BACKENDS);
	__type(key, __u32);
	__type(value, struct backend);
} backends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_VIPS);
	__type(key, __u32);
	__type(value, struct vip_stats);
} vip_stats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_BACKENDS);
	__type(key, __u32);
	__type(value, struct backend_stats);
} backend_stats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASON_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} reasons SEC(".maps");

/* Token bucket of the too-big answers: start of the current second, answers in it. */
struct budget {
	__u64 second;
	__u64 used;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct budget);
} budgets SEC(".maps");

static __always_inline int count(enum reason why, int action)
{
	__u32 key = why;
	__u64 *n = bpf_map_lookup_elem(&reasons, &key);

	if (n)
		*n += 1;
	return action;
}
