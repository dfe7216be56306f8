/* AF_PACKET and TAP queues against a kernel played by the test: the ring lies in ordinary memory, and the other
 * end of a pair of Unix sockets stands for the packet socket and for the TAP. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/chain.h"
#include "io/raw/internal.h"
#include "test/unit/cmocka_np.h"

#define BUFS 256u
#define CHUNK 2048u
#define FRAME 2048u
#define FRAMES 8u
#define MAC_OFF 96u

struct rig {
  struct np_counters counters;
  struct np_pool pool;
  struct np_raw r;
  void *pool_mem;
  void *stack;
  int far; /* the kernel's end */
  uint32_t next; /* frame of the ring that the kernel fills next */
  struct np_buf *kept[BUFS];
  uint32_t kept_count;
};

static int setup_kind(void **state, uint8_t kind) {
  struct rig *g = calloc(1, sizeof *g);
  g->pool_mem = aligned_alloc(CHUNK, (size_t)BUFS * CHUNK);
  g->stack = malloc(np_pool_stack_bytes(BUFS));
  np_pool_init(&g->pool, g->pool_mem, BUFS, CHUNK, g->stack, &g->counters);
  int pair[2];
  assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair), 0);
  int bytes = 1 << 20;
  for (int i = 0; i < 2; i++) setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  g->far = pair[1];
  g->r = (struct np_raw){.port = {.ops = kind == NP_RAW_PACKET ? &np_raw_packet_ops : &np_raw_tap_ops},
                         .pool = &g->pool,
                         .tx = calloc(1, sizeof *g->r.tx),
                         .fd = pair[0],
                         .ctl = -1,
                         .kind = kind,
                         .vnet = true,
                         .reserve_count = 8,
                         .ring = calloc(FRAMES, FRAME),
                         .frame_bytes = FRAME,
                         .frames_per_block = FRAMES,
                         .block_bytes = FRAMES * FRAME,
                         .frame_count = FRAMES,
                         .scratch = malloc(NP_RAW_FRAME_MAX)};
  *state = g;
  return 0;
}

static int setup(void **state) { return setup_kind(state, NP_RAW_PACKET); }
static int setup_tap(void **state) { return setup_kind(state, NP_RAW_TAP); }

/* However the test left it, ending the queue brings every buffer back. */
static int teardown(void **state) {
  struct rig *g = *state;
  while (g->kept_count > 0) np_buf_put(g->kept[--g->kept_count]);
  g->r.port.ops->reclaim(&g->r.port);
  assert_int_equal(g->pool.free_count, BUFS);
  assert_int_equal(g->pool.reserve_count, 0);
  free(g->r.ring);
  free(g->r.tx);
  free(g->r.scratch);
  close(g->r.fd);
  close(g->far);
  free(g->stack);
  free(g->pool_mem);
  free(g);
  return 0;
}

static struct np_port_queue *q_of(struct rig *g) { return &g->r.port; }

static struct tpacket2_hdr *ring_at(struct rig *g, uint32_t i) {
  return (struct tpacket2_hdr *)(void *)(g->r.ring + (size_t)(i % FRAMES) * FRAME);
}

/* The kernel puts a frame of len bytes into the ring, its bytes counting up, and says of it what h says. */
static struct tpacket2_hdr *put(struct rig *g, uint32_t len, uint32_t status) {
  struct tpacket2_hdr *h = ring_at(g, g->next++);
  assert_int_equal(h->tp_status, TP_STATUS_KERNEL);
  uint8_t *p = (uint8_t *)h + MAC_OFF;
  memset(p - NP_RAW_VNET_BYTES, 0, NP_RAW_VNET_BYTES);
  for (uint32_t i = 0; i < len && i < FRAME - MAC_OFF; i++) p[i] = (uint8_t)i;
  h->tp_len = h->tp_snaplen = len;
  h->tp_mac = MAC_OFF;
  h->tp_status = status | TP_STATUS_USER;
  return h;
}

static uint32_t take(struct rig *g, struct np_buf **out, uint32_t max) { return q_of(g)->ops->rx(q_of(g), out, max); }

