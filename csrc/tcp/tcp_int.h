/* TCP's own structures and the functions its files share. Nothing outside this
 * folder includes it, but for tests that look at a connection's variables. */
#ifndef NP_TCP_INT_H
#define NP_TCP_INT_H

#include "base/bytes.h"
#include "base/cksum.h"
#include "base/hash.h"
#include "base/port.h"
#include "base/seq.h"
#include "tcp/cc_state.h"
#include "tcp/options.h"
#include "tcp/tcp.h"

#define NP_TCP_FIN 0x01u
#define NP_TCP_SYN 0x02u
#define NP_TCP_RST 0x04u
#define NP_TCP_PSH 0x08u
#define NP_TCP_ACK 0x10u
#define NP_TCP_URG 0x20u
#define NP_TCP_ECE 0x40u
#define NP_TCP_CWR 0x80u

#define NP_TCP_NS_PER_MS UINT64_C(1000000)
#define NP_TCP_NS_PER_S UINT64_C(1000000000)

#define NP_TCP_DUP_THRESH 3u       /* RFC 5681 §3.2, RFC 6675 §2 */
#define NP_TCP_INIT_SEGS 10u       /* RFC 6928 */
#define NP_TCP_MIN_RTT_MS 300000u  /* how long the shortest round trip stands (RFC 8985 §6.2: a windowed minimum) */
#define NP_TCP_RTO_FIRST_US 1000000u   /* RFC 6298 §2.1 */
#define NP_TCP_RTO_UNKNOWN_US 3000000u /* §5.7 */
#define NP_TCP_BACKOFF_KEPT 2u     /* doublings that outlive progress of which nothing says that the path got slower */
#define NP_TCP_SACK_WALK 1024u     /* segments one ACK may make us look at */
#define NP_TCP_SEEN 3u             /* blocks of a peer's remembered: as many as an ACK with timestamps has */
#define NP_TCP_TX_BUDGET 64u       /* segments a connection sends in one flush */
#define NP_TCP_FLUSH_BUDGET 4096u  /* connections one flush serves */
#define NP_TCP_GATHER_MAX 48u      /* pieces of a packet that the port cuts; of another: NP_PORT_PIECES_MAX */
#define NP_TCP_REAP_BUDGET 256u    /* TIME-WAIT ends in one timer */
#define NP_TCP_MSS_V4 536u         /* RFC 9293 §3.7.1 when the peer says nothing */
#define NP_TCP_MSS_V6 1220u
#define NP_TCP_TS_BYTES 12u        /* timestamps with their padding */
#define NP_TCP_HDR_BYTES 20u
#define NP_TCP_LOWER_BYTES 128u    /* all headers: NP_BUF_HEADROOM */
#define NP_TCP_PORT_MIN ((uint32_t)NP_PORT_EPHEMERAL_MIN)
#define NP_TCP_PORT_COUNT ((uint32_t)NP_PORT_EPHEMERAL_COUNT)
#define NP_TCP_CHALLENGE_MAX 10u   /* per connection and window (RFC 5961 §7) */
#define NP_TCP_CHALLENGE_MS 5000u
#define NP_TCP_INPUT_BYTES 320u    /* of a connection: what an ordinary segment's input touches */
#define NP_TCP_HOT_BYTES 448u      /* and with what its answer, or an acknowledgment, does */
#define NP_TCP_AHEAD 4u            /* segments, or connections, whose memory is asked for before it is their turn (burst.c) */
#define NP_TCP_RARE_NS (64 * NP_TCP_NS_PER_MS)
#define NP_TCP_PACE_SLOTS 64u
#define NP_TCP_BUF_START 65536u    /* the send queue's least, and what the receive buffer begins with by default */
#define NP_TCP_SPACE_BYTES 4096u
#define NP_TCP_OWN_SPACE 0u        /* stream.own: receive buffer now, in NP_TCP_SPACE_BYTES */
#define NP_TCP_OWN_TUNE_TS 1u      /* stream.own: data that echoes this timestamp or a later one ends a round trip */
#define NP_TCP_CONN_BYTES 960u     /* stride of the table: a multiple of the cache line, at most 960 */
#define NP_TCP_NIL UINT32_MAX      /* no slot */

/* conn->flags: what was agreed and what has happened */
#define NP_TF_TS 0x00000001u        /* timestamps both ways */
#define NP_TF_SACK 0x00000002u
#define NP_TF_WSCALE 0x00000004u
#define NP_TF_OUTGOING 0x00000008u
#define NP_TF_PASSIVE 0x00000010u   /* counted in its listener's backlog */
#define NP_TF_FIN_QUEUED 0x00000020u
#define NP_TF_FIN_SENT 0x00000040u
#define NP_TF_FIN_RTX 0x00000080u   /* the FIN alone has to go out again */
#define NP_TF_RCV_FIN 0x00000100u   /* a FIN came; rcv_fin says where */
#define NP_TF_ACK_NOW 0x00000200u
#define NP_TF_ACK_LATER 0x00000400u /* delayed ACK pending */
#define NP_TF_ROOM_SAID_NO 0x00000800u
#define NP_TF_MORE 0x00001000u      /* session said more follows */
#define NP_TF_DETACHED 0x00002000u  /* had a session, has none */
#define NP_TF_FORCE_RTX 0x00004000u /* first retransmission of a recovery goes out whatever cwnd says */
#define NP_TF_RESCUED 0x00008000u   /* RFC 6675 NextSeg rule 4 used up */
#define NP_TF_CWND_FULL 0x00010000u /* cwnd stopped the last output */
#define NP_TF_KEEPALIVE 0x00020000u /* a probe is out and nothing came since */
#define NP_TF_NO_BUF 0x00040000u    /* something was not sent for want of a buffer */
#define NP_TF_COOKIE 0x00080000u    /* made from a SYN cookie: its SYN-ACK must not be sent again */
#define NP_TF_RTX_SYN 0x00100000u   /* SYN or SYN-ACK to be sent (again) */
#define NP_TF_PROBE 0x00200000u     /* keep-alive or window probe to be sent */
#define NP_TF_ZERO_WND 0x00400000u  /* persist: window keeps us from sending */
#define NP_TF_AGAIN 0x00800000u     /* output stopped at its budget */
/* what the next flush tells the session, in this order */
#define NP_TF_EV_ACCEPT 0x01000000u
#define NP_TF_EV_ESTABLISHED 0x02000000u
#define NP_TF_EV_EOF 0x04000000u
#define NP_TF_EV_WRITABLE 0x08000000u
#define NP_TF_EV_CLOSED 0x10000000u
#define NP_TF_DIRTY 0x20000000u     /* on the dirty list */
#define NP_TF_EOF_TOLD 0x40000000u
#define NP_TF_WND_HELD 0x80000000u  /* the window stays shut for want of buffers: looked at again by timer */

/* conn->ecn (ecn.c) */
#define NP_ECN_OK 0x01u      /* agreed in the handshake (RFC 3168 §6.1.1) */
#define NP_ECN_ASKED 0x02u   /* our SYN asked for it */
#define NP_ECN_ECHO 0x04u    /* a mark came: ECE until the peer says CWR */
#define NP_ECN_CWR_DUE 0x08u /* the window was reduced: CWR on the next new data */
#define NP_ECN_CE_SEEN 0x10u /* for people: marks came, or were echoed, once at least */
#define NP_ECN_ECE_SEEN 0x20u
#define NP_EB_ONE_BY_ONE 0x40u /* no mark: a bit of text.c's in the same byte */
#define NP_EB_ROOM_MEM 0x80u   /* nor this: memory made room's answer, and nothing changed since (autotune.c) */

