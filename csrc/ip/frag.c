/* What is larger than the way carries: ICMP and UDP echo send back what a peer sent in fragments, and
 * UDP sockets send what Go likes. Nothing else of ours is ever too large: TCP cuts by its MSS. */
#include "ip/internal.h"

/* RFC 7739 §5.3: of one destination's they differ, and those of another are not known from them. */
uint32_t np_frag_id(struct np_ip *ip, const struct np_addr *dst) {
  uint64_t h = np_hash_addr(dst, &ip->hash_key);
  return (uint32_t)(h >> 32) + ip->frag_count[h % NP_FRAG_COUNTERS]++;
}

static void put_ip4(struct np_buf *b, const struct np_addr *src, const struct np_addr *dst, uint8_t proto, uint8_t tos, uint8_t hops,
                    uint32_t id, uint32_t off, bool more) {
  uint32_t len = b->len + NP_IP4_BYTES;
  uint8_t *p = np_buf_push(b, NP_IP4_BYTES);
  np_wire_put_ip4_ttl(p, src, dst, proto, tos, hops, (uint16_t)id, (uint16_t)len);
  uint16_t before = np_load_16(p + NP_IP4_FRAG);
  np_store_be16(p + NP_IP4_FRAG, (uint16_t)(off / 8 | (more ? NP_IP4_MF : 0)));
  np_store_16(p + NP_IP4_CKSUM, np_cksum_update16(np_load_16(p + NP_IP4_CKSUM), before, np_load_16(p + NP_IP4_FRAG)));
}

static void put_ip6(struct np_buf *b, const struct np_addr *src, const struct np_addr *dst, uint8_t proto, uint8_t tos, uint8_t hops,
                    uint32_t id, uint32_t off, bool more, uint32_t label) {
  uint8_t *p = np_buf_push(b, NP_IP6_FRAGMENT_BYTES);
  p[0] = proto;
  p[1] = 0;
  np_store_be16(p + 2, (uint16_t)(off | (more ? 1u : 0u)));
  np_store_be32(p + 4, id);
  uint32_t len = b->len;
  p = np_buf_push(b, NP_IP6_BYTES);
  np_wire_put_ip6(p, src, dst, NP_IP6_FRAGMENT, tos, hops, (uint16_t)len);
  np_store_be32(p, np_load_be32(p) | label);
}

enum np_err np_frag_send(struct np_ip *ip, const struct np_frag_to *to, struct np_buf *buf, const struct np_addr *src,
                         const struct np_addr *dst, uint8_t proto, uint8_t tos, uint8_t hops, uint32_t mtu_bytes) {
  bool v4 = np_addr_is_v4(dst);
  uint32_t header = v4 ? NP_IP4_BYTES : NP_IP6_BYTES + NP_IP6_FRAGMENT_BYTES;
  uint32_t len = np_buf_total(buf);
  uint32_t room = ip->env.pool->chunk_bytes - NP_BUF_DATA_OFF;
  uint32_t each = np_min_u32(mtu_bytes - header, room) & ~7u;
  uint32_t count = (len + each - 1) / each;
  if (np_pool_avail(ip->env.pool) < count) {
    ip->env.counters->drop[NP_DROP_TX_NO_BUFFER]++;
    np_buf_put_chain(buf);
    return NP_ERR_NOBUF;
  }
  uint32_t id = np_frag_id(ip, dst);
  enum np_err err = NP_ERR_OK;
  for (uint32_t off = 0; off < len; off += each) { /* bound: count */
    struct np_buf *b = np_pool_get(ip->env.pool);
    if (b == NULL) { /* counted above, but a neighbor who has to be asked takes one too */
      ip->env.counters->drop[NP_DROP_TX_NO_BUFFER]++;
      err = NP_ERR_NOBUF;
      break;
    }
    uint32_t n = np_min_u32(each, len - off);
    bool more = off + n < len;
    np_buf_copy(buf, off, np_buf_append(b, n), n);
    if (v4) {
      put_ip4(b, src, dst, proto, tos, hops, id, off, more);
    } else {
      put_ip6(b, src, dst, proto, tos, hops, id, off, more, to->path != NULL ? to->path->flow_label : 0);
    }
    ++*np_ip_counter(ip, NP_C_IP_FRAGS_TX);
    if (to->mac != NULL) {
      np_ip_send_frame(ip, to->ifc, b, to->mac, v4 ? NP_ETHERTYPE_IP4 : NP_ETHERTYPE_IP6);
      continue;
    }
    err = np_ip_output_pushed(ip, b, src, dst, to->path, to->now_ns);
    if (err != NP_ERR_OK) break; /* the rest of it would help nobody */
  }
  np_buf_put_chain(buf);
  return err;
}
