/* SPDX-License-Identifier: MIT */
/*
 * Which certificate a client gets, by the name it asks for: exact, then `*.parent`, then the
 * default one. Pure; any thread may look when all are in.
 */
#ifndef LB_FLOW_TLS_NAMES_H
#define LB_FLOW_TLS_NAMES_H

#include <stddef.h>
#include <stdint.h>

struct lb_tls_name {
	char *text; /* lower case; of `*.example.org` from the dot on */
	uint32_t certificate;
};

struct lb_tls_names {
	struct lb_tls_name *items;
	size_t count;
};

/* <name> leads to <certificate>, if no earlier one does. 0, -EINVAL for no name, or -ENOMEM. */
int lb_tls_names_add(struct lb_tls_names *n, const char *name, uint32_t certificate);
/* After the last one, before the first look. */
void lb_tls_names_sort(struct lb_tls_names *n);
/* The certificate for <name>, or <otherwise>. */
uint32_t lb_tls_names_find(const struct lb_tls_names *n, const char *name, uint32_t otherwise);
void lb_tls_names_fini(struct lb_tls_names *n);

#endif