/* conn->cc_flags */
#define NP_CCF_RATE 0x01u    /* delivery-rate samples are taken (rate.c), and each ACK is told */
#define NP_CCF_PACED 0x02u   /* output goes by the pacer (pace.c) */
#define NP_CCF_WAITS 0x04u   /* the pacer holds it until pace_ns */
#define NP_CCF_LISTED 0x08u  /* on the pacer's list */
#define NP_CCF_STARTED 0x10u /* the algorithm has its state */
#define NP_CCF_MTU 0x80u     /* mss is below what the link allows: there is something to find out (pmtu.c) */
#define NP_CCF_LATE 0x40u    /* released late: it may catch up */
#define NP_CCF_EPISODE 0x20u /* the algorithm saw an episode begin and not end yet */

/* A queued segment's state, in np_buf.priv. Times and places are ours: data_off
 * and len of the buffer belong to whoever transmits it. */
struct np_tcp_seg_rate { /* what was known when it was sent last (rate.c) */
  uint32_t delivered;
  uint32_t delivered_at;
  uint32_t first_sent_at;
  uint32_t in_flight; /* bytes, its own included */
  uint32_t lost;
};

struct np_tcp_txseg {
  np_seq seq;
  uint32_t len;     /* payload bytes */
  uint32_t off;     /* payload, from the buffer's start */
  uint32_t sum;     /* of the payload, folded; valid with NP_TXS_SUM */
  uint64_t sent_ns; /* latest transmission */
  struct np_buf *next; /* in the queue: np_buf.next is free for the layers below */
  uint32_t flags;   /* NP_TXS_* */
  /* References (np_tcp_seg_at). Lost or sent again: neighbours in the list it is in. SACKed: link_next is a
   * segment further on in the same run of SACKed ones, 0 unknown. */
  uint32_t link_prev;
  uint32_t link_next;
  struct np_tcp_seg_rate rate; /* with NP_CCF_RATE only */
};
_Static_assert(sizeof(struct np_tcp_txseg) <= sizeof(((struct np_buf *)0)->priv), "fits a buffer's private line");

#define NP_TXS_SACKED 0x01u
#define NP_TXS_LOST 0x02u
#define NP_TXS_RTX 0x04u  /* retransmission in flight */
#define NP_TXS_EVER 0x08u /* retransmitted at least once: no round-trip sample (Karn) */
#define NP_TXS_SUM 0x10u
#define NP_TXS_PSH 0x20u
#define NP_TXS_APP_LIMITED 0x40u /* sent while the session had no more to send */
#define NP_TXS_WITH 0x80u /* left last in one packet with the piece before it */

#define NP_TCP_OOO_SKIPS 2u
/* A piece of out-of-order data. Pieces that touch form a run, linked by
 * np_buf.next; its first piece knows where it ends and where the next run is.
 * Runs are a skip list: one in 16 is in its second level, one in 256 in its third, the first in all (ooo.c). */
struct np_tcp_rxseg {
  np_seq seq;            /* all of this in a run's first piece only */
  np_seq run_end;
  uint32_t run_segs;
  struct np_buf *run_tail;
  struct np_buf *run_next;
  struct np_buf *skip[NP_TCP_OOO_SKIPS]; /* the next run of a level; NULL: none, or not in it */
};
_Static_assert(sizeof(struct np_tcp_rxseg) <= sizeof(((struct np_buf *)0)->priv), "fits a buffer's private line");

NP_INLINE struct np_tcp_txseg *np_txseg(struct np_buf *b) { return (struct np_tcp_txseg *)(void *)b->priv; }
NP_INLINE struct np_buf *np_txnext(struct np_buf *b) { return np_txseg(b)->next; }
NP_INLINE np_seq np_txend(struct np_buf *b) { return np_seq_add(np_txseg(b)->seq, np_txseg(b)->len); }
NP_INLINE struct np_tcp_rxseg *np_rxseg(struct np_buf *b) { return (struct np_tcp_rxseg *)(void *)b->priv; }

/* Delivery-rate sampling of a connection (rate.c), bytes modulo 2^32. */
struct np_tcp_rate {
  uint32_t delivered;
  uint32_t delivered_at;
  uint32_t first_sent_at;
  uint32_t app_limited; /* delivered at which the bubble is gone; 0: not limited */
  uint32_t lost;
  uint32_t bw;          /* for people: the last sample that meant something */
};

/* Of the ACK being processed. */
struct np_tcp_rate_sample {
  bool has;
  bool app_limited;
  np_seq seq;
  uint32_t prior_delivered;
  uint32_t send_elapsed;
  uint32_t ack_elapsed;
  uint32_t in_flight;   /* when the segment was sent */
  uint32_t lost;        /* since then */
  uint32_t newly_bytes;
  uint32_t delivered;   /* since the segment was sent; with bw, by np_tcp_rate_make */
  uint32_t bw;          /* 0: none to be trusted */
};

/* Segments in some order, linked by np_tcp_txseg.link_*. References, 0: none. */
struct np_tcp_seglist {
  uint32_t head;
  uint32_t tail;
};

/* rack->flags */
#define NP_RK_REORD 0x0001u       /* RACK.reordering_seen */
#define NP_RK_DSACK_ROUND 0x0002u /* dsack_round is valid */
#define NP_RK_TLP 0x0004u         /* a tail probe is out: TLP.end_seq is tlp_end */
#define NP_RK_TLP_RTX 0x0008u     /* TLP.is_retrans */
#define NP_RK_UNDO 0x0010u        /* the episode can still prove spurious */
#define NP_RK_EIFEL_ARM 0x0020u   /* the next retransmission is the episode's first */
#define NP_RK_EIFEL 0x0040u       /* rtx_ts is valid, the ACK that decides has not come */
#define NP_RK_FRTO 0x0080u        /* RFC 5682: the timeout may have been spurious */
#define NP_RK_FRTO_NEW 0x0100u    /* step 2b: new data goes first */
#define NP_RK_FRTO_3 0x0200u      /* step 3 */
#define NP_RK_UNDO_RTO 0x0400u    /* what may be undone began with a timeout */

/* RFC 8985, 9937 and undo (RFC 2883, 3522): touched while something is out of order, lost or
 * selectively acknowledged, that is while ca_state is not OPEN. */
struct np_tcp_rack {
  uint64_t xmit_ns;       /* RACK.xmit_ts: of the segment sent last among those delivered */
  uint64_t reo_due_ns;    /* reordering timer; 0 none */
  np_seq end_seq;         /* RACK.end_seq */
  np_seq fack;            /* highest sequence acknowledged or SACKed */
  np_seq dsack_round;
  np_seq tlp_end;
  np_seq undo_una;        /* snd_una when the episode began */
  uint32_t rtt_us;        /* RACK.rtt */
  uint32_t undo_rtx;      /* retransmissions of the episode that no DSACK has answered */
  uint32_t rtx_ts;        /* timestamp of the episode's first retransmission */
  uint32_t prr_delivered; /* bytes */
  uint32_t prr_sent0;     /* bytes sent ever, when the episode began, modulo 2^32 */
  uint32_t prr_flight;    /* RecoverFS; while a tail probe is out, what was in flight at it */
  struct np_tcp_seglist due; /* lost, to be sent again, the lowest first */
  struct np_tcp_seglist rtx; /* retransmissions in flight, in order of transmission */
  uint32_t min_rtt_ms;    /* when min_rtt_us began to be looked for */
  uint32_t last_acked;    /* without SACK: bytes the last ACK that moved snd_una moved it by */
  uint32_t due_hint;      /* entered into due last, out of turn */
  uint32_t run_first;     /* first of the run of SACKed segments that sack_hint ends; 0 unknown */
  uint32_t dsacks;        /* for people */
  uint16_t reorders;
  uint16_t tlps;
  uint16_t undos;
  uint16_t flags;         /* NP_RK_* */
  uint8_t reo_more;       /* RACK.reo_wnd_mult - 1 */
  uint8_t reo_persist;
  uint8_t vain;           /* timeouts in a row, snd_una where it was; the back-off may outlive progress */
  uint32_t rtos;          /* for people: timeouts */
};

