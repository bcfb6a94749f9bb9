/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The balancer's data plane. A frame for a VIP leaves by XDP_TX towards a backend or is dropped for a counted reason;
 * everything else is XDP_PASS and belongs to the host. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "maps.h"
#include "parse.h"
#include "choose.h"
#include "forward.h"
#include "toobig.h"

static __always_inline struct vip *vip_of(const struct packet *p, const __u8 *addr, __be16 port, __u8 proto)
{
	struct vip_key key = { .port = port, .proto = proto, .family = p->key.family };

	__builtin_memcpy(key.addr, addr, 16);
	return bpf_map_lookup_elem(&vips, &key);
}

static __always_inline int send(struct xdp_md *ctx, const struct packet *p, const struct target *t,
				const struct settings *set, __u64 hash, enum reason why)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	__u32 more = overhead(t), id = t->id, bytes = ctx->data_end - ctx->data;
	struct backend_stats *bs;
	__u8 ours[ETH_ALEN];
	int action;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return count(REASON_MALFORMED, XDP_DROP);
	if (more && set->mtu && p->l3_len + more > set->mtu)
		return too_big(ctx, p, set, set->mtu - more);

	__builtin_memcpy(ours, eth->h_dest, ETH_ALEN);
	action = more ? encapsulate(ctx, p, t, set, hash, ours) : rewrite_mac(ctx, t, ours);
	if (action != XDP_TX)
		return action;
	bs = bpf_map_lookup_elem(&backend_stats, &id);
	if (bs) {
		bs->packets++;
		bs->bytes += bytes;
	}
	return count(why, XDP_TX);
}

static __always_inline int balance(struct xdp_md *ctx, struct packet *p, void *l3, void *end, const struct settings *set)
{
	struct target t = {};
	struct vip_stats *vs;
	int is_new = 0, found;
	struct vip *vip;
	__u32 index, id;
	__u64 hash;

	if (parse_ports(p, l3, end, 1))
		return count(REASON_MALFORMED, XDP_DROP);
	vip = vip_of(p, p->key.dst, p->key.dport, p->key.proto);
	if (!vip)
		return count(REASON_NOT_FOR_VIP, XDP_PASS);
	if (p->fragment && !(vip->flags & VIP_FRAGMENTS_HASH3))
		return count(REASON_FRAGMENT_DROPPED, XDP_DROP);
	if (!p->fragment && (vip->flags & VIP_ADDRESS_ONLY))
		return count(REASON_NOT_FOR_VIP, XDP_PASS);	/* port 0 is no service */

	index = vip->index;
	vs = bpf_map_lookup_elem(&vip_stats, &index);
	if (!vs)
		return count(REASON_NO_BACKEND, XDP_DROP);
	vs->packets++;
	vs->bytes += ctx->data_end - ctx->data;

	hash = flow_hash(&p->key, set->hash_seed);
	found = choose(vip, p, set, hash, vs, &t, &is_new);
	if (!found) {
		vs->no_backend++;
		return count(REASON_NO_BACKEND, XDP_DROP);
	}
	if (is_new) {
		struct backend_stats *bs;

		vs->new_flows++;
		id = t.id;
		bs = bpf_map_lookup_elem(&backend_stats, &id);
		if (bs)
			bs->new_flows++;
	}
	return send(ctx, p, &t, set, hash, p->fragment ? REASON_FRAGMENT_HASHED : REASON_FORWARDED);
}

/* Errors that carry the datagram they are about: RFC 792, RFC 4443. */
static __always_inline int is_error(__u8 family, __u8 type)
{
	if (family == FAMILY_V4)
		return type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER_PROBLEM;
	return type >= ICMPV6_DEST_UNREACH && type <= ICMPV6_PARAMETER_PROBLEM;
}

