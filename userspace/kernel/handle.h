/* SPDX-License-Identifier: MIT */
/* struct lb_kernel, for the files of this folder (and its tests) only. */
#ifndef LB_KERNEL_HANDLE_H
#define LB_KERNEL_HANDLE_H

#include <stdint.h>

#include "kernel/kernel.h"
#include "kernel/load.h"
#include "kernel/pin.h"

struct lb_ring;

struct lb_kernel {
	struct lb_load load;
	struct lb_ring *rings; /* one per worker */
	struct lb_pin pin;
};

/* Makes one ring per worker and hands them to the program. 0 or -errno with nothing left. */
int lb_ring_open(struct lb_kernel *k);
/* Harmless when they are not open. */
void lb_ring_close(struct lb_kernel *k);

#endif
