/* Commands from Go. Each runs within the turn that takes it; none blocks. */
#include <string.h>
#include <unistd.h>

#include "core/internal.h"

/* What one snapshot command copies at most: the turn has to stay short. */
#define SNAPSHOT_MAX 1024u

/* Answer of a command: what NP_EV_DONE will say. */
struct answer {
  uint64_t handle;
  uint32_t arg;
  uint32_t stream;
};

typedef enum np_err (*cmd_fn)(struct np_core *core, const struct np_cmd *cmd, struct answer *out);

/* The fixed structure that a set-up command carries in one lent buffer. */
static bool body_copy(const struct np_cmd *cmd, void *out, uint32_t bytes) {
  if (cmd->body == NULL || cmd->body_bytes < bytes || cmd->body->len < bytes) return false;
  memcpy(out, np_buf_cdata(cmd->body), bytes);
  return true;
}

/* ---- interfaces, addresses, routes ---- */

static enum np_err cmd_iface_add(struct np_core *core, const struct np_cmd *cmd, struct answer *out) {
  (void)out;
  struct np_cmd_iface args;
  if (!body_copy(cmd, &args, sizeof args)) return NP_ERR_INVALID;
  if (args.iface >= NP_IFACE_MAX || args.port >= NP_IFACE_MAX || args.vlan > 4094) return NP_ERR_INVALID;
  if (args.mtu_bytes < 1280 || args.mtu_bytes > 9000) return NP_ERR_INVALID;
  if (core->iface[args.iface].used) return NP_ERR_EXISTS;
  struct np_iface_config config = {.vlan = args.vlan,
                                   .port = args.port,
                                   .mtu_bytes = args.mtu_bytes,
                                   .dad_transmits = args.dad_transmits,
                                   .announces = args.announces,
                                   .acd = (args.flags & NP_IFACE_F_ACD) != 0,
                                   .accept_ra = (args.flags & NP_IFACE_F_RA) != 0,
                                   .mld = (args.flags & NP_IFACE_F_MLD) != 0,
                                   .opaque = (args.flags & NP_IFACE_F_OPAQUE) != 0};
  memcpy(config.mac.b, args.mac, sizeof config.mac.b);
  enum np_err err = np_ip_iface_add(core->ip, args.iface, &config);
  if (err != NP_ERR_OK) return err;
  core->iface[args.iface] = (struct np_core_iface){.used = true, .port = args.port};
  const struct np_port_queue *q = core->link[args.port].tx;
  if (q != NULL && !q->down) err = np_ip_iface_up(core->ip, args.iface, true, core->now_ns);
  return err;
}

static enum np_err cmd_iface_del(struct np_core *core, const struct np_cmd *cmd, struct answer *out) {
  (void)out;
  if (cmd->arg >= NP_IFACE_MAX || !core->iface[cmd->arg].used) return NP_ERR_NOTFOUND;
  enum np_err err = np_ip_iface_del(core->ip, (uint16_t)cmd->arg);
  if (err == NP_ERR_OK) core->iface[cmd->arg].used = false;
  return err;
}

static enum np_err cmd_addr(struct np_core *core, const struct np_cmd *cmd, struct answer *out) {
  (void)out;
  struct np_cmd_addr args;
  if (!body_copy(cmd, &args, sizeof args)) return NP_ERR_INVALID;
  if (args.iface >= NP_IFACE_MAX || !core->iface[args.iface].used) return NP_ERR_NOTFOUND;
  struct np_addr addr = np_addr_from_v6(args.addr);
  if (cmd->op == NP_CMD_ADDR_DEL) return np_ip_addr_del(core->ip, args.iface, &addr);
  if (args.prefix_bits > (np_addr_is_v4(&addr) ? 32 : 128)) return NP_ERR_INVALID;
  return np_ip_addr_add(core->ip, args.iface, &addr, args.prefix_bits, core->now_ns);
}

static enum np_err cmd_route(struct np_core *core, const struct np_cmd *cmd, struct answer *out) {
  (void)out;
  struct np_cmd_route args;
  if (!body_copy(cmd, &args, sizeof args)) return NP_ERR_INVALID;
  struct np_addr prefix = np_addr_from_v6(args.prefix);
  struct np_addr via = np_addr_from_v6(args.via);
  if (args.prefix_bits > (np_addr_is_v4(&prefix) ? 32 : 128)) return NP_ERR_INVALID;
  if (cmd->op == NP_CMD_ROUTE_DEL) return np_ip_route_del(core->ip, &prefix, args.prefix_bits);
  if (args.iface >= NP_IFACE_MAX || !core->iface[args.iface].used) return NP_ERR_NOTFOUND;
  return np_ip_route_add(core->ip, &prefix, args.prefix_bits, &via, args.iface);
}

