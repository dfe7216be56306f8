/* Headers: the mbufs of a queue, as a mempool whose free objects show no buffer.
 *
 * The core's np_pool stays the only list of free buffers. When a driver takes an mbuf, a buffer is taken
 * from the pool and put behind it; when it frees one, the buffer's reference goes. So a received buffer
 * goes up without its header, a buffer that TCP keeps may be with the driver at the same time (even twice, in
 * chains of its own), and AF_XDP's layout of a chunk is DPDK's too. The alternative, mbuf and np_buf in
 * one chunk, costs each chunk 256 bytes on every backend and ties TCP's references to the mbuf's count. */
#include <rte_errno.h>
#include <rte_malloc.h>
#include <stdio.h>
#include <string.h>

#include "io/dpdk/internal.h"

#define OPS_NAME "np"

static bool is_owner(const struct np_dpdk_hdrs *h) {
  return __atomic_load_n(&h->owner, __ATOMIC_RELAXED) == pthread_self();
}

/* ---- the core's own thread ---- */

/* Whether receiving may have n more buffers: not the pool's last eighth, which sending and
 * sessions need, but post_min in any case. */
static bool may_take(const struct np_dpdk_hdrs *h, uint32_t n) {
  uint32_t free_count = h->pool->free_count;
  if (NP_UNLIKELY(n > h->free_count || n > free_count)) return false;
  return NP_LIKELY(free_count - n >= h->spare_count) || h->count - h->free_count + n <= h->post_min;
}

static int take(struct np_dpdk_hdrs *h, void **out, uint32_t n) {
  if (!may_take(h, n)) return -ENOBUFS;
  for (uint32_t i = 0; i < n; i++) {
    struct rte_mbuf *m = h->free[--h->free_count];
    struct np_buf *b = np_pool_get_rx(h->pool);
    np_assert(b != NULL); /* may_take counted them */
    np_dpdk_bind(h, m, b);
    out[i] = m;
  }
  return 0;
}

static void give(struct np_dpdk_hdrs *h, void *const *objs, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) {
    struct rte_mbuf *m = objs[i];
    np_buf_put(np_dpdk_buf(h, m));
    m->buf_addr = NULL;
    np_assert(h->free_count < h->count);
    h->free[h->free_count++] = m;
  }
}

/* ---- other threads ---- */

static NP_COLD int take_lent(struct np_dpdk_hdrs *h, void **out, uint32_t n) {
  int rc = -ENOBUFS;
  pthread_mutex_lock(&h->lock);
  if (h->pool == NULL && n <= h->free_count) { /* ending: bare headers for rte_mempool_free, which takes every object */
    h->free_count -= n;
    memcpy(out, h->free + h->free_count, n * sizeof *out);
    rc = 0;
  } else if (n <= h->lent_count) {
    h->lent_count -= n;
    memcpy(out, h->lent + h->lent_count, n * sizeof *out);
    rc = 0;
  }
  pthread_mutex_unlock(&h->lock);
  return rc;
}

static NP_COLD void give_back(struct np_dpdk_hdrs *h, void *const *objs, uint32_t n) {
  pthread_mutex_lock(&h->lock);
  np_assert(n <= h->count - h->back_count);
  memcpy(h->back + h->back_count, objs, n * sizeof *objs);
  __atomic_store_n(&h->back_count, h->back_count + n, __ATOMIC_RELEASE);
  pthread_mutex_unlock(&h->lock);
}

void np_dpdk_hdrs_lend(struct np_dpdk_hdrs *h, uint32_t n) {
  __atomic_store_n(&h->owner, pthread_self(), __ATOMIC_RELAXED);
  pthread_mutex_lock(&h->lock);
  while (h->lent_count < n) { /* bound: n */
    void *m;
    if (take(h, &m, 1) != 0) break;
    h->lent[h->lent_count++] = m;
  }
  pthread_mutex_unlock(&h->lock);
}

void np_dpdk_hdrs_collect(struct np_dpdk_hdrs *h) {
  __atomic_store_n(&h->owner, pthread_self(), __ATOMIC_RELAXED);
  if (NP_LIKELY(__atomic_load_n(&h->back_count, __ATOMIC_ACQUIRE) == 0 && h->lent_count == 0)) return;
  pthread_mutex_lock(&h->lock);
  give(h, (void *const *)h->back, h->back_count);
  give(h, (void *const *)h->lent, h->lent_count);
  __atomic_store_n(&h->back_count, 0, __ATOMIC_RELAXED);
  h->lent_count = 0;
  pthread_mutex_unlock(&h->lock);
}

void np_dpdk_hdrs_reclaim(struct np_dpdk_hdrs *h) {
  np_dpdk_hdrs_collect(h);
  size_t stride = h->mp->header_size + h->mp->elt_size + h->mp->trailer_size;
  for (uint32_t i = 0; i < h->count; i++) {
    struct rte_mbuf *m = (struct rte_mbuf *)(void *)(h->mem + i * stride + h->mp->header_size);
    if (m->buf_addr == NULL) continue;
    void *obj = m;
    give(h, &obj, 1);
  }
}

/* ---- as DPDK sees it ---- */

