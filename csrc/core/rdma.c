/* RDMA connections of a plane, from the control side: ids and their events, places on the cores
 * (np/rdma.h). What a core owns is changed on its thread. */
#include "core/rdma.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define PENDING_MAX 1024u /* ids beside those of connections on cores: being made, listening */
#define SND_BUF_DEFAULT_BYTES (256u << 10)

struct np_worker *np_rdma_worker(struct np_plane_rdma *r, uint32_t core) { return &r->plane->worker[core]; }

/* ---- ids ---- */

static uint64_t id_of(const struct np_plane_rdma *r, const struct np_rdma_place *p) {
  return (uint64_t)p->generation << 32 | (uint32_t)(p - r->place);
}

struct np_rdma_place *np_rdma_place_of(struct np_plane_rdma *r, uint64_t id) {
  uint32_t index = (uint32_t)id;
  if (index >= r->place_count) return NULL;
  struct np_rdma_place *p = &r->place[index];
  return p->cm != NULL && p->generation == (uint32_t)(id >> 32) ? p : NULL;
}

static struct np_rdma_place *place_new(struct np_plane_rdma *r) {
  for (uint32_t i = 0; i < r->place_count; i++) {
    struct np_rdma_place *p = &r->place[i];
    if (p->cm != NULL) continue;
    uint32_t generation = p->generation + 1;
    *p = (struct np_rdma_place){.generation = generation != 0 ? generation : 1};
    return p;
  }
  return NULL;
}

/* ---- calls on a core ---- */

struct call {
  struct np_core *core;
  struct np_rdma_core *rc;
  uint32_t slot;
  enum np_err err;
  uint64_t handle;
  const struct np_rdma_conn_args *conn;
  const struct np_rdma_cq_args *cq;
  const struct np_hello *peer;
  const struct np_rdma_config *config;
  void *channel;
};

static void on_install(void *arg) {
  struct call *c = arg;
  struct np_core *core = c->core;
  c->err = NP_ERR_EXISTS;
  if (np_core_carrier_of(core, NP_CARRIER_RDMA) != NULL) return;
  struct np_rdma_config config = *c->config;
  const struct np_carrier_env env = {
      .pool = &core->pool, .wheel = &core->wheel, .counters = core->counters, .accept = np_core_accept, .ctx = core};
  config.base.core_index = (uint8_t)core->index;
  c->err = np_rdma_init(c->rc->mem, &config, &env, core->now_ns, &c->rc->carrier);
  if (c->err != NP_ERR_OK) return;
  struct np_carrier *carrier = np_rdma_carrier(c->rc->carrier);
  core->carrier[core->carrier_count++] = (struct np_core_carrier){.c = carrier, .kind = NP_CARRIER_RDMA};
}

static void on_remove(void *arg) {
  struct call *c = arg;
  struct np_core *core = c->core;
  struct np_carrier *carrier = np_rdma_carrier(c->rc->carrier);
  for (uint32_t i = 0; i < core->carrier_count; i++) {
    if (core->carrier[i].c != carrier) continue;
    carrier->ops->abort_all(carrier, core->now_ns);
    carrier->ops->fini(carrier);
    core->carrier[i] = core->carrier[--core->carrier_count];
    return;
  }
}

static void on_attach(void *arg) {
  struct call *c = arg;
  if (c->cq->cq != NULL) c->err = np_rdma_add_cq(c->rc->carrier, c->cq);
  if (c->err == NP_ERR_OK) c->err = np_rdma_attach(c->rc->carrier, c->slot, c->conn, c->core->now_ns, &c->handle);
  if (c->err == NP_ERR_OK && c->peer != NULL) c->err = np_rdma_peer(c->rc->carrier, c->slot, c->peer);
}

static void on_peer(void *arg) {
  struct call *c = arg;
  c->err = np_rdma_peer(c->rc->carrier, c->slot, c->peer);
}

static void on_adopt(void *arg) {
  struct call *c = arg;
  c->err = np_rdma_adopt(c->rc->carrier, c->slot, c->handle);
}

static void on_gone(void *arg) {
  struct call *c = arg;
  np_rdma_gone(c->rc->carrier, c->slot, c->err);
}

static void on_release(void *arg) {
  struct call *c = arg;
  np_rdma_release(c->rc->carrier, c->slot, c->core->now_ns);
}