static enum np_err cmd_attach(struct np_core *core, const struct np_cmd *cmd, struct answer *out) {
  (void)out;
  if (cmd->arg >= NP_IFACE_MAX) return NP_ERR_INVALID;
  struct np_port_queue *queue = (struct np_port_queue *)(uintptr_t)cmd->handle;
  if ((cmd->cmd_flags & NP_CMD_F_KERNEL) != 0) return np_exception_attach(core, queue, (uint16_t)cmd->arg);
  enum np_err err = np_core_attach(core, queue, (uint16_t)cmd->arg);
  if (err == NP_ERR_OK && (cmd->cmd_flags & NP_CMD_F_STEER) != 0) np_steer_attach(core, (uint16_t)cmd->arg);
  return err;
}

static enum np_err cmd_detach(struct np_core *core, const struct np_cmd *cmd, struct answer *out) {
  (void)out;
  if (cmd->arg >= NP_IFACE_MAX) return NP_ERR_INVALID;
  return np_core_detach(core, (uint16_t)cmd->arg);
}

/* ---- listeners and connections ---- */

static bool kind_ok(uint32_t kind) { return kind > NP_SESSION_NONE && kind < NP_SESSION_KIND_COUNT; }

static enum np_err stack_listen(struct np_core *core, const struct np_cmd_listen *args, struct np_core_listener *l) {
  const struct np_tcp_listen tcp = {
      .local = np_addr_from_v6(args->local),
      .port = args->port,
      .backlog = args->backlog,
      .conns_max = args->conns_max,
      .cookies = args->cookies != 0,
      .congestion_control = args->congestion_control,
      .dscp = args->dscp,
      .ctx = l,
      .handle = l->handle,
  };
  return np_tcp_listen(core->tcp, &tcp, &l->inner);
}

static enum np_err new_listener(struct np_core *core, const struct np_cmd_listen *args, uint64_t *out_handle) {
  bool stack = args->carrier == NP_CARRIER_STACK;
  if (!kind_ok(args->session_kind) || (stack && args->port == 0)) return NP_ERR_INVALID;
  if (core->draining) return NP_ERR_SHUTDOWN;
  for (uint32_t i = 0; i < NP_CORE_LISTENERS_MAX; i++) {
    struct np_core_listener *l = &core->listener[i];
    if (l->handle != 0) continue;
    l->core = core;
    l->kind = (enum np_session_kind)args->session_kind;
    l->carrier = args->carrier;
    uint64_t generation = ++l->generation;
    l->handle = generation << 32 | (uint64_t)core->index << NP_HANDLE_SLOT_BITS | i;
    enum np_err err = stack ? stack_listen(core, args, l) : np_core_carrier_listen(core, args, l);
    if (err != NP_ERR_OK) {
      l->handle = 0;
      return err;
    }
    *out_handle = l->handle;
    return NP_ERR_OK;
  }
  return NP_ERR_FULL;
}

/* A descriptor that came with a command is the core's from then on, also when nobody wants it. */
static void refuse_fd(uint8_t carrier, int32_t fd) {
  /* of RDMA it is no descriptor but the place of a connection, which the control side ends */
  if (carrier != NP_CARRIER_STACK && carrier != NP_CARRIER_RDMA && fd >= 0) close(fd);
}

void np_core_cmd_drop(const struct np_cmd *cmd) {
  struct np_cmd_listen listen;
  struct np_cmd_connect connect;
  if (cmd->op == NP_CMD_LISTEN && body_copy(cmd, &listen, sizeof listen)) refuse_fd(listen.carrier, listen.fd);
  if (cmd->op == NP_CMD_CONNECT && body_copy(cmd, &connect, sizeof connect)) refuse_fd(connect.carrier, connect.fd);
}

enum np_err np_core_listen(struct np_core *core, const struct np_cmd_listen *args, uint64_t *out_handle) {
  enum np_err err = new_listener(core, args, out_handle);
  if (err != NP_ERR_OK) refuse_fd(args->carrier, args->fd);
  return err;
}

