/* np-sim: runs simulated seeds. See README.md. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
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
  bool shrink;
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

/* Every step-th seed from first on. */
static bool range(const struct cli *cli, struct sim *s, uint64_t first, uint64_t step) {
  struct timespec start;
  clock_gettime(CLOCK_MONOTONIC, &start);
  uint64_t ran = 0;
  struct sim_args args = cli->args;
  bool ok = true;
  for (args.seed = first; ok && (cli->count == 0 || args.seed < cli->from + cli->count); args.seed += step) {
    if (cli->seconds > 0 && seconds_since(&start) >= cli->seconds) break;
    ok = one(cli, s, &args);
    ran++;
  }
  double took = seconds_since(&start);
  printf("np-sim: %llu seeds%s up to %llu in %.1f s, %.0f a second\n", (unsigned long long)ran, ok ? " passed," : ", the last failed,",
         (unsigned long long)(args.seed - step), took, (double)ran / (took > 0 ? took : 1));
  return ok;
}

static bool jobs(const struct cli *cli, struct sim *s) {
  pid_t child[16];
  uint32_t n = cli->jobs < 16 ? cli->jobs : 16;
  if (n <= 1) return range(cli, s, cli->from, 1);
  for (uint32_t i = 0; i < n; i++) {
    fflush(stdout);
    child[i] = fork();
    if (child[i] == 0) _exit(range(cli, s, cli->from + i, n) && fflush(stdout) == 0 ? 0 : (fflush(stdout), 1));
  }
  bool ok = true;
  for (uint32_t left = n; left > 0; left--) {
    int status = 0;
    pid_t who = wait(&status);
    for (uint32_t i = 0; i < n; i++)
      if (child[i] == who) child[i] = -1;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
    if (ok)
      for (uint32_t i = 0; i < n; i++)
        if (child[i] > 0) kill(child[i], SIGTERM);
    ok = false;
  }
  return ok;
}

static bool parse(struct cli *cli, int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    const char *o = argv[i];
    if (strcmp(o, "--shrink") == 0) {
      cli->shrink = true;
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
