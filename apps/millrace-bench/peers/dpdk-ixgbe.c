/* DPDK's ixgbe burst functions on rings built by hand, as a peer of `millrace-bench path`.
 *
 * This program is ours; it is linked with ixgbe_rxtx.c and ixgbe_rxtx_vec_sse.c of Debian's source package of DPDK and with
 * the libraries of its -dev package, none of which is part of this repository: scripts/bench-peers.sh fetches and builds.
 * No port is opened. The queues are filled in as the driver's own set-up functions would, the registers are words of
 * memory, and this program plays the NIC: it writes back received descriptors and reports sent ones, half a ring a turn,
 * between the turns that are timed.
 *
 * One request a line on standard input, one answer a line on standard output:
 *   case VARIANT SCENARIO BURST RING   ok, or: no REASON     VARIANT: sse, bulk. SCENARIO: rx_drop, forward, tx
 *   turn WARM BYTES                    nanoseconds of a turn; before it come WARM turns that are not timed, so that this
 *                                      process is back in caches and TLB, then BYTES of memory are written over
 *   count                              instructions of a turn, by single steps
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <time.h>
#include <ucontext.h>

#include <ethdev_driver.h>
#include <rte_eal.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

#include "base/ixgbe_type.h"
#include "ixgbe_ethdev.h"
#include "ixgbe_rxtx.h"

#define FRAME 60
#define THRESH 32
/* Looked at beyond the end of the ring. */
#define EXTRA RTE_PMD_IXGBE_RX_MAX_BURST

/* The driver counts failed allocations in its port's data; there is no port. */
struct rte_eth_dev rte_eth_devices[RTE_MAX_ETHPORTS];
static struct rte_eth_dev_data no_port;

enum variant { SSE, BULK };
enum scenario { RX_DROP, FORWARD, TX };

struct rig {
	enum variant variant;
	enum scenario scenario;
	unsigned burst, ring, frames;
	struct rte_mempool *pool;
	struct ixgbe_rx_queue *rx;
	struct ixgbe_tx_queue *tx;
	struct ixgbe_tx_entry_v *tx_entries;
	uint32_t rdt, tdt;
	unsigned rx_head, tx_head;
	/* Frames that lie ready to be sent. */
	struct rte_mbuf **ready;
};

/* From libbsd, which the EAL is built against; older C libraries have none. */
#undef strlcpy
__attribute__((weak)) size_t strlcpy(char *to, const char *from, size_t size)
{
	size_t len = strlen(from), n = len < size ? len : size - 1;
	if (size > 0) {
		memcpy(to, from, n);
		to[n] = 0;
	}
	return len;
}

/* From libnuma, which the EAL asks where its huge pages shall lie; it has none here. */
#define NO_NUMA(name) __attribute__((weak)) long name(void) { return -1; }
NO_NUMA(numa_available)
NO_NUMA(numa_allocate_nodemask)
NO_NUMA(numa_bitmask_free)
NO_NUMA(numa_set_localalloc)
NO_NUMA(numa_set_preferred)
NO_NUMA(get_mempolicy)
NO_NUMA(set_mempolicy)

static void *zeroed(size_t bytes)
{
	void *memory = NULL;
	if (posix_memalign(&memory, 4096, bytes) != 0) {
		fprintf(stderr, "no memory\n");
		exit(1);
	}
	memset(memory, 0, bytes);
	return memory;
}

static void fill_rx(struct rig *rig)
{
	struct ixgbe_rx_queue *q = rig->rx;
	for (unsigned i = 0; i < rig->ring; i++) {
		struct rte_mbuf *m = rte_mbuf_raw_alloc(rig->pool);
		m->data_off = RTE_PKTMBUF_HEADROOM;
		m->port = 0;
		q->sw_ring[i].mbuf = m;
		q->rx_ring[i].read.hdr_addr = 0;
		q->rx_ring[i].read.pkt_addr = rte_mbuf_data_iova_default(m);
	}
	for (unsigned i = 0; i < EXTRA; i++)
		q->sw_ring[rig->ring + i].mbuf = &q->fake_mbuf;
	rig->rdt = rig->ring - 1;
	rig->rx_head = 0;
}

