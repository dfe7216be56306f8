/* The connection manager: ids and their events. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/addr.h"
#include "io/rdma/lib.h"

#define READS_MAX 16u /* one-sided reads in flight per connection; a device may take fewer */
#define RETRIES 6u    /* with the manager's timeouts some seconds; 7 is without end to some devices, soft-RoCE among them */

enum np_err np_rdma_ctl_open(struct np_rdma_ctl **out, int32_t *out_fd, struct np_err_detail *detail) {
  *out = NULL;
  *out_fd = -1;
  struct np_rdma_ctl *ctl = calloc(1, sizeof *ctl);
  if (ctl == NULL) {
    np_rdma_explain(detail, 0, "open RDMA: out of memory");
    return NP_ERR_NOMEM;
  }
  enum np_err err = np_rdma_lib_load(&ctl->lib, detail);
  if (err != NP_ERR_OK) {
    free(ctl);
    return err;
  }
  ctl->channel = ctl->lib.rdma_create_event_channel();
  if (ctl->channel == NULL) {
    int sys = errno;
    err = np_rdma_err_of(sys);
    np_rdma_explain(detail, sys, "open RDMA's connection manager (kernel module rdma_ucm, /dev/infiniband/rdma_cm)");
    free(ctl);
    return err;
  }
  int flags = fcntl(ctl->channel->fd, F_GETFL);
  if (flags < 0 || fcntl(ctl->channel->fd, F_SETFL, flags | O_NONBLOCK) != 0) {
    np_rdma_explain(detail, errno, "make RDMA's event channel nonblocking");
    np_rdma_ctl_close(ctl);
    return NP_ERR_SYS;
  }
  *out = ctl;
  *out_fd = ctl->channel->fd;
  return NP_ERR_OK;
}

void np_rdma_ctl_close(struct np_rdma_ctl *ctl) {
  if (ctl == NULL) return;
  if (ctl->channel != NULL) ctl->lib.rdma_destroy_event_channel(ctl->channel);
  free(ctl);
}

/* ---- addresses ---- */

static void to_sockaddr(const uint8_t addr[16], uint16_t port, struct sockaddr_storage *out) {
  struct np_addr a;
  memset(out, 0, sizeof *out);
  memcpy(a.b, addr, sizeof a.b);
  if (np_addr_is_v4(&a)) {
    struct sockaddr_in *in = (struct sockaddr_in *)out;
    in->sin_family = AF_INET;
    in->sin_port = htons(port);
    memcpy(&in->sin_addr, a.b + 12, 4);
    return;
  }
  struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)out;
  in6->sin6_family = AF_INET6;
  in6->sin6_port = htons(port);
  memcpy(&in6->sin6_addr, a.b, 16);
}

static void from_sockaddr(const struct sockaddr *sa, uint8_t addr[16], uint16_t *port) {
  static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  memset(addr, 0, 16);
  *port = 0;
  if (sa->sa_family == AF_INET) {
    const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)sa;
    memcpy(addr, mapped, sizeof mapped);
    memcpy(addr + 12, &in->sin_addr, 4);
    *port = ntohs(in->sin_port);
  } else if (sa->sa_family == AF_INET6) {
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)sa;
    memcpy(addr, &in6->sin6_addr, 16);
    *port = ntohs(in6->sin6_port);
  }
}

static bool is_zero(const uint8_t addr[16]) {
  static const uint8_t none[16];
  return memcmp(addr, none, sizeof none) == 0;
}

void np_rdma_id_addr(const struct np_rdma_id *id, struct np_rdma_addr *out) {
  from_sockaddr(&id->cm->route.addr.src_addr, out->local, &out->local_port);
  from_sockaddr(&id->cm->route.addr.dst_addr, out->remote, &out->remote_port);
}

const char *np_rdma_id_device(const struct np_rdma_id *id) {
  if (id->cm->verbs == NULL) return "";
  const char *name = id->ctl->lib.ibv_get_device_name(id->cm->verbs->device);
  return name != NULL ? name : "";
}

/* ---- ids ---- */

static struct np_rdma_id *new_id(struct np_rdma_ctl *ctl, uint64_t owner, struct np_err_detail *detail, enum np_err *err) {
  struct np_rdma_id *id = calloc(1, sizeof *id);
  if (id == NULL) {
    np_rdma_explain(detail, 0, "make an RDMA id: out of memory");
    *err = NP_ERR_NOMEM;
    return NULL;
  }
  id->ctl = ctl;
  id->owner = owner;
  if (ctl->lib.rdma_create_id(ctl->channel, &id->cm, id, RDMA_PS_TCP) != 0) {
    *err = np_rdma_err_of(errno);
    np_rdma_explain(detail, errno, "make an RDMA id");
    free(id);
    return NULL;
  }
  return id;
}

void np_rdma_id_free(struct np_rdma_id *id) {
  if (id == NULL) return;
  id->ctl->lib.rdma_destroy_id(id->cm); /* waits for nothing: events are acknowledged as they are read */
  free(id);
}

