/* Packet capture: a core copies what matches into a byte ring of its own; a
 * reader on any other thread drains it. Single producer, single consumer.
 *
 * A record never wraps: where it does not fit before the end of the ring, the
 * rest is skipped by a filler that only says its size. The BPF program is
 * compiled on the control thread and only run on the core. */
#include <errno.h>
#include <pcap/pcap.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/internal.h"

#define FILLER 0x80000000u /* in np_capture_rec.bytes: nothing here, go on behind it */
#define SNAP_MAX 65535u

_Static_assert(sizeof(struct np_capture_rec) == 24, "records stay aligned to 8");
_Static_assert(NP_DROP_COUNT < 256, "a drop reason fits in its field");

struct np_capture {
  /* producer's line */
  _Alignas(NP_CACHE_LINE) uint64_t head; /* bytes written; atomic, release pairs with the reader's acquire */
  uint64_t cached_tail;
  uint64_t lost;     /* atomic, relaxed */
  /* reader's line */
  _Alignas(NP_CACHE_LINE) uint64_t tail; /* bytes read; atomic, release pairs with the producer's acquire */
  /* read-only while a core uses it */
  _Alignas(NP_CACHE_LINE) uint8_t *mem;
  uint64_t ring_bytes;
  uint32_t snap_bytes;
  uint32_t dirs;
  int32_t iface;
  uint16_t listener_port;
  bool has_program;
  uint32_t busy;     /* atomic: a core uses it */
  uint64_t conn;
  struct np_flow flow; /* of conn, looked up when a core starts */
  struct bpf_program program;
};

/* ---- matching ---- */

struct tuple {
  struct np_addr src;
  struct np_addr dst;
  uint16_t src_port;
  uint16_t dst_port;
};

/* Addresses and ports of a frame as it stands: checksums do not matter here, and
 * a packet too mangled to have ports has none. Return: false then. */
static bool read_tuple(const uint8_t *p, uint32_t bytes, struct tuple *t) {
  uint32_t at = 14;
  if (bytes < at) return false;
  uint32_t type = np_load_be16(p + 12);
  for (uint32_t tags = 0; (type == 0x8100 || type == 0x88a8) && tags < 2; tags++, at += 4) {
    if (bytes < at + 4) return false;
    type = np_load_be16(p + at + 2);
  }
  uint32_t proto;
  if (type == 0x0800) {
    if (bytes < at + 20) return false;
    uint32_t header = (p[at] & 0x0fu) * 4u;
    if (header < 20 || (np_load_be16(p + at + 6) & 0x1fffu) != 0) return false; /* a later fragment has no ports */
    t->src = np_addr_from_v4_be(p + at + 12);
    t->dst = np_addr_from_v4_be(p + at + 16);
    proto = p[at + 9];
    at += header;
  } else if (type == 0x86dd) {
    if (bytes < at + 40) return false;
    t->src = np_addr_from_v6(p + at + 8);
    t->dst = np_addr_from_v6(p + at + 24);
    proto = p[at + 6];
    at += 40;
  } else {
    return false;
  }
  if ((proto != NP_PROTO_TCP && proto != NP_PROTO_UDP) || bytes < at + 4) return false;
  t->src_port = np_load_be16(p + at);
  t->dst_port = np_load_be16(p + at + 2);
  return true;
}

static bool is_flow(const struct np_flow *f, const struct np_addr *local, uint16_t local_port,
                    const struct np_addr *remote, uint16_t remote_port) {
  return f->local_port == local_port && f->remote_port == remote_port && np_addr_eq(&f->local, local) &&
         np_addr_eq(&f->remote, remote);
}

static bool matches(const struct np_capture *c, enum np_capture_dir dir, uint16_t iface, const uint8_t *data,
                    uint32_t bytes, uint32_t wire_bytes) {
  if ((c->dirs & (uint32_t)dir) == 0) return false;
  if (c->iface >= 0 && c->iface != iface) return false;
  if (c->conn != 0 || c->listener_port != 0) {
    /* A drop may be a received frame or one of ours: either end may be the local one. */
    struct tuple t;
    if (!read_tuple(data, bytes, &t)) return false;
    if (c->listener_port != 0 && t.src_port != c->listener_port && t.dst_port != c->listener_port) return false;
    if (c->conn != 0 && !is_flow(&c->flow, &t.dst, t.dst_port, &t.src, t.src_port) &&
        !is_flow(&c->flow, &t.src, t.src_port, &t.dst, t.dst_port)) {
      return false;
    }
  }
  return !c->has_program || bpf_filter(c->program.bf_insns, data, wire_bytes, bytes) != 0;
}

/* ---- the core's side ---- */

