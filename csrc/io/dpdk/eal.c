/* Starting DPDK's environment (EAL), once in a process. */
#include <errno.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_log.h>
#include <rte_memzone.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "io/dpdk/internal.h"

#define ZONE_NAME "np_dpdk"
#define HUGE_FREE_MIN 16u /* pages of 2 MiB that are worth starting with: rings and driver state */
#define MEMIF_NOISE "mp action" /* memif complains of it each time: we have no second DPDK process */
#define NO_HUGE_MIB "256"  /* without huge pages EAL takes its memory at once; untouched it costs nothing */

struct np_dpdk_process *np_dpdk_process(void) {
  const struct rte_memzone *zone = rte_memzone_lookup(ZONE_NAME);
  if (zone == NULL) return NULL;
  struct np_dpdk_process *p;
  memcpy(&p, zone->addr, sizeof p);
  return p;
}

void np_dpdk_said_clear(void) {
  struct np_dpdk_process *p = np_dpdk_process();
  if (p == NULL) return;
  pthread_mutex_lock(&p->said_lock);
  p->said[0] = '\0';
  pthread_mutex_unlock(&p->said_lock);
}

void np_dpdk_explain(struct np_err_detail *detail, int rc, const char *format, ...) {
  if (detail == NULL) return;
  detail->sys = rc < 0 ? -rc : 0;
  va_list ap;
  va_start(ap, format);
  int n = vsnprintf(detail->text, sizeof detail->text, format, ap);
  va_end(ap);
  if (n < 0) return;
  size_t at = np_min_u32((uint32_t)n, sizeof detail->text - 1);
  if (rc < 0) {
    n = snprintf(detail->text + at, sizeof detail->text - at, ": %s", rte_strerror(-rc));
    if (n > 0) at = np_min_u32((uint32_t)at + (uint32_t)n, sizeof detail->text - 1);
  }
  struct np_dpdk_process *p = np_dpdk_process();
  if (rc >= 0 || p == NULL) return;
  pthread_mutex_lock(&p->said_lock);
  if (p->said[0] != '\0') snprintf(detail->text + at, sizeof detail->text - at, " (%s)", p->said);
  pthread_mutex_unlock(&p->said_lock);
}

/* DPDK's log: warnings and errors only (see args). Its first line in a call is what an error of ours quotes,
 * for the later ones only say that something failed; nothing is printed, because who logs is for the control plane to say. */
static ssize_t log_write(void *cookie, const char *text, size_t bytes) {
  struct np_dpdk_process *p = cookie;
  size_t n = bytes;
  while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' ')) n--;
  if (n == 0) return (ssize_t)bytes;
  pthread_mutex_lock(&p->said_lock);
  if (p->said[0] == '\0' && memmem(text, bytes, MEMIF_NOISE, sizeof MEMIF_NOISE - 1) == NULL) {
    snprintf(p->said, sizeof p->said, "%.*s", (int)n, text);
    for (char *c = p->said; *c != '\0'; c++) {
      if ((unsigned char)*c < ' ') *c = ' ';
    }
  }
  pthread_mutex_unlock(&p->said_lock);
  return (ssize_t)bytes;
}

/* Free huge pages, in 2 MiB. */
static uint64_t huge_free(void) {
  const struct {
    const char *path;
    uint64_t weight;
  } sizes[] = {
      {"/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", 1},
      {"/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages", 512},
  };
  uint64_t sum = 0;
  for (size_t i = 0; i < NP_COUNT_OF(sizes); i++) {
    FILE *f = fopen(sizes[i].path, "re");
    unsigned long long n = 0;
    if (f == NULL) continue;
    if (fscanf(f, "%llu", &n) == 1) sum += n * sizes[i].weight;
    fclose(f);
  }
  return sum;
}

struct start {
  char *argv[20];
  int argc;
  char cpus[1024];
  char prefix[32];
  char allow[64];
  struct np_dpdk_process *process;
  int rc; /* negative errno */
};

static void arg(struct start *s, const char *text) {
  np_assert(s->argc + 1 < (int)NP_COUNT_OF(s->argv));
  s->argv[s->argc++] = (char *)(uintptr_t)text; /* EAL changes none of them */
}

/* EAL's own threads go to the CPUs of its one lcore, and where our caller's thread may run otherwise: both are
 * the control CPUs, so that none of them lands on a poll core. */