/* What the ACK being processed told; lives as long as np_tcp_ack runs. */
struct np_tcp_told {
  np_seq fack;          /* rack.fack before it */
  uint32_t tsecr;       /* 0: none */
  uint32_t rtt_us;      /* sample it gave; 0 none */
  uint32_t acked_bytes;
  uint32_t sacked_segs; /* newly */
  uint32_t lost_bytes;  /* newly */
  uint32_t flight0;     /* in flight before, less what was SACKed or said to have left */
  uint32_t delivered;   /* RFC 9937 DeliveredData */
  uint32_t lost_flight; /* while a reduction is computed: what was in flight when the loss happened; 0: now's */
  bool pure;            /* nothing in it but an acknowledgment that was known */
  bool dup;             /* the same while data is in flight: RFC 5681 §2 */
  bool orig;            /* acknowledged or SACKed what was sent once, before recover */
  bool again;           /* acknowledged what was sent twice */
  bool dsack;           /* of something else than the tail probe */
  bool dsack_tlp;
};

/* pmtu.c; sizes are payload, as mss */
struct np_tcp_pmtu {
  uint16_t mss_max;    /* what link, peer and buffers allow */
  uint16_t high;       /* the largest that may pass */
  uint16_t probe_len;  /* in flight; 0: none */
  uint8_t phase;
  uint8_t tries;       /* failed since a search began */
  np_seq probe_seq;
  np_seq excused;      /* what was lost below this was lost for its size */
  uint32_t search_ms;  /* when to try again */
};

struct np_tcp_conn {
  /* Line 0: found and judged by. */
  struct np_flow flow;
  uint8_t state;      /* enum np_conn_state, changed by np_tcp_set_state only */
  uint8_t ca_state;   /* enum np_ca_state */
  uint8_t snd_wscale;
  uint8_t rcv_wscale;
  uint32_t flags;     /* NP_TF_* */
  np_seq rcv_nxt;
  np_seq rcv_adv;     /* right edge of the largest window offered: never moves back */
  np_seq last_ack;    /* rcv_nxt as last acknowledged: Last.ACK.sent of RFC 7323 */
  uint32_t ts_recent;
  uint32_t rx_ms;     /* tcp->now_ms when the last segment came */
  /* Line 1: acknowledgment and window. */
  np_seq snd_una;
  np_seq snd_nxt;
  np_seq snd_end;     /* behind the last byte queued */
  np_seq snd_wl1;
  np_seq snd_wl2;
  uint32_t snd_wnd;
  uint32_t cwnd;
  uint32_t mss;       /* payload of a full segment, options taken off */
  struct np_buf *sndq_head;
  struct np_buf *sndq_tail;
  struct np_buf *sndq_next; /* first never sent; NULL: none */
  uint32_t snd_segs;
  uint32_t ack_bytes; /* in order since the last ACK left */
  /* Line 2: data up. */
  struct np_buf *rcvq_head;
  struct np_buf *rcvq_tail;
  uint32_t rcvq_bytes;
  uint16_t rcvq_segs;
  uint16_t handed;        /* buffers handed up and not consumed, at most so many: np_tcp_handed (mem.c) */
  uint32_t dirty_next;    /* slot */
  uint8_t ecn;            /* NP_ECN_*, NP_EB_* */
  uint8_t cc_id;          /* enum np_cc */
  uint8_t cc_flags;       /* NP_CCF_* */
  uint8_t tos;            /* DSCP in the upper six bits of the IP header's field; ECN's two come by segment */
  struct np_stream stream;
  /* Line 3: accounting of what comes. */
  uint64_t bytes_rx;
  uint64_t segs_rx;
  struct np_buf *ooo_head;
  uint32_t sacked_segs;
  uint32_t sacked_bytes;
  uint32_t lost_bytes;
  uint32_t reno_bytes;    /* without SACK: what duplicate ACKs say has left */
  uint32_t dup_acks;
  uint32_t max_wnd;       /* largest snd_wnd seen */
  uint32_t ts_recent_ms;
  uint32_t ack_due_ms;    /* when the delayed ACK must leave */
  uint16_t csum_base;     /* pseudo header without length, folded */
  uint16_t rcv_mss;       /* largest segment seen, at least 536 */
  uint8_t sack_count;
  uint8_t backoff;
  bool rare;              /* data left after a pause (NP_TCP_RARE_NS): its timer comes off the wheel when all is acknowledged */
  uint8_t probes;         /* keep-alive probes or SYNs sent in vain */
  /* Line 4: once per round trip, which is each segment of a connection that says little. */
  struct np_timer timer;
  uint64_t misc_due_ns;     /* keep-alive, FIN-WAIT-2; 0 none */
  uint32_t ts_offset;
  uint32_t unconsumed;      /* handed up, not yet consumed */
  uint32_t rcv_rtt_us;      /* autotune.c: as the receiver sees it; 0 not known */
  uint32_t tune_at_us;      /* when the running round trip began */
  uint32_t tune_bytes;      /* consumed until then */
  uint32_t tune_last;       /* consumed in the round trip before */
  np_seq tune_edge;         /* right edge offered then */
  uint32_t confirm_ms;      /* when the neighbor was last said to be reachable */
  /* Line 5: from here on what sending touches, and what an ACK does. */
  struct np_tcp_path path;
  uint64_t rtx_due_ns;    /* retransmission or persist; 0 none */
  uint64_t timer_due_ns;  /* what timer is set to, at or before the deadlines; 0: not set */
  uint32_t rtx_bytes;     /* retransmitted and in flight */
  uint32_t lost_due;      /* lost segments not sent again yet */
  /* Line 6 */
  uint64_t progress_ns;   /* last time snd_una moved, or sending began: user timeout */
  uint64_t last_tx_ns;    /* data */
  uint32_t srtt_us;       /* times 8 */
  uint32_t rttvar_us;     /* times 4 */
  uint32_t rto_us;
  uint32_t min_rtt_us;
  uint64_t bytes_tx;
  uint64_t segs_tx;
  struct np_buf *rack_next; /* those before it are SACKed, lost or were sent again; NULL: the head */
  struct np_buf *sack_hint; /* segment with the highest SACKed sequence */
  /* From here on: nothing that an ordinary segment touches. */
  struct np_timer ack_timer;
  struct np_buf *ooo_last;  /* first piece of the last run; NULL: not known */
  uint32_t dup_acks_due;    /* duplicate ACKs owed to a peer without SACK */
  np_seq recover;
  np_seq iss;
  np_seq irs;
  np_seq rcv_fin;
  uint32_t ssthresh;
  uint32_t ooo_bytes;
  uint16_t ooo_segs;
  uint16_t mss_peer;
  uint16_t ooo_runs;
  uint8_t pacing;           /* enum np_pacing: what was asked for */
  bool rcvq_due;            /* held back for a crowded session long enough (flush.c) */
  struct np_tcp_block sack[4]; /* what we report, latest first (RFC 2018 §4) */
  struct np_tcp_block dsack;   /* to report once (RFC 2883); empty when start == end */
  struct np_tcp_block seen[NP_TCP_SEEN]; /* reported to us last: not walked again */
  uint32_t challenge_ms;
  uint32_t tw_prev;         /* np_tcp_list, TIME-WAIT list, out-of-order lists (mem.c), free list */
  uint32_t tw_next;
  uint32_t listener;        /* index, NP_TCP_NIL for outgoing */
  uint8_t err;              /* enum np_err to tell */
  uint8_t soft_err;         /* enum np_err; forgotten when snd_una is no longer soft_una */
  uint16_t old_segs;        /* of handed, with NP_TCP_HANDED_OLD: those that are consumed when old_edge is */
  np_seq soft_una;
  uint32_t user_timeout_ms; /* 0: none */
  uint64_t created_ns;
  struct np_tcp_rack rack;
  union np_tcp_cc_state cc;
  struct np_tcp_rate rate;
  uint32_t keepalive_idle_ms; /* 0: off */
  uint64_t pace_ns;         /* when what was sent is paid for */
  uint64_t pace_rate;       /* bytes per second, 0 unknown */
  uint32_t pace_cost;       /* ns per byte, 12 bits of fraction; 0: not paced */
  uint32_t pace_quantum;    /* bytes */
  uint32_t pace_next;       /* slot */
  uint32_t rtx_segs;
  uint64_t bytes_rtx;
  uint32_t shut_ms;         /* guard.c: since when the peer's window has let less than a segment through */
  np_seq shut_until;        /* until this is acknowledged */
  uint32_t leaving_ms;      /* since when it is in the list of leaving.c */
  bool shut_counts;         /* the two before are valid */
  bool leaving;             /* in that list */
  uint8_t challenge_count;
  bool nagle;               /* with np_tcp.nagle_asked: small writes wait while others are in flight */
  np_seq old_edge;
  struct np_tcp_pmtu pmtu;
};
_Static_assert(sizeof(struct np_tcp_conn) <= NP_TCP_CONN_BYTES, "an idle connection costs less than 1 KiB with its table slot");
_Static_assert(offsetof(struct np_tcp_conn, snd_una) == 64 && offsetof(struct np_tcp_conn, rcvq_head) == 128 &&
                   offsetof(struct np_tcp_conn, bytes_rx) == 192 && offsetof(struct np_tcp_conn, timer) == 256 &&
                   offsetof(struct np_tcp_conn, path) == NP_TCP_INPUT_BYTES && offsetof(struct np_tcp_conn, progress_ns) == 384 &&
                   offsetof(struct np_tcp_conn, ack_timer) == NP_TCP_HOT_BYTES,
               "hot fields lie on the lines their comments say");

