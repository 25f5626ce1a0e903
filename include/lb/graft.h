/* SPDX-License-Identifier: MIT */
/*
 * A graft: two established TCP connections of one flow that have become one at packet level. What
 * arrives on one leg is rewritten into a packet of the other leg, by bpf/tc_graft.bpf.c.
 *
 * The rewriting is a constant distance because a proxy is byte-exact: let
 *	in(L)  = the sequence number of the first payload byte of leg L's peer
 *	out(L) = the sequence number of our first payload byte on leg L
 *		 (a PROXY header in front of either is no payload)
 * then for every packet from leg L to the other leg O, in mid-stream or not:
 *	seq += out(O) - in(L)		ack += in(O) - out(L)
 * A byte may travel through our sockets or inside a rewritten packet, at any time: it lands at the
 * same position, and one that travels both ways is a duplicate like any other.
 *
 *	PASS ------------------> SPLIT ----------------> FULL
 *	the packets go to our	 all packets are	 the sockets are gone,
 *	sockets; the program	 forwarded; our sockets	 closed without a packet
 *	notes that it sees them	 get them too, without
 *				 payload, so that they
 *				 can finish what they owe
 *
 * The stage is one word of the pair, so both legs change at once. Only the daemon changes it.
 *
 * Tables (all pinned; they outlive the daemon)
 *	lb_graft_v4, lb_graft_v6   addresses and ports as a packet arrives -> index (pair * 2 + leg)
 *	lb_grafts                  struct lb_graft by pair, mapped into the daemon
 *	lb_graft_ring              pairs that want to be looked at (struct lb_graft_event)
 *	lb_graft_meta              struct lb_graft_meta, one
 *	lb_graft_count             per CPU, graft_counters.def
 */
#ifndef LB_GRAFT_H
#define LB_GRAFT_H

#include <linux/types.h>

/* Layout and meaning of everything below; pinned tables of another version are not adopted. */
#define LB_GRAFT_ABI 4u

/* Grafts the tables can hold at most. */
#define LB_GRAFT_PAIRS_MAX 1048576u
/* Bytes of the event ring: a power of two and a multiple of the page size. */
#define LB_GRAFT_RING_BYTES (256u * 1024u)

enum lb_graft_stage {
	LB_GRAFT_FREE = 0, /* no graft: packets are not ours */
	LB_GRAFT_PASS,
	LB_GRAFT_SPLIT,
	LB_GRAFT_FULL,
};

/* Keys: as the packet arrives, network byte order. */
struct lb_graft_v4 {
	__be32 saddr, daddr;
	__be16 sport, dport;
};

struct lb_graft_v6 {
	__be32 saddr[4], daddr[4];
	__be16 sport, dport;
};

/* lb_graft_leg.fixed: set by the daemon before the pair leaves PASS. */
enum {
	LB_GRAFT_IPV6 = 1 << 0,       /* both legs; IPv4 otherwise */
	LB_GRAFT_TIMESTAMPS = 1 << 1, /* both legs negotiated RFC 7323 timestamps */
};

/* lb_graft_leg.flags: set by the program (atomic or); the daemon may take RST back. */
enum {
	LB_GRAFT_SEEN = 1 << 0,      /* a packet of this leg came by */
	LB_GRAFT_IRREGULAR = 1 << 1, /* .. with IP options, extension headers or in fragments */
	LB_GRAFT_FIN = 1 << 2,       /* the peer has closed: fin_end is valid; taken back when
				      * data goes beyond: it was not the peer's */
	LB_GRAFT_FIN_ACKED = 1 << 3, /* .. and the other peer has acknowledged it */
	LB_GRAFT_RST = 1 << 4,       /* the peer reset the flow, and was the first to do so */
	LB_GRAFT_GONE = 1 << 5,      /* a new connection uses the addresses: the keys are gone */
};

