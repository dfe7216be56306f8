#include "base/hash.h"

static uint64_t rotl(uint64_t x, uint32_t n) { return x << n | x >> (64 - n); }

static void sip_round(uint64_t v[4]) {
  v[0] += v[1];
  v[1] = rotl(v[1], 13) ^ v[0];
  v[0] = rotl(v[0], 32);
  v[2] += v[3];
  v[3] = rotl(v[3], 16) ^ v[2];
  v[0] += v[3];
  v[3] = rotl(v[3], 21) ^ v[0];
  v[2] += v[1];
  v[1] = rotl(v[1], 17) ^ v[2];
  v[2] = rotl(v[2], 32);
}

uint64_t np_siphash(const uint8_t key[16], const void *data, size_t len) {
  const uint8_t *p = data;
  uint64_t k0 = np_load_64(key);
  uint64_t k1 = np_load_64(key + 8);
  uint64_t v[4] = {
      k0 ^ UINT64_C(0x736f6d6570736575),
      k1 ^ UINT64_C(0x646f72616e646f6d),
      k0 ^ UINT64_C(0x6c7967656e657261),
      k1 ^ UINT64_C(0x7465646279746573),
  };
  size_t left = len;
  for (; left >= 8; left -= 8, p += 8) {
    uint64_t m = np_load_64(p);
    v[3] ^= m;
    sip_round(v);
    sip_round(v);
    v[0] ^= m;
  }
  uint8_t last[8] = {0};
  memcpy(last, p, left);
  last[7] = (uint8_t)len;
  uint64_t m = np_load_64(last);
  v[3] ^= m;
  sip_round(v);
  sip_round(v);
  v[0] ^= m;
  v[2] ^= 0xff;
  for (uint32_t i = 0; i < 4; i++) sip_round(v);
  return v[0] ^ v[1] ^ v[2] ^ v[3];
}