static void make_rx(struct rig *rig)
{
	struct ixgbe_rx_queue *q = rig->rx = zeroed(sizeof *q);
	q->mb_pool = rig->pool;
	q->rx_ring = zeroed((rig->ring + EXTRA) * sizeof *q->rx_ring);
	q->sw_ring = zeroed((rig->ring + EXTRA) * sizeof *q->sw_ring);
	q->rdt_reg_addr = &rig->rdt;
	q->nb_rx_desc = rig->ring;
	q->rx_free_thresh = THRESH;
	q->rx_free_trigger = THRESH - 1;
	q->pkt_type_mask = IXGBE_PACKET_TYPE_MASK_82599;
	ixgbe_rxq_vec_setup(q);
	q->rx_using_sse = rig->variant == SSE;
	fill_rx(rig);
}

static void make_tx(struct rig *rig)
{
	struct ixgbe_tx_queue *q = rig->tx = zeroed(sizeof *q);
	q->tx_ring = zeroed(rig->ring * sizeof *q->tx_ring);
	q->tdt_reg_addr = &rig->tdt;
	q->nb_tx_desc = rig->ring;
	q->tx_rs_thresh = THRESH;
	q->tx_free_thresh = THRESH;
	if (rig->variant == SSE) {
		rig->tx_entries = zeroed((rig->ring + 1) * sizeof *rig->tx_entries);
		q->sw_ring_v = rig->tx_entries;
		ixgbe_txq_vec_setup(q);
		q->ops->reset(q);
	} else {
		q->sw_ring = zeroed(rig->ring * sizeof *q->sw_ring);
		for (unsigned i = 0; i < rig->ring; i++) {
			q->tx_ring[i].wb.status = rte_cpu_to_le_32(IXGBE_TXD_STAT_DD);
			q->sw_ring[i].last_id = i;
			q->sw_ring[i].next_id = (i + 1) % rig->ring;
		}
		q->tx_next_dd = q->tx_next_rs = THRESH - 1;
		q->last_desc_cleaned = q->nb_tx_free = rig->ring - 1;
	}
}

/* What the NIC received meanwhile. */
static unsigned nic_receive(struct rig *rig, unsigned want)
{
	unsigned posted = (rig->rdt - rig->rx_head) & (rig->ring - 1), n = want < posted ? want : posted;
	for (unsigned i = 0; i < n; i++) {
		volatile union ixgbe_adv_rx_desc *d = &rig->rx->rx_ring[rig->rx_head];
		d->wb.lower.lo_dword.data = 0;
		d->wb.lower.hi_dword.rss = 0;
		d->wb.upper.length = rte_cpu_to_le_16(FRAME);
		d->wb.upper.vlan = 0;
		rte_smp_wmb();
		d->wb.upper.status_error = rte_cpu_to_le_32(IXGBE_RXDADV_STAT_DD | IXGBE_RXDADV_STAT_EOP);
		rig->rx_head = (rig->rx_head + 1) & (rig->ring - 1);
	}
	return n;
}

/* What the NIC sent meanwhile. */
static unsigned nic_transmit(struct rig *rig)
{
	unsigned n = (rig->tdt - rig->tx_head) & (rig->ring - 1);
	for (unsigned i = 0; i < n; i++) {
		volatile union ixgbe_adv_tx_desc *d = &rig->tx->tx_ring[rig->tx_head];
		if (d->read.cmd_type_len & rte_cpu_to_le_32(IXGBE_ADVTXD_DCMD_RS))
			d->wb.status = rte_cpu_to_le_32(IXGBE_TXD_STAT_DD);
		rig->tx_head = (rig->tx_head + 1) & (rig->ring - 1);
	}
	return n;
}

/* Two loads and two stores, as on our side. */
static inline void swap_addresses(struct rte_mbuf *m)
{
	uint8_t *macs = rte_pktmbuf_mtod(m, uint8_t *);
	uint64_t front, back;
	uint32_t last;
	memcpy(&front, macs, 8);
	memcpy(&back, macs + 4, 8);
	last = front >> 16;
	back = back >> 16 | front << 48;
	memcpy(macs, &back, 8);
	memcpy(macs + 8, &last, 4);
}

