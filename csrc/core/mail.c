/* What one core has to tell the others. Cores share no table, but the network
 * delivers to the queue that a hash picks: answers and claims of neighbors and ICMP errors to any
 * core, and segments of a connection to another core than before, when the hash changes
 * (RSS set up anew, a peer on a veth pair after a timeout, a port we chose to connect from).
 *
 * Answers and errors are small and go to every other core, over a ring for each pair.
 * Segments go round: each core that does not know the connection hands it to the next;
 * back at the first, it is nobody's, and that one answers. So a reset is sent only when no
 * core knows the connection, and there is one ring of frames per core.
 *
 * Those of connections that peers opened go to the core that has the claim on their flow at once (claim.c), and so do
 * those of connections that we opened: each core opens from ports of its own (np/info.h), so that the port names it.
 * Should it not know the connection either (somebody asked for
 * that port on another core), it goes round from there. These rings, one for each pair, take frames of an
 * ordinary link; longer ones go round.
 *
 * Rings have a single producer and a single consumer; a flag per receiver says
 * that there is something, so that nothing but one word is looked at while nothing comes. */
#include <string.h>
#include <unistd.h>

#include "core/internal.h"
#include "wire/hdr.h"

#define MAIL_SLOTS 64u
#define STRAY_SLOTS 64u
#define STRAY_BYTES 66048u /* of an item: the longest frame a port may bring (io/raw: 64 KiB), and what is said of it */
#define DIRECT_SLOTS 32u
#define DIRECT_BYTES 2048u
#define ARP_OP_OFF 6u
#define ARP_REPLY 2u
#define ND_SOLICIT 135u
#define ND_ADVERT 136u
#define ND_ROUTER 134u

static size_t ring_bytes(void) { return np_ring_bytes(MAIL_SLOTS, sizeof(struct np_mail)); }
static size_t direct_bytes(void) { return np_ring_bytes(DIRECT_SLOTS, DIRECT_BYTES); }

static size_t tables_bytes(uint32_t cores) {
  size_t bytes = (size_t)cores * (sizeof(struct np_core *) + 2 * sizeof(struct np_ring *));
  return (bytes + NP_CACHE_LINE - 1) & ~(size_t)(NP_CACHE_LINE - 1);
}

size_t np_mail_bytes(uint32_t cores) {
  size_t stray = cores > 1 ? np_ring_bytes(STRAY_SLOTS, STRAY_BYTES) : 0;
  return tables_bytes(cores) + (size_t)(cores - 1) * (ring_bytes() + direct_bytes()) + stray;
}

void np_mail_init(struct np_core *core, void *mem, uint32_t cores) {
  uint8_t *at = mem;
  core->peer = (struct np_core **)(void *)at;
  core->mail_in = (struct np_ring **)(void *)(at + (size_t)cores * sizeof(struct np_core *));
  core->direct_in = core->mail_in + cores;
  at += tables_bytes(cores);
  for (uint32_t i = 0; i < cores; i++) {
    core->peer[i] = NULL;
    core->mail_in[i] = NULL;
    core->direct_in[i] = NULL;
    if (i == core->index) continue;
    core->direct_in[i] = (struct np_ring *)(void *)at;
    np_ring_init(core->direct_in[i], DIRECT_SLOTS, DIRECT_BYTES);
    at += direct_bytes();
    core->mail_in[i] = (struct np_ring *)(void *)at;
    np_ring_init(core->mail_in[i], MAIL_SLOTS, sizeof(struct np_mail));
    at += ring_bytes();
  }
  if (cores < 2) return;
  core->stray_in = (struct np_ring *)(void *)at;
  np_ring_init(core->stray_in, STRAY_SLOTS, STRAY_BYTES);
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
  if (pkt->l4_proto == NP_PROTO_ARP) {
    if (np_load_be16(p + pkt->l3_off + ARP_OP_OFF) == ARP_REPLY) return true;
    /* A probe, or an announcement: about an address of ours perhaps, which each core holds. */
    uint32_t sender = np_load_32(pkt->flow.remote.b + 12);
    return sender == 0 || sender == np_load_32(pkt->flow.local.b + 12);
  }
  if (pkt->l4_proto != NP_PROTO_ICMPV6) return false;
  uint8_t type = p[pkt->l4_off];
  return type == ND_ADVERT || type == ND_ROUTER || (type == ND_SOLICIT && np_addr_is_zero(&pkt->flow.remote));
}

