/* SPDX-License-Identifier: MIT */
/*
 * The byte pattern the tools send and check: a fixed pseudo-random stream of a prime period, so
 * that a byte lost, doubled, flipped or moved is found at its offset. Nothing is computed per byte
 * sent: the stream is a table, and a piece of it is a pointer into that table.
 */
#ifndef LB_TOOLS_PATTERN_H
#define LB_TOOLS_PATTERN_H

#include <stddef.h>
#include <stdint.h>

/* Prime: no buffer size divides it, so data moved by whole buffers does not look right again. */
#define LB_PATTERN_PERIOD 1048573u
/* Bytes that may be read from where lb_pattern_at() points. */
#define LB_PATTERN_WINDOW (256u * 1024u)

/* Fills the table. Once, before threads and before the functions below. */
void lb_pattern_init(void);

/* The stream from <offset> on: LB_PATTERN_WINDOW bytes, read-only, valid for ever. */
const uint8_t *lb_pattern_at(uint64_t offset);

/* How many leading bytes of <buf> are the stream from <offset> on; <len> when all of them are. */
size_t lb_pattern_match(uint64_t offset, const void *buf, size_t len);

#endif