static void on_drop_channel(void *arg) {
  struct call *c = arg;
  np_rdma_drop_channel(c->rc->carrier, c->channel);
}

static void call(struct np_plane_rdma *r, uint32_t core, struct call *c, void (*fn)(void *arg)) {
  c->core = np_rdma_worker(r, core)->core;
  c->rc = &r->core[core];
  np_worker_call(np_rdma_worker(r, core), fn, c);
}

/* ---- opening and closing ---- */

/* Every page is there from now on: a ring's registration finds no memory missing. */
static void *map(size_t bytes) {
  void *mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  return mem == MAP_FAILED ? NULL : mem;
}

static enum np_err check_args(const struct np_rdma_args *a, struct np_err_detail *detail) {
  const char *what = NULL;
  if (a->conns_max == 0 || a->conns_max > NP_RDMA_CONNS_MAX) what = "conns_max must be 1 to 4,096";
  bool power = (a->ring_bytes & (a->ring_bytes - 1)) == 0;
  if (!power || a->ring_bytes < NP_LINK_RING_BYTES_MIN || a->ring_bytes > NP_LINK_RING_BYTES_MAX) {
    what = "ring_bytes must be a power of two, 4 KiB to 4 MiB";
  }
  if (a->snd_buf_bytes != 0 && a->snd_buf_bytes < 65536) what = "snd_buf_bytes must be 64 KiB at least";
  if (memchr(a->device, 0, sizeof a->device) == NULL) what = "device is too long a name";
  if (what == NULL) return NP_ERR_OK;
  np_rdma_explain(detail, 0, "open RDMA: %s", what);
  return NP_ERR_INVALID;
}

static enum np_err open_core(struct np_plane_rdma *r, uint32_t index, struct np_err_detail *detail) {
  struct np_rdma_core *rc = &r->core[index];
  const struct np_core *core = np_rdma_worker(r, index)->core;
  uint32_t slot_base = r->plane->config.conns_max;
  for (uint32_t i = 0; i < core->carrier_count; i++) { /* behind those that were made with the core */
    uint32_t end = core->carrier[i].c->slot_base + core->carrier[i].c->slot_count;
    if (end > slot_base) slot_base = end;
  }
  struct np_rdma_config config = {
      .base = {.conns_max = r->args.conns_max,
               .slot_base = slot_base,
               .rcv_buf_bytes = r->args.ring_bytes,
               .snd_buf_bytes = r->args.snd_buf_bytes},
      .keepalive_ms = r->args.keepalive_ms,
      .notify_fd = r->notify_fd,
  };
  rc->mem_bytes = np_rdma_bytes(&config);
  rc->rings_bytes = (size_t)r->args.conns_max * r->args.ring_bytes;
  rc->mem = map(rc->mem_bytes);
  rc->rings = map(rc->rings_bytes);
  rc->free_slot = calloc(r->args.conns_max, sizeof *rc->free_slot);
  rc->slot_id = calloc(r->args.conns_max, sizeof *rc->slot_id);
  if (rc->mem == NULL || rc->rings == NULL || rc->free_slot == NULL || rc->slot_id == NULL) {
    np_rdma_explain(detail, ENOMEM, "take %zu MiB for core %u's rings", (rc->rings_bytes >> 20) + 1, index);
    return NP_ERR_NOMEM;
  }
  for (uint32_t i = r->args.conns_max; i > 0; i--) rc->free_slot[rc->free_count++] = i - 1;
  struct call c = {.config = &config};
  call(r, index, &c, on_install);
  if (c.err != NP_ERR_OK) np_rdma_explain(detail, 0, "open RDMA on core %u: %s", index, np_err_text(c.err));
  return c.err;
}

