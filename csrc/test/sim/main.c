/* np-sim: runs simulated seeds. See README.md. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sim.h"

#define REPEAT_EVERY 16u /* of a list, so many a seed is run twice and must do the same */

struct cli {
  struct sim_args args;
  const char *self;
  const char *list;
  uint64_t from, count;
  double seconds;
  uint32_t jobs;
  bool shrink, keep_going;
};

#define JOBS_MAX 64u
#define FAILED_MAX 1024u /* of a job; more are counted */

/* Shared by a batch's processes; each writes its own. */
struct job {
  uint64_t next;   /* seed that it runs, or will */
  uint64_t ran;
  uint32_t failed;
  uint64_t seed[FAILED_MAX];
};

static int usage(void) {
  fprintf(stderr,
          "usage: np-sim --seed N [options] | --seeds FILE [options] | --from N [--count M] [--time S] [--jobs J] [options]\n"
          "  --seed N          one run, described\n"
          "  --seeds FILE      one seed a line\n"
          "  --from N          seeds from N on, until one fails or an end is given\n"
          "  --count M         so many\n"
          "  --time S          for so many seconds\n"
          "  --jobs J          in so many processes\n"
          "  --keep-going      not only until one fails: those that did are listed at the end\n"
          "options:\n"
          "  --without F,F     leave features out\n"
          "  --only F,F        exactly these features, whatever the seed drew (none: no feature)\n"
          "  --clients N       the first N connections only\n"
          "  --pcap FILE       with --seed: what was on the wire, as pcapng\n"
          "  --shrink          with --seed: which features and how many connections it takes to fail\n"
          "  --bytes B         with --seed: one transfer of so many bytes there and back under 1 %% loss and reordering\n"
          "features:");
  for (uint32_t f = 0; f < F_COUNT; f++) fprintf(stderr, " %s", sim_feature_name[f]);
  fprintf(stderr, "\n");
  return 2;
}

static bool parse_features(const char *text, uint32_t *mask) {
  char copy[512];
  snprintf(copy, sizeof copy, "%s", text);
  char *save = NULL;
  for (char *w = strtok_r(copy, ",", &save); w; w = strtok_r(NULL, ",", &save)) {
    uint32_t f = 0;
    while (f < F_COUNT && strcmp(sim_feature_name[f], w) != 0) f++;
    if (f == F_COUNT && strcmp(w, "none") != 0) {
      fprintf(stderr, "np-sim: no feature '%s'\n", w);
      return false;
    }
    if (f < F_COUNT) *mask |= 1u << f;
  }
  return true;
}

static void print_mask(const char *option, uint32_t mask) {
  if (mask == 0) return;
  fprintf(stderr, " %s ", option);
  const char *comma = "";
  for (uint32_t f = 0; f < F_COUNT; f++) {
    if (!(mask & 1u << f)) continue;
    fprintf(stderr, "%s%s", comma, sim_feature_name[f]);
    comma = ",";
  }
}

static void print_command(const struct cli *cli, const struct sim_args *a) {
  fprintf(stderr, "%s --seed %llu", cli->self, (unsigned long long)a->seed);
  if (a->bytes) fprintf(stderr, " --bytes %u", a->bytes);
  if (a->has_only) print_mask("--only", a->only);
  if (a->has_only && a->only == 0) fprintf(stderr, " --only none");
  print_mask("--without", a->without);
  if (a->clients) fprintf(stderr, " --clients %u", a->clients);
}

static bool one(const struct cli *cli, struct sim *s, const struct sim_args *args) {
  if (sim_run(s, args)) return true;
  fprintf(stderr, "np-sim: seed %llu at %.6f s: %s\n", (unsigned long long)args->seed, (double)s->now_ns / 1e9, s->what);
  if (args->pcap || args->bytes) return false;
  char path[512];
  snprintf(path, sizeof path, "%s-seed-%llu.pcapng", cli->self, (unsigned long long)args->seed);
  struct sim_args again = *args;
  again.pcap = path;
  again.verbose = false;
  (void)sim_run(s, &again);
  fprintf(stderr, "np-sim: packets in %s; again: ", path);
  print_command(cli, args);
  fprintf(stderr, "\n");
  return false;
}

