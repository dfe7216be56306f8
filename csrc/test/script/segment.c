/* Segments of packet scripts: reading their description, building what comes in,
 * comparing what goes out. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "script.h"

#define PEER_PORT 40000u
#define OUR_PORT 80u

static const char flag_letters[] = "FSRP.UEW"; /* bit 0 upwards */

static bool number(const char *w, uint32_t *out) {
  char *end = NULL;
  unsigned long v = strtoul(w, &end, 0);
  if (end == w || *end) return false;
  *out = (uint32_t)v;
  return true;
}

static bool range(char *w, uint32_t *a, uint32_t *b) {
  char *colon = strchr(w, ':');
  if (!colon) {
    *b = 0;
    return number(w, a) && (*b = *a, true);
  }
  *colon = 0;
  return number(w, a) && number(colon + 1, b);
}

static const char *parse_sack(struct seg_spec *spec, char *w) {
  spec->has_sack = true;
  char *save = NULL;
  for (char *p = strtok_r(w, ",", &save); p; p = strtok_r(NULL, ",", &save)) {
    if (spec->sack_count == 4) return "at most four SACK blocks";
    uint32_t *b = spec->sack[spec->sack_count++];
    if (!range(p, &b[0], &b[1])) return "sack wants A:B,...";
  }
  return NULL;
}

static const char *parse_hex(struct seg_spec *spec, const char *w) {
  size_t n = strlen(w);
  if (n % 2 || n / 2 > sizeof spec->raw) return "opt wants up to 40 bytes of hex";
  for (size_t i = 0; i < n / 2; i++) {
    unsigned v;
    if (sscanf(w + 2 * i, "%2x", &v) != 1) return "opt wants hex";
    spec->raw[i] = (uint8_t)v;
  }
  spec->raw_len = (uint32_t)(n / 2);
  return NULL;
}

static const char *parse_ts(struct seg_spec *spec, const char *val, const char *ecr) {
  spec->has_ts = true;
  spec->ts_val_any = strcmp(val, "*") == 0;
  spec->ts_ecr_any = strcmp(ecr, "*") == 0;
  spec->ts_ecr_last = strncmp(ecr, "last", 4) == 0;
  if (!spec->ts_val_any && !number(val, &spec->ts_val)) return "ts wants VAL ECR";
  if (spec->ts_ecr_last && ecr[4] != 0 && (ecr[4] != '-' || !number(ecr + 5, &spec->ts_ecr))) return "ts wants last-MS";
  if (!spec->ts_ecr_any && !spec->ts_ecr_last && !number(ecr, &spec->ts_ecr)) return "ts wants VAL ECR";
  return NULL;
}

/* One option with its values; *i is moved past them. */
static const char *parse_option(struct seg_spec *spec, char **words, int count, int *i) {
  struct {
    const char *name;
    bool *has;
    uint32_t *value;
  } simple[] = {
      {"ack", &spec->has_ack, &spec->ack}, {"win", &spec->has_win, &spec->win}, {"mss", &spec->has_mss, &spec->mss},
      {"ws", &spec->has_ws, &spec->ws},    {"off", NULL, &spec->off_words},     {"flow", NULL, &spec->flow},
      {"isn", &spec->has_isn, &spec->isn}, {"tos", &spec->has_tos, &spec->tos},
  };
  char *w = words[(*i)++];
  const char *next = *i < count ? words[*i] : "";
  for (size_t k = 0; k < NP_COUNT_OF(simple); k++) {
    if (strcmp(w, simple[k].name) != 0) continue;
    if (!number(next, simple[k].value)) return "a number is missing";
    if (simple[k].has) *simple[k].has = true;
    (*i)++;
    return NULL;
  }
  if (strcmp(w, "sackok") == 0) return spec->has_sackok = true, NULL;
  if (strcmp(w, "noopt") == 0) return spec->no_opt = true, NULL;
  if (strcmp(w, "badsum") == 0) return spec->badsum = true, NULL;
  if (*i >= count) return "unknown option, or its value is missing";
  if (strcmp(w, "sack") == 0) return parse_sack(spec, words[(*i)++]);
  if (strcmp(w, "opt") == 0) return parse_hex(spec, words[(*i)++]);
  if (strcmp(w, "ts") == 0 && *i + 1 < count) {
    *i += 2;
    return parse_ts(spec, words[*i - 2], words[*i - 1]);
  }
  return "unknown option";
}

const char *seg_parse(struct seg_spec *spec, char **words, int count) {
  memset(spec, 0, sizeof *spec);
  if (count < 2) return "want FLAGS SEQ";
  if (strcmp(words[0], "-") != 0) {
    for (const char *p = words[0]; *p; p++) {
      const char *at = strchr(flag_letters, *p);
      if (!at) return "unknown flag";
      spec->flags |= (uint8_t)(1u << (at - flag_letters));
    }
  }
  if (!range(words[1], &spec->seq, &spec->end)) return "want SEQ or SEQ:END";
  const char *wrong = NULL;
  for (int i = 2; i < count && !wrong;) wrong = parse_option(spec, words, count, &i);
  return wrong;
}

