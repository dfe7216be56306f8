/* See wire.h. Faults are of the sender: that a link loses, repeats or spoils what was sent is no concern here. */
#include "wire.h"

#include <stdio.h>
#include <string.h>

#include "base/cksum.h"
#include "tcp/options.h"
#include "wire/hdr.h"

#define FIN 0x01u
#define SYN 0x02u
#define RST 0x04u
#define ACK 0x10u

struct seg {
  struct np_addr src, dst;
  uint16_t src_port, dst_port;
  uint32_t seq, ack, wnd, len;
  uint8_t flags;
  const uint8_t *payload;
  uint32_t opt_bytes;
  struct np_tcp_opts opts;
};

static uint64_t mix(uint64_t h, uint64_t v) {
  h = (h ^ v) * UINT64_C(0x9e3779b97f4a7c15);
  return h ^ h >> 32;
}

void wire_note(struct wire *w, const void *bytes, uint32_t len, uint64_t at_ns, uint32_t what) {
  const uint8_t *p = bytes;
  uint64_t h = mix(w->hash, at_ns);
  h = mix(h, (uint64_t)what << 32 | len);
  for (; len >= 8; len -= 8, p += 8) h = mix(h, np_load_64(p));
  uint64_t rest = 0;
  for (; len > 0; len--, p++) rest = rest << 8 | *p;
  w->hash = mix(h, rest);
}

uint32_t wire_key(const struct np_addr *src, uint16_t src_port, const struct np_addr *dst, uint16_t dst_port) {
  if (src_port == 7) return wire_key(dst, dst_port, src, 1);
  if (dst_port == 7) dst_port = 1;
  uint64_t h = mix(1, np_load_64(src->b));
  h = mix(h, np_load_64(src->b + 8));
  h = mix(h, np_load_64(dst->b));
  h = mix(h, np_load_64(dst->b + 8));
  return (uint32_t)mix(h, (uint64_t)src_port << 16 | dst_port);
}

static void fault(struct wire *w, const struct seg *g, const char *what, uint32_t a, uint32_t b) {
  if (w->what[0]) return;
  snprintf(w->what, sizeof w->what, "wire: port %u to %u, flags %02x, %u bytes at %u: %s (%u, %u)", g->src_port, g->dst_port,
           g->flags, g->len, g->seq, what, a, b);
}

/* Return: false when it is no whole TCP segment. The sender's own checksums must be right. */
static bool parse(struct wire *w, const uint8_t *f, uint32_t len, struct seg *g) {
  if (len < 54) return false;
  uint32_t type = np_load_be16(f + NP_ETH_TYPE);
  const uint8_t *l3 = f + NP_ETH_BYTES;
  uint32_t l4 = NP_ETH_BYTES + (type == NP_ETHERTYPE_IP4 ? NP_IP4_BYTES : NP_IP6_BYTES);
  uint32_t total;
  if (type == NP_ETHERTYPE_IP4 && l3[NP_IP4_PROTO] == 6) {
    g->src = np_addr_from_v4_be(l3 + NP_IP4_SRC);
    g->dst = np_addr_from_v4_be(l3 + NP_IP4_DST);
    total = NP_ETH_BYTES + np_load_be16(l3 + NP_IP4_LEN);
  } else if (type == NP_ETHERTYPE_IP6 && l3[NP_IP6_NEXT] == 6) {
    g->src = np_addr_from_v6(l3 + NP_IP6_SRC);
    g->dst = np_addr_from_v6(l3 + NP_IP6_DST);
    total = NP_ETH_BYTES + NP_IP6_BYTES + np_load_be16(l3 + NP_IP6_LEN);
  } else {
    return false;
  }
  const uint8_t *p = f + l4;
  if (total > len || total < l4 + 20) return false;
  g->src_port = np_load_be16(p);
  g->dst_port = np_load_be16(p + 2);
  g->seq = np_load_be32(p + 4);
  g->ack = np_load_be32(p + 8);
  uint32_t hdr = (uint32_t)(p[NP_TCP_DOFF] >> 4) * 4;
  g->flags = p[NP_TCP_FLAGS];
  g->wnd = np_load_be16(p + 14);
  if (hdr < 20 || l4 + hdr > total) return false;
  g->payload = p + hdr;
  g->len = total - l4 - hdr;
  g->opt_bytes = hdr - 20;
  uint64_t sum = np_cksum_pseudo(&g->src, &g->dst, 6, total - l4);
  if (np_cksum_fold(np_cksum_add(sum, p, total - l4)) != 0xffff) fault(w, g, "sent with a wrong checksum", 0, 0);
  if (!np_tcp_opts_parse(p + 20, hdr - 20, (g->flags & SYN) != 0, &g->opts)) fault(w, g, "sent with bad options", 0, 0);
  return true;
}

