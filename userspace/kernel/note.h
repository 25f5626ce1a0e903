/* SPDX-License-Identifier: MIT */
/* What a caller is told in words beside an errno. Pure, any thread. */
#ifndef LB_KERNEL_NOTE_H
#define LB_KERNEL_NOTE_H

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

/* The caller's buffer, of <size> bytes with its terminator. */
struct lb_note {
	char *text;
	size_t size;
};

/* Writes the text, cut to its size. Returns <err>. */
static inline int __attribute__((format(printf, 3, 4)))
lb_note(struct lb_note note, int err, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(note.text, note.size, fmt, args);
	va_end(args);
	return err;
}

#endif
