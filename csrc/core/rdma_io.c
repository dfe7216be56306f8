/* One-sided RDMA of a plane: registered regions, reads and writes. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "core/rdma.h"

struct call {
  struct np_rdma *carrier;
  const struct np_rdma_op_args *args;
  uint32_t op;
  enum np_err err;
};

static void on_op(void *arg) {
  struct call *c = arg;
  c->err = np_rdma_op(c->carrier, c->args, &c->op);
}

static struct np_rdma_region_place *region_of(struct np_plane_rdma *r, uint64_t region) {
  uint32_t index = (uint32_t)region;
  if (index >= NP_PLANE_RDMA_REGIONS_MAX) return NULL;
  struct np_rdma_region_place *g = &r->region[index];
  return g->mr != NULL && g->generation == (uint32_t)(region >> 32) ? g : NULL;
}

enum np_err np_plane_rdma_region(struct np_plane_rdma *r, uint64_t id, uint64_t bytes, uint32_t access,
                                 struct np_rdma_region *out, struct np_err_detail *detail) {
  struct np_rdma_place *p = np_rdma_place_of(r, id);
  if (p == NULL || p->qp == NULL) return NP_ERR_STALE;
  if (bytes == 0 || bytes > NP_RDMA_REGION_BYTES_MAX || (access & ~(NP_RDMA_REMOTE_READ | NP_RDMA_REMOTE_WRITE)) != 0) {
    np_rdma_explain(detail, 0, "register memory: %llu bytes with access %u", (unsigned long long)bytes, access);
    return NP_ERR_INVALID;
  }
  struct np_rdma_region_place *g = NULL;
  for (uint32_t i = 0; i < NP_PLANE_RDMA_REGIONS_MAX && g == NULL; i++) {
    if (r->region[i].mr == NULL) g = &r->region[i];
  }
  if (g == NULL) {
    np_rdma_explain(detail, 0, "register memory: there are %u regions", NP_PLANE_RDMA_REGIONS_MAX);
    return NP_ERR_FULL;
  }
  void *mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mem == MAP_FAILED) {
    np_rdma_explain(detail, errno, "register %llu KiB of memory", (unsigned long long)(bytes >> 10));
    return NP_ERR_NOMEM;
  }
  struct np_rdma_mr *mr;
  uint32_t lkey;
  memset(out, 0, sizeof *out);
  enum np_err err = np_rdma_mr_make(p->use->dev, mem, bytes, access, &mr, &out->addr, &out->rkey, &lkey, detail);
  if (err != NP_ERR_OK) {
    munmap(mem, bytes);
    return err;
  }
  p->use->users++;
  uint32_t generation = g->generation + 1;
  *g = (struct np_rdma_region_place){.mr = mr,
                                     .use = p->use,
                                     .mem = mem,
                                     .bytes = bytes,
                                     .addr = out->addr,
                                     .lkey = lkey,
                                     .generation = generation != 0 ? generation : 1,
                                     .core = p->core};
  out->mem = mem;
  out->bytes = bytes;
  out->region = (uint64_t)g->generation << 32 | (uint32_t)(g - r->region);
  return NP_ERR_OK;
}

static void region_end(struct np_plane_rdma *r, struct np_rdma_region_place *g) {
  np_rdma_mr_end(g->mr);
  g->mr = NULL;
  munmap(g->mem, g->bytes);
  np_rdma_use_put(r, g->core, g->use);
}

enum np_err np_plane_rdma_region_free(struct np_plane_rdma *r, uint64_t region) {
  struct np_rdma_region_place *g = region_of(r, region);
  if (g == NULL) return NP_ERR_STALE;
  if (g->busy != 0) return NP_ERR_BUSY;
  region_end(r, g);
  return NP_ERR_OK;
}

/* Every queue pair is gone: no operation is in flight. */
void np_rdma_regions_free(struct np_plane_rdma *r) {
  for (uint32_t i = 0; i < NP_PLANE_RDMA_REGIONS_MAX; i++) {
    if (r->region[i].mr != NULL) region_end(r, &r->region[i]);
  }
}

enum np_err np_plane_rdma_io(struct np_plane_rdma *r, const struct np_rdma_io *io, uint64_t *out_op) {
  const struct np_rdma_place *p = np_rdma_place_of(r, io->id);
  struct np_rdma_region_place *g = region_of(r, io->region);
  if (p == NULL || p->qp == NULL || g == NULL) return NP_ERR_STALE;
  if (io->bytes == 0 || io->bytes > g->bytes || io->offset > g->bytes - io->bytes) return NP_ERR_INVALID;
  if (g->use != p->use) return NP_ERR_UNSUPPORTED;
  const struct np_rdma_op_args args = {.slot = p->slot,
                                       .is_read = io->is_read != 0,
                                       .bytes = io->bytes,
                                       .local_addr = g->addr + io->offset,
                                       .lkey = g->lkey,
                                       .rkey = io->rkey,
                                       .remote_addr = io->remote_addr};
  struct call c = {.carrier = r->core[p->core].carrier, .args = &args};
  np_worker_call(np_rdma_worker(r, p->core), on_op, &c);
  if (c.err != NP_ERR_OK) return c.err;
  g->busy++;
  r->op_region[p->core][c.op] = (uint16_t)(g - r->region);
  *out_op = (uint64_t)p->core << 32 | c.op;
  return NP_ERR_OK;
}

enum np_err np_plane_rdma_op_take(struct np_plane_rdma *r, uint64_t op, uint32_t *err) {
  uint32_t core = (uint32_t)(op >> 32);
  uint32_t index = (uint32_t)op;
  enum np_err how = NP_ERR_OK;
  if (core >= r->plane->config.cores || !np_rdma_op_take(r->core[core].carrier, index, &how)) return NP_ERR_NOTFOUND;
  struct np_rdma_region_place *g = &r->region[r->op_region[core][index]];
  np_assert(g->busy > 0);
  g->busy--;
  *err = (uint32_t)how;
  return NP_ERR_OK;
}
