/* SPDX-License-Identifier: MIT */
/*
 * Tables and numbers for people: columns as wide as they need, numbers short enough to compare at
 * a glance. Pure.
 */
#ifndef LB_TOOLS_LBCTL_TABLE_H
#define LB_TOOLS_LBCTL_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct lb_table;

struct lb_table_column {
	const char *head;
	bool right; /* numbers */
};

/* <columns> is borrowed. 0 or -ENOMEM. */
int lb_table_new(struct lb_table **ret, const struct lb_table_column *columns, size_t count);
/*
 * The next cell, from left to right, row by row; copied. What could steer a terminal becomes '?'.
 * Without memory the table says so at its end.
 */
void lb_table_add(struct lb_table *t, const char *text);
/* One line for the heads and one for each whole row. 0, or -ENOMEM and nothing is printed. */
int lb_table_print(const struct lb_table *t, FILE *out);
/* NULL inside is fine. */
void lb_table_free(struct lb_table **t);

/* All of them write at most LB_NUMBER_MAX bytes and return <buf>. */
#define LB_NUMBER_MAX 24

/* 999, 1.2k, 34M: three digits at most, decimal units. */
const char *lb_number_count(uint64_t n, char buf[LB_NUMBER_MAX]);
/* 85ms, 3.2s, 4m10s, 2h03m, 5d04h */
const char *lb_number_ms(uint64_t ms, char buf[LB_NUMBER_MAX]);
/* 85us, 1.2ms, 340ms, 2.1s */
const char *lb_number_us(uint64_t us, char buf[LB_NUMBER_MAX]);

#endif
