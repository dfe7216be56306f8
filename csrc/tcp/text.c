/* Segment text: the seventh check of RFC 9293 §3.10.7.4, and when to acknowledge. */
#include "tcp/tcp_int.h"

#define JOIN_MAX 256u /* bytes worth copying to save a buffer */

/* Small pieces that come in one burst, or while the session is crowded (flush.c), share a buffer. */
static bool joined(struct np_tcp_conn *c, const struct np_buf *b) {
  struct np_buf *tail = c->rcvq_tail;
  if (tail == NULL || b->len > JOIN_MAX || tail->refs != 1 || np_buf_tailroom(tail) < b->len) return false;
  memcpy(np_buf_append(tail, b->len), np_buf_cdata(b), b->len);
  return true;
}

static void add_piece(struct np_tcp_conn *c, struct np_buf *b) {
  c->rcvq_bytes += b->len;
  if (joined(c, b)) {
    np_buf_put(b);
    return;
  }
  b->next = NULL;
  if (c->rcvq_tail == NULL) {
    c->rcvq_head = b;
  } else {
    c->rcvq_tail->next = b;
  }
  c->rcvq_tail = b;
  if (c->rcvq_segs < UINT16_MAX) c->rcvq_segs++;
}

void np_tcp_rcvq_add(struct np_tcp_conn *c, struct np_buf *b) {
  while (NP_UNLIKELY(b->next != NULL)) { /* bound: the pieces of a segment */
    struct np_buf *next = b->next;
    add_piece(c, b);
    b = next;
  }
  add_piece(c, b);
}

/* A sender in its first slow start grows by what is acknowledged and has little in flight: each full
 * segment is acknowledged at once until it has sent a few (RFC 5681 §4.2 leaves that open). Small ones
 * are not: their answer carries the acknowledgment. The same for a sender that once had to wait for our
 * timer with a full segment out: its window or its memory may hold one segment, and then it would wait
 * each time. It ends with the first two that come together. */
static bool quick(const struct np_tcp *tcp, const struct np_tcp_conn *c, uint32_t largest) {
  if (largest < c->rcv_mss) return false;
  return (c->ecn & NP_EB_ONE_BY_ONE) || c->bytes_rx <= (uint64_t)tcp->config.quick_acks * c->rcv_mss;
}

/* RFC 5681 §4.2, RFC 1122 §4.2.3.2: every second full segment at once, others soon. */
void np_tcp_ack_in_order(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t len, uint32_t largest) {
  if (largest > c->rcv_mss) c->rcv_mss = (uint16_t)np_min_u32(largest, UINT16_MAX);
  c->ack_bytes += len;
  if (c->ack_bytes >= 2u * c->rcv_mss) {
    c->flags |= NP_TF_ACK_NOW;
    c->ecn &= (uint8_t)~NP_EB_ONE_BY_ONE;
  } else if (NP_UNLIKELY(quick(tcp, c, largest))) {
    c->flags |= NP_TF_ACK_NOW;
  } else if (np_tcp_mem_below(tcp, NP_TCP_MEM_MAX)) {
    c->flags |= NP_TF_ACK_NOW; /* its window may be one segment: waiting for a second would be in vain */
  } else if (!(c->flags & NP_TF_ACK_LATER)) {
    c->flags |= NP_TF_ACK_LATER;
    c->ack_due_ms = tcp->now_ms + tcp->config.delack_ms;
  }
  np_tcp_dirty(tcp, c);
}

static void ack_duplicate(struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_seg *seg) {
  c->flags |= NP_TF_ACK_NOW;
  if (!(c->flags & NP_TF_SACK)) c->dup_acks_due += seg->segs;
  np_tcp_dirty(tcp, c);
}

/* Cuts seg to what we may take, [rcv_nxt, rcv_adv) and nothing behind a FIN. */
static enum np_drop trim(struct np_tcp_conn *c, struct np_tcp_seg *seg) {
  if (np_seq_lt(seg->seq, c->rcv_nxt)) {
    uint32_t old = (uint32_t)np_seq_diff(c->rcv_nxt, seg->seq);
    if (old >= seg->len) return NP_DROP_TCP_DUP;
    if (c->flags & NP_TF_SACK) c->dsack = (struct np_tcp_block){seg->seq, c->rcv_nxt};
    seg->seq = c->rcv_nxt;
    seg->off += old;
    seg->len -= old;
  }
  np_seq edge = c->rcv_adv;
  if ((c->flags & NP_TF_RCV_FIN) && np_seq_lt(c->rcv_fin, edge)) edge = c->rcv_fin;
  int32_t room = np_seq_diff(edge, seg->seq);
  if (room <= 0) return NP_DROP_TCP_WINDOW;
  seg->len = np_min_u32(seg->len, (uint32_t)room);
  return NP_TCP_OK;
}

/* Return: NP_TCP_OK with seg->kept set when the buffer was taken, or why none of
 * its data was. */
enum np_drop np_tcp_text(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_seg *seg) {
  enum np_drop out = trim(c, seg);
  if (out != NP_TCP_OK) {
    ack_duplicate(tcp, c, seg);
    return out;
  }
  if (c->flags & NP_TF_DETACHED) {
    /* Taken and thrown away, so that the peer gets to its FIN. */
    if (!np_seq_eq(seg->seq, c->rcv_nxt)) {
      ack_duplicate(tcp, c, seg);
      return NP_DROP_TCP_CLOSED;
    }
    c->rcv_nxt = np_seq_add(c->rcv_nxt, seg->len);
    np_tcp_ack_in_order(tcp, c, seg->len, np_min_u32(seg->len, seg->largest));
    return NP_DROP_TCP_CLOSED;
  }
  uint32_t most = np_tcp_mem_takes(tcp, c);
  if (NP_UNLIKELY(most < seg->len)) {
    if (most == 0) return NP_DROP_NO_BUFFER; /* the peer sends it again */
    seg->len = most;
  }
  if (!np_seq_eq(seg->seq, c->rcv_nxt)) {
    uint32_t before = c->ooo_segs;
    out = np_tcp_ooo_add(tcp, c, seg);
    np_tcp_mem_ooo(tcp, c, before);
    ack_duplicate(tcp, c, seg);
    return out;
  }
  c->rcv_nxt = np_seq_add(c->rcv_nxt, seg->len);
  c->bytes_rx += seg->len;
  np_tcp_ack_in_order(tcp, c, seg->len, np_min_u32(seg->len, seg->largest));
  np_tcp_rcvq_add(c, np_tcp_cut(seg->buf, seg->off, seg->len));
  seg->kept = true;
  if (c->ooo_head != NULL) {
    np_tcp_ooo_drain(tcp, c);
    c->flags |= NP_TF_ACK_NOW; /* RFC 5681 §4.2: a gap was filled */
  } else if (c->sack_count != 0) {
    np_tcp_sack_trim(c);
  }
  return NP_TCP_OK;
}
