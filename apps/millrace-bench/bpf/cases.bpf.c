/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * What `millrace-bench ebpf` runs on every engine and in the kernel. Each case leaves the frame as it found it (or with
 * its addresses swapped), so it can run on one frame for ever. CASE makes two programs: one that runs the body once, and
 * one that runs it a hundred times, so that what entering a program costs hardly counts. ONCE makes the first one only, for
 * bodies whose hundred turns no verifier follows.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define TURNS 100

#define ONCE(name)                                                                                                     \
	SEC("xdp") int name(struct xdp_md *ctx)                                                                        \
	{                                                                                                              \
		return name##_body(ctx);                                                                               \
	}

#define CASE(name)                                                                                                     \
	ONCE(name)                                                                                                     \
	SEC("xdp") int name##_many(struct xdp_md *ctx)                                                                 \
	{                                                                                                              \
		int verdict = XDP_ABORTED;                                                                             \
		_Pragma("clang loop unroll(disable)") for (int i = 0; i < TURNS; i++)                                  \
		{                                                                                                      \
			/* What the last turn knew about the frame does not hold for the next. */                      \
			asm volatile("" : "+r"(ctx) : : "memory");                                                     \
			verdict = name##_body(ctx);                                                                    \
		}                                                                                                      \
		return verdict;                                                                                        \
	}

struct counter {
	__u64 frames;
	__u64 bytes;
};

struct flow {
	__be32 source;
	__be32 dest;
	__be16 sport;
	__be16 dport;
	__u32 proto;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct counter);
} protocols SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct counter);
} per_cpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow);
	__type(value, struct counter);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow);
	__type(value, struct counter);
} recent SEC(".maps");

SEC("xdp") int drop(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_DROP;
}

/* Ethernet and IPv4 source and destination change places. */
static __always_inline int swap_body(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *ip = (void *)(eth + 1);
	__u8 mac[ETH_ALEN];
	__be32 addr;

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	__builtin_memcpy(mac, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, mac, ETH_ALEN);
	addr = ip->saddr;
	ip->saddr = ip->daddr;
	ip->daddr = addr;
	return XDP_TX;
}
CASE(swap)