enum np_err np_core_unlisten(struct np_core *core, uint64_t handle) {
  uint64_t slot = handle & ((1u << NP_HANDLE_SLOT_BITS) - 1u);
  if (handle == 0 || slot >= NP_CORE_LISTENERS_MAX) return NP_ERR_STALE;
  struct np_core_listener *l = &core->listener[slot];
  if (l->handle != handle) return NP_ERR_STALE;
  struct np_carrier *carrier = np_core_carrier_of(core, l->carrier);
  enum np_err err = carrier == NULL ? np_tcp_unlisten(core->tcp, l->inner) : carrier->ops->unlisten(carrier, l->inner);
  if (err == NP_ERR_OK) l->handle = 0;
  return err;
}

static enum np_err cmd_listen(struct np_core *core, const struct np_cmd *cmd, struct answer *out) {
  struct np_cmd_listen args;
  if (!body_copy(cmd, &args, sizeof args)) return NP_ERR_INVALID;
  return np_core_listen(core, &args, &out->handle);
}

static enum np_err cmd_unlisten(struct np_core *core, const struct np_cmd *cmd, struct answer *out) {
  (void)out;
  return np_core_unlisten(core, cmd->handle);
}

static enum np_err stack_connect(struct np_core *core, const struct np_cmd_connect *args, struct np_session *s,
                                 struct np_stream **out) {
  struct np_flow flow = {
      .local = np_addr_from_v6(args->local),
      .remote = np_addr_from_v6(args->remote),
      .local_port = args->local_port,
      .remote_port = args->remote_port,
  };
  return np_tcp_connect(core->tcp, &flow, s, core->now_ns, out);
}

static enum np_err new_connection(struct np_core *core, const struct np_cmd_connect *args, struct answer *out) {
  bool stack = args->carrier == NP_CARRIER_STACK;
  if (!kind_ok(args->session_kind) || args->congestion_control > NP_CC_COUNT) return NP_ERR_INVALID;
  if (stack && args->remote_port == 0) return NP_ERR_INVALID;
  if (core->draining) return NP_ERR_SHUTDOWN;
  struct np_session *s = np_session_new(core->sessions, (enum np_session_kind)args->session_kind, NULL, 0, core->now_ns);
  if (s == NULL) return NP_ERR_FULL;
  struct np_stream *stream = NULL;
  enum np_err err = stack ? stack_connect(core, args, s, &stream) : np_core_carrier_connect(core, args, s, &stream);
  if (err != NP_ERR_OK) {
    s->ops->closed(s, err); /* the last call it gets frees it; without a stream it reports nothing */
    return err;
  }
  out->handle = stream->handle;
  if (!stack || args->congestion_control == 0) return NP_ERR_OK;
  return np_tcp_set_cc(core->tcp, stream->handle, args->congestion_control - 1u);
}

static enum np_err cmd_connect(struct np_core *core, const struct np_cmd *cmd, struct answer *out) {
  struct np_cmd_connect args;
  if (!body_copy(cmd, &args, sizeof args)) return NP_ERR_INVALID;
  enum np_err err = new_connection(core, &args, out);
  if (err != NP_ERR_OK) refuse_fd(args.carrier, args.fd);
  return err;
}

static enum np_err cmd_udp_bind(struct np_core *core, const struct np_cmd *cmd, struct answer *out) {
  struct np_cmd_udp args;
  if (!body_copy(cmd, &args, sizeof args)) return NP_ERR_INVALID;
  return np_core_udp_bind(core, &args, &out->handle, &out->arg);
}

static enum np_err cmd_udp_close(struct np_core *core, const struct np_cmd *cmd, struct answer *out) {
  (void)out;
  return np_core_udp_close(core, cmd->handle);
}

static enum np_err cmd_conn_set(struct np_core *core, const struct np_cmd *cmd, struct answer *out) {
  (void)out;
  struct np_carrier *c = np_core_carrier_at(core, cmd->handle);
  if (c != NULL) {
    if (c->ops->set == NULL) return NP_ERR_UNSUPPORTED;
    return c->ops->set(c, cmd->handle, cmd->stream, cmd->arg);
  }
  switch (cmd->stream) {
    case NP_CONN_SET_CC:
      return np_tcp_set_cc(core->tcp, cmd->handle, cmd->arg);
    case NP_CONN_SET_USER_TIMEOUT:
      return np_tcp_set_user_timeout(core->tcp, cmd->handle, cmd->arg);
    case NP_CONN_SET_KEEPALIVE:
      return np_tcp_set_keepalive(core->tcp, cmd->handle, cmd->arg);
    case NP_CONN_SET_NAGLE:
      return cmd->arg > 1 ? NP_ERR_INVALID : np_tcp_set_nagle(core->tcp, cmd->handle, cmd->arg != 0);
    default:
      return NP_ERR_INVALID;
  }
}

