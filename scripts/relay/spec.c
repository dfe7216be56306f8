/* See spec.h. Numbers are decimal with an optional fraction and a unit that must be there. */
#include "spec.h"

#include <stdio.h>
#include <string.h>

#include "base/bytes.h"

#define WORD_BYTES_MAX 64u

struct unit {
  const char *name;
  uint64_t factor;
};

static const struct unit times[] = {{"ns", 1}, {"us", 1000}, {"ms", 1000000}, {"s", 1000000000}, {NULL, 0}};
static const struct unit rates[] = {
    {"bit", 1}, {"kbit", 1000}, {"mbit", 1000000}, {"gbit", 1000000000}, {NULL, 0}};
static const struct unit sizes[] = {{"b", 1}, {"kib", 1024}, {"mib", 1048576}, {NULL, 0}};
static const struct unit parts[] = {{"%", 10000}, {"ppm", 1}, {NULL, 0}};
static const struct unit counts[] = {{"", 1}, {NULL, 0}};

/* "12.5ms": twelve digits and three of a fraction at most. */
static bool number(const char *s, const struct unit *units, uint64_t *out) {
  uint64_t milli = 0;
  uint32_t digits = 0;
  while (*s >= '0' && *s <= '9' && digits < 12) { /* bound: 12 */
    milli = milli * 10 + (uint64_t)(*s++ - '0') * 1000u;
    digits++;
  }
  if (digits == 0) return false;
  if (*s == '.') {
    s++;
    for (uint64_t place = 100; *s >= '0' && *s <= '9'; place /= 10) { /* bound: 3, then refused */
      if (place == 0) return false;
      milli += (uint64_t)(*s++ - '0') * place;
    }
  }
  for (const struct unit *u = units; u->name != NULL; u++) {
    if (strcmp(s, u->name) != 0) continue;
    np_u128 v = (np_u128)milli * u->factor / 1000u;
    if (v > UINT64_MAX) return false;
    *out = (uint64_t)v;
    return true;
  }
  return false;
}

struct key {
  const char *name;
  const struct unit *units;
  uint64_t min;
  uint64_t max;
  const char *want;
  size_t off;  /* of the field; wide says whether it has 64 bits */
  bool wide;
  const struct unit *second_units; /* after a colon, may be left out */
  uint64_t second_max;
  size_t second_off;
  bool second_wide;
};

#define FIELD(f) offsetof(struct np_relay_params, f)
static const struct key keys[] = {
    {"delay", times, 0, NP_RELAY_DELAY_NS_MAX, "0 to 10s", FIELD(delay_ns), true, NULL, 0, 0, false},
    {"jitter", times, 0, NP_RELAY_DELAY_NS_MAX, "0 to 10s", FIELD(jitter_ns), true, NULL, 0, 0, false},
    {"rate", rates, NP_RELAY_RATE_BPS_MIN, NP_RELAY_RATE_BPS_MAX, "8kbit to 100gbit", FIELD(rate_bps), true, NULL, 0, 0,
     false},
    {"queue", sizes, NP_RELAY_QUEUE_BYTES_MIN, NP_RELAY_QUEUE_BYTES_MAX, "2000b to 1024mib", FIELD(queue_bytes), false,
     NULL, 0, 0, false},
    {"mark", sizes, 1, NP_RELAY_QUEUE_BYTES_MAX, "1b to 1024mib", FIELD(mark_bytes), false, NULL, 0, 0, false},
    {"loss", parts, 0, 1000000, "0% to 100%", FIELD(loss_ppm), false, NULL, 0, 0, false},
    {"burst", parts, 0, 1000000, "0% to 100%, then :packets (1 to 1000)", FIELD(burst_ppm), false, counts,
     NP_RELAY_BURST_PKTS_MAX, FIELD(burst_pkts), false},
    {"reorder", parts, 0, 1000000, "0% to 100%, then :time (1ns to 10s)", FIELD(reorder_ppm), false, times,
     NP_RELAY_DELAY_NS_MAX, FIELD(reorder_ns), true},
    {"duplicate", parts, 0, 1000000, "0% to 100%", FIELD(duplicate_ppm), false, NULL, 0, 0, false},
    {"corrupt", parts, 0, 1000000, "0% to 100%", FIELD(corrupt_ppm), false, NULL, 0, 0, false},
    {"ce", parts, 0, 1000000, "0% to 100%", FIELD(ce_ppm), false, NULL, 0, 0, false},
};

static void set(struct np_relay_params *p, size_t off, bool wide, uint64_t v) {
  uint8_t *at = (uint8_t *)p + off;
  if (wide) {
    np_store_64(at, v);
  } else {
    np_store_32(at, (uint32_t)v); /* each 32-bit field's limit fits */
  }
}

static bool one(char *word, struct np_relay_params *out, char *error, size_t error_bytes) {
  char *value = strchr(word, '=');
  if (value != NULL) *value++ = '\0';
  for (size_t i = 0; i < NP_COUNT_OF(keys); i++) {
    const struct key *k = &keys[i];
    if (strcmp(word, k->name) != 0) continue;
    char *second = value != NULL && k->second_units != NULL ? strchr(value, ':') : NULL;
    if (second != NULL) *second++ = '\0';
    uint64_t v = 0;
    uint64_t w = 1;
    if (value == NULL || !number(value, k->units, &v) || v < k->min || v > k->max ||
        (second != NULL && (!number(second, k->second_units, &w) || w == 0 || w > k->second_max))) {
      snprintf(error, error_bytes, "%s: want %s", k->name, k->want);
      return false;
    }
    set(out, k->off, k->wide, v);
    if (second != NULL) set(out, k->second_off, k->second_wide, w);
    return true;
  }
  snprintf(error, error_bytes, "unknown '%.40s': want delay, jitter, rate, queue, mark, loss, burst, reorder, duplicate, corrupt or ce",
           word);
  return false;
}

bool np_relay_parse(const char *text, struct np_relay_params *out, char *error, size_t error_bytes) {
  memset(out, 0, sizeof *out);
  if (strcmp(text, "none") == 0) return true;
  while (*text != '\0') { /* bound: the text's length */
    size_t n = strcspn(text, ",");
    char word[WORD_BYTES_MAX];
    if (n == 0 || n >= sizeof word) {
      snprintf(error, error_bytes, "'%.40s': want NAME=VALUE[,NAME=VALUE...]", text);
      return false;
    }
    memcpy(word, text, n);
    word[n] = '\0';
    if (!one(word, out, error, error_bytes)) return false;
    text += n;
    if (*text == ',' && *++text == '\0') {
      snprintf(error, error_bytes, "a comma at the end");
      return false;
    }
  }
  if (out->rate_bps == 0 && (out->queue_bytes != 0 || out->mark_bytes != 0)) {
    snprintf(error, error_bytes, "queue and mark need a rate");
    return false;
  }
  return true;
}
