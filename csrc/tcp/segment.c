/* Building segments. Header words are made in registers, stored once and summed
 * there; the payload's sum is kept with the queued buffer, so that sending it
 * again reads no payload. */
#include "tcp/tcp_int.h"

static uint64_t word(uint32_t first_be, uint32_t second_be) {
  return (uint64_t)__builtin_bswap32(first_be) | (uint64_t)__builtin_bswap32(second_be) << 32;
}

struct hdr {
  uint32_t ports;
  uint32_t seq;
  uint32_t ack;
  uint32_t wnd;
  uint32_t bytes; /* options included */
  uint8_t flags;
};

/* Writes the fixed header at p; options are already behind it. Sums all of it. */
static void put_header(uint8_t *p, const struct hdr *h, uint64_t sum) {
  uint64_t w0 = word(h->ports, h->seq);
  uint64_t w1 = word(h->ack, (h->bytes / 4) << 28 | (uint32_t)h->flags << 16 | h->wnd);
  np_store_64(p, w0);
  np_store_64(p + 8, w1);
  np_store_32(p + 16, 0);
  sum = np_cksum_add64(sum, w0);
  sum = np_cksum_add64(sum, w1);
  np_store_16(p + 16, np_cksum_finish(sum));
}

static uint64_t pseudo_len(uint32_t l4_len) { return __builtin_bswap32(l4_len); }

static uint32_t ports_of(const struct np_flow *f) { return (uint32_t)f->local_port << 16 | f->remote_port; }

/* An acknowledgment is leaving with whatever is sent. */
static void ack_left(struct np_tcp_conn *c) {
  c->flags &= ~(NP_TF_ACK_NOW | NP_TF_ACK_LATER);
  c->ack_bytes = 0;
  c->last_ack = c->rcv_nxt;
}

static void emit(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_buf *b, uint8_t tos) {
  c->segs_tx++;
  np_tcp_count(tcp, NP_C_TCP_SEGS_TX);
  tcp->env.output(tcp->env.ctx, b, &c->flow, c->tos | tos, &c->path, tcp->now_ns);
}

/* The port sums header and payload: the field holds the pseudo header's sum. */
static void leave_sum(struct np_buf *tx, uint64_t pseudo) {
  tx->flags |= NP_BUF_TX_CSUM;
  tx->l4_off = (uint16_t)tx->data_off;
  np_store_16(np_buf_data(tx) + 16, np_cksum_fold(pseudo));
}

/* Pushes the header of a segment of this connection in front of tx; sum is the payload's. */
static void push_header(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_buf *tx, struct hdr *h, uint32_t payload, uint64_t sum) {
  h->bytes = NP_TCP_HDR_BYTES + (c->flags & NP_TF_TS ? NP_TCP_TS_BYTES : 0);
  uint8_t *p = np_buf_push(tx, h->bytes);
  if (c->flags & NP_TF_TS) {
    uint64_t opt = word(np_tcp_ts_now(tcp, c), c->ts_recent);
    np_store_be32(p + 20, 0x0101080au);
    np_store_64(p + 24, opt);
    sum = np_cksum_add64(sum, opt);
    sum = np_cksum_add64(sum, __builtin_bswap32(0x0101080au));
  }
  h->ports = ports_of(&c->flow);
  uint64_t pseudo = c->csum_base + pseudo_len(h->bytes + payload);
  put_header(p, h, np_cksum_add64(sum, pseudo));
  if (NP_UNLIKELY(tcp->tx_caps & NP_PORT_TX_CSUM)) leave_sum(tx, pseudo);
}

/* The buffer to transmit for queued b: b itself with one more reference, or a copy
 * while a lower layer still holds b from the last time. NULL: no buffer. */
