/* Texts of errors and drop reasons, from their tables. */
#include <stddef.h>

#include "base/compiler.h"
#include "np/counter.h"
#include "np/err.h"

static const char *const err_text[] = {
#define NP_ERR(sym, value, severity, text) [value] = (text),
#include "np/np_err.def"
#undef NP_ERR
};

static const char *const drop_text[] = {
#define NP_COUNTER(sym, name, help)
#define NP_DROP(sym, reason, layer, help) [NP_DROP_##sym] = (reason),
#include "np/np_counter.def"
#undef NP_COUNTER
#undef NP_DROP
};
_Static_assert(NP_COUNT_OF(drop_text) == NP_DROP_COUNT, "every drop reason has a text");

const char *np_err_text(enum np_err err) {
  size_t i = (size_t)err;
  if (i >= NP_COUNT_OF(err_text) || err_text[i] == NULL) return "unknown error";
  return err_text[i];
}

const char *np_drop_text(enum np_drop drop) {
  size_t i = (size_t)drop;
  return i < NP_COUNT_OF(drop_text) ? drop_text[i] : "unknown reason";
}