enum np_err np_plane_rdma_open(struct np_plane *plane, const struct np_rdma_args *args, struct np_plane_rdma **out,
                               int32_t *out_event_fd, int32_t *out_notify_fd, struct np_err_detail *detail) {
  *out = NULL;
  *out_event_fd = *out_notify_fd = -1;
  enum np_err err = check_args(args, detail);
  if (err != NP_ERR_OK) return err;
  struct np_plane_rdma *r = calloc(1, sizeof *r);
  if (r == NULL) return NP_ERR_NOMEM;
  r->plane = plane;
  r->args = *args;
  if (r->args.snd_buf_bytes == 0) r->args.snd_buf_bytes = SND_BUF_DEFAULT_BYTES;
  r->place_count = plane->config.cores * args->conns_max + PENDING_MAX;
  r->place = calloc(r->place_count, sizeof *r->place);
  r->notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (r->place == NULL || r->notify_fd < 0) {
    np_rdma_explain(detail, errno, "open RDMA");
    err = NP_ERR_NOMEM;
  }
  if (err == NP_ERR_OK) err = np_rdma_ctl_open(&r->ctl, out_event_fd, detail);
  for (uint32_t i = 0; i < plane->config.cores && err == NP_ERR_OK; i++) err = open_core(r, i, detail);
  if (err != NP_ERR_OK) {
    np_plane_rdma_close(r);
    *out_event_fd = -1;
    return err;
  }
  *out_notify_fd = r->notify_fd;
  *out = r;
  return NP_ERR_OK;
}

static void close_core(struct np_plane_rdma *r, uint32_t index) {
  struct np_rdma_core *rc = &r->core[index];
  struct call c = {0};
  if (rc->carrier != NULL) call(r, index, &c, on_remove);
  for (uint32_t i = 0; i < NP_RDMA_DEVICES_MAX; i++) np_rdma_dev_close(rc->use[i].dev);
  if (rc->mem != NULL) munmap(rc->mem, rc->mem_bytes);
  if (rc->rings != NULL) munmap(rc->rings, rc->rings_bytes);
  free(rc->free_slot);
  free(rc->slot_id);
}

void np_plane_rdma_close(struct np_plane_rdma *r) {
  if (r == NULL) return;
  for (uint32_t i = 0; r->place != NULL && i < r->place_count; i++) {
    if (r->place[i].cm != NULL) np_plane_rdma_drop(r, id_of(r, &r->place[i]));
  }
  np_rdma_regions_free(r);
  for (uint32_t i = 0; i < r->plane->config.cores; i++) close_core(r, i);
  np_rdma_ctl_close(r->ctl);
  if (r->notify_fd >= 0) close(r->notify_fd);
  free(r->place);
  free(r);
}

/* ---- devices ---- */

static enum np_err use_get(struct np_plane_rdma *r, uint32_t core, const struct np_rdma_id *cm, struct np_rdma_use **out,
                           struct np_err_detail *detail) {
  struct np_rdma_core *rc = &r->core[core];
  struct np_rdma_use *spare = NULL;
  for (uint32_t i = 0; i < NP_RDMA_DEVICES_MAX; i++) {
    struct np_rdma_use *u = &rc->use[i];
    if (u->dev == NULL) {
      if (spare == NULL) spare = u;
    } else if (!u->dead && np_rdma_dev_is(u->dev, cm)) {
      u->users++;
      *out = u;
      return NP_ERR_OK;
    }
  }
  if (spare == NULL) {
    np_rdma_explain(detail, 0, "open RDMA device %s: core %u uses %u already", np_rdma_id_device(cm), core, NP_RDMA_DEVICES_MAX);
    return NP_ERR_FULL;
  }
  struct np_rdma_dev *dev = NULL;
  enum np_err err = np_rdma_dev_open(r->ctl, cm, np_core_pool(np_rdma_worker(r, core)->core), &dev, detail);
  if (err != NP_ERR_OK) return err;
  *spare = (struct np_rdma_use){.dev = dev, .users = 1};
  *out = spare;
  return NP_ERR_OK;
}

void np_rdma_use_put(struct np_plane_rdma *r, uint32_t core, struct np_rdma_use *use) {
  if (use == NULL || --use->users > 0 || !use->dead) return;
  struct call c = {.channel = np_rdma_dev_channel(use->dev)};
  call(r, core, &c, on_drop_channel);
  np_rdma_dev_close(use->dev);
  *use = (struct np_rdma_use){0};
}

/* ---- making connections ---- */

