/* NPRO status and close codes. One table, np_code.def, declares them. */
#ifndef NP_CODE_H
#define NP_CODE_H

enum np_code {
#define NP_CODE(sym, value, text) NP_CODE_##sym = (value),
#include "np/np_code.def"
#undef NP_CODE
};

#endif
