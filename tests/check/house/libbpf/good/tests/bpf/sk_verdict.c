/* SPDX-License-Identifier: MIT */
#include <bpf/bpf.h>
