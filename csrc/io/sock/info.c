/* What a kernel socket knows of itself, in the fields that our own TCP fills: TCP_INFO for
 * TCP, the peer's credentials for Unix sockets. A few system calls per connection, when
 * somebody asks. */
#include <linux/in.h>
#include <linux/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "io/sock/internal.h"

struct in6_sock { /* struct sockaddr_in6 as the kernel lays it out */
  uint16_t family;
  uint16_t port_be;
  uint32_t flow_be;
  uint8_t addr[16];
  uint32_t scope;
};
struct in4_sock {
  uint16_t family;
  uint16_t port_be;
  uint8_t addr[4];
};

union any_sock {
  struct sockaddr sa;
  struct in4_sock v4;
  struct in6_sock v6;
  struct sockaddr_storage room;
};

static void addr_of(const union any_sock *u, struct np_addr *addr, uint16_t *port) {
  if (u->sa.sa_family == AF_INET) {
    *addr = np_addr_from_v4_be(u->v4.addr);
    *port = __builtin_bswap16(u->v4.port_be);
  } else if (u->sa.sa_family == AF_INET6) {
    *addr = np_addr_from_v6(u->v6.addr);
    *port = __builtin_bswap16(u->v6.port_be);
  }
}

/* Once per connection: a peer that is gone has no name any more. */
static void learn_names(struct np_sock_conn *c) {
  if ((c->flags & NP_SK_NAMED) || c->fd < 0 || c->state == NP_SOCK_CONNECTING) return;
  c->flags |= NP_SK_NAMED;
  if (c->flags & NP_SK_UNIX) {
    struct ucred peer;
    socklen_t len = sizeof peer;
    if (getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0) return;
    c->peer_pid = (uint32_t)peer.pid;
    c->peer_uid = peer.uid;
    c->peer_gid = peer.gid;
    return;
  }
  union any_sock u;
  memset(&u, 0, sizeof u);
  socklen_t len = sizeof u;
  if (getsockname(c->fd, &u.sa, &len) == 0) addr_of(&u, &c->local, &c->local_port);
  memset(&u, 0, sizeof u);
  len = sizeof u;
  if (getpeername(c->fd, &u.sa, &len) == 0) addr_of(&u, &c->remote, &c->remote_port);
}

/* The kernel's numbers are those of include/net/tcp_states.h. */
static uint8_t state_of_kernel(uint8_t kernel) {
  static const uint8_t table[] = {
      [1] = NP_TCP_ESTABLISHED, [2] = NP_TCP_SYN_SENT,   [3] = NP_TCP_SYN_RECEIVED, [4] = NP_TCP_FIN_WAIT_1,
      [5] = NP_TCP_FIN_WAIT_2,  [6] = NP_TCP_TIME_WAIT,  [7] = NP_TCP_CLOSED,       [8] = NP_TCP_CLOSE_WAIT,
      [9] = NP_TCP_LAST_ACK,    [10] = NP_TCP_LISTEN,    [11] = NP_TCP_CLOSING,     [12] = NP_TCP_SYN_RECEIVED,
  };
  return kernel < NP_COUNT_OF(table) ? table[kernel] : NP_TCP_CLOSED;
}

/* Where there is no TCP_INFO. */
static uint8_t state_of_flags(const struct np_sock_conn *c) {
  if (c->state == NP_SOCK_CONNECTING) return NP_TCP_SYN_SENT;
  if (c->state == NP_SOCK_ENDING) return NP_TCP_CLOSED;
  if (c->flags & NP_SK_EOF) return c->flags & NP_SK_FIN_SENT ? NP_TCP_LAST_ACK : NP_TCP_CLOSE_WAIT;
  return c->flags & NP_SK_FIN_SENT ? NP_TCP_FIN_WAIT_2 : NP_TCP_ESTABLISHED;
}

static uint32_t segs_to_bytes(uint32_t segs, uint32_t mss) {
  return (uint32_t)np_min_u64((uint64_t)segs * mss, UINT32_MAX);
}

static uint8_t ca_of_kernel(uint8_t kernel) { /* enum tcp_ca_state, in the same order */
  return kernel < NP_CA_STATE_COUNT ? kernel : (uint8_t)NP_CA_OPEN;
}

static uint8_t options_of(uint8_t kernel) {
  uint32_t o = 0;
  if (kernel & TCPI_OPT_TIMESTAMPS) o |= NP_CONN_OPT_TIMESTAMPS;
  if (kernel & TCPI_OPT_SACK) o |= NP_CONN_OPT_SACK;
  if (kernel & TCPI_OPT_WSCALE) o |= NP_CONN_OPT_WSCALE;
  return (uint8_t)o;
}