static void test_receive(void **state) {
  struct rig *g = *state;
  struct np_buf *out[NP_BURST];
  assert_false(q_of(g)->ops->busy(q_of(g)));
  assert_int_equal(take(g, out, NP_BURST), 0);
  for (uint32_t round = 0; round < 3 * FRAMES; round++) { /* past the ring's end */
    put(g, 60 + round, 0);
    struct tpacket2_hdr *second = put(g, 1514, 0);
    struct virtio_net_hdr v = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM};
    memcpy((uint8_t *)second + MAC_OFF - NP_RAW_VNET_BYTES, &v, sizeof v);
    assert_true(q_of(g)->ops->busy(q_of(g)));
    assert_int_equal(take(g, out, 1), 1);
    assert_int_equal(take(g, out + 1, NP_BURST), 1);
    assert_int_equal(out[0]->len, 60 + round);
    assert_int_equal(out[0]->flags & NP_BUF_L4_CSUM_OK, 0);
    assert_int_equal(out[1]->len, 1514);
    assert_int_equal(out[1]->flags & NP_BUF_L4_CSUM_OK, NP_BUF_L4_CSUM_OK);
    for (uint32_t i = 0; i < 1514; i++) assert_int_equal(np_buf_cdata(out[1])[i], (uint8_t)i);
    np_buf_put(out[0]);
    np_buf_put(out[1]);
  }
  assert_int_equal(g->r.port.stats.rx_pkts, 6 * FRAMES);
  assert_int_equal(g->r.port.stats.rx_dropped, 0);
}

/* The tag that the kernel took out is where it was on the wire. */
static void test_vlan(void **state) {
  struct rig *g = *state;
  struct np_buf *b = NULL;
  for (uint32_t i = 0; i < 2; i++) {
    struct tpacket2_hdr *h = put(g, 60, TP_STATUS_VLAN_VALID | (i == 1 ? TP_STATUS_VLAN_TPID_VALID : 0));
    h->tp_vlan_tci = 0x6064;
    h->tp_vlan_tpid = 0x88a8;
    assert_int_equal(take(g, &b, 1), 1);
    const uint8_t *p = np_buf_cdata(b);
    assert_int_equal(b->len, 64);
    for (uint32_t k = 0; k < 12; k++) assert_int_equal(p[k], k);
    assert_int_equal(np_load_be16(p + 12), i == 1 ? 0x88a8 : 0x8100);
    assert_int_equal(np_load_be16(p + 14), 0x6064);
    for (uint32_t k = 12; k < 60; k++) assert_int_equal(p[k + 4], k);
    np_buf_put(b);
  }
}

/* What cannot be is dropped and counted; the next frame is not harmed. */
static void test_bad_frames(void **state) {
  struct rig *g = *state;
  struct np_buf *b = NULL;
  static const struct {
    uint32_t len, snaplen, mac;
  } bad[] = {
      {60, 59, MAC_OFF},                            /* cut short */
      {59, 60, MAC_OFF},
      {13, 13, MAC_OFF},                            /* no Ethernet header */
      {0, 0, MAC_OFF},
      {FRAME, FRAME, MAC_OFF},                      /* beyond the frame's end */
      {FRAME - MAC_OFF + 1, FRAME - MAC_OFF + 1, MAC_OFF},
      {UINT32_MAX, UINT32_MAX, MAC_OFF},
      {60, 60, 0},                                  /* begins in the header */
      {60, 60, sizeof(struct tpacket2_hdr) + 9},    /* no room for the virtio header */
      {60, 60, FRAME},
      {60, 60, FRAME + 1},
      {60, 60, UINT16_MAX},
  };
  for (uint32_t i = 0; i < NP_COUNT_OF(bad); i++) {
    struct tpacket2_hdr *h = put(g, 60, 0);
    h->tp_len = bad[i].len;
    h->tp_snaplen = bad[i].snaplen;
    h->tp_mac = (uint16_t)bad[i].mac;
    put(g, 61, 0);
    assert_int_equal(take(g, &b, 1), 0); /* one looked at */
    assert_int_equal(g->r.port.stats.rx_dropped, i + 1);
    assert_int_equal(take(g, &b, 1), 1);
    assert_int_equal(b->len, 61);
    np_buf_put(b);
  }
}

