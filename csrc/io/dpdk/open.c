/* Making a device run: control thread, may block. */
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_malloc.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "io/dpdk/internal.h"

#define DESC_DEFAULT 1024u
#define MTU_DEFAULT 1500u
#define FRAME_EXTRA 22u /* Ethernet 14, VLAN 4, FCS 4 */
#define OWN_MBUF_MIN 2048u /* bytes of a driver's own mbuf; more with a larger MTU, in steps of 1 KiB */
#define TSO_BYTES_MAX 65535u
#define IDLE_POLL_US 1000u
#define WINDOW_IOVA (UINT64_C(96) << 32)
#define WINDOW_IOVA_END (UINT64_C(128) << 32)
#define WINDOW_PAGE_SHIFT 21u

#define RSS_HASH (RTE_ETH_RSS_IPV4 | RTE_ETH_RSS_IPV6 | RTE_ETH_RSS_NONFRAG_IPV4_TCP | RTE_ETH_RSS_NONFRAG_IPV6_TCP | \
                  RTE_ETH_RSS_NONFRAG_IPV4_UDP | RTE_ETH_RSS_NONFRAG_IPV6_UDP)

/* How a driver takes packets: which buffers it may be shown, and what else must be known of it. Drivers that are
 * not listed get packets in mbufs of their own, a copy at the border, which every driver can have. */
struct kind {
  const char *driver;
  bool direct; /* reads and writes where the header points, and keeps no mbuf for anybody else */
  bool guard;  /* see quiet.c */
  uint16_t room; /* bytes that it wants in each buffer, or else it gets its own too */
};

static const struct kind kinds[] = {
    {"net_virtio", true, false, 0},    {"net_virtio_user", true, false, 0}, {"net_vhost", true, false, 0},
    {"net_e1000_em", true, false, 0},  {"net_e1000_igb", true, false, 0},   {"net_e1000_igb_vf", true, false, 0},
    {"net_ixgbe", true, false, 0},     {"net_ixgbe_vf", true, false, 0},    {"net_i40e", true, false, 0},
    {"net_iavf", true, false, 0},      {"net_ice", true, false, 0},         {"net_ena", true, false, 0},
    {"net_vmxnet3", true, false, 0},   {"net_memif", true, true, 0},        {"net_pcap", true, false, 0},
    {"net_null", true, false, 0},
    {"net_af_packet", true, false, 2016}, /* its frames, unless they were configured to be smaller */
    {"net_ring", false, false, 0},        /* hands the mbuf itself to whoever reads the ring */
    {"net_af_xdp", false, false, 0},      /* its mempool's memory is its UMEM, in its own layout */
};

/* ---- finding and making it ---- */

static bool is_pci(const char *device) {
  unsigned domain, bus, slot, function;
  int used = 0;
  return sscanf(device, "%4x:%2x:%2x.%1x%n", &domain, &bus, &slot, &function, &used) == 4 && device[used] == '\0' && used == 12;
}

static enum np_err check_args(const struct np_dpdk_args *a, struct np_err_detail *detail) {
  if (memchr(a->device, '\0', sizeof a->device) == NULL || memchr(a->name, '\0', sizeof a->name) == NULL ||
      a->device[0] == '\0') {
    np_dpdk_explain(detail, 0, "device of a DPDK interface is empty or too long");
    return NP_ERR_INVALID;
  }
  for (const char *c = a->device; *c != '\0'; c++) {
    if (*c > ' ' && *c < 0x7f) continue;
    np_dpdk_explain(detail, 0, "device \"%.60s\" has a character that no DPDK device has", a->device);
    return NP_ERR_INVALID;
  }
  if (strncmp(a->device, "net_tap", 7) == 0) {
    np_dpdk_explain(detail, 0, "device %.40s: DPDK's tap driver takes signals from this process; use backend \"tap\"", a->device);
    return NP_ERR_UNSUPPORTED;
  }
  if (!is_pci(a->device) && strncmp(a->device, "net_", 4) != 0 && strncmp(a->device, "virtio_user", 11) != 0) {
    np_dpdk_explain(detail, 0, "device %.60s is neither a PCI address as 0000:03:00.0 nor a virtual device as net_memif0,role=client",
                    a->device);
    return NP_ERR_INVALID;
  }
  if (a->queues > NP_DPDK_QUEUES_MAX) {
    np_dpdk_explain(detail, 0, "queues of %s is %u, must be 0 (chosen) to %u", a->name, a->queues, NP_DPDK_QUEUES_MAX);
    return NP_ERR_INVALID;
  }
  if (a->mtu_bytes != 0 && (a->mtu_bytes < 1280 || a->mtu_bytes > 9000)) {
    np_dpdk_explain(detail, 0, "mtu of %s is %u, must be 1280 to 9000", a->name, a->mtu_bytes);
    return NP_ERR_INVALID;
  }
  if (a->ring != 0 && (a->ring < 64 || a->ring > 32768)) {
    np_dpdk_explain(detail, 0, "ring of %s is %u, must be 64 to 32768", a->name, a->ring);
    return NP_ERR_INVALID;
  }
  return NP_ERR_OK;
}

