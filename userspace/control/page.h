/* SPDX-License-Identifier: MIT */
/*
 * The dashboard: one file that is part of the program, and what a browser is told about it. Pure
 * but for lb_page_policy(), which needs libcrypto.
 */
#ifndef LB_CONTROL_PAGE_H
#define LB_CONTROL_PAGE_H

#include <stdbool.h>
#include <stddef.h>

#define LB_PAGE_POLICY_MAX 512

/* userspace/control/page.html; for ever. */
const char *lb_page_html(size_t *len);

/*
 * The Content-Security-Policy of <html>: its one style and its one script, by their hashes, answers
 * from where it came from, and nothing else. 0, or -EINVAL when it does not have one of each.
 */
int lb_page_policy(const char *html, size_t len, char policy[LB_PAGE_POLICY_MAX]);

/*
 * True when <host>, a Host header, is an address or localhost. A name may be one that somebody else
 * has made to point here, so that his page reads ours (DNS rebinding); an address he cannot make.
 * NULL is nobody's.
 */
bool lb_page_host_is_fine(const char *host);

#endif
