/* np-sim: runs simulated seeds. See README.md. */
#include <stdlib.h>
#include <string.h>

#include "sim.h"

static int usage(void) {
  fprintf(stderr,
          "usage: np-sim --seed N [--bytes B] [--pcap FILE] | --seeds FILE | --from N --count M\n"
          "  --seed N     one run, described\n"
          "  --bytes B    with --seed: one transfer of so many bytes there and back under 1 %% loss and reordering\n"
          "  --pcap FILE  with --seed: what was on the wire, as pcapng\n"
          "  --seeds FILE one seed a line\n"
          "  --from N --count M  a range\n");
  return 2;
}

static bool one(struct sim *s, uint64_t seed, uint32_t bytes, const char *pcap, bool verbose, const char *self) {
  if (sim_run(s, seed, bytes, pcap, verbose)) return true;
  fprintf(stderr, "np-sim: seed %llu: %s\n", (unsigned long long)seed, s->what);
  if (!pcap && !bytes) {
    char path[512];
    snprintf(path, sizeof path, "%s-seed-%llu.pcapng", self, (unsigned long long)seed);
    (void)sim_run(s, seed, 0, path, false);
    fprintf(stderr, "np-sim: packets in %s; again: make sim SEED=%llu\n", path, (unsigned long long)seed);
  }
  return false;
}

int main(int argc, char **argv) {
  const char *pcap = NULL;
  const char *list = NULL;
  uint64_t seed = 0;
  uint32_t bytes = 0;
  uint64_t from = 1;
  uint64_t count = 0;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (strcmp(argv[i], "--seed") == 0) seed = strtoull(argv[i + 1], NULL, 0);
    else if (strcmp(argv[i], "--bytes") == 0) bytes = (uint32_t)strtoull(argv[i + 1], NULL, 0);
    else if (strcmp(argv[i], "--pcap") == 0) pcap = argv[i + 1];
    else if (strcmp(argv[i], "--seeds") == 0) list = argv[i + 1];
    else if (strcmp(argv[i], "--from") == 0) from = strtoull(argv[i + 1], NULL, 0);
    else if (strcmp(argv[i], "--count") == 0) count = strtoull(argv[i + 1], NULL, 0);
    else return usage();
  }
  struct sim *s = malloc(sizeof *s);
  if (!s) return 1;
  unsigned passed = 0;
  unsigned failed = 0;
  if (seed) {
    one(s, seed, bytes, pcap, true, argv[0]) ? passed++ : failed++;
  } else if (list) {
    FILE *f = fopen(list, "r");
    char line[64];
    if (!f) {
      perror(list);
      return 1;
    }
    while (fgets(line, sizeof line, f))
      if (strtoull(line, NULL, 0)) one(s, strtoull(line, NULL, 0), 0, NULL, false, argv[0]) ? passed++ : failed++;
    fclose(f);
  } else if (count) {
    for (uint64_t i = 0; i < count; i++) one(s, from + i, 0, NULL, false, argv[0]) ? passed++ : failed++;
  } else {
    return usage();
  }
  free(s);
  printf("np-sim: %u passed, %u failed\n", passed, failed);
  return failed != 0;
}
