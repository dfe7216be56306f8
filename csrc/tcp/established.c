/* Header prediction: in ESTABLISHED, a segment that is exactly what comes next,
 * acknowledges something sensible and changes nothing else, is done here. Anything
 * unusual goes the long way; both ways give the same result. */
#include "tcp/cc.h"

#define TS_WORD 0x0101080au /* NOP NOP TS: how everybody lays it out (RFC 7323, appendix A) */

/* Return: true when the segment was taken care of. */
bool np_tcp_fast(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_pkt *pkt) {
  const uint8_t *p = np_buf_cdata(pkt->buf) + pkt->l4_off;
  uint32_t want_hdr = c->flags & NP_TF_TS ? NP_TCP_HDR_BYTES + NP_TCP_TS_BYTES : NP_TCP_HDR_BYTES;
  uint32_t hdr_len = (uint32_t)pkt->payload_off - pkt->l4_off;
  uint32_t busy = NP_TF_RCV_FIN | NP_TF_DETACHED | NP_TF_ZERO_WND;
  if (c->state != NP_TCP_ESTABLISHED || (pkt->tcp_flags & ~NP_TCP_PSH) != NP_TCP_ACK || hdr_len != want_hdr ||
      (c->flags & busy) != 0 || c->ca_state != NP_CA_OPEN || c->ooo_head != NULL || NP_UNLIKELY(np_tcp_ecn_marked(c, pkt))) {
    return false;
  }
  if (NP_UNLIKELY(!np_tcp_whole(pkt)) || pkt->l4_len < hdr_len) return false;
  uint32_t len = pkt->l4_len - hdr_len;
  np_seq seq = np_seq_of(np_load_be32(p + 4));
  const uint8_t *last = NP_UNLIKELY(pkt->merged != 0) ? pkt->last_tcp : p; /* its ACK is the latest */
  np_seq ack = np_seq_of(np_load_be32(last + 8));
  uint32_t acked = (uint32_t)np_seq_diff(ack, c->snd_una);
  if (!np_seq_eq(seq, c->rcv_nxt) || acked > np_tcp_flight(c) || (acked == 0 && len == 0) || c->sacked_segs != 0) return false;
  /* its window is older than ours, or opens */
  if (NP_UNLIKELY(acked == 0 && (np_seq_lt(seq, c->snd_wl1) || c->snd_wnd == 0))) return false;
  int32_t room = np_seq_diff(c->rcv_adv, seq);
  if (len != 0 && (room < 0 || (uint32_t)room < len || np_tcp_mem_below(tcp, NP_TCP_MEM_MAX))) return false;
  uint32_t tsecr = 0;
  if (c->flags & NP_TF_TS) {
    uint32_t tsval = np_load_be32(p + 24);
    if (np_load_be32(p + 20) != TS_WORD || (int32_t)(tsval - c->ts_recent) < 0) return false;
    tsecr = np_load_be32(last + 28);
    if (len != 0) np_tcp_tune(tcp, c, tsecr);
    if (np_seq_le(seq, c->last_ack)) {
      c->ts_recent = tsval;
      c->ts_recent_ms = tcp->now_ms;
    }
  }
  c->snd_wnd = (uint32_t)np_load_be16(last + 14) << c->snd_wscale;
  c->max_wnd = np_max_u32(c->max_wnd, c->snd_wnd);
  c->snd_wl1 = seq;
  c->snd_wl2 = ack;
  c->rx_ms = tcp->now_ms;
  c->flags &= ~NP_TF_KEEPALIVE;
  uint32_t segs = 1u + pkt->merged;
  tcp->env.counters->counter[NP_C_TCP_FAST_PATH] += segs;
  c->segs_rx += segs;
  if (acked != 0) {
    np_tcp_ack_queue(tcp, c, ack, tsecr);
    c->dup_acks = 0;
    c->reno_bytes = 0;
    np_tcp_cc_told(tcp, c, acked, acked + np_tcp_flight(c));
    np_tcp_ack_timers(tcp, c);
    if (len == 0) np_tcp_timer_rest(tcp, c);
    np_tcp_wake_writer(tcp, c);
  }
  if (c->sndq_next != NULL) np_tcp_dirty(tcp, c);
  tcp->env.counters->counter[NP_C_TCP_SEGS_RX] += segs;
  tcp->env.counters->counter[NP_C_DELIVERED_PKTS] += segs;
  if (len == 0) {
    np_buf_put_chain(pkt->buf);
    return true;
  }
  struct np_buf *b = np_tcp_cut(pkt->buf, pkt->payload_off, len);
  c->rcv_nxt = np_seq_add(c->rcv_nxt, len);
  c->bytes_rx += len;
  np_tcp_ack_in_order(tcp, c, len, NP_UNLIKELY(pkt->merged != 0) ? pkt->seg_bytes : len);
  np_tcp_rcvq_add(c, b);
  return true;
}
