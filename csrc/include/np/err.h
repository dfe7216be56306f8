/* Error codes of the data plane. One table, np_err.def, declares them. */
#ifndef NP_ERR_H
#define NP_ERR_H

enum np_err {
#define NP_ERR(sym, value, severity, text) NP_ERR_##sym = (value),
#include "np/np_err.def"
#undef NP_ERR
};

/* The table's text for err, or "unknown error".
 * Owner: static storage. Thread: any. Blocks: never. */
const char *np_err_text(enum np_err err);

#endif
