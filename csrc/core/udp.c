/* UDP sockets of the control plane: datagrams go to Go where they lie, with a np_udp_meta in front where
 * their headers were, and leave in the buffers that Go wrote.
 *
 * Nothing tells a sender of datagrams to wait, so what Go's reader does not take is dropped here and counted:
 * a socket may have so many buffers with Go, all sockets so many, and the last of the pool and of the event
 * ring are for those who need them more. */
#include <string.h>

#include "base/chain.h"
#include "core/internal.h"
#include "wire/hdr.h"

#define HELD_MAX 512u   /* buffers of one socket with Go */
#define CHARGED 0x80000000u /* in np_buf.charged: a socket's number, not a session's */

_Static_assert(sizeof(struct np_udp_meta) <= NP_ETH_BYTES + NP_IP4_BYTES + NP_UDP_BYTES, "it lies where the headers were");

/* Slots count down from the last, where no connection has its slot. */
static uint64_t handle_of(const struct np_core *core, uint32_t socket, uint32_t generation) {
  uint32_t slot = (1u << NP_HANDLE_SLOT_BITS) - 1u - socket;
  return (uint64_t)generation << 32 | (uint64_t)core->index << NP_HANDLE_SLOT_BITS | slot;
}

static struct np_core_udp *find(struct np_core *core, uint64_t handle, uint32_t *out_socket) {
  uint32_t socket = (1u << NP_HANDLE_SLOT_BITS) - 1u - ((uint32_t)handle & ((1u << NP_HANDLE_SLOT_BITS) - 1u));
  if (handle == 0 || socket >= NP_UDP_SOCKETS_MAX || core->udp[socket].handle != handle) return NULL;
  *out_socket = socket;
  return &core->udp[socket];
}

enum np_err np_core_udp_bind(struct np_core *core, const struct np_cmd_udp *args, uint64_t *out_handle, uint32_t *out_port) {
  struct np_addr local = np_addr_from_v6(args->local);
  uint32_t socket;
  uint16_t port;
  enum np_err err = np_udp_bind(core->ip, &local, args->port, args->dscp, &socket, &port);
  if (err != NP_ERR_OK) return err;
  struct np_core_udp *u = &core->udp[socket];
  u->generation++;
  u->handle = handle_of(core, socket, u->generation);
  u->held = 0;
  *out_handle = u->handle;
  *out_port = port;
  return NP_ERR_OK;
}

enum np_err np_core_udp_close(struct np_core *core, uint64_t handle) {
  uint32_t socket;
  struct np_core_udp *u = find(core, handle, &socket);
  if (u == NULL) return NP_ERR_STALE;
  np_udp_unbind(core->ip, socket);
  u->handle = 0; /* what Go still has of it is charged to a generation that is over */
  return NP_ERR_OK;
}

bool np_core_udp_input(void *ctx, uint32_t socket, const struct np_pkt *pkt) {
  struct np_core *core = ctx;
  struct np_core_udp *u = &core->udp[socket];
  struct np_buf *b = pkt->buf;
  bool room = u->held < HELD_MAX && core->udp_held < core->pool.count / 4 && core->pool.free_count > core->pool.count / 8;
  if (!room || np_core_event_room(core) == 0) return false;
  struct np_udp_meta meta = {.remote_port = pkt->flow.remote_port, .local_port = pkt->flow.local_port, .ecn = pkt->tos & 3};
  memcpy(meta.local, pkt->flow.local.b, sizeof meta.local);
  memcpy(meta.remote, pkt->flow.remote.b, sizeof meta.remote);
  np_buf_pull(b, pkt->l4_off);
  np_buf_trim(b, pkt->l4_len);
  np_buf_pull(b, NP_UDP_BYTES);
  memcpy(np_buf_push(b, sizeof meta), &meta, sizeof meta);
  uint32_t bytes = 0;
  for (struct np_buf *p = b; p != NULL; p = p->next) { /* bound: the pool's count */
    p->charged = (uint64_t)u->generation << 32 | CHARGED | socket;
    bytes += p->len;
    u->held++;
    core->udp_held++;
  }
  struct np_event ev = {
      .op = NP_EV_DATAGRAM, .handle = u->handle, .kind = NP_SESSION_PIPE, .body = b, .body_bytes = bytes};
  np_core_event(core, &ev);
  return true;
}

void np_core_udp_returned(struct np_core *core, struct np_buf *chain) {
  for (struct np_buf *b = chain; b != NULL; b = b->next) { /* bound: the pool's count */
    if ((b->charged & CHARGED) == 0) continue;
    struct np_core_udp *u = &core->udp[(uint32_t)b->charged & ~CHARGED];
    if (u->generation == (uint32_t)(b->charged >> 32)) u->held--;
    core->udp_held--;
    b->charged = 0;
  }
}

enum np_err np_core_udp_send(struct np_core *core, const struct np_cmd *cmd) {
  struct np_buf *b = cmd->body;
  uint32_t socket;
  struct np_udp_meta meta;
  enum np_err err = NP_ERR_INVALID;
  if (find(core, cmd->handle, &socket) == NULL) {
    err = NP_ERR_STALE;
  } else if (b != NULL && b->len >= sizeof meta && b->data_off >= NP_LOAN_DATA_OFF && np_buf_chain_len(b) == cmd->body_bytes) {
    err = NP_ERR_OK;
  }
  for (const struct np_buf *p = b; p != NULL && err == NP_ERR_OK; p = p->next) { /* bound: check_body walked it */
    if (p->refs != 1) err = NP_ERR_INVALID;
  }
  if (err != NP_ERR_OK) {
    np_core_loan_return(core, b);
    return err;
  }
  memcpy(&meta, np_buf_cdata(b), sizeof meta);
  core->loans_owed += np_buf_pieces(b);
  np_buf_pull(b, sizeof meta);
  struct np_udp_to to = {
      .addr = np_addr_from_v6(meta.remote), .from = np_addr_from_v6(meta.local), .port = meta.remote_port, .ecn = meta.ecn};
  return np_udp_send(core->ip, socket, &to, b, core->now_ns);
}