_Static_assert(NP_TCP_CONN_BYTES % NP_CACHE_LINE == 0, "connections start on a line");

/* Eight slots on one cache line, found by 16-bit tags. overflow counts entries
 * whose way from their home bucket leads past this one. */
struct np_tcp_bucket {
  uint16_t tag[8]; /* 0: empty */
  uint32_t slot[8];
  uint32_t overflow;
  uint32_t pad[3];
};
_Static_assert(sizeof(struct np_tcp_bucket) == 64, "a bucket is a cache line");

/* Slots in order of arrival, the oldest first, linked by tw_prev and tw_next: of connections that are in one
 * list at most, being half open, holding data out of order, leaving or in TIME-WAIT. */
struct np_tcp_list {
  uint32_t head;
  uint32_t tail;
};

struct np_tcp_listener {
  struct np_tcp_listen args;
  bool used;
  uint32_t conns;   /* made by it and still there */
  uint32_t backlog; /* of them in SYN-RECEIVED */
  struct np_tcp_list half; /* those */
  uint32_t generation;
};

#define NP_TCP_GUARD_ROWS 2u
/* Answers that may leave in a second, a number drawn anew for each. */
struct np_tcp_allowance {
  uint32_t second;
  uint32_t left;
  uint64_t drawn;
};

/* guard.c */
struct np_tcp_guard {
  struct np_tcp_allowance challenges;
  struct np_tcp_allowance resets;
  uint32_t width;           /* of open's rows; 0: not counted */
  uint32_t *open;           /* connections per source */
  uint32_t half[NP_TCP_GUARD_ROWS * 1024u]; /* half-open ones per source */
};

/* How short of buffers the core is. Each level takes away more. */
enum np_tcp_level {
  NP_TCP_MEM_EASY,
  NP_TCP_MEM_PRESSURE, /* nobody gets more than a share, buffers shrink, out-of-order data goes, backlogs are short */
  NP_TCP_MEM_MAX,      /* nobody gets more than the least; connections come by cookie */
  NP_TCP_MEM_HARD,     /* no data at all: ACKs, ARP and ND only */
  NP_TCP_MEM_LEVELS
};
#define NP_TCP_MEM_LEAST 4u      /* buffers each way that a connection may have however short they are */
#define NP_TCP_OOO_CLASSES 16u   /* of out-of-order buffers held: 1, 2 to 3, 4 to 7, ... */
#define NP_TCP_HANDED_OLD 0x8000u

/* mem.c. In buffers. */
struct np_tcp_mem {
  uint32_t floor[NP_TCP_MEM_LEVELS]; /* with fewer free a level is reached */
  uint32_t idle;                     /* free, but not in the pool: posted by ports, lent */
  uint32_t pressure;                 /* held: marks */
  uint32_t max;
  uint32_t send;                     /* held now, by kind */
  uint32_t ooo;
  uint32_t handed;
  uint32_t ooo_classes;              /* bit per list that is not empty */
  struct np_tcp_list ooo_list[NP_TCP_OOO_CLASSES];
  uint8_t level;                     /* at the last flush */
  uint64_t since_ns;
};

struct np_tcp {
  struct np_tcp_env env;
  struct np_tcp_config config;
  uint64_t now_ns;
  uint32_t now_ms;
  uint32_t conn_count;
  uint8_t *conns;
  struct np_tcp_bucket *buckets;
  uint32_t bucket_mask;
  uint32_t free_head;  /* slots never used or given back, linked by tw_next */
  uint32_t dirty_head;
  uint32_t dirty_tail;
  uint32_t dirty_count;
  uint32_t tw_head;    /* oldest */
  uint32_t tw_tail;
  uint32_t tw_count;
  struct np_tcp_list leaving; /* leaving.c */
  uint32_t next_port;  /* RFC 6056 §3.3.3 */
  uint32_t tx_caps;    /* NP_PORT_* for what is sent now */
  uint32_t snd_calm_bytes; /* no send queue with less is nearly full */
  uint32_t tx_bytes_max; /* with NP_PORT_TSO: payload of one packet */
  uint8_t rcv_wscale;
  bool nagle_asked;    /* by the configuration or any connection: theirs are looked at */
  uint64_t cookie_ns;  /* when the last cookie left; 0 never */
  struct np_timer tw_timer;
  struct np_hash_key flow_key;
  uint8_t key_isn[16];
  uint8_t key_cookie[16];
  uint32_t ack_rtt_us;  /* measured by the ACK being processed, 0 none */
  struct np_tcp_rate_sample rs;
  uint64_t pace_mask;   /* slots of the pacer's ring that hold connections */
  uint64_t pace_slot;   /* the last one that was looked at */
  uint64_t pace_due_ns; /* what pace_timer is set to */
  struct np_timer pace_timer;
  uint32_t pace_head[NP_TCP_PACE_SLOTS];
  struct np_tcp_listener *listeners;
  void (*drop_fn)(void *ctx, struct np_buf *buf, enum np_drop why);
  void *drop_ctx;
  struct np_tcp_told told;
  struct np_tcp_guard guard;
  struct np_tcp_mem mem;
};

/* A segment being processed. */
struct np_tcp_seg {
  struct np_pkt *pkt;
  struct np_buf *buf;
  np_seq seq;
  np_seq ack;
  uint32_t len;   /* payload bytes */
  uint32_t off;   /* payload, from buf's data; may lie in a later piece */
  uint32_t segs;  /* received packets that it is made of */
  uint32_t largest; /* payload bytes of the largest of them */
  uint32_t wnd;   /* as in the header, not scaled */
  uint8_t flags;
  bool kept;      /* buf now belongs to a queue */
  bool retry;     /* processed by the listener after the old connection went */
  np_seq iss_min; /* with retry: the new ISS must be beyond */
  struct np_tcp_opts opts;
};

#define NP_TCP_OK NP_DROP_COUNT /* outcome: delivered */