static uint32_t put_options(const struct script *s, const struct seg_spec *spec, uint8_t *o) {
  uint32_t n = 0;
  if (spec->has_mss) {
    memcpy(o + n, (uint8_t[]){2, 4}, 2);
    np_store_be16(o + n + 2, (uint16_t)spec->mss);
    n += 4;
  }
  if (spec->has_sackok) {
    memcpy(o + n, (uint8_t[]){4, 2}, 2);
    n += 2;
  }
  if (spec->has_ts) {
    memcpy(o + n, (uint8_t[]){8, 10}, 2);
    np_store_be32(o + n + 2, spec->ts_val);
    np_store_be32(o + n + 6, spec->ts_ecr_last ? s->last_ts - spec->ts_ecr : spec->ts_ecr);
    n += 10;
  }
  if (spec->has_ws) {
    memcpy(o + n, (uint8_t[]){3, 3, (uint8_t)spec->ws}, 3);
    n += 3;
  }
  if (spec->sack_count) {
    memcpy(o + n, (uint8_t[]){5, (uint8_t)(2 + 8 * spec->sack_count)}, 2);
    for (uint32_t i = 0; i < spec->sack_count; i++) {
      np_store_be32(o + n + 2 + 8 * i, s->our_isn + spec->sack[i][0]);
      np_store_be32(o + n + 6 + 8 * i, s->our_isn + spec->sack[i][1]);
    }
    n += 2 + 8 * spec->sack_count;
  }
  memcpy(o + n, spec->raw, spec->raw_len);
  n += spec->raw_len;
  while (n % 4) o[n++] = 1; /* NOP */
  return n;
}

/* Ones' complement sum, the slow and obvious way: the stack's own is under test. */
static uint32_t sum16(uint32_t sum, const uint8_t *p, uint32_t n) {
  for (uint32_t i = 0; i + 1 < n; i += 2) sum += (uint32_t)p[i] << 8 | p[i + 1];
  if (n % 2) sum += (uint32_t)p[n - 1] << 8;
  return sum;
}
static uint16_t fold(uint32_t sum) {
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return (uint16_t)~sum;
}

static uint32_t put_ip(const struct script *s, uint8_t *p, uint32_t l4_len, uint32_t tos) {
  if (s->v6) {
    memset(p, 0, 40);
    p[0] = (uint8_t)(0x60 | tos >> 4);
    p[1] = (uint8_t)(tos << 4);
    np_store_be16(p + 4, (uint16_t)l4_len);
    p[6] = 6;
    p[7] = 64;
    memcpy(p + 8, (uint8_t[16]){0x20, 1, 0xd, 0xb8, [15] = 2}, 16);
    memcpy(p + 24, (uint8_t[16]){0x20, 1, 0xd, 0xb8, [15] = 1}, 16);
    return 40;
  }
  memset(p, 0, 20);
  p[0] = 0x45;
  p[1] = (uint8_t)tos;
  np_store_be16(p + 2, (uint16_t)(20 + l4_len));
  p[8] = 64;
  p[9] = 6;
  memcpy(p + 12, (uint8_t[]){198, 18, 0, 2, 198, 18, 0, 1}, 8);
  np_store_be16(p + 10, fold(sum16(0, p, 20)));
  return 20;
}

struct np_buf *seg_build(struct script *s, const struct seg_spec *spec) {
  uint8_t opt[64];
  uint32_t opt_len = put_options(s, spec, opt);
  uint32_t payload = spec->end - spec->seq;
  struct np_buf *b = np_pool_get(&s->pool);
  if (!b || opt_len > 40 || payload > 1500) {
    if (b) np_buf_put(b);
    return NULL;
  }
  uint32_t l4_len = 20 + opt_len + payload;
  uint8_t *eth = np_buf_append(b, 14);
  memcpy(eth, (uint8_t[]){2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}, 12);
  np_store_be16(eth + 12, s->v6 ? 0x86dd : 0x0800);
  uint8_t *ip = np_buf_append(b, s->v6 ? 40 : 20);
  uint32_t ip_len = put_ip(s, ip, l4_len, spec->tos);
  uint8_t *t = np_buf_append(b, l4_len);
  memset(t, 0, 20);
  np_store_be16(t, (uint16_t)(PEER_PORT + spec->flow));
  np_store_be16(t + 2, s->our_port ? s->our_port : OUR_PORT);
  np_store_be32(t + 4, (spec->has_isn ? spec->isn : s->peer_isn) + spec->seq);
  if (spec->has_ack) np_store_be32(t + 8, s->our_isn + spec->ack);
  t[12] = (uint8_t)((spec->off_words ? spec->off_words : (20 + opt_len) / 4) << 4);
  t[13] = spec->flags;
  np_store_be16(t + 14, (uint16_t)(spec->has_win ? spec->win : 65535));
  memcpy(t + 20, opt, opt_len);
  for (uint32_t i = 0; i < payload; i++) t[20 + opt_len + i] = script_pattern(spec->seq - 1 + i);
  uint32_t sum = sum16(sum16(6 + l4_len, s->v6 ? ip + 8 : ip + 12, s->v6 ? 32 : 8), t, l4_len);
  np_store_be16(t + 16, (uint16_t)(fold(sum) ^ (spec->badsum ? 0x5555 : 0)));
  (void)ip_len;
  return b;
}

