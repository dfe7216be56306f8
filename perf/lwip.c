/* lwIP's raw API as the server of a benchmark, over AF_PACKET: what a small userspace stack
 * gives that is there in every distribution.
 *
 *   lwip IFNAME ADDR/PREFIX PORT    echo on PORT, discard on PORT+1, source on PORT+2; until SIGTERM
 *
 * One thread does everything but lwIP's slow timers, which its own thread runs under the same
 * lock. Packets come by recvmmsg in batches and leave one by one, as lwIP makes them. It sleeps
 * in poll when there is nothing. Options are those of the distribution's library. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <lwip/init.h>
#include <lwip/netif.h>
#include <lwip/etharp.h>
#include <lwip/pbuf.h>
#include <lwip/tcp.h>
#include <lwip/tcpip.h>
#include <netif/ethernet.h>

#define BATCH 64
#define FRAME 2048
#define SOURCE_BYTES 65536

struct link {
  int fd;
  unsigned char mac[6];
  struct sockaddr_ll to;
  unsigned char frame[BATCH][FRAME];
};

static const char zeros[SOURCE_BYTES];

static _Noreturn void die(const char *what) {
  fprintf(stderr, "lwip: %s: %s\n", what, strerror(errno));
  exit(1);
}

static err_t link_output(struct netif *n, struct pbuf *p) {
  struct link *l = n->state;
  unsigned char flat[FRAME];
  const void *data = p->payload;
  if (p->next != NULL) {
    if (p->tot_len > sizeof flat) return ERR_BUF;
    pbuf_copy_partial(p, flat, p->tot_len, 0);
    data = flat;
  }
  (void)send(l->fd, data, p->tot_len, MSG_DONTWAIT); /* what the device does not take TCP sends again */
  return ERR_OK;
}

static err_t link_init(struct netif *n) {
  const struct link *l = n->state;
  n->name[0] = 'n';
  n->name[1] = 'p';
  n->mtu = 1500;
  n->hwaddr_len = 6;
  memcpy(n->hwaddr, l->mac, 6);
  n->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET | NETIF_FLAG_LINK_UP;
  n->output = etharp_output;
  n->linkoutput = link_output;
  return ERR_OK;
}

static void link_open(struct link *l, const char *ifname) {
  struct ifreq r;
  memset(&r, 0, sizeof r);
  snprintf(r.ifr_name, sizeof r.ifr_name, "%s", ifname);
  l->fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
  if (l->fd < 0) die("socket");
  if (ioctl(l->fd, SIOCGIFHWADDR, &r) != 0) die(ifname);
  memcpy(l->mac, r.ifr_hwaddr.sa_data, 6);
  if (ioctl(l->fd, SIOCGIFINDEX, &r) != 0) die(ifname);
  struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = r.ifr_ifindex};
  if (bind(l->fd, (struct sockaddr *)&at, sizeof at) != 0) die("bind");
  int bytes = 8 << 20;
  (void)setsockopt(l->fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
}

/* Return: frames taken. */
static int link_input(struct link *l, struct netif *n) {
  struct mmsghdr msg[BATCH];
  struct iovec iov[BATCH];
  struct sockaddr_ll from[BATCH];
  memset(msg, 0, sizeof msg);
  for (int i = 0; i < BATCH; i++) {
    iov[i] = (struct iovec){l->frame[i], FRAME};
    msg[i].msg_hdr.msg_iov = &iov[i];
    msg[i].msg_hdr.msg_iovlen = 1;
    msg[i].msg_hdr.msg_name = &from[i];
    msg[i].msg_hdr.msg_namelen = sizeof from[i];
  }
  int got = recvmmsg(l->fd, msg, BATCH, MSG_DONTWAIT, NULL);
  if (got <= 0) return 0;
  LOCK_TCPIP_CORE();
  for (int i = 0; i < got; i++) {
    if (from[i].sll_pkttype == PACKET_OUTGOING) continue;
    struct pbuf *p = pbuf_alloc(PBUF_RAW, (u16_t)msg[i].msg_len, PBUF_RAM);
    if (p == NULL) continue;
    pbuf_take(p, l->frame[i], (u16_t)msg[i].msg_len);
    if (ethernet_input(p, n) != ERR_OK) pbuf_free(p);
  }
  UNLOCK_TCPIP_CORE();
  return got;
}

static err_t end(struct tcp_pcb *pcb) {
  tcp_recv(pcb, NULL);
  tcp_sent(pcb, NULL);
  if (tcp_close(pcb) == ERR_OK) return ERR_OK;
  tcp_abort(pcb);
  return ERR_ABRT;
}

