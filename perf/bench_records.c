/* Records: ns and GB/s for sealing and opening, frame header included, in
 * batches of 32, beside libipsec-mb called bare and OpenSSL's EVP on the same
 * memory, and frame decoding at body sizes up to 1 MiB.
 *
 *   taskset -c 1 build/release/perf/bench_records [--json] [--rounds N]
 *
 * Contenders take turns within a round, and the figure is the median over the
 * rounds: on a shared machine absolute speed drifts, the ratio within a round
 * does not. Bodies are random bytes; each batch has 32 buffers of its own, one
 * connection per record unless --one-connection says otherwise. */
#include <inttypes.h>
#include <intel-ipsec-mb.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "base/pool.h"
#include "codec/frame.h"
#include "crypto/derive.h"
#include "crypto/record.h"

enum { BATCH = NP_RECORD_BATCH, ROUNDS_MAX = 101, BODY_MAX = 16384 };

struct bench {
  struct np_crypto *crypto;
  IMB_MGR *mgr;
  EVP_CIPHER_CTX *evp_seal[BATCH];
  EVP_CIPHER_CTX *evp_open[BATCH];
  struct np_record_dir tx[BATCH];
  struct np_record_dir rx[BATCH];
  struct np_buf *buf[BATCH];
  struct gcm_key_data *gcm_key[2]; /* sealing and opening, one per connection: as many bytes as ours touch */
  uint8_t nonce[BATCH][12];
  uint8_t tag[BATCH][16];
  enum np_aead aead;
  uint32_t body_bytes;
  uint32_t connections;
  uint64_t opened;
  bool json;
  uint32_t rounds;
};

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void must(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "bench_records: %s\n", what);
  exit(1);
}

static uint8_t *body(struct bench *b, uint32_t i) { return np_buf_data(b->buf[i]) + NP_NPRO_HEADER; }

/* ---- ours: header, then record ---- */

static void ours_seal(struct bench *b) {
  struct np_record r[BATCH];
  for (uint32_t i = 0; i < BATCH; i++) {
    struct np_frame f = {.length = b->body_bytes + NP_RECORD_TAG, .stream = 1 + 2 * i,
                         .flags = NP_NPRO_F_ENC | NP_NPRO_F_END, .type = NP_NPRO_REQUEST, .priority = 3};
    uint8_t *wire = np_buf_data(b->buf[i]);
    np_frame_encode(&f, wire);
    r[i].dir = &b->tx[i % b->connections];
    r[i].buf = b->buf[i];
    r[i].body_off = NP_NPRO_HEADER;
    r[i].body_bytes = b->body_bytes;
    memcpy(r[i].header, wire, NP_NPRO_HEADER);
  }
  np_record_seal(b->crypto, r, BATCH);
}

static void ours_open(struct bench *b) {
  struct np_record r[BATCH];
  for (uint32_t i = 0; i < BATCH; i++) {
    struct np_frame f;
    const uint8_t *wire = np_buf_data(b->buf[i]);
    must(np_frame_decode(wire, 1u << 24, &f) == NP_FRAME_OK, "header was refused");
    r[i].dir = &b->rx[i % b->connections];
    r[i].buf = b->buf[i];
    r[i].body_off = NP_NPRO_HEADER;
    r[i].body_bytes = f.length - NP_RECORD_TAG;
    memcpy(r[i].header, wire, NP_NPRO_HEADER);
  }
  np_record_open(b->crypto, r, BATCH);
  for (uint32_t i = 0; i < BATCH; i++) b->opened += r[i].ok;
}

/* ---- libipsec-mb, bare: expanded keys at hand, nonces ready, nothing checked but the tag ---- */

static void bare_gcm(struct bench *b, bool seal) {
  struct gcm_context_data ctx;
  for (uint32_t i = 0; i < BATCH; i++) {
    const struct gcm_key_data *key = &b->gcm_key[seal][i % b->connections];
    uint8_t *p = body(b, i);
    if (seal) {
      IMB_AES256_GCM_ENC(b->mgr, key, &ctx, p, p, b->body_bytes, b->nonce[i], p - NP_NPRO_HEADER, NP_NPRO_HEADER,
                         p + b->body_bytes, NP_RECORD_TAG);
    } else {
      IMB_AES256_GCM_DEC(b->mgr, key, &ctx, p, p, b->body_bytes, b->nonce[i], p - NP_NPRO_HEADER, NP_NPRO_HEADER,
                         b->tag[i], NP_RECORD_TAG);
      b->opened += memcmp(b->tag[i], p + b->body_bytes, NP_RECORD_TAG) == 0;
    }
  }
}