static struct np_buf *tx_buffer(struct np_tcp *tcp, struct np_buf *b) {
  struct np_tcp_txseg *s = np_txseg(b);
  if (b->refs == 1) {
    b->data_off = s->off;
    b->len = s->len;
    b->next = NULL;
    b->flags = 0;
    b->refs++;
    return b;
  }
  struct np_buf *copy = np_pool_get(tcp->env.pool);
  if (copy == NULL) return NULL;
  memcpy(np_buf_append(copy, s->len), (const uint8_t *)b + s->off, s->len);
  return copy;
}

static void account_data(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_buf *b, bool again, uint32_t fin) {
  struct np_tcp_txseg *s = np_txseg(b);
  c->last_tx_ns = tcp->now_ns;
  s->sent_ns = tcp->now_ns;
  if (c->rtx_due_ns == 0) {
    c->flags &= ~NP_TF_ZERO_WND;
    np_tcp_rto_start(tcp, c);
  } else if (c->flags & NP_TF_ZERO_WND) {
    c->flags &= ~NP_TF_ZERO_WND;
    c->rtx_due_ns = tcp->now_ns + np_tcp_rto_ns(tcp, c);
  }
  if (again) {
    np_tcp_rtx_sent(tcp, c, b);
    return;
  }
  if (np_tcp_flight(c) == 0) {
    c->rare = tcp->now_ns - c->progress_ns >= NP_TCP_RARE_NS;
    c->progress_ns = tcp->now_ns;
  }
  c->sndq_next = s->next;
  c->snd_nxt = np_seq_add(np_txend(b), fin);
  c->bytes_tx += s->len;
  tcp->env.counters->counter[NP_C_TCP_BYTES_TX] += s->len;
}

/* b leaves without those that it left with last time. */
static void apart(struct np_buf *b) {
  struct np_tcp_txseg *s = np_txseg(b);
  s->flags &= ~NP_TXS_WITH;
  if (s->next != NULL) np_txseg(s->next)->flags &= ~NP_TXS_WITH;
}

/* Sends queued b, for the first time or again. Return: false without a buffer. */
bool np_tcp_send_data(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_buf *b, bool again) {
  struct np_tcp_txseg *s = np_txseg(b);
  struct np_buf *tx = tx_buffer(tcp, b);
  if (tx == NULL) {
    c->flags |= NP_TF_NO_BUF;
    return false;
  }
  uint64_t sum = tcp->tx_caps & NP_PORT_TX_CSUM ? 0 : np_tcp_sendq_sum(b);
  uint32_t fin = 0;
  if (s->next == NULL && (c->flags & NP_TF_FIN_QUEUED) && !(again && !(c->flags & NP_TF_FIN_SENT))) {
    fin = 1;
    c->flags |= NP_TF_FIN_SENT;
    c->flags &= ~NP_TF_FIN_RTX;
  }
  bool push = (s->flags & NP_TXS_PSH) != 0 || s->next == NULL;
  struct hdr h = {
      .seq = s->seq.v,
      .ack = c->rcv_nxt.v,
      .wnd = np_tcp_window(tcp, c),
      .flags = (uint8_t)(NP_TCP_ACK | (push ? NP_TCP_PSH : 0) | (fin ? NP_TCP_FIN : 0)),
  };
  uint8_t tos = 0;
  h.flags |= np_tcp_ecn_data(c, !again && !(c->flags & NP_TF_ZERO_WND), &tos);
  push_header(tcp, c, tx, &h, s->len, sum);
  account_data(tcp, c, b, again, fin);
  if (again) apart(b);
  if (NP_UNLIKELY(c->cc_flags & (NP_CCF_RATE | NP_CCF_PACED))) {
    if (c->cc_flags & NP_CCF_RATE) np_tcp_rate_sent(tcp, c, s);
    np_tcp_pace_sent(c, s->len);
  }
  if (c->sack_count == 0) ack_left(c); /* SACK blocks go out with an ACK of their own */
  c->last_ack = c->rcv_nxt;
  emit(tcp, c, tx, tos);
  return true;
}

