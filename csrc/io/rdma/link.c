#include "io/rdma/link.h"

#include "base/bytes.h"
#include "base/compiler.h"

#define HELLO_MAGIC 0x4e505244u /* "NPRD" */
#define HELLO_VERSION_AT 4u
#define HELLO_ZERO_AT 5u
#define HELLO_DEPTH_AT 6u
#define HELLO_RING_AT 8u
#define HELLO_RKEY_AT 12u
#define HELLO_ADDR_AT 16u

void np_hello_put(const struct np_hello *h, uint8_t out[NP_HELLO_BYTES]) {
  np_store_be32(out, HELLO_MAGIC);
  out[HELLO_VERSION_AT] = NP_LINK_VERSION;
  out[HELLO_ZERO_AT] = 0;
  np_store_be16(out + HELLO_DEPTH_AT, (uint16_t)h->depth);
  np_store_be32(out + HELLO_RING_AT, h->ring_bytes);
  np_store_be32(out + HELLO_RKEY_AT, h->rkey);
  np_store_be64(out + HELLO_ADDR_AT, h->addr);
}

enum np_err np_hello_get(const uint8_t *data, uint32_t bytes, struct np_hello *out) {
  if (bytes < NP_HELLO_BYTES || np_load_be32(data) != HELLO_MAGIC) return NP_ERR_PROTOCOL;
  if (data[HELLO_VERSION_AT] != NP_LINK_VERSION) return NP_ERR_UNSUPPORTED;
  struct np_hello h = {
      .version = data[HELLO_VERSION_AT],
      .depth = np_load_be16(data + HELLO_DEPTH_AT),
      .ring_bytes = np_load_be32(data + HELLO_RING_AT),
      .rkey = np_load_be32(data + HELLO_RKEY_AT),
      .addr = np_load_be64(data + HELLO_ADDR_AT),
  };
  if (data[HELLO_ZERO_AT] != 0) return NP_ERR_PROTOCOL;
  if (h.depth < NP_LINK_DEPTH_MIN || h.depth > NP_LINK_DEPTH_MAX) return NP_ERR_PROTOCOL;
  if (h.ring_bytes < NP_LINK_RING_BYTES_MIN || h.ring_bytes > NP_LINK_RING_BYTES_MAX) return NP_ERR_PROTOCOL;
  if (h.addr > UINT64_MAX - h.ring_bytes) return NP_ERR_PROTOCOL; /* its end would wrap */
  *out = h;
  return NP_ERR_OK;
}

void np_link_init(struct np_link *l, uint32_t ring_bytes, uint32_t depth) {
  np_assert(ring_bytes >= NP_LINK_RING_BYTES_MIN && ring_bytes <= NP_LINK_RING_BYTES_MAX);
  np_assert(depth >= NP_LINK_DEPTH_MIN && depth <= NP_LINK_DEPTH_MAX);
  *l = (struct np_link){.ring_bytes = ring_bytes, .depth = depth};
}

void np_link_peer(struct np_link *l, const struct np_hello *peer) {
  l->peer_ring_bytes = peer->ring_bytes;
  l->peer_depth = peer->depth;
  l->snd_room = peer->ring_bytes;
  l->snd_msgs = peer->depth;
}

uint32_t np_link_span(const struct np_link *l) {
  if (l->snd_msgs <= NP_LINK_MSGS_RESERVE || l->fin_sent) return 0;
  uint32_t to_end = l->peer_ring_bytes - l->snd_at;
  return to_end < l->snd_room ? to_end : l->snd_room;
}

bool np_link_can_tell(const struct np_link *l) { return l->snd_msgs > 0; }

/* A quarter of the ring, or of it that little is left that the peer may stand still for it:
 * then a sixteenth. An eighth of the receives. Small amounts ride along with data. */
bool np_link_must_tell(const struct np_link *l) {
  if (l->snd_msgs == 0) return false;
  if (l->owed_msgs >= l->depth / 8) return true;
  if (l->owed_bytes >= l->ring_bytes / 4) return true;
  uint32_t peer_room = l->ring_bytes - l->rcv_ready - l->rcv_held - l->owed_bytes;
  return peer_room < l->ring_bytes / 4 && l->owed_bytes >= l->ring_bytes / 16;
}

uint32_t np_link_sent(struct np_link *l, uint32_t bytes, bool fin) {
  np_assert(l->snd_msgs > 0);
  np_assert(bytes == 0 || bytes <= np_link_span(l));
  np_assert(!fin || !l->fin_sent);
  uint32_t back_bytes = l->owed_bytes < NP_LINK_IMM_BYTES_MAX ? l->owed_bytes : NP_LINK_IMM_BYTES_MAX;
  uint32_t back_msgs = l->owed_msgs < NP_LINK_IMM_MSGS_MAX ? l->owed_msgs : NP_LINK_IMM_MSGS_MAX;
  l->owed_bytes -= back_bytes;
  l->owed_msgs -= back_msgs;
  l->snd_msgs--;
  l->snd_room -= bytes;
  l->snd_at += bytes;
  if (l->snd_at == l->peer_ring_bytes) l->snd_at = 0;
  l->fin_sent |= fin;
  return (fin ? NP_LINK_IMM_FIN : 0u) | back_msgs << NP_LINK_IMM_MSGS_SHIFT | back_bytes;
}

enum np_err np_link_input(struct np_link *l, uint32_t imm, uint32_t bytes) {
  uint32_t msgs = imm >> NP_LINK_IMM_MSGS_SHIFT & NP_LINK_IMM_MSGS_MAX;
  uint32_t room = imm & NP_LINK_IMM_BYTES_MAX;
  bool fin = (imm & NP_LINK_IMM_FIN) != 0;
  if (imm & NP_LINK_IMM_ZERO) return NP_ERR_PROTOCOL;
  if (l->unposted_msgs + l->owed_msgs >= l->depth) return NP_ERR_PROTOCOL;
  if (l->fin_rcvd && (bytes != 0 || fin)) return NP_ERR_PROTOCOL;
  if (msgs > l->peer_depth - l->snd_msgs || room > l->peer_ring_bytes - l->snd_room) return NP_ERR_PROTOCOL;
  if (bytes > l->ring_bytes - l->rcv_ready - l->rcv_held - l->owed_bytes) return NP_ERR_FLOW;
  l->snd_msgs += msgs;
  l->snd_room += room;
  l->rcv_ready += bytes;
  l->unposted_msgs++;
  l->fin_rcvd |= fin;
  return NP_ERR_OK;
}

uint32_t np_link_ready(const struct np_link *l) {
  uint32_t to_end = l->ring_bytes - l->rcv_at;
  return to_end < l->rcv_ready ? to_end : l->rcv_ready;
}

void np_link_taken(struct np_link *l, uint32_t bytes) {
  np_assert(bytes <= np_link_ready(l));
  l->rcv_ready -= bytes;
  l->rcv_held += bytes;
  l->rcv_at += bytes;
  if (l->rcv_at == l->ring_bytes) l->rcv_at = 0;
}

void np_link_consumed(struct np_link *l, uint32_t bytes) {
  np_assert(bytes <= l->rcv_held);
  l->rcv_held -= bytes;
  l->owed_bytes += bytes;
}

void np_link_posted(struct np_link *l, uint32_t count) {
  np_assert(count <= l->unposted_msgs);
  l->unposted_msgs -= count;
  l->owed_msgs += count;
}
