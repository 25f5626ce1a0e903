/* SPDX-License-Identifier: MIT */
/* Names to addresses. */
#ifndef LB_BACKEND_RESOLVE_H
#define LB_BACKEND_RESOLVE_H

#include <stdint.h>

#include "base/addr.h"

/*
 * First stream address of <host> (numeric or name) with <port>. Blocks: main thread at start only.
 * 0, or -EADDRNOTAVAIL / -ENOMEM with *ret untouched.
 */
int lb_resolve(const char *host, uint16_t port, struct lb_addr *ret);

#endif