static void bare_chacha(struct bench *b, bool seal) {
  IMB_JOB *jobs[BATCH];
  must(IMB_GET_NEXT_BURST(b->mgr, BATCH, jobs) == BATCH, "no room for a burst");
  for (uint32_t i = 0; i < BATCH; i++) {
    IMB_JOB *j = jobs[i];
    uint8_t *p = body(b, i);
    j->enc_keys = j->dec_keys = (seal ? b->tx : b->rx)[i % b->connections].record_key;
    j->key_len_in_bytes = 32;
    j->src = j->dst = p;
    j->cipher_start_src_offset_in_bytes = j->hash_start_src_offset_in_bytes = 0;
    j->msg_len_to_cipher_in_bytes = j->msg_len_to_hash_in_bytes = b->body_bytes;
    j->iv = b->nonce[i];
    j->iv_len_in_bytes = 12;
    j->auth_tag_output = seal ? p + b->body_bytes : b->tag[i];
    j->auth_tag_output_len_in_bytes = NP_RECORD_TAG;
    j->u.CHACHA20_POLY1305.aad = p - NP_NPRO_HEADER;
    j->u.CHACHA20_POLY1305.aad_len_in_bytes = NP_NPRO_HEADER;
    j->cipher_mode = IMB_CIPHER_CHACHA20_POLY1305;
    j->hash_alg = IMB_AUTH_CHACHA20_POLY1305;
    j->cipher_direction = seal ? IMB_DIR_ENCRYPT : IMB_DIR_DECRYPT;
    j->chain_order = seal ? IMB_ORDER_CIPHER_HASH : IMB_ORDER_HASH_CIPHER;
  }
  must(IMB_SUBMIT_BURST_NOCHECK(b->mgr, BATCH, jobs) == BATCH, "burst did not complete");
  if (seal) return;
  for (uint32_t i = 0; i < BATCH; i++) {
    b->opened += memcmp(b->tag[i], body(b, i) + b->body_bytes, NP_RECORD_TAG) == 0;
  }
}

static void bare_seal(struct bench *b) { b->aead == NP_AEAD_AES_256_GCM ? bare_gcm(b, true) : bare_chacha(b, true); }
static void bare_open(struct bench *b) { b->aead == NP_AEAD_AES_256_GCM ? bare_gcm(b, false) : bare_chacha(b, false); }

/* ---- OpenSSL EVP: a context with its key set for each connection, a nonce per record ---- */

static void evp_seal(struct bench *b) {
  for (uint32_t i = 0; i < BATCH; i++) {
    EVP_CIPHER_CTX *c = b->evp_seal[i % b->connections];
    uint8_t *p = body(b, i);
    int n;
    EVP_EncryptInit_ex(c, NULL, NULL, NULL, b->nonce[i]);
    EVP_EncryptUpdate(c, NULL, &n, p - NP_NPRO_HEADER, NP_NPRO_HEADER);
    EVP_EncryptUpdate(c, p, &n, p, (int)b->body_bytes);
    EVP_EncryptFinal_ex(c, b->tag[i], &n);
    EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_GET_TAG, NP_RECORD_TAG, p + b->body_bytes);
  }
}
static void evp_open(struct bench *b) {
  for (uint32_t i = 0; i < BATCH; i++) {
    EVP_CIPHER_CTX *c = b->evp_open[i % b->connections];
    uint8_t *p = body(b, i);
    int n;
    EVP_DecryptInit_ex(c, NULL, NULL, NULL, b->nonce[i]);
    EVP_DecryptUpdate(c, NULL, &n, p - NP_NPRO_HEADER, NP_NPRO_HEADER);
    EVP_DecryptUpdate(c, p, &n, p, (int)b->body_bytes);
    EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_TAG, NP_RECORD_TAG, p + b->body_bytes);
    b->opened += EVP_DecryptFinal_ex(c, b->tag[i], &n) == 1;
  }
}

struct contender {
  const char *name;
  void (*seal)(struct bench *b);
  void (*open)(struct bench *b);
};
static const struct contender contenders[] = {
    {"np", ours_seal, ours_open}, {"ipsec-mb", bare_seal, bare_open}, {"openssl-evp", evp_seal, evp_open}};
enum { CONTENDERS = 3 };

static int by_value(const void *x, const void *y) {
  double a = *(const double *)x, b = *(const double *)y;
  return a < b ? -1 : a > b;
}
static double median(double *v, uint32_t n) {
  qsort(v, n, sizeof *v, by_value);
  return v[n / 2];
}

