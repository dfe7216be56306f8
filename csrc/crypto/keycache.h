/* Internal to this folder: the expanded AES-256-GCM keys of one core, bounded.
 * A direction holds only a hint (slot, stamp), so an idle connection costs no
 * slot; the one pushed out expands again (about 0.1 us) when it speaks.
 *
 * A slot is a direction's when owner and stamp both say so. Owner alone would
 * be fooled by a new direction at an old address, a stamp alone by its wrap. */
#ifndef NP_CRYPTO_KEYCACHE_H
#define NP_CRYPTO_KEYCACHE_H

#include "crypto/engine.h"
#include "crypto/record.h"

struct np_key_slot {
  const struct np_record_dir *owner;
  uint32_t stamp;  /* never 0 while owned */
  uint32_t used;   /* since the clock hand last passed */
};

struct np_key_cache {
  const struct np_engine *engine;
  void *state;
  struct np_key_slot *slots;
  uint8_t *keys;       /* count of engine->slot_bytes each */
  uint32_t count;
  uint32_t hand;
  uint32_t stamp_next;
  uint64_t misses;
};

size_t np_key_cache_bytes(size_t slot_bytes, uint32_t count);
/* mem: 64-byte aligned. Return: false when the engine cannot make its slots. */
bool np_key_cache_init(struct np_key_cache *cache, void *mem, const struct np_engine *engine, void *state,
                       uint32_t count);
void np_key_cache_fini(struct np_key_cache *cache);
/* Expands dir's key into a slot, wiping whose turn it is to go. */
void *np_key_cache_miss(struct np_key_cache *cache, struct np_record_dir *dir);
/* Wipes dir's slot if it has one. */
void np_key_cache_drop(struct np_key_cache *cache, struct np_record_dir *dir);

NP_INLINE void *np_key_cache_at(const struct np_key_cache *cache, uint32_t slot) {
  return cache->keys + (size_t)slot * cache->engine->slot_bytes;
}

/* Starts bringing in the slot and the first round keys; what follows is read in
 * order, and the hardware sees that coming. */
NP_INLINE void np_key_cache_prefetch(const struct np_key_cache *cache, const struct np_record_dir *dir) {
  if (NP_UNLIKELY(dir->cache_slot >= cache->count)) return;
  NP_PREFETCH(&cache->slots[dir->cache_slot]);
  NP_PREFETCH(np_key_cache_at(cache, dir->cache_slot));
}

/* The expanded key of dir; stays valid until the next call for another direction. */
NP_INLINE void *np_key_cache_get(struct np_key_cache *cache, struct np_record_dir *dir) {
  if (NP_LIKELY(dir->cache_slot < cache->count)) {
    struct np_key_slot *s = &cache->slots[dir->cache_slot];
    if (NP_LIKELY(s->owner == dir && s->stamp == dir->cache_stamp)) {
      s->used = 1;
      return np_key_cache_at(cache, dir->cache_slot);
    }
  }
  return np_key_cache_miss(cache, dir);
}

#endif
