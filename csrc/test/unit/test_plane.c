/* The plane as Go drives it: memory, threads, commands through the rings, sleep and wake-up. */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/plane.h"
#include "test/unit/cmocka_np.h"

static struct np_plane_config small(uint32_t cores) {
  struct np_plane_config c;
  np_plane_config_default(&c);
  c.cores = cores;
  c.bufs_per_core = 512;
  c.loans_per_core = 32;
  c.cmd_ring = 64;
  c.event_ring = 64;
  c.conns_max = 64;
  c.streams_max = 64;
  c.huge_pages = 0;
  c.idle_spin_ns = 100000;
  memset(c.secret, 0x5a, sizeof c.secret);
  return c;
}

static struct np_plane *create(const struct np_plane_config *c) {
  struct np_plane *plane = NULL;
  struct np_err_detail detail;
  memset(&detail, 0, sizeof detail);
  if (np_plane_create(c, &plane, &detail) != NP_ERR_OK) fail_msg("create: %s", detail.text);
  return plane;
}

static void start(struct np_plane *plane) {
  struct np_err_detail detail;
  memset(&detail, 0, sizeof detail);
  if (np_plane_start(plane, &detail) != NP_ERR_OK) fail_msg("start: %s", detail.text);
}

/* The core writes plain aligned words (np/counter.h), which TSan would report. */
static NP_NO_TSAN uint64_t counter(struct np_core_shared *s, enum np_counter c) {
  return *(volatile uint64_t *)&s->counters->counter[c];
}

static void pause_ms(uint32_t ms) {
  const struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
  nanosleep(&ts, NULL);
}

/* What Go does: write the slot, publish, full fence, look at the flag, wake. */
static void submit(struct np_core_shared *s, const struct np_cmd *cmd) {
  assert_true(np_ring_room(s->cmd, 1) > 0);
  memcpy(np_ring_slot(s->cmd, 0), cmd, sizeof *cmd);
  np_ring_publish(s->cmd, 1);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (__atomic_load_n(&s->cmd->cons_sleeping, __ATOMIC_RELAXED) != 0) {
    uint64_t one = 1;
    assert_int_equal(write(s->wake_fd, &one, sizeof one), sizeof one);
  }
}