/* The same protocol as towards Go (core.c): publish, flag, fence, look whether it sleeps. */
void np_mail_tell(struct np_core *to) {
  /* release pairs with the acquire in np_mail_receive */
  __atomic_store_n(&to->mail, 1, __ATOMIC_RELEASE);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (__atomic_load_n(&to->cmd->cons_sleeping, __ATOMIC_RELAXED) == 0 || to->shared.wake_fd < 0) return;
  uint64_t one = 1;
  ssize_t n = write(to->shared.wake_fd, &one, sizeof one);
  (void)n; /* EAGAIN: already far from 0 */
}

static void deliver(struct np_core *core, uint16_t port, const void *data, uint32_t bytes) {
  for (uint32_t i = 0; i < core->peer_count; i++) {
    if (i == core->index) continue;
    struct np_core *to = core->peer[i];
    struct np_ring *ring = to->mail_in[core->index];
    if (np_ring_room(ring, 1) == 0) continue; /* lost, as on a wire: asked or told again */
    struct np_mail *m = np_ring_slot(ring, 0);
    m->port = port;
    m->bytes = (uint16_t)bytes;
    memcpy(m->frame, data, bytes);
    np_ring_publish(ring, 1);
    np_mail_tell(to);
  }
}

void np_mail_send(struct np_core *core, const struct np_pkt *pkt) {
  if (is_answer(pkt)) deliver(core, pkt->buf->iface, np_buf_cdata(pkt->buf), pkt->buf->len);
}

void np_mail_error(struct np_core *core, const struct np_mail_error *e) {
  core->counters->counter[NP_C_HANDED_ON]++;
  deliver(core, NP_MAIL_ERROR, e, sizeof *e);
}

/* A copy of the frame to a core. Return: false when there is no room, or it is too long. */
static bool hand(struct np_core *core, struct np_core *to, struct np_ring *ring, const struct np_buf *b, uint32_t bytes, uint32_t hops) {
  if (np_ring_room(ring, 1) == 0 || bytes > ring->item_bytes - sizeof(struct np_stray)) return false;
  struct np_stray *m = np_ring_slot(ring, 0);
  *m = (struct np_stray){.port = b->iface, .flags = b->flags, .bytes = bytes, .hops = hops};
  uint8_t *at = (uint8_t *)(m + 1);
  for (; b != NULL; b = b->next) { /* bound: the pieces of a packet */
    memcpy(at, np_buf_cdata(b), b->len);
    at += b->len;
  }
  np_ring_publish(ring, 1);
  np_mail_tell(to);
  core->counters->counter[NP_C_HANDED_ON]++;
  return true;
}

enum np_tcp_stray np_mail_stray(struct np_core *core, const struct np_pkt *pkt) {
  if (core->stray_hops == 0) return NP_TCP_STRAY_OURS; /* went round */
  uint32_t bytes = np_buf_chain_len(pkt->buf);
  uint32_t port = (uint32_t)pkt->flow.local_port - NP_PORT_EPHEMERAL_MIN; /* wraps below */
  uint32_t owner = port % core->peer_count;
  uint32_t has = np_claim_look(core, &pkt->flow);
  if (has != NP_CLAIM_NONE) owner = has;
  bool fresh = core->stray_hops == core->peer_count; /* from the network, not from another core */
  if (fresh && (has != NP_CLAIM_NONE || port < NP_PORT_EPHEMERAL_COUNT) && owner != core->index) {
    struct np_core *to = core->peer[owner];
    /* from there on round all the others */
    if (hand(core, to, to->direct_in[core->index], pkt->buf, bytes, core->peer_count - 1)) return NP_TCP_STRAY_TAKEN;
  }
  struct np_core *to = core->peer[(core->index + 1) % core->peer_count];
  /* A flood of segments for nobody must not end what is only elsewhere: no room, no answer. Nor is
   * there one for a frame longer than an item. */
  return hand(core, to, to->stray_in, pkt->buf, bytes, core->stray_hops - 1) ? NP_TCP_STRAY_TAKEN : NP_TCP_STRAY_LOST;
}

enum np_tcp_stray np_mail_give(struct np_core *core, const struct np_pkt *pkt, uint32_t owner) {
  if (core->stray_hops == 0) return NP_TCP_STRAY_LOST; /* it went from one to the other, which have it no more: sent again */
  struct np_core *to = core->peer[owner];
  bool room = hand(core, to, to->direct_in[core->index], pkt->buf, np_buf_chain_len(pkt->buf), core->stray_hops - 1);
  return room ? NP_TCP_STRAY_TAKEN : NP_TCP_STRAY_LOST;
}

