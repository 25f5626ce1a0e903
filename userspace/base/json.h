/* SPDX-License-Identifier: MIT */
/*
 * JSON text without memory of its own, for those who may not allocate: lines of logs. What builds
 * whole documents uses jansson.
 */
#ifndef LB_BASE_JSON_H
#define LB_BASE_JSON_H

#include <stddef.h>

/* What a string of <len> bytes can become at most, quotes and NUL included. */
#define LB_JSON_STRING_MAX(len) (6 * (len) + 3)

/*
 * Writes <text> as a JSON string, quotes included, into <to>, and a NUL behind it. Returns the
 * length without the NUL. What does not fit into <size> (3 at least) is left away, never a part of
 * a character, and dots stand for it, if they fit. Controls are escaped; a byte that is not UTF-8
 * becomes U+FFFD.
 */
size_t lb_json_string(char *to, size_t size, const char *text);

#endif
