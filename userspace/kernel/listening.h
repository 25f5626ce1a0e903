/* SPDX-License-Identifier: MIT */
/* Who listens where, as the kernel's socket diagnosis tells. */
#ifndef LB_KERNEL_LISTENING_H
#define LB_KERNEL_LISTENING_H

#include <stdbool.h>

#include "base/addr.h"

/* 0 with *ret: some socket listens at <addr> or, of its family, where it would catch <addr>. */
int lb_listening_look(const struct lb_addr *addr, bool *ret);

#endif
