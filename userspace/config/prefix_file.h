/* SPDX-License-Identifier: MIT */
/* Lists of address prefixes in files of their own: one in a line, '#' begins a comment. */
#ifndef LB_CONFIG_PREFIX_FILE_H
#define LB_CONFIG_PREFIX_FILE_H

#include <stddef.h>
#include <stdio.h>

#include "config/prefix.h"

/* Of one file. */
#define LB_PREFIX_FILE_MAX 4194304u

struct lb_prefixes {
	struct lb_prefix *all;
	size_t count;
};

/*
 * Reads what is left of <in>. 0 with *ret to be freed by lb_prefixes_free(); -EINVAL with *line and
 * a sentence in <text> about the first line that is wrong; -ENOMEM; or what reading said. *ret is
 * untouched on failure.
 */
int lb_prefix_file_read(FILE *in, struct lb_prefixes *ret, size_t *line, char *text, size_t size);
/* Leaves it empty. */
void lb_prefixes_free(struct lb_prefixes *p);

#endif
