/* The vectors that the C and the Go implementation share, csrc/test/vectors:
 * each block of each kind, both AEADs over both engines. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "codec/body.h"
#include "codec/compress.h"
#include "codec/frame.h"
#include "crypto/derive.h"
#include "crypto/record.h"
#include "vectors.h"

#define PATH "csrc/test/vectors/npro.txt" /* tests run in the repository's root */

struct world {
  void *mem[2];
  struct np_crypto *crypto[2];
  struct np_compressor *compressor;
  const struct vector_block *b;
};

#define check(cond) \
  do { \
    if (!(cond)) fail_msg(PATH ":%d: %s: %s", w->b->line, vector_text(w->b, "name"), #cond); \
  } while (0)

static bool same(struct world *w, const char *field, const uint8_t *got, uint32_t n) {
  uint32_t want_bytes;
  uint8_t *want = vector_bytes(w->b, field, &want_bytes);
  bool equal = want_bytes == n && (n == 0 || memcmp(want, got, n) == 0);
  free(want);
  return equal;
}

static bool good(struct world *w) { return strcmp(vector_text(w->b, "error"), "none") == 0; }

/* Two pieces, so that chains take part too. */
static struct np_buf *chain(const uint8_t *data, uint32_t n, uint32_t cut) {
  struct np_buf *p[2];
  uint32_t lens[2] = {cut < n ? cut : n, n - (cut < n ? cut : n)};
  for (int i = 0; i < 2; i++) {
    p[i] = calloc(1, sizeof **p + lens[i]);
    assert_non_null(p[i]);
    p[i]->data_off = NP_BUF_HDR;
    p[i]->len = lens[i];
    p[i]->cap_bytes = NP_BUF_HDR + lens[i];
    if (lens[i] > 0) memcpy((uint8_t *)p[i] + NP_BUF_HDR, data + (i ? lens[0] : 0), lens[i]);
  }
  p[0]->next = p[1];
  return p[0];
}
static void chain_read(const struct np_buf *b, uint8_t *out) {
  for (; b != NULL; b = b->next) {
    memcpy(out, (const uint8_t *)b + b->data_off, b->len);
    out += b->len;
  }
}
static void chain_free(struct np_buf *b) {
  free(b->next);
  free(b);
}

static void run_frame(struct world *w) {
  static const struct {
    const char *word;
    enum np_drop drop;
  } words[] = {{"none", NP_FRAME_OK},           {"magic", NP_DROP_NPRO_MAGIC}, {"version", NP_DROP_NPRO_VERSION},
               {"flags", NP_DROP_NPRO_FLAGS},   {"type", NP_DROP_NPRO_TYPE},   {"reserved", NP_DROP_NPRO_RESERVED},
               {"length", NP_DROP_NPRO_LENGTH}};
  uint32_t n;
  uint8_t *header = vector_bytes(w->b, "header", &n);
  uint8_t back[16];
  struct np_frame f;
  check(n == 16);
  enum np_drop got = np_frame_decode(header, (uint32_t)vector_number(w->b, "limit"), &f);
  bool known = false;
  for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
    if (strcmp(vector_text(w->b, "error"), words[i].word) != 0) continue;
    known = true;
    check(got == words[i].drop);
  }
  check(known);
  if (got == NP_FRAME_OK) {
    check(f.flags == vector_number(w->b, "flags"));
    check(f.length == vector_number(w->b, "length"));
    check(f.type == vector_number(w->b, "type"));
    check(f.priority == vector_number(w->b, "priority"));
    check(f.stream == vector_number(w->b, "stream"));
    np_frame_encode(&f, back);
    check(memcmp(back, header, 16) == 0);
    check(np_frame_precheck(header, 16) == NP_FRAME_OK);
  }
  free(header);
}

static void run_keys(struct world *w) {
  uint32_t n;
  uint8_t *key = vector_bytes(w->b, "key", &n);
  uint8_t out[32];
  check(n == 32);
  np_hkdf_sha256(key, 32, NULL, 0, (const uint8_t *)"npro2 key", 9, out, 32);
  check(same(w, "record_key", out, 32));
  np_hkdf_sha256(key, 32, NULL, 0, (const uint8_t *)"npro2 iv", 8, out, 24);
  check(same(w, "nonce_base", out, 24));
  struct np_record_dir d;
  check(np_record_dir_init(w->crypto[0], &d, NP_AEAD_AES_256_GCM, key) == NP_ERR_OK);
  check(same(w, "record_key", d.record_key, 32));
  np_record_dir_rekey(w->crypto[0], &d);
  check(same(w, "next_key", d.key, 32));
  np_record_dir_wipe(w->crypto[0], &d);
  free(key);
}

