/* Frames between the cores of a plane where a device has fewer queues than there are cores, or steers badly.
 *
 * Receiving: the core that has the queue gives each TCP segment, SYNs included, to the core that a keyed hash of its
 * flow names, and those of connections that we opened to the core that their port names (np/info.h). All cores hash
 * alike, so a flow has one core whatever queue its segments come to. Sending: a core without a queue of its own has a
 * lane to one that has: a port whose frames that core sends by its queue.
 *
 * Both go over one ring for each ordered pair of cores, in copies: a buffer never leaves the pool of its core. A frame
 * takes as many slots as it needs, published together. A full ring is a drop with a reason; the other side counts
 * what it has no buffers for. */
#include <string.h>

#include "core/lane.h"
#include "wire/hdr.h"

#define SLOTS_MAX 2048u /* of a ring: a megabyte; of many cores fewer, so that all of a core's are 16 MiB at most */
#define SLOTS_MIN 512u
#define SLOT_BYTES 512u
#define FRAMES_PER_TURN NP_BURST /* from each core */

enum { KIND_RECEIVED = 1, KIND_TO_SEND = 2 };

/* Begins a frame's first slot; its bytes follow, through the slots behind it. */
struct head {
  uint32_t bytes;
  uint16_t iface;
  uint16_t flags; /* np_buf.flags, of a received frame */
  uint16_t kind;
  uint16_t pad[3];
};
_Static_assert(sizeof(struct head) == 16, "a head is 16 bytes");

static uint32_t slots_of(uint32_t bytes) { return (bytes + (uint32_t)sizeof(struct head) + SLOT_BYTES - 1) / SLOT_BYTES; }

static uint32_t slot_count(uint32_t cores) {
  if (cores <= 8) return SLOTS_MAX;
  return cores <= 16 ? SLOTS_MAX / 2 : SLOTS_MIN;
}

static size_t table_bytes(uint32_t cores) {
  size_t bytes = (size_t)cores * sizeof(struct np_ring *);
  return (bytes + NP_CACHE_LINE - 1) & ~(size_t)(NP_CACHE_LINE - 1);
}

size_t np_steer_bytes(const struct np_plane_config *c) {
  if (c->cores < 2 || c->steering == NP_STEERING_DEVICE) return 0;
  return table_bytes(c->cores) + (size_t)(c->cores - 1) * np_ring_bytes(slot_count(c->cores), SLOT_BYTES);
}

void np_steer_init(struct np_core *core, void *mem, const struct np_plane_config *c) {
  if (np_steer_bytes(c) == 0) return;
  uint8_t *at = mem;
  core->lane_in = (struct np_ring **)(void *)at;
  at += table_bytes(c->cores);
  for (uint32_t i = 0; i < c->cores; i++) {
    core->lane_in[i] = NULL;
    if (i == core->index) continue;
    core->lane_in[i] = (struct np_ring *)(void *)at;
    np_ring_init(core->lane_in[i], slot_count(c->cores), SLOT_BYTES);
    at += np_ring_bytes(slot_count(c->cores), SLOT_BYTES);
  }
}

/* ---- frames in slots ---- */

/* Copies a frame into the ring to another core. Return: false when it has no room for it. */
static bool put_frame(struct np_core *core, struct np_core *to, const struct np_buf *b, uint16_t kind) {
  struct np_ring *ring = to->lane_in[core->index];
  uint32_t bytes = np_buf_chain_len(b);
  uint32_t slots = slots_of(bytes);
  if (NP_UNLIKELY(slots > ring->count || np_ring_room(ring, slots) < slots)) return false;
  uint8_t *at = np_ring_slot(ring, 0);
  struct head h = {.bytes = bytes, .iface = b->iface, .flags = b->flags, .kind = kind};
  memcpy(at, &h, sizeof h);
  uint32_t slot = 0;
  uint32_t used = sizeof h;
  for (; b != NULL; b = b->next) { /* bound: the pieces of a packet */
    for (uint32_t off = 0; off < b->len;) { /* bound: the slots counted above */
      if (used == SLOT_BYTES) {
        at = np_ring_slot(ring, ++slot);
        used = 0;
      }
      uint32_t n = np_min_u32(b->len - off, SLOT_BYTES - used);
      memcpy(at + used, np_buf_cdata(b) + off, n);
      used += n;
      off += n;
    }
  }
  np_ring_publish(ring, slots);
  core->lane_told |= UINT64_C(1) << to->index;
  return true;
}