static enum np_err cmd_load(struct np_core *core, const struct np_cmd *cmd, struct answer *out) {
  (void)out;
  struct np_cmd_load args;
  if (!body_copy(cmd, &args, sizeof args)) return NP_ERR_INVALID;
  if (core->loads == NULL) return NP_ERR_UNSUPPORTED;
  return np_loads_start(core->loads, &args, core->now_ns);
}

static enum np_err cmd_drain(struct np_core *core, const struct np_cmd *cmd, struct answer *out) {
  (void)cmd;
  (void)out;
  core->draining = true;
  for (uint32_t i = 0; i < NP_CORE_LISTENERS_MAX; i++) {
    if (core->listener[i].handle != 0) (void)np_core_unlisten(core, core->listener[i].handle);
  }
  np_sessions_drain(core->sessions, core->now_ns);
  return NP_ERR_OK;
}

/* ---- snapshots and captures ---- */

static enum np_err cmd_conns(struct np_core *core, const struct np_cmd *cmd, struct answer *out) {
  struct np_conn_info *dst = (struct np_conn_info *)(uintptr_t)cmd->handle;
  if (dst == NULL) return NP_ERR_INVALID;
  uint32_t cursor = cmd->stream;
  uint32_t n = np_core_connections(core, &cursor, dst, np_min_u32(cmd->arg, SNAPSHOT_MAX));
  for (uint32_t i = 0; i < n; i++) {
    const struct np_stream *stream = np_core_stream(core, dst[i].handle);
    dst[i].core = (uint8_t)core->index;
    if (stream != NULL && stream->session != NULL) np_session_info(stream->session, &dst[i]);
  }
  out->handle = cmd->handle;
  out->arg = n;
  out->stream = cursor;
  return NP_ERR_OK;
}

static enum np_err cmd_neighbors(struct np_core *core, const struct np_cmd *cmd, struct answer *out) {
  struct np_neigh_info *dst = (struct np_neigh_info *)(uintptr_t)cmd->handle;
  if (dst == NULL) return NP_ERR_INVALID;
  uint32_t cursor = cmd->stream;
  out->arg = np_ip_neighbors(core->ip, &cursor, dst, np_min_u32(cmd->arg, SNAPSHOT_MAX), core->now_ns);
  out->handle = cmd->handle;
  out->stream = cursor;
  return NP_ERR_OK;
}

static enum np_err cmd_addrs(struct np_core *core, const struct np_cmd *cmd, struct answer *out) {
  struct np_addr_info *dst = (struct np_addr_info *)(uintptr_t)cmd->handle;
  if (dst == NULL) return NP_ERR_INVALID;
  uint32_t cursor = cmd->stream;
  out->arg = np_ip_addresses(core->ip, &cursor, dst, np_min_u32(cmd->arg, SNAPSHOT_MAX), core->now_ns);
  out->handle = cmd->handle;
  out->stream = cursor;
  return NP_ERR_OK;
}

static enum np_err cmd_observe(struct np_core *core, const struct np_cmd *cmd, struct answer *out) {
  (void)out;
  if (cmd->arg >= NP_IFACE_MAX || cmd->body == NULL || cmd->body->next != NULL) return NP_ERR_INVALID;
  np_mail_observe(core, (uint16_t)cmd->arg, np_buf_cdata(cmd->body), cmd->body->len);
  return NP_ERR_OK;
}

static enum np_err cmd_capture(struct np_core *core, const struct np_cmd *cmd, struct answer *out) {
  (void)out;
  struct np_capture *capture = (struct np_capture *)(uintptr_t)cmd->handle;
  if (capture == NULL) {
    if (core->capture != NULL) np_capture_stop(core->capture);
    core->capture = NULL;
    return NP_ERR_OK;
  }
  if (core->capture != NULL) return NP_ERR_BUSY;
  enum np_err err = np_capture_start(capture, core);
  if (err == NP_ERR_OK) core->capture = capture;
  return err;
}

/* ---- dispatch ---- */