static void keys(struct bench *b) {
  for (uint32_t i = 0; i < BATCH; i++) {
    uint8_t key[32] = {(uint8_t)(i + 1), (uint8_t)b->aead};
    must(np_record_dir_init(b->crypto, &b->tx[i], b->aead, key) == NP_ERR_OK, "no direction");
    must(np_record_dir_init(b->crypto, &b->rx[i], b->aead, key) == NP_ERR_OK, "no direction");
    for (int d = 0; d < 2; d++) IMB_AES256_GCM_PRE(b->mgr, b->tx[i].record_key, &b->gcm_key[d][i]);
    memset(b->nonce[i], (int)i, 12);
    const EVP_CIPHER *cipher = b->aead == NP_AEAD_AES_256_GCM ? EVP_aes_256_gcm() : EVP_chacha20_poly1305();
    must(EVP_EncryptInit_ex(b->evp_seal[i], cipher, NULL, b->tx[i].record_key, b->nonce[i]) == 1, "no EVP context");
    must(EVP_DecryptInit_ex(b->evp_open[i], cipher, NULL, b->tx[i].record_key, b->nonce[i]) == 1, "no EVP context");
  }
}

/* One turn: seals a batch and opens it again, `times` times, each timed apart. */
static void turn(struct bench *b, const struct contender *c, uint32_t times, double *seal_ns, double *open_ns) {
  uint64_t sealing = 0, opening = 0;
  b->opened = 0;
  for (uint32_t i = 0; i < times; i++) {
    uint64_t t0 = now_ns();
    c->seal(b);
    uint64_t t1 = now_ns();
    c->open(b);
    sealing += t1 - t0;
    opening += now_ns() - t1;
  }
  must(b->opened == (uint64_t)times * BATCH, "a record did not open");
  *seal_ns = (double)sealing / ((double)times * BATCH);
  *open_ns = (double)opening / ((double)times * BATCH);
}

static void print_one(struct bench *b, const char *op, const char *who, double ns, double spread, double bare_ns) {
  const char *aead = b->aead == NP_AEAD_AES_256_GCM ? "aes-256-gcm" : "xchacha20-poly1305";
  if (b->json) {
    printf("{\"bench\":\"records\",\"op\":\"%s\",\"aead\":\"%s\",\"bytes\":%u,\"who\":\"%s\",\"ns\":%.1f,"
           "\"spread_ns\":%.1f,\"gbytes_per_s\":%.3f,\"vs_bare\":%.3f,\"connections\":%u,\"rounds\":%u}\n",
           op, aead, b->body_bytes, who, ns, spread, b->body_bytes / ns, ns / bare_ns, b->connections, b->rounds);
  } else {
    printf("%-19s %-5s %6u B  %-12s %8.1f ns +-%-6.1f %7.3f GB/s  %5.2f x bare\n", aead, op, b->body_bytes, who, ns,
           spread, b->body_bytes / ns, ns / bare_ns);
  }
}

static void measure(struct bench *b, uint32_t bytes) {
  static double ns[2][CONTENDERS][ROUNDS_MAX];
  b->body_bytes = bytes;
  for (uint32_t i = 0; i < BATCH; i++) {
    b->buf[i]->len = NP_NPRO_HEADER + bytes + NP_RECORD_TAG;
    uint64_t s = i * UINT64_C(0x9e3779b97f4a7c15) + bytes;
    for (uint32_t k = 0; k < bytes; k++) {
      s = s * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
      body(b, i)[k] = (uint8_t)(s >> 56);
    }
  }
  keys(b);
  uint32_t times = bytes > 4096 ? 40 : bytes > 512 ? 200 : 800;
  double warm[2];
  for (int c = 0; c < CONTENDERS; c++) turn(b, &contenders[c], times, &warm[0], &warm[1]);
  for (uint32_t r = 0; r < b->rounds; r++) {
    for (uint32_t c = 0; c < CONTENDERS; c++) {
      uint32_t who = (c + r) % CONTENDERS; /* nobody always goes first */
      turn(b, &contenders[who], times, &ns[0][who][r], &ns[1][who][r]);
    }
  }
  for (int op = 0; op < 2; op++) {
    double mid[CONTENDERS], spread[CONTENDERS];
    for (int c = 0; c < CONTENDERS; c++) {
      mid[c] = median(ns[op][c], b->rounds);
      spread[c] = (ns[op][c][b->rounds * 3 / 4] - ns[op][c][b->rounds / 4]) / 2;
    }
    for (int c = 0; c < CONTENDERS; c++) print_one(b, op ? "open" : "seal", contenders[c].name, mid[c], spread[c], mid[1]);
  }
}

