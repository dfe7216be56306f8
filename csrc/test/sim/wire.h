/* Checks what a stack puts on the wire, segment by segment, against all that was sent
 * before: a second, small idea of TCP that shares nothing with csrc/tcp. */
#ifndef NP_TEST_SIM_WIRE_H
#define NP_TEST_SIM_WIRE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"

#define WIRE_CONNS 4096u

/* One direction: what one end has sent. Numbers are relative to its ISS (sent) or its peer's (ack, edge). */
struct wire_side {
  uint32_t iss;
  uint32_t max_end;   /* behind the last number sent, FIN included */
  uint32_t fin;       /* its number, with has_fin */
  uint32_t ack;       /* highest acknowledged */
  uint32_t edge;      /* right edge offered */
  uint32_t tsval;     /* last */
  uint32_t key;       /* of its byte pattern */
  uint16_t mss;       /* announced; 0: not */
  uint8_t wscale;     /* 0xff: none */
  uint32_t late_iss;  /* of a SYN-ACK that came while there was another, with has_late: an old SYN's, or a cookie of another minute */
  bool known, has_fin, has_ts, sack_ok, acked, has_late;
};

struct wire_conn {
  struct np_addr addr[2]; /* [0] is the lesser end */
  uint16_t port[2];
  bool used;
  uint32_t lives;         /* times it was opened anew */
  struct wire_side side[2];
};

struct wire {
  struct wire_conn conn[WIRE_CONNS];
  uint64_t segs;
  uint64_t hash;      /* of all frames, with their times and fates */
  bool attacked;      /* somebody forges segments, which are not seen here: what answers them is forgiven */
  bool full;          /* connections beyond WIRE_CONNS are not checked */
  char what[192];     /* first fault; empty: none */
};

/* A frame as sent, before the link does anything to it. */
void wire_frame(struct wire *w, const uint8_t *frame, uint32_t len);
/* Mixes something that happened into the hash. */
void wire_note(struct wire *w, const void *bytes, uint32_t len, uint64_t at_ns, uint32_t what);

/* The bytes of every stream: number i of what src sends to dst. An echo service (port 7)
 * sends back what came, so its direction has the other's key. */
uint32_t wire_key(const struct np_addr *src, uint16_t src_port, const struct np_addr *dst, uint16_t dst_port);
static inline uint8_t wire_byte(uint32_t key, uint32_t i) {
  return (uint8_t)((i + key) * 31u + (i >> 8) * 7u + (i >> 16) * 13u + (key >> 8));
}

#endif