static const cmd_fn setup[NP_CMD_OP_COUNT] = {
    [NP_CMD_IFACE_ADD] = cmd_iface_add,     [NP_CMD_IFACE_DEL] = cmd_iface_del, [NP_CMD_ADDR_ADD] = cmd_addr,
    [NP_CMD_ADDR_DEL] = cmd_addr,           [NP_CMD_ROUTE_ADD] = cmd_route,     [NP_CMD_ROUTE_DEL] = cmd_route,
    [NP_CMD_PORT_ATTACH] = cmd_attach,      [NP_CMD_PORT_DETACH] = cmd_detach,  [NP_CMD_LISTEN] = cmd_listen,
    [NP_CMD_UNLISTEN] = cmd_unlisten,       [NP_CMD_CONNECT] = cmd_connect,     [NP_CMD_DRAIN] = cmd_drain,
    [NP_CMD_CONNS] = cmd_conns,             [NP_CMD_NEIGHBORS] = cmd_neighbors, [NP_CMD_CAPTURE] = cmd_capture,
    [NP_CMD_CONN_SET] = cmd_conn_set,
    [NP_CMD_ADDRS] = cmd_addrs,             [NP_CMD_OBSERVE] = cmd_observe,
    [NP_CMD_LOAD] = cmd_load,
    [NP_CMD_UDP_BIND] = cmd_udp_bind,       [NP_CMD_UDP_CLOSE] = cmd_udp_close,
};

static void done(struct np_core *core, const struct np_cmd *cmd, enum np_err err, const struct answer *a) {
  struct np_event ev = {
      .op = NP_EV_DONE,
      .token = cmd->token,
      .handle = a->handle,
      .stream = a->stream,
      .arg = a->arg,
      .err = (uint32_t)err,
  };
  np_core_event(core, &ev);
}

/* Commands to a connection answer only when something went wrong or Go asked. */
static void run_on_session(struct np_core *core, const struct np_cmd *cmd) {
  struct answer a = {.handle = cmd->handle, .stream = cmd->stream};
  enum np_err err = NP_ERR_STALE;
  const struct np_stream *stream = np_core_stream(core, cmd->handle);
  if (stream != NULL && stream->session != NULL) {
    err = np_sessions_command(core->sessions, stream->session, cmd, cmd->body, core->now_ns, &a.stream);
  } else {
    np_sessions_wipe(cmd);
    np_core_loan_return(core, cmd->body);
  }
  if (err != NP_ERR_OK || (cmd->cmd_flags & NP_CMD_F_ACK) != 0) done(core, cmd, err, &a);
}

/* What Go says about a chain it hands over. Go is our own code, but an error
 * there must not become a write outside a chunk here. */
static void check_body(const struct np_core *core, const struct np_cmd *cmd) {
  uint32_t bound = core->pool.count;
  for (const struct np_buf *b = cmd->body; b != NULL; b = b->next) {
    np_assert(bound > 0);
    bound--;
    np_assert(b->pool == &core->pool);
    np_assert(b->refs > 0);
    np_assert(b->data_off >= NP_BUF_HDR);
    np_assert(b->data_off <= b->cap_bytes);
    np_assert(b->len <= b->cap_bytes - b->data_off);
  }
}

static void lent_body(struct np_core *core, const struct np_buf *body) {
  /* bound: check_body walked it */
  for (; body != NULL; body = body->next) {
    np_assert(core->loans_out > 0);
    core->loans_out--;
  }
}

static void run(struct np_core *core, const struct np_cmd *cmd) {
  check_body(core, cmd);
  if (cmd->op == NP_CMD_FREE) {
    if (core->udp_held > 0) np_core_udp_returned(core, cmd->body);
    np_sessions_returned(core->sessions, cmd->body);
    np_buf_put_chain(cmd->body);
    return;
  }
  lent_body(core, cmd->body);
  if (cmd->op >= NP_CMD_CLOSE && cmd->op < NP_CMD_OP_COUNT) {
    run_on_session(core, cmd);
    return;
  }
  struct answer a = {.handle = cmd->handle};
  enum np_err err = NP_ERR_INVALID;
  if (cmd->op == NP_CMD_UDP_SEND) {
    err = np_core_udp_send(core, cmd);
    if (err != NP_ERR_OK || (cmd->cmd_flags & NP_CMD_F_ACK) != 0) done(core, cmd, err, &a);
    return;
  }
  if (cmd->op < NP_CMD_OP_COUNT && setup[cmd->op] != NULL) err = setup[cmd->op](core, cmd, &a);
  np_core_loan_return(core, cmd->body);
  done(core, cmd, err, &a);
}

uint32_t np_core_commands(struct np_core *core) {
  uint32_t n = np_min_u32(np_ring_avail(core->cmd), NP_CORE_CMDS_PER_TURN);
  if (n == 0) return 0;
  uint32_t taken = 0;
  /* A command may have to be answered: without room it waits. Go's reader must
   * therefore never wait for room in the command ring. */
  while (taken < n && np_core_answer_room(core) > 0) run(core, np_ring_item(core->cmd, taken++));
  np_ring_consume(core->cmd, taken);
  core->counters->counter[NP_C_CMDS] += taken;
  return taken;
}
