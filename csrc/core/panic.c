/* The one place that ends the process for a broken invariant. */
#include <stdio.h>
#include <stdlib.h>

#include "base/compiler.h"

void np_panic(const char *file, int line, const char *what) {
  fprintf(stderr, "np: assertion failed: %s (%s:%d)\n", what, file, line);
  abort();
}