NP_INLINE struct np_tcp_conn *np_tcp_at(const struct np_tcp *tcp, uint32_t slot) {
  return (struct np_tcp_conn *)(void *)(tcp->conns + (size_t)slot * NP_TCP_CONN_BYTES);
}
NP_INLINE uint32_t np_tcp_slot(const struct np_tcp *tcp, const struct np_tcp_conn *c) {
  return (uint32_t)((size_t)((const uint8_t *)c - tcp->conns) / NP_TCP_CONN_BYTES);
}
NP_INLINE struct np_tcp_conn *np_tcp_of(struct np_stream *s) { return NP_CONTAINER_OF(s, struct np_tcp_conn, stream); }
NP_INLINE uint32_t np_tcp_flight(const struct np_tcp_conn *c) { return (uint32_t)np_seq_diff(c->snd_nxt, c->snd_una); }
NP_INLINE uint32_t np_tcp_ts_now(const struct np_tcp *tcp, const struct np_tcp_conn *c) { return tcp->now_ms + c->ts_offset; }
NP_INLINE bool np_tcp_sends(uint8_t state) {
  return state == NP_TCP_ESTABLISHED || state == NP_TCP_CLOSE_WAIT || state == NP_TCP_SYN_SENT ||
         state == NP_TCP_SYN_RECEIVED;
}
NP_INLINE bool np_tcp_mem_below(const struct np_tcp *tcp, enum np_tcp_level level) {
  return tcp->env.pool->free_count < tcp->mem.floor[level];
}
/* True while the peer may still send data. */
NP_INLINE bool np_tcp_receives(uint8_t state) {
  return state == NP_TCP_ESTABLISHED || state == NP_TCP_FIN_WAIT_1 || state == NP_TCP_FIN_WAIT_2;
}
NP_INLINE void np_tcp_count(struct np_tcp *tcp, enum np_counter which) { tcp->env.counters->counter[which]++; }
void np_tcp_set_now(struct np_tcp *tcp, uint64_t now_ns);

/* table.c */
uint32_t np_tcp_table_buckets(uint32_t conns_max);
struct np_tcp_conn *np_tcp_find(struct np_tcp *tcp, const struct np_flow *flow, uint32_t hash);
/* The same, looking first where np_tcp_burst expects it. */
struct np_tcp_conn *np_tcp_expected(struct np_tcp *tcp, const struct np_pkt *pkt);
/* The slot of the connection a hash most likely means, by its tag alone; NP_TCP_NIL: none. */
uint32_t np_tcp_likely(const struct np_tcp *tcp, uint32_t hash);
void np_tcp_table_add(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t hash);
void np_tcp_table_del(struct np_tcp *tcp, struct np_tcp_conn *c);

/* Asks for a connection's bytes [from, to), whole lines, to be written. */
NP_INLINE void np_tcp_prefetch(struct np_tcp_conn *c, uint32_t from, uint32_t to) {
  for (uint32_t at = from; at < to; at += NP_CACHE_LINE) NP_PREFETCH_W((uint8_t *)c + at);
}

/* conn.c */
struct np_tcp_conn *np_tcp_conn_new(struct np_tcp *tcp, const struct np_flow *flow, uint32_t hash);
void np_tcp_set_state(struct np_tcp *tcp, struct np_tcp_conn *c, enum np_conn_state to);
/* Ends a connection at once: out of the table, queues freed, timers off; the
 * session hears of it, and the slot is freed, in the next flush. */
void np_tcp_close(struct np_tcp *tcp, struct np_tcp_conn *c, enum np_err err);
/* The part of np_tcp_close that tells nobody and leaves what was received: CLOSED, in no list but the dirty one. */
void np_tcp_let_go(struct np_tcp *tcp, struct np_tcp_conn *c);
void np_tcp_conn_free(struct np_tcp *tcp, struct np_tcp_conn *c);
void np_tcp_dirty(struct np_tcp *tcp, struct np_tcp_conn *c);
void np_tcp_set_mss(struct np_tcp *tcp, struct np_tcp_conn *c);
/* MSS to announce towards remote; 0 without a route. */
uint32_t np_tcp_mss_local(struct np_tcp *tcp, const struct np_addr *remote);

/* timewait.c */
void np_tcp_time_wait(struct np_tcp *tcp, struct np_tcp_conn *c);
void np_tcp_time_wait_touch(struct np_tcp *tcp, struct np_tcp_conn *c);
bool np_tcp_time_wait_evict(struct np_tcp *tcp);

/* leaving.c */
void np_tcp_list_add(struct np_tcp *tcp, struct np_tcp_list *list, struct np_tcp_conn *c);
void np_tcp_list_del(struct np_tcp *tcp, struct np_tcp_list *list, struct np_tcp_conn *c);
/* After c's state or session changed. */
void np_tcp_leaving(struct np_tcp *tcp, struct np_tcp_conn *c);
/* Ends the oldest that only waits for its peer. Return: true when a slot is free now. */
bool np_tcp_leaving_evict(struct np_tcp *tcp);
void np_tcp_time_wait_unlink(struct np_tcp *tcp, struct np_tcp_conn *c);

/* True when pkt's buffers hold all that its headers promise: the headers in the first piece,
 * payload there and in those behind it. */
NP_INLINE bool np_tcp_whole(const struct np_pkt *pkt) {
  uint32_t end = (uint32_t)pkt->l4_off + pkt->l4_len;
  if (NP_LIKELY(end <= pkt->buf->len)) return true;
  return pkt->payload_off <= pkt->buf->len && end <= np_buf_chain_len(pkt->buf);
}

/* gro.c: takes the first segment off joined ones; out and pkt are then as they were parsed, but for
 * pkt's own count. */
void np_tcp_gro_first(struct np_pkt *pkt, struct np_pkt *out);

/* input.c, text.c, established.c */
bool np_tcp_fast(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_pkt *pkt);
enum np_drop np_tcp_text(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_seg *seg);
void np_tcp_fin(struct np_tcp *tcp, struct np_tcp_conn *c);
bool np_tcp_may_challenge(struct np_tcp *tcp, struct np_tcp_conn *c);
void np_tcp_challenge(struct np_tcp *tcp, struct np_tcp_conn *c);
enum np_drop np_tcp_dispatch(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_seg *seg);
/* len bytes came in order, in segments of at most largest. */
void np_tcp_ack_in_order(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t len, uint32_t largest);
void np_tcp_rcvq_free(struct np_tcp_conn *c);
/* Adds the pieces of a chain. */
void np_tcp_rcvq_add(struct np_tcp_conn *c, struct np_buf *b);
NP_INLINE struct np_buf *np_tcp_last_piece(struct np_buf *b) {
  while (b->next != NULL) b = b->next; /* bound: the pieces of a segment */
  return b;
}
/* Bytes [off, off + len) of a received segment's buffers: len > 0. Return: the first piece left. */
NP_INLINE struct np_buf *np_tcp_cut(struct np_buf *b, uint32_t off, uint32_t len) {
  if (NP_UNLIKELY(b->next != NULL)) return np_buf_chain_trim(b, off, len);
  np_buf_pull(b, off);
  b->len = len;
  return b;
}

/* ack.c */
enum np_drop np_tcp_ack(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_seg *seg);
/* Takes what ack covers off the send queue and moves snd_una. Return: bytes. */
uint32_t np_tcp_ack_queue(struct np_tcp *tcp, struct np_tcp_conn *c, np_seq ack, uint32_t tsecr);
void np_tcp_ack_timers(struct np_tcp *tcp, struct np_tcp_conn *c);

/* rtt.c */
void np_tcp_rtt_sample(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t rtt_us);
/* rto_us from srtt_us and rttvar_us. */
void np_tcp_rto_update(const struct np_tcp *tcp, struct np_tcp_conn *c);
uint64_t np_tcp_rto_ns(const struct np_tcp *tcp, const struct np_tcp_conn *c);
/* Sets the timer of what is alone in flight. */
void np_tcp_rto_start(const struct np_tcp *tcp, struct np_tcp_conn *c);