static inline uint16_t receive(struct rig *rig, struct rte_mbuf **frames, uint16_t n)
{
	return rig->variant == SSE ? ixgbe_recv_pkts_vec(rig->rx, frames, n)
				   : ixgbe_recv_pkts_bulk_alloc(rig->rx, frames, n);
}

/* The vector function takes at most a threshold's worth at once; the driver's wrapper loops as this does. */
static inline uint16_t transmit(struct rig *rig, struct rte_mbuf **frames, uint16_t n)
{
	uint16_t sent = 0;
	if (rig->variant == BULK)
		return ixgbe_xmit_pkts_simple(rig->tx, frames, n);
	while (sent < n) {
		uint16_t part = RTE_MIN(n - sent, THRESH);
		uint16_t got = ixgbe_xmit_fixed_burst_vec(rig->tx, frames + sent, part);
		sent += got;
		if (got < part)
			break;
	}
	return sent;
}

/* The driver's turn: what is timed and counted. Gives the frames dealt with. */
static __attribute__((noinline)) unsigned drain(struct rig *rig)
{
	struct rte_mbuf *frames[128];
	unsigned done = 0;
	if (rig->scenario == TX) {
		while (done < rig->frames) {
			unsigned want = RTE_MIN(rig->burst, rig->frames - done);
			unsigned n = transmit(rig, rig->ready + done, want);
			done += n;
			if (n < want)
				break;
		}
		return done;
	}
	while (done < rig->frames) {
		uint16_t n = receive(rig, frames, rig->burst);
		if (n == 0)
			break;
		done += n;
		if (rig->scenario == RX_DROP) {
			rte_pktmbuf_free_bulk(frames, n);
			continue;
		}
		for (uint16_t i = 0; i < n; i++)
			swap_addresses(frames[i]);
		uint16_t sent = transmit(rig, frames, n);
		if (unlikely(sent < n)) {
			rte_pktmbuf_free_bulk(frames + sent, n - sent);
			break;
		}
	}
	return done;
}

/* The NIC's turn. Gives the frames that wait for the driver. */
static unsigned supply(struct rig *rig)
{
	nic_transmit(rig);
	if (rig->scenario != TX)
		return nic_receive(rig, rig->frames);
	for (unsigned i = 0; i < rig->frames; i++) {
		struct rte_mbuf *m = rte_pktmbuf_alloc(rig->pool);
		if (m == NULL)
			return i;
		m->data_len = m->pkt_len = FRAME;
		rig->ready[i] = m;
	}
	return rig->frames;
}

static void push_out(size_t bytes)
{
	static volatile uint64_t *memory;
	static size_t have;
	if (bytes > have) {
		memory = zeroed(bytes);
		have = bytes;
	}
	for (size_t i = 0; i < bytes / 8; i += 8)
		memory[i]++;
}

