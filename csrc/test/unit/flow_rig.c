#include "test/unit/flow_rig.h"

#include <stdlib.h>

#include "core/internal.h"
#include "test/unit/cmocka_np.h"

static void fill(struct flow_client *c) {
  struct np_stream *st = c->session.stream;
  struct np_pool *pool = np_core_pool(c->f->host[c->end].core);
  while (st != NULL && !c->closed && c->sent < c->to_send) {
    uint32_t n = (uint32_t)np_min_u64(st->seg_bytes, c->to_send - c->sent);
    if (st->ops->room(st) < n || pool->free_count < pool->count / 4) return;
    struct np_buf *b = np_pool_get(pool);
    if (b == NULL) return;
    memset(np_buf_append(b, n), 'x', n);
    c->sent += n;
    if (st->ops->send(st, b, 0) != NP_ERR_OK) return;
  }
}

static void on_data(struct np_session *s, struct np_buf *chain, uint32_t bytes) {
  struct flow_client *c = (struct flow_client *)(void *)s;
  c->got += bytes;
  if (!c->hold) {
    np_buf_put_chain(chain);
    s->stream->ops->consumed(s->stream, bytes);
    return;
  }
  while (chain != NULL) {
    struct np_buf *next = chain->next;
    chain->next = c->kept;
    c->kept = chain;
    chain = next;
  }
}

static void on_writable(struct np_session *s) { fill((struct flow_client *)(void *)s); }
static void on_eof(struct np_session *s) { ((struct flow_client *)(void *)s)->eof = true; }
static void on_closed(struct np_session *s, enum np_err err) {
  struct flow_client *c = (struct flow_client *)(void *)s;
  c->closed = true;
  c->err = err;
  s->stream = NULL;
  if (c->kept != NULL) np_buf_put_chain(c->kept);
  c->kept = NULL;
}
static void on_established(struct np_session *s) {
  ((struct flow_client *)(void *)s)->established = true;
  fill((struct flow_client *)(void *)s);
}

static const struct np_session_ops ops = {
    .data = on_data, .writable = on_writable, .eof = on_eof, .closed = on_closed, .established = on_established};

static struct np_addr v4(uint32_t end) { return np_addr_from_v4_be((uint8_t[]){198, 18, 0, (uint8_t)(2 - end)}); }

static void open_host(struct flow *f, uint32_t i, const struct np_plane_config *config) {
  struct flow_host *h = &f->host[i];
  size_t bytes = (np_core_bytes(config) + 63) & ~(size_t)63;
  h->mem = aligned_alloc(64, bytes);
  h->pool_mem = aligned_alloc(config->chunk_bytes, (size_t)config->bufs_per_core * config->chunk_bytes);
  assert_non_null(h->mem);
  assert_non_null(h->pool_mem);
  memset(h->mem, 0, bytes);
  memset(h->pool_mem, 0, (size_t)config->bufs_per_core * config->chunk_bytes);
  struct np_err_detail detail = {{0}, 0};
  if (np_core_init(h->mem, h->pool_mem, config, 0, f->now_ns, &h->core, &detail) != NP_ERR_OK) fail_msg("%s", detail.text);
  h->mac = (struct np_mac){{2, 0, 0, 0, 0, (uint8_t)(2 - i)}};
  h->queue = np_sim_end(f->link, i, np_core_pool(h->core), &h->mac, 0);
  struct np_ip *ip = np_core_ip(h->core);
  struct np_iface_config iface = {.port = 0, .mtu_bytes = 1500, .mac = h->mac};
  struct np_addr addr = v4(i);
  assert_int_equal(np_ip_iface_add(ip, 0, &iface), NP_ERR_OK);
  assert_int_equal(np_core_attach(h->core, h->queue, 0), NP_ERR_OK);
  assert_int_equal(np_ip_iface_up(ip, 0, true, f->now_ns), NP_ERR_OK);
  assert_int_equal(np_ip_addr_add(ip, 0, &addr, 24, f->now_ns), NP_ERR_OK);
}

static void open_services(struct flow *f) {
  static const struct {
    uint16_t port;
    uint8_t kind;
  } services[] = {{FLOW_ECHO, NP_SESSION_ECHO}, {FLOW_DISCARD, NP_SESSION_DISCARD}, {FLOW_CHARGEN, NP_SESSION_CHARGEN}};
  for (size_t i = 0; i < NP_COUNT_OF(services); i++) {
    struct np_cmd_listen l = {.port = services[i].port, .session_kind = services[i].kind, .backlog = 4096, .cookies = 1};
    uint64_t handle;
    assert_int_equal(np_core_listen(f->host[1].core, &l, &handle), NP_ERR_OK);
  }
}