/* recovery.c */
uint32_t np_tcp_pipe(const struct np_tcp_conn *c);
/* What tcp->told says of an ACK, in the terms of loss recovery. */
void np_tcp_recovery_ack(struct np_tcp *tcp, struct np_tcp_conn *c);
void np_tcp_recovery_rto(struct np_tcp *tcp, struct np_tcp_conn *c);
/* What RACK's timer found goes out, in an episode that begins if none is on. */
void np_tcp_recovery_lost(struct np_tcp *tcp, struct np_tcp_conn *c);
/* cwnd has to shrink though nothing is known to be lost (enum np_tcp_cong); no effect while it already does. */
void np_tcp_enter_cwr_why(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t why);
void np_tcp_enter_cwr(struct np_tcp *tcp, struct np_tcp_conn *c); /* the peer echoed a mark */
/* The segment to send again now, NULL: none. */
struct np_buf *np_tcp_recovery_next(struct np_tcp_conn *c);
struct np_buf *np_tcp_recovery_rescue(struct np_tcp *tcp, struct np_tcp_conn *c);
void np_tcp_mark_lost(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_buf *b);
/* b was sent again just now. */
void np_tcp_rtx_sent(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_buf *b);

/* guard.c */
bool np_tcp_guard_challenge(struct np_tcp *tcp);
bool np_tcp_guard_reset(struct np_tcp *tcp);
uint32_t np_tcp_guard_width(const struct np_tcp_config *config);
bool np_tcp_guard_half_full(struct np_tcp *tcp, const struct np_addr *remote, uint32_t backlog, bool cookies);
void np_tcp_guard_half(struct np_tcp *tcp, const struct np_addr *remote, int32_t n);
bool np_tcp_guard_source_full(struct np_tcp *tcp, const struct np_addr *remote);
void np_tcp_guard_source(struct np_tcp *tcp, const struct np_addr *remote, int32_t n);
bool np_tcp_guard_persist(struct np_tcp *tcp, struct np_tcp_conn *c);
void np_tcp_guard_shut(struct np_tcp *tcp, struct np_tcp_conn *c);

/* window.c */
uint32_t np_tcp_window(struct np_tcp *tcp, struct np_tcp_conn *c);
bool np_tcp_window_update_due(const struct np_tcp *tcp, const struct np_tcp_conn *c);
bool np_tcp_window_released(const struct np_tcp *tcp, const struct np_tcp_conn *c);
/* The receive buffer as it begins. */
NP_INLINE uint32_t np_tcp_rcv_start(const struct np_tcp *tcp) {
  return tcp->config.autotune ? np_min_u32(tcp->config.rcv_start_bytes, tcp->config.rcv_buf_bytes) : tcp->config.rcv_buf_bytes;
}
/* The receive buffer as large as it is now. */
NP_INLINE uint32_t np_tcp_rcv_buf(const struct np_tcp *tcp, const struct np_tcp_conn *c) {
  return np_min_u32((uint32_t)c->stream.own[NP_TCP_OWN_SPACE] * NP_TCP_SPACE_BYTES, tcp->config.rcv_buf_bytes);
}
/* Buffers a session may have unconsumed before small pieces are joined. */
NP_INLINE uint32_t np_tcp_rcv_segs(const struct np_tcp *tcp, const struct np_tcp_conn *c) {
  return np_min_u32(np_max_u32(64, np_tcp_rcv_buf(tcp, c) / 512), UINT16_MAX);
}

/* mem.c */
void np_tcp_mem_init(struct np_tcp *tcp);
/* Each flush while buffers are short, and once when they no longer are. */
void np_tcp_mem_pressed(struct np_tcp *tcp);
/* Buffers that a connection may have each way: the share of each, and what each has in any case. */
uint32_t np_tcp_mem_share(const struct np_tcp *tcp);
uint32_t np_tcp_mem_least(const struct np_tcp *tcp);
/* c has as much queued for sending as it may. */
bool np_tcp_mem_send_full(const struct np_tcp *tcp, const struct np_tcp_conn *c);
/* Bytes that c may queue now, with all others' in mind; not called when send_full. */
uint32_t np_tcp_mem_send_bytes(const struct np_tcp *tcp, const struct np_tcp_conn *c);
/* Bytes of window that c may have; UINT32_MAX: no limit of memory's. */
uint32_t np_tcp_mem_window(const struct np_tcp *tcp, const struct np_tcp_conn *c);
/* The window of a SYN, or of its answer. */
uint32_t np_tcp_mem_syn_window(const struct np_tcp *tcp, uint32_t mss);
/* Bytes of data that came for c that may be kept; UINT32_MAX: no limit. */
uint32_t np_tcp_mem_takes(const struct np_tcp *tcp, const struct np_tcp_conn *c);
/* Out-of-order buffers that c may hold. */
uint32_t np_tcp_mem_ooo_max(const struct np_tcp *tcp);
/* c held before of them until now. */
void np_tcp_mem_ooo(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t before);
NP_INLINE uint32_t np_tcp_handed(const struct np_tcp_conn *c) { return c->handed & ~NP_TCP_HANDED_OLD; }
void np_tcp_mem_hand(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t segs);
void np_tcp_mem_partly_consumed(struct np_tcp *tcp, struct np_tcp_conn *c);
NP_INLINE void np_tcp_mem_consumed_all(struct np_tcp *tcp, struct np_tcp_conn *c) {
  tcp->mem.handed -= np_tcp_handed(c);
  c->handed = 0;
}

/* autotune.c */
uint32_t np_tcp_snd_calm(const struct np_tcp *tcp);
void np_tcp_tune_init(const struct np_tcp *tcp, struct np_tcp_conn *c);
void np_tcp_tune_start(const struct np_tcp *tcp, struct np_tcp_conn *c);
void np_tcp_tune_echo(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t tsecr);
void np_tcp_tune_filled(struct np_tcp *tcp, struct np_tcp_conn *c);
/* For each segment with data and a timestamp: once in a round trip it ends one. Half of
 * the circle is not enough for 16 bits: after an idle minute the rest must be far behind. */
NP_INLINE void np_tcp_tune(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t tsecr) {
  if (NP_UNLIKELY((uint16_t)(tsecr - c->stream.own[NP_TCP_OWN_TUNE_TS]) < 0xf000u)) np_tcp_tune_echo(tcp, c, tsecr);
}
/* Bytes the send queue may hold now. */
uint32_t np_tcp_snd_limit(const struct np_tcp *tcp, const struct np_tcp_conn *c);
uint32_t np_tcp_room(struct np_tcp *tcp, struct np_tcp_conn *c);
/* More was queued: the session may have used up all room without being told that there is none. */
void np_tcp_queued(const struct np_tcp *tcp, struct np_tcp_conn *c);
void np_tcp_wake_writer(struct np_tcp *tcp, struct np_tcp_conn *c);

/* newreno.c */
void np_tcp_reno_dup(struct np_tcp_conn *c);
void np_tcp_reno_acked(struct np_tcp_conn *c, uint32_t acked);

/* rack.c */
/* s was acknowledged, or SACKed, for the first time. */
void np_tcp_rack_delivered(struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_txseg *s, bool sacked);
/* RACK_detect_loss: marks lost what is, sets the reordering timer for what may be. */
void np_tcp_rack_detect(struct np_tcp *tcp, struct np_tcp_conn *c);
uint32_t np_tcp_rack_reo_wnd_us(const struct np_tcp_conn *c);
void np_tcp_rack_reordered(struct np_tcp *tcp, struct np_tcp_conn *c);
/* The ACK carried a DSACK that no tail probe explains (RFC 8985 §6.2 step 4). */
void np_tcp_rack_dsack(struct np_tcp_conn *c);
void np_tcp_rack_recovered(struct np_tcp_conn *c);

