/* Reads files of vectors: blocks of `name = value` lines, separated by empty
 * lines; a line that starts with # is a comment. */
#ifndef NP_TEST_VECTORS_H
#define NP_TEST_VECTORS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VECTOR_FIELDS 64

struct vector_block {
  char *name[VECTOR_FIELDS];
  char *value[VECTOR_FIELDS];
  int count;
  int line; /* of the block's first field */
};

struct vector_file {
  char *text;
  char *next;
  int line;
};

static inline bool vector_open(struct vector_file *f, const char *path) {
  memset(f, 0, sizeof *f);
  FILE *in = fopen(path, "rb");
  if (in == NULL) return false;
  size_t size = 0, cap = 1 << 16;
  f->text = malloc(cap);
  for (size_t n; f->text != NULL && (n = fread(f->text + size, 1, cap - size - 1, in)) > 0;) {
    size += n;
    if (cap - size < 2) f->text = realloc(f->text, cap *= 2);
  }
  fclose(in);
  if (f->text == NULL) return false;
  f->text[size] = 0;
  f->next = f->text;
  return true;
}

static inline void vector_close(struct vector_file *f) { free(f->text); }

/* Return: false at the end of the file. Values live as long as the file. */
static inline bool vector_next(struct vector_file *f, struct vector_block *b) {
  b->count = 0;
  while (*f->next != 0) {
    char *line = f->next;
    size_t n = strcspn(line, "\n");
    f->next = line[n] == 0 ? line + n : line + n + 1;
    line[n] = 0;
    f->line++;
    if (line[0] == '#') continue;
    if (line[0] == 0) {
      if (b->count > 0) return true;
      continue;
    }
    char *eq = strchr(line, '=');
    if (eq == NULL || b->count == VECTOR_FIELDS) {
      fprintf(stderr, "vectors: line %d is not `name = value`\n", f->line);
      abort();
    }
    if (b->count == 0) b->line = f->line;
    char *end = eq;
    while (end > line && end[-1] == ' ') end--;
    *end = 0;
    char *value = eq + 1;
    while (*value == ' ') value++;
    b->name[b->count] = line;
    b->value[b->count++] = value;
  }
  return b->count > 0;
}

/* NULL when the block has no such field. */
static inline const char *vector_text(const struct vector_block *b, const char *name) {
  for (int i = 0; i < b->count; i++) {
    if (strcmp(b->name[i], name) == 0) return b->value[i];
  }
  return NULL;
}

static inline uint64_t vector_number(const struct vector_block *b, const char *name) {
  const char *t = vector_text(b, name);
  return t == NULL ? 0 : strtoull(t, NULL, 0);
}

/* Decodes hexadecimal into memory of exactly its size (at least 1), the caller's to free. */
static inline uint8_t *vector_bytes(const struct vector_block *b, const char *name, uint32_t *bytes) {
  const char *t = vector_text(b, name);
  *bytes = t == NULL ? 0 : (uint32_t)(strlen(t) / 2);
  uint8_t *out = malloc(*bytes > 0 ? *bytes : 1);
  for (uint32_t i = 0; i < *bytes; i++) {
    char two[3] = {t[2 * i], t[2 * i + 1], 0};
    char *end;
    out[i] = (uint8_t)strtoul(two, &end, 16);
    if (*end != 0) {
      fprintf(stderr, "vectors: line %d: %s is not hexadecimal\n", b->line, name);
      abort();
    }
  }
  return out;
}

#endif
