/* The least of pcapng that Wireshark and tcpdump read: one section, one Ethernet
 * interface with nanosecond times, enhanced packet blocks with an optional comment. */
#include <string.h>

#include "sim.h"

static void put32(FILE *f, uint32_t v) { fwrite(&v, sizeof v, 1, f); }

FILE *pcap_open(const char *path) {
  FILE *f = fopen(path, "wb");
  if (!f) return NULL;
  const uint32_t section[] = {0x0a0d0d0a, 28, 0x1a2b3c4d, 0x00000001, 0xffffffff, 0xffffffff, 28};
  fwrite(section, sizeof section, 1, f);
  /* if_tsresol = 9 (nanoseconds) */
  const uint32_t iface[] = {1, 32, 1, 0, 0x00010009, 9, 0, 32};
  fwrite(iface, sizeof iface, 1, f);
  return f;
}

void pcap_write(FILE *f, const uint8_t *bytes, uint32_t len, uint64_t at_ns, const char *comment) {
  static const uint8_t zero[4];
  uint32_t padded = (len + 3) & ~3u;
  uint32_t note = comment ? (uint32_t)strlen(comment) : 0;
  uint32_t options = comment ? 4 + ((note + 3) & ~3u) + 4 : 0;
  uint32_t total = 32 + padded + options;
  put32(f, 6);
  put32(f, total);
  put32(f, 0);
  put32(f, (uint32_t)(at_ns >> 32));
  put32(f, (uint32_t)at_ns);
  put32(f, len);
  put32(f, len);
  fwrite(bytes, len, 1, f);
  fwrite(zero, padded - len, 1, f);
  if (comment) {
    put32(f, 1u | note << 16);
    fwrite(comment, note, 1, f);
    fwrite(zero, ((note + 3) & ~3u) - note, 1, f);
    put32(f, 0);
  }
  put32(f, total);
}