/* What arrives on a leg, and what it becomes. Two cache lines. */
struct lb_graft_leg {
	/* The daemon's; from SPLIT on constant, but for ifindex. Addresses: IPv4 in [0]. */
	__be32 saddr[4], daddr[4]; /* of the packet as it leaves: us -> the other leg's peer */
	__be16 sport, dport;
	__u32 seq_shift;
	__u32 ack_shift;
	__u32 ifindex;   /* where it leaves, by the route; 0: its target is on this host */
	__u32 ts_clock;  /* TSval on the other leg minus CLOCK_MONOTONIC, ms, margin included */
	__u8 wscale_in;  /* of the windows this peer announces */
	__u8 wscale_out; /* of the windows we announced on the other leg */
	__u16 fixed;
	/*
	 * In SPLIT no larger acknowledgement than this goes to the other leg's peer, in its own
	 * numbers; 0: any. What our socket there still sends acknowledges what it got before SPLIT,
	 * and a peer drops an acknowledgement that is more than a window old (RFC 5961, 5.2).
	 */
	__u32 ack_limit;
	/* The program does not read these. */
	union {
		struct { /* of leg 0: with lb_graft.client */
			__be16 named_port;
			__u8 named_version; /* 4 or 6; 0: no header named one, it is its peer */
			__u8 pad0;
		};
		__u32 connected_us; /* of leg 1: from accept to connected, 71 minutes at most */
	};
	/*
	 * The program's, from SPLIT on (the daemon fills them in before, in PASS). Sequence
	 * numbers are as they arrive on this leg.
	 */
	__u64 packets;
	__u64 bytes; /* the peer's payload since it was connected, retransmissions not counted */
	/* CLOCK_MONOTONIC of the peer's first payload; 0: none yet. Of leg 1 since it was
	 * connected, of leg 0 what the program saw. The other two tick in jiffies. */
	__u64 first_ns;
	__u64 last_ns;  /* .. of the last packet that was no RST */
	__u64 data_ns;  /* .. of the last one with payload or FIN */
	__u32 seq_end;  /* behind the last payload byte seen in window */
	__u32 ack_max;  /* highest acknowledgement: what this peer expects next of the other one */
	__u32 edge;     /* highest ack + window: what this peer can take */
	__u32 fin_end;  /* behind the peer's FIN */
	__u32 ts_shift; /* added to TSval; 0: not yet fixed */
	__u32 flags;
};

/* Who answers for a pair in stage FULL. */
enum lb_graft_counted {
	LB_GRAFT_SESSION = 0, /* the session that is about to leave it */
	LB_GRAFT_KEPT,        /* the keeper: one of its flows */
	LB_GRAFT_LINGERS,     /* .. and it has ended and is written down */
};

/* Five cache lines. */
struct lb_graft {
	struct lb_graft_leg leg[2]; /* enum lb_leg_index */
	/* The daemon's. */
	__u32 stage; /* enum lb_graft_stage */
	/* The program does not read the rest: it is the flow's record while no session exists. */
	__u32 rule_hash;  /* of the rule's name: finds the rule again after a restart */
	__u64 accept_ns;  /* CLOCK_MONOTONIC */
	__u64 folded[2];  /* of leg[].bytes: already in the daemon's counters */
	__u64 due_ns;     /* when to remove it, CLOCK_MONOTONIC; 0: it lives */
	__u32 connect_us; /* of the connect that succeeded */
	__u8 tries;
	__u8 first_told; /* leg[1].first_ns is in the daemon's counters */
	__u8 end_reason; /* why the daemon ends it, enum lb_reason + 1; 0: it does not */
	__u8 counted;    /* enum lb_graft_counted */
	/*
	 * The client that a PROXY header named, and that limits and the log mean; leg 0's peer is
	 * then the proxy that sent it. IPv4 in [0]; its port and version are with leg 0.
	 */
	__be32 client[4];
};

/* "Look at this pair": it has ended, or its addresses are used again. */
struct lb_graft_event {
	__u32 pair;
	__u32 pad;
};

/* Readable for any version: these two fields never move. */
struct lb_graft_meta {
	__u32 abi;   /* LB_GRAFT_ABI */
	__u32 pairs; /* entries of lb_grafts */
	/*
	 * Source address of the Ethernet frames that carry a payload-less copy to our own stack:
	 * random, locally administered. Only a packet with it skips the forwarding.
	 */
	__u8 mark[6];
	__u8 pad[2];
	__u64 lost; /* events that found the ring full: look at all pairs */
};

enum lb_graft_counter {
#define LB_GRAFT_COUNTER(symbol, word, help) LB_GRAFT_COUNT_##symbol,
#include <lb/graft_counters.def>
#undef LB_GRAFT_COUNTER
	LB_GRAFT_COUNT_MAX_
};

#ifdef __cplusplus
#error "C only"
#endif
_Static_assert(sizeof(struct lb_graft_v4) == 12, "no padding in a hash key");
_Static_assert(sizeof(struct lb_graft_v6) == 36, "no padding in a hash key");
_Static_assert(sizeof(struct lb_graft_leg) == 128, "two cache lines");
_Static_assert(__builtin_offsetof(struct lb_graft_leg, packets) == 64, "the program's line");
_Static_assert(sizeof(struct lb_graft) == 320, "five cache lines");
_Static_assert(sizeof(struct lb_graft_event) == 8, "no padding");
_Static_assert(sizeof(struct lb_graft_meta) == 24, "no padding");

#endif