/* A NIC that the kernel's driver has would not be found by DPDK's: said by name, with what to do. */
static enum np_err check_pci(const char *address, struct np_err_detail *detail) {
  char path[128];
  char target[256];
  snprintf(path, sizeof path, "/sys/bus/pci/devices/%.12s", address);
  if (access(path, F_OK) != 0) {
    np_dpdk_explain(detail, 0, "there is no PCI device %.12s", address);
    return NP_ERR_NODEV;
  }
  snprintf(path, sizeof path, "/sys/bus/pci/devices/%.12s/driver", address);
  ssize_t n = readlink(path, target, sizeof target - 1);
  target[n > 0 ? n : 0] = '\0';
  const char *driver = strrchr(target, '/');
  driver = driver != NULL ? driver + 1 : target;
  if (strcmp(driver, "vfio-pci") == 0 || strcmp(driver, "uio_pci_generic") == 0 || strcmp(driver, "igb_uio") == 0) return NP_ERR_OK;
  if (driver[0] == '\0') {
    np_dpdk_explain(detail, 0, "PCI device %.12s has no driver: bind it to vfio-pci", address);
  } else {
    np_dpdk_explain(detail, 0, "PCI device %.12s belongs to the kernel's driver %.30s: bind it to vfio-pci", address, driver);
  }
  return NP_ERR_BUSY;
}

/* A memif server that was killed leaves its socket's file, and the next one could not listen. Goes only when
 * nobody answers there. */
static void clear_stale_socket(const char *device) {
  const char *path = strstr(device, ",socket=");
  if (strncmp(device, "net_memif", 9) != 0 || path == NULL || strstr(device, "socket-abstract=no") == NULL ||
      strstr(device, "role=server") == NULL) {
    return;
  }
  struct sockaddr_un at = {.sun_family = AF_UNIX};
  path += strlen(",socket=");
  size_t n = strcspn(path, ",");
  if (n == 0 || n >= sizeof at.sun_path) return; /* the driver says what is wrong with it */
  memcpy(at.sun_path, path, n);
  struct stat st;
  if (lstat(at.sun_path, &st) != 0 || !S_ISSOCK(st.st_mode)) return;
  int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return;
  bool dead = connect(fd, (const struct sockaddr *)&at, sizeof at) != 0 && errno == ECONNREFUSED;
  close(fd);
  if (dead) (void)unlink(at.sun_path);
}

