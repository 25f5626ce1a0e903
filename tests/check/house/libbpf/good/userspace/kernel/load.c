/* SPDX-License-Identifier: MIT */
#include <bpf/libbpf.h>

#include "sk_verdict.skel.h"