static void info_tcp(const struct np_sock_conn *c, struct np_conn_info *out) {
  struct tcp_info k;
  memset(&k, 0, sizeof k); /* older kernels fill less */
  socklen_t len = sizeof k;
  if (c->fd < 0 || getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &k, &len) != 0) return;
  uint32_t mss = k.tcpi_snd_mss;
  out->state = state_of_kernel(k.tcpi_state);
  out->options |= options_of(k.tcpi_options);
  out->ecn = k.tcpi_options & TCPI_OPT_ECN ? NP_CONN_ECN_OK : 0;
  out->wscale_snd = k.tcpi_snd_wscale;
  out->wscale_rcv = k.tcpi_rcv_wscale;
  out->mss_bytes = mss;
  out->cwnd_bytes = segs_to_bytes(k.tcpi_snd_cwnd, mss);
  out->ssthresh_bytes = k.tcpi_snd_ssthresh >= 0x7fffffffu ? UINT32_MAX : segs_to_bytes(k.tcpi_snd_ssthresh, mss);
  out->srtt_us = k.tcpi_rtt;
  out->rttvar_us = k.tcpi_rttvar;
  out->rto_us = k.tcpi_rto;
  out->min_rtt_us = k.tcpi_min_rtt == UINT32_MAX ? 0 : k.tcpi_min_rtt; /* all ones: none measured */
  out->inflight_bytes = segs_to_bytes(k.tcpi_unacked, mss);
  out->sacked_bytes = segs_to_bytes(k.tcpi_sacked, mss);
  out->lost_bytes = segs_to_bytes(k.tcpi_lost, mss);
  out->sendq_bytes += out->inflight_bytes + k.tcpi_notsent_bytes;
  out->retrans_segs_total = k.tcpi_total_retrans;
  out->bytes_retrans = k.tcpi_bytes_retrans;
  out->segs_rx = k.tcpi_segs_in;
  out->segs_tx = k.tcpi_segs_out;
  out->pmtu_bytes = k.tcpi_pmtu;
  out->rcv_wnd_bytes = k.tcpi_rcv_space;
  out->rcv_rtt_us = k.tcpi_rcv_rtt;
  out->rcv_space_bytes = k.tcpi_rcv_space;
  out->ca_state = ca_of_kernel(k.tcpi_ca_state);
  out->backoff = k.tcpi_backoff;
  out->dsacks_total = k.tcpi_dsack_dups;
  out->reordering_total = (uint16_t)np_min_u32(k.tcpi_reord_seen, UINT16_MAX);
  out->delivery_bytes_per_s = k.tcpi_delivery_rate;
  bool paced = k.tcpi_pacing_rate != 0 && k.tcpi_pacing_rate != UINT64_MAX;
  out->pacing_bytes_per_s = paced ? k.tcpi_pacing_rate : 0;
  if (k.tcpi_delivery_rate_app_limited) out->limited = NP_LIMITED_APP;
}

static void info_cc(const struct np_sock_conn *c, struct np_conn_info *out) {
  char name[16] = {0};
  socklen_t len = sizeof name - 1;
  if (c->fd < 0 || getsockopt(c->fd, IPPROTO_TCP, TCP_CONGESTION, name, &len) != 0) return;
  if (strcmp(name, "bbr") == 0) out->cc = NP_CC_BBR;
  if (strcmp(name, "reno") == 0) out->cc = NP_CC_NEWRENO;
}

void np_sock_info(const struct np_stream *stream, struct np_conn_info *out) {
  struct np_sock_conn *c = (struct np_sock_conn *)(uintptr_t)stream; /* the stream is a connection's first member */
  const struct np_sock *s = c->sock;
  _Static_assert(offsetof(struct np_sock_conn, stream) == 0, "np_sock_info casts");
  memset(out, 0, sizeof *out);
  learn_names(c);
  out->handle = stream->handle;
  out->listener = c->listener_handle;
  memcpy(out->local, c->local.b, sizeof out->local);
  memcpy(out->remote, c->remote.b, sizeof out->remote);
  out->local_port = c->local_port;
  out->remote_port = c->remote_port;
  out->state = state_of_flags(c);
  out->core = s->config.core_index;
  out->carrier = s->kind;
  out->is_unix = (c->flags & NP_SK_UNIX) != 0;
  out->peer_uid = c->peer_uid;
  out->peer_gid = c->peer_gid;
  out->peer_pid = c->peer_pid;
  if (c->flags & NP_SK_OUTGOING) out->options = NP_CONN_OPT_OUTGOING;
  out->sendq_bytes = c->sndq_bytes;
  out->recvq_bytes = c->unconsumed_bytes + c->rcvq_bytes;
  out->rcv_buf_bytes = s->config.rcv_buf_bytes;
  out->snd_buf_bytes = s->config.snd_buf_bytes;
  out->created_ns = c->created_ns;
  out->last_rx_ns = c->last_rx_ns;
  out->bytes_rx = c->bytes_rx;
  out->bytes_tx = c->bytes_tx;
  out->ssthresh_bytes = UINT32_MAX;
  if (c->flags & NP_SK_UNIX) return;
  info_tcp(c, out);
  info_cc(c, out);
}

uint32_t np_sock_connections(struct np_carrier *base, uint32_t *cursor, struct np_conn_info *out, uint32_t max) {
  struct np_sock *s = np_sock_of(base);
  uint32_t n = 0;
  uint32_t i = *cursor;
  for (; i < s->config.conns_max && n < max; i++) {
    struct np_sock_conn *c = &s->conn[i];
    if (c->state != NP_SOCK_FREE) np_sock_info(&c->stream, &out[n++]);
  }
  *cursor = i < s->config.conns_max ? i : 0;
  return n;
}