enum np_err np_capture_start(struct np_capture *c, struct np_core *core) {
  if (c->conn != 0) {
    const struct np_stream *stream = np_tcp_stream(core->tcp, c->conn);
    if (stream == NULL) return NP_ERR_STALE;
    struct np_conn_info info;
    memset(&info, 0, sizeof info);
    stream->ops->info(stream, &info);
    c->flow = (struct np_flow){
        .local = np_addr_from_v6(info.local),
        .remote = np_addr_from_v6(info.remote),
        .local_port = info.local_port,
        .remote_port = info.remote_port,
    };
  }
  uint32_t idle = 0;
  if (!__atomic_compare_exchange_n(&c->busy, &idle, 1, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) return NP_ERR_BUSY;
  return NP_ERR_OK;
}

void np_capture_stop(struct np_capture *c) { __atomic_store_n(&c->busy, 0, __ATOMIC_RELEASE); }

/* Contiguous room for bytes, a filler written where the ring's end is too near; NULL when full. */
static struct np_capture_rec *reserve(struct np_capture *c, uint64_t bytes, uint64_t *out_head) {
  uint64_t at = c->head & (c->ring_bytes - 1);
  uint64_t to_end = c->ring_bytes - at;
  uint64_t need = bytes <= to_end ? bytes : to_end + bytes;
  if (c->ring_bytes - (c->head - c->cached_tail) < need) {
    c->cached_tail = __atomic_load_n(&c->tail, __ATOMIC_ACQUIRE);
    if (c->ring_bytes - (c->head - c->cached_tail) < need) return NULL;
  }
  uint64_t head = c->head;
  if (bytes > to_end) {
    uint32_t filler = FILLER | (uint32_t)to_end;
    memcpy(c->mem + at, &filler, sizeof filler); /* at least 8 bytes are left: all is aligned to 8 */
    head += to_end;
    at = 0;
  }
  *out_head = head + bytes;
  return (struct np_capture_rec *)(void *)(c->mem + at);
}

void np_capture_pieces(struct np_capture *c, struct np_counters *counters, const struct np_capture_pkt *p) {
  uint32_t bytes = p->head_bytes;
  for (const struct np_buf *b = p->more; b != p->end; b = b->next) bytes += b->len; /* bound: the chain */
  if (!matches(c, p->dir, p->iface, p->head, p->head_bytes, bytes)) return;
  uint32_t cap = np_min_u32(bytes, c->snap_bytes);
  uint32_t record = (uint32_t)(sizeof(struct np_capture_rec) + cap + 7u) & ~7u;
  uint64_t head = 0;
  struct np_capture_rec *rec = reserve(c, record, &head);
  if (rec == NULL) {
    counters->counter[NP_C_CAPTURE_LOST]++;
    __atomic_store_n(&c->lost, c->lost + 1, __ATOMIC_RELAXED);
    return;
  }
  *rec = (struct np_capture_rec){
      .bytes = record,
      .orig_bytes = bytes,
      .cap_bytes = cap,
      .iface = p->iface,
      .dir = (uint8_t)p->dir,
      .drop = p->dir == NP_CAPTURE_DROP ? (uint8_t)p->why : 0,
      .at_ns = p->now_ns,
  };
  uint8_t *body = (uint8_t *)(rec + 1);
  uint32_t at = np_min_u32(cap, p->head_bytes);
  memcpy(body, p->head, at);
  for (const struct np_buf *b = p->more; b != p->end && at < cap; b = b->next) { /* bound: the chain */
    uint32_t n = np_min_u32(cap - at, b->len);
    memcpy(body + at, np_buf_cdata(b), n);
    at += n;
  }
  memset(body + cap, 0, record - sizeof *rec - cap); /* Go sees whole records: nothing old in the padding */
  counters->counter[NP_C_CAPTURED]++;
  __atomic_store_n(&c->head, head, __ATOMIC_RELEASE);
}

void np_capture_packet(struct np_capture *c, struct np_counters *counters, enum np_capture_dir dir, uint16_t iface,
                       enum np_drop why, const uint8_t *data, uint32_t bytes, uint64_t now_ns) {
  struct np_capture_pkt p = {
      .head = data, .head_bytes = bytes, .dir = dir, .iface = iface, .why = why, .now_ns = now_ns};
  np_capture_pieces(c, counters, &p);
}

/* ---- the control side ---- */

static enum np_err compile(struct np_capture *c, const char *filter, struct np_err_detail *detail) {
  if (filter == NULL || filter[0] == '\0') return NP_ERR_OK;
  pcap_t *dead = pcap_open_dead(DLT_EN10MB, (int)SNAP_MAX);
  if (dead == NULL) {
    np_err_detail_set(detail, 0, "compile capture filter: out of memory");
    return NP_ERR_NOMEM;
  }
  enum np_err err = NP_ERR_OK;
  if (pcap_compile(dead, &c->program, filter, 1, PCAP_NETMASK_UNKNOWN) != 0) {
    np_err_detail_set(detail, 0, "compile capture filter %.80s: %s", filter, pcap_geterr(dead));
    err = NP_ERR_INVALID;
  } else {
    c->has_program = true;
  }
  pcap_close(dead);
  return err;
}

static enum np_err check_args(const struct np_capture_args *a, struct np_err_detail *detail) {
  const uint32_t all = NP_CAPTURE_RX | NP_CAPTURE_TX | NP_CAPTURE_DROP;
  if (a->ring_bytes < (64u << 10) || a->ring_bytes > (256u << 20) || (a->ring_bytes & (a->ring_bytes - 1)) != 0) {
    np_err_detail_set(detail, 0, "ring_bytes is %u, must be a power of two, 65536 to 268435456", a->ring_bytes);
    return NP_ERR_INVALID;
  }
  if (a->snap_bytes > SNAP_MAX) {
    np_err_detail_set(detail, 0, "snap_bytes is %u, must be at most %u, or 0 for all", a->snap_bytes, SNAP_MAX);
    return NP_ERR_INVALID;
  }
  if (a->dirs == 0 || (a->dirs & ~all) != 0) {
    np_err_detail_set(detail, 0, "dirs is 0x%x, must be a mask within 0x%x", a->dirs, all);
    return NP_ERR_INVALID;
  }
  if (a->iface < -1 || a->iface >= (int32_t)NP_IFACE_MAX) {
    np_err_detail_set(detail, 0, "iface is %d, must be -1 (all) to %u", a->iface, NP_IFACE_MAX - 1);
    return NP_ERR_INVALID;
  }
  return NP_ERR_OK;
}

enum np_err np_capture_open(const struct np_capture_args *args, struct np_capture **out, struct np_err_detail *detail) {
  *out = NULL;
  enum np_err err = check_args(args, detail);
  if (err != NP_ERR_OK) return err;
  struct np_capture *c = aligned_alloc(NP_CACHE_LINE, sizeof *c);
  if (c == NULL) {
    np_err_detail_set(detail, 0, "open capture: out of memory");
    return NP_ERR_NOMEM;
  }
  memset(c, 0, sizeof *c);
  c->ring_bytes = args->ring_bytes;
  c->snap_bytes = args->snap_bytes != 0 ? args->snap_bytes : SNAP_MAX;
  c->dirs = args->dirs;
  c->iface = args->iface;
  c->conn = args->conn;
  c->listener_port = args->listener_port;
  err = compile(c, args->filter, detail);
  if (err != NP_ERR_OK) {
    free(c);
    return err;
  }
  /* populated now: a page fault would cost the core microseconds */
  void *mem = mmap(NULL, c->ring_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (mem == MAP_FAILED) {
    np_err_detail_set(detail, errno, "mmap capture ring of %u bytes", args->ring_bytes);
    if (c->has_program) pcap_freecode(&c->program);
    free(c);
    return NP_ERR_NOMEM;
  }
  c->mem = mem;
  *out = c;
  return NP_ERR_OK;
}

uint32_t np_capture_read(struct np_capture *c, void *out, uint32_t out_bytes) {
  uint64_t head = __atomic_load_n(&c->head, __ATOMIC_ACQUIRE);
  uint64_t tail = c->tail;
  uint32_t moved = 0;
  while (tail != head) { /* bound: the ring's bytes, at least 8 each round */
    uint64_t at = tail & (c->ring_bytes - 1);
    uint32_t bytes = np_load_32(c->mem + at);
    if ((bytes & FILLER) != 0) {
      tail += bytes & ~FILLER;
      continue;
    }
    if (bytes > out_bytes - moved) break;
    memcpy((uint8_t *)out + moved, c->mem + at, bytes);
    moved += bytes;
    tail += bytes;
  }
  __atomic_store_n(&c->tail, tail, __ATOMIC_RELEASE);
  return moved;
}

uint64_t np_capture_lost(struct np_capture *c) { return __atomic_load_n(&c->lost, __ATOMIC_RELAXED); }

void np_capture_close(struct np_capture *c) {
  if (c == NULL) return;
  np_assert(__atomic_load_n(&c->busy, __ATOMIC_ACQUIRE) == 0);
  munmap(c->mem, c->ring_bytes);
  if (c->has_program) pcap_freecode(&c->program);
  free(c);
}