void np_rdma_id_own(struct np_rdma_id *id, uint64_t owner) { id->owner = owner; }

static enum np_err failed(struct np_err_detail *detail, int sys, const char *action) {
  np_rdma_explain(detail, sys, "%s", action);
  return np_rdma_err_of(sys);
}

enum np_err np_rdma_id_listen(struct np_rdma_ctl *ctl, uint64_t owner, const struct np_rdma_addr *addr, uint32_t backlog,
                              struct np_rdma_id **out, struct np_err_detail *detail) {
  enum np_err err = NP_ERR_OK;
  struct np_rdma_id *id = new_id(ctl, owner, detail, &err);
  if (id == NULL) return err;
  struct sockaddr_storage sa;
  to_sockaddr(addr->local, addr->local_port, &sa);
  int one = 1;
  (void)ctl->lib.rdma_set_option(id->cm, RDMA_OPTION_ID, RDMA_OPTION_ID_REUSEADDR, &one, sizeof one); /* a wish */
  if (ctl->lib.rdma_bind_addr(id->cm, (struct sockaddr *)&sa) != 0) {
    err = failed(detail, errno, "bind an RDMA listener");
  } else if (ctl->lib.rdma_listen(id->cm, (int)backlog) != 0) {
    err = failed(detail, errno, "listen for RDMA connections");
  }
  if (err != NP_ERR_OK) {
    np_rdma_id_free(id);
    return err;
  }
  *out = id;
  return NP_ERR_OK;
}

enum np_err np_rdma_id_resolve(struct np_rdma_ctl *ctl, uint64_t owner, const struct np_rdma_addr *addr,
                               uint32_t timeout_ms, struct np_rdma_id **out, struct np_err_detail *detail) {
  enum np_err err = NP_ERR_OK;
  struct np_rdma_id *id = new_id(ctl, owner, detail, &err);
  if (id == NULL) return err;
  struct sockaddr_storage local;
  struct sockaddr_storage remote;
  to_sockaddr(addr->local, addr->local_port, &local);
  to_sockaddr(addr->remote, addr->remote_port, &remote);
  bool bound = !is_zero(addr->local);
  if (ctl->lib.rdma_resolve_addr(id->cm, bound ? (struct sockaddr *)&local : NULL, (struct sockaddr *)&remote,
                                 (int)timeout_ms) != 0) {
    err = failed(detail, errno, "resolve an RDMA address");
    np_rdma_id_free(id);
    return err;
  }
  *out = id;
  return NP_ERR_OK;
}

enum np_err np_rdma_id_route(struct np_rdma_id *id, uint32_t timeout_ms, struct np_err_detail *detail) {
  if (id->ctl->lib.rdma_resolve_route(id->cm, (int)timeout_ms) == 0) return NP_ERR_OK;
  return failed(detail, errno, "resolve an RDMA route");
}

/* Reads in flight that the device allows either way. */
static uint8_t reads_of(const struct np_rdma_id *id) {
  struct ibv_device_attr attr;
  if (id->cm->verbs == NULL || id->ctl->lib.ibv_query_device(id->cm->verbs, &attr) != 0) return 1;
  uint32_t n = READS_MAX;
  if (attr.max_qp_rd_atom > 0 && (uint32_t)attr.max_qp_rd_atom < n) n = (uint32_t)attr.max_qp_rd_atom;
  if (attr.max_qp_init_rd_atom > 0 && (uint32_t)attr.max_qp_init_rd_atom < n) n = (uint32_t)attr.max_qp_init_rd_atom;
  return (uint8_t)n;
}

static struct rdma_conn_param param_of(const struct np_rdma_id *id, const uint8_t *hello) {
  uint8_t reads = reads_of(id);
  return (struct rdma_conn_param){
      .private_data = hello,
      .private_data_len = NP_HELLO_BYTES,
      .responder_resources = reads,
      .initiator_depth = reads,
      .flow_control = 1,
      .retry_count = RETRIES,
      .rnr_retry_count = RETRIES,
  };
}

enum np_err np_rdma_id_connect(struct np_rdma_id *id, const struct np_hello *own, struct np_err_detail *detail) {
  uint8_t hello[NP_HELLO_BYTES];
  np_hello_put(own, hello);
  struct rdma_conn_param p = param_of(id, hello);
  if (id->ctl->lib.rdma_connect(id->cm, &p) == 0) return NP_ERR_OK;
  return failed(detail, errno, "connect by RDMA");
}

enum np_err np_rdma_id_accept(struct np_rdma_id *id, const struct np_hello *own, struct np_err_detail *detail) {
  uint8_t hello[NP_HELLO_BYTES];
  np_hello_put(own, hello);
  struct rdma_conn_param p = param_of(id, hello);
  if (id->ctl->lib.rdma_accept(id->cm, &p) == 0) return NP_ERR_OK;
  return failed(detail, errno, "accept an RDMA connection");
}

