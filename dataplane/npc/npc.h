/* All that this package includes. zz_stamp.h holds a hash of libnp.a and its
 * headers, so that `go build` notices when they change; `make stamp` writes it. */
#ifndef NPC_H
#define NPC_H

#include <stdlib.h>

#include "np/plane.h"
#include "np/rdma.h"

#if defined(__has_include)
#if __has_include("zz_stamp.h")
#include "zz_stamp.h"
/* In the package's objects: a package whose content stayed the same is not linked again. */
__attribute__((used)) static const char np_source_stamp[] = NP_SOURCE_STAMP;
#endif
#endif

#endif