/* An error about a backend's answer comes to the VIP; the quoted datagram is that answer, so its flow is the reverse. */
static __always_inline int icmp(struct xdp_md *ctx, struct packet *p, void *l3, void *end, const struct settings *set)
{
	struct packet inner = {};
	struct flow_key key = {};
	struct target t = {};
	struct vip *vip;
	__u8 *head = l3 + p->l4_off;
	void *quoted = head + ICMP_HEADER;
	__u64 hash;
	int err;

	vip = vip_of(p, p->key.dst, 0, p->key.proto);
	if (!vip)
		return count(REASON_NOT_FOR_VIP, XDP_PASS);
	if (p->fragment)
		return count(REASON_VIP_ICMP, XDP_PASS);
	if (quoted > end)
		return count(REASON_MALFORMED, XDP_DROP);
	if (!is_error(p->key.family, head[0]))
		return count(REASON_VIP_ICMP, XDP_PASS);

	err = p->key.family == FAMILY_V4 ? parse_v4(&inner, quoted, end) : parse_v6(&inner, quoted, end);
	if (err || (inner.key.proto != IPPROTO_TCP && inner.key.proto != IPPROTO_UDP) ||
	    parse_ports(&inner, quoted, end, 0))
		return count(REASON_VIP_ICMP, XDP_PASS);
	if (__builtin_memcmp(inner.key.src, p->key.dst, 16))
		return count(REASON_VIP_ICMP, XDP_PASS);

	__builtin_memcpy(key.src, inner.key.dst, 16);
	__builtin_memcpy(key.dst, inner.key.src, 16);
	key.sport = inner.key.dport;
	key.dport = inner.key.sport;
	key.proto = inner.key.proto;
	key.family = inner.key.family;
	/* A quoted fragment has no ports that mean anything; its flow is the one of hash3, if any. */
	vip = vip_of(&inner, inner.key.src, inner.key.sport, inner.key.proto);
	if (!vip || (inner.fragment && !(vip->flags & VIP_FRAGMENTS_HASH3)))
		return count(REASON_VIP_ICMP, XDP_PASS);
	hash = flow_hash(&key, set->hash_seed);
	if (!find(vip, &key, hash, &t))
		return count(REASON_NO_BACKEND, XDP_DROP);
	return send(ctx, p, &t, set, hash, REASON_ICMP_ERROR_FORWARDED);
}

static __always_inline int is_ours(const struct ethhdr *eth, const struct settings *set)
{
	__u64 ours = 0, theirs = 0;

	__builtin_memcpy(&ours, set->mac, ETH_ALEN);
	__builtin_memcpy(&theirs, eth->h_dest, ETH_ALEN);
	return !ours || ours == theirs;
}

SEC("xdp")
int l4lb(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	void *l3 = eth + 1;
	struct packet p = {};
	struct settings *set;
	__u32 zero = 0;
	int err;

	if (l3 > end)
		return count(REASON_MALFORMED, XDP_DROP);
	set = bpf_map_lookup_elem(&settings, &zero);
	if (!set)
		return XDP_PASS;
	switch (eth->h_proto) {
	case bpf_htons(ETH_P_IP):
	case bpf_htons(ETH_P_IPV6):
		break;
	case bpf_htons(ETH_P_8021Q):
	case bpf_htons(ETH_P_8021AD):
		return count(REASON_VLAN, XDP_PASS);
	default:
		return count(REASON_NOT_IP, XDP_PASS);
	}
	if (!is_ours(eth, set))
		return count(REASON_OTHER_MAC, XDP_PASS);

	err = eth->h_proto == bpf_htons(ETH_P_IP) ? parse_v4(&p, l3, end) : parse_v6(&p, l3, end);
	/* The datagram may be shorter than the frame (padding), never longer. */
	if (err || p.l3_len > end - l3)
		return count(REASON_MALFORMED, XDP_DROP);

	switch (p.key.proto) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		return balance(ctx, &p, l3, end, set);
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return icmp(ctx, &p, l3, end, set);
	default:
		return count(REASON_NOT_FOR_VIP, XDP_PASS);
	}
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