/* tlp.c */
#define NP_TCP_TLP_TICK_NS (2 * NP_TCP_NS_PER_MS)  /* for the wheel's tick and the peer's own turns */
#define NP_TCP_TLP_FLOOR_NS (8 * NP_TCP_NS_PER_MS) /* a peer whose thread waits for a core answers after a time slice or two */
/* RFC 8985 §7.2, without what one segment alone is waited for longer. */
NP_INLINE uint64_t np_tcp_tlp_wait_ns(const struct np_tcp_conn *c) {
  uint64_t ns = (uint64_t)c->srtt_us / 4 * 1000 + NP_TCP_TLP_TICK_NS;
  return ns > NP_TCP_TLP_FLOOR_NS ? ns : NP_TCP_TLP_FLOOR_NS;
}
#define NP_TCP_TLP_ALONE_NS (200 * NP_TCP_NS_PER_MS) /* TLP.max_ack_delay: one segment alone may have its ACK delayed */
/* When the tail probe is due, RFC 8985 §7.2; 0: none may be sent. */
NP_INLINE uint64_t np_tcp_tlp_due_ns(const struct np_tcp_conn *c) {
  if (c->rtx_due_ns == 0 || c->ca_state > NP_CA_CWR || c->state < NP_TCP_ESTABLISHED) return 0;
  if ((c->flags & (NP_TF_SACK | NP_TF_ZERO_WND)) != NP_TF_SACK || c->srtt_us == 0 || np_tcp_flight(c) == 0) return 0;
  if (c->ca_state != NP_CA_OPEN && ((c->rack.flags & NP_RK_TLP) || c->sacked_segs != 0)) return 0;
  uint64_t since = c->progress_ns > c->last_tx_ns ? c->progress_ns : c->last_tx_ns;
  uint64_t due = since + np_tcp_tlp_wait_ns(c);
  struct np_buf *b = c->sndq_head;
  if (b == NULL || b == c->sndq_next || np_txnext(b) == c->sndq_next) due += NP_TCP_TLP_ALONE_NS;
  return due < c->rtx_due_ns ? due : c->rtx_due_ns;
}
void np_tcp_tlp_fire(struct np_tcp *tcp, struct np_tcp_conn *c);
void np_tcp_tlp_ack(struct np_tcp *tcp, struct np_tcp_conn *c);

/* prr.c */
void np_tcp_prr_start(struct np_tcp_conn *c, uint32_t flight_bytes);
void np_tcp_prr_ack(struct np_tcp *tcp, struct np_tcp_conn *c);

/* undo.c */
void np_tcp_undo_arm(struct np_tcp_conn *c);
void np_tcp_undo_disarm(struct np_tcp_conn *c);
/* A DSACK of segs segments up to end. */
void np_tcp_undo_dsack(struct np_tcp_conn *c, np_seq end, uint32_t segs);
/* Return: true when the ACK proved the episode spurious, which is over then. */
bool np_tcp_undo_ack(struct np_tcp *tcp, struct np_tcp_conn *c);
void np_tcp_frto_start(struct np_tcp_conn *c);

/* sack.c */
/* The segment a reference names; 0: NULL. */
struct np_buf *np_tcp_seg_at(const struct np_tcp_conn *c, uint32_t ref);
/* Out of the list that its flags say it is in, and those off. */
void np_tcp_seg_unlink(struct np_tcp_conn *c, struct np_buf *b);
void np_tcp_due_add(struct np_tcp_conn *c, struct np_buf *b);
void np_tcp_rtx_add(struct np_tcp_conn *c, struct np_buf *b);
/* nb, a copy of b's notes but for its range, is what was cut off behind b. */
void np_tcp_seg_cut(struct np_tcp_conn *c, struct np_buf *b, struct np_buf *nb);
/* Takes in the blocks of an ACK; tells tcp->told. */
void np_tcp_sack_in(struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_opts *opts, np_seq ack);
/* The last of the run of SACKed segments that b is in, as far as budget steps lead. */
struct np_buf *np_tcp_sack_run_end(struct np_tcp_conn *c, struct np_buf *b, uint32_t *budget);
void np_tcp_sack_forget(struct np_tcp_conn *c, struct np_buf *b);
void np_tcp_sack_clear(struct np_tcp_conn *c);
void np_tcp_sack_report(struct np_tcp_conn *c, np_seq start, np_seq end);
void np_tcp_sack_trim(struct np_tcp_conn *c);
/* Nothing from edge on is held any more. */
void np_tcp_sack_cut(struct np_tcp_conn *c, np_seq edge);

/* ooo.c */
/* Takes seg's data, which lies beyond rcv_nxt; sets kept. NP_TCP_OK, or why not: then seg's buffers are as they were. */
enum np_drop np_tcp_ooo_add(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_seg *seg);
void np_tcp_ooo_drain(struct np_tcp *tcp, struct np_tcp_conn *c);
void np_tcp_ooo_free(struct np_tcp_conn *c);
/* Keeps the first keep buffers, takes back what was reported of the rest (RFC 2018 §8). Return: buffers given back. */
uint32_t np_tcp_ooo_shed(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t keep);

/* sendq.c */
void np_tcp_sendq_add(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_buf *chain);
void np_tcp_sendq_free(struct np_tcp_conn *c);
/* Cuts b so that it carries n bytes, the rest in the piece behind it. before: the piece in front of b; NULL: there is
 * none, or it is not known. Return: the piece with n bytes, b or a new one; NULL: no buffer. */
struct np_buf *np_tcp_sendq_cut(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_buf *before, struct np_buf *b, uint32_t n);
/* Moves bytes of the pieces behind b, none of them sent yet, to b until it has n or no room. */
void np_tcp_sendq_fill(struct np_tcp_conn *c, struct np_buf *b, uint32_t n);
/* The sum of a queued piece's payload, kept with it. */
uint16_t np_tcp_sendq_sum(struct np_buf *b);

/* One piece of exactly n bytes out of those never sent, which are as many. NULL: no buffer, or they do not fit one. */
struct np_buf *np_tcp_sendq_join(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t n);

/* pmtu.c */
void np_tcp_pmtu_init(struct np_tcp *tcp, struct np_tcp_conn *c);
/* With NP_CCF_MTU: before new data is sent, and after snd_una moved. */
void np_tcp_pmtu_output(struct np_tcp *tcp, struct np_tcp_conn *c);
void np_tcp_pmtu_acked(struct np_tcp *tcp, struct np_tcp_conn *c);
/* True when all that is to be sent again was lost for its size: no episode begins. */
bool np_tcp_pmtu_excuses(struct np_tcp *tcp, struct np_tcp_conn *c);
/* Before a timeout is acted upon. */
void np_tcp_pmtu_rto(struct np_tcp *tcp, struct np_tcp_conn *c);
/* A packet-too-big message that quotes seq. Return: whether it was about something in flight of that size. */
bool np_tcp_pmtu_error(struct np_tcp *tcp, struct np_tcp_conn *c, np_seq seq, uint32_t mtu_bytes);
/* For people: the largest packet sent. */
uint32_t np_tcp_pmtu_bytes(const struct np_tcp_conn *c);

/* output.c, segment.c */
/* Payload that one buffer takes. */
NP_INLINE uint32_t np_tcp_piece_max(const struct np_tcp *tcp) { return tcp->env.pool->chunk_bytes - NP_BUF_DATA_OFF; }
void np_tcp_output(struct np_tcp *tcp, struct np_tcp_conn *c);
bool np_tcp_send_data(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_buf *b, bool again);
/* Sends count pieces from b on, of which nobody else holds any, as one packet of bytes payload. NEW: never sent; one segment,
 * or several that the port makes. WHOLE: the same, but one segment whatever mss is. AGAIN: sent before; one segment. */
enum np_tcp_gather { NP_TCP_GATHER_NEW, NP_TCP_GATHER_WHOLE, NP_TCP_GATHER_AGAIN };
void np_tcp_send_gathered(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_buf *b, uint32_t count, uint32_t bytes,
                          enum np_tcp_gather how);
/* Sends n bytes of those never sent, which are as many, as one segment whatever mss is. False: no buffer, or they do
 * not fit what this port takes at once; nothing was sent. */
