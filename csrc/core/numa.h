/* NUMA nodes of CPUs and memory, by the kernel's own files and calls. Control thread. */
#ifndef NP_CORE_NUMA_H
#define NP_CORE_NUMA_H

#include <stddef.h>
#include <stdint.h>

/* sys is "/sys", or what stands in for it in a test. Return: the node of a CPU, -1 when it has none, or
 * when the machine has but one node. */
int32_t np_numa_node(const char *sys, int32_t cpu);
/* Wants pages of mem that nobody touched yet from node, others where it has none left. Return: errno, 0. */
int np_numa_prefer(void *mem, size_t bytes, int32_t node);

#endif