static uint64_t nanos(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static volatile uint64_t steps;
static volatile uintptr_t last_step;

static void stepped(int signal, siginfo_t *info, void *context)
{
	uintptr_t at = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
	(void)signal, (void)info;
	/* A string instruction traps after each repetition and counts once. */
	if (at != last_step)
		steps++;
	last_step = at;
}

#define TRAP_ON() __asm__ volatile("sub $128, %%rsp\n\tpushfq\n\torq $0x100, (%%rsp)\n\tpopfq\n\tadd $128, %%rsp" ::: "memory", "cc")
#define TRAP_OFF() __asm__ volatile("sub $128, %%rsp\n\tpushfq\n\tandq $~0x100, (%%rsp)\n\tpopfq\n\tadd $128, %%rsp" ::: "memory", "cc")

static uint64_t count(struct rig *rig, unsigned *done)
{
	struct sigaction action = {.sa_sigaction = stepped, .sa_flags = SA_SIGINFO};
	sigaction(SIGTRAP, &action, NULL);
	TRAP_ON();
	TRAP_OFF();
	uint64_t marks = steps;
	steps = 0;
	TRAP_ON();
	*done = drain(rig);
	TRAP_OFF();
	uint64_t all = steps - marks;
	steps = 0;
	return all;
}

static const char *build(struct rig *rig, const char *variant, const char *scenario, unsigned burst, unsigned ring)
{
	static unsigned number;
	char name[32];
	memset(rig, 0, sizeof *rig);
	rig->variant = strcmp(variant, "sse") == 0 ? SSE : BULK;
	rig->scenario = strcmp(scenario, "rx_drop") == 0 ? RX_DROP : strcmp(scenario, "tx") == 0 ? TX : FORWARD;
	rig->burst = burst;
	rig->ring = ring;
	rig->frames = ring / 2;
	if (rig->variant == SSE && burst < RTE_IXGBE_DESCS_PER_LOOP && rig->scenario != TX)
		return "the vector path receives nothing under 4 frames a poll";
	if (burst < 1 || burst > 128 || ring < 64 || ring > 4096)
		return "no such burst or ring";
	snprintf(name, sizeof name, "pool%u", number++);
	/* Both rings full, half a ring in hand, and what the pool's cache may keep: more would only cost the peer cache misses. */
	rig->pool = rte_pktmbuf_pool_create(name, 2 * ring + ring / 2 + 512, 256, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
	if (rig->pool == NULL)
		return "no packet buffers";
	rig->ready = zeroed(rig->frames * sizeof *rig->ready);
	make_rx(rig);
	make_tx(rig);
	return NULL;
}

static void destroy(struct rig *rig)
{
	if (rig->pool == NULL)
		return;
	rte_mempool_free(rig->pool);
	free((void *)(uintptr_t)rig->rx->rx_ring);
	free(rig->rx->sw_ring);
	free(rig->rx);
	free((void *)(uintptr_t)rig->tx->tx_ring);
	free(rig->variant == SSE ? (void *)rig->tx_entries : (void *)rig->tx->sw_ring);
	free(rig->tx);
	free(rig->ready);
	memset(rig, 0, sizeof *rig);
}

/* Free pages of 2 MiB. */
static long huge_pages(void)
{
	long pages = 0;
	FILE *file = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "r");
	if (file != NULL) {
		if (fscanf(file, "%ld", &pages) != 1)
			pages = 0;
		fclose(file);
	}
	return pages;
}

int main(int argc, char **argv)
{
	static struct rig rig;
	char line[256], variant[16], scenario[16];
	unsigned burst, ring, warm;
	size_t bytes;
	/* Large pages if the host has set some aside, as ours. */
	char *eal[] = {argv[0], huge_pages() >= 48 ? "--in-memory" : "--no-huge", "--no-pci", "--no-shconf", "--no-telemetry", "-m",
		       "64", "--log-level", "1", NULL};

	(void)argc;
	if (rte_eal_init(9, eal) < 0) {
		printf("no the EAL does not start: %s\n", strerror(rte_errno));
		return 1;
	}
	no_port.rx_mbuf_alloc_failed = 0;
	rte_eth_devices[0].data = &no_port;
	printf("%s\n", rte_version());
	fflush(stdout);
	while (fgets(line, sizeof line, stdin) != NULL) {
		if (sscanf(line, "case %15s %15s %u %u", variant, scenario, &burst, &ring) == 4) {
			destroy(&rig);
			const char *reason = build(&rig, variant, scenario, burst, ring);
			if (reason != NULL)
				destroy(&rig), printf("no %s\n", reason);
			else
				printf("ok\n");
		} else if (rig.pool == NULL) {
			printf("no case first\n");
		} else if (sscanf(line, "turn %u %zu", &warm, &bytes) == 2) {
			for (; warm > 0; warm--) {
				supply(&rig);
				drain(&rig);
			}
			unsigned waiting = supply(&rig);
			push_out(bytes);
			uint64_t start = nanos();
			unsigned done = drain(&rig);
			uint64_t spent = nanos() - start;
			if (done != waiting || waiting != rig.frames)
				printf("no %u of %u frames dealt with\n", done, waiting);
			else
				printf("%" PRIu64 "\n", spent);
		} else if (strncmp(line, "count", 5) == 0) {
			unsigned done, waiting = supply(&rig);
			uint64_t all = count(&rig, &done);
			if (done != waiting || waiting != rig.frames)
				printf("no %u of %u frames dealt with\n", done, waiting);
			else
				printf("%" PRIu64 "\n", all);
		} else {
			printf("no such request\n");
		}
		fflush(stdout);
	}
	rte_eal_cleanup();
	return 0;
}
