/* What the command line says about one direction: NAME=VALUE[,NAME=VALUE...].
 * Thread: any. No system call. */
#ifndef NP_RELAY_SPEC_H
#define NP_RELAY_SPEC_H

#include <stdbool.h>

#include "link.h"

/* text: "" or "none" is a perfect wire. error: at least 160 bytes, set when false is returned. */
bool np_relay_parse(const char *text, struct np_relay_params *out, char *error, size_t error_bytes);

#endif
