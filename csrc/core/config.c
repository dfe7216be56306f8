/* What a plane may be made of: defaults and ranges. Each refusal names field, value and range. */
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/internal.h"

void np_err_detail_set(struct np_err_detail *detail, int sys, const char *format, ...) {
  if (detail == NULL) return;
  detail->sys = sys;
  va_list ap;
  va_start(ap, format);
  int n = vsnprintf(detail->text, sizeof detail->text, format, ap);
  va_end(ap);
  if (n < 0) n = 0;
  if (sys == 0 || (size_t)n >= sizeof detail->text) return;
  char buf[96];
  /* the GNU form: thread-safe, returns the text wherever it is */
  snprintf(detail->text + n, sizeof detail->text - (size_t)n, ": %s", strerror_r(sys, buf, sizeof buf));
}

void np_plane_config_default(struct np_plane_config *config) {
  memset(config, 0, sizeof *config);
  config->abi_version = NP_ABI_VERSION;
  config->cores = 1;
  for (uint32_t i = 0; i < NP_CORES_MAX; i++) config->cpu[i] = -1;
  config->bufs_per_core = 16384;
  config->chunk_bytes = 2048;
  config->loans_per_core = 2048;
  config->cmd_ring = 4096;
  config->event_ring = 8192;
  config->idle_spin_ns = 50000;
  config->conns_max = 16384;
  config->streams_max = 65536;
  config->handshake_ms = 5000;
  config->neigh_max = 1024;
  config->huge_pages = 1;
}

struct range {
  const char *name;
  uint64_t value;
  uint64_t min;
  uint64_t max;
  bool pow2;
  bool zero_ok; /* 0 means default or off */
};

static enum np_err check_range(const struct range *r, struct np_err_detail *detail) {
  if (r->zero_ok && r->value == 0) return NP_ERR_OK;
  bool inside = r->value >= r->min && r->value <= r->max;
  if (inside && (!r->pow2 || (r->value & (r->value - 1)) == 0)) return NP_ERR_OK;
  np_err_detail_set(detail, 0, "%s is %llu, must be %s%llu to %llu%s", r->name, (unsigned long long)r->value,
                    r->pow2 ? "a power of two, " : "", (unsigned long long)r->min, (unsigned long long)r->max,
                    r->zero_ok ? ", or 0" : "");
  return NP_ERR_INVALID;
}

