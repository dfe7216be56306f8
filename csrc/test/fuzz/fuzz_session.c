/* An NPRO session against whatever the network sends. The first byte chooses:
 * raw bytes before the handshake, raw bytes after it, or frames whose header and
 * body the input chooses and this harness seals, so that what lies behind the
 * tag is reached. Every run ends with all buffers back and the ledger whole. */
#define RIG_BUFS 512u
#define RIG_EVENTS 4096u
#define RIG_LOANS 64u
#include "test/unit/session_peer.h"

/* Reads from the input; zeros beyond its end. */
struct input {
  const uint8_t *p;
  size_t left;
};

static uint8_t byte(struct input *in) {
  if (in->left == 0) return 0;
  in->left--;
  return *in->p++;
}

static void raw_bytes(struct rig *r, struct input *in) {
  while (in->left > 0 && r->end[1].stream.session != NULL) {
    uint32_t n = 1u + byte(in);
    if (n > in->left) n = (uint32_t)in->left;
    if (n == 0) break;
    if (r->end[1].unconsumed > 4000) break; /* as a peer that keeps to the window */
    if (rig_feed(r, 1, in->p, n) < n) break;
    in->p += n;
    in->left -= n;
    rig_run(r);
  }
}

/* The handlers' side: gives credit back, answers, resets, as the input says. */
static void act(struct rig *r, struct input *in, uint8_t what, uint32_t *seen) {
  while (*seen < r->event_count && r->end[1].stream.session != NULL) {
    const struct np_event *ev = &r->events[(*seen)++].ev;
    if (ev->op != NP_EV_MESSAGE) continue;
    struct np_cmd cmd = {.op = NP_CMD_CREDIT, .stream = ev->stream, .arg = ev->body_bytes};
    if ((what & 1) != 0) (void)rig_cmd(r, 1, cmd, NULL, 0, NULL);
    if ((what & 2) != 0 && r->end[1].stream.session != NULL) {
      static const uint8_t answer[3000] = {0};
      cmd = (struct np_cmd){.op = NP_CMD_SEND, .type = NP_NPRO_RESPONSE, .flags = byte(in) & NP_NPRO_F_ALL, .stream = ev->stream};
      if (r->loan_count > 8) (void)rig_cmd(r, 1, cmd, answer, 1u + byte(in) * 11u, NULL);
    }
  }
  if ((what & 4) != 0) rig_advance(r, byte(in) * 400 * RIG_MS);
  if ((what & 8) != 0) r->event_room = byte(in);
  if ((what & 16) != 0) r->end[1].room_max = byte(in) * 64u;
  if ((what & 32) != 0 && r->end[1].stream.session != NULL) r->end[1].stream.session->ops->writable(r->end[1].stream.session);
  if ((what & 64) != 0) r->end[1].wire_bytes = 0;
}

static void sealed_frames(struct peer *p, struct input *in) {
  struct rig *r = p->r;
  uint32_t seen = 0;
  uint8_t out[4 * 700];
  uint32_t n = 0;
  while (in->left > 0 && r->end[1].stream.session != NULL && r->event_count < RIG_EVENTS / 2) {
    static const uint8_t types[16] = {1, 2, 3, 4, 5, 6, 7, 0x10, 0x20, 0x21, 0x22, 0x23, 0x20, 0x20, 0x23, 0x22};
    uint8_t how = byte(in);
    struct np_frame f = {.type = types[how & 15], .flags = byte(in) & NP_NPRO_F_ALL};
    f.stream = byte(in);
    f.priority = f.stream & 7;
    if ((how & 0x10) == 0) f.flags |= NP_NPRO_F_ENC;
    uint32_t want = byte(in);
    if ((how & 0x20) != 0) want *= 2;
    uint8_t body[512] = {0};
    uint32_t take = want < in->left ? want : (uint32_t)in->left;
    if ((how & 0x40) != 0) memcpy(body, "\4ECHO", 5);
    else if (take > 0) memcpy(body, in->p, take);
    if ((how & 0x40) == 0) {
      in->p += take;
      in->left -= take;
    }
    n += peer_seal(p, &f, body, want, out + n);
    if (f.type == NP_NPRO_REKEY && want == 0) np_record_dir_rekey(r->crypto, &p->tx);
    if ((how & 0x80) != 0 && n < 3 * 700) continue; /* several frames in one go */
    r->piece_bytes = 1u + byte(in) * 6u;
    if (r->end[1].unconsumed > 4000 || rig_feed(r, 1, out, n) < n) break;
    n = 0;
    rig_run(r);
    act(r, in, byte(in), &seen);
    rig_run(r);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size > 8192) return 0;
  struct input in = {data, size};
  uint8_t mode = byte(&in);
  if ((mode & 3) == 0) {
    struct rig *r = rig_new(2, 16);
    rig_npro(r, 1);
    raw_bytes(r, &in);
    rig_free(r);
    return 0;
  }
  struct np_npro_keys k = rig_keys(1);
  k.stream_window_rx_bytes = 2000;
  k.conn_window_rx_bytes = 6000;
  k.stream_window_tx_bytes = 500;
  k.conn_window_tx_bytes = 4000;
  k.max_streams = 5;
  k.compression = (mode >> 2) % 3;
  k.compression_rx = 6;
  k.compression_threshold_bytes = 64;
  k.rekey_records = 9;
  struct peer p = peer_new(16, &k);
  if ((mode & 3) == 1) raw_bytes(p.r, &in);
  else sealed_frames(&p, &in);
  rig_free(p.r);
  return 0;
}