static void run_record(struct world *w) {
  uint32_t n[4];
  uint8_t *key = vector_bytes(w->b, "key", &n[0]), *header = vector_bytes(w->b, "header", &n[1]);
  uint8_t *body = vector_bytes(w->b, "body", &n[2]), *sealed = vector_bytes(w->b, "sealed", &n[3]);
  enum np_aead aead = (enum np_aead)vector_number(w->b, "aead");
  check(n[0] == 32 && n[1] == 16 && n[3] == n[2] + 16);
  uint8_t *got = malloc(n[3]);
  for (int e = 0; e < 2; e++) {
    for (uint32_t cut = 0; cut <= n[3]; cut += 1 + n[3] / 7) {
      struct np_record_dir d;
      check(np_record_dir_init(w->crypto[e], &d, aead, key) == NP_ERR_OK);
      d.seq = vector_number(w->b, "n");
      memcpy(got, body, n[2]);
      struct np_record r = {.dir = &d, .body_bytes = n[2], .buf = chain(got, n[3], cut)};
      memcpy(r.header, header, 16);
      if (d.seq < NP_RECORD_SEQ_MAX) {
        uint64_t number = d.seq;
        np_record_seal(w->crypto[e], &r, 1);
        chain_read(r.buf, got);
        check(memcmp(got, sealed, n[3]) == 0);
        d.seq = number;
        np_record_open(w->crypto[e], &r, 1);
        check(r.ok);
        chain_read(r.buf, got);
        check(n[2] == 0 || memcmp(got, body, n[2]) == 0);
      }
      chain_free(r.buf);
      np_record_dir_wipe(w->crypto[e], &d);
    }
  }
  free(key), free(header), free(body), free(sealed), free(got);
}

/* Opens the whole frame in place. */
static bool open_frame(struct world *w, struct np_crypto *crypto, struct np_record_dir *d, const char *field,
                       struct np_frame *f, uint8_t *out_body) {
  uint32_t n;
  uint8_t *frame = vector_bytes(w->b, field, &n);
  check(n >= 32 && np_frame_decode(frame, n, f) == NP_FRAME_OK && f->length == n - 16);
  struct np_record r = {.dir = d, .body_off = 16, .body_bytes = n - 32, .buf = chain(frame, n, 20)};
  memcpy(r.header, frame, 16);
  np_record_open(crypto, &r, 1);
  chain_read(r.buf, frame);
  memcpy(out_body, frame + 16, n - 32);
  chain_free(r.buf);
  free(frame);
  return r.ok;
}

static void run_rekey(struct world *w) {
  uint32_t n;
  uint8_t *key = vector_bytes(w->b, "key", &n);
  for (int e = 0; e < 2; e++) {
    struct np_record_dir d;
    struct np_frame f;
    uint8_t body[256];
    check(np_record_dir_init(w->crypto[e], &d, (enum np_aead)vector_number(w->b, "aead"), key) == NP_ERR_OK);
    check(open_frame(w, w->crypto[e], &d, "rekey_frame", &f, body));
    check(f.type == NP_NPRO_REKEY && f.length == 16);
    np_record_dir_rekey(w->crypto[e], &d);
    check(open_frame(w, w->crypto[e], &d, "next_frame", &f, body));
    check(same(w, "next_body", body, f.length - 16));
    np_record_dir_wipe(w->crypto[e], &d);
  }
  free(key);
}

static bool rest_is(struct world *w, const char *field, struct np_cursor at) {
  uint8_t *rest = malloc(at.left + 1);
  uint32_t n = at.left;
  bool equal = np_cursor_read(&at, rest, n) && same(w, field, rest, n);
  free(rest);
  return equal;
}

static void run_request(struct world *w, struct np_cursor *at) {
  struct np_request r;
  check((np_body_request(at, &r) == NP_FRAME_OK) == good(w));
  if (!good(w)) return;
  check(same(w, "opcode", r.opcode, r.opcode_bytes));
  check(rest_is(w, "payload", *at));
}

static void run_response(struct world *w, struct np_cursor *at) {
  uint8_t status;
  check((np_body_response(at, &status) == NP_FRAME_OK) == good(w));
  if (!good(w)) return;
  check(status == vector_number(w->b, "status"));
  check(rest_is(w, "payload", *at));
}

