/* What one core has to tell the others: answers of neighbors. Cores share no
 * table, each asks for the neighbors it needs, but the network delivers the answer to
 * the queue that the sender's hash picks, which may be another core's.
 *
 * One ring per pair of cores, single producer and single consumer; a flag per
 * receiver, so that nothing but one word is looked at while nothing comes. */
#include <string.h>
#include <unistd.h>

#include "core/internal.h"
#include "wire/hdr.h"

#define MAIL_SLOTS 64u
#define ARP_OP_OFF 6u
#define ARP_REPLY 2u
#define ND_ADVERT 136u

static size_t ring_bytes(void) { return np_ring_bytes(MAIL_SLOTS, sizeof(struct np_mail)); }

static size_t tables_bytes(uint32_t cores) {
  size_t bytes = (size_t)cores * (sizeof(struct np_core *) + sizeof(struct np_ring *));
  return (bytes + NP_CACHE_LINE - 1) & ~(size_t)(NP_CACHE_LINE - 1);
}

size_t np_mail_bytes(uint32_t cores) { return tables_bytes(cores) + (size_t)(cores - 1) * ring_bytes(); }

void np_mail_init(struct np_core *core, void *mem, uint32_t cores) {
  uint8_t *at = mem;
  core->peer = (struct np_core **)(void *)at;
  core->mail_in = (struct np_ring **)(void *)(at + (size_t)cores * sizeof(struct np_core *));
  at += tables_bytes(cores);
  for (uint32_t i = 0; i < cores; i++) {
    core->peer[i] = NULL;
    core->mail_in[i] = NULL;
    if (i == core->index) continue;
    core->mail_in[i] = (struct np_ring *)(void *)at;
    np_ring_init(core->mail_in[i], MAIL_SLOTS, sizeof(struct np_mail));
    at += ring_bytes();
  }
}

void np_mail_join(struct np_core *const *cores, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    memcpy(cores[i]->peer, cores, count * sizeof *cores);
    cores[i]->peer_count = count;
  }
}

static bool is_answer(const struct np_pkt *pkt) {
  const uint8_t *p = np_buf_cdata(pkt->buf);
  if (pkt->buf->len > sizeof((struct np_mail *)NULL)->frame) return false;
  if (pkt->l4_proto == NP_PROTO_ARP) return np_load_be16(p + pkt->l3_off + ARP_OP_OFF) == ARP_REPLY;
  return pkt->l4_proto == NP_PROTO_ICMPV6 && p[pkt->l4_off] == ND_ADVERT;
}

/* The same protocol as towards Go (core.c): publish, flag, fence, look whether it sleeps. */
static void deliver(struct np_core *core, struct np_core *to, const struct np_pkt *pkt) {
  struct np_ring *ring = to->mail_in[core->index];
  if (np_ring_room(ring, 1) == 0) return; /* lost, as on a wire: the neighbor is asked again */
  struct np_mail *m = np_ring_slot(ring, 0);
  m->port = pkt->buf->iface;
  m->bytes = (uint16_t)pkt->buf->len;
  memcpy(m->frame, np_buf_cdata(pkt->buf), pkt->buf->len);
  np_ring_publish(ring, 1);
  /* release pairs with the acquire in np_mail_receive */
  __atomic_store_n(&to->mail, 1, __ATOMIC_RELEASE);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (__atomic_load_n(&to->cmd->cons_sleeping, __ATOMIC_RELAXED) == 0 || to->shared.wake_fd < 0) return;
  uint64_t one = 1;
  ssize_t n = write(to->shared.wake_fd, &one, sizeof one);
  (void)n; /* EAGAIN: already far from 0 */
}

void np_mail_send(struct np_core *core, const struct np_pkt *pkt) {
  if (!is_answer(pkt)) return;
  for (uint32_t i = 0; i < core->peer_count; i++) {
    if (i != core->index) deliver(core, core->peer[i], pkt);
  }
}

/* Not counted as received: the core it arrived at did that. */
static void take(struct np_core *core, const struct np_mail *m) {
  struct np_buf *b = np_pool_get(&core->pool);
  if (b == NULL) return;
  memcpy(np_buf_append(b, m->bytes), m->frame, m->bytes);
  b->iface = m->port;
  b->rx_ns = core->now_ns;
  struct np_pkt pkt;
  enum np_drop why = np_wire_parse(b, &pkt);
  if (why != NP_WIRE_OK || np_ip_input(core->ip, &pkt, core->now_ns, &why) != NP_IP_DONE) np_buf_put(b);
}

uint32_t np_mail_receive(struct np_core *core) {
  if (NP_LIKELY(__atomic_load_n(&core->mail, __ATOMIC_RELAXED) == 0)) return 0;
  /* cleared before the rings are read: what comes later sets it again */
  (void)__atomic_exchange_n(&core->mail, 0, __ATOMIC_ACQ_REL);
  uint32_t taken = 0;
  for (uint32_t i = 0; i < core->peer_count; i++) {
    struct np_ring *ring = core->mail_in[i];
    if (ring == NULL) continue;
    uint32_t n = np_ring_avail(ring);
    if (n == 0) continue;
    for (uint32_t k = 0; k < n; k++) take(core, np_ring_item(ring, k));
    np_ring_consume(ring, n);
    /* avail may have answered from its cache: what came behind it is for the next turn */
    __atomic_store_n(&core->mail, 1, __ATOMIC_RELAXED);
    taken += n;
  }
  return taken;
}

bool np_mail_waits(struct np_core *core) { return __atomic_load_n(&core->mail, __ATOMIC_ACQUIRE) != 0; }