bool np_tcp_send_whole(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t n);
bool np_tcp_send_empty(struct np_tcp *tcp, struct np_tcp_conn *c, uint8_t flags, np_seq seq);
bool np_tcp_send_syn(struct np_tcp *tcp, struct np_tcp_conn *c);
void np_tcp_send_rst(struct np_tcp *tcp, struct np_tcp_conn *c);
/* Answers a segment that belongs to no connection (RFC 9293 §3.10.7.1). */
/* No connection here: another core's, or RST (not for an RST). why: if it is dropped here. */
enum np_drop np_tcp_stray(struct np_tcp *tcp, const struct np_tcp_seg *seg, enum np_drop why);
void np_tcp_reply_rst(struct np_tcp *tcp, const struct np_tcp_seg *seg);
struct np_tcp_synack {
  np_seq seq;
  np_seq ack;
  uint32_t tsval;
  uint32_t tsecr;
  uint16_t mss;
  uint16_t wnd;
  uint8_t wscale; /* 0xff: none */
  bool sack;
  bool ts;
  bool ece;
};
bool np_tcp_send_synack_raw(struct np_tcp *tcp, const struct np_flow *flow, const struct np_tcp_synack *args);

/* timer.c */
void np_tcp_timer_init(struct np_tcp *tcp);
/* Makes sure the timer fires no later than the deadlines. */
void np_tcp_timer_arm(struct np_tcp *tcp, struct np_tcp_conn *c);
/* After an ACK that left nothing in flight. */
void np_tcp_timer_rest(struct np_tcp *tcp, struct np_tcp_conn *c);
void np_tcp_delack_arm(struct np_tcp *tcp, struct np_tcp_conn *c);
void np_tcp_keepalive_start(struct np_tcp *tcp, struct np_tcp_conn *c);
void np_tcp_timers_cancel(struct np_tcp *tcp, struct np_tcp_conn *c);

/* listen.c, cookie.c, isn.c */
struct np_tcp_listener *np_tcp_listener_find(struct np_tcp *tcp, const struct np_flow *flow);
/* Another core has the flow, and *why says what became of seg: NP_TCP_OK, that core has a copy. take: if nobody has
 * it, this one does from now on. */
bool np_tcp_elsewhere(struct np_tcp *tcp, const struct np_tcp_seg *seg, bool take, enum np_drop *why);
/* No connection came of it, or it is gone. */
NP_INLINE void np_tcp_unclaim(struct np_tcp *tcp, const struct np_flow *flow) {
  if (tcp->env.unclaim != NULL) tcp->env.unclaim(tcp->env.ctx, flow);
}
enum np_drop np_tcp_listen_input(struct np_tcp *tcp, struct np_tcp_listener *l, struct np_tcp_seg *seg);
/* No more connections for l, or none from flow's source; *why says which. */
bool np_tcp_listener_full(struct np_tcp *tcp, const struct np_tcp_listener *l, const struct np_flow *flow, enum np_drop *why);
void np_tcp_listener_left(struct np_tcp *tcp, struct np_tcp_conn *c);
void np_tcp_listener_ready(struct np_tcp *tcp, struct np_tcp_conn *c);
void np_tcp_agree(struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_opts *opts);
uint64_t np_tcp_flow_secret(const struct np_tcp *tcp, const struct np_flow *flow);
np_seq np_tcp_isn(const struct np_tcp *tcp, uint64_t flow_secret);
uint32_t np_tcp_ts_offset(uint64_t flow_secret);
uint32_t np_tcp_flow_label(const struct np_tcp *tcp, const struct np_flow *flow);
uint32_t np_tcp_port_offset(const struct np_tcp *tcp, const struct np_flow *flow);
enum np_drop np_tcp_cookie_send(struct np_tcp *tcp, const struct np_tcp_seg *seg);
/* How far behind the segment that brings a cookie of ours back seg is: 0 is that one, to 65,535 one that
 * follows it; else: it knows none. */
uint32_t np_tcp_cookie_ahead(const struct np_tcp *tcp, const struct np_tcp_listener *l, const struct np_tcp_seg *seg);
/* A connection from the ACK of a cookie, NULL with *why when it is none. */
struct np_tcp_conn *np_tcp_cookie_accept(struct np_tcp *tcp, struct np_tcp_listener *l, struct np_tcp_seg *seg, enum np_drop *why);

/* ecn.c */
uint8_t np_tcp_ecn_syn_out(struct np_tcp *tcp, struct np_tcp_conn *c, bool reply);
void np_tcp_ecn_syn_in(struct np_tcp *tcp, struct np_tcp_conn *c, uint8_t flags);
void np_tcp_ecn_in(struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_seg *seg);
void np_tcp_ecn_echoed(struct np_tcp *tcp, struct np_tcp_conn *c);
#define NP_ECN_ECT0 0x2u
#define NP_ECN_CE 0x3u
/* A CE mark that c has to echo. */
NP_INLINE bool np_tcp_ecn_marked(const struct np_tcp_conn *c, const struct np_pkt *pkt) {
  return (pkt->tos & NP_ECN_CE) == NP_ECN_CE && (c->ecn & NP_ECN_OK);
}
/* What an acknowledgment's flags say of marks that came. */
NP_INLINE uint8_t np_tcp_ecn_ack(const struct np_tcp_conn *c) { return c->ecn & NP_ECN_ECHO ? NP_TCP_ECE : 0; }
/* Flags of data, and its IP header's bits in *tos. fresh: sent for the first time, not as a probe. */
NP_INLINE uint8_t np_tcp_ecn_data(struct np_tcp_conn *c, bool fresh, uint8_t *tos) {
  if (NP_LIKELY(c->ecn == 0)) return 0;
  uint8_t flags = np_tcp_ecn_ack(c);
  if (!(c->ecn & NP_ECN_OK) || !fresh) return flags;
  *tos = NP_ECN_ECT0;
  if (c->ecn & NP_ECN_CWR_DUE) flags |= NP_TCP_CWR;
  c->ecn &= (uint8_t)~NP_ECN_CWR_DUE;
  return flags;
}

/* rate.c */
void np_tcp_rate_start(struct np_tcp *tcp, struct np_tcp_conn *c);
void np_tcp_rate_sent(struct np_tcp *tcp, struct np_tcp_conn *c, struct np_tcp_txseg *s);
void np_tcp_rate_delivered(struct np_tcp *tcp, struct np_tcp_conn *c, const struct np_tcp_txseg *s);
void np_tcp_rate_part(struct np_tcp *tcp, struct np_tcp_conn *c, uint32_t bytes);
void np_tcp_rate_lost(struct np_tcp_conn *c, const struct np_tcp_txseg *s);
void np_tcp_rate_make(struct np_tcp *tcp, struct np_tcp_conn *c);
void np_tcp_rate_idle(struct np_tcp_conn *c);
void np_tcp_rate_app_limited(struct np_tcp_conn *c);

/* pace.c */
void np_tcp_pace_init(struct np_tcp *tcp);
void np_tcp_pace_set(struct np_tcp_conn *c, uint64_t bytes_per_s);
void np_tcp_pace_by_cwnd(struct np_tcp_conn *c);
bool np_tcp_pace_hold(struct np_tcp *tcp, struct np_tcp_conn *c);
void np_tcp_pace_sent(struct np_tcp_conn *c, uint32_t bytes);
void np_tcp_pace_run(struct np_tcp *tcp);
void np_tcp_pace_drop(struct np_tcp *tcp, struct np_tcp_conn *c);

/* bbr.c: the pipe was filled once. */
bool np_tcp_bbr_full(const struct np_tcp_conn *c);

/* stream.c */
extern const struct np_stream_ops np_tcp_stream_ops;
/* A session calls with the stream alone. */
struct np_tcp *np_tcp_owner(const struct np_tcp_conn *c);

#endif
