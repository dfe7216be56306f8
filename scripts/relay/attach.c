/* See attach.h. */
#include "attach.h"

#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef BPF_F_XDP_HAS_FRAGS
#define BPF_F_XDP_HAS_FRAGS (1u << 5)
#endif

static int bpf(int cmd, union bpf_attr *attr) { return (int)syscall(SYS_bpf, cmd, attr, sizeof *attr); }

static int make_map(void) {
  union bpf_attr attr;
  memset(&attr, 0, sizeof attr);
  attr.map_type = BPF_MAP_TYPE_XSKMAP;
  attr.key_size = 4;
  attr.value_size = 4;
  attr.max_entries = 1;
  memcpy(attr.map_name, "np_relay", 9);
  return bpf(BPF_MAP_CREATE, &attr);
}

/* return bpf_redirect_map(map, ctx->rx_queue_index, XDP_DROP); */
static int load(int map, bool frags) {
  const struct bpf_insn code[] = {
      {.code = BPF_LDX | BPF_W | BPF_MEM, .dst_reg = 2, .src_reg = 1, .off = offsetof(struct xdp_md, rx_queue_index)},
      {.code = BPF_LD | BPF_DW | BPF_IMM, .dst_reg = 1, .src_reg = BPF_PSEUDO_MAP_FD, .imm = map},
      {.code = 0},
      {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 3, .imm = XDP_DROP},
      {.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_redirect_map},
      {.code = BPF_JMP | BPF_EXIT},
  };
  static const char license[] = "Apache-2.0";
  union bpf_attr attr;
  memset(&attr, 0, sizeof attr);
  attr.prog_type = BPF_PROG_TYPE_XDP;
  attr.expected_attach_type = BPF_XDP;
  attr.insns = (uint64_t)(uintptr_t)code;
  attr.insn_cnt = sizeof code / sizeof code[0];
  attr.license = (uint64_t)(uintptr_t)license;
  attr.prog_flags = frags ? BPF_F_XDP_HAS_FRAGS : 0;
  memcpy(attr.prog_name, "np_relay", 9);
  return bpf(BPF_PROG_LOAD, &attr);
}

int np_relay_attach(struct np_relay_xdp *x, uint32_t ifindex, bool frags, const char **what) {
  *x = (struct np_relay_xdp){-1, -1, -1};
  *what = "make the XDP map";
  x->map = make_map();
  if (x->map < 0) return errno;
  *what = "load the XDP program";
  x->prog = load(x->map, frags);
  if (x->prog < 0) return errno;
  *what = "attach the XDP program";
  union bpf_attr attr;
  memset(&attr, 0, sizeof attr);
  attr.link_create.prog_fd = (uint32_t)x->prog;
  attr.link_create.target_ifindex = ifindex;
  attr.link_create.attach_type = BPF_XDP;
  attr.link_create.flags = XDP_FLAGS_DRV_MODE;
  x->link = bpf(BPF_LINK_CREATE, &attr);
  return x->link < 0 ? errno : 0;
}

int np_relay_steer(const struct np_relay_xdp *x, int socket) {
  uint32_t queue = 0;
  uint32_t fd = (uint32_t)socket;
  union bpf_attr attr;
  memset(&attr, 0, sizeof attr);
  attr.map_fd = (uint32_t)x->map;
  attr.key = (uint64_t)(uintptr_t)&queue;
  attr.value = (uint64_t)(uintptr_t)&fd;
  return bpf(BPF_MAP_UPDATE_ELEM, &attr) != 0 ? errno : 0;
}

void np_relay_detach(struct np_relay_xdp *x) {
  int *fds[] = {&x->link, &x->prog, &x->map};
  for (uint32_t i = 0; i < 3; i++) {
    if (*fds[i] >= 0) close(*fds[i]);
    *fds[i] = -1;
  }
}