static int op_alloc(struct rte_mempool *mp) {
  mp->pool_data = mp->pool_config;
  return 0;
}

static void op_free(struct rte_mempool *mp) { mp->pool_data = NULL; }

static int op_enqueue(struct rte_mempool *mp, void *const *objs, unsigned n) {
  struct np_dpdk_hdrs *h = mp->pool_data;
  if (NP_LIKELY(is_owner(h))) {
    give(h, objs, n);
  } else {
    give_back(h, objs, n);
  }
  return 0;
}

static int op_dequeue(struct rte_mempool *mp, void **objs, unsigned n) {
  struct np_dpdk_hdrs *h = mp->pool_data;
  return NP_LIKELY(is_owner(h)) ? take(h, objs, n) : take_lent(h, objs, n);
}

static unsigned op_count(const struct rte_mempool *mp) {
  const struct np_dpdk_hdrs *h = mp->pool_data;
  return h->free_count;
}

static int op_populate(struct rte_mempool *mp, unsigned max_objs, void *vaddr, rte_iova_t iova, size_t bytes,
                       rte_mempool_populate_obj_cb_t *cb, void *arg) {
  struct np_dpdk_hdrs *h = mp->pool_data;
  size_t stride = mp->header_size + mp->elt_size + mp->trailer_size;
  unsigned n = 0;
  for (; n < max_objs && (n + 1) * stride <= bytes; n++) { /* bound: max_objs */
    struct rte_mbuf *m = (struct rte_mbuf *)(void *)((uint8_t *)vaddr + n * stride + mp->header_size);
    cb(mp, arg, m, iova == RTE_BAD_IOVA ? RTE_BAD_IOVA : iova + n * stride + mp->header_size);
    m->buf_len = (uint16_t)(h->pool->chunk_bytes - NP_DPDK_BUF_OFF);
    m->data_off = RTE_PKTMBUF_HEADROOM;
    m->refcnt = 1;
    m->nb_segs = 1;
    m->port = RTE_MBUF_PORT_INVALID;
    m->pool = mp;
    h->free[h->free_count++] = m;
  }
  return (int)n;
}

int np_dpdk_ops_register(void) {
  static const struct rte_mempool_ops ops = {
      .name = OPS_NAME,
      .alloc = op_alloc,
      .free = op_free,
      .enqueue = op_enqueue,
      .dequeue = op_dequeue,
      .get_count = op_count,
      .populate = op_populate,
  };
  return rte_mempool_register_ops(&ops);
}

enum np_err np_dpdk_hdrs_init(struct np_dpdk_hdrs *h, struct np_pool *pool, const char *name, uint32_t count, int socket,
                              struct np_err_detail *detail) {
  h->pool = pool;
  h->count = count;
  h->chunk_mask = ~((uintptr_t)pool->chunk_bytes - 1);
  h->spare_count = pool->count / 8u;
  h->post_min = np_max_u32(pool->count / 64u, NP_BURST); /* drivers take bursts, all or none */
  pthread_mutex_init(&h->lock, NULL);
  h->free = rte_calloc_socket(name, 3u * count, sizeof *h->free, 0, socket);
  h->lent = h->free + count;
  h->back = h->lent + count;
  h->mp = rte_mempool_create_empty(name, count, sizeof(struct rte_mbuf), 0, sizeof(struct rte_pktmbuf_pool_private), socket,
                                   RTE_MEMPOOL_F_NO_SPREAD | RTE_MEMPOOL_F_NO_IOVA_CONTIG);
  if (h->free == NULL || h->mp == NULL) {
    np_dpdk_explain(detail, -rte_errno, "make %u packet headers", count);
    return NP_ERR_NOMEM;
  }
  int rc = rte_mempool_set_ops_byname(h->mp, OPS_NAME, h);
  np_assert(rc == 0); /* np_dpdk_start registered it */
  struct rte_pktmbuf_pool_private *priv = rte_mempool_get_priv(h->mp);
  priv->mbuf_data_room_size = (uint16_t)(pool->chunk_bytes - NP_DPDK_BUF_OFF);
  priv->mbuf_priv_size = 0;
  size_t bytes = (size_t)count * (h->mp->header_size + h->mp->elt_size + h->mp->trailer_size);
  h->mem = rte_zmalloc_socket(name, bytes, RTE_CACHE_LINE_SIZE, socket);
  if (h->mem == NULL) {
    np_dpdk_explain(detail, -ENOMEM, "make %u packet headers", count);
    return NP_ERR_NOMEM;
  }
  rc = rte_mempool_populate_iova(h->mp, (char *)h->mem, RTE_BAD_IOVA, bytes, NULL, NULL);
  if (rc != (int)count) {
    np_dpdk_explain(detail, rc < 0 ? rc : -ENOMEM, "make %u packet headers", count);
    return NP_ERR_SYS;
  }
  return NP_ERR_OK;
}

void np_dpdk_hdrs_free(struct np_dpdk_hdrs *h) {
  if (h->count == 0) return;
  h->pool = NULL;
  h->owner = 0;
  rte_mempool_free(h->mp);
  rte_free(h->mem);
  rte_free(h->free);
  pthread_mutex_destroy(&h->lock);
  h->count = 0;
}