static void run_context(struct world *w, struct np_cursor *at) {
  struct np_context c;
  check((np_body_context(at, &c) == NP_FRAME_OK) == good(w));
  if (!good(w)) return;
  check(rest_is(w, "rest", *at));
  check(c.has_traceparent == (vector_text(w->b, "traceparent") != NULL));
  check(!c.has_traceparent || same(w, "traceparent", c.traceparent, sizeof c.traceparent));
  check(c.has_deadline == (vector_text(w->b, "deadline_ms") != NULL));
  check(c.deadline_ms == vector_number(w->b, "deadline_ms"));
  check(c.has_tenant == (vector_text(w->b, "tenant") != NULL));
  check(!c.has_tenant || rest_is(w, "tenant", c.tenant));
  check(c.has_session == (vector_text(w->b, "session") != NULL));
  check(!c.has_session || rest_is(w, "session", c.session));
  uint32_t extra = 0;
  while (c.entries.left > 0) {
    uint8_t head[2], value[256];
    check(np_cursor_read(&c.entries, head, 2));
    check(np_cursor_read(&c.entries, value + 1, head[1]));
    if (head[0] >= NP_CONTEXT_TRACEPARENT && head[0] <= NP_CONTEXT_SESSION) continue;
    char name[24];
    snprintf(name, sizeof name, "extra_%u", extra++);
    value[0] = head[0];
    check(same(w, name, value, 1u + head[1]));
  }
  char name[24];
  snprintf(name, sizeof name, "extra_%u", extra);
  check(vector_text(w->b, name) == NULL);
}

static void run_body(struct world *w, void (*run)(struct world *w, struct np_cursor *at)) {
  uint32_t n;
  uint8_t *body = vector_bytes(w->b, "body", &n);
  for (uint32_t cut = 0; cut <= n; cut++) {
    struct np_buf *b = chain(body, n, cut);
    struct np_cursor at = np_cursor_at(b, 0, n);
    run(w, &at);
    chain_free(b);
  }
  free(body);
}

static void run_compressed(struct world *w, enum np_compression algorithm) {
  uint32_t n, raw;
  uint8_t *body = vector_bytes(w->b, "body", &n);
  enum np_drop d = np_decompress_size(body, n, (uint32_t)vector_number(w->b, "limit"), &raw);
  if (d == NP_FRAME_OK) {
    uint8_t *out = malloc(raw);
    d = np_decompress(w->compressor, algorithm, body, n, out, raw);
    if (d == NP_FRAME_OK) check(same(w, "raw", out, raw));
    free(out);
  }
  check((d == NP_FRAME_OK) == good(w));
  free(body);
}

static bool run(struct world *w) {
  const char *kind = vector_text(w->b, "kind");
  check(kind != NULL);
  if (strcmp(kind, "frame") == 0) return run_frame(w), true;
  if (strcmp(kind, "keys") == 0) return run_keys(w), true;
  if (strcmp(kind, "record") == 0) return run_record(w), true;
  if (strcmp(kind, "rekey") == 0) return run_rekey(w), true;
  if (strcmp(kind, "request") == 0) return run_body(w, run_request), true;
  if (strcmp(kind, "response") == 0) return run_body(w, run_response), true;
  if (strcmp(kind, "context") == 0) return run_body(w, run_context), true;
  if (strcmp(kind, "lz4") == 0) return run_compressed(w, NP_COMPRESSION_LZ4), true;
  if (strcmp(kind, "zstd") == 0) return run_compressed(w, NP_COMPRESSION_ZSTD), true;
  return false;
}

static void test_shared_vectors(void **state) {
  (void)state;
  enum { RAW_MAX = 1 << 20 };
  struct world world = {0};
  struct world *w = &world;
  for (int e = 0; e < 2; e++) {
    struct np_crypto_config config = {.key_cache_count = 2, .force_portable = e == 1};
    w->mem[e] = malloc(np_crypto_bytes(&config));
    w->crypto[e] = np_crypto_init(w->mem[e], &config);
    assert_non_null(w->crypto[e]);
  }
  w->compressor = np_compressor_init(aligned_alloc(64, np_compressor_bytes(RAW_MAX)), RAW_MAX);
  assert_non_null(w->compressor);
  struct vector_file f;
  struct vector_block b;
  int ran = 0;
  if (!vector_open(&f, PATH)) fail_msg("cannot read " PATH " (run in the repository's root)");
  while (vector_next(&f, &b)) {
    w->b = &b;
    if (!run(w)) fail_msg(PATH ":%d: unknown kind %s", b.line, vector_text(&b, "kind"));
    ran++;
  }
  vector_close(&f);
  print_message("%d shared vectors\n", ran);
  assert_true(ran >= 100);
  for (int e = 0; e < 2; e++) {
    np_crypto_fini(w->crypto[e]);
    free(w->mem[e]);
  }
  free(w->compressor);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_shared_vectors)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