static void args(struct start *s, const cpu_set_t *control, const char *device) {
  size_t at = (size_t)snprintf(s->cpus, sizeof s->cpus, "--lcores=0@(");
  const char *comma = "";
  for (int cpu = 0; cpu < CPU_SETSIZE && at + 8 < sizeof s->cpus; cpu++) {
    if (!CPU_ISSET((unsigned)cpu, control)) continue;
    at += (size_t)snprintf(s->cpus + at, sizeof s->cpus - at, "%s%d", comma, cpu);
    comma = ",";
  }
  snprintf(s->cpus + at, sizeof s->cpus - at, ")");
  snprintf(s->prefix, sizeof s->prefix, "--file-prefix=np-%ld", (long)getpid());
  arg(s, "np");
  arg(s, s->cpus);
  arg(s, s->prefix);
  arg(s, "--no-telemetry");
  arg(s, "--log-level=warning");
  /* An allow list, so that nothing is probed that nobody asked for: a NIC that is bound to vfio-pci for somebody
   * else stays his. The first device is on it because it decides the mode of addresses; one that does not
   * exist stands for none. */
  snprintf(s->allow, sizeof s->allow, "--allow=%.40s", strncmp(device, "net_", 4) == 0 ? "ffff:ff:1f.7" : device);
  arg(s, s->allow);
  if (huge_free() >= HUGE_FREE_MIN) {
    arg(s, "--in-memory");
    arg(s, "--single-file-segments"); /* memif with zero-copy asks for it */
  } else {
    arg(s, "--no-huge");
    arg(s, "--no-shconf");
    arg(s, "-m");
    arg(s, NO_HUGE_MIB);
  }
}

static int reserve(struct np_dpdk_process *p) {
  const struct rte_memzone *zone = rte_memzone_reserve(ZONE_NAME, sizeof p, SOCKET_ID_ANY, 0);
  if (zone == NULL) return -rte_errno;
  memcpy(zone->addr, &p, sizeof p);
  int rc = np_dpdk_ops_register();
  return rc < 0 ? rc : 0;
}

static void *run(void *argument) {
  struct start *s = argument;
  rte_errno = 0;
  s->rc = rte_eal_init(s->argc, s->argv) < 0 ? -(rte_errno != 0 ? rte_errno : EIO) : reserve(s->process);
  return NULL;
}

/* On a thread of its own: EAL pins its caller for good. All signals are blocked there and so on the threads that
 * it makes: the process's handlers know nothing of them. */
static int run_apart(struct start *s, const cpu_set_t *control) {
  pthread_attr_t attr;
  sigset_t all;
  sigset_t before;
  pthread_t thread;
  sigfillset(&all);
  int rc = pthread_attr_init(&attr);
  if (rc != 0) return -rc;
  rc = pthread_attr_setaffinity_np(&attr, sizeof *control, control);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  if (rc == 0) rc = pthread_create(&thread, &attr, run, s);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attr);
  if (rc != 0) return -rc;
  pthread_join(thread, NULL);
  return s->rc;
}

static void explain_start(struct np_err_detail *detail, int rc, const struct np_dpdk_process *p) {
  np_dpdk_explain(detail, 0, "start DPDK: %s%s%s%s", rte_strerror(-rc), p->said[0] != '\0' ? " (" : "", p->said,
                  p->said[0] != '\0' ? ")" : "");
  if (detail != NULL) detail->sys = -rc;
}

enum np_err np_dpdk_start(const cpu_set_t *control, const char *device, struct np_err_detail *detail) {
  if (np_dpdk_process() != NULL) return NP_ERR_OK;
  /* for ever, and only DPDK's memory points at it: none of the heap's */
  void *mem = mmap(NULL, sizeof(struct np_dpdk_process), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mem == MAP_FAILED) return NP_ERR_NOMEM;
  struct start s = {.process = mem};
  pthread_mutex_init(&s.process->lock, NULL);
  pthread_mutex_init(&s.process->said_lock, NULL);
  const cookie_io_functions_t io = {.write = log_write};
  FILE *log = fopencookie(s.process, "w", io);
  if (log == NULL) {
    np_dpdk_explain(detail, -errno, "start DPDK");
    munmap(mem, sizeof(struct np_dpdk_process));
    return NP_ERR_SYS;
  }
  setvbuf(log, NULL, _IOLBF, 1024);
  rte_openlog_stream(log); /* both live as long as the process: DPDK can't be ended */
  args(&s, control, device);
  int rc = run_apart(&s, control);
  if (rc == 0) {
    (void)rmdir(rte_eal_get_runtime_dir()); /* made, and used by nothing that we asked for */
    return NP_ERR_OK;
  }
  explain_start(detail, rc, s.process);
  return rc == -EALREADY ? NP_ERR_STATE : NP_ERR_SYS;
}