static int order(const struct seg *g) {
  int d = memcmp(&g->src, &g->dst, sizeof g->src);
  return d != 0 ? d : (int)g->src_port - (int)g->dst_port;
}

/* The segment's connection, *from: which side sent it. NULL: no room. */
static struct wire_conn *find(struct wire *w, const struct seg *g, uint32_t *from) {
  bool low = order(g) <= 0;
  *from = low ? 0 : 1;
  const struct np_addr *a = low ? &g->src : &g->dst;
  const struct np_addr *b = low ? &g->dst : &g->src;
  uint16_t pa = low ? g->src_port : g->dst_port;
  uint16_t pb = low ? g->dst_port : g->src_port;
  uint32_t at = wire_key(a, pa, b, pb == 7 ? 2 : pb) % WIRE_CONNS;
  for (uint32_t n = 0; n < 64; n++, at = (at + 1) % WIRE_CONNS) {
    struct wire_conn *c = &w->conn[at];
    if (!c->used) {
      c->used = true;
      c->addr[0] = *a;
      c->addr[1] = *b;
      c->port[0] = pa;
      c->port[1] = pb;
      return c;
    }
    if (c->port[0] == pa && c->port[1] == pb && np_addr_eq(&c->addr[0], a) && np_addr_eq(&c->addr[1], b)) return c;
  }
  w->full = true;
  return NULL;
}

static void take_syn(struct wire_side *s, const struct seg *g) {
  *s = (struct wire_side){.iss = g->seq, .max_end = 1, .known = true, .wscale = g->opts.has_wscale ? g->opts.wscale : 0xff, .mss = g->opts.mss};
  s->has_ts = g->opts.has_ts;
  s->tsval = g->opts.tsval;
  s->sack_ok = g->opts.sack_ok;
  s->key = wire_key(&g->src, g->src_port, &g->dst, g->dst_port);
  s->edge = 1 + g->wnd;
}

static void check_syn(struct wire *w, struct wire_conn *c, uint32_t from, const struct seg *g) {
  struct wire_side *s = &c->side[from];
  struct wire_side *p = &c->side[from ^ 1u];
  if (g->len != 0) fault(w, g, "data in a SYN", 0, 0);
  bool scale = g->opts.has_wscale;
  if (s->known && s->iss == g->seq) {
    if (s->mss != g->opts.mss) fault(w, g, "MSS changed in a SYN sent again", s->mss, g->opts.mss);
    /* the low bits of a cookie's timestamp are options (RFC 4987 §3.6): one for a SYN that was sent again
     * without ECN may be less than the first, and either may be echoed */
    if (s->has_ts && g->opts.has_ts && (int32_t)(g->opts.tsval - s->tsval) > 0) s->tsval = g->opts.tsval;
    if ((int32_t)(1 + g->wnd - s->edge) > 0) s->edge = 1 + g->wnd; /* buffers were short when the first one left */
    return;
  }
  if (s->known && (g->flags & ACK)) { /* who gets it decides what it is worth */
    s->has_late = true;
    s->late_iss = g->seq;
    return;
  }
  if (!(g->flags & ACK)) { /* a new life */
    if (s->known) c->lives++;
    if (s->known || p->acked) memset(p, 0, sizeof *p); /* else both open at once */
  }
  take_syn(s, g);
  if (!(g->flags & ACK) || !p->known) return;
  if (g->ack != p->iss + 1 && !w->attacked) fault(w, g, "SYN-ACK acknowledges something else", g->ack, p->iss + 1);
  if (scale && p->wscale == 0xff) fault(w, g, "window scale that was not offered", 0, 0);
  if (s->has_ts && !p->has_ts) fault(w, g, "timestamps that were not offered", 0, 0);
  if (s->sack_ok && !p->sack_ok) fault(w, g, "SACK that was not offered", 0, 0);
  s->ack = 1;
  s->acked = true;
}

