/* SPDX-License-Identifier: MIT */
/*
 * Numbers as people write them: "250", "5s", "10MiB". Pure text arithmetic; what a number means and
 * which range it must be in is the schema's business.
 */
#ifndef LB_CONFIG_UNITS_H
#define LB_CONFIG_UNITS_H

#include <stddef.h>
#include <stdint.h>

/*
 * All three: the whole text must be the number, without a sign, leading zeros or inner blanks (one
 * blank may stand before a unit). 0, -EINVAL for another form, -ERANGE beyond 64 bits; *ret is
 * untouched on failure. Any thread.
 */
int lb_units_parse_number(const char *text, uint64_t *ret);
/* Milliseconds. Units ms, s, min, h, d; without one the number is milliseconds. */
int lb_units_parse_ms(const char *text, uint64_t *ret);
/* Bytes. Units B, KiB, MiB, GiB, TiB (1024) and kB, MB, GB, TB (1000). */
int lb_units_parse_bytes(const char *text, uint64_t *ret);

#define LB_UNITS_STR_MAX 32

/* For people: in the largest unit that divides it, "10min". Parses back to <ms>. Returns <buf>. */
const char *lb_units_format_ms(uint64_t ms, char buf[LB_UNITS_STR_MAX]);
const char *lb_units_format_bytes(uint64_t bytes, char buf[LB_UNITS_STR_MAX]);

#endif