/* Links the pieces for the port and makes them one packet's. Return: the last one. */
static struct np_buf *gather(struct np_tcp *tcp, struct np_buf *b, uint32_t count, uint64_t *sum, bool *push) {
  struct np_buf *tail = NULL;
  uint32_t at = 0;
  for (uint32_t i = 0; i < count; i++, b = np_txnext(b)) {
    struct np_tcp_txseg *s = np_txseg(b);
    if (!(tcp->tx_caps & NP_PORT_TX_CSUM)) {
      uint16_t part = np_tcp_sendq_sum(b);
      *sum += at & 1 ? np_cksum_swap(part) : part;
    }
    at += s->len;
    *push |= (s->flags & NP_TXS_PSH) != 0;
    if (tail == NULL) {
      s->flags &= ~NP_TXS_WITH;
    } else {
      s->flags |= NP_TXS_WITH;
    }
    np_assert(b->refs == 1);
    b->refs++;
    b->data_off = s->off;
    b->len = s->len;
    b->flags = 0;
    b->next = NULL;
    if (tail != NULL) tail->next = b;
    tail = b;
  }
  if (b != NULL) np_txseg(b)->flags &= ~NP_TXS_WITH; /* sent again without it */
  return tail;
}

void np_tcp_send_gathered(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_buf *b, uint32_t count, uint32_t bytes,
                          enum np_tcp_gather how) {
  uint64_t sum = 0;
  bool push = false;
  bool again = how == NP_TCP_GATHER_AGAIN;
  struct np_buf *last = gather(tcp, b, count, &sum, &push);
  bool end = np_txnext(last) == NULL;
  uint32_t fin = end && (c->flags & NP_TF_FIN_QUEUED) && !(again && !(c->flags & NP_TF_FIN_SENT)) ? 1 : 0;
  if (fin) {
    c->flags |= NP_TF_FIN_SENT;
    c->flags &= ~NP_TF_FIN_RTX;
  }
  struct hdr h = {
      .seq = np_txseg(b)->seq.v,
      .ack = c->rcv_nxt.v,
      .wnd = np_tcp_window(tcp, c),
      .flags = (uint8_t)(NP_TCP_ACK | (push || end ? NP_TCP_PSH : 0) | (fin ? NP_TCP_FIN : 0)),
  };
  uint8_t tos = 0;
  h.flags |= np_tcp_ecn_data(c, !again, &tos);
  b->flags = NP_BUF_GATHERED;
  push_header(tcp, c, b, &h, bytes, sum);
  if (bytes > c->mss && how == NP_TCP_GATHER_NEW) {
    b->flags |= NP_BUF_GSO;
    b->gso_bytes = (uint16_t)c->mss;
    c->segs_tx += (bytes - 1) / c->mss; /* emit counts one */
    tcp->env.counters->counter[NP_C_TCP_SEGS_TX] += (bytes - 1) / c->mss;
  }
  struct np_buf *piece = b;
  for (uint32_t i = 0; i < count; i++) {
    struct np_buf *next = np_txnext(piece);
    account_data(tcp, c, piece, again, piece == last ? fin : 0);
    if (NP_UNLIKELY(c->cc_flags & NP_CCF_RATE)) np_tcp_rate_sent(tcp, c, np_txseg(piece));
    piece = next;
  }
  if (NP_UNLIKELY(c->cc_flags & NP_CCF_PACED)) np_tcp_pace_sent(c, bytes);
  if (c->sack_count == 0) ack_left(c);
  c->last_ack = c->rcv_nxt;
  emit(tcp, c, b, tos);
}