/* Leaves out what the failure does not need. */
static int shrink(const struct cli *cli, struct sim *s) {
  struct sim_args best = cli->args;
  if (sim_run(s, &best)) {
    fprintf(stderr, "np-sim: it does not fail\n");
    return 2;
  }
  uint32_t with = s->features;
  uint32_t pairs = s->pairs;
  for (uint32_t f = 0; f < F_COUNT; f++) {
    if (!(with & 1u << f)) continue;
    struct sim_args try = best;
    try.without |= 1u << f;
    if (!sim_run(s, &try)) best = try;
  }
  for (uint32_t step = pairs / 2; step > 0;) {
    struct sim_args try = best;
    try.clients = pairs > step ? pairs - step : 0;
    if (try.clients != 0 && !sim_run(s, &try)) {
      best = try;
      pairs -= step;
    } else {
      step /= 2;
    }
  }
  (void)sim_run(s, &best);
  fprintf(stderr, "np-sim: still fails: %s\nnp-sim: it takes", s->what);
  print_mask("", s->features);
  fprintf(stderr, " and %u connections:\n", s->pairs);
  print_command(cli, &best);
  fprintf(stderr, "\n");
  return 1;
}

static bool list(const struct cli *cli, struct sim *s, unsigned *passed) {
  FILE *f = fopen(cli->list, "r");
  char line[64];
  unsigned n = 0;
  unsigned failed = 0;
  if (!f) {
    perror(cli->list);
    return false;
  }
  while (fgets(line, sizeof line, f)) {
    struct sim_args args = cli->args;
    args.seed = strtoull(line, NULL, 0);
    if (args.seed == 0) continue;
    if (!one(cli, s, &args)) {
      failed++;
      continue;
    }
    (*passed)++;
    if (n++ % REPEAT_EVERY != 0) continue;
    uint64_t hash = s->wire.hash;
    if (sim_run(s, &args) && s->wire.hash == hash) continue;
    fprintf(stderr, "np-sim: seed %llu does not do the same twice\n", (unsigned long long)args.seed);
    failed++;
  }
  fclose(f);
  printf("np-sim: %u passed, %u failed\n", *passed, failed);
  return failed == 0;
}

static double seconds_since(const struct timespec *t) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)(now.tv_sec - t->tv_sec) + (double)(now.tv_nsec - t->tv_nsec) / 1e9;
}

static void note_failed(struct job *j) {
  if (j->failed < FAILED_MAX) j->seed[j->failed] = j->next;
  j->failed++;
}

/* Every step-th seed from the job's next on. */
static void range(const struct cli *cli, struct sim *s, struct job *j, uint32_t step, const struct timespec *start) {
  struct sim_args args = cli->args;
  for (; cli->count == 0 || j->next < cli->from + cli->count; j->next += step) {
    if (cli->seconds > 0 && seconds_since(start) >= cli->seconds) return;
    args.seed = j->next;
    bool ok = one(cli, s, &args);
    j->ran++;
    if (ok) continue;
    note_failed(j);
    if (!cli->keep_going) return;
  }
}

static pid_t start_job(const struct cli *cli, struct sim *s, struct job *j, uint32_t step, const struct timespec *start) {
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0) {
    range(cli, s, j, step, start);
    _exit(0);
  }
  if (pid < 0) {
    perror("np-sim: fork");
    note_failed(j);
  }
  return pid;
}

static bool summary(const struct cli *cli, const struct job *job, uint32_t n, double took) {
  uint64_t ran = 0;
  uint64_t failed = 0;
  for (uint32_t i = 0; i < n; i++) {
    ran += job[i].ran;
    failed += job[i].failed;
  }
  printf("np-sim: %llu seeds from %llu on in %.1f s, %.0f a second: ", (unsigned long long)ran, (unsigned long long)cli->from, took,
         (double)ran / (took > 0 ? took : 1));
  if (failed == 0) printf("all passed\n");
  else printf("%llu failed:\n", (unsigned long long)failed);
  for (uint32_t i = 0; i < n; i++)
    for (uint32_t k = 0; k < job[i].failed && k < FAILED_MAX; k++) printf("%llu\n", (unsigned long long)job[i].seed[k]);
  return failed == 0;
}

