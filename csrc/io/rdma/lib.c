#include "io/rdma/lib.h"

#include <dlfcn.h>
#include <string.h>

struct symbol {
  const char *name;
  size_t at; /* of the pointer in struct np_rdma_lib */
};

#define SYMBOL(ret, name, args) {#name, offsetof(struct np_rdma_lib, name)},
static const struct symbol verbs_symbols[] = {NP_RDMA_SYMBOLS_VERBS(SYMBOL)};
static const struct symbol cm_symbols[] = {NP_RDMA_SYMBOLS_CM(SYMBOL)};
#undef SYMBOL

static enum np_err load(struct np_rdma_lib *lib, const char *file, const struct symbol *symbols, size_t count,
                        struct np_err_detail *detail) {
  /* Never closed: both keep threads' and forks' handlers that must not vanish. Loaded again it is the same. */
  void *dl = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (dl == NULL) {
    np_rdma_explain(detail, 0, "open RDMA: %s (packages libibverbs1, librdmacm1, ibverbs-providers)", dlerror());
    return NP_ERR_UNSUPPORTED;
  }
  for (size_t i = 0; i < count; i++) {
    void *p = dlsym(dl, symbols[i].name); /* of a symbol with versions the default one, which the headers declare */
    if (p == NULL) {
      np_rdma_explain(detail, 0, "open RDMA: %s has no %s", file, symbols[i].name);
      return NP_ERR_UNSUPPORTED;
    }
    memcpy((char *)lib + symbols[i].at, &p, sizeof p); /* ISO C knows no cast from void * to a function */
  }
  return NP_ERR_OK;
}

enum np_err np_rdma_lib_load(struct np_rdma_lib *lib, struct np_err_detail *detail) {
  enum np_err err = load(lib, "libibverbs.so.1", verbs_symbols, NP_COUNT_OF(verbs_symbols), detail);
  if (err != NP_ERR_OK) return err;
  return load(lib, "librdmacm.so.1", cm_symbols, NP_COUNT_OF(cm_symbols), detail);
}