bool np_tcp_send_empty(struct np_tcp *tcp, struct np_tcp_conn *c, uint8_t flags, np_seq seq) {
  struct np_buf *b = np_pool_get_control(tcp->env.pool);
  if (b == NULL) {
    c->flags |= NP_TF_NO_BUF;
    return false;
  }
  uint64_t sum = 0;
  struct hdr h = {.seq = seq.v, .ack = c->rcv_nxt.v, .flags = flags, .ports = ports_of(&c->flow)};
  h.wnd = flags & NP_TCP_RST ? 0 : np_tcp_window(tcp, c);
  h.flags |= np_tcp_ecn_ack(c);
  bool dsack = !np_seq_eq(c->dsack.start, c->dsack.end);
  if ((c->flags & NP_TF_SACK) && (c->sack_count != 0 || dsack) && !(flags & NP_TCP_RST)) {
    uint8_t opts[40];
    uint32_t n = 0;
    if (c->flags & NP_TF_TS) n = np_tcp_opts_put_ts(opts, np_tcp_ts_now(tcp, c), c->ts_recent);
    n += np_tcp_opts_put_sack(opts + n, &c->dsack, c->sack, c->sack_count, (uint32_t)sizeof opts - n);
    c->dsack.end = c->dsack.start;
    h.bytes = NP_TCP_HDR_BYTES + n;
    uint8_t *p = np_buf_append(b, h.bytes);
    memcpy(p + NP_TCP_HDR_BYTES, opts, n);
    sum = np_cksum_add(c->csum_base + pseudo_len(h.bytes), opts, n);
    put_header(p, &h, sum);
  } else {
    push_header(tcp, c, b, &h, 0, sum);
  }
  ack_left(c);
  emit(tcp, c, b, 0);
  return true;
}

/* SYN in SYN-SENT, SYN-ACK in SYN-RECEIVED. */
bool np_tcp_send_syn(struct np_tcp *tcp, struct np_tcp_conn *c) {
  bool reply = c->state == NP_TCP_SYN_RECEIVED;
  bool out = (c->flags & NP_TF_OUTGOING) != 0;
  const struct np_tcp_config *cfg = &tcp->config;
  struct np_tcp_synack a = {
      .seq = c->iss,
      .ack = c->rcv_nxt,
      .tsval = np_tcp_ts_now(tcp, c),
      .tsecr = c->ts_recent,
      .mss = (uint16_t)np_tcp_mss_local(tcp, &c->flow.remote),
      .wnd = (uint16_t)np_tcp_mem_syn_window(tcp, c->mss),
      .wscale = 0xff,
  };
  bool offer = out && !reply;
  if (offer ? cfg->window_scaling : (c->flags & NP_TF_WSCALE) != 0) a.wscale = tcp->rcv_wscale;
  a.sack = offer ? cfg->sack : (c->flags & NP_TF_SACK) != 0;
  a.ts = offer ? cfg->timestamps : (c->flags & NP_TF_TS) != 0;
  if (!reply) a.ack = np_seq_of(0);
  struct np_buf *b = np_pool_get(tcp->env.pool);
  if (b == NULL) {
    c->flags |= NP_TF_NO_BUF;
    return false;
  }
  uint8_t opts[40];
  uint32_t n = np_tcp_opts_put_mss(opts, a.mss == 0 ? NP_TCP_MSS_V4 : a.mss);
  if (a.sack) n += np_tcp_opts_put_sack_ok(opts + n);
  if (a.ts) n += np_tcp_opts_put_ts(opts + n, a.tsval, a.tsecr);
  if (a.wscale != 0xff) n += np_tcp_opts_put_wscale(opts + n, a.wscale);
  struct hdr h = {.ports = ports_of(&c->flow), .seq = a.seq.v, .ack = a.ack.v, .wnd = a.wnd, .bytes = NP_TCP_HDR_BYTES + n};
  h.flags = (uint8_t)(NP_TCP_SYN | (reply ? NP_TCP_ACK : 0) | np_tcp_ecn_syn_out(tcp, c, reply));
  uint8_t *p = np_buf_append(b, h.bytes);
  memcpy(p + NP_TCP_HDR_BYTES, opts, n);
  put_header(p, &h, np_cksum_add(c->csum_base + pseudo_len(h.bytes), opts, n));
  c->rcv_adv = np_seq_max(c->rcv_adv, np_seq_add(c->rcv_nxt, a.wnd)); /* without the peer's number: counted from 0 */
  if (reply) ack_left(c);
  emit(tcp, c, b, 0);
  return true;
}