static void check_bytes(struct wire *w, const struct seg *g, uint32_t key, uint32_t at) {
  uint32_t wrong = 0;
  for (uint32_t i = 0; i < g->len; i++) wrong |= (uint32_t)(g->payload[i] ^ wire_byte(key, at + i));
  if (wrong) fault(w, g, "bytes are not the stream's", at, 0);
}

/* What it sends: text and FIN. */
static void check_text(struct wire *w, struct wire_side *s, const struct wire_side *p, const struct seg *g) {
  uint32_t at = g->seq - s->iss;
  uint32_t end = at + g->len;
  if (g->len != 0) {
    if ((int32_t)(at - 1) < 0) fault(w, g, "text before the stream begins", at, 0);
    check_bytes(w, g, s->key, at - 1);
    if (s->has_fin && (int32_t)(end - s->fin) > 0) fault(w, g, "text behind the FIN", end, s->fin);
    /* a window probe is one octet beyond */
    if (p->known && (int32_t)(end - (p->edge + 1)) > 0) fault(w, g, "text beyond the window offered", end, p->edge);
    uint32_t mss = p->mss != 0 ? p->mss : 1460;
    if (p->known && g->len + g->opt_bytes > mss) fault(w, g, "longer than the peer's MSS", g->len + g->opt_bytes, mss);
  }
  /* what waits for a neighbor's address may be given up, so that it counts as sent and never came here:
   * numbers may go on behind a gap */
  if (g->flags & FIN) {
    if (s->has_fin && s->fin != end) fault(w, g, "FIN elsewhere than before", end, s->fin);
    if ((int32_t)(end - s->max_end) < 0 && !s->has_fin) fault(w, g, "FIN before the end of the text", end, s->max_end);
    s->has_fin = true;
    s->fin = end;
    end++;
  }
  if (end != at && (int32_t)(end - s->max_end) > 0) s->max_end = end;
}

static void check_sack(struct wire *w, const struct wire_side *s, const struct wire_side *p, const struct seg *g, bool attacked) {
  if (g->opts.sack_count != 0 && !(s->sack_ok && p->sack_ok)) fault(w, g, "SACK that was not agreed on", 0, 0);
  for (uint32_t i = 0; i < g->opts.sack_count; i++) {
    uint32_t start = g->opts.sack[i].start.v - p->iss;
    uint32_t end = g->opts.sack[i].end.v - p->iss;
    uint32_t ack = g->ack - p->iss;
    bool dsack = i == 0 && (int32_t)(start - ack) < 0;
    if (attacked && i == 0) continue; /* reports what the link was made to bring */
    if ((int32_t)(end - start) <= 0) fault(w, g, "empty SACK block", start, end);
    if ((int32_t)(end - p->max_end) > 0) fault(w, g, "SACK of what was never sent", end, p->max_end);
    if (!dsack && (int32_t)(start - ack) <= 0) fault(w, g, "SACK block at or below the acknowledgment", start, ack);
  }
}

