/* SPDX-License-Identifier: MIT */
/*
 * A carrier moves the bytes of an established pair of connections. Here: the pair, the carriers'
 * common face, and the rule of promotion from relay to a kernel carrier. Carriers know nothing of
 * sessions: they report the end through pair->end.
 *
 *   relay    userspace: recv/send, splice for bulk             every flow starts here
 *   sockmap  the kernel redirects behind the credit gate       promoted at a quiet point
 *   graft    packets of one leg become packets of the other    promoted when little is under way;
 *                                                              the flow leaves its session behind
 *
 * Everything here runs in the owning worker's thread.
 *
 * Invariants
 *  C1  A byte is counted (lb_direction.bytes) when the sink's socket has accepted it.
 *  C2  pair->end is called at most once, and the pair is not touched after it returned.
 *  C3  A clean FIN is passed on only after every byte read before it was accepted by the sink.
 *      Where bytes were or may have been lost, both legs end with RST.
 */
#ifndef LB_FLOW_CARRIER_H
#define LB_FLOW_CARRIER_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/tls_heard.h"
#include "config/config.h"
#include "flow/budget.h"
#include "flow/pipe.h"
#include "kernel/kernel.h"
#include "loop/loop.h"

struct lb_graft;
struct lb_grafts;
struct lb_pair;
struct ssl_st; /* OpenSSL's SSL */
struct lb_ports;

enum lb_reason {
#define LB_REASON(symbol, word, help) LB_REASON_##symbol,
#include <lb/reasons.def>
#undef LB_REASON
	LB_REASON_MAX_
};
const char *lb_reason_word(enum lb_reason reason);
const char *lb_reason_help(enum lb_reason reason);

enum lb_carrier_id { LB_CARRIER_RELAY, LB_CARRIER_SOCKMAP, LB_CARRIER_GRAFT, LB_CARRIER_MAX_ };

struct lb_carrier {
	const char *name;
	enum lb_carrier_id id;
	/*
	 * Takes the pair over at a quiet point: nothing held, nothing readable, no end seen. 0, or
	 * -errno with the pair unchanged and pair->why set. NULL for relay, where pairs begin.
	 */
	int (*start)(struct lb_pair *p);
	/* <events> (EPOLL*) of leg <leg>; 0 means: look again (queued task, poll timer). */
	void (*event)(struct lb_pair *p, unsigned int leg, uint32_t events);
	/* Payload bytes that crossed from leg <d> to the other one so far. */
	uint64_t (*bytes)(const struct lb_pair *p, unsigned int d);
	/* Time of the last payload, CLOCK_MONOTONIC ns. */
	uint64_t (*last_ns)(const struct lb_pair *p);
	/* .. and of the backend's first; 0: it has sent none. */
	uint64_t (*first_ns)(const struct lb_pair *p);
	/* True when every byte read was also accepted by the sink: closing loses nothing. */
	bool (*clean)(const struct lb_pair *p);
	/*
	 * NULL, or called when the pair ends, before the owner closes its descriptors: closes them
	 * in its own way. <clean>: in good order.
	 */
	void (*quit)(struct lb_pair *p, bool clean);
	/* Frees what the carrier holds; the descriptors have just been closed by the owner. */
	void (*stop)(struct lb_pair *p);
};

extern const struct lb_carrier lb_relay;
extern const struct lb_carrier lb_sockmap;
extern const struct lb_carrier lb_graft;

/* What a worker lends to all its pairs. */
struct lb_carrier_env {
	struct lb_loop *loop;
	struct lb_kernel *kernel; /* NULL: sockmap is not in service .. */
	enum lb_why kernel_why;   /* .. because of this */
	struct lb_grafts *grafts; /* shared by all workers; NULL: graft is not in service .. */
	enum lb_why graft_why;    /* .. because of this */
	uint32_t worker;
	struct lb_pipe_pool pipes;
	char *scratch;                  /* LB_SCRATCH_BYTES; holds nothing between calls */
	struct lb_sockmap_slots *slots; /* shared by all workers */
};
#define LB_SCRATCH_BYTES (256u * 1024u)

