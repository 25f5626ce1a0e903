/* SPDX-License-Identifier: MIT */
/* How many descriptors the process may have. */
#ifndef LB_CONTROL_DESCRIPTORS_H
#define LB_CONTROL_DESCRIPTORS_H

#include <stdint.h>

/* Raises the limit as far as it goes without rights; what it is then. Main thread. */
uint64_t lb_descriptors_raise(void);

#endif
