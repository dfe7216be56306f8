/* Joining received segments: those that lie side by side in a burst and continue each other become
 * one chain with a count. Before flows are hashed, so that all but the first cost neither hash
 * nor lookup nor header prediction: that is what is gained. Segments of several flows in turns are
 * not joined: finding them by their hash gained nothing (measured: perf/README.md).
 *
 * Joined are only segments that header prediction could take: ACK and data, no flag but PSH, the
 * same options (none, or timestamps as everybody lays them out), same ECN bits, ACK and timestamps
 * not going back. The first one's header stands for sequence number and TSval (RFC 7323 §4.3 wants
 * the earliest one's), the last one's for ACK, window and TSecr. The frames stay in the buffers as
 * they came, so that a drop can be captured. */
#include "tcp/tcp_int.h"

#define SEGS_MAX 64u
#define L4_BYTES_MAX 65535u
#define TS_WORD 0x0101080au

static const uint8_t *header(const struct np_pkt *p) { return np_buf_cdata(p->buf) + p->l4_off; }
static uint32_t header_bytes(const struct np_pkt *p) { return (uint32_t)p->payload_off - p->l4_off; }

/* What a segment must be like to be joined to another, or be joined to. */
static bool eligible(const struct np_pkt *p) {
  if ((p->tcp_flags & ~NP_TCP_PSH) != NP_TCP_ACK || p->payload_off < p->l4_off || p->fragmented) return false;
  uint32_t hdr = header_bytes(p);
  if (p->l4_len <= hdr || !np_tcp_whole(p)) return false;
  if (p->buf->len <= p->payload_off) return false; /* the buffer with its headers would be cut off the chain */
  return hdr == NP_TCP_HDR_BYTES || (hdr == NP_TCP_HDR_BYTES + NP_TCP_TS_BYTES && np_load_be32(header(p) + 20) == TS_WORD);
}

static bool not_back(const uint8_t *before, const uint8_t *after) {
  uint32_t d = np_load_be32(after) - np_load_be32(before);
  return d < UINT32_C(1) << 30;
}

/* b, whose sequence number comes right behind a's last, differs in nothing else. */
static bool follows(const struct np_pkt *a, const struct np_pkt *b) {
  uint32_t hdr = header_bytes(a);
  if (!np_flow_eq(&a->flow, &b->flow) || (a->merged == 0 && !eligible(a)) || !eligible(b)) return false;
  if (hdr != header_bytes(b) || a->l4_off != b->l4_off || a->tos != b->tos || a->vlan != b->vlan || a->link_dst != b->link_dst ||
      a->buf->iface != b->buf->iface) {
    return false;
  }
  if (a->merged + 1u >= SEGS_MAX || a->l4_len + (b->l4_len - hdr) > L4_BYTES_MAX) return false;
  const uint8_t *p = header(b);
  const uint8_t *last = a->merged != 0 ? a->last_tcp : header(a);
  if (!not_back(last + 8, p + 8)) return false;
  return hdr == NP_TCP_HDR_BYTES || (not_back(last + 24, p + 24) && not_back(last + 28, p + 28));
}

/* Return: the last piece of the chain. */
static struct np_buf *join(struct np_pkt *a, struct np_buf *tail, const struct np_pkt *b) {
  uint32_t hdr = header_bytes(b);
  uint32_t len = b->l4_len - hdr;
  if (a->merged == 0) a->seg_bytes = (uint16_t)(a->l4_len - hdr);
  a->last_tcp = header(b);
  a->merged++;
  a->l4_len = (uint16_t)(a->l4_len + len);
  a->seg_bytes = (uint16_t)np_max_u32(a->seg_bytes, len);
  a->tcp_flags |= b->tcp_flags;
  tail = np_tcp_last_piece(tail);
  tail->next = np_tcp_cut(b->buf, b->payload_off, len);
  tail->next->flags |= NP_BUF_JOINED;
  return tail->next;
}

void np_tcp_gro_first(struct np_pkt *pkt, struct np_pkt *out) {
  uint32_t hdr = header_bytes(pkt);
  struct np_buf *last = pkt->buf;
  while ((last->next->flags & NP_BUF_JOINED) == 0) last = last->next; /* bound: the pieces, one of which is marked */
  struct np_buf *rest = last->next;
  last->next = NULL;
  *out = *pkt;
  out->merged = 0;
  out->l4_len = (uint16_t)(np_buf_chain_len(pkt->buf) - pkt->l4_off);
  out->tcp_flags = header(pkt)[13];
  np_buf_push(rest, pkt->payload_off); /* all of the same form: its headers are still there */
  rest->flags &= (uint16_t)~NP_BUF_JOINED;
  pkt->buf = rest;
  pkt->merged--;
  pkt->l4_len = (uint16_t)(pkt->l4_len - (out->l4_len - hdr));
  pkt->tcp_flags = header(pkt)[13];
}

uint32_t np_tcp_gro(struct np_tcp *tcp, struct np_pkt *pkts, uint32_t n) {
  if (!tcp->config.gro || n < 2) return n;
  uint32_t out = 0;
  uint32_t next = 0; /* sequence number behind the last one kept */
  struct np_buf *tail = NULL;
  for (uint32_t i = 0; i < n; i++) {
    const struct np_pkt *b = &pkts[i];
    uint32_t seq = np_load_be32(header(b) + 4);
    uint32_t end = seq + b->l4_len - header_bytes(b);
    if (NP_UNLIKELY(seq == next && i != 0) && follows(&pkts[out - 1], b)) {
      tail = join(&pkts[out - 1], tail, b);
    } else {
      tail = b->buf;
      if (out != i) pkts[out] = *b;
      out++;
    }
    next = end;
  }
  tcp->env.counters->counter[NP_C_TCP_GRO] += n - out;
  return out;
}
