/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as what another node says of its shares, a message after the other, each behind its
 * length in two bytes. Whatever it says, this node says what others understand, never too much at
 * once, goes on counting with the nodes it knows, and gives nobody else's share away.
 */
#include <stdio.h>
#include <stdlib.h>

#include "cluster/share.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define demand(cond) ((cond) ? (void)0 : complain(#cond))

#define SECTION_MAX 1000u
#define KEYS        3u

static struct lb_share *peer;

static void complain(const char *what)
{
	fprintf(stderr, "broken promise: %s\n", what);
	abort();
}

static void unheard(void *arg, uint64_t node, const uint8_t *bytes, size_t len)
{
}

static void sent(void *arg, uint64_t node, const uint8_t *bytes, size_t len)
{
	demand(len <= SECTION_MAX);
	lb_share_receive(peer, 1, bytes, len, *(uint64_t *)arg);
	demand(!lb_share_counts(peer)->malformed);
}

static void count(void *arg, const struct lb_share_label *label, uint32_t max,
		  struct lb_share_use *ret)
{
	demand(label->kind == LB_SHARE_CLIENT_CONNECTIONS);
	*ret = (struct lb_share_use){.most = 100, .used = 50, .wanted = max & 1};
}

static struct lb_share *node(uint64_t self, uint64_t *now_us)
{
	struct lb_share_params p = {
		.self = self,
		.session = (uint32_t)self,
		.size_min = 1,
		.nodes_max = 4,
		.keys_max = 8,
		.send = self == 1 ? sent : unheard,
		.use = count,
		.arg = now_us,
		.section_max = SECTION_MAX,
	};
	struct lb_share *s;

	demand(!lb_share_new(&s, &p, *now_us));
	demand(!lb_share_join(s, self == 1 ? 2 : 1, *now_us));
	demand(!lb_share_join(s, 3, *now_us));
	return s;
}

static void look(void *arg, const struct lb_share_view *v)
{
	demand(v->limit.most && v->limit.most <= LB_SHARE_LIMIT_MAX);
	/* Of connections there may be more than are anybody's: those that are there. */
	demand(v->share <= v->safe + v->borrowed || v->share == v->used);
	if (v->label->kind == LB_SHARE_CLIENT_CONNECTIONS) {
		demand(v->safe % 1000 == 0 && v->safe <= v->limit.most * 1000ull / 3 + 1000);
		demand(v->used == v->limit.most / 2 * 1000ull);
	} else if (v->label->rule[0]) {
		demand(v->safe == v->limit.most * 1000ull / 3);
		demand(v->lent <= v->safe);
	}
}

static void use(struct lb_share *s, uint64_t now_us)
{
	static const struct lb_share_label rate = {.rule = "r"},
					   held = {"r", LB_SHARE_CLIENT_CONNECTIONS, {1}, 0};

	for (uint64_t key = 1; key <= KEYS; key++) {
		struct lb_share_ask ask = {
			key, {100, key == KEYS ? 0 : 10}, key == KEYS ? &held : &rate, 0};
		uint64_t until;
		uint32_t max;

		if (key == KEYS && lb_share_max(s, &ask, now_us, &max))
			lb_share_want(s, &ask);
		else if (key == KEYS)
			(void)lb_share_track(s, &ask, now_us);
		else if (lb_share_look(s, &ask, now_us, &until) == LB_SHARE_HAS)
			lb_share_spend(s, &ask);
		else if (!lb_share_track(s, &ask, now_us))
			(void)lb_share_look(s, &ask, now_us, &until);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t now_us = 1000000;
	struct lb_share *s = node(1, &now_us);

	peer = node(2, &now_us);
	while (size >= 2) {
		size_t len = (size_t)data[0] << 8 | data[1];

		data += 2;
		size -= 2;
		len = len < size ? len : size;
		use(s, now_us);
		lb_share_receive(s, 2 + (len && data[0] & 1), data, len, now_us);
		lb_share_tick(s, now_us += 60000);
		lb_share_each(s, now_us, look, NULL);
		demand(lb_share_size(s) == 3);
		data += len;
		size -= len;
	}
	lb_share_free(&s);
	lb_share_free(&peer);
	return 0;
}
