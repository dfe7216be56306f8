/* Multicast listener reports (RFC 3810) of a host that joins nothing but the
 * solicited-node groups of its addresses: without them a switch that snoops
 * lets no neighbor solicitation through to us. Version 2 only. Every report
 * names all groups, so one timer per interface is enough. */
#include "ip/internal.h"

#define NS_PER_MS UINT64_C(1000000)
#define ROBUSTNESS 2u                    /* RFC 3810 §9.1: times a change is told */
#define CHANGE_GAP_NS (1000 * NS_PER_MS) /* §9.11, Unsolicited Report Interval */
#define ANSWER_GAP_NS (500 * NS_PER_MS)  /* ours: whoever floods us with queries gets no more */
#define QUERY 130u
#define REPORT 143u
#define QUERY_BYTES 24u
#define HEAD_BYTES 8u
#define RECORD_BYTES 20u
#define ALERT_BYTES 8u
#define IS_EXCLUDE 2u /* §5.2.12; excluding nothing is listening to all sources */
#define TO_INCLUDE 3u
#define TO_EXCLUDE 4u

static const struct np_addr routers = {{0xff, 0x02, [15] = 0x16}}; /* RFC 3810 §5.2.14 */

/* Whether address i is the first of those that share its group, duplicates left out. */
static bool group_of(const struct np_iface *ifc, uint32_t i, struct np_addr *group) {
  const struct np_iface_addr *a = &ifc->addr[i];
  if (np_addr_is_v4(&a->addr) || a->state == NP_ADDR_DUPLICATE) return false;
  *group = np_nd_solicited_node(&a->addr);
  for (uint32_t k = 0; k < i; k++) {
    if (np_addr_is_v4(&ifc->addr[k].addr) || ifc->addr[k].state == NP_ADDR_DUPLICATE) continue;
    struct np_addr other = np_nd_solicited_node(&ifc->addr[k].addr);
    if (np_addr_eq(&other, group)) return false;
  }
  return true;
}

static void put_record(struct np_buf *buf, uint8_t type, const struct np_addr *group) {
  uint8_t *p = np_buf_append(buf, RECORD_BYTES);
  memset(p, 0, 4);
  p[0] = type;
  memcpy(p + 4, group->b, 16);
}

/* Room for the router alert (RFC 2711) and the report's head; NULL: no buffer, said again later. */
static struct np_buf *begin(struct np_ip *ip) {
  static const uint8_t alert[ALERT_BYTES] = {NP_PROTO_ICMPV6, 0, 5, 2, 0, 0, 1, 0};
  struct np_buf *buf = np_pool_get(ip->env.pool);
  if (buf == NULL) return NULL;
  memcpy(np_buf_append(buf, ALERT_BYTES), alert, ALERT_BYTES);
  uint8_t *p = np_buf_append(buf, HEAD_BYTES);
  memset(p, 0, HEAD_BYTES);
  p[0] = REPORT;
  return buf;
}

static void send(struct np_ip *ip, struct np_iface *ifc, struct np_buf *buf) {
  struct np_addr src = {{0}}; /* RFC 3590 §4: none, while the link-local address is tentative */
  for (uint32_t i = 0; i < ifc->addr_count; i++) {
    if (np_addr_is_usable(&ifc->addr[i]) && np_addr_is_link_local(&ifc->addr[i].addr)) src = ifc->addr[i].addr;
  }
  uint8_t *p = np_buf_data(buf) + ALERT_BYTES;
  uint32_t len = buf->len - ALERT_BYTES;
  np_store_be16(p + 6, (uint16_t)((len - HEAD_BYTES) / RECORD_BYTES));
  uint64_t sum = np_cksum_pseudo(&src, &routers, NP_PROTO_ICMPV6, len);
  np_store_16(p + NP_ICMP_CKSUM, np_cksum_finish(np_cksum_add(sum, p, len)));
  struct np_mac mac = {{0x33, 0x33, 0, 0, 0, 0x16}};
  ++*np_ip_counter(ip, NP_C_MLD_TX);
  np_ip_send_to(ip, ifc, buf, &mac, &src, &routers, NP_IP6_HOP, 0, 1);
}