/* Decoding looks at 16 bytes, whatever follows: headers of 64 frames that lie
 * body_bytes apart, so that larger bodies bring each header in from farther away. */
static void decode(struct bench *b, uint32_t body_bytes) {
  enum { FRAMES = 64 };
  double ns[ROUNDS_MAX];
  size_t stride = NP_NPRO_HEADER + body_bytes;
  uint8_t *wire = malloc(stride * FRAMES);
  must(wire != NULL, "no memory");
  memset(wire, 0xa5, stride * FRAMES);
  for (uint32_t i = 0; i < FRAMES; i++) {
    struct np_frame f = {.length = body_bytes, .stream = i, .flags = NP_NPRO_F_ENC, .type = NP_NPRO_DATA};
    np_frame_encode(&f, wire + stride * i);
  }
  uint64_t sum = 0;
  for (uint32_t r = 0; r < b->rounds; r++) {
    uint64_t t0 = now_ns();
    for (uint32_t times = 0; times < 2000; times++) {
      for (uint32_t i = 0; i < FRAMES; i++) {
        struct np_frame f;
        must(np_frame_decode(wire + stride * i, 1u << 24, &f) == NP_FRAME_OK, "header was refused");
        sum += f.length + f.stream;
      }
    }
    ns[r] = (double)(now_ns() - t0) / (2000.0 * FRAMES);
  }
  must(sum != 0, "nothing decoded");
  double mid = median(ns, b->rounds);
  if (b->json) {
    printf("{\"bench\":\"frame_decode\",\"bytes\":%u,\"ns\":%.2f,\"rounds\":%u}\n", body_bytes, mid, b->rounds);
  } else {
    printf("frame decode        body %8u B  %6.2f ns\n", body_bytes, mid);
  }
  free(wire);
}

static void start(struct bench *b) {
  struct np_crypto_config config = {.key_cache_count = 0};
  b->crypto = np_crypto_init(malloc(np_crypto_bytes(&config)), &config);
  must(b->crypto != NULL, "no engine");
  b->mgr = alloc_mb_mgr(0);
  must(b->mgr != NULL, "no libipsec-mb");
  init_mb_mgr_auto(b->mgr, NULL);
  for (int d = 0; d < 2; d++) {
    b->gcm_key[d] = aligned_alloc(64, BATCH * sizeof *b->gcm_key[d]);
    must(b->gcm_key[d] != NULL, "no memory");
  }
  for (uint32_t i = 0; i < BATCH; i++) {
    uint32_t cap = NP_BUF_DATA_OFF + NP_NPRO_HEADER + BODY_MAX + NP_RECORD_TAG + 64;
    b->buf[i] = aligned_alloc(64, (cap + 63) & ~63u);
    must(b->buf[i] != NULL, "no memory");
    memset(b->buf[i], 0, sizeof *b->buf[i]);
    b->buf[i]->data_off = NP_BUF_DATA_OFF;
    b->buf[i]->cap_bytes = cap;
    b->evp_seal[i] = EVP_CIPHER_CTX_new();
    b->evp_open[i] = EVP_CIPHER_CTX_new();
  }
}

int main(int argc, char **argv) {
  static struct bench b = {.rounds = 21, .connections = BATCH};
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--json") == 0) {
      b.json = true;
    } else if (strcmp(argv[i], "--one-connection") == 0) {
      b.connections = 1;
    } else if (strcmp(argv[i], "--rounds") == 0 && i + 1 < argc) {
      b.rounds = (uint32_t)strtoul(argv[++i], NULL, 10);
      must(b.rounds >= 1 && b.rounds <= ROUNDS_MAX, "--rounds takes 1 to 101");
    } else {
      fprintf(stderr, "usage: bench_records [--json] [--one-connection] [--rounds N]\n");
      return 2;
    }
  }
  start(&b);
  if (!b.json) printf("engine: %s, batches of %d, %u connections, medians of %u rounds\n", np_crypto_engine(b.crypto), BATCH, b.connections, b.rounds);
  static const enum np_aead aeads[] = {NP_AEAD_AES_256_GCM, NP_AEAD_XCHACHA20_POLY1305};
  static const uint32_t sizes[] = {64, 256, 1400, 16384};
  for (int a = 0; a < 2; a++) {
    b.aead = aeads[a];
    for (int s = 0; s < 4; s++) measure(&b, sizes[s]);
  }
  for (uint32_t n = 64; n <= 1u << 20; n *= 4) decode(&b, n);
  return 0;
}
