/* SPDX-License-Identifier: MIT */
#include <bpf/bpf.h>
#include <xdp/libxdp.h>
#include <linux/bpf.h>

#include "sk_verdict.skel.h"
