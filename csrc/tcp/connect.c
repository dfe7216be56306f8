/* Active opens, and ICMP errors about connections. */
#include "tcp/cc.h"

#define REUSE_MS 1000u /* so long after its last segment a four-tuple in TIME-WAIT may be used again */

/* Is the four-tuple free? RFC 6191 §2 and RFC 7323 §5.5 let one in TIME-WAIT be opened again by us when
 * timestamps tell old segments from new ones, and ours have moved on: without that a gateway has 28,232
 * connections a minute to one server. *iss_min is beyond what the old connection sent. */
static bool take_tuple(struct np_tcp *tcp, const struct np_flow *flow, uint32_t hash, np_seq *iss_min, bool *again) {
  struct np_tcp_conn *old = np_tcp_find(tcp, flow, hash);
  *again = false;
  if (old == NULL) return true;
  if (old->state != NP_TCP_TIME_WAIT || !(old->flags & NP_TF_TS) || tcp->now_ms - old->rx_ms < REUSE_MS) return false;
  *iss_min = np_seq_add(old->snd_nxt, UINT16_MAX + 2u);
  *again = true;
  np_tcp_close(tcp, old, NP_ERR_EOF);
  return true;
}

/* RFC 6056 §3.3.3, algorithm 3: ports to one peer follow each other from an offset
 * that nobody outside can know. Cores of one host know the same offset but nothing of
 * each other's connections: of each run of as many ports as there are cores each has one. */
static enum np_err choose_port(struct np_tcp *tcp, struct np_flow *flow, uint32_t *hash, np_seq *iss_min, bool *again) {
  uint32_t offset = np_tcp_port_offset(tcp, flow);
  uint32_t cores = np_max_u32(tcp->config.cores, 1);
  uint32_t own = tcp->config.core_index % cores;
  uint32_t count = NP_TCP_PORT_COUNT / cores;
  for (uint32_t n = 0; n < count; n++) {
    uint32_t port = NP_TCP_PORT_MIN + (offset + tcp->next_port++) % count * cores + own;
    flow->local_port = (uint16_t)port;
    if (np_tcp_listener_find(tcp, flow) != NULL) continue;
    *hash = np_tcp_flow_hash(tcp, flow);
    if (take_tuple(tcp, flow, *hash, iss_min, again)) return NP_ERR_OK;
  }
  return NP_ERR_ADDRNOTAVAIL;
}

/* RFC 9293 §3.9.2.3, MUST-46: no connection with a group, with everybody or with nobody. A subnet's
 * broadcast address is the network layer's to know: it has no neighbor, so that the opening times out. */
static bool is_group(const struct np_addr *a) {
  if (np_addr_is_zero(a)) return true;
  if (np_addr_is_v4(a)) return a->b[12] >= 224 || a->b[12] == 0;
  return a->b[0] == 0xff;
}

enum np_err np_tcp_connect(struct np_tcp *tcp, const struct np_flow *args, struct np_session *session, uint64_t now_ns,
                           struct np_stream **out) {
  np_tcp_set_now(tcp, now_ns);
  struct np_flow flow = *args;
  if (flow.remote_port == 0 || is_group(&flow.remote)) return NP_ERR_INVALID;
  if (np_tcp_mss_local(tcp, &flow.remote) == 0) return NP_ERR_NOROUTE;
  if (np_addr_is_zero(&flow.local)) {
    enum np_err err = tcp->env.source(tcp->env.ctx, &flow.remote, &flow.local);
    if (err != NP_ERR_OK) return err;
  }
  uint32_t hash;
  np_seq iss_min = np_seq_of(0);
  bool again = false; /* the four-tuple was used a moment ago */
  if (flow.local_port == 0) {
    enum np_err err = choose_port(tcp, &flow, &hash, &iss_min, &again);
    if (err != NP_ERR_OK) return err;
  } else {
    hash = np_tcp_flow_hash(tcp, &flow);
    if (!take_tuple(tcp, &flow, hash, &iss_min, &again)) return NP_ERR_ADDRINUSE;
  }
  struct np_tcp_conn *c = np_tcp_conn_new(tcp, &flow, hash);
  if (c == NULL) return NP_ERR_FULL;
  c->flags |= NP_TF_OUTGOING | NP_TF_RTX_SYN;
  if (again) c->iss = np_seq_max(c->iss, iss_min);
  c->snd_una = c->iss;
  c->snd_nxt = c->snd_end = np_seq_add(c->iss, 1);
  c->mss_peer = UINT16_MAX;
  np_tcp_set_mss(tcp, c);
  np_tcp_set_state(tcp, c, NP_TCP_SYN_SENT);
  c->stream.session = session;
  session->stream = &c->stream;
  c->rtx_due_ns = tcp->now_ns + np_tcp_rto_ns(tcp, c);
  np_tcp_timer_arm(tcp, c);
  np_tcp_dirty(tcp, c);
  *out = &c->stream;
  return NP_ERR_OK;
}

/* RFC 5461 with RFC 5927 §4: only what quotes a sequence number in flight counts;
 * hard errors end an opening, a synchronised connection only remembers them. */
bool np_tcp_error(struct np_tcp *tcp, const struct np_flow *flow, uint32_t tcp_seq, enum np_err err, bool soft,
                  uint32_t mtu_bytes) {
  struct np_tcp_conn *c = np_tcp_find(tcp, flow, np_tcp_flow_hash(tcp, flow));
  if (c == NULL) return false;
  np_seq seq = np_seq_of(tcp_seq);
  if (np_seq_lt(seq, c->snd_una) || np_seq_gt(seq, c->snd_nxt)) {
    if (mtu_bytes != 0) np_tcp_count(tcp, NP_C_TCP_PMTU_REFUSED);
    return false;
  }
  if (mtu_bytes != 0) return np_tcp_pmtu_error(tcp, c, seq, mtu_bytes);
  if (!soft && (c->state == NP_TCP_SYN_SENT || c->state == NP_TCP_SYN_RECEIVED)) {
    np_tcp_close(tcp, c, err);
  } else {
    c->soft_err = (uint8_t)err;
    c->soft_una = c->snd_una;
  }
  return true;
}