/* Counts frames and bytes by IP protocol. */
static __always_inline int parse_count_body(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = (void *)(eth + 1);
	struct counter *n;
	__u32 key;

	if ((void *)(ip + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	key = ip->protocol;
	n = bpf_map_lookup_elem(&protocols, &key);
	if (!n)
		return XDP_ABORTED;
	n->frames++;
	n->bytes += end - (void *)eth;
	return XDP_DROP;
}
CASE(parse_count)

static __always_inline int percpu_body(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = (void *)(eth + 1);
	struct counter *n;
	__u32 key;

	if ((void *)(ip + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	key = ip->protocol;
	n = bpf_map_lookup_elem(&per_cpu, &key);
	if (!n)
		return XDP_ABORTED;
	n->frames++;
	n->bytes += end - (void *)eth;
	return XDP_DROP;
}
CASE(percpu)

static __always_inline int by_flow(struct xdp_md *ctx, void *map)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);
	struct flow key = {};
	struct counter *n;

	if ((void *)(udp + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP) || ip->protocol != IPPROTO_UDP)
		return XDP_PASS;
	key.source = ip->saddr;
	key.dest = ip->daddr;
	key.sport = udp->source;
	key.dport = udp->dest;
	key.proto = ip->protocol;
	n = bpf_map_lookup_elem(map, &key);
	if (!n)
		return XDP_ABORTED;
	n->frames++;
	n->bytes += end - (void *)eth;
	return XDP_DROP;
}

static __always_inline int hash_body(struct xdp_md *ctx)
{
	return by_flow(ctx, &flows);
}
CASE(hash)

static __always_inline int lru_body(struct xdp_md *ctx)
{
	return by_flow(ctx, &recent);
}
CASE(lru)

/* FNV-1a over 16 bytes of the frame: arithmetic in a loop. */
static __always_inline int alu_loop_body(struct xdp_md *ctx)
{
	__u8 *data = (void *)(long)ctx->data;
	__u64 hash = 0xcbf29ce484222325;

	if (data + 32 > (__u8 *)(long)ctx->data_end)
		return XDP_PASS;
	_Pragma("clang loop unroll(disable)") for (int i = 0; i < 16; i++)
	{
		hash ^= data[i];
		hash *= 0x100000001b3;
	}
	return hash & 1 ? XDP_DROP : XDP_TX;
}
CASE(alu_loop)

enum xdp_rss_hash_type { XDP_RSS_TYPE_NONE };

extern int bpf_xdp_metadata_rx_hash(const struct xdp_md *ctx, __u32 *hash, enum xdp_rss_hash_type *type) __ksym;
extern int bpf_xdp_metadata_rx_vlan_tag(const struct xdp_md *ctx, __be16 *proto, __u16 *tci) __ksym;

/* What the NIC said about the frame: the hash with its type, and the VLAN tag. */
static __always_inline int hints_body(struct xdp_md *ctx)
{
	enum xdp_rss_hash_type type;
	__u32 hash;
	__be16 proto;
	__u16 tci;

	if (bpf_xdp_metadata_rx_hash(ctx, &hash, &type) || bpf_xdp_metadata_rx_vlan_tag(ctx, &proto, &tci))
		return XDP_ABORTED;
	return hash + tci == 0x12345678 + 100 && type ? XDP_TX : XDP_DROP;
}
CASE(hints)

/* Encapsulates in IPv4 as a tunnel's entry does, and takes it off again. */
static __always_inline int tunnel_body(struct xdp_md *ctx)
{
	struct ethhdr *outer, *inner;
	struct iphdr *ip;
	__u16 *word;
	__u32 sum = 0;

	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(*ip)))
		return XDP_ABORTED;
	outer = (void *)(long)ctx->data;
	inner = (void *)outer + sizeof(*ip);
	ip = (void *)(outer + 1);
	if ((void *)(inner + 1) > (void *)(long)ctx->data_end || (void *)(ip + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	__builtin_memcpy(outer->h_source, inner->h_dest, ETH_ALEN);
	__builtin_memcpy(outer->h_dest, inner->h_source, ETH_ALEN);
	outer->h_proto = bpf_htons(ETH_P_IP);
	ip->version = 4;
	ip->ihl = sizeof(*ip) >> 2;
	ip->frag_off = 0;
	ip->id = 0;
	ip->tos = 0;
	ip->ttl = 8;
	ip->protocol = IPPROTO_IPIP;
	ip->check = 0;
	ip->tot_len = bpf_htons((__u16)(ctx->data_end - ctx->data - sizeof(*outer)));
	ip->saddr = bpf_htonl(0x0a010203);
	ip->daddr = bpf_htonl(0x0a040506);
	word = (__u16 *)ip;
	_Pragma("clang loop unroll(full)") for (int i = 0; i < (int)sizeof(*ip) / 2; i++)
		sum += *word++;
	ip->check = ~((sum & 0xffff) + (sum >> 16));

	if (bpf_xdp_adjust_head(ctx, sizeof(*ip)))
		return XDP_ABORTED;
	outer = (void *)(long)ctx->data;
	if ((void *)(outer + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	outer->h_proto = bpf_htons(ETH_P_IP);
	__builtin_memset(outer->h_dest, 2, ETH_ALEN);
	__builtin_memset(outer->h_source, 4, ETH_ALEN);
	return XDP_TX;
}
ONCE(tunnel)

/*
 * A load balancer of Katran's shape: the service by address, port and protocol; the flow's backend from an LRU table, or
 * by hashing into a consistent ring when the service says so or the table does not know the flow; the backend; the
 * router's MAC address; per-CPU counters; IPv4 in IPv4. What was put in front is taken off again at the end.
 */
#define RING_SIZE 65537
#define F_RING_ONLY 1

struct service_key {
	__be32 addr;
	__be16 port;
	__u8 proto;
	__u8 pad;
};

struct service {
	__u32 flags;
	__u32 number;
};

struct place {
	__u32 backend;
	__u32 pad;
	__u64 seen;
};

struct backend {
	__be32 addr;
	__u32 flags;
};

struct router {
	__u8 mac[ETH_ALEN];
	__u8 pad[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 512);
	__type(key, struct service_key);
	__type(value, struct service);
} services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow);
	__type(value, struct place);
} places SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RING_SIZE);
	__type(key, __u32);
	__type(value, __u32);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct backend);
} backends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, struct router);
} routers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 512);
	__type(key, __u32);
	__type(value, struct counter);
} served SEC(".maps");

#define ROTATED(x, by) (((x) << (by)) | ((x) >> (32 - (by))))

/* The final mixing of Bob Jenkins' lookup3, public domain. */
static __always_inline __u32 mixed(__u32 a, __u32 b, __u32 c)
{
	c ^= b;
	c -= ROTATED(b, 14);
	a ^= c;
	a -= ROTATED(c, 11);
	b ^= a;
	b -= ROTATED(a, 25);
	c ^= b;
	c -= ROTATED(b, 16);
	a ^= c;
	a -= ROTATED(c, 4);
	b ^= a;
	b -= ROTATED(a, 14);
	c ^= b;
	c -= ROTATED(b, 24);
	return c;
}

