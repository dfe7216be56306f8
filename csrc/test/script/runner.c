/* np-script: runs packet scripts against csrc/tcp. README.md describes the language. */
#include "script.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int run_file(const char *path, bool v6, bool trace) {
  FILE *f = fopen(path, "r");
  if (!f) {
    perror(path);
    return 1;
  }
  struct script *s = script_new(path, v6, trace);
  char line[512];
  int rc = 0;
  while (rc == 0 && !s->skip && fgets(line, sizeof line, f)) {
    s->line++;
    rc = script_line(s, line);
  }
  if (rc == 0 && !s->skip) rc = script_end(s);
  fclose(f);
  script_free(s);
  return rc;
}

int main(int argc, char **argv) {
  bool trace = false;
  int ran = 0;
  int failed = 0;
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "-t") == 0) {
      trace = true;
      continue;
    }
    for (int v6 = 0; v6 < 2; v6++) {
      ran++;
      failed += run_file(argv[i], v6 != 0, trace) != 0;
    }
  }
  if (ran == 0) {
    fprintf(stderr, "usage: np-script [-t] FILE...   (-t prints each segment)\n");
    return 2;
  }
  printf("np-script: %d passed, %d failed\n", ran - failed, failed);
  return failed != 0;
}