/* Makes the virtual device, or attaches the NIC unless EAL did when it started. */
static enum np_err probe(struct np_dpdk_device *d, const struct np_dpdk_args *a, struct np_err_detail *detail) {
  snprintf(d->dev_name, sizeof d->dev_name, "%.*s", (int)np_min_u32((uint32_t)strcspn(a->device, ","), RTE_ETH_NAME_MAX_LEN - 1), a->device);
  bool there = rte_eth_dev_get_port_by_name(d->dev_name, &d->port_id) == 0;
  if (there && !is_pci(a->device)) {
    np_dpdk_explain(detail, 0, "device %s: another interface has it", d->dev_name);
    return NP_ERR_BUSY;
  }
  if (!there) {
    clear_stale_socket(a->device);
    int rc = rte_dev_probe(a->device);
    if (rc < 0) {
      np_dpdk_explain(detail, rc, "make device %.80s", a->device);
      return rc == -ENODEV || rc == -ENOENT ? NP_ERR_NODEV : rc == -EEXIST || rc == -EBUSY ? NP_ERR_BUSY : rc == -EINVAL ? NP_ERR_INVALID : NP_ERR_SYS;
    }
    if (rte_eth_dev_get_port_by_name(d->dev_name, &d->port_id) != 0) {
      np_dpdk_explain(detail, -ENODEV, "device %.80s: no driver of this build knows it", a->device);
      return NP_ERR_NODEV;
    }
  }
  d->probed = true;
  struct rte_eth_dev_owner owner;
  if (rte_eth_dev_owner_get(d->port_id, &owner) == 0 && owner.id != RTE_ETH_DEV_NO_OWNER) {
    d->probed = false; /* its owner's */
    np_dpdk_explain(detail, 0, "device %s: another interface has it", d->dev_name);
    return NP_ERR_BUSY;
  }
  memset(&owner, 0, sizeof owner);
  snprintf(owner.name, sizeof owner.name, "np");
  if (rte_eth_dev_owner_new(&owner.id) == 0) (void)rte_eth_dev_owner_set(d->port_id, &owner); /* for the question above */
  return NP_ERR_OK;
}

/* ---- memory as the NIC sees it ---- */

/* Addresses by page where the NIC does not use ours (IOVA mode PA). The pages are huge, so they stay where they are. */
static enum np_err find_pages(struct np_dpdk_device *d, uint32_t i, struct np_err_detail *detail) {
  const struct np_dpdk_core *c = &d->core[i];
  if (c->page_bytes == 0) {
    np_dpdk_explain(detail, 0, "device %s needs packet memory in huge pages here: reserve some (see nr_hugepages), or use an IOMMU", d->dev_name);
    return NP_ERR_UNSUPPORTED;
  }
  size_t pages = np_dpdk_map_bytes(c) / c->page_bytes;
  d->page_iova[i] = calloc(pages, sizeof *d->page_iova[i]);
  if (d->page_iova[i] == NULL) return NP_ERR_NOMEM;
  d->page_shift[i] = (uint32_t)__builtin_ctzll(c->page_bytes);
  for (size_t p = 0; p < pages; p++) {
    d->page_iova[i][p] = rte_mem_virt2phy(c->pool->mem + p * c->page_bytes);
    if (d->page_iova[i][p] != RTE_BAD_IOVA) continue;
    np_dpdk_explain(detail, 0, "physical address of packet memory for %s (needs CAP_SYS_ADMIN)", d->dev_name);
    return NP_ERR_PERM;
  }
  return NP_ERR_OK;
}

/* An IOMMU that is narrower than our addresses (39 bits are common) gets the pool in a window of its own: the last
 * quarter of what 39 bits hold, by the pool's place, so that pools don't meet and a second device finds it there. EAL's
 * memory is at the bottom. */
static enum np_err map_window(struct np_dpdk_device *d, struct rte_device *dev, uint32_t i, struct np_err_detail *detail) {
  const struct np_dpdk_core *c = &d->core[i];
  size_t bytes = np_dpdk_map_bytes(c);
  uint64_t base = WINDOW_IOVA + (((uint64_t)(uintptr_t)c->pool->mem >> WINDOW_PAGE_SHIFT & 0xffffu) << WINDOW_PAGE_SHIFT);
  size_t pages = (bytes >> WINDOW_PAGE_SHIFT) + 1;
  if (base + bytes > WINDOW_IOVA_END) base = WINDOW_IOVA; /* at the end of the window: round to its beginning */
  if (rte_dev_dma_map(dev, c->pool->mem, base, bytes) != 0 && rte_errno != EEXIST) {
    np_dpdk_explain(detail, -rte_errno, "map packet memory for %s", d->dev_name);
    return NP_ERR_SYS;
  }
  d->page_iova[i] = calloc(pages, sizeof *d->page_iova[i]);
  if (d->page_iova[i] == NULL) return NP_ERR_NOMEM;
  for (size_t p = 0; p < pages; p++) d->page_iova[i][p] = base + (p << WINDOW_PAGE_SHIFT);
  d->page_shift[i] = WINDOW_PAGE_SHIFT;
  d->map_step[i] = bytes;
  return NP_ERR_OK;
}

