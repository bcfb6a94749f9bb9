/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Which backend a packet belongs to: connection table first, Maglev ring second. */
#pragma once

#define SYN_RETRANSMIT_NS (3ULL * 1000 * 1000 * 1000)

/* What is known about a backend, read once. */
struct target {
	__u64 link;
	__u32 flags;
	__u32 incarnation;
	__u32 id;
	__u8 addr[16];
};

static __always_inline int read_backend(__u32 id, struct target *t)
{
	struct backend *b = bpf_map_lookup_elem(&backends, &id);
	__u64 state;

	if (!b)
		return 0;
	state = *(volatile __u64 *)&b->state;
	t->link = *(volatile __u64 *)&b->link;
	t->flags = (__u32)state;
	t->incarnation = state >> 32;
	t->id = id;
	__builtin_memcpy(t->addr, b->addr, sizeof(t->addr));
	return t->flags & BACKEND_UP;
}

static __always_inline int ask_ring(const struct vip *vip, __u64 hash, struct target *t)
{
	__u32 key = vip->index;
	__u32 *active = bpf_map_lookup_elem(&active_ring, &key);
	struct ring *ring;
	__u32 slot, id;

	if (!active)
		return 0;
	key = vip->index * 2 + (*active & 1);
	ring = bpf_map_lookup_elem(&rings, &key);
	if (!ring)
		return 0;
	slot = hash % MAGLEV_SLOTS;
	/* The compiler knows the bound; older verifiers want to see it compared. */
	asm volatile("" : "+r"(slot));
	if (slot >= MAGLEV_SLOTS)
		return 0;
	id = ring->slot[slot];
	return id && read_backend(id, t);
}

/* Does the flow stay with the backend that it has? The backend is up. */
static __always_inline int flow_stays(const struct flow *f, const struct packet *p, const struct target *t, __u64 now,
				      __u64 udp_idle)
{
	if (p->key.proto == IPPROTO_TCP) {
		if ((p->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
			return 1;
		if (f->flags & FLOW_CLOSED)
			return 0;	/* the tuple starts a new connection */
		if (t->flags & BACKEND_NEW)
			return 1;
		/* A draining backend gets no new connection, but a handshake under way is not torn apart. */
		return (f->flags & FLOW_SYN) && now - f->seen_ns < SYN_RETRANSMIT_NS;
	}
	return now - f->seen_ns < udp_idle;
}

static __always_inline void note_packet(struct flow *f, const struct packet *p, __u64 now)
{
	if (p->key.proto != IPPROTO_TCP || (p->tcp_flags & TCP_SYN))
		f->seen_ns = now;
	else if (f->flags & FLOW_SYN)
		f->flags &= ~FLOW_SYN;
	if (p->tcp_flags & (TCP_FIN | TCP_RST))
		f->flags |= FLOW_CLOSED;
}

/* Finds the backend of a packet for `vip` and keeps the connection table. 0: nobody takes it. */
static __always_inline int choose(const struct vip *vip, const struct packet *p, const struct settings *set, __u64 hash,
				  struct vip_stats *vs, struct target *t, int *is_new)
{
	int syn = (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	struct flow fresh = {}, *f;
	__u64 now = 0;

	if (!(vip->flags & VIP_FLOW_TABLE)) {
		*is_new = syn;
		return ask_ring(vip, hash, t);
	}
	/* TCP needs the time only where a flow starts. */
	if (syn || p->key.proto != IPPROTO_TCP)
		now = bpf_ktime_get_ns();

	f = bpf_map_lookup_elem(&flows, &p->key);
	if (f) {
		int up = read_backend(f->backend, t) && t->incarnation == f->incarnation;

		if (up && flow_stays(f, p, t, now, set->udp_idle_ns)) {
			note_packet(f, p, now);
			vs->flow_hits++;
			return 1;
		}
		if (!up && !syn) {
			/* Its backend died. Somebody else may know what to do with it (UDP), or will reset it (TCP). */
			fresh.previous = f->backend;
			fresh.moves = f->moves + 1;
			fresh.created_ns = f->created_ns;
			vs->rehashed++;
		}
	} else if (!syn) {
		vs->flow_misses++;
	}

	if (!ask_ring(vip, hash, t))
		return 0;
	if (!now)
		now = bpf_ktime_get_ns();
	fresh.backend = t->id;
	fresh.incarnation = t->incarnation;
	fresh.flags = syn ? FLOW_SYN : 0;
	if (p->tcp_flags & (TCP_FIN | TCP_RST))
		fresh.flags |= FLOW_CLOSED;
	fresh.since_ns = now;
	fresh.seen_ns = now;
	if (!fresh.moves) {
		fresh.created_ns = now;
		*is_new = 1;
	}
	bpf_map_update_elem(&flows, &p->key, &fresh, BPF_ANY);
	return 1;
}

/* The backend of a flow somebody else reports about (ICMP): looks, changes nothing. */
static __always_inline int find(const struct vip *vip, const struct flow_key *key, __u64 hash, struct target *t)
{
	if (vip->flags & VIP_FLOW_TABLE) {
		struct flow *f = bpf_map_lookup_elem(&flows, key);

		if (f && read_backend(f->backend, t) && t->incarnation == f->incarnation)
			return 1;
	}
	return ask_ring(vip, hash, t);
}