void np_rdma_id_reject(struct np_rdma_id *id) { (void)id->ctl->lib.rdma_reject(id->cm, NULL, 0); }
void np_rdma_id_disconnect(struct np_rdma_id *id) { (void)id->ctl->lib.rdma_disconnect(id->cm); }

/* ---- events ---- */

static enum np_err err_of_status(int status) { return np_rdma_err_of(status < 0 ? -status : status); }

static void hello_of(const struct rdma_cm_event *ev, struct np_rdma_cm_event *out) {
  out->err = np_hello_get(ev->param.conn.private_data, ev->param.conn.private_data_len, &out->hello);
  out->has_hello = out->err == NP_ERR_OK;
}

/* A request comes with an id that the library made; it is given a frame of its own. */
static void request_of(struct np_rdma_ctl *ctl, const struct rdma_cm_event *ev, struct np_rdma_cm_event *out) {
  struct np_rdma_id *id = calloc(1, sizeof *id);
  if (id == NULL) {
    (void)ctl->lib.rdma_reject(ev->id, NULL, 0);
    return; /* destroyed by the caller, once the event is acknowledged */
  }
  *id = (struct np_rdma_id){.ctl = ctl, .cm = ev->id};
  ev->id->context = id;
  out->request = id;
  hello_of(ev, out);
}

static void translate(struct np_rdma_ctl *ctl, const struct rdma_cm_event *ev, struct np_rdma_cm_event *out) {
  out->arg = ev->status;
  switch (ev->event) {
    case RDMA_CM_EVENT_ADDR_RESOLVED: out->op = NP_RDMA_EV_ADDRESS; return;
    case RDMA_CM_EVENT_ROUTE_RESOLVED: out->op = NP_RDMA_EV_ROUTE; return;
    case RDMA_CM_EVENT_ADDR_ERROR:
    case RDMA_CM_EVENT_ROUTE_ERROR:
      out->op = NP_RDMA_EV_FAILED;
      out->err = err_of_status(ev->status);
      return;
    case RDMA_CM_EVENT_UNREACHABLE:
    case RDMA_CM_EVENT_CONNECT_ERROR:
      out->op = NP_RDMA_EV_FAILED;
      out->err = ev->event == RDMA_CM_EVENT_UNREACHABLE ? NP_ERR_TIMEDOUT : err_of_status(ev->status);
      return;
    case RDMA_CM_EVENT_REJECTED:
      out->op = NP_RDMA_EV_REFUSED;
      out->err = NP_ERR_REFUSED;
      return;
    case RDMA_CM_EVENT_CONNECT_REQUEST:
      out->op = NP_RDMA_EV_REQUEST;
      request_of(ctl, ev, out);
      return;
    case RDMA_CM_EVENT_ESTABLISHED:
      out->op = NP_RDMA_EV_ESTABLISHED;
      if (ev->param.conn.private_data_len > 0 && ev->param.conn.private_data != NULL) hello_of(ev, out);
      return;
    case RDMA_CM_EVENT_DISCONNECTED: out->op = NP_RDMA_EV_DISCONNECTED; return;
    case RDMA_CM_EVENT_DEVICE_REMOVAL: out->op = NP_RDMA_EV_DEVICE; return;
    case RDMA_CM_EVENT_CONNECT_RESPONSE: /* only ids without a queue pair get it */
    case RDMA_CM_EVENT_MULTICAST_JOIN:
    case RDMA_CM_EVENT_MULTICAST_ERROR:
    case RDMA_CM_EVENT_ADDR_CHANGE: /* bonding moved an address: the connection's packets follow or time out */
    case RDMA_CM_EVENT_TIMEWAIT_EXIT: break;
  }
  out->op = NP_RDMA_EV_NONE;
}

enum np_err np_rdma_cm_next(struct np_rdma_ctl *ctl, struct np_rdma_cm_event *out, struct np_err_detail *detail) {
  memset(out, 0, sizeof *out);
  struct rdma_cm_event *ev = NULL;
  if (ctl->lib.rdma_get_cm_event(ctl->channel, &ev) != 0) {
    if (errno == EAGAIN || errno == EINTR) return NP_ERR_NOTFOUND;
    np_rdma_explain(detail, errno, "read RDMA's connection manager");
    return NP_ERR_SYS;
  }
  bool request = ev->event == RDMA_CM_EVENT_CONNECT_REQUEST;
  const struct np_rdma_id *id = request ? ev->listen_id->context : ev->id->context;
  struct rdma_cm_id *lost = ev->id;
  out->owner = id->owner;
  translate(ctl, ev, out);
  (void)ctl->lib.rdma_ack_cm_event(ev);
  if (request && out->request == NULL) {
    ctl->lib.rdma_destroy_id(lost);
    out->op = NP_RDMA_EV_NONE;
  }
  return NP_ERR_OK;
}