/* A segment of no connection: path unknown, looked up for this one. */
static void emit_raw(struct np_tcp *tcp, const struct np_flow *flow, struct hdr *h, const uint8_t *opts, uint32_t n) {
  struct np_buf *b = np_pool_get(tcp->env.pool);
  if (b == NULL) return; /* counted by the pool; the peer asks again */
  h->ports = ports_of(flow);
  h->bytes = NP_TCP_HDR_BYTES + n;
  uint8_t *p = np_buf_append(b, h->bytes);
  uint64_t sum = np_cksum_pseudo(&flow->local, &flow->remote, NP_PROTO_TCP, h->bytes);
  if (n != 0) {
    memcpy(p + NP_TCP_HDR_BYTES, opts, n);
    sum = np_cksum_add(sum, opts, n);
  }
  put_header(p, h, sum);
  struct np_tcp_path path = {.flow_label = np_tcp_flow_label(tcp, flow)};
  np_tcp_count(tcp, NP_C_TCP_SEGS_TX);
  tcp->env.output(tcp->env.ctx, b, flow, 0, &path, tcp->now_ns);
}

bool np_tcp_send_synack_raw(struct np_tcp *tcp, const struct np_flow *flow, const struct np_tcp_synack *a) {
  uint8_t opts[40];
  uint32_t n = np_tcp_opts_put_mss(opts, a->mss);
  if (a->sack) n += np_tcp_opts_put_sack_ok(opts + n);
  if (a->ts) n += np_tcp_opts_put_ts(opts + n, a->tsval, a->tsecr);
  if (a->wscale != 0xff) n += np_tcp_opts_put_wscale(opts + n, a->wscale);
  struct hdr h = {.seq = a->seq.v, .ack = a->ack.v, .wnd = a->wnd, .flags = NP_TCP_SYN | NP_TCP_ACK};
  if (a->ece) h.flags |= NP_TCP_ECE;
  emit_raw(tcp, flow, &h, opts, n);
  return true;
}

void np_tcp_reply_rst(struct np_tcp *tcp, const struct np_tcp_seg *seg) {
  if (seg->flags & NP_TCP_RST) return;
  if (!np_tcp_guard_reset(tcp)) {
    np_tcp_count(tcp, NP_C_TCP_RST_LIMITED);
    return;
  }
  struct hdr h = {.flags = NP_TCP_RST};
  if (seg->flags & NP_TCP_ACK) {
    h.seq = seg->ack.v;
  } else {
    uint32_t len = seg->len + (seg->flags & NP_TCP_SYN ? 1u : 0u) + (seg->flags & NP_TCP_FIN ? 1u : 0u);
    h.ack = seg->seq.v + len;
    h.flags |= NP_TCP_ACK;
  }
  np_tcp_count(tcp, NP_C_TCP_RST_TX);
  emit_raw(tcp, &seg->pkt->flow, &h, NULL, 0);
}

/* RFC 9293 §3.10.5: <SEQ=SND.NXT><CTL=RST>; with ACK, which does no harm and helps middleboxes. */
void np_tcp_send_rst(struct np_tcp *tcp, struct np_tcp_conn *c) {
  struct hdr h = {.seq = c->snd_nxt.v, .ack = c->rcv_nxt.v, .flags = NP_TCP_RST | NP_TCP_ACK};
  np_tcp_count(tcp, NP_C_TCP_RST_TX);
  c->segs_tx++;
  emit_raw(tcp, &c->flow, &h, NULL, 0);
}
