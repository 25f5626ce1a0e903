/* SPDX-License-Identifier: MIT */
/*
 * The two roles of the throughput tool and what they say to each other.
 *
 * A source opens each connection with a hello, and a sink ends each with a trailer:
 *
 *	up (default)   source: hello pattern FIN          sink: trailer FIN
 *	--reverse      source: hello .. FIN when over      sink: pattern trailer FIN
 *	--echo         source: pattern FIN                 any echo service: the same bytes FIN
 *
 * The trailer counts the pattern bytes of the connection. A connection that is cut, or ended
 * cleanly in mid-stream by somebody between the two, is therefore never taken for a complete one.
 */
#ifndef LB_TOOLS_THROUGHPUT_H
#define LB_TOOLS_THROUGHPUT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"

#define LB_THROUGHPUT_MAGIC   0x4c344c4254505554ull /* "L4LBTPUT" */
#define LB_THROUGHPUT_MATCHED UINT64_MAX
/* Bytes moved by one system call, and how many calls before the other connections have a turn. */
#define LB_THROUGHPUT_CHUNK (128u * 1024u)
#define LB_THROUGHPUT_BATCH 4

enum lb_throughput_flag {
	LB_THROUGHPUT_REVERSE = 1, /* the sink sends */
	LB_THROUGHPUT_VERIFY = 2,  /* the receiver compares */
};

/* On the wire every field is big-endian. */
struct lb_throughput_hello {
	uint64_t magic;
	uint32_t flags;
	uint32_t phase; /* where in the pattern this connection starts */
	uint64_t bytes; /* with REVERSE: how many to send; 0: until the source says FIN */
};

struct lb_throughput_trailer {
	uint64_t magic;
	uint64_t bytes;    /* pattern bytes the sink received, or sent */
	uint64_t mismatch; /* offset of the first wrong byte the sink received, or MATCHED */
};

_Static_assert(sizeof(struct lb_throughput_hello) == 24, "wire format");
_Static_assert(sizeof(struct lb_throughput_trailer) == 24, "wire format");

struct lb_throughput_opts {
	struct lb_addr addr; /* to listen on, to connect to */
	uint32_t connections;
	uint64_t seconds; /* 0: by bytes */
	uint64_t bytes;   /* of each connection; 0: by seconds */
	uint64_t stall_s; /* a source gives up when no byte moved for so long */
	bool reverse, echo, verify, json;
};

/* Run until done or stopped by a signal. Return the process's exit code; they print what failed. */
int lb_throughput_source(const struct lb_throughput_opts *o);
int lb_throughput_sink(const struct lb_throughput_opts *o);

#endif