/* One connection. */
struct lb_leg {
	struct lb_watch watch; /* .fd is owned by the pair's owner */
	uint8_t index;         /* LB_LEG_* */
	bool readable;         /* may have bytes or an end to read */
	bool writable;         /* has not refused bytes since the last EPOLLOUT */
	bool until_empty; /* a FIN, an error or urgent data came: a short read is not the end */
	uint32_t mask;    /* EPOLL* registered */
	/* Bytes in front of the payload, which no carrier counts: PROXY headers. */
	uint32_t lead_in;  /* from its peer, read before carrying began .. */
	uint32_t lead_out; /* .. and to it, written before */
	/* Its window for the sake of the budget, see throttle.h; 0: untouched. */
	uint32_t throttled;
	/* TLS; NULL: it speaks none. */
	struct ssl_st *ssl;
	struct lb_tls_heard heard;
	bool ktls;    /* the kernel seals what is sent to it: see backend/ktls.h */
	bool alerted; /* it was told what is wrong: that must arrive, so it is not reset */
	/* Another process may have the socket, too: closing it here takes it out of no epoll. */
	bool shared;
	/* sockmap */
	uint64_t cookie;
	uint32_t window;   /* bytes its peer may have under way to us .. */
	uint32_t promised; /* .. and may for now */
	uint32_t sndbuf;   /* what SO_SNDBUF said when nothing was short */
};

/* The way from leg [i] ("the source") to leg [i ^ 1] ("the sink"). */
struct lb_direction {
	uint64_t bytes; /* written into the sink by the daemon */
	/* Read and not yet written: on the heap .. */
	char *held;
	uint32_t held_at, held_end;
	/* .. or in a pipe. */
	uint32_t piped;
	struct lb_pipe *pipe;
	uint8_t full_reads;       /* relay: how bulky the stream looks */
	struct lb_budget *budget; /* NULL: no limit; the owner's */
	bool eof;                 /* the source's FIN was read */
	bool shut;                /* .. and passed on */
	/* sockmap */
	bool user;           /* the daemon carries (or watches over) this direction now */
	bool drained;        /* nothing of ours is on its way inside the kernel .. */
	uint32_t episode;    /* .. in this episode of the gate */
	uint64_t read_bytes; /* passed bytes read since insertion */
	uint64_t written0;   /* bytes the sink's socket had taken at insertion */
};

/* How far a pair is on its way to a graft, see graft.h. */
enum lb_pair_graft {
	LB_PAIR_GRAFT_OFF, /* not wanted, or refused once and for all */
	LB_PAIR_GRAFT_OPEN,
	LB_PAIR_GRAFT_WATCHED,
	LB_PAIR_GRAFT_CARRIED,
};

/* How close the ends of a pair are to be before it can be grafted, see graft_narrow.h. */
struct lb_narrow {
	bool on;              /* relay reads little */
	uint32_t limit;       /* bytes between the ends, each way */
	uint64_t acked[2];    /* by direction: bytes the sink has acknowledged .. */
	uint64_t since_ns[2]; /* .. the last time it did */
	uint32_t looks[2];    /* .. and how often it was seen not to have, since */
	uint32_t rcvbuf[2];   /* by leg: its receive buffer before */
};

struct lb_pair {
	struct lb_leg leg[2];
	struct lb_direction dir[2];
	const struct lb_carrier *carrier;
	struct lb_carrier_env *env;
	/* Called once, from inside the carrier: close both legs, with RST unless <clean>. */
	void (*end)(struct lb_pair *p, enum lb_reason reason, bool clean);
	/* Told when another carrier, <to>, is about to count the bytes. May be NULL. */
	void (*promoted)(struct lb_pair *p, const struct lb_carrier *to);
	/*
	 * Told once when the flow goes on without its sockets, which are closed: the owner leaves
	 * the flow's record in <g> and lets the pair go.
	 */
	void (*left)(struct lb_pair *p, struct lb_graft *g);
	lb_watch_fn on_event;   /* the owner's, for both legs */
	struct lb_task again;   /* -> carrier->event(p, .., 0) in the next turn */
	struct lb_timer poll;   /* the same, later */
	uint64_t start_ns;      /* when carrying began */
	uint64_t last_ns;       /* last payload moved by the daemon */
	uint64_t first_ns;      /* the backend's first, as far as the daemon has read it; 0: none */
	uint32_t sockmap_index; /* of leg 0; leg 1 has the next */
	uint64_t leave_ns;      /* sockmap: verdicts are held up since then; 0: they are not */
	uint64_t poll_since_ns; /* sockmap: awaits what makes no event since then; 0: it does not */
	uint32_t poll_ms;       /* graft: the next wait for what makes no event */
	bool thrifty;           /* sockmap: TCP is short of memory .. */
	uint64_t thrifty_ns;    /* .. since then */
	uint64_t looked_ns;     /* .. asked then */
	uint32_t reads;         /* relay: since the last judgement .. */
	uint64_t judged_bytes;  /* .. when this much had been moved */
	bool bypassed;          /* relay: bytes of a leg may skip TCP (same_host_bypass) */
	bool tethered;          /* sockmap: leg 1 was refused, the daemon carries both ways */
	bool sockmap_off;       /* sockmap is not wanted, or was refused once and for all */
	struct lb_narrow narrow;
	enum lb_pair_graft graft;
	uint32_t graft_pair;     /* in the table, while WATCHED or CARRIED */
	uint32_t graft_in[2];    /* by leg: sequence number of the peer's first byte .. */
	uint32_t graft_out[2];   /* .. and of ours */
	uint8_t graft_probes;    /* sent again */
	uint64_t graft_since_ns; /* watched, then split, since */
	uint64_t graft_next_ns;  /* SPLIT is not to be tried before */
	struct lb_ports *ports;  /* the backend's book, when leg 1's port is from it; else NULL */
	enum lb_acceleration acceleration;
	enum lb_why why; /* why it is not on a faster carrier */
	int error; /* what the failed leg's socket said, a positive errno; 0: nothing failed */
	const char *detail; /* what its TLS said; static, NULL: nothing */
};