/* Sleeps on event_fd as Go's reader does until an event is there, at most two seconds. */
static struct np_event await(struct np_core_shared *s) {
  for (uint32_t i = 0; i < 40; i++) {
    __atomic_store_n(&s->event->cons_sleeping, 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (np_ring_avail(s->event) == 0) {
      struct pollfd fd = {.fd = s->event_fd, .events = POLLIN};
      poll(&fd, 1, 50);
      uint64_t n;
      ssize_t r = read(s->event_fd, &n, sizeof n);
      (void)r;
    }
    __atomic_store_n(&s->event->cons_sleeping, 0, __ATOMIC_RELAXED);
    if (np_ring_avail(s->event) == 0) continue;
    struct np_event ev;
    memcpy(&ev, np_ring_item(s->event, 0), sizeof ev);
    np_ring_consume(s->event, 1);
    return ev;
  }
  fail_msg("no event within two seconds");
  return (struct np_event){0};
}

static void test_create_and_destroy(void **state) {
  (void)state;
  struct np_plane_config c = small(2);
  struct np_plane *plane = create(&c);
  for (uint32_t i = 0; i < 2; i++) {
    struct np_core_shared *s = np_plane_core(plane, i);
    assert_non_null(s);
    assert_int_equal(s->core, i);
    assert_int_equal(s->cmd->count, 64);
    assert_int_equal(s->cmd->item_bytes, sizeof(struct np_cmd));
    assert_int_equal(s->event->item_bytes, sizeof(struct np_event));
    assert_int_equal(np_ring_avail(s->loan), 32);
    assert_true(s->event_fd >= 0 && s->wake_fd >= 0);
  }
  assert_null(np_plane_core(plane, 2));
  assert_non_null(np_plane_crypto_engine(plane));
  assert_int_equal(np_plane_huge_page_bytes(plane), 0);
  np_plane_destroy(plane);
}

/* Each core made a turn, within five seconds: others may have the CPUs for a while. */
static void turning(struct np_plane *plane, uint32_t cores) {
  for (uint32_t i = 0; i < cores; i++) {
    struct np_core_shared *s = np_plane_core(plane, i);
    for (uint32_t k = 0; k < 1000 && counter(s, NP_C_TURNS) == 0; k++) pause_ms(5);
    assert_true(counter(s, NP_C_TURNS) > 0);
  }
}

static void test_start_stop(void **state) {
  (void)state;
  struct np_plane_config c = small(2);
  c.idle_spin_ns = UINT64_MAX; /* never sleeps */
  struct np_plane *plane = create(&c);
  start(plane);
  struct np_err_detail detail;
  assert_int_equal(np_plane_start(plane, &detail), NP_ERR_STATE);
  assert_non_null(strstr(detail.text, "started before"));
  turning(plane, 2);
  assert_int_equal(counter(np_plane_core(plane, 0), NP_C_IDLE_SLEEPS), 0);
  np_plane_stop(plane);
  uint64_t turns = counter(np_plane_core(plane, 0), NP_C_TURNS);
  pause_ms(5);
  assert_int_equal(counter(np_plane_core(plane, 0), NP_C_TURNS), turns);
  np_plane_stop(plane); /* again: nothing */
  np_plane_destroy(plane);
}

static void test_sleep_and_wake(void **state) {
  (void)state;
  struct np_plane_config c = small(1);
  struct np_plane *plane = create(&c);
  start(plane);
  struct np_core_shared *s = np_plane_core(plane, 0);
  for (uint32_t token = 1; token <= 20; token++) {
    /* without work it sleeps, before each command again */
    for (uint32_t i = 0; i < 5000 && counter(s, NP_C_IDLE_SLEEPS) < token; i++) pause_ms(1);
    assert_true(counter(s, NP_C_IDLE_SLEEPS) >= token);
    struct np_cmd cmd = {.op = NP_CMD_UNLISTEN, .token = token, .handle = 77};
    submit(s, &cmd);
    struct np_event ev = await(s);
    assert_int_equal(ev.op, NP_EV_DONE);
    assert_int_equal(ev.token, token);
    assert_int_equal(ev.err, NP_ERR_STALE);
    assert_true(ev.at_ns > 0);
  }
  assert_int_equal(counter(s, NP_C_CMDS), 20);
  assert_int_equal(counter(s, NP_C_EVENTS), 20);
  /* Asleep, it does nothing at all. */
  pause_ms(20);
  uint64_t turns = counter(s, NP_C_TURNS);
  pause_ms(100);
  assert_true(counter(s, NP_C_TURNS) <= turns + 2);
  np_plane_destroy(plane); /* stops first */
}

struct call {
  pthread_t self;
  pthread_t ran_on;
};

static void note_thread(void *arg) { ((struct call *)arg)->ran_on = pthread_self(); }

static void test_call_on_core(void **state) {
  (void)state;
  struct np_plane_config c = small(1);
  struct np_plane *plane = create(&c);
  struct call call = {.self = pthread_self()};
  np_worker_call(&plane->worker[0], note_thread, &call);
  assert_true(pthread_equal(call.ran_on, call.self));
  start(plane);
  pause_ms(5);
  np_worker_call(&plane->worker[0], note_thread, &call);
  assert_false(pthread_equal(call.ran_on, call.self));
  assert_true(pthread_equal(call.ran_on, plane->worker[0].thread));
  np_plane_destroy(plane);
}

static void test_bad_config(void **state) {
  (void)state;
  struct np_plane_config c[15];
  const char *says[15] = {"abi_version is 99, must be 1 to 1",
                          "cores is 0, must be 1 to 64",
                          "cores is 65, must be 1 to 64",
                          "chunk_bytes is 3000, must be a power of two, 2048 to 4096",
                          "loans_per_core is 257, must be 1 to 256",
                          "cmd_ring is 100, must be a power of two",
                          "event_ring is 8, must be a power of two, 64 to",
                          "conns_max is 16777216, must be 1 to 16777215",
                          "huge_pages is 3, must be 0 to 2",
                          "tcp_delack_ms is 501, must be 1 to 500, or 0",
                          "cpu[0] is -2, must be -1 (not pinned) to",
                          "bufs_per_core is 100, must be 256 to",
                          "tcp_congestion_control is 3, must be 0 to 2",
                          "tcp_ecn is 3, must be 0 to 2",
                          "tcp_pacing is 3, must be 0 to 2"};
  for (size_t i = 0; i < NP_COUNT_OF(c); i++) c[i] = small(1);
  c[0].abi_version = 99;
  c[1].cores = 0;
  c[2].cores = 65;
  c[3].chunk_bytes = 3000;
  c[4].loans_per_core = 257;
  c[5].cmd_ring = 100;
  c[6].event_ring = 8;
  c[7].conns_max = 1u << 24;
  c[8].huge_pages = 3;
  c[9].tcp_delack_ms = 501;
  c[10].cpu[0] = -2;
  c[11].bufs_per_core = 100;
  c[12].tcp_congestion_control = NP_CC_COUNT;
  c[13].tcp_ecn = NP_ECN_MODE_COUNT;
  c[14].tcp_pacing = NP_PACING_COUNT;
  for (size_t i = 0; i < NP_COUNT_OF(c); i++) {
    struct np_plane *plane = NULL;
    struct np_err_detail detail;
    memset(&detail, 0, sizeof detail);
    assert_int_equal(np_plane_create(&c[i], &plane, &detail), NP_ERR_INVALID);
    assert_null(plane);
    if (strstr(detail.text, says[i]) == NULL) fail_msg("case %zu says: %s", i, detail.text);
  }
}

static void test_too_much_memory(void **state) {
  (void)state;
  struct np_plane_config c = small(1);
  c.huge_pages = 2;
  c.bufs_per_core = 1u << 22; /* 8 GiB of huge pages */
  struct np_plane *plane = NULL;
  struct np_err_detail detail;
  memset(&detail, 0, sizeof detail);
  enum np_err err = np_plane_create(&c, &plane, &detail);
  if (err == NP_ERR_OK) { /* a machine that has them */
    np_plane_destroy(plane);
    skip();
  }
  assert_int_equal(err, NP_ERR_NOMEM);
  assert_null(plane);
  assert_non_null(strstr(detail.text, "huge pages for core 0's "));
  assert_int_not_equal(detail.sys, 0);
}

static void test_bad_cpu(void **state) {
  (void)state;
  struct np_plane_config c = small(1);
  c.cpu[0] = CPU_SETSIZE - 1; /* a legal number that this machine does not have */
  if (sysconf(_SC_NPROCESSORS_CONF) >= CPU_SETSIZE) skip();
  struct np_plane *plane = create(&c);
  struct np_err_detail detail;
  memset(&detail, 0, sizeof detail);
  assert_int_equal(np_plane_start(plane, &detail), NP_ERR_INVALID);
  assert_non_null(strstr(detail.text, "core 0 on CPU 1023"));
  assert_int_equal(detail.sys, EINVAL);
  np_plane_destroy(plane);
}

static void test_bad_queue(void **state) {
  (void)state;
  struct np_plane_config c = small(1);
  struct np_plane *plane = create(&c);
  struct np_afxdp_args args = {.ifname = "np-absent0", .mtu_bytes = 1500, .ring = 256};
  struct np_port_queue *q = NULL;
  int32_t fd = -1;
  uint8_t zc = 0;
  struct np_err_detail detail;
  memset(&detail, 0, sizeof detail);
  assert_int_equal(np_plane_afxdp_open(plane, &args, &q, &fd, &zc, &detail), NP_ERR_NODEV);
  assert_non_null(strstr(detail.text, "np-absent0"));
  args.core = 1;
  assert_int_equal(np_plane_afxdp_open(plane, &args, &q, &fd, &zc, &detail), NP_ERR_INVALID);
  assert_string_equal(detail.text, "core is 1, must be 0 to 0");
  args.core = 0;
  args.mtu_bytes = 9001;
  assert_int_equal(np_plane_afxdp_open(plane, &args, &q, &fd, &zc, &detail), NP_ERR_INVALID);
  assert_non_null(strstr(detail.text, "mtu of np-absent0 is 9001, must be 1280 to 9000"));
  np_plane_destroy(plane);
}

/* The core takes a command and answers, if only that there is nothing to detach. */
static void answers(struct np_core_shared *s, uint32_t token) {
  struct np_cmd cmd = {.op = NP_CMD_PORT_DETACH, .token = token};
  submit(s, &cmd);
  struct np_event ev = await(s);
  assert_int_equal(ev.op, NP_EV_DONE);
  assert_int_equal(ev.token, token);
}

/* Four cores that never sleep, on one CPU: each turns and answers. */
static void test_one_cpu(void **state) {
  (void)state;
  cpu_set_t set;
  int32_t cpu = 0;
  assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
  while (!CPU_ISSET((unsigned)cpu, &set)) cpu++; /* bound: CPU_SETSIZE, one is set */
  struct np_plane_config c = small(4);
  c.idle_spin_ns = UINT64_MAX;
  for (uint32_t i = 0; i < 4; i++) c.cpu[i] = cpu;
  struct np_plane *plane = create(&c);
  for (uint32_t i = 0; i < 4; i++) assert_true(plane->worker[i].shared);
  start(plane);
  for (uint32_t k = 0; k < 8; k++) {
    for (uint32_t i = 0; i < 4; i++) answers(np_plane_core(plane, i), k * 4 + i + 1);
  }
  turning(plane, 4);
  np_plane_stop(plane);
  np_plane_destroy(plane);
  c.cpu[1] = c.cpu[2] = c.cpu[3] = -1; /* and there are fewer CPUs than cores, or not */
  plane = create(&c);
  assert_false(plane->worker[0].shared);
  assert_true(plane->worker[1].shared == (CPU_COUNT(&set) < 4));
  np_plane_destroy(plane);
}

/* Lanes are another core's, and there are none where only devices steer. */
static void test_lanes(void **state) {
  (void)state;
  struct np_plane_config c = small(2);
  struct np_plane *plane = create(&c);
  struct np_port_queue *lane = NULL;
  struct np_err_detail detail = {.sys = 0};
  struct np_raw_args args = {.ifname = "npl0", .queues = 1, .mtu_bytes = 1500, .kind = NP_RAW_TAP};
  struct np_port_queue *tap = NULL;
  int32_t fd = -1;
  assert_int_equal(np_plane_lane_open(plane, NULL, 1, &lane, &detail), NP_ERR_INVALID);
  assert_int_equal(np_plane_lane_open(plane, NULL, 2, &lane, &detail), NP_ERR_INVALID);
  if (unshare(CLONE_NEWNET) != 0 || np_plane_raw_open(plane, &args, &tap, &fd, &detail) != NP_ERR_OK) {
    np_plane_destroy(plane);
    skip(); /* not root, or no TUN */
  }
  assert_int_equal(np_plane_lane_open(plane, tap, 0, &lane, &detail), NP_ERR_INVALID);
  assert_non_null(strstr(detail.text, "another core's"));
  assert_int_equal(np_plane_lane_open(plane, tap, 1, &lane, &detail), NP_ERR_OK);
  assert_int_equal(lane->mtu_bytes, tap->mtu_bytes);
  np_plane_queue_close(plane, tap);
  np_plane_destroy(plane); /* closes the lane */
  c.steering = NP_STEERING_DEVICE;
  plane = create(&c);
  assert_int_equal(np_plane_raw_open(plane, &args, &tap, &fd, &detail), NP_ERR_OK);
  assert_int_equal(np_plane_lane_open(plane, tap, 1, &lane, &detail), NP_ERR_STATE);
  np_plane_destroy(plane);
  c.steering = NP_STEERING_COUNT;
  assert_int_equal(np_plane_create(&c, &plane, &detail), NP_ERR_INVALID);
  assert_non_null(strstr(detail.text, "steering"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_create_and_destroy), cmocka_unit_test(test_start_stop),
      cmocka_unit_test(test_sleep_and_wake),     cmocka_unit_test(test_call_on_core),
      cmocka_unit_test(test_bad_config),         cmocka_unit_test(test_bad_cpu),
      cmocka_unit_test(test_bad_queue),          cmocka_unit_test(test_too_much_memory),
      cmocka_unit_test(test_one_cpu),            cmocka_unit_test(test_lanes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