enum np_err np_plane_rdma_listen(struct np_plane_rdma *r, const uint8_t local[16], uint16_t port, uint32_t backlog,
                                 uint64_t *out_id, uint16_t *out_port, struct np_err_detail *detail) {
  struct np_rdma_place *p = place_new(r);
  if (p == NULL) return NP_ERR_FULL;
  struct np_rdma_addr addr = {.local_port = port};
  memcpy(addr.local, local, sizeof addr.local);
  enum np_err err = np_rdma_id_listen(r->ctl, id_of(r, p), &addr, backlog, &p->cm, detail);
  if (err != NP_ERR_OK) return err;
  np_rdma_id_addr(p->cm, &addr);
  *out_port = addr.local_port;
  *out_id = id_of(r, p);
  return NP_ERR_OK;
}

enum np_err np_plane_rdma_resolve(struct np_plane_rdma *r, const uint8_t local[16], const uint8_t remote[16], uint16_t port,
                                  uint32_t timeout_ms, uint64_t *out_id, struct np_err_detail *detail) {
  struct np_rdma_place *p = place_new(r);
  if (p == NULL) return NP_ERR_FULL;
  struct np_rdma_addr addr = {.remote_port = port};
  memcpy(addr.local, local, sizeof addr.local);
  memcpy(addr.remote, remote, sizeof addr.remote);
  p->outgoing = true;
  enum np_err err = np_rdma_id_resolve(r->ctl, id_of(r, p), &addr, timeout_ms, &p->cm, detail);
  if (err == NP_ERR_OK) *out_id = id_of(r, p);
  return err;
}

enum np_err np_plane_rdma_route(struct np_plane_rdma *r, uint64_t id, uint32_t timeout_ms, struct np_err_detail *detail) {
  struct np_rdma_place *p = np_rdma_place_of(r, id);
  if (p == NULL || !p->outgoing) return NP_ERR_STALE;
  return np_rdma_id_route(p->cm, timeout_ms, detail);
}

static void put_slot(struct np_rdma_core *rc, uint32_t slot) {
  rc->slot_id[slot] = 0;
  rc->free_slot[rc->free_count++] = slot;
}

static enum np_err attach(struct np_plane_rdma *r, struct np_rdma_place *p, struct np_rdma_conn_args *conn,
                          const struct np_rdma_cq_args *cq) {
  struct np_rdma_addr addr;
  np_rdma_id_addr(p->cm, &addr);
  memcpy(conn->local, addr.local, sizeof conn->local);
  memcpy(conn->remote, addr.remote, sizeof conn->remote);
  conn->local_port = addr.local_port;
  conn->remote_port = addr.remote_port;
  conn->outgoing = p->outgoing;
  /* Of one that came in all is known: what the peer sends first may come before its ESTABLISHED does. */
  struct call c = {.slot = p->slot, .conn = conn, .cq = cq, .peer = p->outgoing ? NULL : &p->peer};
  call(r, p->core, &c, on_attach);
  p->has_peer = c.err == NP_ERR_OK && !p->outgoing;
  p->handle = c.handle;
  return c.err;
}

static enum np_err check_device(const struct np_plane_rdma *r, const struct np_rdma_place *p, struct np_err_detail *detail) {
  const char *name = np_rdma_id_device(p->cm);
  if (r->args.device[0] == 0 || strcmp(name, r->args.device) == 0) return NP_ERR_OK;
  np_rdma_explain(detail, 0, "the connection goes by device %s, not by %s", name, r->args.device);
  return NP_ERR_NODEV;
}