static err_t echo_recv(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t err) {
  (void)arg;
  if (p == NULL || err != ERR_OK) return end(pcb);
  for (const struct pbuf *q = p; q != NULL; q = q->next) {
    if (tcp_write(pcb, q->payload, q->len, TCP_WRITE_FLAG_COPY) != ERR_OK) {
      tcp_abort(pcb); /* loads here never have more in flight than a send buffer */
      pbuf_free(p);
      return ERR_ABRT;
    }
  }
  tcp_recved(pcb, p->tot_len);
  pbuf_free(p);
  tcp_output(pcb);
  return ERR_OK;
}

static err_t sink_recv(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t err) {
  (void)arg;
  if (p == NULL || err != ERR_OK) return end(pcb);
  tcp_recved(pcb, p->tot_len);
  pbuf_free(p);
  return ERR_OK;
}

static err_t fill(struct tcp_pcb *pcb) {
  while (tcp_sndbuf(pcb) >= TCP_MSS) { /* bound: the send buffer */
    u16_t n = (u16_t)LWIP_MIN(tcp_sndbuf(pcb), 4u * TCP_MSS);
    if (tcp_write(pcb, zeros, n, 0) != ERR_OK) break;
  }
  return tcp_output(pcb);
}

static err_t source_sent(void *arg, struct tcp_pcb *pcb, u16_t bytes) {
  (void)arg;
  (void)bytes;
  return fill(pcb);
}

static err_t echo_accept(void *arg, struct tcp_pcb *pcb, err_t err) {
  (void)arg;
  if (err != ERR_OK || pcb == NULL) return ERR_VAL;
  tcp_nagle_disable(pcb);
  tcp_recv(pcb, echo_recv);
  return ERR_OK;
}

static err_t sink_accept(void *arg, struct tcp_pcb *pcb, err_t err) {
  (void)arg;
  if (err != ERR_OK || pcb == NULL) return ERR_VAL;
  tcp_recv(pcb, sink_recv);
  return ERR_OK;
}

static err_t source_accept(void *arg, struct tcp_pcb *pcb, err_t err) {
  (void)arg;
  if (err != ERR_OK || pcb == NULL) return ERR_VAL;
  tcp_recv(pcb, sink_recv);
  tcp_sent(pcb, source_sent);
  return fill(pcb);
}

static void serve(unsigned port, tcp_accept_fn accept) {
  struct tcp_pcb *pcb = tcp_new();
  if (pcb == NULL || tcp_bind(pcb, IP4_ADDR_ANY, (u16_t)port) != ERR_OK) die("bind a port");
  pcb = tcp_listen_with_backlog(pcb, 255);
  if (pcb == NULL) die("listen");
  tcp_accept(pcb, accept);
}

static void add(struct netif *n, struct link *l, const char *where) {
  char text[64];
  snprintf(text, sizeof text, "%s", where);
  char *slash = strchr(text, '/');
  if (slash != NULL) *slash = 0;
  unsigned bits = slash != NULL ? (unsigned)atoi(slash + 1) : 24;
  ip4_addr_t addr;
  ip4_addr_t mask;
  ip4_addr_t none;
  if (bits > 32 || !ip4addr_aton(text, &addr)) {
    fprintf(stderr, "lwip: %s: want an address such as 198.18.0.1/24\n", where);
    exit(2);
  }
  mask.addr = htonl(bits == 0 ? 0 : 0xffffffffu << (32 - bits));
  ip4_addr_set_zero(&none);
  if (netif_add(n, &addr, &mask, &none, l, link_init, ethernet_input) == NULL) die("netif_add");
  netif_set_default(n);
  netif_set_up(n);
}

int main(int argc, char **argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: lwip IFNAME ADDR/PREFIX PORT\n");
    return 2;
  }
  static struct link l;
  static struct netif n;
  unsigned port = (unsigned)atoi(argv[3]);
  link_open(&l, argv[1]);
  tcpip_init(NULL, NULL);
  LOCK_TCPIP_CORE();
  add(&n, &l, argv[2]);
  serve(port, echo_accept);
  serve(port + 1, sink_accept);
  serve(port + 2, source_accept);
  UNLOCK_TCPIP_CORE();
  for (;;) { /* until SIGTERM */
    if (link_input(&l, &n) > 0) continue;
    struct pollfd p = {.fd = l.fd, .events = POLLIN};
    (void)poll(&p, 1, -1);
  }
}