/* The frame that begins in a slot, in as many buffers as it needs; NULL when the pool has not as many. */
static struct np_buf *take_frame(struct np_core *core, struct np_ring *ring, uint32_t slot, const struct head *h) {
  struct np_buf *head = NULL;
  struct np_buf **link = &head;
  const uint8_t *at = np_ring_item(ring, slot);
  uint32_t used = sizeof *h;
  uint32_t left = h->bytes;
  do { /* bound: h->bytes */
    struct np_buf *b = np_pool_get_rx(&core->pool);
    if (b == NULL) {
      if (head != NULL) np_buf_put_chain(head);
      return NULL;
    }
    for (uint32_t room = np_buf_tailroom(b); room > 0 && left > 0;) { /* bound: a buffer */
      if (used == SLOT_BYTES) {
        at = np_ring_item(ring, ++slot);
        used = 0;
      }
      uint32_t n = np_min_u32(np_min_u32(left, room), SLOT_BYTES - used);
      memcpy(np_buf_append(b, n), at + used, n);
      used += n;
      left -= n;
      room -= n;
    }
    b->iface = h->iface;
    b->flags = h->kind == KIND_RECEIVED ? h->flags : 0;
    b->rx_ns = core->now_ns;
    b->frame_off = 0;
    b->frame_len = 0;
    *link = b;
    link = &b->next;
  } while (left > 0);
  head->frame_off = (uint16_t)head->data_off;
  head->frame_len = (uint16_t)head->len;
  return head;
}

/* Once a burst or flush, not once a frame: a fence and a flag for each core that got something. */
static void tell(struct np_core *core) {
  for (uint64_t m = core->lane_told; m != 0; m &= m - 1) { /* bound: cores */
    np_mail_tell(core->peer[__builtin_ctzll(m)]);
  }
  core->lane_told = 0;
}

/* ---- received frames ---- */

static uint32_t core_of(const struct np_core *core, const struct np_flow *flow) {
  uint32_t port = (uint32_t)flow->local_port - NP_PORT_EPHEMERAL_MIN; /* wraps below */
  if (port < NP_PORT_EPHEMERAL_COUNT && !np_tcp_listens(core->tcp, flow)) return port % core->peer_count;
  /* The tables use the low bits and the upper half: spread once more, so that none of both is the same in all that a core gets. */
  uint32_t h = np_tcp_flow_hash(core->tcp, flow) * UINT32_C(0x9e3779b1);
  return (uint32_t)((uint64_t)h * core->peer_count >> 32);
}

uint32_t np_steer_burst(struct np_core *core, uint32_t n) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < n; i++) { /* bound: a burst */
    struct np_pkt *pkt = &core->pkt[i];
    uint32_t owner = core_of(core, &pkt->flow);
    if (owner == core->index) {
      if (kept != i) core->pkt[kept] = *pkt;
      kept++;
      continue;
    }
    if (NP_UNLIKELY(!put_frame(core, core->peer[owner], pkt->buf, KIND_RECEIVED))) {
      np_core_drop_rx(core, pkt->buf, NP_DROP_STEER_FULL);
      continue;
    }
    core->counters->counter[NP_C_STEERED]++;
    core->counters->counter[NP_C_DELIVERED_PKTS]++;
    np_buf_put_chain(pkt->buf);
  }
  if (core->lane_told != 0) tell(core);
  return kept;
}

/* A frame of another core's into core->pkt[n]. Counted as received here too, because TCP counts it delivered or
 * dropped. The network layer passed it where it came in. Return: whether it stays. */
static bool take_received(struct np_core *core, struct np_buf *b, const struct head *h, uint32_t n) {
  core->counters->counter[NP_C_RX_PKTS]++;
  core->counters->counter[NP_C_RX_BYTES] += h->bytes;
  if (NP_UNLIKELY(b == NULL)) {
    core->counters->drop[NP_DROP_NO_BUFFER]++;
    return false;
  }
  enum np_drop why = np_wire_parse(b, &core->pkt[n]);
  if (NP_LIKELY(why == NP_WIRE_OK && core->pkt[n].l4_proto == NP_PROTO_TCP)) return true;
  /* it was well formed before */
  np_core_drop_rx(core, b, why == NP_WIRE_OK ? NP_DROP_IP_PROTO : why);
  return false;
}

static bool is_lane(const struct np_port_queue *q);

/* A frame that a lane brought, out by our own queue; captures have it from the core that made it. */
static void send_for(struct np_core *core, struct np_buf *b, const struct head *h) {
  const struct np_port_queue *q = h->iface < NP_IFACE_MAX ? core->link[h->iface].tx : NULL;
  if (NP_UNLIKELY(b == NULL)) {
    core->counters->drop[NP_DROP_TX_NO_BUFFER]++;
    return;
  }
  if (NP_UNLIKELY(q == NULL || is_lane(q))) {
    core->counters->drop[NP_DROP_TX_PORT_DOWN]++;
    np_buf_put_chain(b);
    return;
  }
  struct np_capture *capture = core->capture;
  core->capture = NULL;
  core->counters->counter[NP_C_LANE_TX]++;
  np_core_xmit(core, h->iface, b);
  core->capture = capture;
}

