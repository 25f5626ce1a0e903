/* SPDX-License-Identifier: MIT */
void f(void) { _exit(1); }