void np_mail_observe(struct np_core *core, uint16_t port, const void *frame, uint32_t bytes) {
  struct np_buf *b = np_pool_get_rx(&core->pool);
  if (b == NULL) return;
  if (bytes > np_buf_tailroom(b)) {
    np_buf_put(b);
    return;
  }
  memcpy(np_buf_append(b, bytes), frame, bytes);
  b->iface = port;
  b->flags = NP_BUF_COPY;
  b->rx_ns = core->now_ns;
  struct np_pkt pkt;
  enum np_drop why = np_wire_parse(b, &pkt);
  bool control = why == NP_WIRE_OK && (pkt.l4_proto == NP_PROTO_ARP || pkt.l4_proto == NP_PROTO_ICMPV6);
  if (!control || np_ip_input(core->ip, &pkt, core->now_ns, &why) != NP_IP_DONE) np_buf_put(b);
}

/* Not counted as received: the core it arrived at did that. */
static void take(struct np_core *core, const struct np_mail *m) {
  if (m->port == NP_MAIL_ERROR) {
    struct np_mail_error e;
    memcpy(&e, m->frame, sizeof e);
    (void)np_core_l4_error(core, &e.flow, e.tcp_seq, (enum np_err)e.err, e.soft != 0, e.mtu_bytes);
    return;
  }
  np_mail_observe(core, m->port, m->frame, m->bytes);
}

/* The frame in as many buffers as it needs, NULL when the pool has not as many. */
static struct np_buf *stray_frame(struct np_core *core, const struct np_stray *m) {
  const uint8_t *from = (const uint8_t *)(m + 1);
  struct np_buf *head = NULL;
  struct np_buf **at = &head;
  uint32_t left = m->bytes;
  do { /* bound: STRAY_BYTES */
    struct np_buf *b = np_pool_get_rx(&core->pool);
    if (b == NULL) {
      if (head != NULL) np_buf_put_chain(head);
      return NULL;
    }
    uint32_t n = np_min_u32(left, np_buf_tailroom(b));
    memcpy(np_buf_append(b, n), from, n);
    b->iface = m->port;
    b->flags = m->flags;
    b->rx_ns = core->now_ns;
    from += n;
    left -= n;
    *at = b;
    at = &b->next;
  } while (left > 0);
  return head;
}

/* Counted as received here too, because TCP counts it delivered or dropped. The network layer has
 * passed it on the core it came to; here the interface may not even have a queue. */
static void take_stray(struct np_core *core, const struct np_stray *m) {
  struct np_buf *b = stray_frame(core, m);
  core->counters->counter[NP_C_RX_PKTS]++;
  core->counters->counter[NP_C_RX_BYTES] += m->bytes;
  if (b == NULL) {
    core->counters->drop[NP_DROP_NO_BUFFER]++;
    return;
  }
  b->frame_off = (uint16_t)b->data_off;
  b->frame_len = (uint16_t)b->len;
  struct np_pkt pkt;
  enum np_drop why = np_wire_parse(b, &pkt);
  if (why != NP_WIRE_OK || pkt.l4_proto != NP_PROTO_TCP) { /* it was well formed before */
    np_core_drop_rx(core, b, why == NP_WIRE_OK ? NP_DROP_IP_PROTO : why);
    return;
  }
  core->stray_hops = m->hops;
  np_tcp_input(core->tcp, &pkt, core->now_ns);
}

static uint32_t receive_frames(struct np_core *core, struct np_ring *ring) {
  uint32_t n = np_ring_avail(ring);
  for (uint32_t k = 0; k < n; k++) take_stray(core, np_ring_item(ring, k)); /* bound: the ring */
  if (n > 0) np_ring_consume(ring, n);
  return n;
}

static uint32_t receive_strays(struct np_core *core) {
  uint32_t n = receive_frames(core, core->stray_in);
  for (uint32_t i = 0; i < core->peer_count; i++) {
    if (core->direct_in[i] != NULL) n += receive_frames(core, core->direct_in[i]);
  }
  return n;
}

uint32_t np_mail_receive(struct np_core *core) {
  if (NP_LIKELY(__atomic_load_n(&core->mail, __ATOMIC_RELAXED) == 0)) return 0;
  /* cleared before the rings are read: what comes later sets it again */
  (void)__atomic_exchange_n(&core->mail, 0, __ATOMIC_ACQ_REL);
  uint32_t taken = receive_strays(core);
  if (core->lane_in != NULL) taken += np_steer_receive(core);
  if (taken > 0) __atomic_store_n(&core->mail, 1, __ATOMIC_RELAXED); /* as below */
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