/* A frame longer than the ring's: announced there, read from the socket. */
static void far_sends(struct rig *g, uint32_t len, uint8_t flags) {
  uint8_t *m = malloc(NP_RAW_VNET_BYTES + len);
  struct virtio_net_hdr v = {.flags = flags, .gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 1448};
  memcpy(m, &v, sizeof v);
  for (uint32_t i = 0; i < len; i++) m[NP_RAW_VNET_BYTES + i] = (uint8_t)(i * 7);
  assert_int_equal(write(g->far, m, NP_RAW_VNET_BYTES + len), NP_RAW_VNET_BYTES + len);
  free(m);
}

static void check_long(struct np_buf *b, uint32_t len) {
  assert_int_equal(np_buf_chain_len(b), len);
  uint32_t at = 0;
  for (const struct np_buf *p = b; p != NULL; p = p->next) {
    assert_true(p->len > 0);
    for (uint32_t i = 0; i < p->len; i++, at++) assert_int_equal(np_buf_cdata(p)[i], (uint8_t)(at * 7));
  }
  np_buf_put_chain(b);
}

static void test_long(void **state) {
  struct rig *g = *state;
  struct np_buf *b = NULL;
  static const uint32_t lens[] = {2000, 1792, 1793, 3584, 30000, 65549, NP_RAW_FRAME_MAX};
  for (uint32_t i = 0; i < NP_COUNT_OF(lens); i++) {
    far_sends(g, lens[i], VIRTIO_NET_HDR_F_NEEDS_CSUM);
    put(g, FRAME - MAC_OFF, TP_STATUS_COPY)->tp_len = lens[i];
    assert_int_equal(take(g, &b, 1), 1);
    assert_int_equal(b->flags & NP_BUF_L4_CSUM_OK, NP_BUF_L4_CSUM_OK);
    check_long(b, lens[i]);
  }
  assert_int_equal(g->r.port.stats.rx_dropped, 0);
}

/* The socket has nothing, more, less, or what no packet can be: each is one drop, in step with the ring. */
static void test_bad_long(void **state) {
  struct rig *g = *state;
  struct np_buf *b = NULL;
  put(g, 1000, TP_STATUS_COPY)->tp_len = 5000;
  assert_int_equal(take(g, &b, 1), 0);
  far_sends(g, 9000, 0); /* more than was announced, beyond the buffers taken for it */
  put(g, 1000, TP_STATUS_COPY)->tp_len = 3000;
  assert_int_equal(take(g, &b, 1), 0);
  far_sends(g, 13, 0);
  put(g, 1000, TP_STATUS_COPY)->tp_len = 3000;
  assert_int_equal(take(g, &b, 1), 0);
  far_sends(g, 70000, 0);
  put(g, 1000, TP_STATUS_COPY)->tp_len = NP_RAW_FRAME_MAX + 1;
  assert_int_equal(take(g, &b, 1), 0);
  put(g, 1000, TP_STATUS_COPY)->tp_len = UINT32_MAX;
  assert_int_equal(take(g, &b, 1), 0);
  assert_int_equal(g->r.port.stats.rx_dropped, 5);
  far_sends(g, 2500, 0); /* shorter than announced: what came counts */
  put(g, 1000, TP_STATUS_COPY)->tp_len = 6000;
  assert_int_equal(take(g, &b, 1), 1);
  check_long(b, 2500);
  assert_int_equal(g->pool.free_count, BUFS);
}

static void keep(struct rig *g, uint32_t leave) {
  while (g->pool.free_count > leave) {
    struct np_buf *b = np_pool_get_rx(&g->pool);
    assert_non_null(b);
    g->kept[g->kept_count++] = b;
  }
}

/* Without a buffer a frame waits in the ring; one that needs many is given up. */
static void test_no_buffers(void **state) {
  struct rig *g = *state;
  struct np_buf *b = NULL;
  keep(g, 0);
  put(g, 60, 0);
  assert_int_equal(take(g, &b, 1), 0);
  assert_int_equal(g->r.port.stats.rx_dropped, 0);
  np_buf_put(g->kept[--g->kept_count]);
  assert_int_equal(take(g, &b, 1), 1);
  np_buf_put(b);
  far_sends(g, 5000, 0);
  put(g, 1000, TP_STATUS_COPY)->tp_len = 5000;
  put(g, 60, 0);
  assert_int_equal(take(g, &b, 1), 0);
  assert_int_equal(g->r.port.stats.rx_dropped, 1);
  assert_int_equal(take(g, &b, 1), 1);
  assert_int_equal(b->len, 60);
  np_buf_put(b);
}

