/* SPDX-License-Identifier: MIT */
/*
 * Limits of backends that are those of all nodes: tells the others how many connections there are,
 * and a rule what it may have. See select.h. All but lb_select_share() is called with the lock of
 * cluster/limits held; the pool's comes after that.
 */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "flow/select_parts.h"

static struct lb_select *owner_of(struct lb_limits_holder *h)
{
	return lb_container_of(h, struct lb_select, holder);
}

/* Others may have asked for it before it is near what is this node's own. */
static void follow(struct lb_select *sel, struct lb_backend *b, struct lb_limits *l,
		   uint64_t now_us)
{
	struct lb_share_label label = {.kind = LB_SHARE_BACKEND_CONNECTIONS,
				       .port = lb_addr_port(&b->addr)};
	struct lb_share_ask ask = {.limit.most = b->limit, .label = &label};
	bool near = sel->pressing || b->active * 2 >= lb_limits_own(l, b->limit);

	memcpy(label.rule, sel->holder.rule, sizeof(label.rule));
	lb_addr_to_bytes(&b->addr, label.addr);
	ask.key = lb_share_key(&label);
	b->shared = lb_limits_follow(l, &ask, near, now_us) && b->shared;
}

static void look(struct lb_limits_holder *h, struct lb_limits *l, bool strangers, uint64_t now_us)
{
	struct lb_select *sel = owner_of(h);

	select_lock(sel);
	sel->pressing = sel->pressed > sel->queue.count ? sel->pressed : sel->queue.count;
	sel->pressed = 0;
	for (uint32_t i = 0; i < sel->pool->count; i++)
		if (sel->pool->backends[i]->limit)
			follow(sel, sel->pool->backends[i], l, now_us);
	select_unlock(sel);
}

/* A scope is this node's matter. */
static bool is_of(const struct lb_backend *b, const struct lb_share_label *label)
{
	uint8_t addr[sizeof(label->addr)];

	lb_addr_to_bytes(&b->addr, addr);
	return !memcmp(addr, label->addr, sizeof(addr)) && lb_addr_port(&b->addr) == label->port;
}

static void use(struct lb_limits_holder *h, const struct lb_share_label *label, uint32_t max,
		struct lb_share_use *ret)
{
	struct lb_select *sel = owner_of(h);

	select_lock(sel);
	for (uint32_t i = 0; i < sel->pool->count; i++) {
		struct lb_backend *b = sel->pool->backends[i];

		if (!is_of(b, label))
			continue;
		b->shared = true;
		b->share = max;
		ret->most = b->limit;
		ret->used += (uint32_t)b->active;
	}
	/* Those that have left may have connections yet. */
	lb_list_for_each (node, &sel->pool->left) {
		const struct lb_backend *b = lb_container_of(node, struct lb_backend, node);

		ret->used += is_of(b, label) ? (uint32_t)b->active : 0;
	}
	if (ret->most && sel->pool->count)
		ret->wanted = (sel->pressing + sel->pool->count - 1) / sel->pool->count;
	select_serve_queue(sel);
	select_unlock(sel);
}

void lb_select_share(struct lb_select *sel, struct lb_limits *limits, const char *rule)
{
	struct lb_limits *before = sel->limits;

	if (limits == before)
		return;
	if (before)
		lb_limits_remove_holder(before, &sel->holder);
	select_lock(sel);
	sel->limits = limits;
	for (uint32_t i = 0; i < sel->pool->count; i++)
		sel->pool->backends[i]->shared = false;
	select_serve_queue(sel);
	select_unlock(sel);
	if (!limits)
		return;
	sel->holder = (struct lb_limits_holder){
		.kind = LB_SHARE_BACKEND_CONNECTIONS, .use = use, .look = look};
	/* The configuration's bounds keep it below. */
	(void)snprintf(sel->holder.rule, sizeof(sel->holder.rule), "%s", rule);
	lb_limits_add_holder(limits, &sel->holder);
}
