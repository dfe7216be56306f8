#include "crypto/keycache.h"

static size_t slots_bytes(uint32_t count) {
  return ((size_t)count * sizeof(struct np_key_slot) + NP_CACHE_LINE - 1) & ~(size_t)(NP_CACHE_LINE - 1);
}

size_t np_key_cache_bytes(size_t slot_bytes, uint32_t count) { return slots_bytes(count) + slot_bytes * count; }

bool np_key_cache_init(struct np_key_cache *cache, void *mem, const struct np_engine *engine, void *state,
                       uint32_t count) {
  np_assert(count > 0);
  *cache = (struct np_key_cache){.engine = engine, .state = state, .count = count, .stamp_next = 1};
  cache->slots = mem;
  cache->keys = (uint8_t *)mem + slots_bytes(count);
  memset(cache->slots, 0, slots_bytes(count));
  for (uint32_t i = 0; i < count; i++) {
    if (!engine->slot_open(state, np_key_cache_at(cache, i))) {
      cache->count = i;
      np_key_cache_fini(cache);
      return false;
    }
  }
  return true;
}

void np_key_cache_fini(struct np_key_cache *cache) {
  for (uint32_t i = 0; i < cache->count; i++) {
    if (cache->slots[i].owner != NULL) cache->engine->slot_wipe(cache->state, np_key_cache_at(cache, i));
    cache->engine->slot_close(cache->state, np_key_cache_at(cache, i));
    cache->slots[i] = (struct np_key_slot){0};
  }
  cache->count = 0;
}

void *np_key_cache_miss(struct np_key_cache *cache, struct np_record_dir *dir) {
  struct np_key_slot *s = &cache->slots[cache->hand];
  /* Clock: whoever was used since the last round gets one more. Bound: the first
   * round clears every mark, so the second one ends at once. */
  for (uint32_t i = 0; i < cache->count && s->used != 0; i++) {
    s->used = 0;
    cache->hand = cache->hand + 1 < cache->count ? cache->hand + 1 : 0;
    s = &cache->slots[cache->hand];
  }
  uint32_t slot = cache->hand;
  cache->hand = slot + 1 < cache->count ? slot + 1 : 0;
  void *key = np_key_cache_at(cache, slot);
  if (s->owner != NULL) cache->engine->slot_wipe(cache->state, key);
  cache->engine->slot_expand(cache->state, key, dir->record_key);
  cache->misses++;
  *s = (struct np_key_slot){.owner = dir, .stamp = cache->stamp_next, .used = 1};
  dir->cache_slot = slot;
  dir->cache_stamp = cache->stamp_next;
  cache->stamp_next = cache->stamp_next == UINT32_MAX ? 1 : cache->stamp_next + 1;
  return key;
}

void np_key_cache_drop(struct np_key_cache *cache, struct np_record_dir *dir) {
  if (dir->cache_stamp == 0 || dir->cache_slot >= cache->count) return;
  struct np_key_slot *s = &cache->slots[dir->cache_slot];
  /* The stamp alone decides here: a direction that was moved in memory must not
   * leave its key behind, and dropping another's costs that one an expansion. */
  if (s->owner != NULL && s->stamp == dir->cache_stamp) {
    cache->engine->slot_wipe(cache->state, np_key_cache_at(cache, dir->cache_slot));
    *s = (struct np_key_slot){0};
  }
  dir->cache_slot = 0;
  dir->cache_stamp = 0;
}