/* A process for each job, as a seed may end its own: by an assertion, or a sanitizer. */
static bool jobs(const struct cli *cli, struct sim *s) {
  pid_t child[JOBS_MAX];
  uint32_t n = cli->jobs < 1 ? 1 : cli->jobs < JOBS_MAX ? cli->jobs : JOBS_MAX;
  struct timespec start;
  clock_gettime(CLOCK_MONOTONIC, &start);
  struct job *job = mmap(NULL, n * sizeof *job, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (job == MAP_FAILED) {
    perror("np-sim");
    return false;
  }
  for (uint32_t i = 0; i < n; i++) {
    job[i].next = cli->from + i;
    child[i] = start_job(cli, s, &job[i], n, &start);
  }
  bool stopping = false;
  int status = 0;
  for (pid_t who; (who = wait(&status)) > 0;) { /* bound: children, and one that dies has got on by a seed */
    uint32_t i = 0;
    while (i < n && child[i] != who) i++;
    if (i == n) continue;
    child[i] = -1;
    bool died = !stopping && (!WIFEXITED(status) || WEXITSTATUS(status) != 0);
    if (died) {
      fprintf(stderr, "np-sim: seed %llu ended its process (status %#x)\n", (unsigned long long)job[i].next, (unsigned)status);
      job[i].ran++;
      note_failed(&job[i]);
      job[i].next += n;
    }
    if (died && cli->keep_going) child[i] = start_job(cli, s, &job[i], n, &start);
    if (job[i].failed == 0 || cli->keep_going || stopping) continue;
    stopping = true;
    for (uint32_t k = 0; k < n; k++)
      if (child[k] > 0) kill(child[k], SIGTERM);
  }
  bool ok = summary(cli, job, n, seconds_since(&start));
  munmap(job, n * sizeof *job);
  return ok;
}

static bool parse(struct cli *cli, int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    const char *o = argv[i];
    if (strcmp(o, "--shrink") == 0) {
      cli->shrink = true;
      continue;
    }
    if (strcmp(o, "--keep-going") == 0) {
      cli->keep_going = true;
      continue;
    }
    if (i + 1 >= argc) return false;
    const char *v = argv[++i];
    if (strcmp(o, "--seed") == 0) cli->args.seed = strtoull(v, NULL, 0);
    else if (strcmp(o, "--bytes") == 0) cli->args.bytes = (uint32_t)strtoull(v, NULL, 0);
    else if (strcmp(o, "--pcap") == 0) cli->args.pcap = v;
    else if (strcmp(o, "--seeds") == 0) cli->list = v;
    else if (strcmp(o, "--from") == 0) cli->from = strtoull(v, NULL, 0);
    else if (strcmp(o, "--count") == 0) cli->count = strtoull(v, NULL, 0);
    else if (strcmp(o, "--time") == 0) cli->seconds = strtod(v, NULL);
    else if (strcmp(o, "--jobs") == 0) cli->jobs = (uint32_t)strtoull(v, NULL, 0);
    else if (strcmp(o, "--clients") == 0) cli->args.clients = (uint32_t)strtoull(v, NULL, 0);
    else if (strcmp(o, "--without") == 0) {
      if (!parse_features(v, &cli->args.without)) return false;
    } else if (strcmp(o, "--only") == 0) {
      cli->args.has_only = true;
      if (!parse_features(v, &cli->args.only)) return false;
    } else return false;
  }
  return (cli->args.seed != 0) + (cli->list != NULL) + (cli->from != 0) == 1;
}

int main(int argc, char **argv) {
  struct cli cli = {.self = argv[0]};
  if (!parse(&cli, argc, argv)) return usage();
  struct sim *s = malloc(sizeof *s);
  if (!s) return 1;
  bool ok;
  unsigned passed = 0;
  if (cli.list) ok = list(&cli, s, &passed);
  else if (cli.from) ok = jobs(&cli, s);
  else if (cli.shrink) ok = shrink(&cli, s) == 0;
  else {
    cli.args.verbose = true;
    ok = one(&cli, s, &cli.args);
    printf("np-sim: %s\n", ok ? "passed" : "failed");
  }
  free(s);
  return ok ? 0 : 1;
}