/* From the first flush on some buffers are receiving's alone. */
static void test_reserve(void **state) {
  struct rig *g = *state;
  q_of(g)->ops->flush(q_of(g));
  q_of(g)->ops->flush(q_of(g));
  assert_int_equal(g->pool.reserve_count, 8);
  keep(g, 8);
  assert_null(np_pool_get(&g->pool));
  struct np_buf *b = NULL;
  put(g, 60, 0);
  assert_int_equal(take(g, &b, 1), 1);
  np_buf_put(b);
}

/* ---- sending ---- */

static struct np_buf *packet(struct rig *g, uint32_t len, uint8_t fill) {
  struct np_buf *b = np_pool_get(&g->pool);
  assert_non_null(b);
  memset(np_buf_append(b, len), fill, len);
  return b;
}

static void test_send(void **state) {
  struct rig *g = *state;
  struct np_buf *b[3] = {packet(g, 60, 1), packet(g, 100, 2), packet(g, 70, 4)};
  b[1]->next = packet(g, 500, 3);
  assert_int_equal(q_of(g)->ops->tx(q_of(g), b, 3), 3);
  assert_int_equal(g->pool.free_count, BUFS - 4);
  uint8_t m[2048];
  assert_int_equal(read(g->far, m, sizeof m), -1); /* nothing leaves before the flush */
  b[0]->data_off += 10; /* as TCP does for what it keeps */
  b[0]->len -= 10;
  q_of(g)->ops->flush(q_of(g));
  assert_int_equal(g->pool.free_count, BUFS);
  assert_int_equal(read(g->far, m, sizeof m), NP_RAW_VNET_BYTES + 60);
  for (uint32_t i = 0; i < NP_RAW_VNET_BYTES; i++) assert_int_equal(m[i], 0);
  assert_int_equal(m[NP_RAW_VNET_BYTES], 1);
  assert_int_equal(read(g->far, m, sizeof m), NP_RAW_VNET_BYTES + 600);
  assert_int_equal(m[NP_RAW_VNET_BYTES + 99], 2);
  assert_int_equal(m[NP_RAW_VNET_BYTES + 100], 3);
  assert_int_equal(read(g->far, m, sizeof m), NP_RAW_VNET_BYTES + 70);
  assert_false(q_of(g)->ops->busy(q_of(g)));
  assert_int_equal(g->r.port.stats.tx_pkts, 3);
  assert_int_equal(g->r.port.stats.tx_bytes, 730);
}

