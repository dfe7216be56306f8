/* Datagrams out of fragments: RFC 791, RFC 815 (where each byte may lie in one
 * fragment only, so that no list of holes is needed), RFC 8200 §4.5.
 *
 * Anybody can send fragments, so all that they may hold is bounded: datagrams in all and by source,
 * fragments of each, buffers of all together, time. Who comes when there is no more room pushes
 * out the oldest: the fragments of an honest datagram follow each other closely, so a flood has to
 * be quick to push them out, where refusing would let it close the door for half a minute.
 *
 * Fragments that overlap are an attack (RFC 5722): the datagram dies and takes nothing more
 * until its time is up. IPv4 is held to the same rule. Exact copies are dropped and change nothing. */
#include "ip/internal.h"

#define REASS_DEFAULT 256u
#define REASS_MIN 16u
#define REASS_MAX 4096u
#define SOURCE_DEFAULT 16u
#define PACKET_MAX 65535u
#define POOL_PARTS 8u  /* nothing is kept while less than an eighth of the pool is free */
#define ECN_MASK 3u
#define ECN_CE 3u

/* What a buffer's private line holds while it waits. */
struct piece {
  uint32_t off;      /* of its payload in the datagram */
};
_Static_assert(sizeof(struct piece) <= sizeof(((struct np_buf *)0)->priv), "fits a buffer's private line");

/* One fragment's place. */
struct place {
  uint32_t id;
  uint32_t off;
  uint32_t len;
  uint32_t head; /* bytes of IP header that the whole datagram has before its data */
  uint8_t proto; /* of what is fragmented */
  bool more;
  bool v4;
};

static struct piece *piece_of(struct np_buf *b) { return (struct piece *)(void *)b->priv; }
static uint32_t end_of(struct np_buf *b) { return piece_of(b)->off + b->len; }

static uint32_t entry_count(const struct np_ip_config *c) {
  uint32_t n = c->reass_max == 0 ? REASS_DEFAULT : c->reass_max;
  return np_min_u32(np_max_u32(n, REASS_MIN), REASS_MAX);
}

static uint32_t bucket_count(uint32_t entries) {
  uint32_t n = REASS_MIN;
  while (n < entries) n *= 2; /* bound: REASS_MAX */
  return n;
}

static size_t line_up(size_t bytes) { return (bytes + NP_CACHE_LINE - 1) & ~(size_t)(NP_CACHE_LINE - 1); }

size_t np_reass_bytes(const struct np_ip_config *config) {
  uint32_t n = entry_count(config);
  return line_up(n * sizeof(struct np_reass)) + line_up(bucket_count(n) * sizeof(uint32_t));
}

static uint32_t index_of(const struct np_ip *ip, const struct np_reass *e) { return (uint32_t)(e - ip->reass.entry); }

static uint32_t *bucket_of(struct np_ip *ip, const struct np_addr *src) {
  uint64_t h = np_hash_addr(src, &ip->hash_key);
  return &ip->reass.bucket[(uint32_t)(h ^ h >> 32) & ip->reass.mask];
}

static void count_held(struct np_ip *ip, uint32_t held) {
  ip->reass.held = held;
  *np_ip_counter(ip, NP_C_IP_FRAGS_HELD) = held;
}

/* Gives back what e holds, each fragment counted under why. */
static void drop_pieces(struct np_ip *ip, struct np_reass *e, enum np_drop why) {
  struct np_buf *b = e->head;
  while (b != NULL) { /* bound: NP_REASS_FRAGS_MAX */
    struct np_buf *next = b->next;
    b->next = NULL;
    ip->env.counters->drop[why]++;
    if (ip->env.rx_drop != NULL) ip->env.rx_drop(ip->env.ctx, b, why);
    np_buf_put(b);
    b = next;
  }
  count_held(ip, ip->reass.held - e->frags);
  e->head = e->tail = NULL;
  e->frags = 0;
  e->bytes = 0;
  e->first = false;
}

