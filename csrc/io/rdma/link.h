/* The protocol between two ends of an RDMA connection, without the verbs: credits, ring
 * positions, immediates, private data. README.md has the wire format.
 *
 * Each end has a ring of memory that the other writes its bytes into (RDMA WRITE), one after
 * the other, wrapping at the end, and a number of posted receives, one of which each message
 * uses up. Both are the sender's to count: room in the ring, and messages. They come back in
 * the immediates of messages the other way.
 *
 * Everything that arrives is hostile: np_link_input and np_hello_get check it against what
 * an honest peer can say. Pure: no call out, no clock, no memory of its own.
 *
 * Thread: the core's, as all of a connection. Units: bytes, messages. */
#ifndef NP_IO_RDMA_LINK_H
#define NP_IO_RDMA_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include "np/err.h"

#define NP_LINK_VERSION 1u
#define NP_LINK_RING_BYTES_MIN 4096u
#define NP_LINK_RING_BYTES_MAX (4u << 20)
#define NP_LINK_DEPTH_MIN 128u
#define NP_LINK_DEPTH_MAX 4096u
/* Messages that only return credits may use the last ones; README.md says why 32 are enough. */
#define NP_LINK_MSGS_RESERVE 32u

/* The immediate: bit 31 FIN, bit 30 zero, then messages and bytes returned. */
#define NP_LINK_IMM_FIN 0x80000000u
#define NP_LINK_IMM_ZERO 0x40000000u
#define NP_LINK_IMM_MSGS_SHIFT 22
#define NP_LINK_IMM_MSGS_MAX 0xffu
#define NP_LINK_IMM_BYTES_MAX 0x3fffffu

/* What each end tells of itself when the connection is made (private data). */
#define NP_HELLO_BYTES 24u
struct np_hello {
  uint32_t ring_bytes;
  uint32_t depth; /* receives posted */
  uint64_t addr;  /* of the ring, as the device knows it */
  uint32_t rkey;
  uint8_t version;
};

struct np_link {
  /* sending */
  uint32_t peer_ring_bytes;
  uint32_t peer_depth;
  uint32_t snd_at;    /* where in the peer's ring the next byte goes */
  uint32_t snd_room;  /* bytes free there */
  uint32_t snd_msgs;  /* receives the peer has posted for us */
  /* receiving */
  uint32_t ring_bytes;
  uint32_t depth;
  uint32_t rcv_at;    /* where in our ring the next byte to take lies */
  uint32_t rcv_ready; /* bytes there, not taken yet */
  uint32_t rcv_held;  /* taken, not consumed */
  uint32_t owed_bytes; /* consumed, the peer does not know yet */
  uint32_t owed_msgs;  /* receives posted again, the peer does not know yet */
  uint32_t unposted_msgs; /* receives used up and not posted again */
  bool fin_sent;
  bool fin_rcvd;
};

void np_hello_put(const struct np_hello *hello, uint8_t out[NP_HELLO_BYTES]);
/* bytes: how many there are; transports pad with zeros behind.
 * Errors: NP_ERR_PROTOCOL (not ours, or values out of range), NP_ERR_UNSUPPORTED (another version). */
enum np_err np_hello_get(const uint8_t *data, uint32_t bytes, struct np_hello *out);

/* ring_bytes, depth: our own, within the limits above. The peer's follow with np_link_peer. */
void np_link_init(struct np_link *l, uint32_t ring_bytes, uint32_t depth);
/* Until this is called nothing can be sent. */
void np_link_peer(struct np_link *l, const struct np_hello *peer);

/* Bytes that one message may carry now: contiguous in the peer's ring. */
uint32_t np_link_span(const struct np_link *l);
/* True when a message without data may be sent (FIN, credits). */
bool np_link_can_tell(const struct np_link *l);
/* True when enough is owed that a message of its own is due for it, and may be sent. */
bool np_link_must_tell(const struct np_link *l);
/* Accounts for a message with bytes (at most np_link_span, or 0); returns its immediate. */
uint32_t np_link_sent(struct np_link *l, uint32_t bytes, bool fin);

/* A message came: its immediate and its bytes, which lie in the ring now.
 * Errors: NP_ERR_PROTOCOL (more returned than was taken, bits that must be zero, anything after FIN,
 * a message that no receive was posted for), NP_ERR_FLOW (more bytes than the ring had room for). The
 * connection is to be given up then; the state is as before. */
enum np_err np_link_input(struct np_link *l, uint32_t imm, uint32_t bytes);
/* Contiguous bytes that may be taken from rcv_at on. */
uint32_t np_link_ready(const struct np_link *l);
void np_link_taken(struct np_link *l, uint32_t bytes);
void np_link_consumed(struct np_link *l, uint32_t bytes);
/* count receives were posted again. */
void np_link_posted(struct np_link *l, uint32_t count);

#endif