/* What the kernel has to finish is said in front of the frame. */
static void test_offload(void **state) {
  struct rig *g = *state;
  static const struct {
    uint16_t type, vlan;
    uint8_t gso_type, flags;
  } cases[] = {
      {0x0800, 0, VIRTIO_NET_HDR_GSO_TCPV4, 0x10},
      {0x86dd, 0, VIRTIO_NET_HDR_GSO_TCPV6, 0x18},
      {0x0800, 7, VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN, 0x90},
      {0x86dd, 7, VIRTIO_NET_HDR_GSO_TCPV6, 0x10},
  };
  for (uint32_t i = 0; i < NP_COUNT_OF(cases); i++) {
    struct np_buf *b = packet(g, 200, 0);
    uint8_t *p = np_buf_data(b);
    uint32_t l3 = cases[i].vlan != 0 ? 18 : 14;
    uint32_t l4 = l3 + (cases[i].type == 0x0800 ? 20 : 40);
    if (cases[i].vlan != 0) np_store_be16(p + 12, 0x8100);
    np_store_be16(p + l3 - 2, cases[i].type);
    p[l4 + 12] = 8 << 4;
    p[l4 + 13] = cases[i].flags;
    b->l4_off = (uint16_t)(b->data_off + l4);
    b->flags = NP_BUF_TX_CSUM | NP_BUF_GSO;
    b->gso_bytes = 50;
    struct np_buf *sum = packet(g, 200, 0);
    sum->l4_off = (uint16_t)(sum->data_off + 34);
    sum->flags = NP_BUF_TX_CSUM;
    struct np_buf *both[2] = {b, sum};
    assert_int_equal(q_of(g)->ops->tx(q_of(g), both, 2), 2);
    q_of(g)->ops->flush(q_of(g));
    uint8_t m[300];
    struct virtio_net_hdr v;
    assert_int_equal(read(g->far, m, sizeof m), NP_RAW_VNET_BYTES + 200);
    memcpy(&v, m, sizeof v);
    assert_int_equal(v.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
    assert_int_equal(v.gso_type, cases[i].gso_type);
    assert_int_equal(v.gso_size, 50);
    assert_int_equal(v.hdr_len, l4 + 32);
    assert_int_equal(v.csum_start, l4);
    assert_int_equal(v.csum_offset, 16);
    assert_int_equal(read(g->far, m, sizeof m), NP_RAW_VNET_BYTES + 200);
    memcpy(&v, m, sizeof v);
    assert_int_equal(v.gso_type, VIRTIO_NET_HDR_GSO_NONE);
    assert_int_equal(v.csum_start, 34);
  }
}

/* A kernel that takes nothing: the queue fills, keeps its order and its buffers, and goes on later. */
static void test_backpressure(void **state) {
  struct rig *g = *state;
  int bytes = 4096;
  setsockopt(g->r.fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  uint32_t sent = 0;
  uint32_t waiting = 0;
  struct np_buf *b = packet(g, 1000, 0);
  for (; sent < 2 * NP_RAW_TX_PKTS; sent++) {
    *np_buf_data(b) = (uint8_t)sent;
    b->refs++;
    if (q_of(g)->ops->tx(q_of(g), &b, 1) == 0) {
      b->refs--;
      q_of(g)->ops->flush(q_of(g));
      break;
    }
    if (sent == 0) q_of(g)->ops->flush(q_of(g)); /* some of the socket's room is used already */
  }
  assert_in_range(sent, NP_RAW_TX_PKTS, NP_RAW_TX_PKTS + 1);
  assert_true(q_of(g)->ops->busy(q_of(g)));
  assert_true(b->refs > 1);
  waiting = b->refs - 1u;
  assert_true(waiting < sent);
  uint8_t m[2048];
  uint32_t got = 0;
  for (uint32_t i = 0; i < 4 * sent && (got < sent || b->refs > 1); i++) { /* bound: twice as often as there are packets */
    while (read(g->far, m, sizeof m) > 0) got++;
    q_of(g)->ops->flush(q_of(g));
  }
  assert_int_equal(got, sent);
  assert_int_equal(b->refs, 1);
  assert_false(q_of(g)->ops->busy(q_of(g)));
  np_buf_put(b);
}

/* One that the kernel refuses is lost alone; a device that is down takes all with it, and nothing more is taken. */
static void test_send_errors(void **state) {
  struct rig *g = *state;
  struct np_buf *head = packet(g, 10, 0); /* more than the socket's buffer in one message: EMSGSIZE */
  int bytes = 4096;
  setsockopt(g->r.fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  struct np_buf *tail = head;
  for (uint32_t i = 0; i < 20; i++) {
    tail->next = packet(g, 1700, 0);
    tail = tail->next;
  }
  struct np_buf *b[2] = {head, packet(g, 60, 0)};
  assert_int_equal(q_of(g)->ops->tx(q_of(g), b, 2), 2);
  q_of(g)->ops->flush(q_of(g));
  assert_int_equal(g->r.port.stats.tx_invalid, 1);
  uint8_t m[2048];
  assert_int_equal(read(g->far, m, sizeof m), NP_RAW_VNET_BYTES + 60);
  assert_int_equal(g->pool.free_count, BUFS);
  assert_false(g->r.port.down);

  np_raw_note_error(&g->r, ENOBUFS);
  assert_false(g->r.port.down);
  b[0] = packet(g, 60, 0);
  assert_int_equal(q_of(g)->ops->tx(q_of(g), b, 1), 1);
  np_raw_note_error(&g->r, ENETDOWN);
  assert_true(g->r.port.down);
  assert_false(g->r.port.gone);
  b[1] = packet(g, 60, 0);
  assert_int_equal(q_of(g)->ops->tx(q_of(g), b + 1, 1), 0);
  np_buf_put(b[1]);
  np_raw_note_error(&g->r, ENODEV);
  assert_true(g->r.port.gone); /* and what waits comes back with reclaim */
}

/* More pieces than a call takes: lost and counted, never half sent. */
static void test_crumbs(void **state) {
  struct rig *g = *state;
  struct np_buf *one = packet(g, 1, 0);
  struct np_buf loop[NP_RAW_TX_PIECES_MAX + 1];
  for (uint32_t i = 0; i <= NP_RAW_TX_PIECES_MAX; i++) {
    loop[i] = *one;
    loop[i].refs = 2; /* on the stack: never goes back to the pool */
    loop[i].next = i < NP_RAW_TX_PIECES_MAX ? &loop[i + 1] : NULL;
  }
  g->pool.count = 2 * NP_RAW_TX_PIECES_MAX; /* the bound of a chain */
  struct np_buf *b = loop;
  assert_int_equal(q_of(g)->ops->tx(q_of(g), &b, 1), 1);
  assert_int_equal(g->r.port.stats.tx_invalid, 1);
  assert_false(q_of(g)->ops->busy(q_of(g)));
  g->pool.count = BUFS;
  np_buf_put(one);
}

/* ---- TAP ---- */

static void test_tap(void **state) {
  struct rig *g = *state;
  struct np_buf *b[4];
  static const uint32_t lens[] = {60, 1792, 1793, 65549};
  assert_int_equal(take(g, b, 4), 0);
  for (uint32_t i = 0; i < NP_COUNT_OF(lens); i++) far_sends(g, lens[i], i == 0 ? 0 : VIRTIO_NET_HDR_F_DATA_VALID);
  assert_int_equal(take(g, b, 4), 4);
  for (uint32_t i = 0; i < NP_COUNT_OF(lens); i++) {
    assert_int_equal(b[i]->flags & NP_BUF_L4_CSUM_OK, i == 0 ? 0 : NP_BUF_L4_CSUM_OK);
    check_long(b[i], lens[i]);
  }
  far_sends(g, 13, 0);
  far_sends(g, 60, 0);
  assert_int_equal(take(g, b, 4), 1);
  assert_int_equal(b[0]->len, 60);
  np_buf_put(b[0]);
  assert_int_equal(g->r.port.stats.rx_dropped, 1);
  keep(g, 0);
  far_sends(g, 60, 0);
  assert_int_equal(take(g, b, 4), 0); /* waits */
  keep(g, 0);
  for (uint32_t i = 0; i < 2; i++) np_buf_put(g->kept[--g->kept_count]);
  assert_int_equal(take(g, b, 1), 1);
  np_buf_put(b[0]);
  far_sends(g, 30000, 0);
  assert_int_equal(take(g, b, 4), 0); /* given up */
  assert_int_equal(g->r.port.stats.rx_dropped, 2);
  assert_int_equal(g->pool.free_count, 2);
}

static void test_tap_send(void **state) {
  struct rig *g = *state;
  struct np_buf *b[2] = {packet(g, 60, 1), packet(g, 61, 2)};
  assert_int_equal(q_of(g)->ops->tx(q_of(g), b, 2), 2);
  q_of(g)->ops->flush(q_of(g));
  uint8_t m[200];
  assert_int_equal(read(g->far, m, sizeof m), NP_RAW_VNET_BYTES + 60);
  assert_int_equal(read(g->far, m, sizeof m), NP_RAW_VNET_BYTES + 61);
  assert_int_equal(g->pool.free_count, BUFS);
}

int main(void) {
  const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define TAP(f) cmocka_unit_test_setup_teardown(f, setup_tap, teardown)
      T(test_receive),      T(test_vlan),        T(test_bad_frames), T(test_long),   T(test_bad_long),
      T(test_no_buffers),   T(test_reserve),     T(test_send),       T(test_offload), T(test_backpressure),
      T(test_send_errors),  T(test_crumbs),      TAP(test_tap),      TAP(test_tap_send),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
