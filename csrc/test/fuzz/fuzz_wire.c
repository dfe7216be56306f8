/* Raw frames through np_wire_parse. The first input byte says what is made right
 * so that the fuzzer gets past checksums: bit 0 vouches for L4, bit 1 mends the
 * IPv4 header checksum, options included. */
#include <stdlib.h>

#include "base/cksum.h"
#include "base/pool.h"
#include "wire/hdr.h"
#include "wire/pkt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1 || size > 2048) return 0;
  uint8_t mode = data[0];
  uint32_t len = (uint32_t)size - 1;
  struct np_buf *b = calloc(1, NP_BUF_DATA_OFF + len);
  b->data_off = NP_BUF_DATA_OFF;
  b->cap_bytes = NP_BUF_DATA_OFF + len;
  b->len = len;
  b->flags = (mode & 1) ? NP_BUF_L4_CSUM_OK : 0;
  uint8_t *p = np_buf_data(b);
  memcpy(p, data + 1, len);
  if (len >= NP_ETH_BYTES + NP_IP4_BYTES && (mode & 2)) {
    uint8_t *ip = p + NP_ETH_BYTES;
    np_store_16(ip + NP_IP4_CKSUM, 0);
    uint32_t header = np_max_u32(NP_IP4_BYTES, np_min_u32((ip[0] & 15u) * 4, len - NP_ETH_BYTES)); /* options included */
    np_store_16(ip + NP_IP4_CKSUM, np_cksum_finish(np_cksum_add(0, ip, header)));
  }
  struct np_pkt pkt;
  enum np_drop why = np_wire_parse(b, &pkt);
  np_assert(why <= NP_WIRE_OK);
  np_assert(b->len <= len);
  if (why == NP_WIRE_OK) {
    np_assert(pkt.l3_off >= NP_ETH_BYTES);
    np_assert(pkt.l4_off >= pkt.l3_off);
    np_assert(pkt.payload_off >= pkt.l4_off);
    np_assert(pkt.payload_off <= pkt.l4_off + pkt.l4_len || pkt.l4_proto > 255);
    np_assert((uint32_t)pkt.l4_off + pkt.l4_len <= b->len);
    np_assert(pkt.vlan < 4095);
    const uint8_t *ip = p + pkt.l3_off;
    if (pkt.l4_proto != NP_PROTO_ARP && ip[0] >> 4 == 4) np_assert(pkt.l4_off == pkt.l3_off + (ip[0] & 15u) * 4);
  }
  free(b);
  return 0;
}
