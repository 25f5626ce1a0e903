/* SPDX-License-Identifier: MIT */
void f(void) { exit(1); }