static uint32_t take_ring(struct np_core *core, struct np_ring *ring) {
  uint32_t slots = np_ring_avail(ring); /* whole frames: they are published as such */
  uint32_t used = 0;
  uint32_t frames = 0;
  uint32_t n = 0;
  for (; used < slots && frames < FRAMES_PER_TURN; frames++) { /* bound: FRAMES_PER_TURN */
    struct head h;
    memcpy(&h, np_ring_item(ring, used), sizeof h);
    struct np_buf *b = take_frame(core, ring, used, &h);
    used += slots_of(h.bytes);
    if (h.kind == KIND_TO_SEND) {
      send_for(core, b, &h);
    } else if (take_received(core, b, &h, n)) {
      n++;
    }
  }
  np_assert(used <= slots);
  if (used > 0) np_ring_consume(ring, used);
  if (n == 0) return frames;
  core->stray_hops = core->peer_count; /* its connection may be another's from before: once round */
  n = np_tcp_gro(core->tcp, core->pkt, n);
  np_tcp_burst(core->tcp, core->pkt, n, core->now_ns);
  return frames;
}

uint32_t np_steer_receive(struct np_core *core) {
  uint32_t taken = 0;
  for (uint32_t i = 0; i < core->peer_count; i++) {
    if (core->lane_in[i] != NULL) taken += take_ring(core, core->lane_in[i]);
  }
  return taken;
}

void np_steer_attach(struct np_core *core, uint16_t iface) {
  if (core->lane_in != NULL && core->peer_count > 1) core->steer |= 1u << iface;
}

void np_steer_port(struct np_core *core, uint16_t iface, bool up) {
  uint32_t bit = 1u << iface;
  uint32_t now = core->ports_up; /* only this thread writes it */
  now = up ? now | bit : now & ~bit;
  /* relaxed: a word of its own; lanes read it in lane_flush */
  __atomic_store_n(&core->ports_up, now, __ATOMIC_RELAXED);
}

/* ---- the lane: a port of a core without a queue ---- */

static uint32_t lane_rx(struct np_port_queue *q, struct np_buf **out, uint32_t max) {
  (void)q;
  (void)out;
  (void)max;
  return 0; /* what comes for this core comes by np_steer_receive */
}

static uint32_t lane_tx(struct np_port_queue *q, struct np_buf **bufs, uint32_t n) {
  struct np_lane *l = NP_CONTAINER_OF(q, struct np_lane, q);
  uint32_t sent = 0;
  if (NP_UNLIKELY(q->down)) return 0;
  for (; sent < n; sent++) {
    struct np_buf *b = bufs[sent];
    if (!put_frame(l->from, l->to, b, KIND_TO_SEND)) break;
    np_buf_put_chain(b);
  }
  return sent;
}

static void lane_flush(struct np_port_queue *q) {
  struct np_lane *l = NP_CONTAINER_OF(q, struct np_lane, q);
  q->down = (__atomic_load_n(&l->to->ports_up, __ATOMIC_RELAXED) & 1u << q->iface) == 0;
  if (l->from->lane_told != 0) tell(l->from);
}

static int lane_fd(struct np_port_queue *q) {
  (void)q;
  return -1; /* wake_fd tells */
}

static bool lane_busy(struct np_port_queue *q) {
  (void)q;
  return false;
}

static void lane_statistics(struct np_port_queue *q, struct np_queue_stats *out) {
  (void)q;
  *out = (struct np_queue_stats){0}; /* the queue that sends counts */
}

static void lane_nothing(struct np_port_queue *q) { (void)q; }

static const struct np_port_ops lane_ops = {.name = "lane",
                                            .rx = lane_rx,
                                            .tx = lane_tx,
                                            .flush = lane_flush,
                                            .fd = lane_fd,
                                            .busy = lane_busy,
                                            .statistics = lane_statistics,
                                            .shut = lane_nothing,
                                            .reclaim = lane_nothing,
                                            .free = np_lane_free};

static bool is_lane(const struct np_port_queue *q) { return q->ops == &lane_ops; }

void np_lane_init(struct np_lane *lane, struct np_core *from, struct np_core *to, const struct np_port_queue *like) {
  *lane = (struct np_lane){.q = {.ops = &lane_ops,
                                 .caps = like->caps & NP_PORT_SG,
                                 .queue = like->queue,
                                 .mtu_bytes = like->mtu_bytes,
                                 .mac = like->mac},
                           .from = from,
                           .to = to};
}