static __always_inline __u32 on_ring(const struct flow *flow, __u32 service)
{
	__u32 ports = (__u32)flow->sport << 16 | flow->dport;
	__u32 hash = mixed(flow->source, ports, 0xdeadbeef + service);
	__u32 key = hash % RING_SIZE;
	__u32 *backend = bpf_map_lookup_elem(&ring, &key);

	return backend ? *backend : 0;
}

static __always_inline int encapsulate(struct xdp_md *ctx, const struct router *router, __be32 from, __be32 to, __u16 len)
{
	struct ethhdr *outer, *inner;
	struct iphdr *ip;
	__u16 *word;
	__u32 sum = 0;

	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(*ip)))
		return -1;
	outer = (void *)(long)ctx->data;
	inner = (void *)outer + sizeof(*ip);
	ip = (void *)(outer + 1);
	if ((void *)(inner + 1) > (void *)(long)ctx->data_end || (void *)(ip + 1) > (void *)(long)ctx->data_end)
		return -1;
	__builtin_memcpy(outer->h_source, inner->h_dest, ETH_ALEN);
	__builtin_memcpy(outer->h_dest, router->mac, ETH_ALEN);
	outer->h_proto = bpf_htons(ETH_P_IP);
	ip->version = 4;
	ip->ihl = sizeof(*ip) >> 2;
	ip->tos = 0;
	ip->tot_len = bpf_htons(len + (__u16)sizeof(*ip));
	ip->id = 0;
	ip->frag_off = 0;
	ip->ttl = 64;
	ip->protocol = IPPROTO_IPIP;
	ip->check = 0;
	ip->saddr = from;
	ip->daddr = to;
	word = (__u16 *)ip;
	_Pragma("clang loop unroll(full)") for (int i = 0; i < (int)sizeof(*ip) / 2; i++)
		sum += *word++;
	sum = (sum & 0xffff) + (sum >> 16);
	ip->check = ~((sum & 0xffff) + (sum >> 16));
	return 0;
}

static __always_inline int restore(struct xdp_md *ctx)
{
	struct ethhdr *eth;

	if (bpf_xdp_adjust_head(ctx, sizeof(struct iphdr)))
		return -1;
	eth = (void *)(long)ctx->data;
	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return -1;
	__builtin_memset(eth->h_dest, 2, ETH_ALEN);
	__builtin_memset(eth->h_source, 4, ETH_ALEN);
	eth->h_proto = bpf_htons(ETH_P_IP);
	return 0;
}

static __always_inline int balance(struct xdp_md *ctx, __be32 service_addr)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);
	struct service_key key = {};
	struct flow flow = {};
	struct service *service;
	struct backend *backend;
	struct router *router;
	struct counter *count;
	struct place *place;
	__u32 number, zero = 0;
	__u16 len;

	if ((void *)(udp + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	if (ip->ihl != 5 || ip->frag_off & bpf_htons(0x3fff) || ip->protocol != IPPROTO_UDP)
		return XDP_DROP;
	len = bpf_ntohs(ip->tot_len);
	key.addr = service_addr ? service_addr : ip->daddr;
	key.port = udp->dest;
	key.proto = ip->protocol;
	service = bpf_map_lookup_elem(&services, &key);
	if (!service)
		return XDP_PASS;
	flow.source = ip->saddr;
	flow.dest = ip->daddr;
	flow.sport = udp->source;
	flow.dport = udp->dest;
	flow.proto = ip->protocol;
	if (service->flags & F_RING_ONLY) {
		number = on_ring(&flow, service->number);
	} else {
		place = bpf_map_lookup_elem(&places, &flow);
		if (place) {
			number = place->backend;
		} else {
			struct place here = {};

			number = on_ring(&flow, service->number);
			here.backend = number;
			bpf_map_update_elem(&places, &flow, &here, BPF_ANY);
		}
	}
	backend = bpf_map_lookup_elem(&backends, &number);
	if (!backend)
		return XDP_DROP;
	router = bpf_map_lookup_elem(&routers, &zero);
	if (!router)
		return XDP_DROP;
	number = service->number;
	count = bpf_map_lookup_elem(&served, &number);
	if (!count)
		return XDP_DROP;
	count->frames++;
	count->bytes += len;
	if (encapsulate(ctx, router, bpf_htonl(0xac100000) ^ flow.source ^ flow.sport << 16, backend->addr, len))
		return XDP_ABORTED;
	return restore(ctx) ? XDP_ABORTED : XDP_TX;
}

static __always_inline int lb_katran_body(struct xdp_md *ctx)
{
	return balance(ctx, 0);
}
ONCE(lb_katran)

/* The same by the ring alone: another service. */
static __always_inline int lb_ring_body(struct xdp_md *ctx)
{
	return balance(ctx, bpf_htonl(0x0a090065));
}
ONCE(lb_ring)

char _license[] SEC("license") = "GPL";