enum np_err np_plane_config_check(const struct np_plane_config *c, struct np_err_detail *detail) {
  const struct range ranges[] = {
      {"abi_version", c->abi_version, NP_ABI_VERSION, NP_ABI_VERSION, false, false},
      {"cores", c->cores, 1, NP_CORES_MAX, false, false},
      {"bufs_per_core", c->bufs_per_core, 256, 1u << 22, false, false},
      {"chunk_bytes", c->chunk_bytes, 2048, 4096, true, false},
      {"loans_per_core", c->loans_per_core, 1, c->bufs_per_core / 2u, false, false},
      {"cmd_ring", c->cmd_ring, 16, 1u << 20, true, false},
      {"event_ring", c->event_ring, 64, 1u << 20, true, false},
      {"conns_max", c->conns_max, 1, (1u << NP_HANDLE_SLOT_BITS) - 1u, false, false},
      {"streams_max", c->streams_max, 1, 1u << 24, false, false},
      {"handshake_ms", c->handshake_ms, 1, 600000, false, false},
      {"neigh_max", c->neigh_max, 16, 65536, false, false},
      {"huge_pages", c->huge_pages, 0, 2, false, false},
      {"steering", c->steering, 0, NP_STEERING_COUNT - 1u, false, false},
      {"load_conns", c->load_conns, 1, c->conns_max, false, true},
      {"load_depth", c->load_depth, c->load_conns == 0 ? 0 : 1, NP_LOAD_DEPTH_MAX, false, false},
      {"carriers", c->carriers & ~(1u << NP_CARRIER_EPOLL | 1u << NP_CARRIER_URING), 0, 0, false, false},
      {"uring_without", c->uring_without, 0, NP_URING_NO_DEFER | NP_URING_NO_MULTISHOT | NP_URING_NO_BUNDLE, false, false},
      {"rdma_conns_max", c->rdma_conns_max, 0, NP_RDMA_CONNS_MAX, false, false},
      {"sock_conns_max", c->sock_conns_max, c->carriers == 0 ? 0 : 1, NP_SOCK_CONNS_MAX, false, false},
      {"sock_rcv_buf_bytes", c->sock_rcv_buf_bytes, 4096, 1u << 28, false, true},
      {"sock_snd_buf_bytes", c->sock_snd_buf_bytes, 4096, 1u << 28, false, true},
      {"tcp_rcv_buf_bytes", c->tcp_rcv_buf_bytes, 4096, 1u << 28, false, true},
      {"tcp_snd_buf_bytes", c->tcp_snd_buf_bytes, 4096, 1u << 30, false, true},
      {"tcp_keepalive_idle_ms", c->tcp_keepalive_idle_ms, 1000, 86400000, false, true},
      {"tcp_user_timeout_ms", c->tcp_user_timeout_ms, 1000, 86400000, false, true},
      {"tcp_timewait_ms", c->tcp_timewait_ms, 1, 600000, false, true},
      {"tcp_rto_ms_min", c->tcp_rto_ms_min, 1, 60000, false, true},
      {"tcp_congestion_control", c->tcp_congestion_control, 0, NP_CC_COUNT - 1u, false, false},
      {"tcp_ecn", c->tcp_ecn, 0, NP_ECN_MODE_COUNT - 1u, false, false},
      {"tcp_pacing", c->tcp_pacing, 0, NP_PACING_COUNT - 1u, false, false},
      {"tcp_mtu_probing", c->tcp_mtu_probing, 0, NP_MTU_PROBING_COUNT - 1u, false, false},
      {"tcp_persist_ms", c->tcp_persist_ms, 1000, 86400000, false, true},
      {"tcp_challenge_per_s", c->tcp_challenge_per_s, 10, 1000000, false, true},
      {"tcp_reset_per_s", c->tcp_reset_per_s, 10, 1000000, false, true},
      {"tcp_conns_per_source", c->tcp_conns_per_source, 1, (1u << NP_HANDLE_SLOT_BITS) - 1u, false, true},
      {"tcp_min_snd_mss", c->tcp_min_snd_mss, 48, 1220, false, true},
      {"tcp_ttl", c->tcp_ttl, 1, 255, false, true},
      {"tcp_mem_pressure_pct", c->tcp_mem_pressure_pct, 10, 90, false, true},
      {"tcp_mem_max_pct", c->tcp_mem_max_pct, c->tcp_mem_pressure_pct == 0 ? 50 : c->tcp_mem_pressure_pct, 95, false,
       c->tcp_mem_pressure_pct <= 75},
      {"tcp_ooo_runs_max", c->tcp_ooo_runs_max, 8, 4096, false, true},
      {"tcp_rcv_start_bytes", c->tcp_rcv_start_bytes, 4096, 1u << 20, false, true},
      {"tcp_quick_acks", c->tcp_quick_acks, 1, 256, false, true},
      {"tcp_delack_ms", c->tcp_delack_ms, 1, 500, false, true}, /* RFC 1122 §4.2.3.2: under 0.5 s */
  };
  for (size_t i = 0; i < NP_COUNT_OF(ranges); i++) {
    enum np_err err = check_range(&ranges[i], detail);
    if (err != NP_ERR_OK) return err;
  }
  for (uint32_t i = 0; i < c->cores; i++) {
    if (c->cpu[i] >= -1 && c->cpu[i] < CPU_SETSIZE) continue;
    np_err_detail_set(detail, 0, "cpu[%u] is %d, must be -1 (not pinned) to %d", i, c->cpu[i], CPU_SETSIZE - 1);
    return NP_ERR_INVALID;
  }
  return NP_ERR_OK;
}