static void unlink_entry(struct np_ip *ip, struct np_reass *e) {
  struct np_reass_table *t = &ip->reass;
  uint32_t i = index_of(ip, e);
  uint32_t *at = bucket_of(ip, &e->src);
  while (*at != i) at = &t->entry[*at].hash_next; /* bound: it is there */
  *at = e->hash_next;
  *(e->prev == NP_REASS_NONE ? &t->oldest : &t->entry[e->prev].next) = e->next;
  *(e->next == NP_REASS_NONE ? &t->newest : &t->entry[e->next].prev) = e->prev;
}

static void release(struct np_ip *ip, struct np_reass *e) {
  np_timer_cancel(ip->env.wheel, &e->timer);
  unlink_entry(ip, e);
  e->used = false;
  e->next = ip->reass.free;
  ip->reass.free = index_of(ip, e);
}

static void give_up(struct np_ip *ip, struct np_reass *e, enum np_drop why) {
  drop_pieces(ip, e, why);
  release(ip, e);
}

/* The first fragment as it came, for an answer about it. */
static struct np_pkt first_packet(struct np_reass *e) {
  struct np_pkt pkt = e->pkt;
  np_buf_push(pkt.buf, pkt.l4_off);
  return pkt;
}

/* RFC 792, RFC 8200 §4.5: the sender hears of it when the first fragment came. */
static void on_timer(void *ctx, struct np_timer *timer, uint64_t now_ns) {
  struct np_ip *ip = ctx;
  struct np_reass *e = NP_CONTAINER_OF(timer, struct np_reass, timer);
  if (e->first) {
    struct np_pkt about = first_packet(e);
    uint8_t type = np_addr_is_v4(&e->src) ? NP_ICMP_TIME_EXCEEDED : NP_ICMP6_TIME_EXCEEDED;
    np_ip_send_error(ip, &about, type, NP_ICMP_TIME_REASSEMBLY, now_ns);
  }
  give_up(ip, e, NP_DROP_IP_FRAG_TIMEOUT);
}

void np_reass_init(struct np_ip *ip, void *mem) {
  struct np_reass_table *t = &ip->reass;
  struct np_ip_config *c = &ip->config;
  c->reass_max = (uint16_t)entry_count(c);
  if (c->reass_source_max == 0) c->reass_source_max = SOURCE_DEFAULT;
  t->held_max = c->reass_bufs_max != 0 ? c->reass_bufs_max : ip->env.pool->count / POOL_PARTS;
  t->held_max = np_max_u32(t->held_max, NP_REASS_FRAGS_MAX);
  t->entry = mem;
  t->bucket = (uint32_t *)(void *)((uint8_t *)mem + line_up(c->reass_max * sizeof(struct np_reass)));
  t->mask = bucket_count(c->reass_max) - 1;
  for (uint32_t i = 0; i <= t->mask; i++) t->bucket[i] = NP_REASS_NONE;
  t->oldest = t->newest = t->free = NP_REASS_NONE;
  for (uint32_t i = c->reass_max; i-- > 0;) {
    t->entry[i].next = t->free;
    t->free = i;
  }
  np_wheel_handle(ip->env.wheel, NP_TIMER_REASS, on_timer, ip);
}

void np_reass_forget_iface(struct np_ip *ip, uint16_t iface) {
  uint32_t i = ip->reass.oldest;
  while (i != NP_REASS_NONE) { /* bound: reass_max */
    struct np_reass *e = &ip->reass.entry[i];
    i = e->next;
    if (e->iface == iface) give_up(ip, e, NP_DROP_IP_FRAG_TIMEOUT);
  }
}