/* Lets the NIC at queue i's pool through the IOMMU. Mapped before for another device, or nothing to map (uio): as good.
 * DPDK wants to know the memory before it maps it. */
static enum np_err map_pool(struct np_dpdk_device *d, struct rte_device *dev, uint32_t i, struct np_err_detail *detail) {
  const struct np_dpdk_core *c = &d->core[i];
  size_t bytes = np_dpdk_map_bytes(c);
  size_t step = d->page_iova[i] != NULL ? c->page_bytes : bytes;
  if (rte_extmem_register(c->pool->mem, bytes, NULL, 0, c->page_bytes != 0 ? c->page_bytes : 4096) != 0 && rte_errno != EEXIST) {
    np_dpdk_explain(detail, -rte_errno, "register packet memory for %s", d->dev_name);
    return NP_ERR_SYS;
  }
  d->map_step[i] = step;
  for (size_t at = 0; at < bytes; at += step) { /* bound: the pool's pages */
    uint8_t *mem = c->pool->mem + at;
    uint64_t iova = d->page_iova[i] != NULL ? d->page_iova[i][at / step] : (uint64_t)(uintptr_t)mem;
    if (rte_dev_dma_map(dev, mem, iova, step) == 0 || rte_errno == EEXIST || rte_errno == ENOTSUP) continue;
    if (d->page_iova[i] == NULL) return map_window(d, dev, i, detail);
    np_dpdk_explain(detail, -rte_errno, "map packet memory for %s", d->dev_name);
    return NP_ERR_SYS;
  }
  return NP_ERR_OK;
}

static enum np_err map_memory(struct np_dpdk_device *d, struct rte_device *dev, struct np_err_detail *detail) {
  for (uint32_t i = 0; i < d->queues; i++) {
    enum np_err err = rte_eal_iova_mode() == RTE_IOVA_PA ? find_pages(d, i, detail) : NP_ERR_OK;
    if (err == NP_ERR_OK) err = map_pool(d, dev, i, detail);
    if (err != NP_ERR_OK) return err;
  }
  d->mapped = true;
  return NP_ERR_OK;
}

/* ---- configuring ---- */

static int on_removed(uint16_t port_id, enum rte_eth_event_type event, void *arg, void *ret) {
  struct np_dpdk_device *d = arg;
  (void)port_id;
  (void)event;
  (void)ret;
  __atomic_store_n(&d->gone, true, __ATOMIC_RELAXED);
  return 0;
}

/* The kernel wants a NIC back that vfio-pci has: it waits until the device is closed. On DPDK's thread. */
static void on_wanted_back(const char *name, enum rte_dev_event_type event, void *arg) {
  struct np_dpdk_device *d = arg;
  (void)name;
  if (event == RTE_DEV_EVENT_REMOVE) __atomic_store_n(&d->gone, true, __ATOMIC_RELAXED);
}

void np_dpdk_forget_wanted(struct np_dpdk_device *d) {
  if (!d->watched) return;
  d->watched = false;
  /* -EAGAIN: it runs just now, which takes no time */
  while (rte_dev_event_callback_unregister(d->dev_name, on_wanted_back, d) == -EAGAIN) sched_yield();
}

/* The MTU that is asked for, or the device's. Frames that are longer than a buffer come in several where
 * the driver can do that. */
