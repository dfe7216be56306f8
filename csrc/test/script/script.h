/* One running packet script: a TCP, a clock, an application and the segments that left. */
#ifndef NP_TEST_SCRIPT_H
#define NP_TEST_SCRIPT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/pool.h"
#include "base/wheel.h"
#include "tcp/tcp.h"

#define SCRIPT_BUFS 4096u
#define SCRIPT_CHUNK 2048u
#define SCRIPT_OUT_MAX 1024u

struct out_seg {
  uint64_t at_ns;
  uint32_t len;
  uint8_t tos;
  uint8_t bytes[1600]; /* from the TCP header */
};

struct script {
  struct np_session session; /* first: the vtable hands it back */
  const char *path;
  int line;
  bool v6;
  bool trace;
  bool started;
  struct np_tcp_config config;
  uint32_t mtu_bytes;
  uint32_t pmtu_bytes; /* what the path is known to carry; 0: nothing known */
  bool skip;           /* for the other family only */
  uint32_t backlog;
  uint32_t dscp; /* of the listener */
  uint32_t first_isn; /* our numbers count from our first SYN, whatever others follow */
  bool cookies;
  bool consume_auto;
  uint64_t tolerance_ns;

  uint64_t now_ns;
  struct np_counters counters;
  struct np_pool pool;
  struct np_wheel wheel;
  struct np_tcp *tcp;
  void *tcp_mem;
  void *pool_mem;
  void *pool_stack;

  uint32_t peer_isn;
  uint32_t our_isn;
  bool our_isn_known;
  uint16_t our_port; /* once connect has chosen */
  uint32_t last_ts;
  struct out_seg *out;
  uint32_t out_head;
  uint32_t out_count;

  uint64_t handle;
  uint32_t written; /* bytes the application gave, for the pattern */
  uint32_t got;
  uint32_t unconsumed;
  bool bad_data;
  bool eof;
  bool established;
  bool closed;
  enum np_err closed_err;
};

struct script *script_new(const char *path, bool v6, bool trace);
/* One line of the file. Return: 0, or 1 after printing what is wrong. */
int script_line(struct script *s, char *line);
/* Ends all connections and checks that nothing leaked. */
int script_end(struct script *s);
void script_free(struct script *s);

/* parts that parse and build segments */
struct seg_spec {
  uint8_t flags;
  uint32_t seq, end;
  bool has_ack, has_win, has_mss, has_ws, has_sackok, has_ts, has_sack, no_opt, badsum;
  bool ts_val_any, ts_ecr_any, ts_ecr_last;
  uint32_t ack, win, mss, ws, ts_val, ts_ecr;
  uint32_t sack_count;
  uint32_t sack[4][2];
  uint32_t raw_len;
  uint8_t raw[40];
  uint32_t off_words; /* 0: right */
  uint32_t flow;      /* added to the peer's port */
  bool has_isn;
  uint32_t isn;
  bool has_tos;
  uint32_t tos; /* DSCP and ECN of the IP header */
};
/* words: tokens after in/out. Return: NULL, or what is wrong. */
const char *seg_parse(struct seg_spec *spec, char **words, int count);
/* A frame in a buffer of s->pool, ready for np_wire_parse. */
struct np_buf *seg_build(struct script *s, const struct seg_spec *spec);
/* Compares a segment that left. Return: NULL, or what differs (static buffer of s's choosing: text). */
const char *seg_match(struct script *s, const struct seg_spec *spec, const struct out_seg *seg, char *text, size_t text_bytes);
void seg_print(const struct script *s, const char *dir, const uint8_t *tcp, uint32_t len);
/* Byte of either direction's stream at offset i. */
static inline uint8_t script_pattern(uint32_t i) { return (uint8_t)(i * 7u + 3u + (i >> 8)); }

#endif
