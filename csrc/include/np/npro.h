/* NPRO version 2 on the wire: numbers that both languages need. The byte-by-byte
 * description is in csrc/codec/README.md. */
#ifndef NP_NPRO_H
#define NP_NPRO_H

#include <stdint.h>

#define NP_NPRO_MAGIC 0x4e50524fu /* "NPRO" */
#define NP_NPRO_VERSION 2u
#define NP_NPRO_HEADER 16u

/* header flags */
#define NP_NPRO_F_ENC 0x01u
#define NP_NPRO_F_LZ4 0x02u
#define NP_NPRO_F_ZSTD 0x04u
#define NP_NPRO_F_END 0x08u
#define NP_NPRO_F_MORE 0x10u
#define NP_NPRO_F_CTX 0x20u
#define NP_NPRO_F_ALL 0x3fu

enum np_npro_type {
  NP_NPRO_PING = 0x01,
  NP_NPRO_PONG = 0x02,
  NP_NPRO_DISCONNECT = 0x03,
  NP_NPRO_GOAWAY = 0x04,
  NP_NPRO_WINDOW = 0x05,
  NP_NPRO_RESET = 0x06,
  NP_NPRO_REKEY = 0x07,
  NP_NPRO_HANDSHAKE_1 = 0x10,
  NP_NPRO_HANDSHAKE_2 = 0x11,
  NP_NPRO_HANDSHAKE_3 = 0x12,
  NP_NPRO_REQUEST = 0x20,
  NP_NPRO_RESPONSE = 0x21,
  NP_NPRO_MESSAGE = 0x22,
  NP_NPRO_DATA = 0x23,
};

enum np_aead { NP_AEAD_NONE = 0, NP_AEAD_XCHACHA20_POLY1305 = 1, NP_AEAD_AES_256_GCM = 2 };
enum np_compression { NP_COMPRESSION_NONE = 0, NP_COMPRESSION_LZ4 = 1, NP_COMPRESSION_ZSTD = 2 };

enum np_npro_state { /* of a session on the core */
  NP_NPRO_AWAIT_HANDSHAKE,  /* the next frame must be a handshake frame */
  NP_NPRO_AWAIT_CONTROL,    /* Go has the frame; nothing is read until it answers */
  NP_NPRO_OPEN,
  NP_NPRO_DRAINING,         /* GOAWAY sent: what is open ends, nothing new */
  NP_NPRO_CLOSING,          /* DISCONNECT or error queued; waits to be sent */
  NP_NPRO_CLOSED
};

/* What the handshake settled, installed into a session by Go. Fields little
 * enough to sit in one lent buffer; wiped by the core after use. */
struct np_npro_keys {
  uint8_t rx_key[32];
  uint8_t tx_key[32];
  uint8_t conn_id[8];
  uint8_t aead;              /* enum np_aead */
  uint8_t compression;       /* enum np_compression: what we send */
  uint8_t compression_rx;    /* bit mask 1 << enum np_compression: what the peer may send */
  uint8_t is_client;         /* 1: we opened the connection, our streams are odd */
  uint32_t max_frame_tx_bytes; /* of the length field */
  uint32_t max_frame_rx_bytes;
  uint32_t stream_window_tx_bytes; /* credit the peer gave us at the start */
  uint32_t conn_window_tx_bytes;
  uint32_t stream_window_rx_bytes; /* credit we gave */
  uint32_t conn_window_rx_bytes;
  uint32_t heartbeat_ms;     /* 0: off */
  uint32_t compression_threshold_bytes;
  int32_t compression_level;
  uint32_t max_streams;
  uint32_t max_payload_bytes; /* of one message after decompression */
  uint32_t features;         /* NP_NPRO_ALLOW_* */
  uint64_t rekey_records;
  uint64_t rekey_bytes;
  uint64_t rekey_ns;
};
#define NP_NPRO_ALLOW_ECHO 0x1u /* ECHO is answered on the core; else it goes to Go like any opcode */

#endif