static void report(struct np_ip *ip, struct np_iface *ifc, uint8_t type) {
  if (!ifc->up || ip->config.silent) return;
  struct np_buf *buf = begin(ip);
  if (buf == NULL) return;
  for (uint32_t i = 0; i < ifc->addr_count; i++) { /* bound: NP_IFACE_ADDR_MAX records fit the smallest MTU */
    struct np_addr group;
    if (group_of(ifc, i, &group)) put_record(buf, type, &group);
  }
  if (buf->len == ALERT_BYTES + HEAD_BYTES) {
    np_buf_put(buf);
    return;
  }
  send(ip, ifc, buf);
}

void np_mld_joined(struct np_iface *ifc, uint64_t now_ns) {
  if (!ifc->mld.on) return;
  ifc->mld.changes = ROBUSTNESS;
  ifc->mld.due_ns = now_ns + 1; /* from the timer, with whatever else comes up in this turn */
}

void np_mld_left(struct np_ip *ip, struct np_iface *ifc, const struct np_addr *addr) {
  if (!ifc->mld.on || !ifc->up || ip->config.silent || np_addr_is_v4(addr)) return;
  struct np_addr group = np_nd_solicited_node(addr);
  for (uint32_t i = 0; i < ifc->addr_count; i++) {
    struct np_addr other;
    if (group_of(ifc, i, &other) && np_addr_eq(&other, &group)) return; /* another address needs it */
  }
  struct np_buf *buf = begin(ip);
  if (buf == NULL) return; /* the querier finds out */
  put_record(buf, TO_INCLUDE, &group);
  send(ip, ifc, buf);
}

void np_mld_stop(struct np_iface *ifc) {
  ifc->mld.due_ns = 0;
  ifc->mld.changes = 0;
}

void np_mld_timer(struct np_ip *ip, struct np_iface *ifc, uint64_t now_ns) {
  struct np_mld *m = &ifc->mld;
  if (m->due_ns == 0 || m->due_ns > now_ns) return;
  m->due_ns = 0;
  m->sent_ns = now_ns;
  if (m->changes == 0) {
    report(ip, ifc, IS_EXCLUDE);
    return;
  }
  report(ip, ifc, TO_EXCLUDE);
  m->changes--;
  if (m->changes > 0) m->due_ns = now_ns + CHANGE_GAP_NS;
}

/* RFC 3810 §5.1.3: milliseconds, or a small floating-point number of them. */
static uint64_t response_ns(uint32_t code) {
  uint32_t ms = code < 0x8000 ? code : (0x1000 | (code & 0x0fff)) << ((code >> 12 & 7) + 3);
  return ms * NS_PER_MS;
}

enum np_drop np_mld_input(struct np_ip *ip, struct np_iface *ifc, struct np_pkt *pkt, uint64_t now_ns) {
  const uint8_t *p = np_buf_cdata(pkt->buf) + pkt->l4_off;
  struct np_mld *m = &ifc->mld;
  if (p[0] != QUERY) return NP_DROP_ICMP_TYPE; /* others' reports */
  /* RFC 3810 §5.1.14 */
  if (pkt->ttl != 1 || pkt->l4_len < QUERY_BYTES || !np_addr_is_link_local(&pkt->flow.remote)) return NP_DROP_ND_MALFORMED;
  if (!m->on) return NP_DROP_ND_IGNORED;
  uint64_t within_ns = response_ns(np_load_be16(p + 4));
  uint64_t due_ns = now_ns + 1 + np_rng_u64(&ip->rng) % np_max_u64(within_ns, 1);
  due_ns = np_max_u64(due_ns, m->sent_ns + ANSWER_GAP_NS);
  /* An answer that is on its way already, or the change that is still being told, says it as well. */
  if (m->due_ns == 0 || due_ns < m->due_ns) {
    m->due_ns = due_ns;
    np_iface_arm(ip, ifc);
  }
  ++*np_ip_counter(ip, NP_C_MLD_RX);
  np_buf_put(pkt->buf);
  return NP_WIRE_OK;
}
