/* What one peer may make a core hold: with keys, without, and when the pool is
 * short. Each of these was a way to take every buffer or to end the process. */
#include "session_peer.h"

/* A port that lacks buffers keeps the last ones of the pool for receiving: to a
 * session the pool is empty then, although buffers are free. */
static void reserved_buffers_are_not_there(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 64);
  struct np_npro_keys c = rig_keys(0);
  struct np_npro_keys s = rig_keys(1);
  rig_join(r, &c, &s);
  static uint8_t body[12000] = "\4BULK";
  for (uint32_t spare = 0; spare < 12; spare++) {
    r->pool.reserve_count = r->pool.free_count - spare;
    struct np_cmd send = {.op = NP_CMD_SEND, .type = NP_NPRO_MESSAGE, .flags = NP_NPRO_F_END};
    assert_int_equal(rig_cmd(r, 0, send, body, sizeof body, NULL), NP_ERR_OK);
    rig_run(r);
  }
  r->pool.reserve_count = 0;
  rig_settle(r, 100);
  uint32_t got = 0;
  for (uint32_t i = 0; i < r->event_count; i++) {
    if (r->events[i].ev.op == NP_EV_MESSAGE) got += r->events[i].ev.body_bytes;
  }
  assert_int_equal(got, 12 * sizeof body);
  rig_free(r);
}

static void reserved_buffers_and_chargen(void **state) {
  (void)state;
  struct rig *r = rig_new(4, 64);
  struct np_session *s = rig_open(r, 1, NP_SESSION_CHARGEN, 0x77);
  r->pool.reserve_count = r->pool.free_count - 3;
  s->ops->established(s);
  for (uint32_t i = 0; i < 5; i++) rig_run(r);
  r->pool.reserve_count = 0;
  rig_free(r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(reserved_buffers_are_not_there),
      cmocka_unit_test(reserved_buffers_and_chargen),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
