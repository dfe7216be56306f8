/* Which node a CPU is on, as the kernel's files say, and memory that is wanted there. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/numa.h"
#include "test/unit/cmocka_np.h"

static void dir(const char *root, const char *path) {
  char name[300];
  snprintf(name, sizeof name, "%s/%s", root, path);
  for (char *p = name + strlen(root) + 1; *p != 0; p++) {
    if (*p != '/') continue;
    *p = 0;
    if (mkdir(name, 0700) != 0) assert_int_equal(errno, EEXIST);
    *p = '/';
  }
  if (mkdir(name, 0700) != 0) assert_int_equal(errno, EEXIST);
}

static void test_node(void **state) {
  (void)state;
  char root[] = "/tmp/np-numa-XXXXXX";
  assert_non_null(mkdtemp(root));
  assert_int_equal(np_numa_node(root, 0), -1); /* a kernel without NUMA */
  dir(root, "devices/system/node/node0");
  dir(root, "devices/system/node/power");
  dir(root, "devices/system/cpu/cpu0/node0");
  dir(root, "devices/system/cpu/cpu3/topology");
  assert_int_equal(np_numa_node(root, 0), -1); /* one node: nothing to choose */
  dir(root, "devices/system/node/node2");
  dir(root, "devices/system/cpu/cpu3/node2");
  dir(root, "devices/system/cpu/cpu4/nodex");
  assert_int_equal(np_numa_node(root, 0), 0);
  assert_int_equal(np_numa_node(root, 3), 2);
  assert_int_equal(np_numa_node(root, 4), -1);
  assert_int_equal(np_numa_node(root, 9), -1);
  assert_int_equal(np_numa_node(root, -1), -1);
  char command[64];
  snprintf(command, sizeof command, "rm -r %s", root);
  assert_int_equal(system(command), 0);
}

static void test_prefer(void **state) {
  (void)state;
  size_t bytes = 1u << 16;
  void *mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  assert_true(mem != MAP_FAILED);
  assert_int_equal(np_numa_prefer(mem, bytes, -1), EINVAL);
  assert_int_equal(np_numa_prefer(mem, bytes, 1 << 20), EINVAL);
  int sys = np_numa_prefer(mem, bytes, 0);
  if (sys == ENOSYS || sys == EPERM) skip(); /* a kernel without NUMA, or a container that forbids it */
  assert_int_equal(sys, 0);
  int mode = -1;
  unsigned long mask[16] = {0};
  const unsigned long by_address = 2; /* MPOL_F_ADDR */
  assert_int_equal(syscall(SYS_get_mempolicy, &mode, mask, 1024ul, mem, by_address), 0);
  assert_int_equal(mode, 1); /* MPOL_PREFERRED */
  assert_int_equal(mask[0], 1);
  memset(mem, 1, bytes);
  munmap(mem, bytes);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_node), cmocka_unit_test(test_prefer)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
