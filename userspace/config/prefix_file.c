/* SPDX-License-Identifier: MIT */
/*
 * See prefix_file.h. Must never skip a line that it does not understand: it may be the one that
 * matters.
 */
#include "config/prefix_file.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define FIRST_ROOM 1024u
#define BLANKS     " \t\r\n"
/* Longer than any entry: a file without newlines must not fill the memory. */
#define LINE_MAX_BYTES 512u

struct reading {
	struct lb_prefixes list;
	size_t room;
};

static int add(struct reading *r, const struct lb_prefix *p)
{
	struct lb_prefix *grown;
	size_t room = r->room ? r->room * 2 : FIRST_ROOM;

	if (r->list.count == r->room) {
		grown = realloc(r->list.all, room * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		r->list.all = grown;
		r->room = room;
	}
	r->list.all[r->list.count++] = *p;
	return 0;
}

/* The entry in <line>, without what surrounds it; NULL: there is none. */
static char *entry_of(char *line)
{
	char *end;

	line[strcspn(line, "#")] = '\0';
	line += strspn(line, BLANKS);
	end = line + strlen(line);
	while (end > line && strchr(BLANKS, end[-1]))
		end--;
	*end = '\0';
	return *line ? line : NULL;
}

static int read_line(struct reading *r, char *line, char *text, size_t size)
{
	struct lb_prefix p;
	char *entry;

	entry = entry_of(line);
	if (!entry)
		return 0;
	if (lb_prefix_parse(entry, &p)) {
		snprintf(text, size, "'%.64s' is no address and no prefix such as 10.0.0.0/8",
			 entry);
		return -EINVAL;
	}
	if (r->list.count == LB_PREFIX_FILE_MAX) {
		snprintf(text, size, "more than %u entries", LB_PREFIX_FILE_MAX);
		return -EINVAL;
	}
	return add(r, &p);
}

/* The next line, without its newline. 1, 0: there is none, or -EINVAL: it is no line of text. */
static int next_line(FILE *in, char *buf, size_t size)
{
	size_t n = 0;
	int c;

	while ((c = getc_unlocked(in)) != EOF && c != '\n') {
		if (!c || n == size - 1)
			return -EINVAL;
		buf[n++] = (char)c;
	}
	buf[n] = '\0';
	return n || c != EOF;
}

int lb_prefix_file_read(FILE *in, struct lb_prefixes *ret, size_t *line, char *text, size_t size)
{
	char buf[LINE_MAX_BYTES];
	struct reading r = {};
	int err = 0, got;

	*line = 0;
	while (!err && (got = next_line(in, buf, sizeof(buf)))) {
		++*line;
		if (got > 0) {
			err = read_line(&r, buf, text, size);
			continue;
		}
		snprintf(text, size, "is longer than %u bytes, or no text", LINE_MAX_BYTES - 1);
		err = got;
	}
	if (!err && ferror(in))
		err = errno ? -errno : -EIO;
	if (err) {
		lb_prefixes_free(&r.list);
		return err;
	}
	*ret = r.list;
	return 0;
}

void lb_prefixes_free(struct lb_prefixes *p)
{
	free(p->all);
	*p = (struct lb_prefixes){};
}