enum np_err np_plane_rdma_prepare(struct np_plane_rdma *r, uint64_t id, uint32_t core, uint32_t *out_slot,
                                  struct np_err_detail *detail) {
  struct np_rdma_place *p = np_rdma_place_of(r, id);
  if (p == NULL || core >= r->plane->config.cores) return NP_ERR_STALE;
  if (p->qp != NULL) return NP_ERR_STATE;
  struct np_rdma_core *rc = &r->core[core];
  enum np_err err = check_device(r, p, detail);
  if (err != NP_ERR_OK) return err;
  if (rc->free_count == 0) {
    np_rdma_explain(detail, 0, "core %u has its %u RDMA connections", core, r->args.conns_max);
    return NP_ERR_FULL;
  }
  err = use_get(r, core, p->cm, &p->use, detail);
  if (err != NP_ERR_OK) return err;
  p->core = core;
  p->slot = rc->free_slot[--rc->free_count];
  rc->slot_id[p->slot] = id;
  struct np_rdma_qp_args args = {.ring = rc->rings + (size_t)p->slot * r->args.ring_bytes,
                                 .ring_bytes = r->args.ring_bytes,
                                 .wr_recv = np_rdma_wr_recv(rc->carrier, p->slot)};
  struct np_rdma_conn_args conn = {0};
  struct np_rdma_cq_args cq = {0};
  /* A peer could have us take for its own bytes what another's connection left there. */
  memset(args.ring, 0, args.ring_bytes);
  err = np_rdma_qp_make(p->use->dev, p->cm, &args, &p->qp, &conn, &p->own, &cq, detail);
  if (err == NP_ERR_OK) {
    err = attach(r, p, &conn, &cq);
    if (err != NP_ERR_OK) np_rdma_explain(detail, 0, "attach an RDMA connection to core %u: %s", core, np_err_text(err));
  }
  if (err != NP_ERR_OK) {
    np_rdma_qp_end(p->qp);
    p->qp = NULL;
    put_slot(rc, p->slot);
    np_rdma_use_put(r, core, p->use);
    p->use = NULL;
    return err;
  }
  *out_slot = p->slot;
  return NP_ERR_OK;
}

enum np_err np_plane_rdma_connect(struct np_plane_rdma *r, uint64_t id, struct np_err_detail *detail) {
  struct np_rdma_place *p = np_rdma_place_of(r, id);
  if (p == NULL || p->qp == NULL || !p->outgoing) return NP_ERR_STALE;
  return np_rdma_id_connect(p->cm, &p->own, detail);
}

enum np_err np_plane_rdma_accept(struct np_plane_rdma *r, uint64_t id, struct np_err_detail *detail) {
  struct np_rdma_place *p = np_rdma_place_of(r, id);
  if (p == NULL || p->qp == NULL || p->outgoing) return NP_ERR_STALE;
  return np_rdma_id_accept(p->cm, &p->own, detail);
}

void np_plane_rdma_reject(struct np_plane_rdma *r, uint64_t id) {
  struct np_rdma_place *p = np_rdma_place_of(r, id);
  if (p == NULL) return;
  if (!p->outgoing) np_rdma_id_reject(p->cm);
  np_plane_rdma_drop(r, id);
}

enum np_err np_plane_rdma_find(struct np_plane_rdma *r, uint64_t handle, uint64_t *out_id) {
  uint32_t core = (uint32_t)(handle >> NP_HANDLE_SLOT_BITS) & ((1u << NP_HANDLE_CORE_BITS) - 1u);
  if (core >= r->plane->config.cores) return NP_ERR_STALE;
  const struct np_rdma_core *rc = &r->core[core];
  const struct np_carrier *carrier = np_rdma_carrier(rc->carrier);
  uint32_t slot = ((uint32_t)handle & ((1u << NP_HANDLE_SLOT_BITS) - 1u)) - carrier->slot_base;
  if (slot >= r->args.conns_max) return NP_ERR_STALE;
  const struct np_rdma_place *p = np_rdma_place_of(r, rc->slot_id[slot]);
  if (p == NULL || p->qp == NULL || p->handle != handle) return NP_ERR_STALE;
  *out_id = rc->slot_id[slot];
  return NP_ERR_OK;
}

int32_t np_plane_rdma_core(struct np_plane_rdma *r, uint64_t id) {
  const struct np_rdma_place *p = np_rdma_place_of(r, id);
  return p == NULL || p->qp == NULL ? -1 : (int32_t)p->core;
}

enum np_err np_plane_rdma_adopt(struct np_plane_rdma *r, uint64_t id, uint64_t listener) {
  struct np_rdma_place *p = np_rdma_place_of(r, id);
  if (p == NULL || p->qp == NULL || p->outgoing) return NP_ERR_STALE;
  struct call c = {.slot = p->slot, .handle = listener};
  call(r, p->core, &c, on_adopt);
  return c.err;
}

void np_plane_rdma_drop(struct np_plane_rdma *r, uint64_t id) {
  struct np_rdma_place *p = np_rdma_place_of(r, id);
  if (p == NULL) return;
  if (p->qp != NULL) {
    struct np_rdma_core *rc = &r->core[p->core];
    np_rdma_id_disconnect(p->cm);
    np_rdma_qp_end(p->qp);
    p->qp = NULL;
    struct call c = {.slot = p->slot};
    call(r, p->core, &c, on_release);
    put_slot(rc, p->slot);
    np_rdma_use_put(r, p->core, p->use);
    p->use = NULL;
  }
  np_rdma_id_free(p->cm);
  p->cm = NULL;
}