static struct place read_place(const struct np_pkt *pkt) {
  const uint8_t *data = np_buf_cdata(pkt->buf);
  struct place at = {.len = pkt->l4_len, .v4 = np_addr_is_v4(&pkt->flow.local)};
  if (at.v4) {
    const uint8_t *h = data + pkt->l3_off;
    uint32_t frag = np_load_be16(h + NP_IP4_FRAG);
    at.id = np_load_be16(h + 4);
    at.off = (frag & NP_IP4_OFFSET_MASK) * 8;
    at.more = (frag & NP_IP4_MF) != 0;
    at.proto = h[NP_IP4_PROTO];
    at.head = (uint32_t)pkt->l4_off - pkt->l3_off;
  } else {
    const uint8_t *h = data + pkt->l4_off - NP_IP6_FRAGMENT_BYTES;
    uint32_t frag = np_load_be16(h + 2);
    at.id = np_load_be32(h + 4);
    at.off = frag & ~7u;
    at.more = (frag & 1) != 0;
    at.proto = h[0];
    at.head = (uint32_t)pkt->l4_off - NP_IP6_FRAGMENT_BYTES - pkt->l3_off - NP_IP6_BYTES; /* the payload length counts these */
  }
  return at;
}

/* RFC 8200 §4.5 asks for these answers. Not when what is fragmented may itself be an error message. */
static void complain6(struct np_ip *ip, const struct np_pkt *pkt, const struct place *at, uint8_t code, uint32_t pointer, uint64_t now_ns) {
  if (at->v4 || at->proto == NP_PROTO_ICMPV6) return;
  np_icmp_send_error(ip, pkt, NP_ICMP6_PARAM, code, pointer, now_ns);
}

/* Bytes that the first fragment must have of a transport header (RFC 1858, RFC 7112). */
static uint32_t header_bytes(const uint8_t *l4, uint32_t len, uint32_t proto) {
  if (proto == NP_PROTO_UDP || proto == NP_PROTO_ICMP || proto == NP_PROTO_ICMPV6) return NP_UDP_BYTES;
  if (proto != NP_PROTO_TCP) return 0;
  if (len < NP_TCP_BYTES) return NP_TCP_BYTES;
  return np_max_u32(NP_TCP_BYTES, (uint32_t)(l4[NP_TCP_DOFF] >> 4) * 4);
}

/* The whole header chain is in the first fragment, and nothing else lies where it would be. */
static enum np_drop check_headers(struct np_ip *ip, const struct np_pkt *pkt, const struct place *at, uint64_t now_ns) {
  if (at->off != 0) return at->v4 && at->off == 8 && at->proto == NP_PROTO_TCP ? NP_DROP_IP_FRAG_TINY : NP_WIRE_OK;
  const uint8_t *data = np_buf_cdata(pkt->buf);
  uint32_t off = pkt->l4_off;
  uint32_t end = np_min_u32((uint32_t)pkt->l4_off + at->len, pkt->buf->len);
  uint32_t next = at->proto;
  enum np_drop why = NP_WIRE_OK;
  if (!at->v4) {
    uint32_t fragments = 1;
    why = np_wire_walk_ip6(data, end, &next, &off, &fragments);
    if (why == NP_DROP_IP_OPTIONS) return why;
  }
  if (why == NP_WIRE_OK && end - off >= header_bytes(data + off, end - off, next)) return NP_WIRE_OK;
  complain6(ip, pkt, at, NP_ICMP6_PARAM_CHAIN, 0, now_ns);
  return NP_DROP_IP_FRAG_TINY;
}

static enum np_drop check_fragment(struct np_ip *ip, const struct np_pkt *pkt, const struct place *at, uint64_t now_ns) {
  if (at->len == 0) return NP_DROP_IP_FRAG_BAD;
  if (at->more && (at->len & 7) != 0) {
    complain6(ip, pkt, at, NP_ICMP6_PARAM_FIELD, NP_IP6_LEN, now_ns);
    return NP_DROP_IP_FRAG_BAD;
  }
  if (at->off + at->len + at->head > PACKET_MAX) {
    complain6(ip, pkt, at, NP_ICMP6_PARAM_FIELD, (uint32_t)pkt->l4_off - NP_IP6_FRAGMENT_BYTES - pkt->l3_off + 2, now_ns);
    return NP_DROP_IP_FRAG_BAD;
  }
  return check_headers(ip, pkt, at, now_ns);
}

static bool is_entry(const struct np_reass *e, const struct np_pkt *pkt, const struct place *at, uint16_t iface) {
  return e->id == at->id && e->iface == iface && e->proto == (at->v4 ? at->proto : 0) &&
         np_addr_eq(&e->src, &pkt->flow.remote) && np_addr_eq(&e->dst, &pkt->flow.local);
}