static enum np_err choose_mtu(struct np_dpdk_device *d, const struct np_dpdk_args *a, const struct rte_eth_dev_info *info,
                              const struct np_pool *pool, struct np_err_detail *detail) {
  uint32_t most = info->max_rx_pktlen > FRAME_EXTRA - 4 ? info->max_rx_pktlen - (FRAME_EXTRA - 4) : MTU_DEFAULT;
  if (info->max_mtu != 0 && info->max_mtu != UINT16_MAX) most = np_min_u32(most, info->max_mtu);
  uint16_t now = MTU_DEFAULT;
  if (rte_eth_dev_get_mtu(d->port_id, &now) != 0 || now == 0) now = MTU_DEFAULT;
  d->mtu_bytes = a->mtu_bytes != 0 ? a->mtu_bytes : np_min_u32(now, np_max_u32(most, MTU_DEFAULT));
  if (d->mtu_bytes > np_max_u32(most, MTU_DEFAULT)) {
    np_dpdk_explain(detail, 0, "mtu of %s is %u, its driver takes %u at most", d->name, d->mtu_bytes, np_max_u32(most, MTU_DEFAULT));
    return NP_ERR_INVALID;
  }
  /* Intel's older NICs cut their buffers in steps of 1 KiB */
  uint32_t room = (pool->chunk_bytes - NP_BUF_DATA_OFF) & ~UINT32_C(1023);
  if (d->mtu_bytes + FRAME_EXTRA <= room || (info->rx_offload_capa & RTE_ETH_RX_OFFLOAD_SCATTER) == 0) return NP_ERR_OK;
  d->rx_offloads |= RTE_ETH_RX_OFFLOAD_SCATTER;
  return NP_ERR_OK;
}

static void choose_offloads(struct np_dpdk_device *d, const struct rte_eth_dev_info *info) {
  const uint64_t rx = RTE_ETH_RX_OFFLOAD_TCP_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
  d->rx_offloads |= info->rx_offload_capa & rx;
  uint64_t tx = info->tx_offload_capa & RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
  const uint64_t sum = RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
  const uint64_t tso = RTE_ETH_TX_OFFLOAD_TCP_TSO | RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
  tx |= info->tx_offload_capa & sum;
  bool can = (info->tx_offload_capa & tso) == tso || (strncmp(d->driver, "net_virtio", 10) == 0 && (info->tx_offload_capa & RTE_ETH_TX_OFFLOAD_TCP_TSO) != 0);
  if (can && tx == (RTE_ETH_TX_OFFLOAD_MULTI_SEGS | sum)) tx |= info->tx_offload_capa & tso;
  d->tx_offloads = tx;
}

static uint32_t descriptors(const struct rte_eth_desc_lim *lim, uint32_t want) {
  uint32_t align = lim->nb_align > 1 ? lim->nb_align : 1;
  uint32_t n = want / align * align;
  if (lim->nb_max != 0) n = np_min_u32(n, lim->nb_max);
  return np_max_u32(n, np_max_u32(lim->nb_min, 32));
}

/* Both directions of a connection get the same hash, and so the same queue, with a key that repeats itself
 * every 16 bits. */
static int configure(struct np_dpdk_device *d, const struct rte_eth_dev_info *info) {
  uint8_t key[64];
  for (size_t i = 0; i < sizeof key; i += 2) {
    key[i] = 0x6d;
    key[i + 1] = 0x5a;
  }
  struct rte_eth_conf conf;
  memset(&conf, 0, sizeof conf);
  conf.rxmode.mtu = d->mtu_bytes;
  conf.rxmode.offloads = d->rx_offloads;
  conf.txmode.offloads = d->tx_offloads;
  if (d->queues > 1 && (info->flow_type_rss_offloads & RSS_HASH) != 0) {
    conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
    conf.rx_adv_conf.rss_conf.rss_hf = info->flow_type_rss_offloads & RSS_HASH;
    if (info->hash_key_size != 0 && info->hash_key_size <= sizeof key) {
      conf.rx_adv_conf.rss_conf.rss_key = key;
      conf.rx_adv_conf.rss_conf.rss_key_len = info->hash_key_size;
    }
  }
  return rte_eth_dev_configure(d->port_id, d->queues, d->queues, &conf);
}

static uint16_t limit(uint16_t driver, uint16_t otherwise) { return driver != 0 && driver != UINT16_MAX ? driver : otherwise; }

static void set_caps(struct np_dpdk_queue *x, const struct rte_eth_dev_info *info) {
  const struct np_dpdk_device *d = x->device;
  x->pieces_max = limit(info->tx_desc_lim.nb_mtu_seg_max, NP_PORT_PIECES_MAX);
  x->gso_pieces_max = limit(info->tx_desc_lim.nb_seg_max, 32);
  x->port.ops = &np_dpdk_ops;
  x->port.mtu_bytes = d->mtu_bytes;
  x->port.idle_poll_us = IDLE_POLL_US;
  x->port.down = true; /* until check() saw the link */
  if (x->bounce) return;
  if ((d->rx_offloads & (RTE_ETH_RX_OFFLOAD_TCP_CKSUM)) != 0) x->port.caps |= NP_PORT_RX_CSUM;
  if ((d->tx_offloads & RTE_ETH_TX_OFFLOAD_MULTI_SEGS) != 0) x->port.caps |= NP_PORT_SG;
  if ((d->tx_offloads & RTE_ETH_TX_OFFLOAD_TCP_CKSUM) != 0) x->port.caps |= NP_PORT_TX_CSUM;
  if ((d->tx_offloads & RTE_ETH_TX_OFFLOAD_TCP_TSO) == 0) return;
  x->port.caps |= NP_PORT_TSO;
  x->port.tso_bytes_max = TSO_BYTES_MAX;
}

/* ---- queues ---- */

static enum np_err make_queue(struct np_dpdk_device *d, uint32_t i, const struct kind *kind, const struct rte_eth_dev_info *info,
                              struct np_err_detail *detail) {
  struct np_pool *pool = d->core[i].pool;
  int socket = rte_eth_dev_socket_id(d->port_id);
  struct np_dpdk_queue *x = calloc(1, sizeof *x);
  if (x == NULL) {
    np_dpdk_explain(detail, -ENOMEM, "open queue %u of %s", i, d->name);
    return NP_ERR_NOMEM;
  }
  d->queue[i] = x;
  d->refs++;
  x->device = d;
  x->port_id = d->port_id;
  x->qid = (uint16_t)i;
  x->port.queue = (uint16_t)i;
  x->bounce = !kind->direct;
  x->tx_cleanup = true;
  x->rx.pool = pool;
  set_caps(x, info);
  char name[RTE_MEMPOOL_NAMESIZE];
  if (x->bounce) {
    snprintf(name, sizeof name, "np.%u.%u", d->port_id, i);
    x->bounce_bytes = (uint16_t)np_max_u32((d->mtu_bytes + FRAME_EXTRA + 1023u) & ~UINT32_C(1023), OWN_MBUF_MIN);
    uint16_t room = (uint16_t)(x->bounce_bytes + RTE_PKTMBUF_HEADROOM);
    x->own_mp = rte_pktmbuf_pool_create(name, d->rx_desc + d->tx_desc + 4 * NP_BURST, 0, 0, room, socket);
    if (x->own_mp != NULL) return NP_ERR_OK;
    np_dpdk_explain(detail, -rte_errno, "take packet memory for queue %u of %s", i, d->name);
    return NP_ERR_NOMEM;
  }
  snprintf(name, sizeof name, "np.%u.%u.r", d->port_id, i);
  enum np_err err = np_dpdk_hdrs_init(&x->rx, pool, name, d->rx_desc + 2 * NP_BURST, socket, detail);
  if (err != NP_ERR_OK) return err;
  snprintf(name, sizeof name, "np.%u.%u.t", d->port_id, i);
  err = np_dpdk_hdrs_init(&x->tx, pool, name, d->tx_desc + 2 * NP_BURST, socket, detail);
  if (d->page_iova[i] != NULL) {
    x->rx.page_iova = x->tx.page_iova = d->page_iova[i];
    x->rx.page_shift = x->tx.page_shift = d->page_shift[i];
  }
  if (err == NP_ERR_OK && kind->guard) np_dpdk_guard(x);
  return err;
}

static enum np_err setup_queues(struct np_dpdk_device *d, const struct rte_eth_dev_info *info, struct np_err_detail *detail) {
  int socket = rte_eth_dev_socket_id(d->port_id);
  for (uint32_t i = 0; i < d->queues; i++) {
    struct np_dpdk_queue *x = d->queue[i];
    struct rte_eth_rxconf rx = info->default_rxconf;
    struct rte_eth_txconf tx = info->default_txconf;
    rx.offloads = d->rx_offloads;
    tx.offloads = d->tx_offloads;
    uint16_t often = (uint16_t)(d->tx_desc / 2 & ~31u); /* gives back what was sent when half of the ring is, not all but 32 */
    if (often >= 32) tx.tx_free_thresh = often;
    int rc = rte_eth_rx_queue_setup(d->port_id, x->qid, (uint16_t)d->rx_desc, (unsigned)socket, &rx, x->bounce ? x->own_mp : x->rx.mp);
    if (rc == 0) rc = rte_eth_tx_queue_setup(d->port_id, x->qid, (uint16_t)d->tx_desc, (unsigned)socket, &tx);
    if (rc == -EINVAL && often >= 32) { /* not to this driver's taste */
      tx.tx_free_thresh = info->default_txconf.tx_free_thresh;
      rc = rte_eth_tx_queue_setup(d->port_id, x->qid, (uint16_t)d->tx_desc, (unsigned)socket, &tx);
    }
    if (rc == 0) continue;
    np_dpdk_explain(detail, rc, "set up queue %u of %s", i, d->name);
    return rc == -EINVAL ? NP_ERR_INVALID : NP_ERR_SYS;
  }
  return NP_ERR_OK;
}

static const struct kind *kind_of(const struct np_dpdk_args *a, const char *driver, uint32_t chunk_bytes) {
  static const struct kind own = {"", false, false, 0};
  static const struct kind memif_zc = {"net_memif", false, true, 0}; /* its buffers are memory that it shares with the peer */
  for (size_t i = 0; i < NP_COUNT_OF(kinds); i++) {
    if (strcmp(kinds[i].driver, driver) != 0) continue;
    if (kinds[i].room > chunk_bytes - NP_BUF_DATA_OFF) return &own;
    return kinds[i].guard && strstr(a->device, "zero-copy=yes") != NULL ? &memif_zc : &kinds[i];
  }
  return &own;
}

static enum np_err set_up(struct np_dpdk_device *d, const struct np_dpdk_args *a, uint32_t cores, struct np_err_detail *detail) {
  struct rte_eth_dev_info info;
  memset(&info, 0, sizeof info);
  int rc = rte_eth_dev_info_get(d->port_id, &info);
  if (rc != 0) {
    np_dpdk_explain(detail, rc, "ask device %s what it is", d->dev_name);
    return NP_ERR_SYS;
  }
  snprintf(d->driver, sizeof d->driver, "%s", info.driver_name);
  if (a->queues == 0) d->queues = (uint16_t)(is_pci(a->device) ? np_min_u32(cores, np_min_u32(info.max_rx_queues, info.max_tx_queues)) : 1);
  if (d->queues > info.max_rx_queues || d->queues > info.max_tx_queues) {
    np_dpdk_explain(detail, 0, "queues of %s is %u, the device has %u to receive and %u to send", d->name, d->queues, info.max_rx_queues,
                    info.max_tx_queues);
    return NP_ERR_INVALID;
  }
  enum np_err err = choose_mtu(d, a, &info, d->core[0].pool, detail);
  if (err != NP_ERR_OK) return err;
  choose_offloads(d, &info);
  d->redial = strcmp(d->driver, "net_memif") == 0 && strstr(a->device, "role=server") == NULL;
  uint32_t want = a->ring != 0 ? a->ring : np_min_u32(DESC_DEFAULT, d->core[0].pool->count / 4u);
  d->rx_desc = descriptors(&info.rx_desc_lim, want);
  d->tx_desc = descriptors(&info.tx_desc_lim, np_min_u32(want, np_max_u32(d->core[0].pool->count / 16u, 64))); /* they keep what was sent */
  const struct kind *kind = kind_of(a, d->driver, d->core[0].pool->chunk_bytes);
  if (kind->direct && is_pci(a->device)) err = map_memory(d, info.device, detail);
  for (uint32_t i = 0; err == NP_ERR_OK && i < d->queues; i++) err = make_queue(d, i, kind, &info, detail);
  if (err != NP_ERR_OK) return err;
  rc = configure(d, &info);
  if (rc != 0) {
    np_dpdk_explain(detail, rc, "configure %s for %u queues and an mtu of %u", d->name, d->queues, d->mtu_bytes);
    return rc == -EINVAL ? NP_ERR_INVALID : NP_ERR_SYS;
  }
  (void)rte_eth_dev_callback_register(d->port_id, RTE_ETH_EVENT_INTR_RMV, on_removed, d); /* drivers that can't tell don't */
  d->watched = is_pci(a->device) && rte_dev_event_callback_register(d->dev_name, on_wanted_back, d) == 0;
  return setup_queues(d, &info, detail);
}

bool np_dpdk_built(void) { return true; }

enum np_err np_dpdk_open(const struct np_dpdk_args *args, const cpu_set_t *control, const struct np_dpdk_core *core,
                         uint32_t cores, struct np_dpdk_device **out, struct np_err_detail *detail) {
  *out = NULL;
  enum np_err err = check_args(args, detail);
  if (err == NP_ERR_OK && is_pci(args->device)) err = check_pci(args->device, detail);
  if (err == NP_ERR_OK) err = np_dpdk_start(control, args->device, detail);
  if (err != NP_ERR_OK) return err;
  struct np_dpdk_device *d = calloc(1, sizeof *d);
  if (d == NULL) {
    np_dpdk_explain(detail, -ENOMEM, "open %s", args->name);
    return NP_ERR_NOMEM;
  }
  np_dpdk_said_clear();
  d->queues = (uint16_t)args->queues;
  memcpy(d->name, args->name, sizeof d->name);
  for (uint32_t i = 0; i < NP_DPDK_QUEUES_MAX; i++) d->core[i] = core[i % cores];
  err = probe(d, args, detail);
  if (err == NP_ERR_OK) err = set_up(d, args, cores, detail);
  if (err == NP_ERR_OK) {
    *out = d;
    return NP_ERR_OK;
  }
  np_dpdk_device_close(d);
  d->refs++; /* ours, so that the last queue's end is not the device's */
  for (uint32_t i = 0; i < d->queues; i++) {
    if (d->queue[i] != NULL) np_dpdk_free(&d->queue[i]->port);
  }
  d->refs--;
  np_dpdk_device_free(d);
  return err;
}

uint32_t np_dpdk_queues(const struct np_dpdk_device *d) { return d->queues; }

struct np_port_queue *np_dpdk_port(struct np_dpdk_device *d, uint32_t queue) { return &d->queue[queue]->port; }

void np_dpdk_lend(struct np_dpdk_device *d, uint32_t queue) {
  struct np_dpdk_queue *x = d->queue[queue];
  if (!x->bounce) np_dpdk_hdrs_lend(&x->rx, d->rx_desc);
}

static void fill_info(const struct np_dpdk_device *d, struct np_dpdk_info *info) {
  struct rte_ether_addr mac;
  struct rte_eth_link link;
  memset(info, 0, sizeof *info);
  memset(&link, 0, sizeof link);
  if (rte_eth_macaddr_get(d->port_id, &mac) == 0) memcpy(info->mac, mac.addr_bytes, sizeof info->mac);
  (void)rte_eth_link_get_nowait(d->port_id, &link);
  info->mtu_bytes = d->mtu_bytes;
  info->queues = d->queues;
  info->link_up = link.link_status == RTE_ETH_LINK_UP;
  info->copies = d->queue[0]->bounce;
  snprintf(info->driver, sizeof info->driver, "%s", d->driver);
}

enum np_err np_dpdk_run(struct np_dpdk_device *d, struct np_dpdk_info *info, struct np_err_detail *detail) {
  int rc = rte_eth_dev_start(d->port_id);
  if (rc != 0 && !d->redial) {
    np_dpdk_explain(detail, rc, "start %s", d->name);
    return NP_ERR_SYS;
  }
  /* Unicast to our own address; multicast all, because neighbor discovery lives of it. Virtual devices have no filter. */
  (void)rte_eth_promiscuous_disable(d->port_id);
  (void)rte_eth_allmulticast_enable(d->port_id);
  fill_info(d, info);
  for (uint32_t i = 0; i < d->queues; i++) {
    memcpy(d->queue[i]->port.mac.b, info->mac, sizeof info->mac);
    d->queue[i]->port.down = info->link_up == 0;
  }
  return NP_ERR_OK;
}
