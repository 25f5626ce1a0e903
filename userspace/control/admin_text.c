/* SPDX-License-Identifier: MIT */
/* See admin_text.h. Must never grow beyond its bound. */
#include "control/admin_text.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define FIRST_ROOM 4096u

/* Room for <len> more bytes. */
static bool reserve(struct lb_admin_text *t, size_t len)
{
	size_t room = t->room ? t->room : FIRST_ROOM;
	char *grown;

	if (t->failed || len > LB_ADMIN_TEXT_MAX - t->len) {
		t->failed = true;
		return false;
	}
	while (room < t->len + len)
		room *= 2;
	if (room == t->room)
		return true;
	grown = realloc(t->bytes, room);
	if (!grown) {
		t->failed = true;
		return false;
	}
	t->bytes = grown;
	t->room = room;
	return true;
}

static void put(struct lb_admin_text *t, const char *text, size_t len)
{
	if (!reserve(t, len))
		return;
	memcpy(t->bytes + t->len, text, len);
	t->len += len;
}

static void put_string(struct lb_admin_text *t, const char *text)
{
	put(t, text, strlen(text));
}

/* Taken over. */
static void put_json(struct lb_admin_text *t, json_t *value, size_t flags)
{
	size_t len = value ? json_dumpb(value, NULL, 0, flags | JSON_COMPACT) : 0;

	if (!len)
		t->failed = true;
	else if (reserve(t, len))
		t->len += json_dumpb(value, t->bytes + t->len, len, flags | JSON_COMPACT);
	json_decref(value);
}

void lb_admin_text_begin(struct lb_admin_text *t, json_t *head)
{
	t->len = 0;
	t->failed = t->in_list = false;
	put_string(t, "{\"ok\":true");
	if (!head || !json_object_size(head)) {
		json_decref(head);
		return;
	}
	put_string(t, ",");
	put_json(t, head, JSON_EMBED);
}

void lb_admin_text_add_member(struct lb_admin_text *t, const char *name, json_t *value)
{
	put_string(t, ",\"");
	put_string(t, name);
	put_string(t, "\":");
	put_json(t, value, JSON_ENCODE_ANY);
}

void lb_admin_text_begin_list(struct lb_admin_text *t, const char *name)
{
	put_string(t, ",\"");
	put_string(t, name);
	put_string(t, "\":[");
	t->in_list = false;
}

void lb_admin_text_add(struct lb_admin_text *t, json_t *item)
{
	if (t->in_list)
		put_string(t, ",");
	t->in_list = true;
	put_json(t, item, 0);
}

void lb_admin_text_end_list(struct lb_admin_text *t)
{
	put_string(t, "]");
}

bool lb_admin_text_end(struct lb_admin_text *t)
{
	put_string(t, "}\n");
	return !t->failed;
}

void lb_admin_text_refuse(struct lb_admin_text *t, const char *why)
{
	static const char fallback[] =
		"{\"ok\":false,\"error\":\"refused: not UTF-8, or no memory\"}";
	json_t *error = json_pack("{s:b,s:s}", "ok", 0, "error", why);

	t->len = 0;
	t->failed = false;
	if (error)
		put_json(t, error, 0);
	else
		put_string(t, fallback);
	put_string(t, "\n");
}

void lb_admin_text_fini(struct lb_admin_text *t)
{
	free(t->bytes);
	*t = (struct lb_admin_text){0};
}