static struct np_reass *new_entry(struct np_ip *ip, const struct np_pkt *pkt, const struct place *at, uint16_t iface, uint64_t now_ns) {
  struct np_reass_table *t = &ip->reass;
  if (t->free == NP_REASS_NONE) give_up(ip, &t->entry[t->oldest], NP_DROP_IP_FRAG_LIMIT);
  uint32_t i = t->free;
  struct np_reass *e = &t->entry[i];
  t->free = e->next;
  *e = (struct np_reass){
      .src = pkt->flow.remote,
      .dst = pkt->flow.local,
      .id = at->id,
      .iface = iface,
      .proto = at->v4 ? at->proto : 0,
      .used = true,
      .prev = t->newest,
      .next = NP_REASS_NONE,
  };
  uint32_t *bucket = bucket_of(ip, &e->src);
  e->hash_next = *bucket;
  *bucket = i;
  *(t->newest == NP_REASS_NONE ? &t->oldest : &t->entry[t->newest].next) = i;
  t->newest = i;
  np_timer_set(ip->env.wheel, &e->timer, NP_TIMER_REASS, now_ns + (at->v4 ? NP_REASS_NS_V4 : NP_REASS_NS_V6));
  return e;
}

/* The entry that pkt belongs to, made when there is none. */
static struct np_reass *find(struct np_ip *ip, const struct np_pkt *pkt, const struct place *at, uint16_t iface, uint64_t now_ns) {
  struct np_reass_table *t = &ip->reass;
  uint32_t from_source = 0;
  struct np_reass *oldest = NULL;
  for (uint32_t i = *bucket_of(ip, &pkt->flow.remote); i != NP_REASS_NONE; i = t->entry[i].hash_next) { /* bound: reass_max */
    struct np_reass *e = &t->entry[i];
    if (is_entry(e, pkt, at, iface)) return e;
    if (!np_addr_eq(&e->src, &pkt->flow.remote)) continue;
    from_source++;
    oldest = e; /* new ones go to the bucket's front */
  }
  if (from_source >= ip->config.reass_source_max) give_up(ip, oldest, NP_DROP_IP_FRAG_LIMIT);
  return new_entry(ip, pkt, at, iface, now_ns);
}

static bool same_bytes(const struct np_buf *held, const struct np_pkt *pkt) {
  return memcmp(np_buf_cdata(held), np_buf_cdata(pkt->buf) + pkt->l4_off, held->len) == 0;
}

/* Where at goes: *after is the piece before it, NULL for the front. Return: NP_WIRE_OK, or that it is
 * a copy or overlaps. */
static enum np_drop find_gap(struct np_reass *e, const struct np_pkt *pkt, const struct place *at, struct np_buf **after) {
  *after = NULL;
  if (e->tail != NULL && at->off >= end_of(e->tail)) { /* in order, as most come */
    *after = e->tail;
    return NP_WIRE_OK;
  }
  for (struct np_buf *b = e->head; b != NULL; b = b->next) { /* bound: NP_REASS_FRAGS_MAX */
    if (end_of(b) <= at->off) {
      *after = b;
      continue;
    }
    if (piece_of(b)->off >= at->off + at->len) return NP_WIRE_OK;
    bool copy = piece_of(b)->off == at->off && b->len == at->len && same_bytes(b, pkt);
    return copy ? NP_DROP_IP_FRAG_DUP : NP_DROP_IP_FRAG_OVERLAP;
  }
  return NP_WIRE_OK;
}

/* The last fragment says where the data ends: always the same, and nothing is beyond. */
static bool contradicts(const struct np_reass *e, const struct place *at) {
  uint32_t end = at->off + at->len;
  if (at->more) return e->end != 0 && end >= e->end;
  return (e->end != 0 && e->end != end) || (e->tail != NULL && end_of(e->tail) > end);
}

