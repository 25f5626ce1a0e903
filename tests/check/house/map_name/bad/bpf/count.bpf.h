/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
struct {
	__uint(max_entries, 2);
} lb_sixteen_chars SEC(".maps");