/* tcpi_state, include/net/tcp_states.h: <netinet/tcp.h> has it, but not beside <linux/tcp.h>. */
#define LB_TCP_ESTABLISHED 1

static inline bool lb_carrier_holds_nothing(const struct lb_direction *dir)
{
	return !dir->held && !dir->piped;
}

/* How both legs are registered when a pair begins. */
#define LB_LEG_EVENTS ((uint32_t)EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | (uint32_t)EPOLLET)

/* Fills in a pair that is all zero. The owner registers the watches, with LB_LEG_EVENTS. */
void lb_carrier_init(struct lb_pair *p, struct lb_carrier_env *env,
		     enum lb_acceleration acceleration);
/*
 * Some leg's bytes may skip TCP: relay carries the pair for good, it neither splices nor takes a
 * short read for the end. Right after lb_carrier_init().
 */
void lb_carrier_bypass(struct lb_pair *p);
/*
 * Its rule limits the bandwidth: the pair is never grafted, for nobody could hold a graft's bytes
 * back. The budgets are the owner's to set before lb_carrier_begin(). Right after
 * lb_carrier_init().
 */
void lb_carrier_limit(struct lb_pair *p);
/* A leg speaks TLS: <carrier> has the pair for good. Right after lb_carrier_init(). */
void lb_carrier_seal(struct lb_pair *p, const struct lb_carrier *carrier);
/* Begins in relay. Events that came before are told through leg[].readable and .until_empty. */
void lb_carrier_begin(struct lb_pair *p);
/* The same of a pair that was carried before, by another process: its times are filled in. */
void lb_carrier_resume(struct lb_pair *p);

/* The rates of its budgets have changed. It may end here. */
void lb_carrier_look_again(struct lb_pair *p);

/*
 * Called by relay at a quiet point: is it time for sockmap? True when it has taken over: the caller
 * must not touch the pair any more (it may have ended).
 */
bool lb_carrier_promote(struct lb_pair *p);

/* The carrier to report: a tethered pair's bytes are moved by the daemon, whoever is in charge. */
const struct lb_carrier *lb_carrier_of(const struct lb_pair *p);

/* The owner calls this before it closes the legs: no callback comes after it. */
void lb_carrier_quiesce(struct lb_pair *p);

/* Helpers for the carriers. */

/* The daemon has read payload of leg <d>. */
static inline void lb_carrier_note_read(struct lb_pair *p, unsigned int d)
{
	if (d == LB_LEG_BACKEND && !p->first_ns)
		p->first_ns = lb_loop_now_ns(p->env->loop);
}
/* carrier->first_ns of those that read everything themselves. */
uint64_t lb_carrier_first_ns(const struct lb_pair *p);

/*
 * Bytes that one direction may move in this turn before others have theirs: the fewer, the more of
 * them there are, so that a turn stays short when hundreds of flows are busy.
 */
uint64_t lb_carrier_share(const struct lb_pair *p);
/* carrier->event(p, .., 0) in the next turn. */
void lb_carrier_again(struct lb_pair *p);
/* The same after a nap (lb_loop_soon). */
void lb_carrier_soon(struct lb_pair *p);

/* Keeps <len> bytes of <data> as held. 0 or -ENOMEM. */
int lb_carrier_hold(struct lb_direction *dir, const char *data, uint32_t len);
void lb_carrier_release(struct lb_direction *dir);
/* Changes leg <i>'s registration when it differs. */
void lb_carrier_watch(struct lb_pair *p, unsigned int i, uint32_t mask);
/*
 * Passes a FIN that was read on to the sink, or ends the pair when it was the second one.
 * True when the pair has ended.
 */
bool lb_carrier_finish(struct lb_pair *p, unsigned int d);
enum lb_reason lb_carrier_reset_reason(unsigned int leg);
/* EPOLLERR came for leg <i>: fetches the error and ends the pair. */
void lb_carrier_leg_failed(struct lb_pair *p, unsigned int i);

#endif
