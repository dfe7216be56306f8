/* Keyed hashes. np_hash_flow is for our own tables: quick, and without its key
 * nobody can choose four-tuples that fall together. np_siphash is for what peers
 * get to see (sequence numbers, cookies), where the key itself must stay hidden. */
#ifndef NP_BASE_HASH_H
#define NP_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/bytes.h"
#include "base/compiler.h"

/* 128 random bits. */
struct np_hash_key {
  uint64_t k[2];
};

/* Both halves of the product, folded. */
NP_INLINE uint64_t np_mix64(uint64_t a, uint64_t b) {
  np_u128 p = (np_u128)a * b;
  return (uint64_t)p ^ (uint64_t)(p >> 64);
}

/* The constants keep a zero word from zeroing a product when the key is unlucky;
 * each is an odd number with half its bits set. */
NP_INLINE uint64_t np_hash_addr(const struct np_addr *a, const struct np_hash_key *key) {
  uint64_t h = np_mix64(np_load_64(a->b) ^ key->k[0], np_load_64(a->b + 8) ^ key->k[1]);
  return np_mix64(h ^ key->k[1], UINT64_C(0x9e3779b97f4a7c15));
}

NP_INLINE uint64_t np_hash_flow64(const struct np_flow *f, const struct np_hash_key *key) {
  uint64_t local = np_mix64(np_load_64(f->local.b) ^ key->k[0], np_load_64(f->local.b + 8) ^ key->k[1]);
  uint64_t remote = np_mix64(np_load_64(f->remote.b) ^ key->k[1] ^ UINT64_C(0xa0761d6478bd642f),
                             np_load_64(f->remote.b + 8) ^ key->k[0] ^ UINT64_C(0xe7037ed1a0b428db));
  uint64_t ports = (uint64_t)f->local_port << 16 | f->remote_port;
  uint64_t h = np_mix64(local ^ ports ^ UINT64_C(0x8ebc6af09c88c6e3), remote ^ key->k[0]);
  return np_mix64(h ^ key->k[1], UINT64_C(0x9e3779b97f4a7c15));
}

NP_INLINE uint32_t np_hash_flow(const struct np_flow *f, const struct np_hash_key *key) {
  uint64_t h = np_hash_flow64(f, key);
  return (uint32_t)(h ^ h >> 32);
}

/* SipHash-2-4 of len bytes under a 16-byte key. */
uint64_t np_siphash(const uint8_t key[16], const void *data, size_t len);

#endif