/* Room for one more buffer, others' taken if need be. e itself is spared. */
static bool make_room(struct np_ip *ip, const struct np_reass *e) {
  struct np_reass_table *t = &ip->reass;
  const struct np_pool *pool = ip->env.pool;
  if (pool->free_count < pool->count / POOL_PARTS || np_pool_avail(pool) == 0) return false;
  for (uint32_t i = t->oldest; t->held >= t->held_max && i != NP_REASS_NONE;) { /* bound: reass_max */
    struct np_reass *old = &t->entry[i];
    i = old->next;
    if (old != e && old->frags != 0) give_up(ip, old, NP_DROP_IP_FRAG_LIMIT);
  }
  return t->held < t->held_max;
}

static void insert(struct np_ip *ip, struct np_reass *e, const struct np_pkt *pkt, const struct place *at, struct np_buf *after) {
  struct np_buf *b = pkt->buf;
  if (at->off == 0) {
    e->first = true;
    e->pkt = *pkt;
    /* An answer about it looks at the upper layer. */
    if (e->pkt.l4_proto == NP_PROTO_FRAGMENT) e->pkt.l4_proto = at->proto;
  }
  np_buf_pull(b, pkt->l4_off);
  piece_of(b)->off = at->off;
  struct np_buf **link = after == NULL ? &e->head : &after->next;
  b->next = *link;
  *link = b;
  if (b->next == NULL) e->tail = b;
  e->frags++;
  e->bytes += at->len;
  if (!at->more) e->end = at->off + at->len;
  count_held(ip, ip->reass.held + 1);
}

/* RFC 3168 §5.3. Return: the codepoint of the whole, or ECN_MASK + 1: it must not be used. */
static uint32_t merge_ecn(const struct np_reass *e) {
  bool ce = (e->ecn & 1u << ECN_CE) != 0;
  bool none = (e->ecn & 1u) != 0;
  if (ce) return none ? ECN_MASK + 1 : ECN_CE;
  return none ? 0 : e->pkt.tos & ECN_MASK;
}

/* The header of the whole: as if it had never been in fragments. */
static void whole_header(struct np_buf *b, const struct np_pkt *first, uint32_t bytes, uint32_t ecn) {
  uint8_t *data = np_buf_data(b);
  if (np_addr_is_v4(&first->flow.local)) {
    uint8_t *h = data + first->l3_off;
    h[NP_IP4_TOS] = (uint8_t)((h[NP_IP4_TOS] & ~ECN_MASK) | ecn);
    uint32_t header = (uint32_t)first->l4_off - first->l3_off; /* the first fragment's options are the whole's */
    np_store_be16(h + NP_IP4_LEN, (uint16_t)(header + bytes));
    np_store_be16(h + NP_IP4_FRAG, 0);
    np_store_16(h + NP_IP4_CKSUM, 0);
    np_store_16(h + NP_IP4_CKSUM, np_cksum_finish(np_cksum_add(0, h, header)));
    return;
  }
  uint32_t frag = (uint32_t)first->l4_off - NP_IP6_FRAGMENT_BYTES;
  uint32_t at = first->l3_off + NP_IP6_NEXT;
  for (uint32_t off = first->l3_off + NP_IP6_BYTES; off < frag;) { /* bound: parsing followed NP_IP6_EXT_MAX at most */
    at = off;
    off += ((uint32_t)data[off + 1] + 1) * 8;
  }
  data[at] = data[frag];
  uint8_t *h = data + first->l3_off;
  h[1] = (uint8_t)((h[1] & ~(ECN_MASK << 4)) | ecn << 4);
  np_store_be16(h + NP_IP6_LEN, (uint16_t)(frag - first->l3_off - NP_IP6_BYTES + bytes));
  memmove(data + NP_IP6_FRAGMENT_BYTES, data, frag);
  np_buf_pull(b, NP_IP6_FRAGMENT_BYTES);
}