uint32_t np_plane_rdma_retired(struct np_plane_rdma *r, uint64_t *out, uint32_t max) {
  uint32_t n = 0;
  uint64_t value;
  ssize_t got = read(r->notify_fd, &value, sizeof value);
  (void)got; /* EAGAIN: nobody wrote since */
  for (uint32_t c = 0; c < r->plane->config.cores; c++) {
    struct np_rdma_core *rc = &r->core[c];
    for (uint32_t s = 0; s < r->args.conns_max && n < max; s++) {
      if (rc->slot_id[s] != 0 && np_rdma_retired_take(rc->carrier, s)) out[n++] = rc->slot_id[s];
    }
  }
  return n;
}

/* ---- events ---- */

static void tell_gone(struct np_plane_rdma *r, const struct np_rdma_place *p, enum np_err err) {
  if (p->qp == NULL) return;
  struct call c = {.slot = p->slot, .err = err};
  call(r, p->core, &c, on_gone);
  if (err == NP_ERR_PORTDOWN) p->use->dead = true;
}

static void on_established(struct np_plane_rdma *r, struct np_rdma_place *p, const struct np_rdma_cm_event *ev,
                           struct np_rdma_event *out) {
  if (!p->outgoing || p->has_peer) {
    out->err = NP_ERR_OK; /* who accepted was told with the request */
    return;
  }
  if (!ev->has_hello || p->qp == NULL) {
    if (out->err == NP_ERR_OK) out->err = NP_ERR_PROTOCOL;
    return;
  }
  struct call c = {.slot = p->slot, .peer = &ev->hello};
  call(r, p->core, &c, on_peer);
  p->has_peer = c.err == NP_ERR_OK;
  out->err = (uint32_t)c.err;
}

static void on_request(struct np_plane_rdma *r, const struct np_rdma_cm_event *ev, struct np_rdma_event *out) {
  struct np_rdma_place *p = place_new(r);
  if (p == NULL) { /* no place left: refused here */
    np_rdma_id_reject(ev->request);
    np_rdma_id_free(ev->request);
    out->op = NP_RDMA_EV_NONE;
    return;
  }
  p->cm = ev->request;
  p->peer = ev->hello;
  np_rdma_id_own(p->cm, id_of(r, p));
  out->listener = ev->owner;
  out->id = id_of(r, p);
}

enum np_err np_plane_rdma_event(struct np_plane_rdma *r, struct np_rdma_event *out, struct np_err_detail *detail) {
  struct np_rdma_cm_event ev;
  memset(out, 0, sizeof *out);
  enum np_err err = np_rdma_cm_next(r->ctl, &ev, detail);
  if (err != NP_ERR_OK) return err;
  out->op = (uint8_t)ev.op;
  out->err = (uint32_t)ev.err;
  out->arg = ev.arg;
  out->id = ev.owner;
  if (ev.op == NP_RDMA_EV_REQUEST) on_request(r, &ev, out);
  struct np_rdma_place *p = np_rdma_place_of(r, out->id);
  if (p == NULL) {
    out->op = NP_RDMA_EV_NONE;
    return NP_ERR_OK;
  }
  if (ev.op == NP_RDMA_EV_ESTABLISHED) on_established(r, p, &ev, out);
  if (ev.op == NP_RDMA_EV_DISCONNECTED) tell_gone(r, p, NP_ERR_RESET);
  if (ev.op == NP_RDMA_EV_DEVICE) tell_gone(r, p, NP_ERR_PORTDOWN);
  struct np_rdma_addr addr;
  np_rdma_id_addr(p->cm, &addr);
  memcpy(out->local, addr.local, sizeof out->local);
  memcpy(out->remote, addr.remote, sizeof out->remote);
  out->local_port = addr.local_port;
  out->remote_port = addr.remote_port;
  const char *device = np_rdma_id_device(p->cm);
  size_t n = strnlen(device, sizeof out->device - 1);
  memcpy(out->device, device, n);
  return NP_ERR_OK;
}
