/* SPDX-License-Identifier: MIT */
/* `lbctl top`. */
#ifndef LB_TOOLS_LBCTL_TOP_H
#define LB_TOOLS_LBCTL_TOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct lb_top_opts {
	const char *path; /* of the socket */
	const char *rule; /* to begin with; NULL: all */
	uint32_t interval_ms;
	bool once;   /* one frame as text, then the end */
	size_t rows; /* of each table, then */
};

enum lb_top_end {
	LB_TOP_DONE,
	LB_TOP_REFUSED,     /* the daemon does not tell; said on standard error, as all below */
	LB_TOP_UNREACHABLE, /* .. is not there, or does not speak our language */
	LB_TOP_NO_TERMINAL,
};

/* Until somebody quits, or SIGTERM, SIGINT, SIGHUP: the terminal is as it was. */
enum lb_top_end lb_top_run(const struct lb_top_opts *opts);

#endif
