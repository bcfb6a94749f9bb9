/* What the NIC said about a received frame, as a struct directly in front of it. For XDP programs that Millrace runs;
 * include <linux/bpf.h> and <bpf/bpf_helpers.h> first, compile with `clang -O2 -g -target bpf`.
 *
 * The struct is resolved when the program is loaded for a queue (CO-RE): it then has those of the fields that the program
 * names and the queue gives, and no others. Ask millrace_has() before using a field that not every NIC gives. In the
 * kernel, and in frames without headroom, there is no struct: millrace_meta_of() is NULL there. A declaration of your own
 * with fewer fields, or with a name like millrace_rx_meta___mine, does as well. */
#ifndef MILLRACE_META_H
#define MILLRACE_META_H

#include <bpf/bpf_core_read.h>

struct millrace_rx_meta {
	__u64 rx_timestamp; /* nanoseconds of the device's clock */
	__u32 rx_hash;      /* RSS hash */
	__u32 rx_hash_type; /* what it covers: enum xdp_rss_hash_type */
	__u32 packet_type;  /* as the NIC family numbers them */
	__u32 mark;         /* of the flow rule that matched */
	__u32 csum_status;  /* what the NIC found of checksums: MILLRACE_CSUM_... */
	__u32 header_len;   /* where the NIC saw the headers end */
	__u32 extracted;    /* a word taken from the packet */
	__u32 valid;        /* which of the others this very frame has: MILLRACE_VALID_... */
	__u16 vlan_tci;     /* of the tag that was stripped */
	__be16 vlan_proto;  /* its ethertype */
} __attribute__((preserve_access_index));

/* Bits of `valid`. A field that this frame does not have is 0. */
#define MILLRACE_VALID_RX_HASH (1u << 0)
#define MILLRACE_VALID_RX_HASH_TYPE (1u << 1)
#define MILLRACE_VALID_RX_TIMESTAMP (1u << 2)
#define MILLRACE_VALID_VLAN_TCI (1u << 3)
#define MILLRACE_VALID_VLAN_PROTO (1u << 4)
#define MILLRACE_VALID_PACKET_TYPE (1u << 5)
#define MILLRACE_VALID_MARK (1u << 6)
#define MILLRACE_VALID_CSUM_STATUS (1u << 7)
#define MILLRACE_VALID_HEADER_LEN (1u << 8)
#define MILLRACE_VALID_EXTRACTED (1u << 9)

/* Bits of `csum_status`. Where neither of a pair is set, the NIC did not look. */
#define MILLRACE_CSUM_IP_GOOD (1u << 0) /* IPv4 header */
#define MILLRACE_CSUM_IP_BAD (1u << 1)
#define MILLRACE_CSUM_L4_GOOD (1u << 2) /* TCP, UDP, SCTP */
#define MILLRACE_CSUM_L4_BAD (1u << 3)

/* Whether the queues that the program is loaded for give a field: a constant, so that what it guards is dead code where
 * they do not. */
#define millrace_has(meta, field) bpf_core_field_exists((meta)->field)

/* The frame's struct, or NULL. Ask again after bpf_xdp_adjust_head() and bpf_xdp_adjust_meta(). */
static __attribute__((always_inline)) inline struct millrace_rx_meta *millrace_meta_of(struct xdp_md *ctx)
{
	void *meta = (void *)(long)ctx->data_meta;
	void *data = (void *)(long)ctx->data;
	long size = bpf_core_type_size(struct millrace_rx_meta);

	if (!size || meta + size > data)
		return (void *)0;
	return meta;
}

#endif
