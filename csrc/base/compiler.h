/* Compiler extensions, all of them, and assertions. */
#ifndef NP_BASE_COMPILER_H
#define NP_BASE_COMPILER_H

#include <stddef.h>
#include <stdint.h>

#define NP_CACHE_LINE 64
#define NP_CACHE_ALIGNED _Alignas(NP_CACHE_LINE)

#define NP_LIKELY(x) __builtin_expect(!!(x), 1)
#define NP_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define NP_PREFETCH(p) __builtin_prefetch((p), 0, 3)
#define NP_PREFETCH_W(p) __builtin_prefetch((p), 1, 3)
#define NP_COLD __attribute__((cold, noinline))
#define NP_INLINE static inline __attribute__((always_inline))
/* For reads that race by contract: counters (np/counter.h). */
#define NP_NO_TSAN __attribute__((no_sanitize("thread"), noinline))
#define NP_UNUSED __attribute__((unused))
#define NP_NORETURN __attribute__((noreturn))
#define NP_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define NP_MUST_CHECK __attribute__((warn_unused_result))

#define NP_COUNT_OF(a) (sizeof(a) / sizeof((a)[0]))
#define NP_CONTAINER_OF(p, type, member) ((type *)(void *)((char *)(p)-offsetof(type, member)))

/* 64 x 64 bits and four 64-bit lanes: what the checksum and the hash are made of. */
__extension__ typedef unsigned __int128 np_u128;
typedef uint64_t np_v4u64 __attribute__((vector_size(32)));

#if defined(__x86_64__)
#define NP_PAUSE() __builtin_ia32_pause()
#else
#define NP_PAUSE() __asm__ volatile("yield")
#endif

/* Two words that are loaded and stored as one: a reader of the whole 16 bytes
 * right behind two 8-byte stores would wait for both to reach the cache. */
typedef uint64_t np_pair64 __attribute__((vector_size(16)));

/* Ends the process: prints where and what, then aborts. Defined in
 * core/panic.c, because the folders below make no system call. */
NP_NORETURN NP_COLD void np_panic(const char *file, int line, const char *what);

/* States what our own code guarantees; on in release. Never for input. */
#define np_assert(cond) \
  do { \
    if (NP_UNLIKELY(!(cond))) np_panic(__FILE__, __LINE__, #cond); \
  } while (0)

#endif