/* Finds an option. Return: its bytes from the kind on, or NULL. */
static const uint8_t *find_option(const uint8_t *t, uint8_t kind) {
  uint32_t end = (uint32_t)(t[12] >> 4) * 4;
  for (uint32_t i = 20; i < end;) {
    if (t[i] == kind) return t + i;
    if (t[i] == 0) break;
    i += t[i] == 1 ? 1 : (t[i + 1] < 2 ? 1 : t[i + 1]);
  }
  return NULL;
}

void seg_print(const struct script *s, const char *dir, const uint8_t *t, uint32_t len) {
  char flags[9];
  uint32_t n = 0;
  for (uint32_t i = 0; i < 8; i++)
    if (t[13] & 1u << i) flags[n++] = flag_letters[i];
  flags[n] = 0;
  uint32_t hdr = (uint32_t)(t[12] >> 4) * 4;
  bool out = dir[0] == 'o';
  uint32_t seq = np_load_be32(t + 4) - (out ? s->our_isn : s->peer_isn);
  uint32_t ack = np_load_be32(t + 8) - (out ? s->peer_isn : s->our_isn);
  fprintf(stderr, "  %9.4f %-3s %-3s %u:%u ack %u win %u opts", (double)s->now_ns / 1e9, dir, flags, seq,
          seq + len - hdr, ack, np_load_be16(t + 14));
  for (uint32_t i = 20; i < hdr; i++) fprintf(stderr, " %02x", t[i]);
  fputc('\n', stderr);
}

static const char *match_options(const struct script *s, const struct seg_spec *spec, const uint8_t *t) {
  const uint8_t *o = find_option(t, 2);
  if (spec->has_mss && (!o || np_load_be16(o + 2) != spec->mss)) return "mss";
  o = find_option(t, 3);
  if (spec->has_ws && (!o || o[2] != spec->ws)) return "ws";
  if (spec->has_sackok && !find_option(t, 4)) return "sackok";
  o = find_option(t, 8);
  if (spec->has_ts && !o) return "ts is missing";
  if (spec->has_ts && !spec->ts_ecr_any && np_load_be32(o + 6) != spec->ts_ecr) return "ts echo";
  o = find_option(t, 5);
  if (spec->has_sack && (!o || o[1] != 2 + 8 * spec->sack_count)) return "number of sack blocks";
  for (uint32_t i = 0; i < spec->sack_count; i++)
    if (np_load_be32(o + 2 + 8 * i) - s->peer_isn != spec->sack[i][0] ||
        np_load_be32(o + 6 + 8 * i) - s->peer_isn != spec->sack[i][1])
      return "sack block";
  return spec->no_opt && t[12] >> 4 != 5 ? "options where none are wanted" : NULL;
}

const char *seg_match(struct script *s, const struct seg_spec *spec, const struct out_seg *seg, char *text, size_t text_bytes) {
  const uint8_t *t = seg->bytes;
  uint32_t hdr = (uint32_t)(t[12] >> 4) * 4;
  uint32_t seq = np_load_be32(t + 4) - s->our_isn;
  uint32_t ack = np_load_be32(t + 8) - s->peer_isn;
  uint32_t len = seg->len - hdr;
  const char *what = NULL;
  if (t[13] != spec->flags) what = "flags";
  else if (seq != spec->seq) what = "seq";
  else if (len != spec->end - spec->seq) what = "length";
  else if (spec->has_ack && ack != spec->ack) what = "ack";
  else if (spec->has_tos && seg->tos != spec->tos) what = "tos";
  else if (spec->has_win && np_load_be16(t + 14) != spec->win) what = "win";
  else what = match_options(s, spec, t);
  for (uint32_t i = 0; !what && i < len && !(t[13] & 2); i++)
    if (t[hdr + i] != script_pattern(seq - 1 + i)) what = "payload bytes";
  if (!what) return NULL;
  snprintf(text, text_bytes, "%s differs", what);
  seg_print(s, "out", t, seg->len);
  return text;
}
