/* cmocka needs these four before it. */
#ifndef NP_TEST_CMOCKA_NP_H
#define NP_TEST_CMOCKA_NP_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif
