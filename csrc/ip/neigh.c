/* The neighbor table: ARP and neighbor discovery in one, with the states and
 * the unreachability detection of RFC 4861 §7.3 for both. Bounded: entries and
 * waiting packets are taken at start, and a full table reuses by list (see
 * enum np_neigh_list). */
#include "ip/internal.h"

#define FIRM_TRIES 16u /* firm entries looked at for an idle one when the table is full */
#define BIT(state) (1u << (state))

/* Which state may follow which; FREE may follow each. */
static const uint8_t legal[NP_NEIGH_STATE_COUNT] = {
    [NP_NEIGH_FREE] = BIT(NP_NEIGH_INCOMPLETE) | BIT(NP_NEIGH_STALE),
    [NP_NEIGH_INCOMPLETE] = BIT(NP_NEIGH_REACHABLE) | BIT(NP_NEIGH_STALE) | BIT(NP_NEIGH_FAILED),
    [NP_NEIGH_REACHABLE] = BIT(NP_NEIGH_REACHABLE) | BIT(NP_NEIGH_STALE) | BIT(NP_NEIGH_PROBE),
    [NP_NEIGH_STALE] = BIT(NP_NEIGH_STALE) | BIT(NP_NEIGH_REACHABLE) | BIT(NP_NEIGH_DELAY) | BIT(NP_NEIGH_PROBE),
    [NP_NEIGH_DELAY] = BIT(NP_NEIGH_REACHABLE) | BIT(NP_NEIGH_STALE) | BIT(NP_NEIGH_PROBE),
    [NP_NEIGH_PROBE] = BIT(NP_NEIGH_REACHABLE) | BIT(NP_NEIGH_STALE) | BIT(NP_NEIGH_FAILED),
    [NP_NEIGH_FAILED] = BIT(NP_NEIGH_INCOMPLETE) | BIT(NP_NEIGH_STALE) | BIT(NP_NEIGH_REACHABLE),
};

static uint32_t index_of(const struct np_ip *ip, const struct np_neigh *n) {
  ptrdiff_t d = n - ip->neigh;
  np_assert(d >= 0 && d < (ptrdiff_t)ip->config.neigh_max);
  return (uint32_t)d;
}

static uint32_t *bucket_of(struct np_ip *ip, uint16_t iface, const struct np_addr *addr) {
  uint64_t h = np_hash_addr(addr, &ip->hash_key) + iface;
  return &ip->bucket[(h ^ h >> 32) & ip->neigh_mask];
}

static void list_remove(struct np_ip *ip, struct np_neigh *n) {
  if (n->prev == NP_NEIGH_NONE) {
    ip->list_head[n->list] = n->next;
  } else {
    ip->neigh[n->prev].next = n->next;
  }
  if (n->next == NP_NEIGH_NONE) {
    ip->list_tail[n->list] = n->prev;
  } else {
    ip->neigh[n->next].prev = n->prev;
  }
}

static void list_push(struct np_ip *ip, struct np_neigh *n, enum np_neigh_list list) {
  uint32_t i = index_of(ip, n);
  n->list = (uint8_t)list;
  n->prev = NP_NEIGH_NONE;
  n->next = ip->list_head[list];
  if (n->next == NP_NEIGH_NONE) {
    ip->list_tail[list] = i;
  } else {
    ip->neigh[n->next].prev = i;
  }
  ip->list_head[list] = i;
}

/* Most recently used of the list its state belongs to. */
static void list_refresh(struct np_ip *ip, struct np_neigh *n) {
  bool firm = n->confirmed && np_neigh_has_mac(n);
  list_remove(ip, n);
  list_push(ip, n, n->state == NP_NEIGH_FREE ? NP_NEIGH_LIST_FREE : firm ? NP_NEIGH_LIST_FIRM : NP_NEIGH_LIST_LOOSE);
}

static void arm(struct np_ip *ip, struct np_neigh *n, uint64_t due_ns) {
  np_timer_set(ip->env.wheel, &n->timer, NP_TIMER_NEIGH, due_ns);
}

static void set_state(struct np_ip *ip, struct np_neigh *n, enum np_neigh_state state) {
  np_assert((legal[n->state] & BIT(state)) != 0 || state == NP_NEIGH_FREE);
  n->state = (uint8_t)state;
  n->probes = 0;
  list_refresh(ip, n);
}

bool np_neigh_has_mac(const struct np_neigh *n) {
  return n->state == NP_NEIGH_REACHABLE || n->state == NP_NEIGH_STALE || n->state == NP_NEIGH_DELAY || n->state == NP_NEIGH_PROBE;
}

/* Paths that hold this entry's MAC must ask again. */
static void uncache(struct np_ip *ip, struct np_neigh *n) {
  if (!n->cached) return;
  n->cached = false;
  np_ip_invalidate(ip);
}

/* Takes the list off first: whoever is told may send, and so queue, again. */
static struct np_buf *queue_take(struct np_neigh *n) {
  struct np_buf *head = n->queue_head;
  n->queue_head = NULL;
  n->queue_tail = NULL;
  n->queue_count = 0;
  return head;
}

static void queue_drop(struct np_ip *ip, struct np_neigh *n, bool tell) {
  struct np_buf *buf = queue_take(n);
  while (buf != NULL) { /* bound: config.neigh_queue_pkts */
    struct np_buf *next = buf->next;
    buf->next = NULL;
    if (tell) np_icmp_local_unreachable(ip, buf);
    np_ip_drop(ip, buf, NP_DROP_NEIGH_QUEUE);
    buf = next;
  }
}

static void queue_send(struct np_ip *ip, struct np_neigh *n) {
  const struct np_iface *ifc = &ip->iface[n->iface];
  uint16_t type = np_addr_is_v4(&n->addr) ? NP_ETHERTYPE_IP4 : NP_ETHERTYPE_IP6;
  struct np_buf *buf = queue_take(n);
  while (buf != NULL) { /* bound: config.neigh_queue_pkts */
    struct np_buf *next = buf->next;
    buf->next = NULL;
    np_ip_send_frame(ip, ifc, buf, &n->mac, type);
    buf = next;
  }
}

void np_neigh_queue(struct np_ip *ip, struct np_neigh *n, struct np_buf *buf) {
  if (n->queue_count == ip->config.neigh_queue_pkts) { /* the latest is kept (RFC 1122 §2.3.2.2) */
    struct np_buf *old = n->queue_head;
    n->queue_head = old->next;
    if (n->queue_head == NULL) n->queue_tail = NULL;
    n->queue_count--;
    old->next = NULL;
    np_ip_drop(ip, old, NP_DROP_NEIGH_QUEUE);
  }
  buf->next = NULL;
  if (n->queue_tail == NULL) {
    n->queue_head = buf;
  } else {
    n->queue_tail->next = buf;
  }
  n->queue_tail = buf;
  n->queue_count++;
}

static void forget(struct np_ip *ip, struct np_neigh *n) {
  uint32_t i = index_of(ip, n);
  uint32_t *at = bucket_of(ip, n->iface, &n->addr);
  for (uint32_t bound = 0; *at != i; bound++) {
    np_assert(bound < ip->config.neigh_max && *at != NP_NEIGH_NONE);
    at = &ip->neigh[*at].hash_next;
  }
  *at = n->hash_next;
  np_timer_cancel(ip->env.wheel, &n->timer);
  uncache(ip, n);
  queue_drop(ip, n, false);
  n->confirmed = false;
  set_state(ip, n, NP_NEIGH_FREE);
  --*np_ip_counter(ip, NP_C_NEIGH_ENTRIES);
}

void np_neigh_forget_iface(struct np_ip *ip, uint16_t iface) {
  for (uint32_t i = 0; i < ip->config.neigh_max; i++) {
    struct np_neigh *n = &ip->neigh[i];
    if (n->state != NP_NEIGH_FREE && n->iface == iface) forget(ip, n);
  }
}

struct np_neigh *np_neigh_find(struct np_ip *ip, uint16_t iface, const struct np_addr *addr) {
  uint32_t i = *bucket_of(ip, iface, addr);
  for (uint32_t bound = 0; i != NP_NEIGH_NONE && bound < ip->config.neigh_max; bound++) {
    struct np_neigh *n = &ip->neigh[i];
    if (n->iface == iface && np_addr_eq(&n->addr, addr)) return n;
    i = n->hash_next;
  }
  return NULL;
}

/* A free entry, or the least recently used one that may be given up; NULL: none. */
static struct np_neigh *take(struct np_ip *ip) {
  uint32_t i = ip->list_tail[NP_NEIGH_LIST_FREE];
  if (i != NP_NEIGH_NONE) return &ip->neigh[i];
  i = ip->list_tail[NP_NEIGH_LIST_LOOSE];
  if (i == NP_NEIGH_NONE) {
    i = ip->list_tail[NP_NEIGH_LIST_FIRM];
    for (uint32_t tries = 0; tries < FIRM_TRIES && i != NP_NEIGH_NONE; tries++) {
      if (ip->neigh[i].state == NP_NEIGH_STALE) break;
      i = ip->neigh[i].prev;
    }
    if (i == NP_NEIGH_NONE || ip->neigh[i].state != NP_NEIGH_STALE) return NULL;
  }
  forget(ip, &ip->neigh[i]);
  return &ip->neigh[i];
}

static struct np_neigh *create(struct np_ip *ip, uint16_t iface, const struct np_addr *addr) {
  struct np_neigh *n = take(ip);
  if (n == NULL) return NULL;
  n->addr = *addr;
  n->iface = iface;
  memset(&n->mac, 0, sizeof n->mac);
  n->confirmed = false;
  n->confirmed_ns = 0;
  uint32_t *bucket = bucket_of(ip, iface, addr);
  n->hash_next = *bucket;
  *bucket = index_of(ip, n);
  ++*np_ip_counter(ip, NP_C_NEIGH_ENTRIES);
  return n;
}

/* One question: to the neighbor itself when we have its MAC, else to all who might be it. */
static void ask(struct np_ip *ip, struct np_neigh *n, uint64_t now_ns) {
  struct np_iface *ifc = &ip->iface[n->iface];
  const struct np_mac *to = np_neigh_has_mac(n) ? &n->mac : NULL;
  n->probes++;
  if (np_addr_is_v4(&n->addr)) {
    np_arp_request(ip, ifc, &n->addr, to);
  } else {
    np_nd_solicit(ip, ifc, &n->addr, to);
  }
  bool told = !np_addr_is_v4(&n->addr) && ifc->ra.retrans_ns != 0;
  arm(ip, n, now_ns + (told ? ifc->ra.retrans_ns : NP_NEIGH_RETRANS_NS));
}

struct np_neigh *np_neigh_resolve(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *addr, uint64_t now_ns) {
  struct np_neigh *n = np_neigh_find(ip, ifc->index, addr);
  if (n == NULL) n = create(ip, ifc->index, addr);
  if (n == NULL) return NULL;
  if (n->state == NP_NEIGH_FREE || n->state == NP_NEIGH_FAILED) {
    set_state(ip, n, NP_NEIGH_INCOMPLETE);
    ask(ip, n, now_ns);
  }
  return n;
}

static void become_stale(struct np_ip *ip, struct np_neigh *n, uint64_t now_ns) {
  set_state(ip, n, NP_NEIGH_STALE);
  arm(ip, n, now_ns + NP_NEIGH_STALE_NS);
}

static void become_reachable(struct np_ip *ip, struct np_neigh *n, uint64_t now_ns) {
  n->confirmed = true;
  n->confirmed_ns = now_ns;
  /* Half to one and a half times the base, so that neighbors do not probe in step (RFC 4861 §6.3.2). */
  uint64_t told_ns = np_addr_is_v4(&n->addr) ? 0 : ip->iface[n->iface].ra.reachable_ns;
  uint64_t base_ns = told_ns != 0 ? told_ns : NP_NEIGH_REACHABLE_NS;
  n->reachable_ns = base_ns / 2 + np_rng_u64(&ip->rng) % base_ns;
  set_state(ip, n, NP_NEIGH_REACHABLE);
  arm(ip, n, now_ns + n->reachable_ns);
}

/* Return: true when the MAC is another than before. */
static bool set_mac(struct np_ip *ip, struct np_neigh *n, const struct np_mac *mac) {
  if (np_mac_eq(&n->mac, mac)) return false;
  n->mac = *mac;
  uncache(ip, n);
  return true;
}

void np_neigh_learn(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *addr, const struct np_mac *mac, uint64_t now_ns) {
  struct np_neigh *n = np_neigh_find(ip, ifc->index, addr);
  if (n == NULL) n = create(ip, ifc->index, addr);
  if (n == NULL) return;
  bool known = np_neigh_has_mac(n);
  bool changed = set_mac(ip, n, mac);
  if (known && !changed) return;
  become_stale(ip, n, now_ns);
  if (n->queue_head == NULL) return;
  queue_send(ip, n);
  np_neigh_used(ip, n, now_ns);
}

void np_neigh_advert(struct np_ip *ip, struct np_neigh *n, const struct np_mac *mac, bool solicited, bool override, uint64_t now_ns) {
  if (!np_neigh_has_mac(n)) {
    if (mac == NULL) return;
    set_mac(ip, n, mac);
    if (solicited) {
      become_reachable(ip, n, now_ns);
    } else {
      become_stale(ip, n, now_ns);
    }
    bool waiting = n->queue_head != NULL;
    queue_send(ip, n);
    if (waiting && !solicited) np_neigh_used(ip, n, now_ns);
    return;
  }
  bool differs = mac != NULL && !np_mac_eq(mac, &n->mac);
  if (!override && differs) {
    if (n->state == NP_NEIGH_REACHABLE) become_stale(ip, n, now_ns);
    return;
  }
  if (differs) set_mac(ip, n, mac);
  if (solicited) {
    become_reachable(ip, n, now_ns);
  } else if (differs) {
    become_stale(ip, n, now_ns);
  }
}

void np_neigh_used(struct np_ip *ip, struct np_neigh *n, uint64_t now_ns) {
  if (n->state != NP_NEIGH_STALE) return;
  set_state(ip, n, NP_NEIGH_DELAY);
  arm(ip, n, now_ns + NP_NEIGH_DELAY_NS);
}

void np_neigh_confirm(struct np_ip *ip, struct np_neigh *n, uint64_t now_ns) {
  if (NP_LIKELY(n->state == NP_NEIGH_REACHABLE)) {
    n->confirmed_ns = now_ns; /* the timer looks at it when it fires */
  } else if (np_neigh_has_mac(n)) {
    become_reachable(ip, n, now_ns);
  }
}

static void give_up(struct np_ip *ip, struct np_neigh *n, uint64_t now_ns) {
  uncache(ip, n);
  set_state(ip, n, NP_NEIGH_FAILED);
  arm(ip, n, now_ns + NP_NEIGH_FAILED_NS);
  queue_drop(ip, n, true);
  np_ra_neighbor_failed(ip, &ip->iface[n->iface], &n->addr);
}

static void on_timer(void *ctx, struct np_timer *timer, uint64_t now_ns) {
  struct np_ip *ip = ctx;
  struct np_neigh *n = NP_CONTAINER_OF(timer, struct np_neigh, timer);
  switch ((enum np_neigh_state)n->state) {
    case NP_NEIGH_REACHABLE:
      if (n->confirmed_ns + n->reachable_ns > now_ns) {
        arm(ip, n, n->confirmed_ns + n->reachable_ns);
      } else {
        become_stale(ip, n, now_ns);
      }
      return;
    case NP_NEIGH_DELAY:
      set_state(ip, n, NP_NEIGH_PROBE);
      ask(ip, n, now_ns);
      return;
    case NP_NEIGH_INCOMPLETE:
    case NP_NEIGH_PROBE:
      if (n->probes < NP_NEIGH_PROBES_MAX) {
        ask(ip, n, now_ns);
      } else {
        give_up(ip, n, now_ns);
      }
      return;
    case NP_NEIGH_STALE:
    case NP_NEIGH_FAILED:
      forget(ip, n);
      return;
    default:
      np_assert(n->state != NP_NEIGH_FREE);
  }
}

void np_neigh_init(struct np_ip *ip) {
  for (uint32_t i = 0; i <= ip->neigh_mask; i++) ip->bucket[i] = NP_NEIGH_NONE;
  for (uint32_t l = 0; l < NP_NEIGH_LIST_COUNT; l++) {
    ip->list_head[l] = NP_NEIGH_NONE;
    ip->list_tail[l] = NP_NEIGH_NONE;
  }
  for (uint32_t i = ip->config.neigh_max; i > 0; i--) list_push(ip, &ip->neigh[i - 1], NP_NEIGH_LIST_FREE);
  np_wheel_handle(ip->env.wheel, NP_TIMER_NEIGH, on_timer, ip);
}

/* An entry that was confirmed a moment ago is not the cause: loss elsewhere makes many connections
 * time out at once, and each of them must not make a question. */
#define DOUBT_GAP_NS NP_NEIGH_DELAY_NS

void np_ip_doubt(struct np_ip *ip, const struct np_path *path, uint64_t now_ns) {
  if (path->link_len == 0 || path->generation != ip->generation) return;
  struct np_neigh *n = &ip->neigh[path->neigh];
  if (n->state == NP_NEIGH_PROBE || !np_neigh_has_mac(n)) return;
  if (n->confirmed && now_ns - n->confirmed_ns < DOUBT_GAP_NS) return;
  ++*np_ip_counter(ip, NP_C_NEIGH_DOUBTED);
  set_state(ip, n, NP_NEIGH_PROBE);
  ask(ip, n, now_ns);
}

void np_ip_confirm(struct np_ip *ip, const struct np_path *path, uint64_t now_ns) {
  if (path->link_len == 0 || path->generation != ip->generation) return;
  np_neigh_confirm(ip, &ip->neigh[path->neigh], now_ns);
}
