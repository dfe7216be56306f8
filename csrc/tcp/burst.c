/* A burst's segments, with memory asked for ahead of its use. Where there are many connections nothing of a segment's
 * is in any cache. What is asked for early comes while others are worked on; but only so many lines are on their
 * way at once, and who asks for more waits. So each line is asked for shortly before it is needed: buckets when a
 * burst is hashed, what input touches a few segments ahead, what sending touches in the flush (flush.c). */
#include "tcp/tcp_int.h"

#define ACKED_AHEAD (NP_TCP_AHEAD / 2) /* segments: its connection's first lines have come then */

static void prefetch_conn(struct np_tcp *tcp, struct np_pkt *pkt) {
  pkt->slot = np_tcp_likely(tcp, pkt->hash);
  if (pkt->slot != NP_TCP_NIL) np_tcp_prefetch(np_tcp_at(tcp, pkt->slot), 0, NP_TCP_INPUT_BYTES);
}

/* Something is in flight, which the segment probably acknowledges: that touches what sending does, and frees a buffer. */
static void prefetch_acked(struct np_tcp *tcp, const struct np_pkt *pkt) {
  if (pkt->slot == NP_TCP_NIL) return;
  struct np_tcp_conn *c = np_tcp_at(tcp, pkt->slot);
  struct np_buf *b = c->sndq_head;
  if (b == NULL) return;
  NP_PREFETCH_W(b);
  NP_PREFETCH_W(b->priv);
  np_tcp_prefetch(c, NP_TCP_INPUT_BYTES, NP_TCP_HOT_BYTES);
}

void np_tcp_burst(struct np_tcp *tcp, struct np_pkt *pkts, uint32_t n, uint64_t now_ns) {
  for (uint32_t i = 0; i < n; i++) {
    pkts[i].hash = np_tcp_flow_hash(tcp, &pkts[i].flow);
    NP_PREFETCH(&tcp->buckets[pkts[i].hash & tcp->bucket_mask]);
  }
  /* Three cursors: the last one works, the others are ahead of it. */
  for (uint32_t i = 0; i < n + NP_TCP_AHEAD; i++) {
    uint32_t acked = i - (NP_TCP_AHEAD - ACKED_AHEAD);
    if (i < n) prefetch_conn(tcp, &pkts[i]);
    if (acked < n) prefetch_acked(tcp, &pkts[acked]); /* before the first one it is far above n */
    if (i >= NP_TCP_AHEAD) np_tcp_input(tcp, &pkts[i - NP_TCP_AHEAD], now_ns);
  }
}
