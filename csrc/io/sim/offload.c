#include "io/sim/offload.h"

#include <stdbool.h>
#include <string.h>

#include "base/bytes.h"
#include "base/cksum.h"

#define FIN_PSH 0x09u
#define CWR 0x80u
#define PROTO_TCP 6u

void np_sim_fill_sum(const struct np_sim_offload *o, uint8_t *frame, uint32_t len) {
  uint64_t sum = np_cksum_add(0, frame + o->l4_off, len - o->l4_off); /* the field is part of it */
  np_store_16(frame + o->l4_off + 16, np_cksum_finish(sum));
}

/* Lengths, identification and IPv4's checksum of the k-th segment; the pseudo header's sum for its length.
 * No IP options: the type is in front of the IP header, tagged or not. */
static void fix_ip(const struct np_sim_offload *o, uint8_t *frame, uint32_t len, uint32_t k) {
  uint32_t l4_len = len - o->l4_off;
  bool v4 = o->l4_off < 54 || np_load_be16(frame + o->l4_off - 22) == 0x0800;
  uint8_t *ip = frame + o->l4_off - (v4 ? 20 : 40);
  struct np_addr a;
  struct np_addr b;
  if (v4) {
    np_store_be16(ip + 2, (uint16_t)(20 + l4_len));
    np_store_be16(ip + 4, (uint16_t)(np_load_be16(ip + 4) + k));
    np_store_16(ip + 10, 0);
    np_store_16(ip + 10, np_cksum_finish(np_cksum_add(0, ip, 20)));
    a = np_addr_from_v4_be(ip + 12);
    b = np_addr_from_v4_be(ip + 16);
  } else {
    np_store_be16(ip + 4, (uint16_t)l4_len);
    a = np_addr_from_v6(ip + 8);
    b = np_addr_from_v6(ip + 24);
  }
  np_store_16(frame + o->l4_off + 16, np_cksum_fold(np_cksum_pseudo(&a, &b, PROTO_TCP, l4_len)));
}

void np_sim_segment(const struct np_sim_offload *o, const uint8_t *frame, uint32_t len, uint32_t gso_bytes) {
  uint8_t out[9216];
  const uint8_t *tcp = frame + o->l4_off;
  uint32_t header = o->l4_off + (uint32_t)(tcp[12] >> 4) * 4;
  np_assert(header < len && gso_bytes > 0 && header + gso_bytes <= sizeof out);
  for (uint32_t at = header, k = 0; at < len; at += gso_bytes, k++) { /* bound: the packet */
    uint32_t n = np_min_u32(gso_bytes, len - at);
    memcpy(out, frame, header);
    memcpy(out + header, frame + at, n);
    uint8_t *t = out + o->l4_off;
    np_store_be32(t + 4, np_load_be32(tcp + 4) + (at - header));
    if (at + n < len) t[13] &= (uint8_t)~FIN_PSH;
    if (k > 0) t[13] &= (uint8_t)~CWR;
    fix_ip(o, out, header + n, k);
    np_sim_fill_sum(o, out, header + n);
    o->send(o->ctx, o->dir, out, header + n);
  }
}