struct flow *flow_new(const struct np_plane_config *config, const struct np_sim_params *params, uint32_t clients) {
  /* what so many hold must be the other end's problem */
  const uint32_t bufs[2] = {config->bufs_per_core * (clients > 100 ? 4 : 1), config->bufs_per_core};
  return flow_new_pools(config, params, clients, bufs);
}

struct flow *flow_new_pools(const struct np_plane_config *config, const struct np_sim_params *params, uint32_t clients, const uint32_t bufs[2]) {
  struct flow *f = calloc(1, sizeof *f);
  assert_non_null(f);
  f->now_ns = UINT64_C(1000000000);
  f->step_ns = 20000;
  f->clients = clients;
  f->client = calloc(clients, sizeof *f->client);
  assert_non_null(f->client);
  struct np_sim_config sim = {.seed = 1, .inflight_max = 1u << 16, .dir = {*params, *params}};
  f->link = np_sim_new(&sim);
  assert_non_null(f->link);
  np_sim_set_now(f->link, f->now_ns);
  for (uint32_t i = 0; i < 2; i++) {
    struct np_plane_config c = *config;
    c.bufs_per_core = bufs[i];
    open_host(f, i, &c);
  }
  open_services(f);
  return f;
}

void flow_free(struct flow *f) {
  for (uint32_t i = 0; i < 2; i++) {
    struct flow_host *h = &f->host[i];
    np_core_detach(h->core, 0);
    np_core_fini(h->core, f->now_ns);
    const struct np_pool *pool = np_core_pool(h->core);
    assert_int_equal(pool->free_count, pool->count);
    free(h->mem);
    free(h->pool_mem);
  }
  np_sim_free(f->link);
  free(f->client);
  free(f);
}

void flow_run(struct flow *f, uint64_t ns) {
  uint64_t end_ns = f->now_ns + ns;
  for (;;) {
    for (uint32_t n = 0; n < 64; n++) {
      bool work = np_core_turn(f->host[0].core, f->now_ns);
      if (!np_core_turn(f->host[1].core, f->now_ns) && !work) break;
    }
    uint64_t next = np_sim_next_ns(f->link);
    for (uint32_t i = 0; i < 2; i++) next = np_min_u64(next, np_core_next_ns(f->host[i].core));
    if (f->now_ns >= end_ns) return;
    f->now_ns = np_min_u64(np_max_u64(next, f->now_ns + f->step_ns), end_ns);
    np_sim_set_now(f->link, f->now_ns);
  }
}

struct flow_client *flow_connect(struct flow *f, uint32_t i, uint16_t port, uint64_t to_send, bool hold) {
  struct flow_client *c = &f->client[i];
  assert_true(i < f->clients && c->session.ops == NULL);
  *c = (struct flow_client){.session = {.ops = &ops}, .f = f, .to_send = to_send, .hold = hold};
  struct np_flow flow = {.remote = v4(1), .remote_port = port};
  struct np_stream *stream = NULL;
  assert_int_equal(np_tcp_connect(flow_tcp(f, 0), &flow, &c->session, f->now_ns, &stream), NP_ERR_OK);
  return c;
}

void flow_release(struct flow_client *c) {
  uint32_t bytes = np_buf_chain_len(c->kept);
  c->hold = false;
  np_buf_put_chain(c->kept);
  c->kept = NULL;
  if (c->session.stream != NULL && bytes != 0) c->session.stream->ops->consumed(c->session.stream, bytes);
}

struct np_tcp_conn *flow_conn(const struct flow_client *c) { return np_tcp_of(c->session.stream); }

struct np_tcp *flow_tcp(const struct flow *f, uint32_t end) { return np_core_tcp(f->host[end].core); }

uint64_t flow_counter(const struct flow *f, uint32_t end, enum np_counter which) {
  return np_core_shared(f->host[end].core)->counters->counter[which];
}

struct np_tcp_conn *flow_peer(const struct flow_client *c) {
  const struct np_flow *mine = &flow_conn(c)->flow;
  struct np_flow flow = {.local = mine->remote, .remote = mine->local, .local_port = mine->remote_port, .remote_port = mine->local_port};
  struct np_tcp *tcp = flow_tcp(c->f, 1);
  return np_tcp_find(tcp, &flow, np_tcp_flow_hash(tcp, &flow));
}
