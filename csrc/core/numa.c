/* Memory near a core: a poll core on one node with its buffers on another pays for each cache miss twice. The policy
 * is set on a mapping before its first page is there; PREFERRED, so that a node without room slows and does not stop. */
#include "core/numa.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NODES_MAX 1024
#define MPOL_PREFERRED_MODE 1 /* linux/mempolicy.h, which not every system has beside the C library */

/* The number behind "node" in a directory's entries: the only one, the first, or -1; *count says how many. */
static int32_t node_entry(const char *path, uint32_t *count) {
  *count = 0;
  DIR *dir = opendir(path);
  if (dir == NULL) return -1;
  int32_t node = -1;
  for (const struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) { /* bound: a directory of /sys */
    char *end = NULL;
    if (strncmp(e->d_name, "node", 4) != 0 || e->d_name[4] < '0' || e->d_name[4] > '9') continue;
    long n = strtol(e->d_name + 4, &end, 10);
    if (*end != 0 || n >= NODES_MAX) continue;
    if (++*count == 1) node = (int32_t)n;
  }
  closedir(dir);
  return node;
}

int32_t np_numa_node(const char *sys, int32_t cpu) {
  char path[256];
  uint32_t count;
  if (cpu < 0) return -1;
  snprintf(path, sizeof path, "%s/devices/system/node", sys);
  (void)node_entry(path, &count);
  if (count < 2) return -1;
  snprintf(path, sizeof path, "%s/devices/system/cpu/cpu%d", sys, cpu);
  int32_t node = node_entry(path, &count);
  return count == 1 ? node : -1;
}

int np_numa_prefer(void *mem, size_t bytes, int32_t node) {
  unsigned long mask[NODES_MAX / (8 * sizeof(unsigned long))] = {0};
  const size_t bits = 8 * sizeof mask[0];
  if (node < 0 || node >= NODES_MAX) return EINVAL;
  mask[(size_t)node / bits] = 1UL << ((size_t)node % bits);
  /* the kernel takes one bit less than it is told */
  return syscall(SYS_mbind, mem, bytes, MPOL_PREFERRED_MODE, mask, (unsigned long)NODES_MAX, 0UL) == 0 ? 0 : errno;
}
