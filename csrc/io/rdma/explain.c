/* Errors of the control side, in words. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "io/rdma/setup.h"

void np_rdma_explain(struct np_err_detail *detail, int sys, const char *format, ...) {
  if (detail == NULL) return;
  detail->sys = sys;
  va_list ap;
  va_start(ap, format);
  int n = vsnprintf(detail->text, sizeof detail->text, format, ap);
  va_end(ap);
  if (n < 0 || sys == 0 || (size_t)n >= sizeof detail->text) return;
  char buf[96];
  snprintf(detail->text + n, sizeof detail->text - (size_t)n, ": %s", strerror_r(sys, buf, sizeof buf));
}

enum np_err np_rdma_err_of(int sys) {
  switch (sys) {
    case ENODEV:
    case ENOENT:
    case ENXIO: return NP_ERR_NODEV;
    case EACCES:
    case EPERM: return NP_ERR_PERM;
    case ENOMEM:
    case EAGAIN: return NP_ERR_NOMEM;
    case EADDRINUSE: return NP_ERR_ADDRINUSE;
    case EADDRNOTAVAIL: return NP_ERR_ADDRNOTAVAIL;
    case ECONNREFUSED: return NP_ERR_REFUSED;
    case ETIMEDOUT: return NP_ERR_TIMEDOUT;
    case EHOSTUNREACH:
    case ENETUNREACH: return NP_ERR_NOROUTE;
    case EINVAL: return NP_ERR_INVALID;
    default: return NP_ERR_SYS;
  }
}