/* What it says of the other direction: acknowledgment, window, SACK. */
static void check_ack(struct wire *w, struct wire_conn *c, uint32_t from, const struct seg *g) {
  struct wire_side *s = &c->side[from];
  struct wire_side *p = &c->side[from ^ 1u];
  if (!p->known) return;
  if (p->has_late && g->ack == p->late_iss + 1) { /* its other number holds: nothing is known of it but that */
    p->known = false;
    c->lives++;
    return;
  }
  uint32_t ack = g->ack - p->iss;
  if ((int32_t)ack <= 0) fault(w, g, "acknowledges nothing of this connection", g->ack, p->iss);
  if ((int32_t)(ack - p->max_end) > 0) fault(w, g, "acknowledges what was never sent", ack, p->max_end);
  if (s->acked && (int32_t)(ack - s->ack) < 0) fault(w, g, "acknowledgment goes back", ack, s->ack);
  s->ack = ack;
  s->acked = true;
  uint32_t scale = s->wscale != 0xff && p->wscale != 0xff ? s->wscale : 0;
  uint32_t edge = ack + (g->wnd << scale);
  uint32_t unit = 1u << scale;
  if ((int32_t)(edge + unit - 1 - s->edge) < 0) fault(w, g, "window shrank from the right", edge, s->edge);
  if ((int32_t)(edge - s->edge) > 0) s->edge = edge;
  check_sack(w, s, p, g, w->attacked);
}

static void check_ts(struct wire *w, struct wire_side *s, const struct wire_side *p, const struct seg *g) {
  if (s->has_ts && g->opts.has_ts && !p->known) s->tsval = g->opts.tsval;
  if (!s->has_ts || !p->known || !p->has_ts) {
    if (p->known && g->opts.has_ts) fault(w, g, "timestamps that were not agreed on", 0, 0);
    return;
  }
  if (!g->opts.has_ts) {
    fault(w, g, "without a timestamp", 0, 0);
    return;
  }
  if ((int32_t)(g->opts.tsval - s->tsval) < 0) fault(w, g, "timestamp goes back", g->opts.tsval, s->tsval);
  if ((int32_t)(g->opts.tsecr - p->tsval) > 0) fault(w, g, "echoes a timestamp never sent", g->opts.tsecr, p->tsval);
  s->tsval = g->opts.tsval;
}

void wire_frame(struct wire *w, const uint8_t *frame, uint32_t len) {
  struct seg g;
  uint32_t from;
  memset(&g, 0, sizeof g);
  if (!parse(w, frame, len, &g)) return;
  w->segs++;
  struct wire_conn *c = find(w, &g, &from);
  if (c == NULL) return;
  if (g.flags & SYN) {
    check_syn(w, c, from, &g);
    return;
  }
  struct wire_side *s = &c->side[from];
  const struct wire_side *p = &c->side[from ^ 1u];
  if (g.flags & RST) {
    if (g.len != 0 || (g.flags & FIN)) fault(w, &g, "RST with text or FIN", 0, 0);
    bool wild = g.seq - s->iss - s->max_end < UINT32_MAX / 2 && g.seq - s->iss - s->max_end > (1u << 22);
    if (s->known && p->known && c->lives == 0 && !w->attacked && g.seq != 0 && wild) fault(w, &g, "RST far from what was sent", g.seq - s->iss, s->max_end);
    return;
  }
  if (!s->known) return; /* of an earlier life */
  if (s->has_late && g.seq - s->late_iss <= 1) return; /* half open for a SYN that was old, or forged */
  if (!(g.flags & ACK)) fault(w, &g, "without ACK", 0, 0);
  /* half open for a forged SYN, and its SYN-ACK was given up with what waited for a neighbor's address */
  bool unheard = g.seq - s->iss > s->max_end && p->known && (int32_t)(g.ack - p->iss - p->max_end) > 0;
  if (w->attacked && g.len == 0 && unheard) return;
  /* the ACK of a SYN cookie heard and sent again within two minutes opens what had ended (RFC 4987 §3.6) */
  if (w->attacked && s->acked && p->known && (int32_t)(g.ack - p->iss - s->ack) < 0) return;
  check_text(w, s, p, &g);
  check_ack(w, c, from, &g);
  check_ts(w, s, p, &g);
}
