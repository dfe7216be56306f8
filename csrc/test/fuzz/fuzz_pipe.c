/* A pipe against any order of what its stream, its peer and Go do. The bytes either way are a
 * pattern, so that a lost, doubled or exchanged one is found; every run ends with all buffers and
 * loans back. */
#define RIG_BUFS 512u
#define RIG_EVENTS 4096u
#define RIG_LOANS 64u
#include "test/unit/session_rig.h"

struct run {
  struct rig *r;
  const uint8_t *p;
  size_t left;
  uint32_t seen;       /* events looked at */
  uint32_t fed;        /* bytes of the peer */
  uint32_t got;        /* of them with Go */
  uint32_t credited;
  uint32_t queued;     /* bytes of Go */
  uint32_t told;       /* of them told as sent */
  uint32_t checked;    /* of them seen on the wire */
  bool open, eof, closed, peer_fin;
  bool given_up; /* Go said so, and reads no more */
  bool cut;      /* the stream ended before all was sent */
};

static uint8_t byte(struct run *u) {
  if (u->left == 0) return 0;
  u->left--;
  return *u->p++;
}

static uint8_t pattern(uint32_t i) { return (uint8_t)(i * 13 + i / 249); }

static struct np_session *session(struct run *u) { return u->r->end[1].stream.session; }

/* What Go was told since, checked. */
static void look(struct run *u) {
  for (; u->seen < u->r->event_count; u->seen++) {
    const struct rig_event *e = &u->r->events[u->seen];
    np_assert(!u->closed);
    np_assert(u->open || e->ev.op == NP_EV_OPEN || e->ev.op == NP_EV_CLOSED);
    switch (e->ev.op) {
      case NP_EV_OPEN:
        np_assert(!u->open);
        u->open = true;
        break;
      case NP_EV_DATA:
        np_assert(!u->eof);
        for (uint32_t i = 0; i < e->ev.body_bytes; i++) np_assert(e->body[i] == pattern(u->got + i));
        u->got += e->ev.body_bytes;
        break;
      case NP_EV_EOF:
        np_assert(u->peer_fin && !u->eof && u->got == u->fed);
        u->eof = true;
        break;
      case NP_EV_SENT:
        u->told += e->ev.arg;
        np_assert(u->told <= u->queued && u->told <= u->r->end[1].sent_total);
        break;
      case NP_EV_CLOSED: u->closed = true; break;
      default: np_assert(false);
    }
  }
}

static void feed(struct run *u) {
  uint8_t text[600];
  uint32_t n = 1u + byte(u) * 2u;
  u->r->piece_bytes = 1u + byte(u) * 5u;
  if (session(u) == NULL || u->peer_fin || u->r->end[1].unconsumed > 20000) return;
  for (uint32_t i = 0; i < n; i++) text[i] = pattern(u->fed + i);
  u->fed += rig_feed(u->r, 1, text, n);
}

static void send_some(struct run *u) {
  uint8_t text[4000];
  uint32_t n = byte(u) * 15u;
  rig_repay(u->r);
  if (session(u) == NULL || u->r->loan_count < 4) return;
  for (uint32_t i = 0; i < n; i++) text[i] = pattern(u->queued + i);
  if (rig_cmd(u->r, 1, (struct np_cmd){.op = NP_CMD_SEND}, text, n, NULL) == NP_ERR_OK) u->queued += n;
}

/* Drains the wire as a peer that reads, and compares. */
static void drain(struct run *u) {
  struct rig_stream *s = &u->r->end[1];
  for (uint32_t i = 0; i < s->wire_bytes; i++) np_assert(s->wire[i] == pattern(u->checked + i));
  u->checked += s->wire_bytes;
  s->wire_bytes = 0;
  if (s->said_no && session(u) != NULL) {
    s->said_no = false;
    session(u)->ops->writable(session(u));
  }
}

static void command(struct run *u, uint16_t op, uint32_t arg) {
  if (session(u) == NULL) return;
  u->given_up |= op == NP_CMD_CLOSE || op == NP_CMD_ABORT;
  enum np_err err = rig_cmd(u->r, 1, (struct np_cmd){.op = op, .arg = arg}, NULL, 0, NULL);
  if (op == NP_CMD_CREDIT && err == NP_ERR_OK) u->credited += arg;
  np_assert(u->credited <= u->got);
}

static void stream_closed(struct run *u, enum np_err err) {
  struct np_session *s = session(u);
  if (s == NULL) return;
  u->r->end[1].stream.session = NULL;
  u->cut = true;
  s->ops->closed(s, err);
}

static void step(struct run *u) {
  struct rig *r = u->r;
  uint8_t what = byte(u);
  switch (what % 20) {
    case 0: case 1: case 2: feed(u); break;
    case 3: case 4: case 5: send_some(u); break;
    case 6: case 7: drain(u); break;
    case 8: r->end[1].room_max = 1800u + byte(u) * 64u; break;
    case 9: r->event_room = byte(u); break;
    case 10: command(u, NP_CMD_CREDIT, byte(u) * 4u); break;
    case 11: command(u, NP_CMD_CREDIT, u->got - u->credited); break;
    case 12: r->keep_bodies = !r->keep_bodies; break;
    case 13: rig_let_go(r); break;
    case 14: rig_advance(r, byte(u) * 300 * RIG_MS); break;
    case 15:
      if (what < 60) r->pool.reserve_count = byte(u) * 2u;
      else r->pool.reserve_count = 0;
      break;
    case 16:
      if (session(u) == NULL || u->peer_fin) break;
      u->peer_fin = true;
      session(u)->ops->eof(session(u));
      break;
    case 17:
      if (what < 40) command(u, what < 20 ? NP_CMD_SHUTDOWN : NP_CMD_CLOSE, 0);
      break;
    case 18:
      if (what < 40) command(u, NP_CMD_ABORT, 0);
      else if (what < 60) stream_closed(u, NP_ERR_RESET);
      else if (what < 80 && u->peer_fin) stream_closed(u, NP_ERR_EOF);
      break;
    default: command(u, byte(u) % NP_CMD_OP_COUNT, byte(u)); break;
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size > 2048) return 0;
  struct run u = {.r = rig_new(2, 16), .p = data, .left = size};
  bool outgoing = (byte(&u) & 1) != 0;
  np_assert(rig_open(u.r, 1, NP_SESSION_PIPE, outgoing ? 0 : 0x77) != NULL);
  if (outgoing && (byte(&u) & 7) != 0) session(&u)->ops->established(session(&u));
  while (u.left > 0 && u.r->event_count < RIG_EVENTS - 256 && u.r->held_count < RIG_EVENTS - 256) {
    uint8_t turns = byte(&u) & 3;
    step(&u);
    if (turns != 0) rig_run(u.r);
    look(&u);
  }
  /* Both read on: all that came is Go's and all that Go sent is the peer's, unless one gave up before. */
  u.r->event_room = 200;
  u.r->pool.reserve_count = 0;
  u.r->keep_bodies = false;
  u.r->end[1].room_max = 2u << 20;
  for (uint32_t i = 0; i < 8; i++) {
    rig_let_go(u.r);
    drain(&u);
    rig_run(u.r);
  }
  look(&u);
  drain(&u);
  np_assert(u.told <= u.checked);
  if (u.open && !u.given_up) np_assert(u.got == u.fed && u.eof == u.peer_fin);
  if (u.open && !u.cut && !u.r->end[1].aborted) np_assert(u.checked == u.queued);
  rig_free(u.r);
  return 0;
}