/* All is there: *pkt becomes the whole. The pieces but the last one counted as delivered. */
static enum np_ip_verdict whole(struct np_ip *ip, struct np_reass *e, struct np_pkt *pkt, enum np_drop *why) {
  struct np_pkt first = first_packet(e);
  struct np_buf *b = first.buf;
  uint32_t bytes = e->bytes;
  uint32_t ecn = merge_ecn(e);
  np_assert(b == e->head && piece_of(b)->off == 0);
  *np_ip_counter(ip, NP_C_DELIVERED_PKTS) += e->frags - 1u;
  ++*np_ip_counter(ip, NP_C_IP_REASSEMBLED);
  count_held(ip, ip->reass.held - e->frags);
  e->head = e->tail = NULL;
  release(ip, e);
  pkt->buf = b;
  bool v4 = np_addr_is_v4(&first.flow.local);
  uint32_t extra = v4 ? (uint32_t)first.l4_off - first.l3_off
                      : (uint32_t)first.l4_off - NP_IP6_FRAGMENT_BYTES - first.l3_off - NP_IP6_BYTES;
  if (extra + bytes > PACKET_MAX) { /* the first one has more headers than the one that was checked */
    *why = NP_DROP_IP_FRAG_BAD;
    return NP_IP_DROP;
  }
  whole_header(b, &first, bytes, ecn);
  b->flags &= (uint16_t)~NP_BUF_L4_CSUM_OK; /* was about a fragment, if about anything */
  b->frame_off = (uint16_t)b->data_off;
  b->frame_len = (uint16_t)b->len;
  b = np_buf_linear(b);
  *why = np_wire_parse(b, pkt);
  if (*why == NP_WIRE_OK && pkt->l4_proto == NP_PROTO_FRAGMENT) *why = NP_DROP_IP_FRAG_BAD;
  pkt->fragmented = 1;
  return *why == NP_WIRE_OK ? NP_IP_DONE : NP_IP_DROP;
}

/* e contradicts itself or is too much: its fragments go, and so will those still to come. */
static enum np_ip_verdict kill(struct np_ip *ip, struct np_reass *e, enum np_drop why, enum np_drop *out) {
  drop_pieces(ip, e, why);
  e->dead = true;
  e->why = (uint8_t)why;
  *out = why;
  return NP_IP_DROP;
}

enum np_ip_verdict np_reass_input(struct np_ip *ip, const struct np_iface *ifc, struct np_pkt *pkt, uint64_t now_ns, enum np_drop *why) {
  struct place at = read_place(pkt);
  pkt->buf = np_buf_linear(pkt->buf); /* a fragment of several pieces comes on jumbo ports only, and stays so if it must */
  *why = check_fragment(ip, pkt, &at, now_ns);
  if (*why == NP_WIRE_OK && pkt->buf->next != NULL) *why = NP_DROP_IP_FRAG_LIMIT;
  if (*why != NP_WIRE_OK) return NP_IP_DROP;
  struct np_reass *e = find(ip, pkt, &at, ifc->index, now_ns);
  struct np_buf *after;
  if (e->dead) {
    *why = (enum np_drop)e->why;
    return NP_IP_DROP;
  }
  *why = find_gap(e, pkt, &at, &after);
  if (*why == NP_DROP_IP_FRAG_DUP) return NP_IP_DROP;
  if (*why != NP_WIRE_OK || contradicts(e, &at)) return kill(ip, e, NP_DROP_IP_FRAG_OVERLAP, why);
  if (e->frags == NP_REASS_FRAGS_MAX) return kill(ip, e, NP_DROP_IP_FRAG_LIMIT, why);
  if (!make_room(ip, e)) {
    if (e->frags == 0) release(ip, e);
    *why = NP_DROP_NO_BUFFER;
    return NP_IP_DROP;
  }
  e->ecn |= (uint8_t)(1u << (pkt->tos & ECN_MASK));
  insert(ip, e, pkt, &at, after);
  if (e->end == 0 || e->bytes != e->end) return NP_IP_HELD;
  if (merge_ecn(e) > ECN_MASK) {
    give_up(ip, e, NP_DROP_IP_FRAG_ECN);
    return NP_IP_HELD; /* with the others it was counted */
  }
  return whole(ip, e, pkt, why);
}
